"""A sample about a part of a video is that part: packed, encoded, trained and evaluated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hour.config.schema import Config, ImageConfig, PackConfig
from lit_hour.data.datasets import ValidationDataset, load_visual
from lit_hour.data.features.source import SampleRef, VideoFileSource
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.errors import VideoError
from lit_hour.evaluation.eval_plan import build_plan
from lit_hour.evaluation.generate import VideoFrameStream
from lit_hour.media.video_reader import ClipWarning, SampledVideo, load_video, read_frames
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Example, Frames
from tests.data.factories import PACK, write_records, write_video

VIDEO = replace(Config().video, min_frames=1, max_frames=40, image_size=32)
CLIPS = {"a-2000-4500": (2.0, 4.5), "a-6300-end": (6.3, 9.0)}
RECORDS: list[dict[str, Any]] = [
    {"video": "a.mp4", "start": 2.0, "end": 4.5, "question": "First?", "answer": "Yes."},
    {"video": "a.mp4", "start": 6.3, "question": "Last?", "answer": "No."},
    {"video": "a.mp4", "question": "All?", "answer": "Maybe.", "system_prompt": "Be brief."},
    {"video": "a.mp4", "question": "All of it?"},  # no answer
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", num_seconds=9)
    write_records(folder / "questions.json", RECORDS)
    pack(
        folder,
        folder / "questions.json",
        folder / "shards",
        VIDEO,
        replace(PACK, max_bad_samples=1),
    )
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> Shards:
    return open_shards(folder / "shards")


def frames_at(folder: Path, start: float, timestamps: list[float]) -> torch.Tensor:
    """Return the frames of the file at times after a start: `(frames, 3, 32, 32)`."""
    moments = [start + seconds for seconds in timestamps]
    (frames,) = read_frames(folder / "a.mp4", moments, 32, "raise")
    return frames.images


def test_packed_part_has_the_frames_of_the_part(folder: Path, shards: Shards) -> None:
    for entry in shards.entries[1:]:
        start, end = CLIPS[entry.key]
        stored = shards.read(entry)
        assert stored.duration_seconds == entry.duration_seconds == pytest.approx(end - start)
        assert stored.clip_seconds == pytest.approx((start, end))
        assert stored.timestamps_seconds == (0.0, 1.0, 2.0)
        visual = load_visual(stored, VIDEO, ImageConfig())
        assert isinstance(visual, Frames)
        expected = frames_at(folder, start, [0.0, 1.0, 2.0])
        assert (visual.images.float() - expected.float()).abs().mean() < 6  # JPEG
        others = frames_at(folder, 0.0, [0.0, 1.0, 2.0])
        assert (visual.images.float() - others.float()).abs().mean() > 20


def test_record_without_an_answer_is_skipped_and_listed(folder: Path, shards: Shards) -> None:
    totals = json.loads((folder / "shards/index.json").read_text())
    (skipped,) = totals["skipped"]
    assert (
        "questions.json: record 4" in skipped["name"] and "'answer' is missing" in skipped["reason"]
    )
    summary = pack(
        folder,
        folder / "questions.json",
        folder / "shards",
        VIDEO,
        replace(PACK, max_bad_samples=1),
    )
    assert len(summary.skipped) == 1  # also when the shards are finished
    assert [entry.num_questions for entry in shards.entries] == [1, 1, 1]


def test_bad_records_and_bad_videos_share_the_budget(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a.mp4", tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    records = [*RECORDS[2:], {"video": "b.mp4", "question": "What?", "answer": "It."}]
    questions = write_records(tmp_path / "q.json", records)
    with pytest.raises(VideoError, match=r"b\.mp4.*pack\.max_bad_samples \(now 1\)"):
        pack(tmp_path, questions, tmp_path / "out", VIDEO, replace(PACK, max_bad_samples=1))
    settings = replace(PACK, max_bad_samples=2)
    assert len(pack(tmp_path, questions, tmp_path / "out", VIDEO, settings).skipped) == 2


def test_system_prompt_of_a_record_is_trained_on(
    shards: Shards, processor: HourLLaVAProcessor
) -> None:
    entry = shards.entries[0]
    assert shards.read(entry).system_prompt == "Be brief."
    config = Config(video=VIDEO, text=processor.config)
    dataset = ValidationDataset([(shards, entry), (shards, shards.entries[1])], processor, config)
    texts = []
    for index in range(2):
        example = dataset[index].result
        assert isinstance(example, Example)
        ids = [token for token in example.texts[0].input_ids.tolist() if token >= 0]
        texts.append(processor.tokenizer.decode(ids))
    assert "system\nBe brief.<|im_end|>" in texts[0]
    assert f"system\n{processor.config.system_prompt}<|im_end|>" in texts[1]
    assert len("Be brief.") + len("All?Maybe.") <= entry.text_bytes[0]


def test_features_are_extracted_from_the_part(folder: Path) -> None:
    config = Config(video=VIDEO, pack=PackConfig(videos_per_shard=2, max_bad_samples=1))
    source = VideoFileSource(folder, folder / "questions.json", Path("none"), config)
    assert len(source.skipped(0)) == 1 and not source.skipped(1)
    *chunks, end = source.chunks(SampleRef(1, 0))
    images = torch.cat([chunk.images for chunk in chunks])  # (frames, 3, 32, 32)
    assert torch.equal(images, frames_at(folder, 6.3, [0.0, 1.0, 2.0]))
    metadata = json.loads(end.metadata)
    assert metadata["clip_seconds"] == pytest.approx([6.3, 9.0])
    assert metadata["timestamps_seconds"] == [0.0, 1.0, 2.0]


def test_evaluation_shows_the_part(folder: Path) -> None:
    config = Config(video=VIDEO)
    config = replace(
        config,
        evaluation=replace(
            config.evaluation,
            questions=str(folder / "questions.json"),
            videos=str(folder),
            max_invalid_records=1,
        ),
    )
    plan = build_plan(config)
    assert len(plan.questions.invalid_records) == 1
    names = [video.name for video in plan.videos]
    assert names == ["a.mp4 (2 s to 4.5 s)", "a.mp4 (6.3 s to its end)", "a.mp4"]
    assert plan.videos[2].items[0].system_prompt == "Be brief."
    videos = [(video.file, video.clip_seconds) for video in plan.videos]
    chunks = list(VideoFrameStream(videos, VIDEO, chunk_frames=64))
    for index, start in enumerate((2.0, 6.3)):
        images, end = chunks[2 * index : 2 * index + 2]
        assert images.frames is not None
        assert torch.equal(images.frames.images, frames_at(folder, start, [0.0, 1.0, 2.0]))
        assert end.duration_seconds == pytest.approx([2.5, 2.7][index])


def test_whole_video_as_a_part_is_the_video(folder: Path) -> None:
    whole, _ = load_video(folder / "a.mp4", VIDEO)
    for clip in ((0.0, 9.0), (0.0, float("inf"))):
        (frames,) = SampledVideo(folder / "a.mp4", VIDEO, clip_seconds=clip).chunks()
        assert torch.equal(frames.images, whole.images)
        assert torch.equal(frames.timestamps, whole.timestamps)


def test_short_part_gets_the_minimum_of_frames(folder: Path) -> None:
    config = replace(VIDEO, min_frames=5)
    video = SampledVideo(folder / "a.mp4", config, clip_seconds=(2.0, 2.5))
    (frames,) = video.chunks()
    assert video.timestamps == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert torch.equal(frames.images, frames_at(folder, 2.0, video.timestamps))


def test_published_sampling_takes_the_frames_of_the_part(folder: Path) -> None:
    config = replace(VIDEO, sampling="published")
    for clip, num_frames in (((2.0, 4.5), 3), ((6.1, float("inf")), 3)):
        video = SampledVideo(folder / "a.mp4", config, clip_seconds=clip)
        (frames,) = video.chunks()
        assert len(frames) == num_frames
        assert torch.equal(frames.images, frames_at(folder, clip[0], video.timestamps))


def test_part_outside_of_the_video_is_refused_or_reported(folder: Path) -> None:
    with pytest.raises(VideoError, match=r"part from 9 s to 12 s of .*a\.mp4 begins after its end"):
        SampledVideo(folder / "a.mp4", VIDEO, clip_seconds=(9.0, 12.0))
    with pytest.warns(ClipWarning, match=r"from 8 s to 12 s of .*a\.mp4 ends after the video"):
        video = SampledVideo(folder / "a.mp4", VIDEO, clip_seconds=(8.0, 12.0))
    assert video.duration_seconds == pytest.approx(1.0)
