"""An encoder that costs nothing, and what encoding makes of shards with it."""

from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.data.features.format import FeatureMetadata, encode_tokens, feature_config
from lit_hour.data.features.source import FrameChunkDataset, FrameShardSource, SampleRef
from lit_hour.data.features.writer import FeatureWriter
from tests.data.tiny import VIDEO

CONFIG = Config(video=VIDEO)
ENCODING = FeatureMetadata("bf16", 4, 3, feature_config(CONFIG), "a" * 64)


def tokens_of(images: Tensor) -> Tensor:
    """Colours of the four quarters of each frame: `(frames, 4, 3)`."""
    quarters = (
        images.float().unfold(2, 16, 16).unfold(3, 16, 16).mean((-2, -1))
    )  # (frames, 3, 2, 2)
    return quarters.flatten(2).transpose(1, 2) / 100  # (frames, 4, 3)


def open_folder(
    path: Path, frames: Path, encoding: FeatureMetadata = ENCODING, max_skipped: int = 0
) -> FeatureWriter:
    return FeatureWriter(path, FrameShardSource(str(frames), CONFIG), encoding, max_skipped)


def encode_videos(
    folder: FeatureWriter,
    frames: Path,
    places: list[SampleRef],
    encoding: FeatureMetadata = ENCODING,
) -> None:
    tokens: list[Tensor] = []
    for chunk in FrameChunkDataset(FrameShardSource(str(frames), CONFIG), places):
        if chunk.error:
            folder.skip(chunk.ref, chunk.error)
        elif chunk.metadata:
            folder.save(
                chunk.ref, encode_tokens(torch.cat(tokens), encoding.precision), chunk.metadata
            )
            tokens = []
        else:
            tokens.append(tokens_of(chunk.images))


def encode(
    path: Path, frames: Path, encoding: FeatureMetadata = ENCODING, max_skipped: int = 0
) -> FeatureWriter:
    """Everything that is missing."""
    folder = open_folder(path, frames, encoding, max_skipped)
    folder.open()
    encode_videos(folder, frames, folder.missing_videos(), encoding)
    for shard in folder.missing_shards():
        assert folder.is_shard_complete(shard)
        folder.write_shard(shard)
    folder.write_totals()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
