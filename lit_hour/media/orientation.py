"""Make stored frames upright by their display matrix. This module must not import torch."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import cast

from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from PIL import Image

Transpose = Image.Transpose
# By whether x and y are exchanged, and then x and y are mirrored.
_TRANSPOSES = {
    (False, False, False): None,
    (False, True, False): Transpose.FLIP_LEFT_RIGHT,
    (False, False, True): Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Transpose.ROTATE_180,
    (True, False, False): Transpose.TRANSPOSE,
    (True, True, False): Transpose.ROTATE_270,
    (True, False, True): Transpose.ROTATE_90,
    (True, True, True): Transpose.TRANSVERSE,
}
_TURNS = (None, Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)  # quarter turns
_SIDEWAYS = (
    Transpose.ROTATE_90,
    Transpose.ROTATE_270,
    Transpose.TRANSPOSE,
    Transpose.TRANSVERSE,
)


def find_transpose(frame: VideoFrame) -> Image.Transpose | None:
    """Return how a stored frame becomes upright, rounded to quarter turns; None if it is.

    Source: libavutil/display.h: a stored pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    try:
        side_data = cast("Mapping[Type, SideData]", frame.side_data)
        matrix = side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # a kind of side data that PyAV does not know, such as of stereo videos
        return _TURNS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _TRANSPOSES[False, a < 0, d < 0]
    return _TRANSPOSES[True, c < 0, b < 0]


def is_sideways(transpose: Image.Transpose | None) -> bool:
    """Return whether width and height are exchanged."""
    return transpose in _SIDEWAYS
