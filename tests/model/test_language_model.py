from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lit_hour.config.model import LoraConfig
from lit_hour.errors import ConfigError
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.multimodal_inputs import pad_inputs
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from tests.model.toy_model import LLM, NUM_TOKENS, toy_model

NO_END = -1  # an end token that is never generated


@pytest.fixture(scope="module")
def llm() -> LanguageModel:
    return toy_model().llm


def prompts(*lengths: int) -> LLMInputs:
    """Return random prompts of these lengths, padded on the left; each depends on its length
    alone."""
    sequences = []
    for length in lengths:
        generator = torch.Generator().manual_seed(length)
        embeddings = torch.randn(length, LLM.hidden_size, generator=generator)
        sequences.append((embeddings, torch.full((length,), IGNORE_INDEX)))
    return pad_inputs(sequences, 1000, "left")


def inputs_of(embeddings: torch.Tensor) -> LLMInputs:
    """Return inputs `(texts, tokens, dim)` without padding and labels."""
    mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    return LLMInputs(embeddings, torch.full(mask.shape, IGNORE_INDEX), mask)


def generate(
    llm: LanguageModel, inputs: LLMInputs, num_tokens: int, end_id: int = NO_END
) -> list[list[int]]:
    return torch.stack(list(llm.generate(inputs, num_tokens, end_id)), dim=1).tolist()


def labeled_inputs(llm: LanguageModel) -> LLMInputs:
    ids = torch.randint(0, NUM_TOKENS, (2, 9), generator=torch.Generator().manual_seed(0))
    is_ignored = torch.tensor([[1, 1, 1, 0, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0, 0]]).bool()
    return replace(inputs_of(llm.embed(ids)), labels=ids.masked_fill(is_ignored, IGNORE_INDEX))


def test_loss_is_the_mean_over_all_labels(llm: LanguageModel) -> None:
    inputs = labeled_inputs(llm)
    logits = llm.logits(inputs)  # (2, 9, vocabulary)
    expected = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), inputs.labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(llm.loss(inputs), expected)


def test_answer_words_loss_is_that_of_each_word(llm: LanguageModel) -> None:
    """It equals a softmax over all cosines, word by word; the token that ends an answer is none."""
    means = torch.randn(2, LLM.hidden_size, generator=torch.Generator().manual_seed(2))
    ignored, end = IGNORE_INDEX, 5
    labels = [torch.tensor([ignored, 7, 8, end]), torch.tensor([ignored, ignored, 9, end])]
    losses = []
    for mean, words in zip(means, ([7, 8], [9]), strict=True):
        cosines = torch.stack(
            [F.cosine_similarity(mean, row, dim=0) for row in llm.network.model.embed_tokens.weight]
        )
        losses += [-(20 * cosines).log_softmax(dim=0)[word] for word in words]
    torch.testing.assert_close(llm.answer_words_loss(means, labels), torch.stack(losses).mean())
    no_labels = [torch.full((4,), ignored)] * 2
    assert llm.answer_words_loss(means, no_labels) == 0


def test_loss_with_right_padding_equals_masked_loss(llm: LanguageModel) -> None:
    """Loss and gradients are those with a mask, to float32's rounding; the padding has none."""
    generator = torch.Generator().manual_seed(1)
    sequences = [
        (
            torch.randn(length, LLM.hidden_size, generator=generator),
            torch.arange(length) % NUM_TOKENS,
        )
        for length in (5, 31, 17)
    ]
    inputs, results = pad_inputs(sequences, 1000, "right"), []
    for mask in (None, inputs.attention_mask):
        embeddings = inputs.embeddings.clone().requires_grad_()  # (3, 31, dim)
        llm.zero_grad()
        if mask is None:
            loss = llm.loss(replace(inputs, embeddings=embeddings))
        else:
            output = llm.network(
                inputs_embeds=embeddings, attention_mask=mask, labels=inputs.labels
            )
            loss = output.loss
        loss.backward()
        assert not embeddings.grad[~inputs.attention_mask].any()
        gradients = [weight.grad for weight in llm.network.model.layers.parameters()]
        results.append([loss.detach(), embeddings.grad, *gradients])
    for unmasked, masked in zip(*results, strict=True):
        torch.testing.assert_close(unmasked, masked)


def test_loss_and_gradients_without_labels_are_zero(llm: LanguageModel) -> None:
    inputs = labeled_inputs(llm)
    llm.zero_grad()
    loss = llm.loss(replace(inputs, labels=torch.full_like(inputs.labels, IGNORE_INDEX)))
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in llm.parameters())


def test_embed_accepts_placeholders(llm: LanguageModel) -> None:
    ids = torch.tensor([3, IMAGE_TOKEN_INDEX, 5])
    assert llm.embed(ids).shape == (3, LLM.hidden_size)


