"""Save a video memory as a safetensors file, and load it with the model that made it.

    tokens       output of the projector: of a video (frames, tokens, dim), of images (tokens, dim),
                 in the precision of `serving.memory_precision`; KV caches are computed again
    scales       one per token, with int8
    timestamps   (frames,) float32
    positions    of images (tokens,) int64
    thumbnails   the JPEG files, concatenated
    __metadata__ `memory`: a `MemoryMetadata` as JSON; `crc32`: checksum of it and of all tensors

Entry points: `save_memory` and `load_memory`. Any safetensors reader can open the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.data.features.format import (
    FEATURE_KEYS,
    IMAGE_FEATURE_KEYS,
    describe_feature_changes,
    feature_config,
)
from lit_hour.errors import MemoryFileError
from lit_hour.inference.precision import precision_name
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import (
    MEMORY_SUFFIX,
    VideoMemory,
    VideoMemoryBuilder,
    digest_files,
)
from lit_hour.io.atomic import atomic_path
from lit_hour.io.out_of_memory import is_out_of_memory
from lit_hour.io.quantize import dequantize_int8, quantize_int8
from lit_hour.model.memory_repository import DenseTokens, MemoryRepository, TokenGrid
from lit_hour.types import Subtitle

ENCODE_AGAIN = "Encode the video again."


@dataclass(frozen=True)
class MemoryMetadata:
    """Everything in a memory file but its tensors, stored as JSON.

    Attributes:
        source, duration_seconds, num_placeholders, seconds, files_digest: as in `VideoMemory`.
        is_video: whether frames can be appended.
        grids: arguments of the `TokenGrid` of each image.
        thumbnail_seconds, thumbnail_bytes: time of each thumbnail, and length of its JPEG.
        config: the settings that determine the tokens, by full name.
        weights_digest: SHA-256 of the weights that determine the tokens.
        subtitles: start, end and text of each.
    """

    source: str
    duration_seconds: float
    num_placeholders: int
    seconds: dict[str, float]
    files_digest: str
    is_video: bool
    grids: list[list[Any]]
    thumbnail_seconds: list[float]
    thumbnail_bytes: list[int]
    config: dict[str, Any]
    weights_digest: str
    subtitles: list[tuple[float, float, str]] = field(default_factory=list)


def check_memory_name(path: Path) -> None:
    """Check the name of a file to save a memory in.

    Raises:
        MemoryFileError: it has another suffix, by which `ask` would not know it.
    """
    if path.suffix != MEMORY_SUFFIX:
        raise MemoryFileError(
            f"{path} is not the name of a memory. Give a file that ends in {MEMORY_SUFFIX}, such as"
            f" film{MEMORY_SUFFIX}."
        )


def save_memory(predictor: VideoPredictor, memory: VideoMemory, path: Path) -> None:
    """Write a memory to disk atomically, in the precision of `serving.memory_precision`.

    Raises:
        MemoryFileError: the disk is full, or cannot be written.
    """
    if memory.stream is None and memory.num_frames:
        raise MemoryFileError(
            f"The memory of {memory.source} is divided over ranks and cannot be saved. Set"
            " model.memaug.shard_memory=false to save it from one process."
        )
    precision = predictor.config.serving.memory_precision
    if memory.stream is None:
        repository = memory.repository
        timestamps = repository.timestamps  # (0,)
        tensors = {
            "positions": repository.positions,
            **_quantize(repository.tokens, precision),
        }
    else:
        tokens, timestamps = memory.stream.encoded(memory.num_frames)  # (frames, tokens, dim)
        tensors = _quantize(tokens, precision)
    jpegs = b"".join(jpeg for _, jpeg in memory.thumbnails) or b"\0"
    thumbnails = torch.frombuffer(bytearray(jpegs), dtype=torch.uint8)  # (bytes,)
    tensors |= {"timestamps": timestamps, "thumbnails": thumbnails}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = json.dumps(asdict(_build_metadata(predictor, memory)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as unfinished:
            save_file(
                tensors,
                unfinished,
                {"memory": metadata, "crc32": _checksum(metadata, tensors)},
            )
    except (OSError, SafetensorError) as error:
        raise MemoryFileError(
            f"{path} could not be written ({error}). Free disk space, or save elsewhere."
        ) from error


def load_memory(predictor: VideoPredictor, path: Path, files: Sequence[Path] = ()) -> VideoMemory:
    """Read a memory from disk, with the same result as encoding its files now.

    Args:
        predictor: must have the weights and settings that the memory was made with.
        path: of a file that `save_memory` wrote.
        files: the memory must be of these; not checked if empty.

    Raises:
        MemoryFileError: the file is missing or corrupt, or was made with another model, other
            settings or from other files.
    """
    metadata, tensors = _read(path)
    mismatches = describe_feature_changes(metadata.config, _config(predictor, metadata.is_video))
    if metadata.weights_digest != predictor.weights_digest:
        mismatches.append(
            f"the model had other weights (SHA-256 {metadata.weights_digest[:12]},"
            f" now {predictor.weights_digest[:12]})"
        )
    if files and metadata.files_digest != digest_files(files):
        names = ", ".join(map(str, files))
        mismatches.append(f"it is the memory of {metadata.source}, and {names} differs from that")
    if mismatches:
        raise MemoryFileError(f"{path} does not fit: {'; '.join(mismatches)}. {ENCODE_AGAIN}")
    try:
        return _build_memory(predictor, metadata, tensors)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise MemoryFileError(f"{path} is not a valid memory ({error}). {ENCODE_AGAIN}") from error


def _build_metadata(predictor: VideoPredictor, memory: VideoMemory) -> MemoryMetadata:
    is_video = memory.stream is not None
    return MemoryMetadata(
        source=memory.source,
        duration_seconds=memory.duration_seconds,
        num_placeholders=memory.num_placeholders,
        seconds=memory.seconds,
        files_digest=memory.files_digest,
        is_video=is_video,
        grids=[list(vars(grid).values()) for grid in memory.repository.grids],
        thumbnail_seconds=[seconds for seconds, _ in memory.thumbnails],
        thumbnail_bytes=[len(jpeg) for _, jpeg in memory.thumbnails],
        config=_config(predictor, is_video),
        weights_digest=predictor.weights_digest,
        subtitles=[(one.start_seconds, one.end_seconds, one.text) for one in memory.subtitles],
    )


def _config(predictor: VideoPredictor, is_video: bool) -> dict[str, Any]:
    precision = precision_name(predictor.model.frame_newline.dtype)
    keys = FEATURE_KEYS if is_video else IMAGE_FEATURE_KEYS
    return {"serving.precision": precision, **feature_config(predictor.config, keys)}


def _quantize(tokens: Tensor, precision: str) -> dict[str, Tensor]:
    """Return tokens `(..., dim)` as they are stored."""
    if precision == "int8":
        quantized, scales = quantize_int8(tokens)  # (..., dim), (...)
        return {"tokens": quantized, "scales": scales}
    return {"tokens": tokens.bfloat16() if precision == "bf16" else tokens}  # (..., dim)


def _checksum(metadata: str, tensors: Mapping[str, Tensor]) -> str:
    checksum = crc32(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        checksum = crc32(tensor.view(torch.uint8).numpy().data, crc32(header.encode(), checksum))
    return f"{checksum:08x}"


def _read(path: Path) -> tuple[MemoryMetadata, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
    except (OSError, SafetensorError) as error:
        raise MemoryFileError(
            f"{path} is missing, truncated or not a safetensors file ({error})."
            " Give a saved memory."
        ) from error
    if not {"memory", "crc32"} <= header.keys():
        raise MemoryFileError(
            f"{path} is not a memory of this version: its header has no memory. {ENCODE_AGAIN}"
        )
    if _checksum(header["memory"], tensors) != header["crc32"]:
        raise MemoryFileError(f"{path} is corrupt: its checksum is wrong. {ENCODE_AGAIN}")
    try:
        return MemoryMetadata(**json.loads(header["memory"])), tensors
    except (ValueError, TypeError) as error:
        raise MemoryFileError(
            f"{path} was written by another version ({error}). {ENCODE_AGAIN}"
        ) from error


def _build_memory(
    predictor: VideoPredictor, metadata: MemoryMetadata, tensors: Mapping[str, Tensor]
) -> VideoMemory:
    device, dtype = predictor.device, predictor.model.frame_newline.dtype
    stored = tensors["tokens"].to(device)  # (..., dim)
    if "scales" in tensors:
        tokens = dequantize_int8(stored, tensors["scales"].to(device), dtype)  # (..., dim)
    else:
        tokens = stored.to(dtype)  # (..., dim)
    timestamps = tensors["timestamps"].to(device)  # (frames,)
    if metadata.is_video:
        builder = VideoMemoryBuilder(predictor.model, predictor.processor, len(timestamps))
        builder.append_encoded(tokens, timestamps)
        subtitles = tuple(Subtitle(*subtitle) for subtitle in metadata.subtitles)
        memory = builder.finalize(metadata.duration_seconds, metadata.source, subtitles)
    else:
        grids = tuple(TokenGrid(*grid) for grid in metadata.grids)
        positions = tensors["positions"].to(device)  # (tokens,)
        num_images = metadata.num_placeholders
        repository = MemoryRepository(
            DenseTokens(tokens), positions, grids, timestamps, num_images or 1
        )
        memory = predictor.build_image_memory(repository, num_images, metadata.source)
    offsets = accumulate(metadata.thumbnail_bytes, initial=0)
    content = tensors["thumbnails"].numpy().tobytes()
    jpegs = [content[start:end] for start, end in pairwise(offsets)]
    return replace(
        memory,
        duration_seconds=metadata.duration_seconds,
        seconds=metadata.seconds,
        thumbnails=tuple(zip(metadata.thumbnail_seconds, jpegs, strict=True)),
        files_digest=metadata.files_digest,
    )
