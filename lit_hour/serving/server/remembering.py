"""A file that a stranger made -> what is remembered of it: decoded apart, encoded on the thread of the model chunk by chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import torch

from lit_hour.config.server import ServerConfig
from lit_hour.serving.memory import Memory
from lit_hour.serving.recollection import Recollection
from lit_hour.serving.server.decoding import decode_apart
from lit_hour.serving.server.limits import ModelThread
from lit_hour.serving.session import Session
from lit_hour.types import Frames


@dataclass
class Reading:
    """How far a video was read.

    Attributes:
        num_frames: that will be read; 0 until that is known.
        notes: what was warned of.
    """

    num_frames: int = 0
    frames_read: int = 0
    started: float = 0.0
    notes: list[str] = field(default_factory=list)

    def seconds_left(self) -> float | None:
        """As long as the frames that are left will take at the pace so far; None until there is a pace."""
        if not self.frames_read:
            return None
        return (time.monotonic() - self.started) / self.frames_read * (self.num_frames - self.frames_read)


def remember_apart(
    session: Session, model: ModelThread, settings: ServerConfig, path: Path, name: str, reading: Reading, cancelled: Event
) -> Memory:
    """Remember a video, and tell `reading` how far it is.

    Raises:
        VideoError: the file cannot be read.
        CancelledDecodingError: `cancelled` was set meanwhile.
    """
    chunk_frames = session.config.model.vision.chunk_frames
    reading.started, encode_seconds = time.monotonic(), 0.0
    with decode_apart(path, name, session.config.video, chunk_frames, settings, cancelled) as video:
        reading.num_frames = video.num_frames
        recollection = model.submit(_begin, session, video.num_frames).result()
        for frames in video.chunks():
            decoded = time.monotonic()
            model.submit(_encode, session, recollection, frames).result()
            encode_seconds += time.monotonic() - decoded
            reading.frames_read = recollection.num_seen
    decode_seconds = time.monotonic() - reading.started - encode_seconds
    reading.notes = video.notes
    memory = model.submit(_keep, session, recollection, video.duration_seconds, name).result()
    return replace(memory, seconds={"decode": decode_seconds, "encode": encode_seconds})


@torch.inference_mode()
def _begin(session: Session, num_frames: int) -> Recollection:
    return Recollection(session.model, num_frames)


@torch.inference_mode()
def _encode(session: Session, recollection: Recollection, frames: Frames) -> None:
    recollection.add(frames.to(session.device))


@torch.inference_mode()
def _keep(session: Session, recollection: Recollection, duration_seconds: float, name: str) -> Memory:
    return session.keep(recollection, duration_seconds, name)
