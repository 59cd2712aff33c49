"""Tars as other projects write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from webdataset import ShardWriter

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.external.webdataset import WebDatasetShards, open_webdataset

SETTINGS = ("video.min_frames=4", "video.max_frames=6", "video.image_size=32")


def write_tar(path: Path, members: Mapping[str, Any]) -> Path:
    """Write a tar with members of bytes, text or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(
    folder: Path, samples: list[tuple[str, bytes, dict[str, Any]]], samples_per_tar: int
) -> str:
    """Write videos with JSON by webdataset's own writer, and return the brace notation."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / "part-%05d.tar")
    with ShardWriter(pattern, maxcount=samples_per_tar, verbose=0) as writer:
        for key, video, record in samples:
            writer.write({"__key__": key, "mp4": video, "json": record})
    last = -(-len(samples) // samples_per_tar) - 1
    return str(folder / f"part-{{00000..{last:05d}}}.tar")


def image_bytes(color: tuple[int, int, int], image_format: str = "PNG", side: int = 20) -> bytes:
    """Return an image file of one color."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), color).save(stream, image_format)
    return stream.getvalue()


def open_tars(
    pattern: str | Path, *overrides: str, mapping: Path | None = None
) -> WebDatasetShards:
    """Open tars as the source `x` of a run."""
    config = tar_config(pattern, *overrides, mapping=mapping)
    return open_webdataset(config.data.sources["x"], config)


def tar_config(pattern: str | Path, *overrides: str, mapping: Path | None = None) -> Config:
    """Return the settings of a run with the source `x`."""
    source = [f"data.sources.x.shards={pattern}"]
    source += [f"data.sources.x.mapping={mapping}"] if mapping else []
    return load_config(None, [*SETTINGS, *source, *overrides])
