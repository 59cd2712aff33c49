import pytest
import torch
from torch import Tensor

from lit_hour.model.multimodal_inputs import (
    LLMInputs,
    build_memaug_query,
    merge_visual_tokens,
    pad_inputs,
    split_at_placeholders,
    truncate_to_prompts,
)
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

IDS = torch.tensor([1, 2, IMAGE_TOKEN_INDEX, 3, 4, 5, 6])
EMBEDDINGS = torch.arange(7.0)[:, None].expand(7, 2)  # (tokens, 2), each row its own place
QUESTION = torch.tensor([True, True, True, True, False, False, True])  # an answer at places 4 and 5
LABELS = torch.tensor([IGNORE_INDEX] * 4 + [4, 5, IGNORE_INDEX])
VIDEO = torch.tensor([[100.0, 100.0], [101.0, 101.0], [102.0, 102.0]])
PLACES = torch.tensor([0, 2, 64])


def rows(tokens: Tensor) -> list[float]:
    return tokens[:, 0].tolist()


def test_the_query_is_the_question_with_the_video_in_its_place() -> None:
    query = build_memaug_query(IDS, EMBEDDINGS, QUESTION, [VIDEO], [PLACES])
    assert rows(query.tokens) == [0, 1, 100, 101, 102, 3, 6]
    assert query.is_visual.tolist() == [False, False, True, True, True, False, False]
    assert torch.equal(query.tokens[query.is_visual], VIDEO)


def test_video_positions_are_shifted_by_the_text_before_and_text_counts_on_from_the_last() -> None:
    query = build_memaug_query(IDS, EMBEDDINGS, QUESTION, [VIDEO], [PLACES])
    assert query.positions.tolist() == [0, 1, 2, 4, 66, 67, 68]


def test_hidden_text_before_the_video_takes_no_position() -> None:
    hidden = QUESTION.clone()
    hidden[:2] = False
    query = build_memaug_query(IDS, EMBEDDINGS, hidden, [VIDEO], [PLACES])
    assert rows(query.tokens) == [100, 101, 102, 3, 6]
    assert query.positions.tolist() == [0, 2, 64, 65, 66]


def test_without_a_placeholder_the_video_comes_last() -> None:
    query = build_memaug_query(torch.arange(7), EMBEDDINGS, QUESTION, [VIDEO], [PLACES])
    assert rows(query.tokens) == [0, 1, 2, 3, 6, 100, 101, 102]
    assert query.positions.tolist() == [0, 1, 2, 3, 4, 5, 7, 69]


def test_the_language_model_reads_the_whole_text_with_the_video_in_its_place() -> None:
    embeddings, labels = merge_visual_tokens(IDS, EMBEDDINGS, LABELS, [VIDEO])
    assert rows(embeddings) == [0, 1, 100, 101, 102, 3, 4, 5, 6]
    assert labels.tolist() == [IGNORE_INDEX] * 6 + [4, 5, IGNORE_INDEX]


def test_without_a_placeholder_no_video_is_read_but_it_keeps_a_gradient_of_zero() -> None:
    video = VIDEO.clone().requires_grad_()
    embeddings, labels = merge_visual_tokens(torch.arange(7), EMBEDDINGS, LABELS, [video])
    assert torch.equal(embeddings, EMBEDDINGS) and torch.equal(labels, LABELS)
    embeddings.sum().backward()
    assert video.grad is not None and not video.grad.any()


def test_each_of_several_pictures_takes_its_own_place() -> None:
    ids = torch.tensor([1, IMAGE_TOKEN_INDEX, 3, IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 6, 7])
    blocks, places = (
        [VIDEO[:2], VIDEO[2:], VIDEO[:1]],
        [torch.tensor([0, 9]), torch.tensor([9]), torch.tensor([9])],
    )
    query = build_memaug_query(ids, EMBEDDINGS, torch.ones(7, dtype=torch.bool), blocks, places)
    assert rows(query.tokens) == [0, 100, 101, 2, 102, 100, 5, 6]
    assert query.is_visual.tolist() == [False, True, True, False, True, True, False, False]
    assert query.positions.tolist() == [
        0,
        1,
        10,
        11,
        12 + 9,
        22 + 9,
        32,
        33,
    ]  # each block upon the largest before it
    embeddings, labels = merge_visual_tokens(ids, EMBEDDINGS, torch.arange(7), blocks)
    assert rows(embeddings) == [0, 100, 101, 2, 102, 100, 5, 6]
    assert labels.tolist() == [
        0,
        IGNORE_INDEX,
        IGNORE_INDEX,
        2,
        IGNORE_INDEX,
        IGNORE_INDEX,
        5,
        6,
    ]


@pytest.mark.parametrize("num_blocks", (1, 3))
def test_another_number_of_blocks_than_placeholders_is_refused(num_blocks: int) -> None:
    with pytest.raises(ValueError, match=f"2 placeholders cannot hold {num_blocks} blocks"):
        split_at_placeholders(
            torch.tensor([1, IMAGE_TOKEN_INDEX, 2, IMAGE_TOKEN_INDEX]), num_blocks
        )


@pytest.mark.parametrize(("side", "first_is_real"), (("right", [1, 1, 0]), ("left", [0, 1, 1])))
def test_padding_goes_to_the_side_that_is_asked_for(side: str, first_is_real: list[int]) -> None:
    inputs = pad_inputs(
        [(EMBEDDINGS[1:3], torch.tensor([1, 2])), (EMBEDDINGS[1:4], torch.tensor([1, 2, 3]))],
        10,
        side,
    )  # type: ignore[arg-type]
    is_real = inputs.attention_mask[0]
    assert is_real.int().tolist() == first_is_real and inputs.attention_mask[1].all()
    assert (
        inputs.labels[0][is_real].tolist() == [1, 2]
        and (inputs.labels[0][~is_real] == IGNORE_INDEX).all()
    )
    assert (
        torch.equal(inputs.embeddings[0][is_real], EMBEDDINGS[1:3])
        and not inputs.embeddings[0][~is_real].any()
    )


def test_a_sequence_is_cut_at_the_longest_that_is_allowed() -> None:
    inputs = pad_inputs([(EMBEDDINGS, LABELS), (EMBEDDINGS[:2], LABELS[:2])], 5, "right")
    assert inputs.embeddings.shape == (2, 5, 2)
    assert torch.equal(inputs.embeddings[0], EMBEDDINGS[:5]) and torch.equal(
        inputs.labels[0], LABELS[:5]
    )
    assert inputs.attention_mask.sum(dim=1).tolist() == [5, 2]


def test_a_prompt_ends_before_the_first_answer() -> None:
    two_answers = torch.tensor(
        [IGNORE_INDEX, IGNORE_INDEX, 7, IGNORE_INDEX, 8, IGNORE_INDEX, IGNORE_INDEX]
    )
    no_answer = torch.full((4,), IGNORE_INDEX)
    inputs = pad_inputs([(EMBEDDINGS, two_answers), (EMBEDDINGS[:4], no_answer)], 100, "right")
    prompts = truncate_to_prompts(inputs)
    assert isinstance(prompts, LLMInputs)
    assert prompts.attention_mask.int().tolist() == [
        [0, 0, 1, 1],
        [1, 1, 1, 1],
    ]  # padded on the left
    assert rows(prompts.embeddings[0])[2:] == [0, 1] and rows(prompts.embeddings[1]) == [0, 1, 2, 3]
    assert (prompts.labels == IGNORE_INDEX).all()
