"""An encoder that costs nothing, and what encoding makes of shards with it."""

from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.data.features.format import Encoding, compress, deciding_settings
from lit_hour.data.features.source import FrameShards, Place, Videos
from lit_hour.data.features.writer import FeatureFolder
from tests.data.tiny import VIDEO

CONFIG = Config(video=VIDEO)
ENCODING = Encoding("bf16", 4, 3, deciding_settings(CONFIG), "a" * 64)


def tokens_of(images: Tensor) -> Tensor:
    """Colours of the four quarters of each frame: `(frames, 4, 3)`."""
    quarters = (
        images.float().unfold(2, 16, 16).unfold(3, 16, 16).mean((-2, -1))
    )  # (frames, 3, 2, 2)
    return quarters.flatten(2).transpose(1, 2) / 100  # (frames, 4, 3)


def open_folder(
    path: Path, frames: Path, encoding: Encoding = ENCODING, max_skipped: int = 0
) -> FeatureFolder:
    return FeatureFolder(path, FrameShards(str(frames), CONFIG), encoding, max_skipped)


def encode_videos(
    folder: FeatureFolder, frames: Path, places: list[Place], encoding: Encoding = ENCODING
) -> None:
    tokens: list[Tensor] = []
    for chunk in Videos(FrameShards(str(frames), CONFIG), places):
        if chunk.damage:
            folder.skip(chunk.place, chunk.damage)
        elif chunk.metadata:
            folder.keep(
                chunk.place, compress(torch.cat(tokens), encoding.precision), chunk.metadata
            )
            tokens = []
        else:
            tokens.append(tokens_of(chunk.images))


def encode(
    path: Path, frames: Path, encoding: Encoding = ENCODING, max_skipped: int = 0
) -> FeatureFolder:
    """Everything that is missing."""
    folder = open_folder(path, frames, encoding, max_skipped)
    folder.prepare()
    encode_videos(folder, frames, folder.missing_videos(), encoding)
    for shard in folder.missing_shards():
        assert folder.is_ready(shard)
        folder.assemble(shard)
    folder.finish()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
