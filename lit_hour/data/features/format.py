"""The tokens of a video <-> a safetensors file inside a shard: in bf16, or as 8-bit numbers with a scale for each token.

    8 bytes      length of the header, little-endian
    header       JSON: dtype, shape and place of each tensor, and the CRC-32 of all that follows
    scales       (frames, tokens) float32, with int8 only
    tokens       (frames, tokens, vision_dim) bf16 or int8

What the header has to say follows from the number of frames and the encoding; a file that says something else is not read.

Source: the safetensors format; any of its readers can open the file.


What the videos of a shard became features by, and in words how two such encodings differ.

A run's settings -> those that decide the tokens of a video or of pictures, and in words how two choices of them differ."""

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
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8}  # by safetensors' names


@dataclass(frozen=True)
class StoredTokens:
    """Tokens as a shard holds them.

    Attributes:
        tokens: `(frames, tokens, vision_dim)` bf16 or int8.
        scales: `(frames, tokens)` float32, by which int8 tokens are multiplied; None for bf16.
        part: of a file that ends with these tokens, where they are memory that shows it.
    """

    tokens: Tensor
    scales: Tensor | None
    mmap_slice: MmapSlice | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def empty(cls, num_frames: int, encoding: FeatureMetadata) -> StoredTokens:
        """Room for the tokens of a video."""
        room = {
            name: torch.empty(shape, dtype=DTYPES[dtype])
            for name, (dtype, shape) in _outlines(num_frames, encoding).items()
        }
        return cls(room["tokens"], room.get("scales"))

    def __getitem__(self, frames: slice | list[int]) -> StoredTokens:
        """Those of some frames; of a slice they share memory with these."""
        return StoredTokens(
            self.tokens[frames], None if self.scales is None else self.scales[frames]
        )

    def copy_from(self, others: StoredTokens) -> None:
        """Become equal to the tokens of as many other frames, which may be on another device."""
        self.tokens.copy_(others.tokens)
        if self.scales is not None and others.scales is not None:
            self.scales.copy_(others.scales)

    def expand(self) -> Tensor:
        """The tokens in bf16: `(frames, tokens, vision_dim)`."""
        if self.scales is None:
            return self.tokens
        return dequantize_int8(
            self.tokens, self.scales, torch.bfloat16
        )  # (frames, tokens, vision_dim)


def encode_tokens(tokens: Tensor, precision: Literal["bf16", "int8"]) -> StoredTokens:
    """Tokens `(frames, tokens, vision_dim)` of any floating dtype as they are stored."""
    return (
        StoredTokens(tokens.bfloat16(), None)
        if precision == "bf16"
        else StoredTokens(*quantize_int8(tokens))
    )


def to_safetensors(stored: StoredTokens, encoding: FeatureMetadata) -> list[bytes | memoryview]:
    """The file, as parts to be written one after the other; tokens are not copied."""
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
    content: memoryview, num_frames: int, encoding: FeatureMetadata, place: str
) -> StoredTokens:
    """The tokens in a file; they share its memory.

    Args:
        content: the file.
        num_frames: of the video, by the index.
        place: names the file in errors.

    Raises:
        ShardError: the header is damaged or does not fit the index, or the tokens have another checksum than it says.
    """
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    try:
        header: dict[str, Any] = json.loads(bytes(content[LENGTH_BYTES:start]))
        checksum = int(header.pop(METADATA)["crc32"], 16)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{place} has a damaged header ({error!r})") from error
    layout = _layout(num_frames, encoding)
    if header != layout:
        raise ShardError(
            f"{place} holds {json.dumps(header)}, and by its index {json.dumps(layout)}"
        )
    if (
        crc32(content[start:]) != checksum
        or len(content) - start != layout["tokens"]["data_offsets"][1]
    ):
        raise ShardError(f"{place} is damaged: its bytes are not those that its checksum is of")
    tensors = {}
    for name, (dtype, shape) in _outlines(num_frames, encoding).items():
        first = start + layout[name]["data_offsets"][0]
        flat = torch.frombuffer(content, dtype=DTYPES[dtype], count=math.prod(shape), offset=first)
        tensors[name] = flat.view(shape)  # (frames, tokens, vision_dim) or (frames, tokens)
    return StoredTokens(tensors["tokens"], tensors.get("scales"))


def _outlines(num_frames: int, encoding: FeatureMetadata) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype, by safetensors' name, and shape of each tensor, in the order of the file."""
    shape = (num_frames, encoding.tokens_per_frame, encoding.vision_dim)
    if encoding.precision == "bf16":
        return {"tokens": ("BF16", shape)}
    return {"scales": ("F32", shape[:2]), "tokens": ("I8", shape)}


def _layout(num_frames: int, encoding: FeatureMetadata) -> dict[str, Any]:
    """What a header says of the tensors."""
    layout, start = {}, 0
    for name, (dtype, shape) in _outlines(num_frames, encoding).items():
        end = start + math.prod(shape) * DTYPES[dtype].itemsize
        layout[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return layout


@dataclass(frozen=True)
class FeatureMetadata:
    """What the videos of a shard became features by. An index holds it.

    Attributes:
        precision: of the stored tokens, as `features.precision` has it.
        tokens_per_frame, vision_dim: of each video.
        settings: those that decide the tokens, under their full names.
        weights: SHA-256 of the vision encoder, as `VisionEncoder.digest` gives it.
    """

    precision: Literal["bf16", "int8"]
    tokens_per_frame: int
    vision_dim: int
    config: dict[str, Any]
    encoder_sha256: str


def diff_feature_metadata(before: FeatureMetadata, now: FeatureMetadata) -> list[str]:
    """All that differs between two encodings."""
    changes = diff_configs(
        {"features.precision": before.precision}, {"features.precision": now.precision}
    )
    changes += diff_configs(before.config, now.config)
    if before.encoder_sha256 != now.encoder_sha256:
        changes.append(
            f"the vision encoder had other weights (SHA-256 {before.encoder_sha256[:12]}, now {now.encoder_sha256[:12]})"
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
    """The settings that decide the tokens, under their full names."""
    return {name: attrgetter(name)(config) for name in names}


def diff_configs(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each setting that differs, as a message names it."""
    return [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
