"""A folder of files with a question file is a source without packing."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.datasets import load_timed_visual, load_visual
from lit_hour.data.external import files as file_source
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.data.sources import data_fingerprint, diff_fingerprints, open_sources
from lit_hour.data.training_samples import sample_costs, samples_per_shard
from lit_hour.errors import ConfigError, QuestionError, ShardError
from lit_hour.media.video_reader import SampledVideo, load_video
from tests.data.external.tars import SETTINGS
from tests.data.factories import MIXED_RECORDS, ask_about, write_records


def config_of(folder: Path, questions: Path, cache: Path, *more: str) -> Config:
    source = [f"data.sources.x.shards={folder}", f"data.sources.x.questions={questions}"]
    cached = f"data.cache_folder={cache}"
    return load_config(None, [*SETTINGS, *source, cached, "pack.videos_per_shard=2", *more])


def open_files(config: Config) -> Shards:
    return open_sources(config)["x"]


@pytest.mark.slow
def test_files_have_shards_costs_and_questions_of_the_packed_folder(
    tiny_videos: Path, tiny_questions: Path, frame_shards: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_videos, tiny_questions, tmp_path)
    files, packed = open_files(config), open_shards(frame_shards)
    assert samples_per_shard(files, config) == samples_per_shard(packed, config)
    costs = [[cost.tolist() for cost in sample_costs(source, config)] for source in (files, packed)]
    assert costs[0] == costs[1]
    for one, other in zip(files.entries, packed.entries, strict=True):
        stored, expected = files.read(one), packed.read(other)
        assert (one.key, one.text_bytes, stored.questions, stored.files) == (
            other.key,
            other.text_bytes,
            expected.questions,
            expected.files,
        )
        frames, seconds = load_timed_visual(stored, config.video, config.image)
        wanted, _ = load_video(tiny_videos / stored.files[0], config.video)
        torch.testing.assert_close(frames.images, wanted.images, rtol=0, atol=0)
        assert seconds == expected.duration_seconds


def test_all_modalities_are_read_as_from_packed_shards(
    mixed_files: Path, mixed_shards: Path, tmp_path: Path
) -> None:
    questions = write_records(tmp_path / "questions.json", MIXED_RECORDS)
    config = config_of(mixed_files, questions, tmp_path, "pack.videos_per_shard=3")
    files, packed = open_files(config), open_shards(mixed_shards)
    for one, other in zip(files.entries, packed.entries, strict=True):
        assert (one.modality, one.size_pixels, one.num_frames) == (
            other.modality,
            other.size_pixels,
            other.num_frames,
        )
        contents = [content for _, content in files.read(one).images]
        expected = [content for _, content in packed.read(other).images]
        assert one.modality == "video" or contents == expected


def test_part_of_a_video_and_its_system_prompt_are_read_as_from_packed_shards(
    tiny_videos: Path, tmp_path: Path
) -> None:
    record = {"video": "more/f.mp4", "question": "What?", "answer": "It."}
    records = [record, {**record, "start": 2, "end": 5.5, "system_prompt": "Be brief."}]
    questions = write_records(tmp_path / "questions.json", records)
    config = config_of(tiny_videos, questions, tmp_path)
    pack(tiny_videos, questions, tmp_path / "out", config.video, config.pack)
    files, packed = open_files(config), open_shards(tmp_path / "out")
    for one, other in zip(files.entries, packed.entries, strict=True):
        assert replace(one, shard="", offset=0, num_bytes=0, frame_rate=0.0) == replace(
            other, shard="", offset=0, num_bytes=0
        )
        stored, expected = files.read(one), packed.read(other)
        frames, seconds = load_timed_visual(stored, config.video, config.image)
        wanted = load_visual(expected, config.video, config.image)
        assert frames.timestamps.tolist() == wanted.timestamps.tolist()
        part = None if expected.clip_seconds is None else (2.0, 5.5)
        video = SampledVideo(tiny_videos / "more/f.mp4", config.video, clip_seconds=part)
        decoded = torch.cat([chunk.images for chunk in video.chunks()])  # (frames, 3, 32, 32)
        torch.testing.assert_close(frames.images, decoded, rtol=0, atol=0)
        assert (seconds, stored.system_prompt) == (
            expected.duration_seconds,
            expected.system_prompt,
        )
    late = [{**record, "start": 100}, record]
    questions = write_records(tmp_path / "late.json", late)
    with pytest.raises(ShardError, match=r"100 s to its end.*begins after the 7 s"):
        open_files(config_of(tiny_videos, questions, tmp_path))


def test_headers_are_read_once(
    tiny_videos: Path, tiny_questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_videos, tmp_path / "videos")
    config = config_of(folder, tiny_questions, tmp_path / "cache")
    before = data_fingerprint(config, {"x": open_files(config)})
    probed: list[str] = []
    probe = file_source.probe_video

    def count(path: Path, num_bytes: int) -> file_source.MediaFacts:
        probed.append(path.name)
        return probe(path, num_bytes)

    monkeypatch.setattr(file_source, "probe_video", count)
    open_files(config)
    assert probed == []
    os.utime(folder / "a.mp4", (1, 1))
    after = data_fingerprint(config, {"x": open_files(config)})
    assert probed == ["a.mp4"] and diff_fingerprints(before, after) == []
    shutil.copy(folder / "b.mp4", folder / "a.mp4")
    (change,) = diff_fingerprints(before, data_fingerprint(config, {"x": open_files(config)}))
    assert "1 shard is changed (000000.tar)" in change


def test_headers_stay_recorded_for_several_question_files_about_one_folder(
    tiny_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    for name in ("a", "b"):
        questions = ask_about([f"{name}.mp4"], tmp_path / f"{name}.json")
        configs.append(config_of(tiny_videos, questions, tmp_path / "cache"))
        open_files(configs[-1])
    monkeypatch.setattr(file_source, "probe_video", None)  # a header that is read again fails
    for config in configs:
        assert len(open_files(config).entries) == 1


@pytest.mark.parametrize("first", ["video", "image"])
def test_video_named_as_an_image_too_is_an_error_whichever_is_first(
    tiny_videos: Path, tmp_path: Path, first: str
) -> None:
    about = {"question": "What?", "answer": "It."}
    names = sorted(("video", "image"), key=lambda name: name != first)
    records = [{name: "a.mp4", **about} for name in names]
    questions = write_records(tmp_path / "questions.json", records)
    for _ in range(2):  # headers are read, and found in the record
        with pytest.raises(ShardError, match=r"1 samples cannot be used.*a\.mp4"):
            open_files(config_of(tiny_videos, questions, tmp_path))
    allowed = config_of(tiny_videos, questions, tmp_path, "pack.max_bad_samples=1")
    assert [entry.modality for entry in open_files(allowed).entries] == ["video"]


def test_damaged_file_is_left_out_within_the_budget(tiny_videos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_videos, tmp_path / "videos")
    (folder / "b.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    questions = ask_about(("a.mp4", "b.mp4"), tmp_path / "questions.json")
    config = config_of(folder, questions, tmp_path)
    with pytest.raises(ShardError, match=r"1 samples cannot be used.*b\.mp4"):
        open_files(config)
    config = config_of(folder, questions, tmp_path, "pack.max_bad_samples=1")
    assert [entry.key for entry in open_files(config).entries] == ["a"]


def test_errors_name_the_folder_and_the_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    questions = ask_about(["a.mp4"], tmp_path / "q.json")
    for budget, message in ((0, "1 samples cannot be used"), (1, "no sample can be used")):
        settings = f"pack.max_bad_samples={budget}"
        config = config_of(tmp_path / "videos", questions, tmp_path / "cache", settings)
        with pytest.raises(ShardError, match=f"{message}.*videos: a.mp4: .* is empty") as caught:
            open_files(config)
        assert ".tar" not in str(caught.value) and "webdataset" not in str(caught.value)


def test_missing_files_and_question_file_are_named(tiny_videos: Path, tmp_path: Path) -> None:
    questions = ask_about(("a.mp4", "nowhere.mp4"), tmp_path / "questions.json")
    with pytest.raises(QuestionError, match=r"1 of them are not in .*nowhere\.mp4"):
        open_files(config_of(tiny_videos, questions, tmp_path))
    config = load_config(
        None, [f"data.sources.x.shards={tiny_videos}", "data.sources.x.kind=files"]
    )
    with pytest.raises(ConfigError, match=r"needs a question file"):
        open_files(config)
    config = load_config(None, [f"data.sources.x.shards={tiny_videos}"])
    with pytest.raises(ShardError, match=r"data\.sources\.NAME\.questions"):
        open_files(config)
