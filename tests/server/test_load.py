"""Fifty clients for a short while; `tests/benchmarks/serving_load.py` does it for ten minutes."""

from pathlib import Path

import pytest

from lit_hour.run_dir import RunDir
from tests.benchmarks.serving_load import SAMPLES, run_load
from tests.server.conftest import OVERRIDES

SECONDS = 12.0
MAX_RISE_MEGABYTES = 60  # of a server that has just started; the benchmark shows that it stays


@pytest.mark.slow
def test_fifty_clients_get_answers_or_honest_refusals(
    random_run: RunDir, clip: bytes, tmp_path: Path
) -> None:
    video = tmp_path / "walk.mp4"
    video.write_bytes(clip)
    result = run_load(random_run.path, video, SECONDS, OVERRIDES)
    assert not result.errors, result.counts
    assert result.counts["answered"] > 20 and result.counts["disconnected"] > 0
    assert result.files_left == []
    assert result.megabytes[-1] - result.megabytes[SAMPLES // 2] < MAX_RISE_MEGABYTES
