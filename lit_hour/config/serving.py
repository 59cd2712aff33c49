"""The settings of what a server keeps in mind, one group of the schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import setting


@dataclass(frozen=True)
class ServingConfig:
    """How the memories of videos are kept between questions."""

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
