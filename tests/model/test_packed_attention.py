"""Texts packed without padding have the loss and the gradients of padded ones."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.model import packed_attention
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.multimodal_inputs import pad_inputs
from lit_hour.training.parallelize import checkpoint_blocks, transformer_blocks
from tests.model.toy_model import (
    CONFIG,
    LEFT,
    LLM,
    NUM_TOKENS,
    RED,
    batch_of,
    frames,
    sample,
    toy_model,
)

TOLERANCE = 1e-6  # relative to the norm, in float32
LENGTHS = [(5, 31, 17), (9, 9, 9), (12,), (1, 40, 2)]
LORA = replace(
    CONFIG, model=replace(CONFIG.model, llm=replace(LLM, lora=LoraConfig(rank=4, alpha=1.0)))
)


LLAMA = replace(CONFIG, model=replace(CONFIG.model, llm=replace(LLM, model_type="llama")))


def texts(*lengths: int) -> LLMInputs:
    """Return random texts with labels at two of three tokens, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    sequences = []
    for length in lengths:
        labels = torch.arange(length) % NUM_TOKENS  # (tokens,)
        labels[::3] = -100
        sequences.append((torch.randn(length, LLM.hidden_size, generator=generator), labels))
    return pad_inputs(sequences, 1000, "right")


def learn(llm: LanguageModel, inputs: LLMInputs) -> dict[str, Tensor]:
    """Return the loss, and its gradients by parameter and of the texts' embeddings."""
    embeddings = inputs.embeddings.clone().requires_grad_()  # (texts, tokens, dim)
    loss = llm.loss(replace(inputs, embeddings=embeddings))
    loss.backward()
    gradients = {
        name: weight.grad for name, weight in llm.named_parameters() if weight.grad is not None
    }
    assert embeddings.grad is not None
    return {"loss": loss.detach(), "embeddings": embeddings.grad, **gradients}


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and len(expected) > 10
    total = float(torch.nn.utils.get_total_norm(expected.values()))
    for name, tensor in expected.items():
        difference = float((found[name] - tensor).norm())
        assert difference <= TOLERANCE * float(tensor.norm()) + 1e-9 * total, name


@pytest.mark.parametrize("config", (CONFIG, LLAMA), ids=("qwen2", "llama"))
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_texts_have_the_loss_and_gradients_of_padded_ones(
    lengths: tuple[int, ...], config: Config
) -> None:
    padded, packed = toy_model(config).llm, toy_model(config).llm
    packed.pack_texts()
    inputs = texts(*lengths)
    check_same(learn(packed, inputs), learn(padded, inputs))


def test_packing_works_with_adapters_and_activation_checkpointing() -> None:
    padded, packed = toy_model(LORA), toy_model(LORA)
    packed.llm.pack_texts()
    checkpoint_blocks(transformer_blocks(packed))
    check_same(learn(packed.llm, texts(5, 31, 17)), learn(padded.llm, texts(5, 31, 17)))


def test_packed_bf16_differs_from_padded_by_its_rounding() -> None:
    losses = []
    for packs in (False, True):
        llm = toy_model().llm.bfloat16()
        llm.reset_nonpersistent_buffers()
        if packs:
            llm.pack_texts()
        inputs = texts(5, 31, 17)
        inputs = replace(inputs, embeddings=inputs.embeddings.bfloat16())
        losses.append(llm.loss(inputs))
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=0)


def test_packed_model_learns_the_same_from_videos_and_texts() -> None:
    batch = batch_of(
        sample(frames(9), (RED,), (LEFT, RED)), sample(None, (LEFT, RED)), sample(frames(3), (RED,))
    )

    def gradients(model: HourLLaVA) -> dict[str, Tensor]:
        output = model.train()(batch, [torch.Generator().manual_seed(7)] * 4)
        output.loss.backward()
        found = {
            name: weight.grad
            for name, weight in model.named_parameters()
            if weight.grad is not None
        }
        return {"loss": output.loss.detach(), **found}

    packed = toy_model()
    packed.llm.pack_texts()
    check_same(gradients(packed), gradients(toy_model()))


class LinearTokens(TorchFunctionMode):
    """Records the largest number of rows that a linear layer multiplies."""

    num_rows = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.linear:
            self.num_rows = max(self.num_rows, args[0].shape[:-1].numel())
        return function(*args, **(kwargs or {}))


def test_packing_computes_no_padding() -> None:
    counts = []
    for change in (lambda llm: None, LanguageModel.pack_texts):
        llm = toy_model().llm
        change(llm)
        with LinearTokens() as counter:
            llm.loss(texts(5, 31, 17))
        counts.append(counter.num_rows)
    assert counts == [3 * 31, 5 + 31 + 17]


def test_texts_do_not_see_each_other() -> None:
    llm = toy_model().llm
    llm.pack_texts()
    inputs = texts(8, 20)
    embeddings = inputs.embeddings.clone().requires_grad_()  # (2, 20, dim)
    only_second = inputs.labels.clone()  # (2, 20)
    only_second[0] = -100
    llm.loss(replace(inputs, embeddings=embeddings, labels=only_second)).backward()
    assert not embeddings.grad[0].any() and embeddings.grad[1].any()


@pytest.mark.parametrize("use", ["generate", "loglikelihood", "logits"])
def test_other_uses_stay_bit_for_bit(use: str) -> None:
    sequences = [(texts(length).embeddings[0], texts(length).labels[0]) for length in (6, 11)]
    inputs, one = pad_inputs(sequences, 99, "left"), texts(11)
    uses: dict[str, Callable[[LanguageModel], Tensor]] = {
        "generate": lambda llm: torch.stack(list(llm.generate(inputs, 6, -1))),
        "loglikelihood": lambda llm: llm.loglikelihood(
            one, [torch.tensor([3, 4]), torch.tensor([5])]
        )[0],
        "logits": lambda llm: llm.logits(inputs),
    }
    plain, packed = toy_model().llm, toy_model().llm
    packed.pack_texts()
    assert torch.equal(uses[use](packed), uses[use](plain))


def test_variable_length_attention_of_a_gpu_gets_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch's kernel, which needs a GPU, follows its documentation."""
    calls = []

    def varlen_attn(  # type: ignore[no-untyped-def]
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
    ) -> Tensor:
        assert window_size == (-1, 0) and enable_gqa and torch.equal(cu_seq_q, cu_seq_k)
        assert cu_seq_q.dtype == torch.int32 and max_q == max_k == int(cu_seq_q.diff().max())
        calls.append(cu_seq_q.tolist())
        outputs = [
            F.scaled_dot_product_attention(
                query[start:end].transpose(0, 1),
                key[start:end].transpose(0, 1),
                value[start:end].transpose(0, 1),
                is_causal=True,
                scale=scale,
                enable_gqa=True,
            ).transpose(0, 1)
            for start, end in pairwise(cu_seq_q)
        ]
        return torch.cat(outputs)  # (tokens, heads, head_dim)

    monkeypatch.setattr(packed_attention, "varlen_attn", varlen_attn)
    monkeypatch.setattr(packed_attention, "_has_varlen_kernel", lambda query, dtype: True)
    padded, packed = toy_model().llm, toy_model().llm
    packed.pack_texts()
    inputs = texts(5, 31, 17)
    check_same(learn(packed, inputs), learn(padded, inputs))
    assert calls == [[0, 5, 36, 53]] * LLM.num_layers
