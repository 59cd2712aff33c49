"""The commands `ask`, `serve` and `evaluate` give the same bytes at each `serving.precision`."""

import json
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir
from tests.evaluation.helpers import custom_questions, run_evaluate
from tests.server.helpers import run_server

LONG_ANSWERS = "generation.max_new_tokens=32"  # long enough to differ between the precisions
MIXED = "training.precision=bf16-mixed"  # must not count


def test_ask_serve_and_evaluate_give_the_same_answers_at_each_precision(
    random_run: RunDir, toy_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    records = json.loads((toy_split / "questions.json").read_text())
    video = min(record["video"] for record in records)
    texts = {
        record["id"]: record["question"]
        for record in records
        if record["video"] == video and not record.get("options")
    }
    texts = dict(list(texts.items())[:3])
    answers_of = {}
    for precision in ("fp32", "bf16"):
        overrides = (f"serving.precision={precision}", LONG_ANSWERS)
        report = run_evaluate(
            random_run,
            tmp_path / precision,
            *custom_questions(toy_split, *overrides, "evaluation.limit=1", MIXED),
        )
        assert report.protocol["compute"]["precision"] == precision
        evaluated = {result.id: result.response for result in report.results}
        predictor = VideoPredictor.from_run(random_run.path, overrides=overrides)
        folder = toy_split / "videos"
        with run_server(predictor, allowed_dirs=[folder]) as server:
            url = (folder / video).as_uri()
            served = {
                key: server.chat(url, text).json()["choices"][0]["message"]["content"].strip()
                for key, text in texts.items()
            }
        assert served == {key: evaluated[key] for key in texts}, precision
        key, text = next(iter(texts.items()))
        capsys.readouterr()
        main(["ask", str(folder / video), text, "--run", str(random_run.path), *overrides])
        assert evaluated[key] in capsys.readouterr().out, precision
        answers_of[precision] = served
    assert len(set(answers_of["fp32"].values())) > 1 and all(answers_of["bf16"].values())
    assert answers_of["fp32"] != answers_of["bf16"]
