"""Map-style datasets that read, decode and tokenize one sample, and the collate function.

They run in the DataLoader's workers. `load_visual` decodes the images or features of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_hour.config.schema import Config, ImageConfig, TextConfig, VideoConfig
from lit_hour.data.batch_transfer import SentBatch, prepare_to_send
from lit_hour.data.packing.decode_worker import summarize_video
from lit_hour.data.questions.record import drop_partial_placeholders
from lit_hour.data.sample_order import MixedOrder
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.mmap import MmapFeatures
from lit_hour.data.shards.reader import Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.data.shared_arena import empty_shared
from lit_hour.data.training_samples import locate_sample
from lit_hour.errors import ImageError, QuestionError, ShardError, VideoError
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.image_reader import read_image
from lit_hour.media.subtitles import load_video_subtitles
from lit_hour.media.transforms import decode_jpeg, resize_image
from lit_hour.media.video_reader import SampledVideo
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.types import Batch, Example, Features, Frames, Sample, Skipped, Subtitle, Visual

JPEG_SUFFIXES = (".jpg", ".jpeg")
# Reads nothing: an FSDP rank without a sample takes part in the step of the others.
DUMMY_INDEX = -1


@dataclass(frozen=True)
class FetchResult:
    """The result of reading one sample: an example, why there is none, or None for a dummy.

    Attributes:
        position: in the mixed order; None in validation.
    """

    result: Example | Skipped | None
    position: int | None = None


@dataclass(frozen=True)
class TrainingDataset(Dataset[FetchResult]):
    """Training samples by their position in the mixed order.

    A sample is an entry with one or several conversations about a few consecutive questions each.
    """

    sources: Mapping[str, Shards]
    mixed_order: MixedOrder
    processor: HourLLaVAProcessor
    config: Config

    def __getitem__(self, position: int) -> FetchResult:
        source, shard, sample = self.mixed_order[position]
        shards = self.sources[source]
        entry, conversations = locate_sample(shards, shard, sample, self.config)
        example = _read_example(shards, entry, conversations, self.processor, self.config)
        return FetchResult(example, position)

    def describe_location(self, position: int) -> str:
        """Return the shard and the key of a sample."""
        source, shard, sample = self.mixed_order[position]
        shards = self.sources[source]
        entry, _ = locate_sample(shards, shard, sample, self.config)
        return shards.describe_location(entry)


@dataclass(frozen=True)
class ValidationDataset(Dataset[FetchResult]):
    """Entries with up to `data.val_questions_per_video` conversations of one question each.

    The questions are evenly spread over those of the entry. There is nothing for `DUMMY_INDEX`.
    """

    entries: list[tuple[Shards, IndexEntry]]
    processor: HourLLaVAProcessor
    config: Config

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> FetchResult:
        if index == DUMMY_INDEX:
            return FetchResult(None)
        shards, entry = self.entries[index]
        step = -(-entry.num_questions // self.config.data.val_questions_per_video)
        conversations = [
            slice(first, first + 1) for first in range(0, entry.num_questions, max(step, 1))
        ]
        return FetchResult(_read_example(shards, entry, conversations, self.processor, self.config))

    def describe_location(self, index: int) -> str:
        """Return the shard and the key of an entry."""
        shards, entry = self.entries[index]
        return shards.describe_location(entry)


def collate_results(processor: HourLLaVAProcessor, results: list[FetchResult]) -> Batch | SentBatch:
    """Pad the examples into a batch, which also lists the samples that could not be read."""
    examples = [fetched for fetched in results if isinstance(fetched.result, Example)]
    batch = processor.collate(
        [fetched.result for fetched in examples],  # type: ignore[misc]
        positions=[fetched.position for fetched in examples if fetched.position is not None],
        skipped=[fetched.result for fetched in results if isinstance(fetched.result, Skipped)],
    )
    return prepare_to_send(batch)


def _read_example(
    shards: Shards,
    entry: IndexEntry,
    conversations: Sequence[slice],
    processor: HourLLaVAProcessor,
    config: Config,
) -> Example | Skipped:
    """Read an entry once, and tokenize conversations about some of its questions each."""
    try:
        stored = shards.read(entry)
        visual, duration_seconds = load_timed_visual(stored, config.video, config.image)
        subtitles = load_subtitles(stored, processor.config)
    except ShardError as error:
        return Skipped(entry.key, str(error))
    groups = [stored.questions[questions] for questions in conversations]
    if stored.modality == "images":
        groups = [drop_partial_placeholders(group, len(stored.images)) for group in groups]
    texts = tuple(
        build_conversation(group, processor.config, stored.system_prompt) for group in groups
    )
    files = ", ".join(stored.files)
    return processor.build_example(
        Sample(stored.key, files, duration_seconds, visual, texts, subtitles)
    )


def load_subtitles(stored: StoredSample, text: TextConfig) -> tuple[Subtitle, ...]:
    """Return the subtitles of a sample that `text.subtitles` may use: packed, or beside the file.

    Raises:
        ShardError: the file has no subtitles.
    """
    if text.subtitles == "off" or stored.modality != "video":
        return ()
    if stored.video is None or stored.video.content is not None:
        return stored.subtitles
    try:
        return load_video_subtitles(Path(stored.video.name), stored.clip_seconds)
    except QuestionError as error:
        raise ShardError(f"{stored.location}: {error}") from error


def load_visual(stored: StoredSample, video: VideoConfig, image: ImageConfig) -> Visual | None:
    """Decode the visual part of a stored sample; None for a text, and if `video.frames` is "none".

    Raises:
        ShardError: a frame or an image cannot be decoded.
    """
    return load_timed_visual(stored, video, image)[0]


def load_timed_visual(
    stored: StoredSample, video: VideoConfig, image: ImageConfig
) -> tuple[Visual | None, float]:
    """Decode as `load_visual`, and return the duration of the readable part of a video in seconds.

    Raises:
        ShardError: a video, frame or image cannot be decoded.
    """
    if stored.video is not None and video.frames != "none":
        return decode_video(stored.video, stored, video)
    return _load_stored_visual(stored, video, image), stored.duration_seconds


def _load_stored_visual(
    stored: StoredSample, video: VideoConfig, image: ImageConfig
) -> Visual | None:
    if video.frames == "none":
        return None
    try:
        match stored.modality:
            case "video":
                max_frames = 1 if video.frames == "first" else video.max_frames
                if stored.tokens is not None:
                    return load_features(stored, max_frames)
                return load_frames(stored, video.image_size, max_frames)
            case "image":
                ((name, data),) = stored.images
                return load_tiled_image(data, name, video.image_size, image)
            case "images":
                return load_image_set(stored.images, video.image_size)
            case "text":
                return None
    except ImageError as error:
        raise ShardError(f"{stored.location}: {error}") from error


def load_frames(stored: StoredSample, image_size: int, max_frames: int) -> Frames:
    """Decode a video's frames, at most `max_frames` evenly spaced ones.

    Returns:
        `images` `(frames, 3, image_size, image_size)` uint8, `timestamps` `(frames,)` in seconds.

    Raises:
        ShardError: a JPEG cannot be decoded or has another size.
    """
    num_frames = len(stored.images)
    frames = evenly_spaced_indices(num_frames, min(num_frames, max_frames), "exact")
    timestamps = torch.tensor([stored.timestamps_seconds[frame] for frame in frames])  # (frames,)
    return Frames(decode_frames(stored, frames, image_size), timestamps)


def decode_video(
    encoded: EncodedVideo, stored: StoredSample, config: VideoConfig
) -> tuple[Frames, float]:
    """Decode the sampled frames of a video file, as packing does.

    Returns:
        `images` `(frames, 3, image_size, image_size)` uint8 with `timestamps` `(frames,)`, and the
        duration in seconds, or that of the readable part of a damaged video.

    Raises:
        ShardError: the video cannot be decoded.
    """
    try:
        with encoded.open() as path, encoded.rename_warnings(path):
            video = SampledVideo(path, config, clip_seconds=stored.clip_seconds)
            if config.frames == "first":
                del video.timestamps[1:]
            shape = (len(video.timestamps), 3, config.image_size, config.image_size)
            images = empty_shared(shape, torch.uint8)  # (frames, 3, image_size, image_size)
            num_read = 0
            for frames in video.chunks():
                images[num_read : num_read + len(frames)] = frames.images
                num_read += len(frames)
    except VideoError as error:
        raise ShardError(f"{stored.location}: {error}") from error
    summary = summarize_video(video, num_read)
    timestamps = torch.tensor(summary.timestamps_seconds)  # (frames,)
    return Frames(images[:num_read], timestamps), summary.duration_seconds


def load_features(stored: StoredSample, max_frames: int) -> Features:
    """Load a video's features, of at most `max_frames` evenly spaced frames.

    They are bf16 whatever the stored precision. Sending int8 to the GPU would save a few hundredths
    of a second per hour of video, and the model would have to know how tokens are stored.

    Returns:
        `tokens` `(frames, tokens, vision_dim)` bf16, `timestamps` `(frames,)` in seconds.
    """
    assert stored.tokens is not None
    num_frames = len(stored.tokens)
    frames = evenly_spaced_indices(num_frames, min(num_frames, max_frames), "exact")
    timestamps = torch.tensor([stored.timestamps_seconds[frame] for frame in frames])  # (frames,)
    tokens = stored.tokens if len(frames) == num_frames else stored.tokens[frames]
    if tokens.mmap_slice is not None and tokens.scales is None:
        return MmapFeatures(tokens.tokens, timestamps, tokens.mmap_slice)
    return Features(tokens.expand(), timestamps)


def decode_frames(stored: StoredSample, frames: Sequence[int], image_size: int) -> Tensor:
    """Decode some frames of a video: `(frames, 3, image_size, image_size)` uint8.

    Raises:
        ShardError: an image cannot be decoded.
    """
    shape = (len(frames), 3, image_size, image_size)
    images = empty_shared(shape, torch.uint8)  # (frames, 3, image_size, image_size)
    for image, frame in zip(images, frames, strict=True):
        name, content = stored.images[frame]
        try:
            if name.lower().endswith(JPEG_SUFFIXES):
                decode_jpeg(content, image_size, name, image)
            else:
                resize_image(read_image(content, name), image_size, image)
        except (VideoError, ImageError) as error:
            raise ShardError(f"{stored.location}: {name} cannot be decoded: {error}") from error
    return images
