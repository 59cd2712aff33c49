"""A model server that others wrote, over HTTP, with a tiny vision-language model, asked about real clips.

It serves two models: `untaught` has random weights and talks nonsense, `taught` has learned one answer for each form.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lit_hour.cli import main
from lit_hour.config.videomarathon import ClientConfig, VideoMarathonConfig
from lit_hour.errors import InvalidResponseError, TeacherError
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.annotation import read_annotation
from lit_hour.videomarathon.llm_client import ClientPool
from lit_hour.videomarathon.response_cache import Response, ResponseCache
from lit_hour.videomarathon.video_clips import find_videos
from tests.videomarathon.model_server import ModelServer

if TYPE_CHECKING:
    from tests.videomarathon.tiny_model import TinyModel

DAMAGED = "corrupted.mp4"
FEW = ["asl_book.mkv", DAMAGED, "pancake.mkv", "portrait_phone.mp4"]
WHOLE = [name for name in FEW if name != DAMAGED]
NOWHERE = "http://127.0.0.1:1/v1"
NUM_STEPS, LEARNING_RATE = 120, 7e-3


@dataclass(frozen=True)
class Real:
    """A server, the model that it serves, and videos: all clips, and a folder with a few of them."""

    server: ModelServer
    tiny: TinyModel
    clips: Path
    few: Path


@pytest.fixture(scope="module")
def real(real_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """The server starts while the model learns."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(
            package, reason=f"`transformers serve` needs {package}: pip install {package}"
        )
    from tests.videomarathon.lessons import collect_lessons
    from tests.videomarathon.tiny_model import build, teach

    few = tmp_path_factory.mktemp("few")
    for name in FEW:
        (few / name).symlink_to(real_videos / name)
    models = tmp_path_factory.mktemp("models")
    with ModelServer(models) as server:
        lessons = collect_lessons(real_videos, few, tmp_path_factory.mktemp("lessons"))
        tiny = build(lessons)
        tiny.save(models / "untaught", samples=True)
        teach(tiny, lessons, NUM_STEPS, LEARNING_RATE)
        tiny.save(models / "taught", samples=False)
        yield Real(server, tiny, real_videos, few)


def chat(real: Real, **body: Any) -> Response:
    """One request, by the client that annotate uses."""

    async def run() -> Response:
        servers = ClientPool(
            [real.server.url], replace(VideoMarathonConfig().client, max_retries=0)
        )
        try:
            return await servers.chat(body, "key")
        finally:
            await servers.close()

    return asyncio.run(run())


def journalled(out: Path) -> list[Response]:
    replies: list[Response] = []
    for path in out.rglob("journal.jsonl"):
        with ResponseCache(path) as journal:
            replies += journal.responses
    return replies


# The protocol


@pytest.mark.parametrize("colour", ["black", "white"])
def test_the_model_sees_the_picture_that_is_sent(real: Real, colour: str) -> None:
    from tests.videomarathon.lessons import ask_for_colour

    reply = chat(real, model="taught", **ask_for_colour(colour))
    assert (reply.text, reply.finish_reason) == (colour, "stop")


@pytest.mark.parametrize("num_pictures", [0, 1, 5])
def test_the_tokens_are_those_that_the_server_counts(real: Real, num_pictures: int) -> None:
    from tests.videomarathon.lessons import ask_for_colour
    from tests.videomarathon.tiny_model import TOKENS_PER_PICTURE, Lesson, encode

    body = ask_for_colour("white")
    text, picture = body["messages"][0]["content"]
    body["messages"][0]["content"] = [text, *[picture] * num_pictures]
    reply = chat(real, model="untaught", seed=1, **body)
    encoded = encode(real.tiny.processor, Lesson(body, ""))
    pictures = encoded["input_ids"] == real.tiny.processor.image_token_id  # (1, tokens)
    assert int(pictures.sum()) == num_pictures * TOKENS_PER_PICTURE
    assert reply.prompt_tokens == int((encoded["labels"] == -100).sum())
    assert 0 < reply.answer_tokens <= body["max_tokens"]


def test_a_request_with_a_field_that_it_does_not_know_is_refused(real: Real) -> None:
    with pytest.raises(InvalidResponseError, match=r"refuses a request \(422\).*think_hard"):
        chat(real, model="taught", messages=[], think_hard=True)


