"""Subtitles at the sampled frames enter the prompt of Video-MME."""

from lit_hour.evaluation.benchmarks.video_mme import add_subtitles
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.types import Subtitle
from tests.evaluation.conftest import WriteFiles

SUBTITLES = (Subtitle(1.0, 2.5, "Hi guys,"), Subtitle(2.5, 4.0, "I show you two lines"))


def test_video_mme_prompt_with_subtitles_is_the_published_one(write_files: WriteFiles) -> None:
    item = load_benchmark("video_mme", write_files("video_mme"), 0).items[0]
    subtitled = add_subtitles(item, SUBTITLES, [1.0, 3.0])
    assert subtitled.prompt == (
        "This video's subtitles are listed below:\nHi guys,\nI show you two lines\n" + item.prompt
    )
    assert subtitled.groups["subtitles"] == ("with",) and "subtitles" not in item.groups
    without = add_subtitles(item, (), [1.0, 3.0])
    assert without.prompt == item.prompt and without.groups["subtitles"] == ("none published",)
