"""From the files of a question to the memory of a video or of images.

`check_input_files` checks the files. The `VideoMemory` is built once and shared by all questions
about it; `VideoMemoryBuilder` builds it from a video that comes in chunks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed._functional_collectives as funcol
from torch import Tensor
from torch.distributed import ProcessGroup

from lit_hour.config.schema import Config
from lit_hour.errors import ImageError, QuestionError, VideoError
from lit_hour.media.animated_webp import is_animated_webp
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.image_reader import IMAGE_SUFFIXES, image_suffix
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_probe import VideoInfo, probe
from lit_hour.media.video_reader import SampledVideo
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import MemoryRepository
from lit_hour.model.sharded_memory import ShardedTokens
from lit_hour.model.streaming_repository import StreamingRepository
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Frames, ImageSet, Subtitle, Thumbnail, TiledImage, Video

MEMORY_SUFFIX = ".safetensors"  # of the file of a saved memory
MAX_THUMBNAILS = 6
JPEG_QUALITY = 80


@dataclass(frozen=True)
class InputFiles:
    """Files with valid headers. Frames and pixels are not decoded yet.

    Attributes:
        paths: one video, one or several images, or one saved memory.
        video: header of the video; None for images and for a saved memory.
    """

    paths: tuple[Path, ...]
    video: VideoInfo | None

    @property
    def is_memory(self) -> bool:
        """Return whether the file is a saved memory."""
        return self.paths[0].suffix == MEMORY_SUFFIX

    @property
    def are_images(self) -> bool:
        """Return whether the files are images, not a video or a saved memory."""
        return self.video is None and not self.is_memory

    def open_visual(self, config: Config) -> SampledVideo | TiledImage | ImageSet:
        """Decode the images, or return the video; its `chunks` decode its frames one by one.

        Raises:
            ImageError: an image cannot be decoded.
        """
        if self.video is not None:
            return SampledVideo(self.video, config.video)
        images = [(str(path), _read_image(path)) for path in self.paths]
        if len(images) > 1:
            return load_image_set(images, config.video.image_size)
        ((name, content),) = images
        return load_tiled_image(content, name, config.video.image_size, config.image)


def check_input_files(files: Sequence[str | Path]) -> InputFiles:
    """Check the files; this needs no model, and about half a second per hour of video.

    Raises:
        QuestionError: there is no file, or a video is one of several files.
        VideoError: the video cannot be opened.
        ImageError: an image cannot be read, or its header is damaged.
    """
    paths = tuple(map(Path, files))
    videos = [path for path in paths if _is_video(path)]
    if not paths or (videos and len(paths) > 1):
        found = f"A video ({videos[0]}) is one of {len(paths)} files" if videos else "No file given"
        raise QuestionError(f"{found}. Give one video, or images ({', '.join(IMAGE_SUFFIXES)}).")
    if videos:
        is_memory = paths[0].suffix == MEMORY_SUFFIX
        return InputFiles(paths, None if is_memory else probe(paths[0]))
    for path in paths:
        image_suffix(_read_image(path), str(path))
    return InputFiles(paths, None)


def _is_video(path: Path) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return True
    return path.is_file() and is_animated_webp(path)


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read ({error.strerror}). Give the path of an image."
        ) from error


@dataclass(frozen=True)
class VideoMemory:
    """A video or images, encoded once.

    Attributes:
        source: path or paths, for messages.
        duration_seconds: of the video; 0 for images.
        num_frames: sampled from the video; 0 for images.
        num_placeholders: image tokens in a prompt: 1 for a video, or the number of images.
        note: sentence about the video that is put into each prompt.
        repository: memory repository, with the KV cache of each MemAug block.
        seconds: time spent per part: "decode", "encode".
        thumbnails: frames spread over the video, as JPEG.
        files_digest: SHA-256 of the files; empty without files and after `VideoPredictor.extend`.
        stream: repository to which more frames can be added; None for images.
        timestamps_seconds: of the sampled frames of a video.
        subtitles: of a video, if `text.subtitles` uses them.
    """

    source: str
    duration_seconds: float
    num_frames: int
    num_placeholders: int
    note: str
    repository: MemoryRepository
    seconds: dict[str, float]
    thumbnails: tuple[Thumbnail, ...] = ()
    files_digest: str = ""
    stream: StreamingRepository | None = None
    timestamps_seconds: tuple[float, ...] = ()
    subtitles: tuple[Subtitle, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, with the spare capacity of `stream`, and of the thumbnails."""
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in self._tensors()
        }
        return sum(storages.values()) + sum(len(jpeg) for _, jpeg in self.thumbnails)

    def _tensors(self) -> list[Tensor]:
        repository = self.repository
        memory = repository.memory
        tokens = memory.tensor if isinstance(memory, ShardedTokens) else repository.tokens
        tensors = [tokens, repository.positions, repository.timestamps]
        for cache in repository.kv_caches:
            tensors += [cache.keys, cache.values]
        return tensors if self.stream is None else tensors + self.stream.buffers


