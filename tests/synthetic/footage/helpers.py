"""Tiny footage and photographs of one color each; no real picture is part of the project."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.media.helpers import write_moving, write_video

COLORS = {
    "red_thing": (230, 30, 30),
    "green_thing": (30, 230, 30),
    "blue_thing": (30, 30, 230),
    "yellow_thing": (230, 230, 30),
    "cyan_thing": (30, 230, 230),
    "magenta_thing": (230, 30, 230),
}


def write_photos(folder: Path, num_photos: int = 4) -> Path:
    """Write photographs of a few shades of the color that names their category."""
    for category, color in COLORS.items():
        (folder / category).mkdir(parents=True)
        for number in range(num_photos):
            shade = tuple(channel - 5 * number for channel in color)
            image = Image.new("RGB", (40 + 8 * number, 40), shade)
            image.save(folder / category / f"{number}.png")
    return folder


def write_footage(folder: Path) -> Path:
    """Write gray videos: two that can be copied, and one of another codec and shape."""
    (folder / "more").mkdir(parents=True)
    write_moving(folder / "a.mp4", 500, g="25", **{"x264-params": "scenecut=0"})
    write_moving(folder / "more" / "b.mkv", 300, g="50", bf="0")
    gray = [np.full((48, 48, 3), 40 + number, np.uint8) for number in range(100)]
    write_video(folder / "c.mkv", gray, codec="mpeg4")
    return folder
