"""Test a run with needles in a user's own video: `run_needle`.

OUT/needle.png      accuracy by length and depth
OUT/needle.json     what was tested, each cell with its interval, the controls, and every answer
OUT/answers.jsonl   answers in the order of their appearance; a stopped test resumes from them

Two controls show what the numbers mean: the answer about the needle alone, without a haystack, and
the answer about each haystack without a needle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lit_hour.errors import InputError, ReportError
from lit_hour.evaluation.needle.cells import count_cells, wilson_interval
from lit_hour.evaluation.needle.haystack import (
    ENCODED_FILE,
    Haystack,
    NeedlePosition,
    find_parts,
    open_haystack_video,
    open_needle,
    temporary_video,
)
from lit_hour.evaluation.needle.heat_map import draw_heat_map
from lit_hour.evaluation.needle.needle_plan import NeedleTest
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory, digest_files
from lit_hour.io.atomic import atomic_write_text, remove_temp_files
from lit_hour.io.file_lock import dir_lock
from lit_hour.io.jsonl import JsonlWriter, read_jsonl
from lit_hour.media.sample_times import sample_timestamps
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, Footage
from lit_hour.text.answer_matching import is_correct
from lit_hour.text.chat_template import format_question
from lit_hour.text.timestamp import format_timestamp

RESULT_FILE, PLOT_FILE, ANSWER_FILE, SETTINGS_FILE = (
    *("needle.json", "needle.png", "answers.jsonl", "settings.json"),
)


def run_needle(predictor: VideoPredictor, test: NeedleTest, out: Path) -> str:
    """Answer about every cell, and write the result; finished answers are kept.

    Returns:
        A summary.

    Raises:
        InputError: a file cannot be read, a needle is too short to be sampled, or `out` has the
            answers of another test.
    """
    with dir_lock(out):
        remove_temp_files(out)
        _check_settings(predictor, test, out)
        footage = open_haystack_video(test.video, out)
        clips = [
            open_needle(needle.path, out, number, footage.size, test.needle_seconds)
            for number, needle in enumerate(test.needles)
        ]
        lengths = test.lengths_seconds or (float(round(footage.end / TICKS_PER_SECOND)),)
        _check_sampling(predictor, test, clips, lengths)
        for length in lengths:  # before the first answer
            find_parts(footage, length, test.num_repeats)
        session = _Session(predictor, test, clips, out)
        session.answer_all(footage, lengths)
        return _write_result(test, session.answers, out)


class _Session:
    """Answers of one test: those that are on disk, and new ones."""

    def __init__(
        self, predictor: VideoPredictor, test: NeedleTest, clips: Sequence[Footage], out: Path
    ) -> None:
        self._predictor, self._test, self._clips, self._out = predictor, test, clips, out
        self.answers = read_jsonl(out / ANSWER_FILE)
        self._done = {_key(answer) for answer in self.answers}
        self._writer = JsonlWriter(out / ANSWER_FILE)

    def answer_all(self, footage: Footage, lengths: Sequence[float]) -> None:
        """Answer what has no answer yet, under a progress bar."""
        test = self._test
        num_videos = len(lengths) * test.num_repeats * (len(test.depths) * len(test.needles) + 1)
        with (
            tqdm(
                total=num_videos + len(test.needles), desc="needles", unit="video", disable=None
            ) as bar,
            self._writer,
        ):
            for number, needle in enumerate(self._clips):
                alone = Haystack(needle, needle.end / TICKS_PER_SECOND)
                self._answer("needle_alone", alone, None, 0.0, [number], {})
                bar.update()
            for length in lengths:
                parts = find_parts(footage, length, test.num_repeats)
                for repeat, first_frame in enumerate(parts):
                    where = {"length_seconds": length, "repeat": repeat}
                    for kind, haystack, clip, depth, numbers in self._videos(
                        footage, length, first_frame
                    ):
                        self._answer(kind, haystack, clip, depth, numbers, where)
                        bar.update()

    def _videos(
        self, footage: Footage, length: float, first_frame: int
    ) -> Iterator[tuple[str, Haystack, Footage | None, float, list[int]]]:
        """Yield the videos of one length and part: without a needle, then with one at a depth."""
        everyone = list(range(len(self._clips)))
        yield "no_needle", Haystack(footage, length, first_frame), None, 0.0, everyone
        for number, clip in enumerate(self._clips):
            haystack = Haystack(footage, length - clip.end / TICKS_PER_SECOND, first_frame)
            for depth in self._test.depths:
                yield "needle", haystack, clip, depth, [number]

    def _answer(
        self,
        kind: str,
        haystack: Haystack,
        clip: Footage | None,
        depth: float,
        numbers: list[int],
        where: dict[str, Any],
    ) -> None:
        """Answer the questions of some needles about one video, unless they are answered."""
        records = [{"kind": kind, "needle": number, "depth": depth, **where} for number in numbers]
        missing = [record for record in records if _key(record) not in self._done]
        if not missing:
            return
        with temporary_video(self._out / "cell.mp4") as path:
            position = haystack.write(path, clip, depth)
            memory = self._predictor.encode_video(path)
        for record in missing:
            text, seconds = self._generate(memory, record["needle"])
            self._store(
                {
                    **record,
                    "answer": text,
                    **_position_record(position, haystack, clip),
                    "num_frames": memory.num_frames,
                    "seconds": round(sum(memory.seconds.values()) + seconds, 3),
                }
            )

    def _generate(self, memory: VideoMemory, number: int) -> tuple[str, float]:
        question = self._test.question(number, "")
        mcq_format = self._predictor.config.text.mcq_format
        pieces = self._predictor.generate(memory, format_question(question, mcq_format))
        (answer,) = (piece for piece in pieces if isinstance(piece, Answer))
        return answer.text.strip(), answer.seconds["first_token"] + answer.seconds["other_tokens"]

    def _store(self, record: dict[str, Any]) -> None:
        self._writer.write(record)
        self._writer.sync()
        self.answers.append(record)
        self._done.add(_key(record))


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    names = ("kind", "needle", "depth", "length_seconds", "repeat")
    return tuple(record.get(name) for name in names)


def _position_record(
    position: NeedlePosition, haystack: Haystack, clip: Footage | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"duration_seconds": position.duration_seconds}
    if clip is not None:
        record |= {"exact_depth": position.depth, "interval": list(position.interval)}
    if haystack.num_repetitions > 1:
        record["num_repetitions"] = haystack.num_repetitions
    return record


def _check_settings(predictor: VideoPredictor, test: NeedleTest, out: Path) -> None:
    """Record what is tested, or compare it with the record in the folder.

    Raises:
        ReportError: the folder has the answers of another test.
    """
    settings = {
        "weights": predictor.weights_digest,
        "video": digest_files([test.video]),
        "needles": [
            {**asdict(needle), "path": digest_files([needle.path])} for needle in test.needles
        ],
        "options": list(test.options),
        "needle_seconds": test.needle_seconds,
        "num_repeats": test.num_repeats,
        "sampling": asdict(predictor.config.video),
        "text": asdict(predictor.config.text),
    }
    settings = json.loads(json.dumps(settings))  # as it reads back, with lists for tuples
    path = out / SETTINGS_FILE
    if path.exists() and (out / ANSWER_FILE).exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if different := [name for name in settings if found.get(name) != settings[name]]:
            raise ReportError(
                f"{out} has the answers of another test: {', '.join(different)} differ. Choose"
                " another --out, or delete the folder."
            )
        return
    (out / ENCODED_FILE).unlink(missing_ok=True)  # may belong to another video
    atomic_write_text(path, json.dumps(settings, indent=1))


def _check_sampling(
    predictor: VideoPredictor, test: NeedleTest, clips: Sequence[Footage], lengths: Sequence[float]
) -> None:
    """Refuse needles that may lie between two sampled frames, or that are longer than a video."""
    config = predictor.config.video
    for needle, clip in zip(test.needles, clips, strict=True):
        seconds = clip.end / TICKS_PER_SECOND
        for length in lengths:
            times = sample_timestamps(length, config.fps, config.min_frames, config.max_frames)
            interval = length / len(times)
            if seconds < min(interval, length) - 1e-6 and len(times) > 1:
                raise InputError(
                    f"{needle.path} is shown for {seconds:.1f} s, but a frame is sampled only every"
                    f" {interval:.1f} s of {format_timestamp(length)}. Raise --seconds, give a"
                    " longer clip, or raise video.fps or video.max_frames."
                )
            if seconds >= length:
                raise InputError(
                    f"{needle.path} is shown for {seconds:.1f} s, so it does not fit into a video"
                    f" of {length:g} s. Give longer --lengths, or lower --seconds."
                )


def _write_result(test: NeedleTest, answers: list[dict[str, Any]], out: Path) -> str:
    """Judge the answers, write JSON and heat map, and return a summary."""
    alone = {item["needle"]: item["answer"] for item in answers if item["kind"] == "needle_alone"}
    truth = [
        alone[number] if needle.answer is None else needle.answer
        for number, needle in enumerate(test.needles)
    ]
    judged = []
    for item in answers:
        question = test.question(item["needle"], truth[item["needle"]])
        judged.append({**item, "is_correct": is_correct(question, item["answer"])})
    cells = count_cells([item for item in judged if item["kind"] == "needle"])
    controls = {
        kind: _control([item["is_correct"] for item in judged if item["kind"] == kind])
        for kind in ("needle_alone", "no_needle")
    }
    result = {
        "video": str(test.video),
        "needles": [
            {"file": str(needle.path), "question": needle.question, "answer": answer}
            for needle, answer in zip(test.needles, truth, strict=True)
        ],
        "options": list(test.options),
        "reference": "given" if test.needles[0].answer is not None else "needle_alone",
        "cells": [cell.record() for cell in cells],
        "controls": controls,
        "answers": judged,
    }
    atomic_write_text(out / RESULT_FILE, json.dumps(result, indent=1))
    num_correct, num_answers = (
        sum(getattr(cell, name) for cell in cells) for name in ("num_correct", "num_answers")
    )
    low, high = wilson_interval(num_correct, num_answers)
    title = f"{test.video.name}: {num_correct} of {num_answers} correct"
    draw_heat_map(cells, title, out / PLOT_FILE)
    lines = [
        f"{num_correct} of {num_answers} answers are correct"
        f" ({num_correct / num_answers:.1%}, 95% interval {low:.1%} to {high:.1%})",
        *_describe_controls(controls),
        *(
            f"  {format_timestamp(cell.length_seconds)}, depth {cell.depth:.0%}:"
            f" {cell.num_correct} of {cell.num_answers}"
            for cell in cells
        ),
    ]
    if test.needles[0].answer is None:
        lines.append("The answers about the needles alone count as correct; give --answer to")
        lines[-1] += " compare with the truth."
    if any("num_repetitions" in item for item in answers):
        lines.append("The video is shorter than some --lengths and was repeated for these.")
    return "\n".join([*lines, f"heat map: {out / PLOT_FILE}", f"answers: {out / RESULT_FILE}"])


def _control(verdicts: list[bool]) -> dict[str, Any]:
    interval = wilson_interval(sum(verdicts), len(verdicts))
    return {"num_answers": len(verdicts), "num_correct": sum(verdicts), "interval": list(interval)}


def _describe_controls(controls: dict[str, dict[str, Any]]) -> Iterator[str]:
    names = {"needle_alone": "the needle alone", "no_needle": "the video without a needle"}
    for kind, name in names.items():
        yield f"  {name}: {controls[kind]['num_correct']} of {controls[kind]['num_answers']}"
