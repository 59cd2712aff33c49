from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lit_hour.config.model import LoraConfig
from lit_hour.errors import ConfigError
from lit_hour.model.language_model import LanguageModel
from lit_hour.model.multimodal_inputs import LLMInputs, pad_inputs
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from tests.model.small import LANGUAGE, VOCABULARY_SIZE, small_model

NEVER = -1  # an end token that is never said


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return small_model().llm


def prompts(*lengths: int) -> LLMInputs:
    """Random embeddings of these lengths, padded on the left; each the same whatever stands beside it."""
    sequences = []
    for length in lengths:
        embeddings = torch.randn(
            length, LANGUAGE.hidden_size, generator=torch.Generator().manual_seed(length)
        )
        sequences.append((embeddings, torch.full((length,), IGNORE_INDEX)))
    return pad_inputs(sequences, 1000, "left")


def generate(
    language: LanguageModel, inputs: LLMInputs, num_tokens: int, end_id: int = NEVER
) -> list[list[int]]:
    return torch.stack(list(language.generate(inputs, num_tokens, end_id)), dim=1).tolist()


def labelled(language: LanguageModel) -> LLMInputs:
    ids = torch.randint(0, VOCABULARY_SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(
        torch.tensor([[1, 1, 1, 0, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0, 0]]).bool(),
        IGNORE_INDEX,
    )
    mask = torch.ones(2, 9, dtype=torch.bool)
    return LLMInputs(language.embed(ids), labels, mask)


def test_the_loss_is_the_mean_over_every_learnt_token(language: LanguageModel) -> None:
    inputs = labelled(language)
    logits = language.logits(inputs)  # (2, 9, vocabulary)
    expected = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), inputs.labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(language.loss(inputs), expected)


def test_padding_on_the_right_needs_no_mask(language: LanguageModel) -> None:
    """The loss and all gradients are those with a mask, to float32's rounding; none reaches the padding."""
    generator = torch.Generator().manual_seed(1)
    sequences = [
        (
            torch.randn(length, LANGUAGE.hidden_size, generator=generator),
            torch.arange(length) % VOCABULARY_SIZE,
        )
        for length in (5, 31, 17)
    ]
    inputs, found = pad_inputs(sequences, 1000, "right"), []
    for mask in (None, inputs.attention_mask):
        embeddings = inputs.embeddings.clone().requires_grad_()  # (3, 31, dim)
        language.zero_grad()
        if mask is None:
            loss = language.loss(replace(inputs, embeddings=embeddings))
        else:
            loss = language.network(
                inputs_embeds=embeddings, attention_mask=mask, labels=inputs.labels
            ).loss
        loss.backward()
        assert not embeddings.grad[~inputs.attention_mask].any()
        found.append(
            [
                loss.detach(),
                embeddings.grad,
                *(each.grad for each in language.network.model.layers.parameters()),
            ]
        )
    for without, masked in zip(*found, strict=True):
        torch.testing.assert_close(without, masked)


def test_a_batch_that_teaches_nothing_has_a_loss_and_gradients_of_zero(
    language: LanguageModel,
) -> None:
    inputs = labelled(language)
    language.zero_grad()
    loss = language.loss(replace(inputs, labels=torch.full_like(inputs.labels, IGNORE_INDEX)))
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(
        parameter.grad is not None and not parameter.grad.any()
        for parameter in language.parameters()
    )


def test_the_row_of_a_placeholder_can_be_asked_for(language: LanguageModel) -> None:
    assert language.embed(torch.tensor([3, IMAGE_TOKEN_INDEX, 5])).shape == (
        3,
        LANGUAGE.hidden_size,
    )


def test_answers_of_a_padded_batch_are_those_of_each_text_alone(language: LanguageModel) -> None:
    lengths = (3, 17, 8)
    together = generate(language, prompts(*lengths), 8)
    assert together == [generate(language, prompts(length), 8)[0] for length in lengths]
    assert len({tuple(said) for said in together}) == 3


def test_answers_are_the_likeliest_tokens_read_again_from_the_start(
    language: LanguageModel,
) -> None:
    inputs = prompts(6)
    said = generate(language, inputs, 5)[0]
    for place, token in enumerate(said):
        read = torch.cat(
            [inputs.embeddings, language.embed(torch.tensor([said[:place]], dtype=torch.long))],
            dim=1,
        )
        mask = torch.ones(read.shape[:2], dtype=torch.bool)
        logits = language.logits(LLMInputs(read, torch.full(mask.shape, IGNORE_INDEX), mask))
        assert int(logits[0, -1].argmax()) == token


