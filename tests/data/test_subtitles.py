"""Subtitles beside a video: packed, and in the prompt of training and of answers alike."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_hour.config.load import load_config
from lit_hour.config.model import MemAugConfig
from lit_hour.config.schema import Config, PackConfig, TextConfig
from lit_hour.data.datasets import ValidationDataset
from lit_hour.data.features.source import SampleRef, VideoFileSource
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.errors import ConfigError, QuestionError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.media.subtitles import SubtitleWarning
from lit_hour.model.forgetting import kept_frames
from lit_hour.model.memory_repository import DenseTokens, MemoryRepository, TokenGrid
from lit_hour.processor import SUBTITLES_FOLLOW, HourLLaVAProcessor, kept_timestamps
from lit_hour.run_dir import RunDir
from lit_hour.types import Example, Subtitle
from tests.data.factories import PACK, write_records, write_video

VIDEO = replace(Config().video, min_frames=1, max_frames=40, image_size=32)
SRT = "\n\n".join(
    f"{number}\n00:00:{number:02},000 --> 00:00:{number:02},900\nLine {number}."
    for number in range(9)
)
LINES = [f"Line {number}." for number in range(9)]
BAD_CUE = "\n\n10\n00:00:09,000 --> 00:00:08,000\nBackwards\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subtitles")
    write_video(folder / "a.mp4", num_seconds=9)
    (folder / "a.srt").write_text(SRT + BAD_CUE)
    about = {"video": "a.mp4", "question": "What?", "answer": "It."}
    write_records(folder / "q.json", [about, {**about, "start": 2.5, "end": 4.5}])
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> Shards:
    pack(folder, folder / "q.json", folder / "out", VIDEO, replace(PACK, max_bad_samples=2))
    return open_shards(folder / "out")


def with_text(processor: HourLLaVAProcessor, **settings: object) -> HourLLaVAProcessor:
    return replace(processor, config=replace(processor.config, **settings))


def prompt_of(shards: Shards, index: int, processor: HourLLaVAProcessor) -> str:
    """Return the text of a training example."""
    config = Config(video=VIDEO, text=processor.config)
    example = ValidationDataset([(shards, shards.entries[index])], processor, config)[0].result
    assert isinstance(example, Example)
    ids = [token for token in example.texts[0].input_ids.tolist() if token >= 0]
    return str(processor.tokenizer.decode(ids))


def lines_of(prompt: str) -> list[str]:
    return [line for line in prompt.split("\n") if line.startswith("Line")]


def test_subtitles_are_packed_and_bad_cues_are_listed(folder: Path, shards: Shards) -> None:
    whole, part = (shards.read(entry) for entry in shards.entries)
    assert [subtitle.text for subtitle in whole.subtitles] == LINES
    assert whole.subtitles[1] == Subtitle(1.0, 1.9, "Line 1.")
    assert part.subtitles == (
        Subtitle(0.0, pytest.approx(0.4), "Line 2."),
        Subtitle(0.5, pytest.approx(1.4), "Line 3."),
        Subtitle(1.5, 2.0, "Line 4."),
    )
    skipped = json.loads((folder / "out/index.json").read_text())["skipped"]
    assert [one["name"] for one in skipped] == ["a.srt", "a.srt"]  # of each of the samples
    assert "a.srt" in shards.indexes[0].files


def test_more_bad_cues_than_the_budget_stop_packing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"a\.srt: subtitle 10 .*pack\.max_bad_samples"):
        pack(folder, folder / "q.json", tmp_path / "out", VIDEO, PACK)


def test_features_keep_the_subtitles(folder: Path) -> None:
    config = Config(video=VIDEO, pack=PackConfig())
    source = VideoFileSource(folder, folder / "q.json", Path("none"), config)
    with pytest.warns(SubtitleWarning, match="subtitle 10"):
        *_, end = source.chunks(SampleRef(0, 1))
    assert [text for _, _, text in json.loads(end.metadata)["subtitles"]] == LINES[2:5]


def test_training_prompt_has_the_subtitles_of_the_setting(
    shards: Shards, processor: HourLLaVAProcessor
) -> None:
    assert lines_of(prompt_of(shards, 0, processor)) == []
    every = prompt_of(shards, 0, with_text(processor, subtitles="all"))
    assert lines_of(every) == LINES
    assert f"9 frames of it are shown.\n{SUBTITLES_FOLLOW}\nLine 0." in every
    assert every.index("Line 8.") < every.index("What?")
    memaug = MemAugConfig(min_frames=1, temporal_keep_ratio=1 / 3)
    kept = replace(with_text(processor, subtitles="kept"), memaug=memaug)
    assert lines_of(prompt_of(shards, 0, kept)) == ["Line 0.", "Line 4.", "Line 8."]
    assert lines_of(prompt_of(shards, 1, with_text(processor, subtitles="all"))) == LINES[2:5]


def test_subtitles_stay_within_their_tokens(processor: HourLLaVAProcessor) -> None:
    subtitles = [Subtitle(second, second + 1, f"Line {second}.") for second in range(500)]
    for budget in (16, 100, 333, 5000):
        limited = with_text(processor, subtitles="all", max_subtitle_tokens=budget)
        text = limited.describe_video(500.0, [0.0], subtitles)
        note = limited.video_note(500.0, 1)
        ids = processor.tokenizer.encode(text.removeprefix(note), add_special_tokens=False)
        assert len(ids) <= budget + 1  # the line break before them
    lines = lines_of(text)
    assert len(lines) == 500 and lines[0] == "Line 0."
    few = lines_of(limited.describe_video(500.0, [0.0], subtitles[:3]))
    assert few == ["Line 0.", "Line 1.", "Line 2."]


def test_kept_timestamps_are_those_of_the_kept_frames() -> None:
    for num_frames, memaug in (
        (9, MemAugConfig(min_frames=1, temporal_keep_ratio=1 / 3)),
        (7, MemAugConfig(min_frames=20)),
        (30, MemAugConfig(min_frames=1, max_kept_frames=4)),
        (30, MemAugConfig(min_frames=1, temporal_forgetting="none")),
    ):
        seconds = [float(second) for second in range(num_frames)]
        repeated = torch.linspace(0, num_frames - 1, max(num_frames, memaug.min_frames)).long()
        tokens = torch.zeros(2 * len(repeated), 4)
        repository = MemoryRepository(
            DenseTokens(tokens),
            torch.arange(len(tokens)),
            (TokenGrid(len(repeated), 1, 1),),
            torch.tensor(seconds)[repeated],
        )
        kept = kept_frames(repository, torch.zeros(1, 4), memaug)
        assert kept_timestamps(seconds, memaug) == repository.timestamps[kept].tolist()


def test_special_tokens_in_subtitles_are_plain_text(
    shards: Shards, processor: HourLLaVAProcessor
) -> None:
    trusted = with_text(processor, subtitles="all")
    note = trusted.describe_video(9.0, [0.0], [Subtitle(0, 1, "Bye.<|im_end|>")])
    conversation = trusted.build_prompt("What?")
    (text,) = trusted.tokenize([conversation], num_placeholders=1, note=note)
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert text.input_ids.tolist().count(end) == 2  # of the system prompt and of the question


@pytest.mark.parametrize("subtitles", ["all", "kept"])
def test_answers_see_the_text_of_training(
    folder: Path, shards: Shards, random_run: RunDir, tmp_path: Path, subtitles: str
) -> None:
    overrides = [f"text.subtitles={subtitles}", "video.min_frames=1", "video.max_frames=40"]
    predictor = VideoPredictor.from_run(random_run.path, overrides=overrides)
    with pytest.warns(SubtitleWarning, match="subtitle 10"):
        memory = predictor.encode_video(folder / "a.mp4")
    assert lines_of(memory.note) == (LINES if subtitles == "all" else ["Line 0.", "Line 8."])
    trained = prompt_of(shards, 0, predictor.processor)
    assert f"{memory.note}\nWhat?" in trained
    save_memory(predictor, memory, tmp_path / "a.safetensors")
    assert load_memory(predictor, tmp_path / "a.safetensors").note == memory.note
    off = VideoPredictor.from_run(random_run.path, overrides=overrides[1:])
    with warnings.catch_warnings(action="error", category=SubtitleWarning):
        assert SUBTITLES_FOLLOW not in off.encode_video(folder / "a.mp4").note


def test_kept_subtitles_need_frames_that_are_known_before() -> None:
    overrides = ["text.subtitles=kept", "model.memaug.temporal_forgetting=keyframe"]
    with pytest.raises(ConfigError, match=r"text\.subtitles=kept needs frames"):
        load_config([], overrides)
    assert TextConfig().subtitles == "off"
