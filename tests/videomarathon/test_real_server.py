"""Annotation of real clips by a toy model behind `transformers serve`.

It serves two models: `untrained` has random weights and answers nonsense, `trained` has learned one
answer for each kind of request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lit_hour.cli.main import main
from lit_hour.config.videomarathon import ClientConfig, VideoMarathonConfig
from lit_hour.errors import InvalidResponseError, TeacherError
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.annotation import fingerprint, read_annotation
from lit_hour.videomarathon.llm_client import ClientPool
from lit_hour.videomarathon.response_cache import Response, ResponseCache
from lit_hour.videomarathon.video_clips import find_videos
from tests.videomarathon.factories import NOWHERE, PACK_OPTIONS
from tests.videomarathon.transformers_server import TransformersServer

if TYPE_CHECKING:
    from tests.videomarathon.toy_vlm import ToyVLM

pytestmark = pytest.mark.slow

DAMAGED = "corrupted.mp4"
FEW = ["asl_book.mkv", DAMAGED, "pancake.mkv", "portrait_phone.mp4"]
INTACT = [name for name in FEW if name != DAMAGED]
NUM_STEPS, LEARNING_RATE = 120, 7e-3


@dataclass(frozen=True)
class Setup:
    """A server, its model, the folder of all clips, and a folder with a few of them."""

    server: TransformersServer
    toy: ToyVLM
    clips: Path
    few_clips: Path


@pytest.fixture(scope="module")
def setup(real_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Train the model while the server starts."""
    for package in ("fastapi", "uvicorn"):
        reason = f"`transformers serve` needs {package}: pip install {package}"
        pytest.importorskip(package, reason=reason)
    from tests.videomarathon.toy_vlm import build, collect_examples, train

    few_clips = tmp_path_factory.mktemp("few")
    for name in FEW:
        (few_clips / name).symlink_to(real_videos / name)
    models = tmp_path_factory.mktemp("models")
    with TransformersServer(models) as server:
        examples = collect_examples(real_videos, few_clips, tmp_path_factory.mktemp("examples"))
        toy = build(examples)
        toy.save(models / "untrained", do_sample=True)
        train(toy, examples, NUM_STEPS, LEARNING_RATE)
        toy.save(models / "trained", do_sample=False)
        yield Setup(server, toy, real_videos, few_clips)


def chat(setup: Setup, **body: Any) -> Response:
    """Send one request with the client that annotate uses."""

    async def run() -> Response:
        config = replace(VideoMarathonConfig().client, max_retries=0)
        clients = ClientPool([setup.server.url], config)
        try:
            return await clients.chat(body, "key")
        finally:
            await clients.close()

    return asyncio.run(run())


def cached_responses(out: Path) -> list[Response]:
    responses: list[Response] = []
    for path in out.rglob("responses.jsonl"):
        with ResponseCache(path) as cache:
            responses += cache.responses
    return responses


# The protocol


@pytest.mark.parametrize("color", ["black", "white"])
def test_model_sees_the_image_that_is_sent(setup: Setup, color: str) -> None:
    from tests.videomarathon.toy_vlm import color_question

    response = chat(setup, model="trained", **color_question(color))
    assert (response.text, response.finish_reason) == (color, "stop")


@pytest.mark.parametrize("num_images", [0, 1, 5])
def test_tokens_are_counted_by_the_server(setup: Setup, num_images: int) -> None:
    from tests.videomarathon.toy_vlm import (
        IGNORED_LABEL,
        TOKENS_PER_IMAGE,
        Example,
        color_question,
        encode,
    )

    body = color_question("white")
    text, image = body["messages"][0]["content"]
    body["messages"][0]["content"] = [text, *[image] * num_images]
    response = chat(setup, model="untrained", seed=1, **body)
    encoded = encode(setup.toy.processor, Example(body, ""))
    is_image = encoded["input_ids"] == setup.toy.processor.image_token_id  # (1, tokens)
    assert int(is_image.sum()) == num_images * TOKENS_PER_IMAGE
    assert response.prompt_tokens == int((encoded["labels"] == IGNORED_LABEL).sum())
    assert 0 < response.completion_tokens <= body["max_tokens"]


def test_unknown_field_is_refused(setup: Setup) -> None:
    with pytest.raises(InvalidResponseError, match=r"refuses a request \(422\).*think_hard"):
        chat(setup, model="trained", messages=[], think_hard=True)


