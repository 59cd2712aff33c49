"""Answers as they come in, a folder that keeps each at once out; another start reads them back and asks nothing twice.

OUT/protocol.json              how the model is asked; answers by another protocol are refused
OUT/answers/000000.jsonl       what one process was told, a line for each question: its answer, or why it was not asked
OUT/frames/HASH/00034.50.jpg   of each video some frames to look at, under the hash of its name and the second
OUT/report.json, report.html   once everything was asked
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_hour.errors import ReportError
from lit_hour.evaluation.report.compare import differences
from lit_hour.evaluation.report.text import REPORT_NAME
from lit_hour.io.atomic import write_whole
from lit_hour.io.jsonl import Journal, read_journal
from lit_hour.types import Thumbnail

FORMAT = 2  # of protocol.json and of the journals beside it; format 1 had other keys


class AnswerStore:
    """The folder of one evaluation; several processes fill it, each with a journal of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers_dir, self.report_path, self.html_path = (
            path / "answers",
            path / REPORT_NAME,
            path / "report.html",
        )

    def prepare(self, protocol: Mapping[str, Any]) -> None:
        """Make the folder, or go on with it.

        Raises:
            ReportError: it holds answers that were asked otherwise, or something else; or it cannot be written.
        """
        file = self.path / "protocol.json"
        if file.is_file():
            before = self._read_protocol(file)
            if (number := before.get("format", 1)) != FORMAT:
                raise ReportError(
                    f"{file} has format {number}; this version of lit_hour reads and writes format"
                    f" {FORMAT}. Evaluate into another folder with --out, or delete {self.path}."
                )
            changed = [
                f"{key}: was {old}, is {new}"
                for key, (old, new) in differences(before, {"format": FORMAT, **protocol}).items()
            ]
            if changed:
                listed = "\n  ".join(changed)
                raise ReportError(
                    f"{self.path} holds answers that were asked otherwise: give another folder with --out, or delete it."
                    f" What differs:\n  {listed}"
                )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if others := [
                each.name
                for each in self.path.iterdir()
                if each.name not in (".lock", self.answers_dir.name)
            ]:
                raise ReportError(
                    f"{self.path} holds {others[0]} and no evaluation: give another folder with --out"
                )
            write_whole(file, json.dumps({"format": FORMAT, **protocol}, indent=1) + "\n")
        except OSError as error:
            raise ReportError(
                f"{self.path} cannot be written ({error.strerror}): give another folder with --out"
            ) from error

    def read(self) -> tuple[dict[str, str], dict[str, str]]:
        """The answers by question id, and why others were not asked; what was asked at last counts as asked.

        Raises:
            JournalError: a file of answers was changed by hand.
        """
        answers: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for file in sorted(self.answers_dir.glob("*.jsonl")):
            for record in read_journal(file):
                if "response" in record:
                    answers[record["id"]] = record["response"]
                else:
                    reasons[record["id"]] = record["skipped"]
        return answers, {key: reason for key, reason in reasons.items() if key not in answers}

    def journal(self, rank: int) -> Journal:
        """Where one process writes down what it was told."""
        return Journal(self.answers_dir / f"{rank:06d}.jsonl")

    def save_frames(self, video: str, pictures: list[Thumbnail]) -> None:
        """Keep some frames of a video."""
        folder = self._pictures(video)
        folder.mkdir(parents=True, exist_ok=True)
        for seconds, jpeg in pictures:
            (folder / f"{seconds:08.2f}.jpg").write_bytes(jpeg)

    def load_frames(self, video: str) -> list[Thumbnail]:
        """The frames of a video that were kept, in order."""
        return [
            (float(file.stem), file.read_bytes())
            for file in sorted(self._pictures(video).glob("*.jpg"))
        ]

    def _pictures(self, video: str) -> Path:
        return self.path / "frames" / hashlib.sha256(video.encode()).hexdigest()[:16]

    def _read_protocol(self, file: Path) -> dict[str, Any]:
        try:
            protocol = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(
                f"{file} cannot be read: {error}; delete {self.path}, or give another with --out"
            ) from error
        if not isinstance(protocol, dict):
            raise ReportError(
                f"{file} is no protocol; delete {self.path}, or give another with --out"
            )
        return protocol
