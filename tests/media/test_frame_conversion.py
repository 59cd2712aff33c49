"""Frames are converted as by PyAV's `to_image` and PIL, with buffers that are used again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from PIL import Image
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.frame_conversion import FrameConverter
from tests.media.helpers import noise_image

PATH = Path("video.mp4")


def noise_frame(
    width: int, height: int, pixel_format: str = "yuv420p", seed: int = 0
) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.asarray(noise_image(width, height, seed)), format="rgb24")
    return frame.reformat(format=pixel_format)


def converted_by_pil(frame: VideoFrame, image_size: int) -> Tensor:
    image = frame.to_image().resize((image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())  # (3, size, size)


@pytest.mark.parametrize("width, height", [(64, 48), (101, 67), (32, 32), (1280, 720)])
@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "gray", "rgb24", "gbrp"],
)
def test_frame_converter_equals_pil(width: int, height: int, pixel_format: str) -> None:
    frame = noise_frame(width, height, pixel_format)
    assert torch.equal(FrameConverter(PATH, 32)(frame), converted_by_pil(frame, 32))


def test_frame_converter_reuses_buffers_without_changing_earlier_images() -> None:
    sizes = [(64, 48), (64, 48), (32, 32), (32, 32), (90, 70), (64, 48)]
    frames = [noise_frame(*size, seed=seed) for seed, size in enumerate(sizes)]
    converter = FrameConverter(PATH, 32)  # frames of 32 x 32 are not resized
    images = [converter(frame) for frame in frames]
    for image, frame in zip(images, frames, strict=True):
        assert torch.equal(image, converted_by_pil(frame, 32))


def test_frame_converter_converts_in_several_threads() -> None:
    frames = [noise_frame(320, 240 if seed % 2 else 180, seed=seed) for seed in range(60)]
    expected = [converted_by_pil(frame, 48) for frame in frames]
    with ThreadPoolExecutor(4) as threads:
        images = list(threads.map(FrameConverter(PATH, 48), frames))
    assert all(map(torch.equal, images, expected))


def test_unsupported_pixel_format_is_an_error() -> None:
    with pytest.raises(VideoError, match="the pixel format rgb96le"):
        FrameConverter(PATH, 32)(VideoFrame(64, 48, "rgb96le"))
