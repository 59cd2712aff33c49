"""Storage format of video features: a safetensors file in bf16, or in int8 with per-token scales.

    8 bytes      length of the header, little-endian
    header       JSON: dtype, shape and offsets of each tensor, and the CRC-32 of all that follows
    scales       (frames, tokens) float32, with int8 only
    tokens       (frames, tokens, vision_dim) bf16 or int8

The header follows from the number of frames and the metadata; any other header is rejected.

Source: the safetensors format; any safetensors reader can open the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.errors import ShardError
from lit_hour.io.quantize import dequantize_int8, quantize_int8

FEATURES_SUFFIX = "safetensors"
METADATA = "__metadata__"
LENGTH_BYTES = 8
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8}  # safetensors names


@dataclass(frozen=True)
class StoredTokens:
    """Tokens of a video as stored in a shard.

    Attributes:
        tokens: `(frames, tokens, vision_dim)` bf16 or int8.
        scales: `(frames, tokens)` float32, the factors of int8 tokens; None for bf16.
        mmap_slice: memory-mapped slice that ends with the tokens, if they are memory-mapped.
    """

    tokens: Tensor
    scales: Tensor | None
    mmap_slice: MmapSlice | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def empty(cls, num_frames: int, encoding: FeatureMetadata) -> StoredTokens:
        """Allocate uninitialized tensors for the tokens of a video."""
        tensors = {
            name: torch.empty(shape, dtype=DTYPES[dtype])
            for name, (dtype, shape) in _dtypes_and_shapes(num_frames, encoding).items()
        }
        return cls(tensors["tokens"], tensors.get("scales"))

    def __getitem__(self, frames: slice | list[int]) -> StoredTokens:
        """Select frames; the result of a slice shares memory with this object."""
        return StoredTokens(
            self.tokens[frames], None if self.scales is None else self.scales[frames]
        )

    def copy_from(self, source: StoredTokens) -> None:
        """Copy the tokens of equally many frames in location, possibly from another device."""
        self.tokens.copy_(source.tokens)
        if self.scales is not None and source.scales is not None:
            self.scales.copy_(source.scales)

    def expand(self) -> Tensor:
        """Return the tokens in bf16, dequantized if necessary: `(frames, tokens, vision_dim)`."""
        if self.scales is None:
            return self.tokens
        # (frames, tokens, vision_dim)
        return dequantize_int8(self.tokens, self.scales, torch.bfloat16)


def encode_tokens(tokens: Tensor, precision: Literal["bf16", "int8"]) -> StoredTokens:
    """Convert floating-point tokens `(frames, tokens, vision_dim)` to the stored precision."""
    return (
        StoredTokens(tokens.bfloat16(), None)
        if precision == "bf16"
        else StoredTokens(*quantize_int8(tokens))
    )


def to_safetensors(stored: StoredTokens, encoding: FeatureMetadata) -> list[bytes | memoryview]:
    """Serialize to a list of buffers to be written in order; the tokens are not copied."""
    tensors = [stored.tokens] if stored.scales is None else [stored.scales, stored.tokens]
    content = [
        memoryview(tensor.contiguous().view(torch.uint8).numpy().data).cast("B")
        for tensor in tensors
    ]
    checksum = 0
    for part in content:
        checksum = crc32(part, checksum)
    header = json.dumps(
        {METADATA: {"crc32": f"{checksum:08x}"}, **_layout(len(stored), encoding)}
    ).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)
    return [len(header).to_bytes(LENGTH_BYTES, "little"), header, *content]


def parse_safetensors(
    content: memoryview, num_frames: int, encoding: FeatureMetadata, location: str
) -> StoredTokens:
    """Parse a safetensors file; the returned tensors share its memory.

    Args:
        content: content of the file.
        num_frames: number of frames of the video, from the index.
        encoding: metadata of the features, from the index.
        location: name of the file, for errors.

    Raises:
        ShardError: the header is damaged or does not match the index, or the checksum is wrong.
    """
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    try:
        header: dict[str, Any] = json.loads(bytes(content[LENGTH_BYTES:start]))
        checksum = int(header.pop(METADATA)["crc32"], 16)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{location} has a damaged header ({error!r})") from error
    layout = _layout(num_frames, encoding)
    if header != layout:
        raise ShardError(
            f"{location} has the header {json.dumps(header)}, but its index requires"
            f" {json.dumps(layout)}"
        )
    if (
        crc32(content[start:]) != checksum
        or len(content) - start != layout["tokens"]["data_offsets"][1]
    ):
        raise ShardError(f"{location} is damaged: its bytes do not match its checksum")
    tensors = {}
    for name, (dtype, shape) in _dtypes_and_shapes(num_frames, encoding).items():
        first = start + layout[name]["data_offsets"][0]
        flat = torch.frombuffer(content, dtype=DTYPES[dtype], count=math.prod(shape), offset=first)
        tensors[name] = flat.view(shape)  # (frames, tokens, vision_dim) or (frames, tokens)
    return StoredTokens(tensors["tokens"], tensors.get("scales"))


def _dtypes_and_shapes(
    num_frames: int, encoding: FeatureMetadata
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the safetensors dtype and the shape of each tensor, in the order of the file."""
    shape = (num_frames, encoding.tokens_per_frame, encoding.vision_dim)
    if encoding.precision == "bf16":
        return {"tokens": ("BF16", shape)}
    return {"scales": ("F32", shape[:2]), "tokens": ("I8", shape)}


def _layout(num_frames: int, encoding: FeatureMetadata) -> dict[str, Any]:
    """Build the tensor entries of the header."""
    layout, start = {}, 0
    for name, (dtype, shape) in _dtypes_and_shapes(num_frames, encoding).items():
        end = start + math.prod(shape) * DTYPES[dtype].itemsize
        layout[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return layout


@dataclass(frozen=True)
class FeatureMetadata:
    """Metadata of the features in a shard, stored in its index.

    Attributes:
        precision: precision of the stored tokens, the setting `features.precision`.
        tokens_per_frame, vision_dim: shape of the tokens of a frame.
        config: settings that the tokens depend on, by full name.
        encoder_sha256: SHA-256 of the vision encoder's weights, from `VisionEncoder.digest`.
    """

    precision: Literal["bf16", "int8"]
    tokens_per_frame: int
    vision_dim: int
    config: dict[str, Any]
    encoder_sha256: str


def diff_feature_metadata(before: FeatureMetadata, now: FeatureMetadata) -> list[str]:
    """List the differences between two sets of feature metadata, for messages."""
    changes = diff_configs(
        {"features.precision": before.precision}, {"features.precision": now.precision}
    )
    changes += diff_configs(before.config, now.config)
    if before.encoder_sha256 != now.encoder_sha256:
        changes.append(
            f"the vision encoder had other weights (SHA-256 {before.encoder_sha256[:12]},"
            f" now {now.encoder_sha256[:12]})"
        )
    return changes


FEATURE_KEYS = (
    "model.vision.name",
    "model.vision.layer",
    "model.vision.grid",
    "model.vision.tanh_gelu",
    "video.image_size",
    "video.fps",
    "video.min_frames",
    "video.max_frames",
)
IMAGE_FEATURE_KEYS = (*FEATURE_KEYS[:5], "image.max_grid", "image.max_tiles")


def feature_config(config: Config, names: tuple[str, ...] = FEATURE_KEYS) -> dict[str, Any]:
    """Return the settings that the tokens depend on, by full name."""
    return {name: attrgetter(name)(config) for name in names}


def diff_configs(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the settings that differ, for messages."""
    return [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
