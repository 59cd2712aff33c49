"""Training, resume, skipping and features of data that others wrote, which is not packed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import train
from lit_hour.cli.main import main
from lit_hour.data.datasets import TrainingDataset, load_features
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import open_shards
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.training.extract_features import extract_features
from lit_hour.types import Example, Skipped
from tests.data.external.tars import image_bytes, open_tars, write_shards, write_tar
from tests.data.factories import write_video
from tests.data.rank_data import data_of_rank
from tests.data.test_elastic import EVERY_LAYOUT, LAYOUTS, read_steps
from tests.helpers.toy_run import ToyProject, TrainedRun

ROOT = Path(__file__).parents[3]
NUM_VIDEOS = 5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of 2 to 6 seconds with 1 to 5 questions each: `videos`, `questions.json`."""
    folder = tmp_path_factory.mktemp("external")
    records = []
    for number in range(NUM_VIDEOS):
        write_video(folder / f"videos/{number}.mp4", num_seconds=2 + number)
        records += [
            {"video": f"{number}.mp4", "question": f"What is {n}?", "answer": f"It is {n}."}
            for n in range(number + 1)
        ]
    (folder / "questions.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def tars(files: Path) -> str:
    """The same videos and questions in three tars of webdataset."""
    records = json.loads((files / "questions.json").read_text())
    samples = []
    for number in range(NUM_VIDEOS):
        own = [record for record in records if record["video"] == f"{number}.mp4"]
        content = (files / f"videos/{number}.mp4").read_bytes()
        samples.append((str(number), content, {"questions": own}))
    return write_shards(files / "tars", samples, 2)


def source(pattern: str | Path) -> list[str]:
    return [f"data.sources.world.shards={pattern}"]


@pytest.mark.slow
def test_run_on_tars_resumes_with_other_ranks_and_workers(
    toy: ToyProject, processor: HourLLaVAProcessor, tars: str
) -> None:
    argv = [*source(tars), "data.global_batch_size=4", "training.max_steps=12"]
    argv += ["data.length_balance_window=3"]
    expected, _ = read_steps(toy, processor, argv, LAYOUTS[0], None, 12)
    steps, state = [], None
    for layout in EVERY_LAYOUT:
        read, state = read_steps(toy, processor, argv, LAYOUTS[layout], state, 3)
        steps += read
    assert steps == expected


def test_video_that_is_damaged_after_indexing_is_skipped_and_named(
    toy: ToyProject, processor: HourLLaVAProcessor, tars: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(Path(tars).parent, tmp_path / "tars")
    pattern = folder / Path(tars).name
    data = data_of_rank(toy, processor, *source(pattern))
    tar = folder / "part-00000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b"moov", b"nope", 1))
    dataset = TrainingDataset(data.sources, data.mixed_order, processor, data.config)
    results = [dataset[position].result for position in range(data.mixed_order.num_samples)]
    skipped = [result for result in results if isinstance(result, Skipped)]
    assert {one.key for one in skipped} == {"0"} and len(skipped) < len(results)
    assert all("part-00000.tar: 0.mp4" in one.reason for one in skipped), skipped
    assert "/proc/" not in skipped[0].reason


def test_features_of_tars_equal_those_of_the_files(
    files: Path, tars: str, trained: TrainedRun, tmp_path: Path
) -> None:
    overrides = ("pack.videos_per_shard=2", "training.precision=32-true")
    run, questions = trained.run.path, files / "questions.json"
    extract_features(tars, tmp_path / "tars", overrides, run=run)
    extract_features(
        str(files / "videos"), tmp_path / "files", overrides, questions=questions, run=run
    )
    from_tars, from_files = open_shards(tmp_path / "tars"), open_shards(tmp_path / "files")
    for one, other in zip(from_tars.entries, from_files.entries, strict=True):
        read, expected = from_tars.read(one), from_files.read(other)
        assert read.timestamps_seconds == expected.timestamps_seconds
        assert [q.answer for q in read.questions] == [q.answer for q in expected.questions]
        tokens, wanted = (load_features(stored, 6).tokens for stored in (read, expected))
        torch.testing.assert_close(tokens, wanted, rtol=0, atol=0)
    config = trained.config
    direct = open_tars(tars, "video.min_frames=4", "video.max_frames=6")
    assert [entry.num_frames for entry in direct.entries] == [
        entry.num_frames for entry in from_tars.entries
    ]
    assert config.video.max_frames == 6


def test_images_and_sequences_of_tars_become_features(trained: TrainedRun, tmp_path: Path) -> None:
    members = {
        **{f"a.{number}.png": image_bytes((number, 0, 0)) for number in range(5)},
        "a.json": {"question": "What?", "answer": "It."},
        "b.jpg": image_bytes((9, 9, 9), "JPEG"),
        "b.txt": "Gray.",
    }
    tar = write_tar(tmp_path / "a.tar", members)
    extract_features(str(tar), tmp_path / "out", (), run=trained.run.path)
    shards = open_shards(tmp_path / "out")
    sequence, image = (shards.read(entry) for entry in shards.entries)
    assert sequence.tokens is not None and len(sequence.tokens) == shards.entries[0].num_frames
    assert image.modality == "image" and image.images[0][1] == members["b.jpg"]


def recipe(title: str) -> list[list[str]]:
    """Return the commands of a recipe of shards/README.md."""
    page = (ROOT / "shards/README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"\*\*Recipe: {title}\.\*\*[^\n]*\n\n((?:    .*\n)+)", page)
    return [shlex.split(line) for line in block.splitlines()]


def run_recipe(title: str, toy: ToyProject, *more: str) -> None:
    """Run the commands of a recipe with the toy run's settings."""
    for words in recipe(title):
        words = [str(toy.yaml) if word == "conf/tiny_model.yaml" else word for word in words]
        if words[0] == "lit-hour":
            main(words[1:])
        else:
            train.main([*words[2:], f"run.folder={toy.runs}", "training.max_steps=2", *more])


def test_recipe_any_webdataset(
    toy: ToyProject, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in range(2):
        members = {
            f"{shard}.mp4": (files / f"videos/{shard}.mp4").read_bytes(),
            f"{shard}.json": {"instruction": "What moves?", "output": "A gradient."},
        }
        write_tar(tmp_path / f"data/{shard:05d}.tar", members)
    (tmp_path / "mapping.yaml").write_text("question: instruction\nanswer: output\n")
    run_recipe("any WebDataset", toy, "data.sources.world.weight=0")
    assert toy.run_dir("tars").checkpoint("last").is_file()


def test_files_have_the_order_and_samples_of_the_packed_folder(
    toy: ToyProject, processor: HourLLaVAProcessor, files: Path, tmp_path: Path
) -> None:
    config = toy.config("none")
    pack(files / "videos", files / "questions.json", tmp_path / "out", config.video, config.pack)
    more = ["data.global_batch_size=4", "training.max_steps=8", "data.length_balance_window=3"]
    packed, _ = read_steps(toy, processor, [*source(tmp_path / "out"), *more], (1, 0), None, 8)
    argv = [*file_source(files), f"data.cache_folder={tmp_path}/cache", *more]
    expected, _ = read_steps(toy, processor, argv, (1, 0), None, 8)
    assert expected == packed
    steps, state = [], None
    for layout in EVERY_LAYOUT:
        read, state = read_steps(toy, processor, argv, LAYOUTS[layout], state, 2)
        steps += read
    assert steps == expected


def file_source(files: Path) -> list[str]:
    questions = f"data.sources.world.questions={files / 'questions.json'}"
    return [*source(files / "videos"), questions]


def test_recipe_straight_from_files(
    toy: ToyProject, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(files / "videos", tmp_path / "videos")
    shutil.copy(files / "questions.json", tmp_path)
    run_recipe("straight from files", toy, "data.sources.world.weight=0")
    assert toy.run_dir("files").checkpoint("last").is_file()


def test_frames_of_one_rank_are_examples(
    toy: ToyProject, processor: HourLLaVAProcessor, tars: str
) -> None:
    data = data_of_rank(toy, processor, *source(tars))
    dataset = TrainingDataset(data.sources, data.mixed_order, processor, data.config)
    example = dataset[0].result
    assert isinstance(example, Example) and example.visual is not None
    assert example.visual.images.shape[1:] == (3, 64, 64)
