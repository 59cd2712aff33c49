"""The videos of a folder in, the part of them that one process of many annotates out: the same one whenever it starts again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_hour.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """One of `num_shares` parts that are about equal; the first has the number 1."""

    number: int = 1
    num_shares: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `3/16`, the third of sixteen.

        Raises:
            ConfigError: it is none.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= share.number <= share.num_shares:
            raise ConfigError(
                f"--share {text} is no share: 1/16 is the first of sixteen and 16/16 the last (sbatch --array=1-16)"
            )
        return share

    def of(self, names: Sequence[str]) -> list[str]:
        """This part of the names: one of every `num_shares`."""
        return list(names[self.number - 1 :: self.num_shares])

    def __str__(self) -> str:
        return f"{self.number}/{self.num_shares}"
