"""What stored features lose: python -m tests.benchmarks.feature_accuracy RUN [MOST_VIDEOS]

The vision encoder of a trained run encodes the videos that the run validates on, in float32. The tokens are stored and read
again. The error of a token is the length of the difference over the length of the token; the loss is that of the run's
questions. Then the same errors for tokens as wide as the published encoder's: of normal numbers, and of such in which one
channel is many times larger, as in the deeper layers of large encoders.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lit_hour.data.datasets import ValidationDataset
from lit_hour.data.features.format import FeatureMetadata, encode_tokens, to_safetensors
from lit_hour.data.sources import open_sources
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.types import Example, Features, Frames

PRECISIONS = ("float32", "bf16", "int8")
PUBLISHED_TOKENS, PUBLISHED_DIM, HOUR_FRAMES = 64, 1152, 3600
ROW = "{:42} {:>9} {:>13} {:>12} {:>12} {:>12}"


def stored_and_read(tokens: Tensor, precision: str) -> Tensor:
    """Tokens `(frames, tokens, vision_dim)` as training gets them."""
    return tokens if precision == "float32" else encode_tokens(tokens, precision).expand().float()  # type: ignore[arg-type]


def error_of(tokens: Tensor, precision: str) -> Tensor:
    """The relative error of each token: `(frames, tokens)`."""
    return (stored_and_read(tokens, precision) - tokens).norm(dim=-1) / tokens.norm(dim=-1)


def gigabytes_of_an_hour(precision: str) -> float:
    """Of a file of the published shape."""
    if precision == "float32":
        return HOUR_FRAMES * PUBLISHED_TOKENS * PUBLISHED_DIM * 4 / 1e9
    encoding = FeatureMetadata(precision, PUBLISHED_TOKENS, PUBLISHED_DIM, {}, "")  # type: ignore[arg-type]
    minute = encode_tokens(
        torch.zeros(HOUR_FRAMES // 60, PUBLISHED_TOKENS, PUBLISHED_DIM), encoding.precision
    )
    return 60 * sum(len(part) for part in to_safetensors(minute, encoding)) / 1e9


def validation_examples(session: VideoPredictor, most_videos: int) -> Iterator[Example]:
    """Videos with their questions, as the run validates on them."""
    shards = open_sources(session.config.data.val_sources, session.config)
    videos = [
        (each, subject)
        for each in shards.values()
        for subject in each.entries
        if subject.modality == "video"
    ]
    dataset = ValidationDataset(videos[:most_videos], session.processor, session.config)
    for number in range(len(dataset)):
        example = dataset[number].result
        assert isinstance(example, Example), example
        yield example


@torch.inference_mode()
def measure_run(run: Path, most_videos: int) -> None:
    """Errors and losses of a run."""
    session = VideoPredictor.from_run(run, device="cpu")
    losses: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    errors: dict[str, list[Tensor]] = {precision: [] for precision in PRECISIONS}
    for example in validation_examples(session, most_videos):
        frames = example.visual
        assert isinstance(frames, Frames)
        tokens = session.model.vision(frames.images)  # (frames, tokens, vision_dim)
        for precision in PRECISIONS:
            visual = Features(stored_and_read(tokens, precision), frames.timestamps)
            losses[precision].append(
                float(session.model(session.processor.collate([replace(example, visual=visual)])))
            )
            errors[precision].append(error_of(tokens, precision).flatten())  # (frames * tokens,)
    exact = sum(losses["float32"]) / len(losses["float32"])
    name = f"{run}, {len(losses['float32'])} videos, {session.model.vision.dim} wide"
    for precision in PRECISIONS:
        loss = sum(losses[precision]) / len(losses[precision])
        print_row(
            name, precision, torch.cat(errors[precision]), f"{loss:.6f}", f"{loss - exact:+.1e}"
        )


def measure_made_up(name: str, outlier: float) -> None:
    """Errors of tokens of the published width."""
    tokens = torch.randn(
        100, PUBLISHED_TOKENS, PUBLISHED_DIM, generator=torch.Generator().manual_seed(0)
    )
    tokens[..., 7] *= outlier
    for precision in PRECISIONS[1:]:
        print_row(name, precision, error_of(tokens, precision).flatten())


def print_row(name: str, precision: str, errors: Tensor, loss: str = "", change: str = "") -> None:
    """A line of the table."""
    print(ROW.format(name, precision, f"{errors.mean():.2%}", f"{errors.max():.2%}", loss, change))


def main(run: str, most_videos: str = "8") -> None:
    """Measure, and print what was measured."""
    sizes = ", ".join(
        f"{precision} {gigabytes_of_an_hour(precision):.2f} GB" for precision in PRECISIONS
    )
    print(f"an hour at 1 frame a second, 64 tokens of 1,152 numbers: {sizes}")
    print(ROW.format("tokens", "stored as", "mean error", "worst token", "loss", "change"))
    measure_run(Path(run), int(most_videos))
    measure_made_up("normal numbers, 1,152 wide", outlier=1)
    measure_made_up("and one channel 30 times as large", outlier=30)
    measure_made_up("and one channel 300 times as large", outlier=300)


if __name__ == "__main__":
    main(*sys.argv[1:])
