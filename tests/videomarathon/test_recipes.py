"""The recipes of shards/README.md for question files run as they are written there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lit_hour.cli.main import main
from lit_hour.config.load import load_config
from lit_hour.data.shards.reader import open_shards
from lit_hour.data.sources import open_sources
from tests import REPOSITORY
from tests.data.factories import write_video
from tests.videomarathon.test_import_tables import ROWS

WORKER = ["pack.num_workers=1"]
PUBLISHED = "hf://datasets/jylins/videomarathon/data/train-*.parquet"


def run_recipe(title: str) -> None:
    """Run the commands of a recipe; of the training, the opening of its sources."""
    page = (REPOSITORY / "shards/README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"\*\*Recipe: {title}\.\*\*[^*]*?\n\n((?:    .*\n)+)", page)
    programs = []
    for line in block.replace(PUBLISHED, "train-*.parquet").splitlines():
        program, *words = shlex.split(line.replace("-c conf/", f"-c {REPOSITORY}/conf/"))
        programs.append(program)
        if program == "lit-hour":
            main([*words, *(WORKER if words[0] == "pack" else ())])
        else:
            assert words[:2] == ["train.py", "-c"]
            sources = open_sources(load_config([Path(words[2])], words[3:]))
            assert len(sources) == 1 and all(source.entries for source in sources.values())
    assert programs == ["lit-hour", "lit-hour", "python"]


@pytest.fixture(autouse=True)
def work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_question_file_of_another_project(capsys: pytest.CaptureFixture[str]) -> None:
    write_video(Path("VIDEOS/sub/a.mp4"), num_seconds=4)
    turns = [
        {"role": "user", "content": "<video>What is shown?"},
        {"role": "assistant", "content": "A gradient."},
    ]
    records = [{"messages": turns, "videos": ["sub/a.mp4"], "video_start": 1, "video_end": 3}]
    Path("QUESTIONS.json").write_text(json.dumps(records))
    run_recipe("a question file of another project")
    assert "1 shards with 1 videos" in capsys.readouterr().out
    (entry,) = open_shards(Path("mine/shards")).entries
    assert (entry.key, entry.duration_seconds) == ("sub/a-1000-3000", 2.0)


def test_videomarathon(capsys: pytest.CaptureFixture[str]) -> None:
    write_video(Path("VIDEOS/a.mp4"), num_seconds=4)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), "train-0.parquet")
    rows = [{**row, "id": f"{row['id']}-late", "video": "late.mp4"} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "train-1.parquet")
    run_recipe("VideoMarathon")
    assert "1 of 2 videos" in capsys.readouterr().out
    (entry,) = open_shards(Path("marathon/shards")).entries
    assert (entry.key, entry.num_questions) == ("panda/a", 2)
    assert Path("marathon.csv").read_text().count("missing") == 1