def test_how_likely_an_answer_is(language: LanguageModel) -> None:
    """The sum over its tokens of what the model, having read all before, expects of each."""
    inputs = prompts(6)
    continuations = [torch.tensor(ids) for ids in ([5], [7, 3, 9], [7, 3], [1, 1, 1, 1])]
    continuations.append(torch.tensor(generate(language, inputs, 3)[0]))
    likelihoods, are_greedy = language.loglikelihood(
        inputs, continuations
    )  # (continuations,), (continuations,)
    assert are_greedy.tolist() == [False, False, False, False, True]
    for ids, likelihood in zip(continuations, likelihoods, strict=True):
        read = torch.cat([inputs.embeddings, language.embed(ids[None])], dim=1)  # (1, tokens, dim)
        mask = torch.ones(read.shape[:2], dtype=torch.bool)
        logits = language.logits(LLMInputs(read, torch.full(mask.shape, IGNORE_INDEX), mask))[
            0, 5:-1
        ]
        expected = logits.log_softmax(dim=-1).gather(1, ids[:, None]).sum()
        torch.testing.assert_close(likelihood, expected)


def test_an_answer_that_has_ended_waits_for_the_others(language: LanguageModel) -> None:
    free = generate(language, prompts(3, 17), 6)
    end_id = free[0][2]
    assert end_id not in free[0][:2] + free[1]
    said = generate(language, prompts(3, 17), 6, end_id)
    assert said == [free[0][:3] + [end_id] * 3, free[1]]
    assert generate(language, prompts(3), 6, end_id) == [free[0][:3]]


def test_sizes_and_rotation_are_told_to_memaug(language: LanguageModel) -> None:
    assert (
        language.dim,
        language.num_heads,
        language.num_key_value_heads,
        language.rope_theta,
    ) == (32, 4, 2, 10_000.0)


@pytest.mark.parametrize("is_tied", (True, False))
def test_the_output_layer_is_the_embedding_only_when_it_is_tied(is_tied: bool) -> None:
    network = LanguageModel(replace(LANGUAGE, tie_word_embeddings=is_tied), VOCABULARY_SIZE).network
    output, embedding = (
        network.get_parameter(name) for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    assert (output is embedding) == is_tied


def test_the_embedding_may_have_more_rows_than_the_tokenizer_has_tokens_but_not_fewer() -> None:
    assert (
        len(LanguageModel(replace(LANGUAGE, vocab_size=1000), 300).network.lm_head.weight) == 1000
    )
    with pytest.raises(
        ConfigError, match=r"model\.llm\.vocab_size=299, but the tokenizer has 300 tokens"
    ):
        LanguageModel(replace(LANGUAGE, vocab_size=299), 300)


def with_adapters() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(replace(LANGUAGE, lora=LoraConfig(rank=2, alpha=6)), VOCABULARY_SIZE)


def test_adapters_alone_learn_and_change_nothing_until_they_have_learnt() -> None:
    adapted = with_adapters()
    torch.manual_seed(0)
    plain = LanguageModel(LANGUAGE, VOCABULARY_SIZE)
    weights = {
        name.replace(".base_layer", ""): weight
        for name, weight in adapted.network.state_dict().items()
    }
    plain.network.load_state_dict(
        {name: weight for name, weight in weights.items() if "lora_" not in name}
    )
    inputs = labelled(plain)
    torch.testing.assert_close(adapted.loss(inputs), plain.loss(inputs))
    learning = adapted.trainable_parameters()
    assert len(learning) == 2 * 7 * LANGUAGE.num_layers and len(plain.trainable_parameters()) > 10
    for parameter in adapted.parameters():
        parameter.requires_grad_(any(parameter is each for each in learning))
    adapted.loss(inputs).backward()
    torch.optim.SGD(learning, lr=1.0).step()
    assert float(adapted.loss(inputs).detach()) < float(plain.loss(inputs).detach())
    projection = weights["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(adapted.network.model.layers[0].mlp.up_proj.base_layer.weight, projection)


def test_adapters_add_their_product_times_alpha_over_rank() -> None:
    layer = with_adapters().network.model.layers[0].self_attn.q_proj
    down, up = layer.lora_A.default.weight, layer.lora_B.default.weight  # (2, 32), (32, 2)
    torch.nn.init.normal_(up)
    tokens = torch.randn(5, 32)
    torch.testing.assert_close(
        layer(tokens), layer.base_layer(tokens) + tokens @ (up @ down).T * 6 / 2
    )
