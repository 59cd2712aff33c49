"""The world settings in, packed shards out: what the default run trains on."""

from __future__ import annotations

from lit_hour.config.schema import Config
from lit_hour.data.pack import pack
from lit_hour.world.make import World, make_world


def prepare_world(config: Config) -> World:
    """Make the world's videos, as far as they are not there yet, and pack them into `FOLDER/{train,validation}/shards`."""
    world = make_world(config.world)
    for videos, questions in (
        (world.train_videos, world.train_questions),
        (world.validation_videos, world.validation_questions),
    ):
        pack(videos, questions, videos.parent / "shards", config.video, config.pack)
    return world
