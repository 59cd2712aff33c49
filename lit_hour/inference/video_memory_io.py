"""A memory <-> a safetensors file, which is only read by a predictor that would remember the same.

    tokens       what the projector made of each frame (frames, tokens, dim), or of pictures (tokens, dim), as
                 `serving.memory_precision` has it; what MemAug makes of them is computed again
    scales       one for each token, with int8
    timestamps   (frames,) float32
    positions    of pictures (tokens,) int64
    pictures     the bytes of the JPEGs, one after the other
    __metadata__ `about`: a `Description` as JSON; `crc32`: of it and of all tensors in the order of their names

Source: the safetensors format; any of its readers can open the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.data.features.format import (
    PICTURE_SETTINGS,
    VIDEO_SETTINGS,
    deciding_settings,
    describe_differences,
)
from lit_hour.errors import MemoryFileError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory, build_video_memory, digest_files
from lit_hour.io.atomic import whole_file
from lit_hour.io.quantize import from_eight_bits, to_eight_bits
from lit_hour.model.memory_repository import MemoryRepository, TokenGrid
from lit_hour.model.streaming_repository import StreamingRepository


@dataclass(frozen=True)
class MemoryMetadata:
    """What a file says of its memory.

    Attributes:
        source, duration_seconds, num_placeholders, seconds, digest: as `Memory` has them.
        is_video: whether more may be added.
        rasters: of pictures, each as `TokenGrid` has it.
        picture_seconds, picture_bytes: the time and the length of each picture to look at.
        settings: those that decide the tokens, under their full names.
        weights: SHA-256 of those that decide the tokens.
    """

    source: str
    duration_seconds: float
    num_placeholders: int
    seconds: dict[str, float]
    files_digest: str
    is_video: bool
    rasters: list[list[Any]]
    thumbnail_seconds: list[float]
    thumbnail_bytes: list[int]
    config: dict[str, Any]
    weights_digest: str


def save_memory(predictor: VideoPredictor, memory: VideoMemory, path: Path) -> None:
    """Write a memory to disk, whole or not at all, in the precision that `serving.memory_precision` says.

    Raises:
        MemoryFileError: the disk is full, or cannot be written.
    """
    growing, repository = memory.stream, memory.repository
    timestamps = repository.timestamps  # (frames,)
    if growing is None:
        tensors = {
            "positions": repository.positions,
            **_stored(repository.tokens, predictor.config.serving.memory_precision),
        }
    else:
        tokens, timestamps = growing.encoded(memory.num_frames)  # (frames, tokens, dim), (frames,)
        tensors = _stored(tokens, predictor.config.serving.memory_precision)
    pictures = torch.frombuffer(
        bytearray(b"".join(jpeg for _, jpeg in memory.thumbnails) or b"\0"), dtype=torch.uint8
    )  # (bytes,)
    tensors = {**tensors, "timestamps": timestamps, "pictures": pictures}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    about = json.dumps(asdict(_describe(predictor, memory)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            save_file(tensors, unfinished, {"about": about, "crc32": _checksum(about, tensors)})
    except (OSError, SafetensorError) as error:
        raise MemoryFileError(
            f"{path} could not be written ({error}): make room there, or save elsewhere"
        ) from error


def load_memory(predictor: VideoPredictor, path: Path, files: Sequence[Path] = ()) -> VideoMemory:
    """Read a memory from disk, as if its video or pictures had just been remembered.

    Args:
        files: what it has to be the memory of; not compared if not given.

    Raises:
        MemoryFileError: the file is missing or damaged, or another model, other settings or other files made it.
    """
    about, tensors = _read(path)
    differences = describe_differences(about.config, _settings(predictor, about.is_video))
    if about.weights_digest != predictor.weights_digest:
        differences.append(
            f"the model had other weights (SHA-256 {about.weights_digest[:12]}, now {predictor.weights_digest[:12]})"
        )
    if files and about.files_digest != digest_files(files):
        differences.append(
            f"it is the memory of {about.source}, and {', '.join(map(str, files))} holds something else"
        )
    if differences:
        raise MemoryFileError(
            f"{path} does not fit: {'; '.join(differences)}. Remember the video again"
        )
    try:
        return _memory_of(predictor, about, tensors)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MemoryFileError(
            f"{path} is no memory: its parts do not belong together ({error})"
        ) from error


def _describe(predictor: VideoPredictor, memory: VideoMemory) -> MemoryMetadata:
    is_video = memory.stream is not None
    return MemoryMetadata(
        source=memory.source,
        duration_seconds=memory.duration_seconds,
        num_placeholders=memory.num_placeholders,
        seconds=memory.seconds,
        files_digest=memory.files_digest,
        is_video=is_video,
        rasters=[list(vars(raster).values()) for raster in memory.repository.grids],
        thumbnail_seconds=[seconds for seconds, _ in memory.thumbnails],
        thumbnail_bytes=[len(jpeg) for _, jpeg in memory.thumbnails],
        config=_settings(predictor, is_video),
        weights_digest=predictor.weights_digest,
    )


def _settings(predictor: VideoPredictor, is_video: bool) -> dict[str, Any]:
    return deciding_settings(predictor.config, VIDEO_SETTINGS if is_video else PICTURE_SETTINGS)


def _stored(tokens: Tensor, precision: str) -> dict[str, Tensor]:
    """Tokens `(..., dim)` as they are stored."""
    if precision == "int8":
        rounded, scales = to_eight_bits(tokens)  # (..., dim), (...)
        return {"tokens": rounded, "scales": scales}
    return {"tokens": tokens.bfloat16() if precision == "bf16" else tokens}  # (..., dim)


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> str:
    checksum = crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        described = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        checksum = crc32(tensor.view(torch.uint8).numpy().data, crc32(described.encode(), checksum))
    return f"{checksum:08x}"


def _read(path: Path) -> tuple[MemoryMetadata, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no dictionary)
    except (OSError, SafetensorError) as error:
        raise MemoryFileError(
            f"{path} is missing, cut off or no safetensors file ({error}): give a saved memory"
        ) from error
    if not {"about", "crc32"} <= metadata.keys():
        raise MemoryFileError(
            f"{path} is no memory: it does not say of what; give a file that save_memory has written"
        )
    if _checksum(metadata["about"], tensors) != metadata["crc32"]:
        raise MemoryFileError(
            f"{path} is damaged: its bytes are not those that its checksum is of; remember the video again"
        )
    try:
        return MemoryMetadata(**json.loads(metadata["about"])), tensors
    except (ValueError, TypeError) as error:
        raise MemoryFileError(
            f"{path} was written by another version ({error}): remember the video again"
        ) from error


def _memory_of(
    predictor: VideoPredictor, about: MemoryMetadata, tensors: Mapping[str, Tensor]
) -> VideoMemory:
    stored, dtype = (
        tensors["tokens"].to(predictor.device),
        predictor.model.frame_newline.dtype,
    )  # (..., dim)
    scales = tensors["scales"].to(predictor.device) if "scales" in tensors else None  # (...)
    tokens = (
        stored.to(dtype) if scales is None else from_eight_bits(stored, scales, dtype)
    )  # (..., dim)
    timestamps = tensors["timestamps"].to(predictor.device)  # (frames,)
    if about.is_video:
        growing = StreamingRepository(predictor.model, len(timestamps))
        growing.append_encoded(tokens, timestamps)
        memory = build_video_memory(
            growing, predictor.processor, about.duration_seconds, about.source
        )
    else:
        rasters = tuple(TokenGrid(*raster) for raster in about.rasters)
        positions = tensors["positions"].to(predictor.device)  # (tokens,)
        repository = MemoryRepository(tokens, positions, rasters, timestamps, about.num_placeholders or 1)
        memory = predictor.build_image_memory(repository, about.num_placeholders, about.source)
    ends = accumulate(about.thumbnail_bytes, initial=0)
    content = tensors["pictures"].numpy().tobytes()
    pictures = [content[start:end] for start, end in pairwise(ends)]
    return replace(
        memory,
        duration_seconds=about.duration_seconds,
        seconds=about.seconds,
        thumbnails=tuple(zip(about.thumbnail_seconds, pictures, strict=True)),
        files_digest=about.files_digest,
    )
