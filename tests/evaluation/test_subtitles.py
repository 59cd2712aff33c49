"""Subtitles in evaluation: as a benchmark publishes them, or beside the videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hour.errors import ConfigError, QuestionError
from lit_hour.evaluation.benchmarks.longvideobench import read_subtitles
from lit_hour.evaluation.benchmarks.video_mme import add_subtitles
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir
from lit_hour.types import Subtitle
from tests.evaluation.conftest import WriteFiles
from tests.evaluation.helpers import custom_questions, run_evaluate, write_converted
from tests.helpers.subtitles import LINE_SRT, lines_of, record_prompts

SUBTITLES = (Subtitle(1.0, 2.5, "Hi guys,"), Subtitle(2.5, 4.0, "I show you two lines"))
PUBLISHED = [
    {"start": "00:00:01.500", "end": "00:00:03.000", "line": "by &amp; <i>by</i> <image>"},
    {"timestamp": [13.0, 14.5], "text": "times in seconds"},
    {"timestamp": [20.0, None], "text": "to the end"},
    {"start": "00:00:21.000", "end": "00:00:22.000", "line": " "},
]
MANY_FRAMES = ("video.min_frames=1", "video.max_frames=40", "model.memaug.min_frames=1")


def test_video_mme_prompt_with_subtitles_is_the_published_one(write_files: WriteFiles) -> None:
    item = load_benchmark("video_mme", write_files("video_mme"), 0).items[0]
    subtitled = add_subtitles(item, SUBTITLES, [1.0, 3.0])
    assert subtitled.prompt == (
        "This video's subtitles are listed below:\nHi guys,\nI show you two lines\n" + item.prompt
    )
    assert add_subtitles(item, (), [1.0, 3.0]) == item


def test_longvideobench_subtitles_are_read_as_published(
    write_files: WriteFiles, tmp_path: Path
) -> None:
    (path,) = write_files("longvideobench")
    records = json.loads(path.read_text())
    records[0]["starting_timestamp_for_subtitles"] = 1.5
    path.write_text(json.dumps(records))
    item = load_benchmark("longvideobench", [path], 0).items[0]
    assert item.subtitle_file == "86CxyhFV9MI_en.json"
    file = tmp_path / "a_en.json"
    file.write_text(json.dumps(PUBLISHED))
    assert read_subtitles(file, item) == (
        Subtitle(0.0, 1.5, "by & by"),
        Subtitle(11.5, 13.0, "times in seconds"),
        Subtitle(18.5, pytest.approx(188.66), "to the end"),
    )
    file.write_text(json.dumps([*PUBLISHED, {"start": "soon", "end": "later", "line": "x"}, 3]))
    with pytest.raises(QuestionError, match=r"a_en\.json: subtitle 5 has no times or no text"):
        read_subtitles(file, item, max_invalid=1)
    assert len(read_subtitles(file, item, max_invalid=2)) == 3
    file.write_text("[")
    with pytest.raises(QuestionError, match=r"a_en\.json: the subtitles cannot be read"):
        read_subtitles(file, item)


def test_frames_without_texts_between_them_give_the_plain_prompt(
    random_run: RunDir, toy_split: Path
) -> None:
    overrides = ["text.time_sentence=none", *MANY_FRAMES]
    predictor = VideoPredictor.from_run(random_run.path, overrides=overrides)
    memory = predictor.encode_video(next((toy_split / "videos").glob("*.mp4")))
    processor = predictor.processor
    outside = processor.interleave_subtitles(memory.timestamps_seconds, [Subtitle(900, 901, "x")])
    assert len(outside) > 3 and not any(outside)
    plain, alone = (
        predictor.build_prompts(memory, [processor.build_prompt("What?", frame_texts=texts)])
        for texts in ((), outside)
    )
    torch.testing.assert_close(alone.embeddings, plain.embeddings, rtol=0, atol=0)
    shown = [Subtitle(second, second + 0.9, f"Line {second}.") for second in range(30)]
    texts = processor.interleave_subtitles(memory.timestamps_seconds, shown)
    (tokens,) = processor.tokenize(
        [processor.build_prompt("What?", frame_texts=texts)], num_placeholders=1
    )
    with_texts = predictor.build_prompts(
        memory, [processor.build_prompt("What?", frame_texts=texts)]
    )
    num_frames = len(texts) - 1
    num_visual = plain.embeddings.shape[1] - len(
        processor.tokenize([processor.build_prompt("What?")], num_placeholders=0)[0].input_ids
    )
    assert (tokens.input_ids < 0).sum() == num_frames
    assert with_texts.embeddings.shape[1] == len(tokens.input_ids) - num_frames + num_visual - 1


def longvideobench(toy_split: Path, records: list[dict[str, Any]], folder: Path) -> list[str]:
    """Write questions in the layout of LongVideoBench, with subtitles of one video."""
    questions = write_converted("longvideobench", records, folder / "questions")
    content = json.loads(Path(questions).read_text())
    (folder / "subtitles").mkdir()
    for record in content:
        record["subtitle_path"] = f"{Path(record['video_path']).stem}_en.json"
        record["starting_timestamp_for_subtitles"], record["duration"] = 10.0, 30.0
    lines = [{"timestamp": [10.0 + n, 10.9 + n], "text": f"Line {n}."} for n in range(60)]
    (folder / "subtitles" / content[0]["subtitle_path"]).write_text(json.dumps(lines))
    Path(questions).write_text(json.dumps(content))
    return [
        "evaluation.benchmark=longvideobench",
        f"evaluation.questions={questions}",
        f"evaluation.videos={toy_split}/videos",
        f"evaluation.subtitles={folder}/subtitles",
    ]


@pytest.mark.slow
def test_longvideobench_is_evaluated_with_subtitles_between_the_frames(
    random_run: RunDir,
    toy_split: Path,
    choice_records: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = record_prompts(monkeypatch)
    overrides = [*longvideobench(toy_split, choice_records, tmp_path), *MANY_FRAMES]
    report = run_evaluate(random_run, tmp_path / "out", *overrides)
    assert set(report.groups["subtitles"]) == {"with", "none published"} and not report.skipped
    between = [prompt for prompt in prompts if "Line" in prompt]
    assert len(between) == report.groups["subtitles"]["with"].num_questions
    lines, kept = lines_of(between[0]), between[0].count("[frame]")
    assert kept > 2 and len(lines) >= kept - 1  # each frame but the first begins inside a line
    text = between[0][between[0].index("[frame]") : between[0].index("Question:")]
    numbers = [int(line.removeprefix("Line ").rstrip(".")) for line in lines]
    assert numbers == sorted(numbers) and text.startswith("[frame]")
    assert "\nLine" in text and ".\n[frame]" in text
    limited = [*overrides, "text.max_subtitle_tokens=16"]
    prompts.clear()
    run_evaluate(random_run, tmp_path / "limited", *limited)
    few = [lines_of(prompt) for prompt in prompts if "Line" in prompt]
    assert few and all(0 < len(one) < len(lines) for one in few)
    with pytest.raises(ConfigError, match=r"known before the model runs.*not keyframe"):
        run_evaluate(
            random_run, tmp_path / "x", *overrides, "model.memaug.temporal_forgetting=keyframe"
        )


@pytest.mark.slow
@pytest.mark.parametrize("subtitles", ["all", "kept"])
def test_evaluation_takes_the_subtitles_beside_the_videos(
    random_run: RunDir,
    toy_split: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtitles: str,
) -> None:
    videos = Path(shutil.copytree(toy_split / "videos", tmp_path / "videos"))
    first = min(videos.glob("*.mp4"))
    first.with_suffix(".srt").write_text(LINE_SRT)
    prompts = record_prompts(monkeypatch)
    chosen = (f"text.subtitles={subtitles}", *MANY_FRAMES, f"evaluation.videos={videos}")
    report = run_evaluate(random_run, tmp_path / "out", *custom_questions(toy_split, *chosen))
    assert report.protocol["text"]["subtitles"] == subtitles
    found = [lines_of(prompt) for prompt in prompts if "Line" in prompt]
    num_asked = sum(result.video == first.name for result in report.results)
    assert 0 < len(found) == num_asked < len(prompts)
    predictor = VideoPredictor.from_run(random_run.path, overrides=list(chosen[:-1]))
    assert found[0] == lines_of(predictor.encode_video(first).note)
    assert (len(found[0]) == 20) == (subtitles == "all")
    other = max(videos.glob("*.mp4"))
    other.with_suffix(".srt").write_text("no line of times")
    one_bad = [*custom_questions(toy_split, *chosen), "evaluation.max_skipped_questions=100"]
    damaged = run_evaluate(random_run, tmp_path / "one_bad", *one_bad)
    assert {reason for reason in damaged.skipped.values() if other.stem in reason}
    assert damaged.score.num_evaluated == num_asked
    other.with_suffix(".srt").unlink()
    prompts.clear()
    budget = "text.max_subtitle_tokens=60"
    run_evaluate(random_run, tmp_path / "few", *custom_questions(toy_split, *chosen, budget))
    few = [lines_of(prompt) for prompt in prompts if "Line" in prompt]
    assert len(few) == num_asked and 0 < len(few[0]) <= 6 and few[0][0] == found[0][0]
