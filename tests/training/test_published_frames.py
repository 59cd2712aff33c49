"""Published frames and sentence in packing, training, features, questions and evaluation."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lit_hour.cli.main import main
from lit_hour.config.load import load_config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.data.datasets import TrainingDataset, load_visual
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import StoredSample, open_shards
from lit_hour.errors import ConfigError, RunError
from lit_hour.evaluation.report.report import read_report
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.extract_features import extract_features
from lit_hour.types import Example, Frames
from tests.helpers.toy_run import ToyProject

PUBLISHED = (
    "video.sampling=published",
    "video.max_frames=100",
    "text.time_sentence=published",
    "training.learning_rate.vision=0",
    "training.max_steps=1",
)


def count_frames(split: Path, key: str) -> int:
    """Return the number of frames in a video file, which has 2 in each second."""
    with av.open(str(split / f"videos/{key}.mp4")) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


def sentence(total: int) -> str:
    """Return the sentence about a video file with so many frames, of which every second is used."""
    return (
        f"The video lasts for {total / 2:.2f} seconds, and {len(range(0, total, 2))} frames are"
        " uniformly sampled from it. Please answer the following questions related to this video."
    )


@pytest.fixture(scope="module")
def split(toy: ToyProject) -> Path:
    """The validation videos and their questions."""
    return toy.yaml.parent / "world/validation"


@pytest.fixture(scope="module")
def shards(toy: ToyProject, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of these videos, packed as published."""
    out = tmp_path_factory.mktemp("published") / "shards"
    config = toy.config("none", *PUBLISHED)
    pack(split / "videos", split / "questions.json", out, config.video, config.pack)
    return out


def words(shards: Path) -> list[str]:
    """Return the overrides of a run on these shards."""
    names = ("sources", "val_sources")
    return [*PUBLISHED, *(f"data.{name}.world.shards={shards}" for name in names)]


@pytest.fixture(scope="module")
def run(toy: ToyProject, shards: Path) -> RunDir:
    """A run trained on these shards."""
    toy.fit("published", *words(shards))
    return toy.run_dir("published")


def stored_samples(shards: Path) -> list[StoredSample]:
    opened = open_shards(shards)
    return [opened.read(entry) for entry in opened.entries]


def test_packed_frames_are_every_second_one(shards: Path, split: Path) -> None:
    for stored in stored_samples(shards):
        total = count_frames(split, stored.key)
        assert stored.timestamps_seconds == tuple(number / 2 for number in range(0, total, 2))
        assert stored.duration_seconds == total / 2 > 20
    assert open_shards(shards).indexes[0].config["sampling"] == "published"


def test_settings_are_stored_with_the_run(run: RunDir) -> None:
    for file in (run.config, run.checkpoint("last").with_suffix(".yaml")):
        config = load_config(file)
        assert (config.video.sampling, config.text.time_sentence) == ("published", "published")


def test_asking_uses_the_frames_and_the_sentence_of_training(
    run: RunDir, split: Path, shards: Path, toy: ToyProject
) -> None:
    config = toy.config("published", *words(shards))
    processor = HourLLaVAProcessor(load_tokenizer(run.tokenizer), config.text)
    data = VideoQADataModule(config, processor)
    example = TrainingDataset(data.sources, data.mixed_order, processor, config)[0].result
    assert isinstance(example, Example) and isinstance(example.visual, Frames)
    ids, video = example.texts[0].input_ids, example.visual
    note = sentence(count_frames(split, example.key))
    assert f"\n{note}\n" in processor.tokenizer.decode(ids[ids >= 0])
    predictor = VideoPredictor.from_run(run.path, device="cpu")
    memory = predictor.encode_video(split / f"videos/{example.key}.mp4")
    assert memory.note == note and memory.num_frames == len(video)
    assert torch.equal(memory.repository.timestamps, video.timestamps)


def test_features_of_files_are_of_the_published_frames(
    run: RunDir, split: Path, shards: Path, toy: ToyProject, tmp_path: Path
) -> None:
    """Published frames differ from the default ones: they always include the last frame."""
    questions = split / "questions.json"
    extract_features(str(split / "videos"), tmp_path / "files", run=run.path, questions=questions)
    for stored in stored_samples(tmp_path / "files"):
        total = count_frames(split, stored.key)
        chosen = np.floor(np.linspace(0, total - 1, total // 2))
        assert stored.timestamps_seconds == tuple(chosen / 2)
        assert stored.timestamps_seconds[-1] == (total - 1) / 2
        visual = load_visual(stored, load_config(run.config).video, load_config().image)
        assert len(visual or ()) == total // 2
    extract_features(str(shards), tmp_path / "shards", run=run.path)
    for stored, packed in zip(
        stored_samples(tmp_path / "shards"), stored_samples(shards), strict=True
    ):
        assert stored.timestamps_seconds == packed.timestamps_seconds
    result = toy.fit("on-files", *words(tmp_path / "files"), f"training.init_from={run.path}")
    assert result.step == 1


def test_other_sampling_is_refused(
    run: RunDir, shards: Path, toy: ToyProject, tmp_path: Path
) -> None:
    message = r"was packed with video\.sampling=published, this run has seconds"
    with pytest.raises(ConfigError, match=message):
        toy.fit("other", *words(shards), "video.sampling=seconds")
    default = toy.yaml.parent / "world/validation/shards"
    message = r"was packed with video\.sampling=seconds, this run has published"
    with pytest.raises(ConfigError, match=message):
        toy.fit("other", *words(default), "video.max_frames=6")
    extract_features(str(shards), tmp_path / "features", run=run.path)
    with pytest.raises(ConfigError, match=r"video\.sampling was 'published', is 'seconds'"):
        toy.fit("other", *words(tmp_path / "features"), "video.sampling=seconds")
    with pytest.raises(RunError, match=r"text\.time_sentence was 'published', is 'own'"):
        toy.fit("published", *words(shards), "text.time_sentence=own")


def test_evaluation_uses_them_and_its_protocol_records_them(
    run: RunDir, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, video_note = set(), HourLLaVAProcessor.video_note

    def record(self: HourLLaVAProcessor, duration_seconds: float, num_frames: int) -> str:
        notes.add(video_note(self, duration_seconds, num_frames))
        return video_note(self, duration_seconds, num_frames)

    monkeypatch.setattr(HourLLaVAProcessor, "video_note", record)
    out = ["--run", str(run.path), "--out", str(tmp_path / "out")]
    questions = [f"evaluation.questions={split}/questions.json", "evaluation.limit=1"]
    main(["evaluate", *questions, f"evaluation.videos={split}/videos", *out])
    protocol = read_report(tmp_path / "out/report.json").protocol
    assert protocol["frames"]["sampling"] == "published"
    assert protocol["text"]["time_sentence"] == "published"
    assert notes <= {sentence(count_frames(split, path.stem)) for path in split.glob("videos/*")}
    assert len(notes) == 1


def test_shards_without_the_setting_were_packed_by_seconds(toy: ToyProject) -> None:
    """As all were before it existed: their fingerprints stay valid."""
    folder = toy.yaml.parent / "world/validation/shards"
    assert "sampling" not in json.loads((folder / "000000.json").read_text())["config"]
    assert open_shards(folder).indexes[0].config["sampling"] == "seconds"
