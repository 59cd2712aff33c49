"""The whole way from a folder of videos to shards, with a teacher whose every word can be checked."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.cli import main
from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError
from lit_hour.io.file_lock import locked
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.annotation import read_annotation
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import FinishedRun, SyntheticVideos

Serve = Callable[..., ChatServer]
NAMES = ["garden.mp4", "of a week/monday.mp4"]


def kept(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "questions.json").read_text())


def dropped(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]


# What comes out


def test_what_is_kept_is_true(films: SyntheticVideos, finished: FinishedRun) -> None:
    choices = [each for each in kept(finished.out) if each["options"]]
    true = [
        each
        for each in choices
        if films.narrator.is_true(each["video"], each["question"], each["answer"])
    ]
    assert len(choices) > 60
    assert len(true) >= 0.99 * len(choices)
    assert all(
        each["answer"] in each["options"] and len(set(each["options"])) == 4 for each in choices
    )


def test_lies_were_told_and_each_was_found(films: SyntheticVideos, finished: FinishedRun) -> None:
    found = [each for each in dropped(finished.out) if each["filter"] == "contradicted"]
    assert len(found) > 15
    for each in found:
        assert not films.narrator.is_true(
            each["video"], each["record"]["question"], each["record"]["answer"]
        )


def test_each_filter_finds_what_is_meant_for_it_and_says_why(
    films: SyntheticVideos, finished: FinishedRun
) -> None:
    names = {
        (each["video"], each["record"]["question"]): each["filter"]
        for each in dropped(finished.out)
    }
    for video in NAMES:
        found = {question: names[video, question] for question in films.narrator.planted}
        assert sorted(found.values()) == sorted(films.narrator.planted.values())
        for question, name in films.narrator.planted.items():
            assert found[question] == name or {found[question], name} == {
                "near_duplicate",
                "answered_blindly",
            }
    assert all(each["reason"] for each in dropped(finished.out))


def test_nothing_is_lost_between_the_teacher_and_the_files(finished: FinishedRun) -> None:
    written: Counter[str] = Counter()
    for each in finished.server.answered:
        if each.form == "questions":
            text = json.loads(each.body)["messages"][-1]["content"][0]["text"]
            written[text.splitlines()[0].removeprefix("Video: ")] += 1
    assert written == dict.fromkeys(NAMES, len(TASK_OF_KEY))
    ids = [each["id"] for each in kept(finished.out)] + [
        each["record"]["id"] for each in dropped(finished.out)
    ]
    for video in NAMES:
        numbers = sorted(int(id.rpartition("/")[2]) for id in ids if id.startswith(f"{video}/"))
        assert numbers == list(range(len(numbers))) and len(numbers) > 100


def test_all_tasks_are_asked_in_both_formats(finished: FinishedRun) -> None:
    asked = {(each["task"], each["format"]) for each in kept(finished.out)}
    assert len({task for task, form in asked if form == "open_ended"}) > 18
    assert len({task for task, form in asked if form == "multiple_choice"}) > 15


def test_the_right_option_has_no_favourite_place(finished: FinishedRun) -> None:
    places = Counter(
        each["options"].index(each["answer"]) for each in kept(finished.out) if each["options"]
    )
    assert min(places[place] for place in range(4)) > 0.12 * places.total()


def test_the_annotation_of_a_video_holds_all_that_was_told(
    films: SyntheticVideos, finished: FinishedRun
) -> None:
    annotation = read_annotation(finished.out / "videos" / "garden.mp4")
    assert [(each["start_seconds"], each["end_seconds"]) for each in annotation.captions] == [
        (0.0, 60.0),
        (60.0, 120.0),
    ]
    assert all(
        annotation.captions[0][side]
        for side in ("temporality", "spatiality", "object", "action", "scene", "overall")
    )
    assert len(annotation.events) >= 3
    assert annotation.summary.startswith("The video of 2 minutes")
    assert len(annotation.questions) == sum(
        each["video"] == "garden.mp4" for each in kept(finished.out)
    )


def test_guesses_are_made_without_the_video(finished: FinishedRun) -> None:
    guesses = [each.body for each in finished.server.answered if each.form == "guess"]
    assert len(guesses) > 100
    assert not any(
        "garden" in body or "monday" in body or "image_url" in body or "Parts" in body
        for body in guesses
    )


def test_the_totals_are_those_of_the_files(finished: FinishedRun) -> None:
    totals = json.loads((finished.out / "totals.json").read_text())
    formats = Counter(each["format"] for each in kept(finished.out))
    assert {
        form: sum(counts.values()) for form, counts in totals["num_questions"].items()
    } == formats
    assert totals["num_dropped"] == Counter(each["filter"] for each in dropped(finished.out))
    assert (totals["num_videos"], totals["unfinished"], totals["failed"], totals["set_aside"]) == (
        2,
        [],
        {},
        {},
    )
    assert totals["num_answers"] == len(finished.server.answered) == finished.server.num_requests
    assert totals["prompt_tokens"] == sum(len(each.body) // 4 for each in finished.server.answered)


def test_from_videos_to_shards_by_two_commands(
    films: SyntheticVideos, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, out = serve(), tmp_path / "out"
    settings = [
        "videomarathon.image_size=32",
        "videomarathon.filters.blind_trials=0",
        "videomarathon.client.prompt_price=2.5",
    ]
    main(
        [
            "annotate",
            str(films.folder),
            str(out),
            "--teacher",
            server.url,
            "--model",
            "narrator",
            *settings,
        ]
    )
    printed = capsys.readouterr().out
    assert "2 videos (0.07 hours)" in printed and "repeated_options" in printed
    cost = json.loads((out / "totals.json").read_text())["prompt_tokens"] * 2.5e-6
    assert cost > 0.1 and f"cost {cost:.2f}" in printed
    command = printed.splitlines()[-1]
    assert (
        command
        == f"to pack them: python -m lit_hour pack {films.folder} {out}/questions.json {out}/shards"
    )
    small = [
        "video.image_size=32",
        "video.min_frames=2",
        "video.max_frames=3",
        "pack.num_workers=1",
    ]
    main([*command.removeprefix("to pack them: python -m lit_hour ").split(), *small])
    assert f"{len(kept(out))} questions" in capsys.readouterr().out


# Going on


def test_a_finished_folder_asks_nothing(
    films: SyntheticVideos, finished: FinishedRun, settings: VideoMarathonConfig
) -> None:
    before = (finished.out / "questions.json").read_bytes()
    annotate(films.folder, finished.out, ["http://127.0.0.1:1/v1"], "narrator", settings)
    assert (finished.out / "questions.json").read_bytes() == before


def test_other_filters_are_applied_to_the_answers_that_are_there(
    films: SyntheticVideos, finished: FinishedRun, settings: VideoMarathonConfig, copied: Path
) -> None:
    loose = replace(settings, filters=replace(settings.filters, max_blind_accuracy=1.0))
    counts = []
    for changed in (loose, settings):
        totals = annotate(films.folder, copied, ["http://127.0.0.1:1/v1"], "narrator", changed)
        counts.append(totals.num_questions["multiple_choice"].total())
        assert totals.num_answers == finished.totals.num_answers
    assert counts[0] > counts[1]
    assert kept(copied) == kept(finished.out)


def test_a_share_of_what_is_answered_blindly_is_kept(
    films: SyntheticVideos, settings: VideoMarathonConfig, copied: Path
) -> None:
    everything = replace(settings, filters=replace(settings.filters, blind_keep_ratio=1.0))
    totals = annotate(films.folder, copied, ["http://127.0.0.1:1/v1"], "narrator", everything)
    assert totals.num_dropped["answered_blindly"] == 0


def test_a_video_that_another_process_is_at_is_left_to_it(
    films: SyntheticVideos, serve: Serve, settings: VideoMarathonConfig, tmp_path: Path
) -> None:
    server = serve()
    with locked(tmp_path / "videos" / "garden.mp4"):
        totals = annotate(films.folder, tmp_path, [server.url], "narrator", settings)
    assert totals.unfinished == ["garden.mp4"] and totals.num_videos == 1
    assert not any("Video: garden" in each.body for each in server.answered)
    totals = annotate(films.folder, tmp_path, [server.url], "narrator", settings)
    assert totals.unfinished == [] and totals.num_videos == 2
    assert len(set(server.keys)) == len(server.keys)


# What goes wrong


def test_a_run_through_every_fault_ends_in_the_same_questions(
    films: SyntheticVideos,
    finished: FinishedRun,
    serve: Serve,
    settings: VideoMarathonConfig,
    tmp_path: Path,
) -> None:
    faults = ["429", "500", "cut", "not_json", "no_choices", "503"]
    one = serve(fault=lambda number: faults[number // 7 % len(faults)] if number % 7 == 0 else None)
    other = serve(delay_seconds=0.005)
    gone = ChatServer(films.narrator.answer)
    dying = threading.Timer(1.5, other.die)
    dying.start()
    patient = replace(settings, client=replace(settings.client, max_retries=50))
    annotate(films.folder, tmp_path, [one.url, other.url, gone.url], "narrator", patient)
    dying.join()
    assert kept(tmp_path) == kept(finished.out)
    assert one.num_requests > len(one.answered) > 0 < len(other.answered)


def test_useless_answers_are_asked_for_again(
    films: SyntheticVideos, serve: Serve, settings: VideoMarathonConfig, tmp_path: Path
) -> None:
    faults = ["half", "prose", "schema", "empty"]
    server = serve(
        fault=lambda number: faults[number // 9 % len(faults)] if number % 9 == 0 else None
    )
    totals = annotate(
        films.folder, tmp_path, [server.url], "narrator", replace(settings, max_attempts=6)
    )
    assert totals.num_videos == 2
    assert len(set(server.keys)) == len(server.keys) == totals.num_answers
    for each in (each for each in kept(tmp_path) if each["options"]):
        assert films.narrator.is_true(each["video"], each["question"], each["answer"])


def test_a_video_with_few_events_is_set_aside(
    films: SyntheticVideos, settings: VideoMarathonConfig, copied: Path
) -> None:
    totals = annotate(
        films.folder,
        copied,
        ["http://127.0.0.1:1/v1"],
        "narrator",
        replace(settings, min_events=10_000),
    )
    assert (
        list(totals.set_aside) == NAMES
        and "fewer than videomarathon.min_events=10000" in totals.set_aside["garden.mp4"]
    )
    assert kept(copied) == [] and totals.num_videos == 0


def test_a_video_that_fails_stops_the_run_unless_it_may_fail(
    films: SyntheticVideos, serve: Serve, settings: VideoMarathonConfig, tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "broken.mp4").write_bytes(b"this is no video")
    (videos / "garden.mp4").symlink_to(films.folder / "garden.mp4")
    server = serve()
    with pytest.raises(
        TeacherError,
        match=r"broken\.mp4.*\(1 videos failed, videomarathon\.max_failed_videos is 0\)",
    ):
        annotate(videos, tmp_path / "out", [server.url], "narrator", settings)
    totals = annotate(
        videos, tmp_path / "out", [server.url], "narrator", replace(settings, max_failed_videos=1)
    )
    assert list(totals.failed) == ["broken.mp4"] and totals.num_videos == 1
    assert len(set(server.keys)) == len(server.keys)


def test_what_was_asked_about_videos_that_fail_is_counted(
    films: SyntheticVideos, serve: Serve, settings: VideoMarathonConfig, tmp_path: Path
) -> None:
    server = serve(fault=lambda number: "prose")
    one_clip_each = replace(
        settings, clip_seconds=120.0, max_failed_videos=2
    )  # or requests are broken off with the first that fails
    totals = annotate(films.folder, tmp_path, [server.url], "narrator", one_clip_each)
    assert sorted(totals.failed) == NAMES and totals.num_videos == 0
    assert totals.num_answers == len(server.answered) == len(NAMES) * settings.max_attempts
    assert totals.prompt_tokens == sum(len(each.body) // 4 for each in server.answered)
