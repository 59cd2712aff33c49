"""A whole needle test: result, heat map, controls, resuming, and wrong input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_hour.cli.main import main
from lit_hour.errors import InputError
from lit_hour.evaluation.needle.needle_plan import NeedleTest, build_needles
from lit_hour.evaluation.needle.run_needle import run_needle
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from tests.inference.helpers import make_predictor
from tests.media.helpers import write_moving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 12 s, a picture and a clip."""
    folder = tmp_path_factory.mktemp("needle")
    write_moving(folder / "film.mp4", 300, g="25")
    write_moving(folder / "clip.mp4", 60, g="25", bf="0")
    Image.new("RGB", (90, 50), (255, 0, 0)).save(folder / "red.png")
    return folder


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


def needle_test(folder: Path, **changed: Any) -> NeedleTest:
    needles = build_needles([folder / "red.png", folder / "clip.mp4"], ["What is it?"], [], [])
    test = NeedleTest(folder / "film.mp4", needles, (), (6.0, 24.0), (0.0, 0.6), 2.0, 1)
    return replace(test, **changed)


def read_result(out: Path) -> dict[str, Any]:
    return json.loads((out / "needle.json").read_text())


def test_every_cell_is_answered_and_the_result_is_complete(
    folder: Path, predictor: VideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    summary = run_needle(predictor, needle_test(folder, num_repeats=2), out)
    result = read_result(out)
    assert [(cell["length_seconds"], cell["depth"]) for cell in result["cells"]] == [
        (6.0, 0.0), (6.0, 0.6), (24.0, 0.0), (24.0, 0.6),
    ]  # fmt: skip
    assert all(cell["num_answers"] == 4 for cell in result["cells"])  # two needles, two parts
    assert result["controls"]["needle_alone"]["num_answers"] == 2
    assert result["controls"]["needle_alone"]["num_correct"] == 2  # its answers are the reference
    assert result["controls"]["no_needle"]["num_answers"] == 8
    for answer in result["answers"]:
        if answer["kind"] == "needle":
            start, end = answer["interval"]
            assert end - start == pytest.approx(2.0, abs=0.1)
            assert answer["duration_seconds"] == pytest.approx(answer["length_seconds"], abs=0.1)
            rest = answer["duration_seconds"] - (end - start)
            assert start / rest == pytest.approx(answer["exact_depth"], abs=1e-3)
            assert answer["exact_depth"] == pytest.approx(answer["depth"], abs=0.006)
    assert (out / "needle.png").read_bytes().startswith(b"\x89PNG")
    assert "was repeated for these" in summary and str(out / "needle.png") in summary
    assert not list(out.glob("cell*"))


def test_answers_equal_those_about_the_same_video_and_a_stopped_test_resumes(
    folder: Path, predictor: VideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, num_encoded = predictor.encode_video, 0

    def encode_few(path: Path) -> VideoMemory:
        nonlocal num_encoded
        num_encoded += 1
        if num_encoded == 6:
            raise KeyboardInterrupt
        return encode(path)

    run_needle(predictor, needle_test(folder), tmp_path / "once")
    monkeypatch.setattr(predictor, "encode_video", encode_few)
    out = tmp_path / "twice"
    with pytest.raises(KeyboardInterrupt):
        run_needle(predictor, needle_test(folder), out)
    assert not list(out.glob("cell*"))
    with (out / "answers.jsonl").open("a") as file:
        file.write('{"kind": "needle", "half of a li')  # as after kill -9
    (out / "cell.mp4.77.unfinished").write_bytes(b"half")
    run_needle(predictor, needle_test(folder), out)
    assert num_encoded == 6 + (2 + 2 + 8) - 5
    once, twice = read_result(tmp_path / "once"), read_result(out)
    for result in (once, twice):
        for answer in result["answers"]:
            del answer["seconds"]
    assert once == twice
    before = num_encoded
    run_needle(predictor, needle_test(folder, depths=(0.0, 0.3, 0.6)), out)
    assert num_encoded == before + 4
    assert len(read_result(out)["cells"]) == 6


def test_answers_of_another_test_are_refused(
    folder: Path, predictor: VideoPredictor, tmp_path: Path
) -> None:
    out, test = tmp_path / "out", needle_test(folder, lengths_seconds=(6.0,))
    run_needle(predictor, test, out)
    for changed, name in (
        (replace(test, needle_seconds=2.5), "needle_seconds"),
        (replace(test, needles=test.needles[:1]), "needles"),
        (replace(test, video=folder / "clip.mp4"), "video"),
    ):
        with pytest.raises(InputError, match=f"answers of another test: {name} differ"):
            run_needle(predictor, changed, out)
    with pytest.raises(InputError, match="answers of another test: weights differ"):
        run_needle(make_predictor(seed=1), test, out)


def test_given_answers_and_options_are_judged(
    folder: Path, predictor: VideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("a dog", "a cat", "a red square")
    needles = build_needles([folder / "red.png"], ["What is it?"], ["a red square"], options)
    test = needle_test(folder, needles=needles, options=options)
    asked: list[str] = []
    replies = iter(["C", "B", "A red square.", "C. a dog", *["a red square"] * 10])

    def generate(self: Any, memory: VideoMemory, question: str) -> tuple[str, float]:
        asked.append(question)
        return next(replies), 0.0

    monkeypatch.setattr("lit_hour.evaluation.needle.run_needle._Session._generate", generate)
    run_needle(predictor, test, tmp_path)
    result = read_result(tmp_path)
    assert [answer["is_correct"] for answer in result["answers"][:5]] == [
        *(True, False, True, False, True)
    ]
    assert result["reference"] == "given"


def test_needles_that_sampling_may_miss_are_refused(
    folder: Path, predictor: VideoPredictor, tmp_path: Path
) -> None:
    few = replace(predictor.config, video=replace(predictor.config.video, max_frames=4))
    coarse = VideoPredictor(few, predictor.model, predictor.processor)
    with pytest.raises(InputError, match=r"a frame is sampled only every 10\.0 s of 00:40"):
        run_needle(coarse, needle_test(folder, lengths_seconds=(40.0,)), tmp_path / "out")
    with pytest.raises(InputError, match="does not fit into a video of 2 s"):
        run_needle(predictor, needle_test(folder, lengths_seconds=(2.0,)), tmp_path / "out")


def test_wrong_arguments_are_refused_in_one_line_before_the_run_is_loaded(
    folder: Path, tmp_path: Path
) -> None:
    film, red = str(folder / "film.mp4"), str(folder / "red.png")
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    (folder / "broken.mp4").write_bytes(b"nothing")
    ask = ["--question", "What?"]
    for words, message in (
        ([film, "--insert", str(folder / "no.png"), *ask], r"no\.png cannot be read"),
        ([film, "--insert", str(folder / "broken.png"), *ask], "not a JPEG, PNG"),
        ([film, "--insert", str(folder / "broken.mp4"), *ask], "cannot be opened as a video"),
        ([red, "--insert", red, *ask], "is not a video"),
        ([str(folder / "no.mp4"), "--insert", red, *ask], "does not exist"),
        ([film, "--insert", red, "--question", " "], "question is empty"),
        ([film, "--insert", red, *ask, *ask], "1 needles have 2 questions"),
        ([film, "--insert", red, *ask, "--answer", "a", "--answer", "b"], "and 2 answers"),
        ([film, "--insert", red, *ask, "--option", "a"], "at least two different texts"),
        ([film, "--insert", red, *ask, "--option", "a", "--option", "b"], "needs an --answer"),
        ([film, "--insert", red, *ask, "--depths", "101"], "Invalid --depths 101"),
        ([film, "--insert", red, *ask, "--lengths", "5"], "Invalid --lengths 5"),
        ([film, "--insert", red, *ask, "--seconds", "0"], "--seconds must be above 0"),
        ([film, "--insert", red, *ask], "There is no run at"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            main(["needle", *words, "--run", str(tmp_path / "no run")])
        assert "\n" not in str(caught.value)
