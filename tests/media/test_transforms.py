"""Rotation, resizing and JPEG."""

import struct
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.transforms import decode_jpeg, encode_jpeg, resize_image


@pytest.fixture
def smooth() -> Tensor:
    """An image `(3, 48, 48)` without sharp edges, which JPEG keeps well."""
    ramp = torch.linspace(0, 255, 48)
    return torch.stack(
        [ramp.expand(48, 48), ramp[:, None].expand(48, 48), torch.full((48, 48), 80.0)]
    ).to(torch.uint8)


def test_resize_image_is_antialiased() -> None:
    stripes = np.zeros((90, 160, 3), np.uint8)
    stripes[:, ::2] = 200  # without antialiasing a shrunk image would be all black or all bright
    small = resize_image(Image.fromarray(stripes), 10)
    assert small.shape == (3, 10, 10) and small.dtype == torch.uint8 and small.is_contiguous()
    assert (small.int() - 100).abs().max() < 12


def test_resize_image_keeps_orientation_and_channels() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40, 0] = 255  # left half red
    image[20:, :, 2] = 255  # lower half blue
    small = resize_image(Image.fromarray(image), 8)
    assert small[:, 1, 1].tolist() == [255, 0, 0] and small[:, 6, 1].tolist() == [255, 0, 255]
    assert small[:, 1, 6].tolist() == [0, 0, 0] and small[:, 6, 6].tolist() == [0, 0, 255]


def test_resize_image_keeps_an_image_of_the_right_size(smooth: Tensor) -> None:
    image = Image.fromarray(smooth.permute(1, 2, 0).numpy())
    assert torch.equal(resize_image(image, 48), smooth)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_resize_image_converts_other_modes_to_rgb(mode: str) -> None:
    assert resize_image(Image.new(mode, (30, 20)), 8).shape == (3, 8, 8)


def test_decode_jpeg_restores_an_encoded_image(smooth: Tensor) -> None:
    back = decode_jpeg(encode_jpeg(smooth, quality=95), 48, "frame")
    assert (back.int() - smooth.int()).abs().float().mean() < 2
    assert len(encode_jpeg(smooth, quality=95)) > len(encode_jpeg(smooth, quality=20))


def test_decode_jpeg_resizes_an_image_of_another_size(smooth: Tensor) -> None:
    assert decode_jpeg(encode_jpeg(smooth, quality=90), 16, "frame").shape == (3, 16, 16)


def test_decode_jpeg_refuses_a_truncated_file_by_name(smooth: Tensor) -> None:
    data = encode_jpeg(smooth, quality=90)
    for length in range(len(data)):
        with pytest.raises(VideoError, match=r"a\.tar: video\.000007\.jpg"):
            decode_jpeg(data[:length], 48, "a.tar: video.000007.jpg")


def test_decode_jpeg_refuses_data_that_is_not_a_jpeg() -> None:
    for data in (b"hello", b"GIF89a" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100)):
        with pytest.raises(VideoError, match="not a valid JPEG"):
            decode_jpeg(data, 48, "frame")


@pytest.mark.parametrize("side", [8_100, 20_000])
def test_decode_jpeg_refuses_a_decompression_bomb_undecoded(smooth: Tensor, side: int) -> None:
    data = encode_jpeg(smooth, quality=90)
    # Start of frame: marker, length, precision, then height and width.
    offset = data.index(b"\xff\xc0") + 5
    bomb = data[:offset] + struct.pack(">HH", side, side) + data[offset + 4 :]
    with pytest.raises(VideoError, match=r"frame has .*pixels"):
        decode_jpeg(bomb, 48, "frame")


def test_decode_jpeg_writes_to_target_only(smooth: Tensor) -> None:
    frames = torch.zeros(3, 3, 48, 48, dtype=torch.uint8)  # (frames, 3, size, size)
    jpeg = encode_jpeg(smooth, quality=95)
    assert decode_jpeg(jpeg, 48, "frame", frames[1]) is not None
    with Image.open(BytesIO(jpeg)) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, size, size)
    assert torch.equal(frames[1], expected) and not frames[[0, 2]].any()
