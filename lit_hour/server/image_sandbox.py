"""Decode the images of clients in a sandboxed subprocess, as `decode_sandbox` does with videos.

Entry point: `decode_images`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import torch

from lit_hour.config.schema import Config
from lit_hour.errors import ImageError
from lit_hour.media.image_reader import MAX_PIXELS
from lit_hour.server import decode_worker
from lit_hour.server.decode_sandbox import WorkerChannel, ram_bytes, start_worker, validation
from lit_hour.server.decode_worker import ResourceLimits
from lit_hour.types import ImageSet, TiledImage


def decode_images(
    paths: Sequence[Path], config: Config, cancelled: Event | None = None
) -> TiledImage | ImageSet:
    """Decode one image into tiles, or several into squares.

    Args:
        paths: of the files.
        config: sizes, and the limits of the server.
        cancelled: stops the decoding when it is set.

    Raises:
        InputError: a file is not an image, is too large, or cannot be decoded within the limits.
        DecodingCancelledError: `cancelled` was set.
    """
    settings, size_pixels = config.serving.server, config.video.image_size
    limits = ResourceLimits(settings.check_timeout_seconds, ram_bytes(settings))
    name = "The image" if len(paths) == 1 else f"One of the {len(paths)} images"
    worker = start_worker(
        decode_worker.decode_images, tuple(paths), limits, size_pixels, config.image
    )
    with worker as connection:
        channel = WorkerChannel(connection, paths[0], name, limits, cancelled or Event())
        message = channel.receive_message("images")
        with validation(name):
            rows, columns = (int(number) for number in message["grid"])
            height, width = (int(number) for number in message["size_pixels"])
        if len(paths) > 1:
            rows, columns = 1, len(paths) - 1
        elif not 1 <= min(rows, columns) <= max(rows, columns) <= config.image.max_grid:
            raise ImageError(f"{name}: its decoder sent a grid of {rows} x {columns} tiles.")
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ImageError(f"{name}: its decoder sent a size of {height} x {width} pixels.")
        shape = (1 + rows * columns, 3, size_pixels, size_pixels)
        pixels = channel.receive_bytes(math.prod(shape))
    if len(pixels) != math.prod(shape):
        raise ImageError(f"{name}: its decoder sent images of another size.")
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
    images = images.view(shape)  # (tiles or images, 3, size, size)
    if len(paths) > 1:
        return ImageSet(images)
    return TiledImage(images, (rows, columns), (height, width))
