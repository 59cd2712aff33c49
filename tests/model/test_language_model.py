from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from small import LANGUAGE, VOCABULARY_SIZE, small_model
from transformers import PreTrainedModel

from lit_hour.errors import ConfigError
from lit_hour.model.language_model import LanguageModel
from lit_hour.model.splice import LanguageInputs, pad_inputs
from lit_hour.types import IGNORED_LABEL, VIDEO_PLACEHOLDER

NEVER = -1  # an end token that is never said


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return small_model().language


def prompts(*lengths: int) -> LanguageInputs:
    """Random embeddings of these lengths, padded on the left; each the same whatever stands beside it."""
    sequences = []
    for length in lengths:
        embeddings = torch.randn(length, LANGUAGE.hidden_size, generator=torch.Generator().manual_seed(length))
        sequences.append((embeddings, torch.full((length,), IGNORED_LABEL)))
    return pad_inputs(sequences, 1000, "left")


def generate(language: LanguageModel, inputs: LanguageInputs, num_tokens: int, end_id: int = NEVER) -> list[list[int]]:
    return torch.stack(list(language.generate(inputs, num_tokens, end_id)), dim=1).tolist()


def labelled(language: LanguageModel) -> LanguageInputs:
    ids = torch.randint(0, VOCABULARY_SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.tensor([[1, 1, 1, 0, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0, 0]]).bool(), IGNORED_LABEL)
    mask = torch.ones(2, 9, dtype=torch.bool)
    return LanguageInputs(language.embed(ids), labels, mask)


def test_the_loss_is_the_mean_over_every_learnt_token(language: LanguageModel) -> None:
    inputs = labelled(language)
    logits = language.logits(inputs)  # (2, 9, vocabulary)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs.labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL)
    torch.testing.assert_close(language.loss(inputs), expected)


def test_a_batch_that_teaches_nothing_has_a_loss_and_gradients_of_zero(language: LanguageModel) -> None:
    inputs = labelled(language)
    language.zero_grad()
    loss = language.loss(replace(inputs, labels=torch.full_like(inputs.labels, IGNORED_LABEL)))
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in language.parameters())


def test_the_row_of_a_placeholder_can_be_asked_for(language: LanguageModel) -> None:
    assert language.embed(torch.tensor([3, VIDEO_PLACEHOLDER, 5])).shape == (3, LANGUAGE.hidden_size)


def test_answers_of_a_padded_batch_are_those_of_each_text_alone(language: LanguageModel) -> None:
    lengths = (3, 17, 8)
    together = generate(language, prompts(*lengths), 8)
    assert together == [generate(language, prompts(length), 8)[0] for length in lengths]
    assert len({tuple(said) for said in together}) == 3


def test_answers_are_the_likeliest_tokens_read_again_from_the_start(language: LanguageModel) -> None:
    inputs = prompts(6)
    said = generate(language, inputs, 5)[0]
    for place, token in enumerate(said):
        read = torch.cat([inputs.embeddings, language.embed(torch.tensor([said[:place]], dtype=torch.long))], dim=1)
        mask = torch.ones(read.shape[:2], dtype=torch.bool)
        logits = language.logits(LanguageInputs(read, torch.full(mask.shape, IGNORED_LABEL), mask))
        assert int(logits[0, -1].argmax()) == token


def test_an_answer_that_has_ended_waits_for_the_others(language: LanguageModel) -> None:
    free = generate(language, prompts(3, 17), 6)
    end_id = free[0][2]
    assert end_id not in free[0][:2] + free[1]
    said = generate(language, prompts(3, 17), 6, end_id)
    assert said == [free[0][:3] + [end_id] * 3, free[1]]
    assert generate(language, prompts(3), 6, end_id) == [free[0][:3]]


def test_sizes_and_rotation_are_told_to_memaug(language: LanguageModel) -> None:
    assert (language.dim, language.num_heads, language.num_key_value_heads, language.rope_theta) == (32, 4, 2, 10_000.0)


@pytest.mark.parametrize("is_tied", (True, False))
def test_the_output_layer_is_the_embedding_only_when_it_is_tied(is_tied: bool) -> None:
    network = LanguageModel(replace(LANGUAGE, tie_embeddings=is_tied), VOCABULARY_SIZE).network
    output, embedding = (network.get_parameter(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    assert (output is embedding) == is_tied


def test_a_saved_model_is_read_from_its_folder(tmp_path: Path, language: LanguageModel) -> None:
    cast(PreTrainedModel, language.network).save_pretrained(tmp_path)
    loaded = LanguageModel(replace(LANGUAGE, folder=str(tmp_path), hidden_size=8), VOCABULARY_SIZE)
    assert (loaded.dim, loaded.rope_theta) == (32, 10_000.0)
    inputs = labelled(language)
    torch.testing.assert_close(loaded.logits(inputs), language.logits(inputs))
    with pytest.raises(ConfigError, match=f"{VOCABULARY_SIZE} tokens, its tokenizer {VOCABULARY_SIZE + 1}"):
        LanguageModel(replace(LANGUAGE, folder=str(tmp_path)), VOCABULARY_SIZE + 1)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.language.folder={tmp_path}"):
        LanguageModel(replace(LANGUAGE, folder=str(tmp_path)), VOCABULARY_SIZE)
