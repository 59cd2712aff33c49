"""A model built on the device "meta", where nothing takes memory -> one on a real device, whole or sharded.

Weights are loaded afterwards; those for which there are none are drawn here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256

import torch
from torch import Tensor, nn

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA, init_frame_newline
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.weights.reader import load_into

VISION, LLM, MEMAUG = "vision.", "llm.network.", "memaug."
FRAME_NEWLINE = "frame_newline"


def materialize(model: HourLLaVA, device: torch.device | str) -> None:
    """Give the model memory on a device. Its weights are then whatever lies there; what no weights bring is made again."""
    model.to_empty(device=device)
    model.llm.reset_nonpersistent_buffers()
    model.vision.reset_nonpersistent_buffers()


def init_missing_weights(model: HourLLaVA, config: Config, loaded: Collection[str]) -> None:
    """Draw random weights, but for those with the names in `known`.

    They are distributed as those of a new `HourLLaVA`, and each depends on `run.seed` and its own name alone: it is the same
    on any number of ranks. Each rank draws whole weights, one layer at a time, and keeps its part of them.
    """
    wanted = {name for name, _ in model.named_parameters()} | {
        f"{VISION}{name}" for name in model.vision.state_dict()
    }
    load_into(model, _draw(config, model.llm.vocab_size, wanted - set(loaded)))


def _draw(config: Config, num_rows: int, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    if any(name.startswith(VISION) for name in wanted):
        with _seeded(config.run.seed, VISION):
            tower = VisionEncoder(
                config.model.vision
            )  # as a whole: it is small beside the language model
        yield from (
            (f"{VISION}{name}", weight)
            for name, weight in tower.state_dict().items()
            if f"{VISION}{name}" in wanted
        )
    with torch.device("meta"):
        template = HourLLaVA(config, num_rows)
    if FRAME_NEWLINE in wanted:
        with _seeded(config.run.seed, FRAME_NEWLINE):
            yield FRAME_NEWLINE, init_frame_newline(template.llm.dim)
    for name, layer in template.named_modules():
        names = [f"{name}.{each}" for each, _ in layer.named_parameters(recurse=False)]
        if wanted.intersection(names) and not name.startswith(VISION):
            with _seeded(config.run.seed, name):
                layer.to_empty(device="cpu", recurse=False)
                _initialise_layer(template, layer, name)
            yield from zip(names, layer.parameters(recurse=False), strict=True)
            layer.to_empty(device="meta", recurse=False)


def _initialise_layer(template: HourLLaVA, layer: nn.Module, name: str) -> None:
    if name.startswith(LLM):
        template.llm.init_weights(layer, name)
        return
    layer.reset_parameters()  # type: ignore[operator]
    if name.startswith(MEMAUG):
        template.memaug.init_weights(layer)


@contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Random numbers that depend on these two alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:7], "big"))
        yield
