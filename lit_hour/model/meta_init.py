"""Initialize the weights that no file has, for a model that was built on the meta device."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_hour.io.sampling import seed_of
from lit_hour.model.hour_llava import HourLLaVA, init_frame_newline
from lit_hour.model.vision_encoder import VisionEncoder

VISION, LLM, MEMAUG = "vision.", "llm.network.", "memaug."
FRAME_NEWLINE = "frame_newline"


def missing_weights(
    model: HourLLaVA, loaded: Collection[str], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Draw random weights for all parameters that were not loaded.

    They have the distribution of those of a new `HourLLaVA`. Each depends on the seed and on its
    name alone, so it is the same on any number of ranks. One layer is in memory at a time.

    Args:
        model: may be sharded.
        loaded: names of the weights that have been loaded.
        seed: of the random draws.

    Yields:
        Name and weight, on the CPU and with the whole shape of the parameter.
    """
    names = {name for name, _ in model.named_parameters()}
    names |= {f"{VISION}{name}" for name in model.vision.state_dict()}
    wanted = names - set(loaded)
    if any(name.startswith(VISION) for name in wanted):
        with _seeded(seed, VISION):
            # All layers at once: they are small beside the language model.
            tower = VisionEncoder(model.config.vision)
        for name, weight in tower.state_dict().items():
            if f"{VISION}{name}" in wanted:
                yield f"{VISION}{name}", weight
    if FRAME_NEWLINE in wanted:
        with _seeded(seed, FRAME_NEWLINE):
            yield FRAME_NEWLINE, init_frame_newline(model.llm.dim)
    with torch.device("meta"):
        template = HourLLaVA(
            model.config,
            model.llm.vocab_size,
            image_size=model.vision.image_size,
            max_tokens=model.max_tokens,
            max_tiles=model.max_tiles,
            has_time_embedding=model.time_embedding is not None,
        )
    for name, layer in template.named_modules():
        weights = {f"{name}.{key}": one for key, one in layer.named_parameters(recurse=False)}
        if wanted.intersection(weights) and not name.startswith(VISION):
            with _seeded(seed, name):
                layer.to_empty(device="cpu", recurse=False)
                _init_layer(template, layer, name)
            yield from zip(weights, layer.parameters(recurse=False), strict=True)
            layer.to_empty(device="meta", recurse=False)


def _init_layer(template: HourLLaVA, layer: nn.Module, name: str) -> None:
    if name.startswith(LLM):
        template.llm.init_weights(layer, name)
        return
    layer.reset_parameters()  # type: ignore[operator]
    if name.startswith(MEMAUG):
        template.memaug.init_weights(layer)


@contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Seed torch's random numbers by a seed and a name, within the context."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(f"{seed} {name}"))
        yield
