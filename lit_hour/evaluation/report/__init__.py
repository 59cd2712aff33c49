"""Scores of a model on a benchmark: `report` builds them, `compare` sets two side by side."""

from lit_hour.evaluation.report.report import (
    Report,
    build_report,
    read_report,
    write_report,
)
from lit_hour.evaluation.report.result import Result, Score

__all__ = ["Report", "Result", "Score", "build_report", "read_report", "write_report"]
