import pytest
import torch
from torch import Tensor

from lit_hour.model.language_model import LLMInputs
from lit_hour.model.memory_repository import DenseTokens, MemoryRepository
from lit_hour.model.multimodal_inputs import (
    EncodedText,
    build_memaug_query,
    embed_texts,
    left_pad_prompts,
    merge_visual_tokens,
    pad_inputs,
)
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch

IDS = torch.tensor([1, 2, IMAGE_TOKEN_INDEX, 3, 4, 5, 6])
EMBEDDINGS = torch.arange(7.0)[:, None].expand(7, 2)  # (tokens, 2), each row is its index
QUESTION_MASK = torch.tensor([True, True, True, True, False, False, True])  # 4 and 5: the answer
LABELS = torch.tensor([IGNORE_INDEX] * 4 + [4, 5, IGNORE_INDEX])
VIDEO = torch.tensor([[100.0, 100.0], [101.0, 101.0], [102.0, 102.0]])
REPOSITORY = MemoryRepository(
    DenseTokens(VIDEO), torch.tensor([0, 2, 64]), (), torch.empty(0)
)  # three tokens and their positions
ALL = torch.arange(3)


def text_of(
    input_ids: Tensor,
    embeddings: Tensor = EMBEDDINGS,
    question_mask: Tensor | None = None,
    labels: Tensor | None = None,
) -> EncodedText:
    """Return a text with these embeddings; MemAug may see all of it by default."""
    everything = torch.ones_like(input_ids, dtype=torch.bool)
    batch = Batch(
        keys=("key",),
        visuals=(None,),
        visual_of_text=(0,),
        input_ids=input_ids[None],
        labels=torch.zeros_like(input_ids)[None] if labels is None else labels[None],
        question_mask=(everything if question_mask is None else question_mask)[None],
        attention_mask=everything[None],
        questions=((),),
    )
    (text,) = embed_texts(batch, lambda _: embeddings)
    return text


def rows(tokens: Tensor) -> list[float]:
    return tokens[:, 0].tolist()


def test_query_is_the_question_with_the_video_at_its_placeholder() -> None:
    query = build_memaug_query(text_of(IDS, question_mask=QUESTION_MASK), REPOSITORY, [ALL])
    assert rows(query.tokens) == [0, 1, 100, 101, 102, 3, 6]
    assert query.is_visual.tolist() == [False, False, True, True, True, False, False]
    assert torch.equal(query.tokens[query.is_visual], VIDEO)


def test_query_positions_are_shifted_by_what_precedes() -> None:
    query = build_memaug_query(text_of(IDS, question_mask=QUESTION_MASK), REPOSITORY, [ALL])
    assert query.positions.tolist() == [0, 1, 2, 4, 66, 67, 68]


def test_query_positions_skip_hidden_text() -> None:
    hidden = QUESTION_MASK.clone()
    hidden[:2] = False
    query = build_memaug_query(text_of(IDS, question_mask=hidden), REPOSITORY, [ALL])
    assert rows(query.tokens) == [100, 101, 102, 3, 6]
    assert query.positions.tolist() == [0, 2, 64, 65, 66]


def test_query_without_placeholder_ends_with_the_video() -> None:
    text = text_of(torch.arange(7), question_mask=QUESTION_MASK)
    query = build_memaug_query(text, REPOSITORY, [ALL])
    assert rows(query.tokens) == [0, 1, 2, 3, 6, 100, 101, 102]
    assert query.positions.tolist() == [0, 1, 2, 3, 4, 5, 7, 69]


def test_question_excludes_placeholders_and_hidden_text() -> None:
    assert rows(text_of(IDS, question_mask=QUESTION_MASK).question) == [0, 1, 3, 6]


def test_merge_replaces_the_placeholder_in_the_whole_text() -> None:
    embeddings, labels = merge_visual_tokens(text_of(IDS, labels=LABELS), [VIDEO])
    assert rows(embeddings) == [0, 1, 100, 101, 102, 3, 4, 5, 6]
    assert labels.tolist() == [IGNORE_INDEX] * 6 + [4, 5, IGNORE_INDEX]


def test_merge_without_placeholder_gives_the_video_a_zero_gradient() -> None:
    video = VIDEO.clone().requires_grad_()
    embeddings, labels = merge_visual_tokens(text_of(torch.arange(7), labels=LABELS), [video])
    assert torch.equal(embeddings, EMBEDDINGS) and torch.equal(labels, LABELS)
    embeddings.sum().backward()
    assert video.grad is not None and not video.grad.any()


