"""From a folder of videos to shards, with a fake teacher that knows the true answers."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.cli.main import main
from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError
from lit_hour.io.file_lock import dir_lock
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.annotation import fingerprint, read_annotation
from lit_hour.videomarathon.captions import CAPTION_FIELDS
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import (
    CONFIG,
    NOWHERE,
    PACK_OPTIONS,
    FinishedRun,
    SyntheticVideos,
)

Serve = Callable[..., ChatServer]
NAMES = ["garden.mp4", "of a week/monday.mp4"]


def read_kept(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "questions.json").read_text())


def read_dropped(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]


def is_true(videos: SyntheticVideos, video: str, record: dict[str, Any]) -> bool:
    return videos.teacher.is_true(video, record["question"], record["answer"])


# Results


def test_kept_questions_are_true(videos: SyntheticVideos, finished_run: FinishedRun) -> None:
    choices = [question for question in read_kept(finished_run.out) if question["options"]]
    num_true = sum(is_true(videos, question["video"], question) for question in choices)
    assert len(choices) > 60
    assert num_true >= 0.99 * len(choices)
    for question in choices:
        assert question["answer"] in question["options"] and len(set(question["options"])) == 4


def test_wrong_answers_are_dropped_as_contradicted(
    videos: SyntheticVideos, finished_run: FinishedRun
) -> None:
    dropped = read_dropped(finished_run.out)
    contradicted = [draft for draft in dropped if draft["filter"] == "contradicted"]
    assert len(contradicted) > 15
    assert not any(is_true(videos, draft["video"], draft["record"]) for draft in contradicted)


def test_each_filter_drops_its_bad_questions_with_a_reason(
    videos: SyntheticVideos, finished_run: FinishedRun
) -> None:
    dropped = read_dropped(finished_run.out)
    filters = {(draft["video"], draft["record"]["question"]): draft["filter"] for draft in dropped}
    bad_questions = videos.teacher.bad_questions
    for video in NAMES:
        found = {question: filters[video, question] for question in bad_questions}
        assert sorted(found.values()) == sorted(bad_questions.values())
        for question, expected in bad_questions.items():
            # Which of the two near duplicates comes first is random.
            either = {"near_duplicate", "answered_blindly"}
            assert found[question] == expected or {found[question], expected} == either
    assert all(draft["reason"] for draft in dropped)


def test_every_draft_is_kept_or_dropped(finished_run: FinishedRun) -> None:
    num_requests: Counter[str] = Counter()
    for request in finished_run.server.answered:
        if request.kind == "questions":
            text = json.loads(request.body)["messages"][-1]["content"][0]["text"]
            num_requests[text.splitlines()[0].removeprefix("Video: ")] += 1
    assert num_requests == dict.fromkeys(NAMES, len(TASK_OF_KEY))
    ids = [question["id"] for question in read_kept(finished_run.out)]
    ids += [draft["record"]["id"] for draft in read_dropped(finished_run.out)]
    for video in NAMES:
        numbers = sorted(int(id.rpartition("/")[2]) for id in ids if id.startswith(f"{video}/"))
        assert numbers == list(range(len(numbers))) and len(numbers) > 100


def test_tasks_have_questions_in_both_formats(finished_run: FinishedRun) -> None:
    found = {(question["task"], question["format"]) for question in read_kept(finished_run.out)}
    assert sum(question_format == "open_ended" for _, question_format in found) > 18
    assert sum(question_format == "multiple_choice" for _, question_format in found) > 15


def test_position_of_the_right_option_is_uniform(finished_run: FinishedRun) -> None:
    positions = Counter(
        question["options"].index(question["answer"])
        for question in read_kept(finished_run.out)
        if question["options"]
    )
    assert min(positions[index] for index in range(4)) > 0.12 * positions.total()


def test_annotation_holds_captions_events_and_summary(
    videos: SyntheticVideos, finished_run: FinishedRun
) -> None:
    expected = fingerprint(videos.folder / "garden.mp4", "teacher", CONFIG)
    folder = finished_run.out / "videos" / "garden.mp4"
    annotation = read_annotation(folder, expected)
    assert annotation is not None and read_annotation(folder, "another fingerprint") is None
    captions = annotation.captions
    intervals = [(caption["start_seconds"], caption["end_seconds"]) for caption in captions]
    assert intervals == [(0.0, 60.0), (60.0, 120.0)]
    assert all(captions[0][name] for name in CAPTION_FIELDS)
    assert len(annotation.events) >= 3
    assert annotation.summary.startswith("The video of 2 minutes")
    kept = read_kept(finished_run.out)
    assert len(annotation.questions) == sum(record["video"] == "garden.mp4" for record in kept)


def test_damaged_annotation_is_named(
    videos: SyntheticVideos, copied_out: Path, config: VideoMarathonConfig
) -> None:
    path = copied_out / "videos" / "garden.mp4" / "annotation.json"
    for damage in (path.read_text()[:-100], "[]", '{"fingerprint": ""}'):
        path.write_text(damage)
        with pytest.raises(TeacherError, match=r"garden\.mp4/annotation\.json is damaged .*Delete"):
            read_annotation(path.parent, "")
    path.unlink()
    assert annotate(videos.folder, copied_out, [NOWHERE], "teacher", config).unfinished == []


def test_guesses_are_made_without_the_video(finished_run: FinishedRun) -> None:
    guesses = [request.body for request in finished_run.server.answered if request.kind == "guess"]
    assert len(guesses) > 100
    for word in ("garden", "monday", "image_url", "Parts"):
        assert not any(word in body for body in guesses), word


def test_totals_equal_the_files(finished_run: FinishedRun) -> None:
    totals = json.loads((finished_run.out / "totals.json").read_text())
    kept, dropped = read_kept(finished_run.out), read_dropped(finished_run.out)
    by_format = {name: sum(counts.values()) for name, counts in totals["num_questions"].items()}
    assert by_format == Counter(question["format"] for question in kept)
    assert totals["num_dropped"] == Counter(draft["filter"] for draft in dropped)
    assert totals["num_videos"] == 2
    assert (totals["unfinished"], totals["failed"], totals["skipped"]) == ([], {}, {})
    answered = finished_run.server.answered
    assert totals["num_responses"] == len(answered) == finished_run.server.num_requests
    assert totals["prompt_tokens"] == sum(len(request.body) // 4 for request in answered)


def test_annotate_and_pack_by_command_line(
    videos: SyntheticVideos, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, out = serve(), tmp_path / "out"
    overrides = [
        "videomarathon.image_size=32",
        "videomarathon.filters.blind_trials=0",
        "videomarathon.client.prompt_price=2.5",
    ]
    options = ["--teacher", server.url, "--model", "teacher"]
    main(["annotate", str(videos.folder), str(out), *options, *overrides])
    printed = capsys.readouterr().out
    assert "2 videos (0.07 hours)" in printed and "repeated_options" in printed
    cost = json.loads((out / "totals.json").read_text())["prompt_tokens"] * 2.5e-6
    assert cost > 0.1 and f"cost {cost:.2f}" in printed
    command = printed.splitlines()[-1].removeprefix("to pack them: lit-hour ")
    assert command == f"pack {videos.folder} {out}/questions.json {out}/shards"
    main([*command.split(), *PACK_OPTIONS])
    assert f"{len(read_kept(out))} questions" in capsys.readouterr().out


# Resuming


def test_finished_folder_sends_no_request(
    videos: SyntheticVideos, copied_out: Path, config: VideoMarathonConfig
) -> None:
    before = (copied_out / "questions.json").read_bytes()
    annotate(videos.folder, copied_out, [NOWHERE], "teacher", config)
    assert (copied_out / "questions.json").read_bytes() == before


@pytest.mark.slow
def test_changed_filters_reuse_cached_responses(
    videos: SyntheticVideos,
    finished_run: FinishedRun,
    config: VideoMarathonConfig,
    copied_out: Path,
) -> None:
    loose = replace(config, filters=replace(config.filters, max_blind_accuracy=1.0))
    counts = []
    for changed in (loose, config):
        totals = annotate(videos.folder, copied_out, [NOWHERE], "teacher", changed)
        counts.append(totals.num_questions["multiple_choice"].total())
        assert totals.num_responses == finished_run.totals.num_responses
    assert counts[0] > counts[1]
    assert read_kept(copied_out) == read_kept(finished_run.out)


def test_blind_keep_ratio_of_one_keeps_all_blindly_answered_questions(
    videos: SyntheticVideos, config: VideoMarathonConfig, copied_out: Path
) -> None:
    keep_all = replace(config, filters=replace(config.filters, blind_keep_ratio=1.0))
    totals = annotate(videos.folder, copied_out, [NOWHERE], "teacher", keep_all)
    assert totals.num_dropped["answered_blindly"] == 0


def test_video_locked_by_another_process_is_left_unfinished(
    videos: SyntheticVideos, serve: Serve, config: VideoMarathonConfig, tmp_path: Path
) -> None:
    server = serve()
    with dir_lock(tmp_path / "videos" / "garden.mp4"):
        totals = annotate(videos.folder, tmp_path, [server.url], "teacher", config)
    assert totals.unfinished == ["garden.mp4"] and totals.num_videos == 1
    assert not any("Video: garden" in request.body for request in server.answered)
    totals = annotate(videos.folder, tmp_path, [server.url], "teacher", config)
    assert totals.unfinished == [] and totals.num_videos == 2
    assert len(set(server.keys)) == len(server.keys)


# Faults


def test_server_faults_do_not_change_the_questions(
    videos: SyntheticVideos,
    finished_run: FinishedRun,
    serve: Serve,
    config: VideoMarathonConfig,
    tmp_path: Path,
) -> None:
    faults = ["429", "500", "cut", "not_json", "no_choices", "503"]
    one = serve(fault=lambda number: faults[number // 7 % len(faults)] if number % 7 == 0 else None)
    other = serve(delay_seconds=0.005)
    gone = ChatServer(videos.teacher.answer)
    dying = threading.Timer(1.0, other.die)
    dying.start()
    patient = replace(config, client=replace(config.client, max_retries=50))
    annotate(videos.folder, tmp_path, [one.url, other.url, gone.url], "teacher", patient)
    dying.join()
    assert read_kept(tmp_path) == read_kept(finished_run.out)
    assert one.num_requests > len(one.answered) > 0 < len(other.answered)


def test_useless_responses_are_requested_again(
    videos: SyntheticVideos, serve: Serve, config: VideoMarathonConfig, tmp_path: Path
) -> None:
    faults = ["half", "prose", "schema", "empty"]
    draws = random.Random(0)  # not each ninth: requests that run in step would fail each time
    server = serve(fault=lambda number: draws.choice(faults) if draws.random() < 1 / 9 else None)
    patient = replace(config, max_attempts=12)
    totals = annotate(videos.folder, tmp_path, [server.url], "teacher", patient)
    assert totals.num_videos == 2
    assert len(set(server.keys)) == len(server.keys) == totals.num_responses
    for question in read_kept(tmp_path):
        if question["options"]:
            assert is_true(videos, question["video"], question)


def test_video_with_few_events_is_skipped(
    videos: SyntheticVideos, config: VideoMarathonConfig, copied_out: Path
) -> None:
    strict = replace(config, min_events=10_000)
    totals = annotate(videos.folder, copied_out, [NOWHERE], "teacher", strict)
    assert list(totals.skipped) == NAMES
    assert "fewer than videomarathon.min_events=10000" in totals.skipped["garden.mp4"]
    assert read_kept(copied_out) == [] and totals.num_videos == 0


def test_failed_video_stops_the_run_unless_allowed(
    videos: SyntheticVideos, serve: Serve, config: VideoMarathonConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    (folder / "garden.mp4").symlink_to(videos.folder / "garden.mp4")
    server = serve()
    message = r"broken\.mp4.* 1 videos failed, more than videomarathon\.max_failed_videos=0\."
    with pytest.raises(TeacherError, match=message):
        annotate(folder, tmp_path / "out", [server.url], "teacher", config)
    tolerant = replace(config, max_failed_videos=1)
    totals = annotate(folder, tmp_path / "out", [server.url], "teacher", tolerant)
    assert list(totals.failed) == ["broken.mp4"] and totals.num_videos == 1
    assert len(set(server.keys)) == len(server.keys)


def test_usage_includes_failed_videos(
    videos: SyntheticVideos, serve: Serve, config: VideoMarathonConfig, tmp_path: Path
) -> None:
    server = serve(fault=lambda number: "prose")
    # One clip per video; the first that fails would cancel requests about others.
    one_clip = replace(config, clip_seconds=120.0, max_failed_videos=2)
    totals = annotate(videos.folder, tmp_path, [server.url], "teacher", one_clip)
    assert sorted(totals.failed) == NAMES and totals.num_videos == 0
    assert totals.num_responses == len(server.answered) == len(NAMES) * config.max_attempts
    assert totals.prompt_tokens == sum(len(request.body) // 4 for request in server.answered)
