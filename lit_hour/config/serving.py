"""The settings of answering, one group of the schema."""

# ruff: noqa: RUF009  (`section` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass

from lit_hour.config.fields import section
from lit_hour.config.server import ServerConfig


@dataclass(frozen=True)
class ServingConfig:
    """How a trained run answers."""

    server: ServerConfig = section(ServerConfig, "answering over HTTP")
