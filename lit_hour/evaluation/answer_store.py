"""Store every response of an evaluation in a folder right after its generation.

A later start reads the responses back and generates only what is missing. The layout:

    OUT/protocol.json              how the model is evaluated; another protocol is refused
    OUT/answers/000000.jsonl       one file per process, one line per question: id and response,
                                   or id and why it was skipped
    OUT/frames/HASH/00034.50.jpg   some frames of each video, by the hash of its name and the second
    OUT/judge.jsonl                answers of the judge by the hash of the request, if there is one
    OUT/report.json, report.html   written when all questions are done
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_hour.config.diff import diff_settings
from lit_hour.errors import ReportError
from lit_hour.evaluation.report.text import REPORT_NAME
from lit_hour.io.atomic import atomic_write_text
from lit_hour.io.jsonl import JsonlWriter, read_jsonl
from lit_hour.types import Thumbnail

FORMAT = 2  # of protocol.json and answers/; the keys of format 1 had other names
OTHER_FOLDER = "Pass another folder with --out"


class AnswerStore:
    """The folder of one evaluation; each process appends to a file of its own."""

    def __init__(self, path: Path) -> None:
        """Name the files in a folder, which need not exist."""
        self.path = path
        self.answers_dir = path / "answers"
        self.report_path = path / REPORT_NAME
        self.judge_path = path / "judge.jsonl"
        self.html_path = path / "report.html"
        self._protocol_path = path / "protocol.json"

    def open(self, protocol: Mapping[str, Any]) -> None:
        """Create the folder, or check that its responses have the same protocol.

        Raises:
            ReportError: the folder has responses by another protocol or of another format, or other
                files, or cannot be written.
        """
        protocol = {"format": FORMAT, **protocol}
        if self._protocol_path.is_file():
            self._check_protocol(protocol)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            known = (".lock", self.answers_dir.name)
            others = [file.name for file in self.path.iterdir() if file.name not in known]
            if others:
                raise ReportError(
                    f"{self.path} has {others[0]} in it and no evaluation. {OTHER_FOLDER}."
                )
            atomic_write_text(self._protocol_path, json.dumps(protocol, indent=1) + "\n")
        except OSError as error:
            raise ReportError(
                f"{self.path} cannot be written ({error.strerror}). {OTHER_FOLDER}."
            ) from error

    def _check_protocol(self, protocol: Mapping[str, Any]) -> None:
        try:
            stored = json.loads(self._protocol_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(
                f"{self._protocol_path} cannot be read: {error}. {OTHER_FOLDER}, or delete"
                f" {self.path}."
            ) from error
        number = stored.get("format", 1) if isinstance(stored, dict) else "unknown"
        if number != FORMAT:
            raise ReportError(
                f"{self._protocol_path} has format {number}; this version of lit_hour reads and"
                f" writes format {FORMAT}. {OTHER_FOLDER}, or delete {self.path}."
            )
        if changed := diff_settings(stored, protocol):
            listed = "".join(
                f"\n  {key}: was {old}, is {new}" for key, (old, new) in changed.items()
            )
            raise ReportError(
                f"{self.path} has responses by another protocol. {OTHER_FOLDER}, or delete it."
                f" The differences:{listed}"
            )

    def read(self) -> tuple[dict[str, str], dict[str, str]]:
        """Read the responses by question id, and the reasons why others were skipped.

        A question that was skipped once and answered later counts as answered.

        Raises:
            JsonlError: a file is damaged.
        """
        responses: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for file in sorted(self.answers_dir.glob("*.jsonl")):
            for record in read_jsonl(file):
                if "response" in record:
                    responses[record["id"]] = record["response"]
                else:
                    reasons[record["id"]] = record["skipped"]
        return responses, {key: why for key, why in reasons.items() if key not in responses}

    def writer(self, rank: int) -> JsonlWriter:
        """Open the file that one process appends to."""
        return JsonlWriter(self.answers_dir / f"{rank:06d}.jsonl")

    def save_frames(self, video: str, frames: list[Thumbnail]) -> None:
        """Store some frames of a video for the report."""
        folder = self._frames_dir(video)
        folder.mkdir(parents=True, exist_ok=True)
        for seconds, jpeg in frames:
            (folder / f"{seconds:08.2f}.jpg").write_bytes(jpeg)

    def load_frames(self, video: str) -> list[Thumbnail]:
        """Load the stored frames of a video, in order."""
        files = sorted(self._frames_dir(video).glob("*.jpg"))
        return [(float(file.stem), file.read_bytes()) for file in files]

    def _frames_dir(self, video: str) -> Path:
        return self.path / "frames" / hashlib.sha256(video.encode()).hexdigest()[:16]