class VideoMemoryBuilder:
    """Builds the memory of a video chunk by chunk; frames are encoded and not kept.

    Attributes:
        stream: repository of the frames added so far.
        thumbnails: frames spread over the video.
        encode_seconds: time spent in `add`.
    """

    def __init__(
        self,
        model: HourLLaVA,
        processor: HourLLaVAProcessor,
        num_frames: int,
        first_frame: int = 0,
    ) -> None:
        """Args: num_frames: to be added; first_frame: index in the video of the first of them."""
        self.stream = StreamingRepository(model, num_frames, first_frame)
        self.encode_seconds = 0.0
        self.thumbnails: list[Thumbnail] = []
        self._timestamps_seconds: list[float] = []
        self._processor, self._device = processor, model.frame_newline.device
        self._thumbnail_indices = {
            index * (num_frames - 1) // (MAX_THUMBNAILS - 1) for index in range(MAX_THUMBNAILS)
        }

    def append_encoded(self, tokens: Tensor, timestamps: Tensor) -> None:
        """Append frames that were encoded before: `(frames, tokens, dim)`, times `(frames,)`."""
        self.stream.append_encoded(tokens, timestamps)
        self._timestamps_seconds += timestamps.tolist()

    @torch.inference_mode()
    def add(self, video: Video) -> None:
        """Encode the next frames, given as images or as stored features."""
        started, num_before = time.perf_counter(), self.stream.num_frames
        self.stream.append(video.to(self._device))
        self._timestamps_seconds += video.timestamps.tolist()
        if isinstance(video, Frames):
            self.thumbnails += [
                make_thumbnail(video, index)
                for index in range(len(video))
                if num_before + index in self._thumbnail_indices
            ]
        self.encode_seconds += time.perf_counter() - started

    @torch.inference_mode()
    def finalize(
        self,
        duration_seconds: float,
        source: str,
        subtitles: Sequence[Subtitle] = (),
    ) -> VideoMemory:
        """Return the memory of the frames added so far."""
        num_frames, timestamps = self.stream.num_frames, tuple(self._timestamps_seconds)
        return VideoMemory(
            source=source,
            duration_seconds=duration_seconds,
            num_frames=num_frames,
            num_placeholders=1,
            note=self._processor.describe_video(duration_seconds, timestamps, subtitles),
            repository=self.stream.repository(num_frames),
            seconds={"encode": self.encode_seconds},
            thumbnails=tuple(self.thumbnails),
            stream=self.stream,
            timestamps_seconds=timestamps,
            subtitles=tuple(subtitles),
        )

    @torch.inference_mode()
    def finalize_sharded(
        self,
        duration_seconds: float,
        source: str,
        subtitles: Sequence[Subtitle],
        timestamps: Sequence[float],
        group: ProcessGroup,
    ) -> VideoMemory:
        """Return the memory of a video of which this rank was given a part.

        Args:
            duration_seconds: of the video.
            source: its path.
            subtitles: of the video.
            timestamps: of the frames of all ranks.
            group: the ranks.

        Raises:
            VideoError: a rank could not read all of its frames.
        """
        num_read = torch.tensor(self.stream.num_frames, device=self._device)  # ()
        num_read = funcol.all_reduce(num_read, "sum", group)
        if int(num_read) != len(timestamps):
            raise VideoError(
                f"{source} is damaged: {int(num_read)} of {len(timestamps)} frames can be read. Set"
                " model.memaug.shard_memory=false to use these."
            )
        times = torch.tensor(timestamps, dtype=torch.float32, device=self._device)  # (frames,)
        return VideoMemory(
            source=source,
            duration_seconds=duration_seconds,
            num_frames=len(timestamps),
            num_placeholders=1,
            note=self._processor.describe_video(duration_seconds, timestamps, subtitles),
            repository=self.stream.sharded_repository(times, group),
            seconds={"encode": self.encode_seconds},
            thumbnails=tuple(self.thumbnails),
            timestamps_seconds=tuple(timestamps),
            subtitles=tuple(subtitles),
        )


def check_continuation(
    memory: VideoMemory, video: Video, duration_seconds: float, max_frames: int
) -> StreamingRepository:
    """Return the stream of a memory if the frames of `video` may follow those it has.

    Raises:
        QuestionError: the memory is one of images.
        VideoError: the times are not later than those before, or there are too many frames.
    """
    if memory.stream is None and memory.num_frames:
        raise QuestionError(
            f"The memory of {memory.source} is divided over ranks and cannot be extended. Encode"
            " the longer video."
        )
    if memory.stream is None:
        raise QuestionError(
            f"{memory.source} is not a video. Only the memory of a video can be extended."
        )
    num_frames = memory.num_frames + len(video)
    if num_frames > max_frames:
        raise VideoError(
            f"{memory.source} would have {num_frames} frames, more than"
            f" video.max_frames={max_frames}. Raise it, or start a new memory."
        )
    seconds = [*memory.repository.timestamps[-1:].tolist(), *video.timestamps.tolist()]
    is_increasing = all(earlier < later for earlier, later in pairwise(seconds))
    if len(video) == 0 or not is_increasing or seconds[-1] >= duration_seconds:
        times = f"from {seconds[1]} to {seconds[-1]} s" if len(video) else "none"
        raise VideoError(
            f"The frames to add to {memory.source} ({times}) must have increasing times after"
            f" {seconds[0]} s, its last frame, and before {duration_seconds} s, its new end."
        )
    return memory.stream


def digest_files(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def make_thumbnail(frames: Frames, index: int) -> Thumbnail:
    """Return the time of a frame, and the frame as JPEG."""
    jpeg = encode_jpeg(frames.images[index].cpu(), JPEG_QUALITY)
    return float(frames.timestamps[index]), jpeg


def subsample_thumbnails(thumbnails: Sequence[Thumbnail]) -> tuple[Thumbnail, ...]:
    """Drop thumbnails that are close to others until at most `MAX_THUMBNAILS` are left.

    The first and the last one are kept.
    """
    kept = list(thumbnails)
    while len(kept) > MAX_THUMBNAILS:
        gaps = [kept[index + 1][0] - kept[index - 1][0] for index in range(1, len(kept) - 1)]
        kept.pop(1 + gaps.index(min(gaps)))
    return tuple(kept)
