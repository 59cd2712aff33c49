"""The benchmark of questions per second divides its measurements as documented."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.speed.questions import (
    COMPARED,
    CONVERSATIONS_PER_STEP,
    NUM_CONVERSATIONS,
    SETUPS,
    batch_overrides,
    text_and_video_seconds,
)
from tests.benchmarks.speed.questions.operations import operations
from tests.benchmarks.speed.questions.setups import repeat_questions


def test_time_is_split_into_a_conversation_and_its_video() -> None:
    text, video = 0.05, 0.4
    step_seconds = {num: CONVERSATIONS_PER_STEP * (text + video / num) for num in (1, COMPARED)}
    assert text_and_video_seconds(step_seconds) == pytest.approx((text, video))


def test_steps_of_up_to_eight_conversations_learn_equally_many_questions(tmp_path: Path) -> None:
    for num in NUM_CONVERSATIONS:
        data = SETUPS[0].config(tmp_path, *batch_overrides(num)).data
        assert data.conversations_per_video == num
        assert data.global_batch_size == data.micro_batch_size
        texts = data.global_batch_size * num
        assert texts == (CONVERSATIONS_PER_STEP if num <= COMPARED else num)


def test_questions_are_repeated_in_order_with_ids_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    asked = [("a.mp4", "0"), ("b.mp4", "1"), ("a.mp4", "2")]
    file.write_text(json.dumps([{"video": video, "id": id_} for video, id_ in asked]))
    records = json.loads(repeat_questions(file, 3).read_text())
    assert [record["video"] for record in records] == ["a.mp4"] * 3 + ["b.mp4"] * 3
    assert len({record["id"] for record in records}) == 6


def test_operations_of_an_hour_grow_with_the_frames() -> None:
    hour, minutes = operations(3600), operations(600)
    assert hour["encoding"] == pytest.approx(6 * minutes["encoding"])
    assert hour["repository"] == pytest.approx(6 * minutes["repository"])
    # The kept frames are capped; the attention to the repository grows with it.
    assert 3 < hour["conversation"] / minutes["conversation"] < 7
