"""Grounding questions of synthetic videos and of user files: true times, and off by default."""

import json
from pathlib import Path

import pytest

from lit_hour.config.schema import PackConfig
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.data.packing.shard_plan import group_samples
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.dataset import SplitPlan, _describe, check_generator
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.questions.needles import needle_scenes
from lit_hour.synthetic.texts import write_texts
from lit_hour.synthetic.video_plan import VideoPlan, generate_planned_story
from lit_hour.text.time_intervals import true_intervals

PLAN = VideoPlan("synthetic_00000", 5, 120.0)
NEEDLES = SyntheticConfig(difficulty="needles", tasks="scene_recognition")


def records(folder: Path, settings: SyntheticConfig) -> list[dict]:
    folder.mkdir()
    write_texts(folder, [PLAN], settings)
    return json.loads((folder / "questions.json").read_text())


def test_times_are_those_of_the_needles(tmp_path: Path) -> None:
    story = generate_planned_story(PLAN, NEEDLES)
    found = records(tmp_path / "all", SyntheticConfig(**vars(NEEDLES) | {"grounding_share": 1.0}))
    times = {scene.background.pattern: scene.interval for scene in needle_scenes(story)}
    asked = [record for record in found if true_intervals(record["answer"])]
    assert len(asked) == len(times) == 3 and len(found) == 6
    for record in asked:
        (pattern,) = [name for name in times if name in record["question"]]
        assert true_intervals(record["answer"]) == [pytest.approx(times[pattern], abs=0.05)]
        assert "options" not in record and record["task"] == "scene/scene_recognition"
    plain = records(tmp_path / "none", NEEDLES)
    questions = generate_questions(story, PLAN.name, ("scene/scene_recognition",))
    assert [record["question"] for record in plain] == [one.question for one in questions]
    assert [one["id"] for one in plain] == [one["id"] for one in found]


def test_a_folder_records_its_share_where_it_has_one(tmp_path: Path) -> None:
    split = SplitPlan(tmp_path, [PLAN], {"seed": 0})
    assert "grounding_share" not in _describe(split, NEEDLES)
    half = SyntheticConfig(**vars(NEEDLES) | {"grounding_share": 0.5})
    check_generator(tmp_path, _describe(split, NEEDLES))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    check_generator(tmp_path, _describe(split, NEEDLES))
    with pytest.raises(SyntheticDataError, match="made with other settings"):
        check_generator(tmp_path, _describe(split, half))


def test_evidence_in_a_user_file_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    one = {"video": "a.mp4", "question": "Who comes?", "answer": "Ada", "evidence": [[3, 4.25]]}
    other = {"video": "a.mp4", "question": "Why?", "answer": "To eat."}
    file.write_text(json.dumps([one, other]))
    (plain,), (asked,) = (
        group_samples(file, PackConfig(grounding_share=share))[0][0] for share in (0.0, 1.0)
    )
    assert [question.answer for question in plain.questions] == ["Ada", "To eat."]
    assert [question.answer for question in asked.questions] == ["3.0 s to 4.2 s", "To eat."]