# Annotation


def test_run_with_useless_responses_ends_in_order(
    setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = setup.server.statuses()
    overrides = [
        "videomarathon.image_size=32",
        "videomarathon.max_new_tokens=64",
        "videomarathon.max_attempts=2",
        f"videomarathon.max_failed_videos={len(FEW)}",
    ]
    argv = ["annotate", str(setup.few_clips), str(tmp_path), "--model", "untrained"]
    main([*argv, "--teacher", setup.server.url, *overrides])
    printed, responses = capsys.readouterr().out, cached_responses(tmp_path)
    totals = json.loads((tmp_path / "totals.json").read_text())
    assert setup.server.statuses() - before == {"200": len(responses)}
    assert sorted(totals["failed"]) == FEW
    assert json.loads((tmp_path / "questions.json").read_text()) == []
    for name in INTACT:
        reason = totals["failed"][name]
        assert "untrained gave no usable answer to 'clip_caption' in 2 attempts" in reason
        assert f"failed {name}: {reason}" in printed
    assert "is damaged or cut short" in totals["failed"][DAMAGED]
    assert totals["num_responses"] == len(responses) == 2 * len(INTACT)
    assert totals["prompt_tokens"] == sum(response.prompt_tokens for response in responses)
    assert totals["completion_tokens"] == sum(response.completion_tokens for response in responses)
    for response in responses:
        assert 0 < response.completion_tokens <= 64 < response.prompt_tokens
    main([*argv, "--teacher", NOWHERE, *overrides])  # useless responses are cached, too
    assert capsys.readouterr().out == printed


def test_useless_responses_stop_a_strict_run_with_a_hint(setup: Setup, tmp_path: Path) -> None:
    config = VideoMarathonConfig(
        image_size=32,
        max_new_tokens=64,
        max_attempts=1,
        client=ClientConfig(max_concurrent_videos=1),
    )
    message = r"untrained gave no usable answer .* videomarathon\.response_format=prompt\. 1 videos"
    with pytest.raises(TeacherError, match=message):
        annotate(setup.few_clips, tmp_path, [setup.server.url], "untrained", config)


def test_every_clip_gets_captions_and_events(setup: Setup, tmp_path: Path) -> None:
    from tests.videomarathon.toy_vlm import ANSWERS, CONFIG

    before, config = setup.server.statuses(), replace(CONFIG, max_failed_videos=1)
    totals = annotate(setup.clips, tmp_path, [setup.server.url], "trained", config)
    names = [name for name in find_videos(setup.clips) if name != DAMAGED]
    assert list(totals.failed) == [DAMAGED] and totals.unfinished == []
    reason = "1 events, fewer than videomarathon.min_events=3"
    assert totals.skipped == dict.fromkeys(names, reason)
    assert setup.server.statuses() - before == {"200": totals.num_responses}
    for name in names:
        expected = fingerprint(setup.clips / name, "trained", config)
        annotation = read_annotation(tmp_path / "videos" / name, expected)
        assert annotation is not None
        assert all(caption.items() >= ANSWERS[0].items() for caption in annotation.captions)
        assert [event["text"] for event in annotation.events] == ["Something is seen."]


def test_from_clips_to_shards(
    setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.videomarathon.toy_vlm import ALL_STAGES_CONFIG

    config = replace(ALL_STAGES_CONFIG, max_failed_videos=1)
    totals = annotate(setup.few_clips, tmp_path, [setup.server.url], "trained", config)
    assert (totals.num_videos, totals.skipped) == (len(INTACT), {})
    assert [*totals.failed] == [DAMAGED]
    questions = json.loads((tmp_path / "questions.json").read_text())
    open_ended = [question for question in questions if question["format"] == "open_ended"]
    assert {question["video"] for question in open_ended} == set(INTACT)
    # One question in each of two formats for each of 22 tasks.
    assert len(questions) + totals.num_dropped.total() == 44 * len(INTACT)
    for name in INTACT:
        page = (tmp_path / "videos" / name / "index.html").read_text()
        assert "A short clip." in page, name
    paths = (setup.few_clips, tmp_path / "questions.json", tmp_path / "shards")
    main(["pack", *map(str, paths), *PACK_OPTIONS])
    assert f"{len(questions)} questions" in capsys.readouterr().out
