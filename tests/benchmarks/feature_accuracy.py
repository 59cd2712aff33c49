"""Error and loss of stored features: `python -m tests.benchmarks.feature_accuracy RUN [VIDEOS]`.

The vision encoder of a trained run encodes the run's validation videos in float32, and the tokens
are stored and read. The error of a token is the norm of the difference relative to the norm of the
token; the loss is measured on the run's validation questions. The same errors are measured for
noise as wide as the published encoder's tokens, also with one channel many times larger, as in the
deeper layers of large encoders.
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


def store_and_read(tokens: Tensor, precision: str) -> Tensor:
    """Return tokens `(frames, tokens, vision_dim)` as training reads them."""
    return tokens if precision == "float32" else encode_tokens(tokens, precision).expand().float()  # type: ignore[arg-type]


def relative_error(tokens: Tensor, precision: str) -> Tensor:
    """Return the relative error of each token `(frames, tokens)`."""
    return (store_and_read(tokens, precision) - tokens).norm(dim=-1) / tokens.norm(dim=-1)


def gigabytes_per_hour(precision: str) -> float:
    """Return the size of an hour of features in the published shape."""
    if precision == "float32":
        return HOUR_FRAMES * PUBLISHED_TOKENS * PUBLISHED_DIM * 4 / 1e9
    encoding = FeatureMetadata(precision, PUBLISHED_TOKENS, PUBLISHED_DIM, {}, "")  # type: ignore[arg-type]
    minute = encode_tokens(
        torch.zeros(HOUR_FRAMES // 60, PUBLISHED_TOKENS, PUBLISHED_DIM), encoding.precision
    )
    return 60 * sum(len(part) for part in to_safetensors(minute, encoding)) / 1e9


def validation_examples(predictor: VideoPredictor, max_videos: int) -> Iterator[Example]:
    """Yield the run's validation videos with their questions."""
    shards = open_sources(predictor.config, "val")
    videos = [
        (source, entry)
        for source in shards.values()
        for entry in source.entries
        if entry.modality == "video"
    ]
    dataset = ValidationDataset(videos[:max_videos], predictor.processor, predictor.config)
    for number in range(len(dataset)):
        example = dataset[number].result
        assert isinstance(example, Example), example
        yield example


@torch.inference_mode()
def measure_run(run: Path, max_videos: int) -> None:
    """Measure errors and losses of a run."""
    predictor = VideoPredictor.from_run(run, device="cpu")
    losses: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    errors: dict[str, list[Tensor]] = {precision: [] for precision in PRECISIONS}
    for example in validation_examples(predictor, max_videos):
        frames = example.visual
        assert isinstance(frames, Frames)
        tokens = predictor.model.vision.encode_images(frames.images)  # (frames, tokens, vision_dim)
        for precision in PRECISIONS:
            visual = Features(store_and_read(tokens, precision), frames.timestamps)
            losses[precision].append(
                float(
                    predictor.model(
                        predictor.processor.collate([replace(example, visual=visual)])
                    ).loss
                )
            )
            errors[precision].append(
                relative_error(tokens, precision).flatten()
            )  # (frames * tokens,)
    exact = sum(losses["float32"]) / len(losses["float32"])
    name = f"{run}, {len(losses['float32'])} videos, {predictor.model.vision.dim} wide"
    for precision in PRECISIONS:
        loss = sum(losses[precision]) / len(losses[precision])
        print_row(
            name, precision, torch.cat(errors[precision]), f"{loss:.6f}", f"{loss - exact:+.1e}"
        )


def measure_noise(name: str, outlier: float) -> None:
    """Measure errors of noise of the published width; `outlier` scales one channel."""
    tokens = torch.randn(
        100, PUBLISHED_TOKENS, PUBLISHED_DIM, generator=torch.Generator().manual_seed(0)
    )
    tokens[..., 7] *= outlier
    for precision in PRECISIONS[1:]:
        print_row(name, precision, relative_error(tokens, precision).flatten())


def print_row(name: str, precision: str, errors: Tensor, loss: str = "", change: str = "") -> None:
    """Print a row of the table."""
    print(ROW.format(name, precision, f"{errors.mean():.2%}", f"{errors.max():.2%}", loss, change))


def main(run: str, max_videos: str = "8") -> None:
    """Measure and print the table."""
    sizes = ", ".join(
        f"{precision} {gigabytes_per_hour(precision):.2f} GB" for precision in PRECISIONS
    )
    print(f"one hour at 1 frame/s, 64 tokens of 1,152 numbers: {sizes}")
    print(ROW.format("tokens", "stored as", "mean error", "worst token", "loss", "change"))
    measure_run(Path(run), int(max_videos))
    measure_noise("normal numbers, 1,152 wide", outlier=1)
    measure_noise("and one channel 30 times as large", outlier=30)
    measure_noise("and one channel 300 times as large", outlier=300)


if __name__ == "__main__":
    main(*sys.argv[1:])
