"""The files that a user asks about -> the video or the pictures in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_hour.config.schema import Config
from lit_hour.errors import ImageError, QuestionError
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.media.image_reader import image_suffix
from lit_hour.media.video_probe import probe
from lit_hour.types import ImageSet, TiledImage

MEMORY_SUFFIX = ".safetensors"  # what was remembered and saved
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # any other file is read as a video


def check_input_files(files: Sequence[Path]) -> None:
    """Refuse what can be refused at a glance, before a model is loaded for it.

    Raises:
        QuestionError: there is no file, or there are several and a video is among them.
        VideoError: the video cannot be opened.
        ImageError: a picture cannot be read, or its header is damaged.
    """
    _check_kinds(files)
    if files[0].suffix == MEMORY_SUFFIX:
        return  # it is read after the model, whose it has to be
    for file in files:
        if _is_image(file):
            image_suffix(_read_image(file), str(file))
        else:
            probe(file)


def open_input_files(files: Sequence[Path], config: Config) -> SampledVideo | TiledImage | ImageSet:
    """The pictures in the files, or the video, whose frames are still to be read.

    Raises:
        QuestionError: there is no file, or there are several and a video is among them.
        VideoError, ImageError: a file cannot be read.
    """
    _check_kinds(files)
    size_pixels = config.video.image_size
    if not _is_image(files[0]):
        return SampledVideo(files[0], config.video)
    if len(files) > 1:
        return load_image_set([(str(file), _read_image(file)) for file in files], size_pixels)
    return load_tiled_image(_read_image(files[0]), str(files[0]), size_pixels, config.image)


def _check_kinds(files: Sequence[Path]) -> None:
    videos = [file for file in files if not _is_image(file)]
    if not files or (videos and len(files) > 1):
        found = f"a video ({videos[0]}) among {len(files)} files" if videos else "no file"
        raise QuestionError(
            f"{found}: ask about one video, or about pictures ({', '.join(IMAGE_SUFFIXES)})"
        )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _read_image(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{file} cannot be read ({error.strerror}); give the path of a picture"
        ) from error
