"""A report in, one JSON file out, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_hour.errors import ReportError
from lit_hour.evaluation.report import Report, Result, Score
from lit_hour.whole import write_whole

FORMAT = 1


def write_report(report: Report, file: Path) -> None:
    """Write the report as JSON, which `read_report` reads back; the file is whole or not there."""
    write_whole(file, json.dumps({"format": FORMAT, **asdict(report)}, indent=1) + "\n")


def read_report(file: Path) -> Report:
    """Read a report that `write_report` wrote.

    Raises:
        ReportError: the file cannot be read or holds no report of this format.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.pop("format") != FORMAT:
            raise ReportError(f"{file} is a report of another format than {FORMAT}")
        record["score"] = _read_score(record["score"])
        record["groups"] = {
            grouping: {value: _read_score(score) for value, score in scores.items()}
            for grouping, scores in record["groups"].items()
        }
        record["results"] = tuple(Result(**result) for result in record["results"])
        return Report(**record)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{file}: the report cannot be read: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{file} is no report of an evaluation: {error!r}") from error


def _read_score(record: dict[str, Any]) -> Score:
    interval = record["interval"]
    return Score(**{**record, "interval": None if interval is None else (interval[0], interval[1])})