def test_generation_of_a_padded_batch_equals_each_text_alone(llm: LanguageModel) -> None:
    lengths = (3, 17, 8)
    together = generate(llm, prompts(*lengths), 8)
    assert together == [generate(llm, prompts(length), 8)[0] for length in lengths]
    assert len({tuple(tokens) for tokens in together}) == 3


def test_generation_is_greedy_and_equals_encoding_from_the_start(llm: LanguageModel) -> None:
    inputs = prompts(6)
    generated = generate(llm, inputs, 5)[0]
    for index, token in enumerate(generated):
        before = llm.embed(torch.tensor([generated[:index]], dtype=torch.long))
        logits = llm.logits(inputs_of(torch.cat([inputs.embeddings, before], dim=1)))
        assert int(logits[0, -1].argmax()) == token


def test_loglikelihood_is_the_sum_of_token_log_probabilities(llm: LanguageModel) -> None:
    inputs = prompts(6)
    continuations = [torch.tensor(ids) for ids in ([5], [7, 3, 9], [7, 3], [1, 1, 1, 1])]
    continuations.append(torch.tensor(generate(llm, inputs, 3)[0]))
    likelihoods, is_greedy = llm.loglikelihood(inputs, continuations)
    assert is_greedy.tolist() == [False, False, False, False, True]
    for ids, likelihood in zip(continuations, likelihoods, strict=True):
        embeddings = torch.cat([inputs.embeddings, llm.embed(ids[None])], dim=1)  # (1, tokens, dim)
        logits = llm.logits(inputs_of(embeddings))[0, 5:-1]  # (continuation, vocabulary)
        expected = logits.log_softmax(dim=-1).gather(1, ids[:, None]).sum()
        torch.testing.assert_close(likelihood, expected)


def test_ended_text_repeats_the_end_token_until_all_have_ended(llm: LanguageModel) -> None:
    unbounded = generate(llm, prompts(3, 17), 6)
    end_id = unbounded[0][2]
    assert end_id not in unbounded[0][:2] + unbounded[1]
    generated = generate(llm, prompts(3, 17), 6, end_id)
    assert generated == [unbounded[0][:3] + [end_id] * 3, unbounded[1]]
    assert generate(llm, prompts(3), 6, end_id) == [unbounded[0][:3]]


def test_sizes_for_memaug_come_from_the_config(llm: LanguageModel) -> None:
    sizes = llm.dim, llm.num_heads, llm.num_key_value_heads, llm.rope_theta
    assert sizes == (32, 4, 2, 10_000.0)


@pytest.mark.parametrize("is_tied", (True, False))
def test_output_layer_is_the_embedding_only_if_tied(is_tied: bool) -> None:
    network = LanguageModel(replace(LLM, tie_word_embeddings=is_tied), NUM_TOKENS).network
    output, embedding = (
        network.get_parameter(name) for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    assert (output is embedding) == is_tied


def test_embedding_may_have_more_rows_than_the_tokenizer_but_not_fewer() -> None:
    larger = LanguageModel(replace(LLM, vocab_size=1000), 300)
    assert len(larger.network.lm_head.weight) == larger.vocab_size == 1000
    with pytest.raises(
        ConfigError, match=r"model\.llm\.vocab_size=299, but the tokenizer has 300 tokens"
    ):
        LanguageModel(replace(LLM, vocab_size=299), 300)


def llm_with_adapters() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(replace(LLM, lora=LoraConfig(rank=2, alpha=6)), NUM_TOKENS)


def test_only_adapters_are_trained_and_untrained_ones_change_nothing() -> None:
    adapted = llm_with_adapters()
    torch.manual_seed(0)
    plain = LanguageModel(LLM, NUM_TOKENS)
    weights = {
        name.replace(".base_layer", ""): weight
        for name, weight in adapted.network.state_dict().items()
    }
    plain.network.load_state_dict(
        {name: weight for name, weight in weights.items() if "lora_" not in name}
    )
    inputs = labeled_inputs(plain)
    torch.testing.assert_close(adapted.loss(inputs), plain.loss(inputs))
    trainable = adapted.trainable_parameters()
    assert len(trainable) == 2 * 7 * LLM.num_layers and len(plain.trainable_parameters()) > 10
    for parameter in adapted.parameters():
        parameter.requires_grad_(any(parameter is one for one in trainable))
    adapted.loss(inputs).backward()
    torch.optim.SGD(trainable, lr=1.0).step()
    assert float(adapted.loss(inputs).detach()) < float(plain.loss(inputs).detach())
    expected = weights["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(adapted.network.model.layers[0].mlp.up_proj.base_layer.weight, expected)


def test_adapters_add_their_product_times_alpha_over_rank() -> None:
    layer = llm_with_adapters().network.model.layers[0].self_attn.q_proj
    down, up = layer.lora_A.default.weight, layer.lora_B.default.weight  # (2, 32), (32, 2)
    torch.nn.init.normal_(up)
    tokens = torch.randn(5, 32)
    torch.testing.assert_close(
        layer(tokens), layer.base_layer(tokens) + tokens @ (up @ down).T * 6 / 2
    )
