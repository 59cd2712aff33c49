"""Features of frame shards by a stand-in for the vision encoder: mean colors of the frames."""

from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.data.features.format import FeatureMetadata, encode_tokens, feature_config
from lit_hour.data.features.source import FrameChunkDataset, FrameShardSource, SampleRef
from lit_hour.data.features.writer import FeatureWriter
from tests.data.factories import VIDEO

CONFIG = Config(video=VIDEO)
METADATA = FeatureMetadata("bf16", 4, 3, feature_config(CONFIG), "a" * 64)


def mean_colors(images: Tensor) -> Tensor:
    """Return the mean color of each quarter of each frame: `(frames, 4, 3)`."""
    quarters = images.float().unfold(2, 16, 16).unfold(3, 16, 16)  # (frames, 3, 2, 2, 16, 16)
    return quarters.mean((-2, -1)).flatten(2).transpose(1, 2) / 100  # (frames, 4, 3)


def open_writer(
    path: Path, frames: Path, metadata: FeatureMetadata = METADATA, max_skipped: int = 0
) -> FeatureWriter:
    """Return a writer of features of a folder of frame shards."""
    return FeatureWriter(path, FrameShardSource(str(frames), CONFIG), metadata, max_skipped)


def save_videos(
    writer: FeatureWriter,
    frames: Path,
    videos: list[SampleRef],
    metadata: FeatureMetadata = METADATA,
) -> None:
    """Extract and save the features of some videos."""
    tokens: list[Tensor] = []
    for chunk in FrameChunkDataset(FrameShardSource(str(frames), CONFIG), videos):
        if chunk.error:
            writer.skip(chunk.ref, chunk.error)
        elif chunk.metadata:
            stored = encode_tokens(torch.cat(tokens), metadata.precision)
            writer.save(chunk.ref, stored, chunk.metadata)
            tokens = []
        else:
            tokens.append(mean_colors(chunk.images))


def extract_all(
    path: Path, frames: Path, metadata: FeatureMetadata = METADATA, max_skipped: int = 0
) -> FeatureWriter:
    """Extract all missing features and write the shards."""
    writer = open_writer(path, frames, metadata, max_skipped)
    writer.open()
    save_videos(writer, frames, writer.missing_videos(), metadata)
    for shard in writer.missing_shards():
        assert writer.is_shard_complete(shard)
        writer.write_shard(shard)
    writer.write_totals()
    return writer
