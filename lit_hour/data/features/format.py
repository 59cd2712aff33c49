"""Features of a video in a shard: a safetensors file in bf16, or in int8 with a scale per token.

    8 bytes      length of the header, little-endian
    header       JSON: dtype, shape and offsets of each tensor, and the CRC-32 of all bytes after it
    scales       (frames, tokens) float32, for int8 only
    tokens       (frames, tokens, vision_dim) bf16 or int8

The number of frames and the `FeatureMetadata` in the index determine the header; a file with
another one is rejected. `to_safetensors` and `parse_safetensors` are the entry points.

Source: the safetensors format; any of its readers can open the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor

from lit_hour.config.diff import describe_changes
from lit_hour.config.schema import Config
from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.errors import ShardError
from lit_hour.io.quantize import dequantize_int8, quantize_int8

FEATURES_SUFFIX = "safetensors"
METADATA_KEY = "__metadata__"
LENGTH_BYTES = 8
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8}  # safetensors' names

FEATURE_KEYS = (
    "model.vision.name",
    "model.vision.layer",
    "model.vision.grid",
    "model.vision.tanh_gelu",
    "video.image_size",
    "video.sampling",
    "video.fps",
    "video.min_frames",
    "video.max_frames",
)  # settings that determine the features of a video
IMAGE_FEATURE_KEYS = (*FEATURE_KEYS[:5], "image.max_grid", "image.max_tiles")
VALUES_BEFORE = {"video.sampling": "seconds"}  # of settings that older features do not record


@dataclass(frozen=True)
class FeatureMetadata:
    """Settings and encoder of the features in a shard, as its index stores them.

    Attributes:
        precision: of the stored tokens, `features.precision`.
        tokens_per_frame, vision_dim: of each video.
        config: settings that determine the tokens, by their full names.
        encoder_sha256: of the vision encoder's weights, as `VisionEncoder.digest` returns it.
    """

    precision: Literal["bf16", "int8"]
    tokens_per_frame: int
    vision_dim: int
    config: dict[str, Any]
    encoder_sha256: str

    def describe_changes(self, now: FeatureMetadata) -> list[str]:
        """Return a text for each difference to other metadata."""
        changes = describe_changes(
            {"features.precision": self.precision}, {"features.precision": now.precision}
        )
        changes += describe_feature_changes(self.config, now.config)
        if self.encoder_sha256 != now.encoder_sha256:
            changes.append(
                "the vision encoder has other weights"
                f" (SHA-256 was {self.encoder_sha256[:12]}, is {now.encoder_sha256[:12]})"
            )
        return changes


def feature_config(config: Config, keys: tuple[str, ...] = FEATURE_KEYS) -> dict[str, Any]:
    """Return the settings that determine the features, by their full names."""
    return {key: attrgetter(key)(config) for key in keys}


def describe_feature_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a text for each difference between two results of `feature_config`."""
    known = {key: value for key, value in VALUES_BEFORE.items() if key in now}
    return describe_changes({**known, **before}, now)


@dataclass(frozen=True)
class StoredTokens:
    """The tokens of a video as a shard stores them.

    Attributes:
        tokens: `(frames, tokens, vision_dim)` bf16 or int8.
        scales: `(frames, tokens)` float32, factors of int8 tokens; None for bf16.
        mmap_slice: of a file that ends with these tokens, if they are memory-mapped.
    """

    tokens: Tensor
    scales: Tensor | None
    mmap_slice: MmapSlice | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def empty(cls, num_frames: int, metadata: FeatureMetadata) -> StoredTokens:
        """Allocate uninitialized tokens for a video."""
        tensors = {
            name: torch.empty(shape, dtype=DTYPES[dtype])
            for name, (dtype, shape) in _dtypes_and_shapes(num_frames, metadata).items()
        }
        return cls(tensors["tokens"], tensors.get("scales"))

    def __getitem__(self, frames: slice | list[int]) -> StoredTokens:
        """Return the tokens of some frames; a slice shares memory with these."""
        scales = None if self.scales is None else self.scales[frames]  # (kept, tokens)
        return StoredTokens(self.tokens[frames], scales)

    def copy_from(self, others: StoredTokens) -> None:
        """Copy the tokens of as many other frames, possibly from another device."""
        self.tokens.copy_(others.tokens)
        if self.scales is not None and others.scales is not None:
            self.scales.copy_(others.scales)

    def expand(self) -> Tensor:
        """Return the tokens in bf16: `(frames, tokens, vision_dim)`."""
        if self.scales is None:
            return self.tokens
        return dequantize_int8(self.tokens, self.scales, torch.bfloat16)