def test_frames_of_a_video_keep_their_positions_and_are_shifted_by_the_text_between() -> None:
    ids = torch.tensor([1, IMAGE_TOKEN_INDEX, 3, IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 6, 7])
    video = MemoryRepository(
        DenseTokens(VIDEO), torch.tensor([2, 64, 90]), (), torch.arange(3.0), num_placeholders=3
    )
    query = build_memaug_query(text_of(ids), video, list(torch.arange(3)[:, None]))
    assert rows(query.tokens) == [0, 100, 2, 101, 102, 5, 6]
    assert query.positions.tolist() == [0, 1 + 2, 1 + 3, 2 + 64, 2 + 90, 2 + 91, 2 + 92]
    together = build_memaug_query(text_of(IDS), video, [ALL])
    ids = torch.tensor([1, 2, *[IMAGE_TOKEN_INDEX] * 3, 3, 4, 5, 6])
    embeddings = torch.cat([EMBEDDINGS[:2], EMBEDDINGS[:2], EMBEDDINGS[2:]])  # (9, 2)
    alone = build_memaug_query(text_of(ids, embeddings), video, list(torch.arange(3)[:, None]))
    assert torch.equal(alone.positions, together.positions)
    assert torch.equal(alone.tokens, together.tokens)
    assert torch.equal(alone.is_visual, together.is_visual)


def test_several_images_replace_their_own_placeholders() -> None:
    ids = torch.tensor([1, IMAGE_TOKEN_INDEX, 3, IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 6, 7])
    text = text_of(ids, labels=torch.arange(7))
    images = MemoryRepository(DenseTokens(VIDEO), torch.tensor([0, 9, 9]), (), torch.empty(0))
    kept = [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([2])]
    query = build_memaug_query(text, images, kept)
    assert rows(query.tokens) == [0, 100, 101, 2, 102, 102, 5, 6]
    assert query.is_visual.tolist() == [False, True, True, False, True, True, False, False]
    # each image starts after the largest position before it
    assert query.positions.tolist() == [0, 1, 10, 11, 12 + 9, 22 + 9, 32, 33]
    assert query.num_visual_tokens == [2, 1, 1]
    embeddings, labels = merge_visual_tokens(text, [VIDEO[:2], VIDEO[2:], VIDEO[2:]])
    assert rows(embeddings) == [0, 100, 101, 2, 102, 102, 5, 6]
    ignored = IGNORE_INDEX
    assert labels.tolist() == [0, ignored, ignored, 2, ignored, ignored, 5, 6]


@pytest.mark.parametrize("num_images", (1, 3))
def test_another_number_of_images_than_placeholders_raises(num_images: int) -> None:
    text = text_of(torch.tensor([1, IMAGE_TOKEN_INDEX, 2, IMAGE_TOKEN_INDEX]), EMBEDDINGS[:4])
    with pytest.raises(ValueError, match=f"2 placeholders cannot hold .* of {num_images}"):
        build_memaug_query(text, REPOSITORY, [ALL] * num_images)


@pytest.mark.parametrize(("side", "first_mask"), (("right", [1, 1, 0]), ("left", [0, 1, 1])))
def test_padding_is_on_the_given_side(side: str, first_mask: list[int]) -> None:
    inputs = pad_inputs(
        [(EMBEDDINGS[1:3], torch.tensor([1, 2])), (EMBEDDINGS[1:4], torch.tensor([1, 2, 3]))],
        10,
        side,  # type: ignore[arg-type]
    )
    mask = inputs.attention_mask[0]
    assert mask.int().tolist() == first_mask and inputs.attention_mask[1].all()
    assert inputs.labels[0][mask].tolist() == [1, 2]
    assert (inputs.labels[0][~mask] == IGNORE_INDEX).all()
    assert torch.equal(inputs.embeddings[0][mask], EMBEDDINGS[1:3])
    assert not inputs.embeddings[0][~mask].any()


def test_long_sequences_are_truncated_and_counted() -> None:
    inputs = pad_inputs([(EMBEDDINGS, LABELS), (EMBEDDINGS[:2], LABELS[:2])], 5, "right")
    assert inputs.embeddings.shape == (2, 5, 2) and inputs.num_truncated == 1
    assert torch.equal(inputs.embeddings[0], EMBEDDINGS[:5])
    assert torch.equal(inputs.labels[0], LABELS[:5])
    assert inputs.attention_mask.sum(dim=1).tolist() == [5, 2]


def test_prompts_end_before_the_first_answer() -> None:
    two_answers = torch.tensor(
        [IGNORE_INDEX, IGNORE_INDEX, 7, IGNORE_INDEX, 8, IGNORE_INDEX, IGNORE_INDEX]
    )
    no_answer = torch.full((4,), IGNORE_INDEX)
    inputs = pad_inputs([(EMBEDDINGS, two_answers), (EMBEDDINGS[:4], no_answer)], 100, "right")
    prompts = left_pad_prompts(inputs)
    assert isinstance(prompts, LLMInputs)
    assert prompts.attention_mask.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert rows(prompts.embeddings[0])[2:] == [0, 1] and rows(prompts.embeddings[1]) == [0, 1, 2, 3]
    assert (prompts.labels == IGNORE_INDEX).all()
