"""Loss, next tokens and memory of a language model with its decoder in bf16, int8 and int4.

Texts are sampled from the float32 model, so the loss of each precision is a cross-entropy with it:
what is above the float32 loss is the divergence from it.

    python -m tests.benchmarks.quantized_base [NAME ...]     # of model.llm.path
"""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.quantized_linear import quantize_frozen_layers
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.weights.pretrained import config_for_new_run, open_pretrained, pretrained_tokenizer
from lit_hour.weights.reader import load_into

NAMES = ("lit-hour-lm", "smollm2")
NUM_TEXTS, NUM_TOKENS = 24, 96
PREFIX = "llm."


def open_language_model(name: str) -> tuple[LanguageModel, Tensor]:
    """Return a pretrained language model in float32, and the first token of its texts, `(1,)`."""
    config = Config()
    llm = replace(config.model.llm, path=name)
    config = config_for_new_run(replace(config, model=replace(config.model, llm=llm)))
    stored, source = open_pretrained(config), pretrained_tokenizer(config)
    assert stored is not None and source is not None
    tokenizer = load_tokenizer(source)
    model = LanguageModel(config.model.llm, len(tokenizer)).eval().requires_grad_(False)
    load_into(model, ((key.removeprefix(PREFIX), weight) for key, weight in stored.tensors()))
    return model, torch.tensor(tokenizer.encode("What", add_special_tokens=False)[:1])


def sample_texts(model: LanguageModel, first: Tensor) -> Tensor:
    """Sample texts at temperature 1: ids `(NUM_TEXTS, NUM_TOKENS)`."""
    generator = torch.Generator().manual_seed(0)
    prompt = model.embed(first.expand(NUM_TEXTS, 1))  # (texts, 1, dim)
    mask = torch.ones(NUM_TEXTS, 1, dtype=torch.bool)
    tokens = model.generate(
        LLMInputs(prompt, torch.zeros_like(mask, dtype=torch.long), mask),
        NUM_TOKENS - 1,
        end_id=-1,  # texts do not end
        select=lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0],
    )
    return torch.cat([first.expand(NUM_TEXTS, 1), torch.stack(list(tokens), dim=1)], dim=1)


@torch.no_grad()
def measure(model: LanguageModel, ids: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return the loss of each token `(texts, tokens - 1)`, the most likely tokens, and seconds."""
    started = time.perf_counter()
    mask = torch.ones_like(ids, dtype=torch.bool)
    logits = model.logits(LLMInputs(model.embed(ids), ids, mask))[:, :-1].float()
    seconds = time.perf_counter() - started
    losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return losses, logits.argmax(-1), seconds


def decoder_bytes(model: LanguageModel) -> int:
    """Return the size of the decoder layers in bytes, quantized or not."""
    layers = model.network.model.layers
    return sum(one.nbytes for one in (*layers.parameters(), *layers.buffers()))


def main(names: list[str]) -> None:
    """Print a row of the table for each model and precision."""
    for name in names:
        model, first = open_language_model(name)
        ids = sample_texts(model, first)
        reference, _, _ = measure(model, ids)
        most_likely = None
        for precision in ("bf16", "int8", "int4"):
            tried = copy.deepcopy(model).to(torch.bfloat16)
            if precision != "bf16":
                quantize_frozen_layers(tried.network.model.layers, precision)  # type: ignore[arg-type]
            losses, tokens, seconds = measure(tried, ids)
            most_likely = tokens if most_likely is None else most_likely
            print(
                f"| {name} | {precision} | {losses.mean():.4f} |"
                f" {(losses - reference).mean():+.4f} |"
                f" {(tokens == most_likely).float().mean():.1%} |"
                f" {decoder_bytes(tried) / 1e6:.1f} MB | {seconds:.2f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