def encode_tokens(tokens: Tensor, precision: Literal["bf16", "int8"]) -> StoredTokens:
    """Convert tokens `(frames, tokens, vision_dim)` of any floating-point dtype for storage."""
    if precision == "bf16":
        return StoredTokens(tokens.bfloat16(), None)
    return StoredTokens(*quantize_int8(tokens))


def to_safetensors(stored: StoredTokens, metadata: FeatureMetadata) -> list[bytes | memoryview]:
    """Return the content of the file as parts to be written one after the other, without copies."""
    tensors = [stored.tokens] if stored.scales is None else [stored.scales, stored.tokens]
    content = [
        memoryview(tensor.contiguous().view(torch.uint8).numpy().data).cast("B")
        for tensor in tensors
    ]
    checksum = 0
    for part in content:
        checksum = crc32(part, checksum)
    crc = {METADATA_KEY: {"crc32": f"{checksum:08x}"}}
    header = json.dumps({**crc, **_tensor_headers(len(stored), metadata)}).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)
    return [len(header).to_bytes(LENGTH_BYTES, "little"), header, *content]


def parse_safetensors(
    content: memoryview, num_frames: int, metadata: FeatureMetadata, location: str
) -> StoredTokens:
    """Parse the content of a file into tokens, which share its memory.

    Args:
        content: of the whole file.
        num_frames: of the video, by the index.
        metadata: of the features, as the folder stores it.
        location: names the file in errors.

    Raises:
        ShardError: the header is corrupt or does not match the index, or the checksum is wrong.
    """
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    try:
        header: dict[str, Any] = json.loads(bytes(content[LENGTH_BYTES:start]))
        checksum = int(header.pop(METADATA_KEY)["crc32"], 16)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{location} has a corrupt header: {error!r}.") from error
    expected = _tensor_headers(num_frames, metadata)
    if header != expected:
        raise ShardError(
            f"{location} has the header {json.dumps(header)}. Its index implies "
            f"{json.dumps(expected)}."
        )
    num_bytes = expected["tokens"]["data_offsets"][1]
    if crc32(content[start:]) != checksum or len(content) - start != num_bytes:
        raise ShardError(f"{location} is corrupt: its CRC-32 or size is wrong.")
    tensors = {}
    for name, (dtype, shape) in _dtypes_and_shapes(num_frames, metadata).items():
        first = start + expected[name]["data_offsets"][0]
        flat = torch.frombuffer(content, dtype=DTYPES[dtype], count=math.prod(shape), offset=first)
        tensors[name] = flat.view(shape)  # (frames, tokens, vision_dim) or (frames, tokens)
    return StoredTokens(tensors["tokens"], tensors.get("scales"))


def _dtypes_and_shapes(
    num_frames: int, metadata: FeatureMetadata
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return safetensors' name of the dtype, and the shape, of each tensor in file order."""
    shape = (num_frames, metadata.tokens_per_frame, metadata.vision_dim)
    if metadata.precision == "bf16":
        return {"tokens": ("BF16", shape)}
    return {"scales": ("F32", shape[:2]), "tokens": ("I8", shape)}


def _tensor_headers(num_frames: int, metadata: FeatureMetadata) -> dict[str, Any]:
    """Return the entry of each tensor in the header."""
    headers, start = {}, 0
    for name, (dtype, shape) in _dtypes_and_shapes(num_frames, metadata).items():
        end = start + math.prod(shape) * DTYPES[dtype].itemsize
        headers[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return headers
