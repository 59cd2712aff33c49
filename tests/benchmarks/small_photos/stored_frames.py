"""Encode frames once, for any number of videos that are spliced from their tokens.

Entry point: `encode_frames`. A file holds the frames of the footage, and those of showings: a
photograph over a frame of footage for some seconds, as `lit-hour synthesize --footage` shows it.
Nothing is encoded as video in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.io.atomic import temp_path
from lit_hour.media.splicing.footage import Footage
from lit_hour.media.transforms import resize_image
from lit_hour.media.video_reader import SampledVideo
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.synthetic.footage.footage_story import _draw_motion
from lit_hour.synthetic.footage.photo_library import PhotoLibrary
from lit_hour.synthetic.footage.photo_overlay import PhotoOverlay

FOOTAGE_FPS = 2.0  # stored frames of the footage; a story takes the nearest ones
BACKGROUND_PIXELS = 448  # frames of footage behind photographs, before they get the frame's shape


@dataclass(frozen=True)
class StoredFrames:
    """Tokens of frames by what they show.

    Attributes:
        footage: of each clip, `(frames, tokens, vision_dim)`, `FOOTAGE_FPS` frames per second.
        showings: by path of the photograph; each `(frames, tokens, vision_dim)`, one per second.
    """

    footage: list[Tensor]
    showings: dict[str, list[Tensor]]


def encode_frames(
    file: Path,
    clips: Sequence[Footage],
    library: PhotoLibrary,
    encoder: VisionEncoder,
    config: Config,
    num_showings: int,
) -> StoredFrames:
    """Encode footage and showings of all photographs, or read them from the file of an earlier run.

    Args:
        file: .safetensors to create.
        clips: footage of one frame size.
        library: photographs of one split.
        encoder: frozen.
        config: `video` and `synthetic.footage` are used.
        num_showings: of each photograph, each over another frame and with another motion.
    """
    if not file.exists():
        random = Random(f"showings for {file.name}")
        tensors, backgrounds = {}, []
        for number, clip in enumerate(clips):
            images = list(_read_clip(clip, config, encoder.image_size))
            tensors[f"footage/{number:05d}"] = _encode(encoder, images)
            backgrounds += list(_read_clip(clip, config, BACKGROUND_PIXELS))[::4]
        size = (clips[0].size.width, clips[0].size.height)
        for photos in library.photos.values():
            for path in photos:
                for number in range(num_showings):
                    background = to_pil(random.choice(backgrounds)).resize(size)
                    images = list(_show(path, background, config, encoder.image_size, random))
                    tensors[f"{path}#{number}"] = _encode(encoder, images)
        temp = temp_path(file)
        save_file(tensors, temp)
        temp.rename(file)
    return load_frames(file)


def load_frames(file: Path) -> StoredFrames:
    """Read the frames of `encode_frames`."""
    showings = defaultdict(list)
    loaded = load_file(file)
    for name in sorted(loaded):
        if "#" in name:
            showings[name.rpartition("#")[0]].append(loaded[name])
    footage = [loaded[name] for name in sorted(loaded) if "#" not in name]
    return StoredFrames(footage, dict(showings))


def to_pil(image: Tensor) -> Image.Image:
    """Convert `(3, height, width)` uint8."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _read_clip(clip: Footage, config: Config, size: int) -> Iterator[Tensor]:
    sampling = replace(config.video, fps=FOOTAGE_FPS, min_frames=1, image_size=size)
    for frames in SampledVideo(clip.path, sampling).chunks():
        yield from frames.images


def _show(
    path: Path, background: Image.Image, config: Config, size: int, random: Random
) -> Iterator[Tensor]:
    """Yield a frame per second of a photograph over a frame of footage."""
    settings = config.synthetic.footage
    duration = random.uniform(settings.min_photo_seconds, settings.max_photo_seconds)
    overlay = PhotoOverlay(path, _draw_motion(random), duration)
    seconds = random.random()
    while seconds < duration:
        yield resize_image(overlay.draw(background, seconds), size)
        seconds += 1


@torch.inference_mode()
def _encode(encoder: VisionEncoder, images: list[Tensor]) -> Tensor:
    tokens = encoder.encode_images(torch.stack(images))  # (frames, tokens, vision_dim)
    return tokens.bfloat16().contiguous()
