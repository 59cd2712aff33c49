"""Seeds that depend on a text alone: the same in every process and on every machine."""

from __future__ import annotations

from hashlib import sha256


def seed_of(text: str, num_bytes: int = 7) -> int:
    """Return the first bytes of a text's SHA-256 as a number; 7 bytes fit into a torch seed."""
    return int.from_bytes(sha256(text.encode()).digest()[:num_bytes], "big")