# Annotating


def test_a_run_with_a_model_that_talks_nonsense_ends_in_order(
    real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = real.server.statuses()
    words = [
        "annotate",
        str(real.few),
        str(tmp_path),
        "--model",
        "untaught",
        "videomarathon.image_size=32",
    ]
    words += [
        "videomarathon.max_new_tokens=64",
        "videomarathon.max_attempts=2",
        f"videomarathon.max_failed_videos={len(FEW)}",
    ]
    main([*words, "--teacher", real.server.url])
    printed, replies = capsys.readouterr().out, journalled(tmp_path)
    totals = json.loads((tmp_path / "totals.json").read_text())
    assert real.server.statuses() - before == {"200": len(replies)}
    assert (
        sorted(totals["failed"]) == FEW
        and json.loads((tmp_path / "questions.json").read_text()) == []
    )
    for name in WHOLE:
        reason = totals["failed"][name]
        assert (
            "none of 2 answers of untaught for 'clip_caption' can be used; the last: it " in reason
        )
        assert f"failed {name}: {reason}" in printed
    assert "is damaged or cut short" in totals["failed"][DAMAGED]
    assert totals["num_answers"] == len(replies) == 2 * len(WHOLE)
    assert totals["prompt_tokens"] == sum(reply.prompt_tokens for reply in replies)
    assert totals["answer_tokens"] == sum(reply.answer_tokens for reply in replies)
    assert all(0 < reply.answer_tokens <= 64 < reply.prompt_tokens for reply in replies)
    main([*words, "--teacher", NOWHERE])  # what was answered, though useless, is not asked again
    assert capsys.readouterr().out == printed


def test_nonsense_stops_a_run_that_may_not_fail_and_says_what_may_help(
    real: Real, tmp_path: Path
) -> None:
    settings = VideoMarathonConfig(
        image_size=32,
        max_new_tokens=64,
        max_attempts=1,
        client=ClientConfig(max_concurrent_videos=1),
    )
    with pytest.raises(
        TeacherError,
        match=r"none of 1 answers of untaught .* videomarathon\.response_format=words \(1 videos failed",
    ):
        annotate(real.few, tmp_path, [real.server.url], "untaught", settings)


def test_every_clip_gets_captions_and_events(real: Real, tmp_path: Path) -> None:
    from tests.videomarathon.lessons import ANSWERS, SETTINGS

    before = real.server.statuses()
    totals = annotate(
        real.clips, tmp_path, [real.server.url], "taught", replace(SETTINGS, max_failed_videos=1)
    )
    names = [name for name in find_videos(real.clips) if name != DAMAGED]
    assert list(totals.failed) == [DAMAGED] and totals.unfinished == []
    assert totals.set_aside == dict.fromkeys(
        names, "1 events, fewer than videomarathon.min_events=3"
    )
    assert real.server.statuses() - before == {"200": totals.num_answers}
    for name in names:
        annotation = read_annotation(tmp_path / "videos" / name)
        assert all(caption.items() >= ANSWERS[0].items() for caption in annotation.captions)
        assert [event["text"] for event in annotation.events] == ["Something is seen."]


def test_from_clips_to_shards(
    real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.videomarathon.lessons import WHOLE_WAY

    totals = annotate(
        real.few, tmp_path, [real.server.url], "taught", replace(WHOLE_WAY, max_failed_videos=1)
    )
    assert (totals.num_videos, [*totals.failed], totals.set_aside) == (len(WHOLE), [DAMAGED], {})
    questions = json.loads((tmp_path / "questions.json").read_text())
    assert {each["video"] for each in questions if each["format"] == "open_ended"} == set(WHOLE)
    assert len(questions) + totals.num_dropped.total() == 44 * len(
        WHOLE
    )  # an open-ended one and a choice for each task
    assert all(
        "A short clip." in (tmp_path / "videos" / name / "index.html").read_text() for name in WHOLE
    )
    small = [
        "video.image_size=32",
        "video.min_frames=2",
        "video.max_frames=3",
        "pack.num_workers=1",
    ]
    main(
        ["pack", str(real.few), str(tmp_path / "questions.json"), str(tmp_path / "shards"), *small]
    )
    assert f"{len(questions)} questions" in capsys.readouterr().out
