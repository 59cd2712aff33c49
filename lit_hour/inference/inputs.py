"""Input files of a question: one video, one image, several images, or a saved memory.

Entry point: `open_input_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.schema import Config
from lit_hour.errors import ImageError, QuestionError
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.image_reader import image_suffix
from lit_hour.media.video_probe import VideoInfo, probe
from lit_hour.media.video_reader import SampledVideo
from lit_hour.types import ImageSet, TiledImage

MEMORY_SUFFIX = ".safetensors"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # any other file is read as a video


@dataclass(frozen=True)
class InputFiles:
    """Files with valid headers. Frames and pixels are not decoded yet.

    Attributes:
        paths: one video, one or several images, or one saved memory.
        video: header of the video; None for images and for a saved memory.
    """

    paths: tuple[Path, ...]
    video: VideoInfo | None

    def load(self, config: Config) -> SampledVideo | TiledImage | ImageSet:
        """Decode the images, or return the video; its frames are decoded when they are iterated.

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


def open_input_files(files: Sequence[str | Path]) -> InputFiles:
    """Check the headers of the files; this needs no model and takes milliseconds.

    Raises:
        QuestionError: there is no file, or a video is one of several files.
        VideoError: the video cannot be opened.
        ImageError: an image cannot be read, or its header is damaged.
    """
    paths = tuple(map(Path, files))
    videos = [path for path in paths if path.suffix.lower() not in IMAGE_SUFFIXES]
    if not paths or (videos and len(paths) > 1):
        found = f"A video ({videos[0]}) is one of {len(paths)} files" if videos else "No file given"
        raise QuestionError(f"{found}. Give one video, or images ({', '.join(IMAGE_SUFFIXES)}).")
    if videos:
        is_memory = paths[0].suffix == MEMORY_SUFFIX
        return InputFiles(paths, None if is_memory else probe(paths[0]))
    for path in paths:
        image_suffix(_read_image(path), str(path))
    return InputFiles(paths, None)


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read ({error.strerror}). Give the path of an image."
        ) from error
