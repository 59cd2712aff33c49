"""The settings of answering, one group of the schema: how memories of videos are kept, and the server."""

# ruff: noqa: RUF009  (`setting` and `section` make a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import section, setting
from lit_hour.config.server import ServerConfig


@dataclass(frozen=True)
class ServingConfig:
    """How a trained run answers: how the memories of videos are kept between questions, and what its server takes."""

    memory_precision: Literal["exact", "bf16", "int8"] = setting(
        "exact",
        "numbers of a memory on disk; exact: as they were computed, so that a memory that comes back answers as before; int8:"
        " 8 bits and a scale for each token, a quarter of 32-bit numbers",
    )
    memory_gigabytes: float = setting(
        8.0,
        "memories that are ready to be asked, all together; those that were not asked for longest go to disk",
        above=0,
    )
    memory_folder: str = setting("runs/memories", "folder on disk for the memories that do not fit")
    server: ServerConfig = section(ServerConfig, "answering over HTTP")
