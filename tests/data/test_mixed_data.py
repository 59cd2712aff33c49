"""Videos, pictures and texts in one run, from question files to batches."""

import shutil
from pathlib import Path

import pytest

from lit_hour.data.packing.pack import pack
from lit_hour.errors import ConfigError, ShardError
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import IMAGE_TOKEN_INDEX, Frames, ImageSet, TiledImage
from tests.data.mixed import KEYS, RECORDS, talk, write_records
from tests.data.ranks import data_of_rank, training_questions
from tests.data.tiny import SETTINGS, VIDEO
from tests.helpers.toy_run import ToyProject


def test_samples_show_what_they_ask_about(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed: Path
) -> None:
    data = data_of_rank(
        toy, processor, f"data.sources.world.shards={mixed}", "training.max_steps=0"
    )
    batches = {}
    for batch in data.train_dataloader():
        batches.setdefault(batch.keys[0], []).append(batch)
    assert sorted(batches) == sorted(KEYS)
    assert {key: type(each[0].visuals[0]) for key, each in batches.items()} == dict(
        zip(
            KEYS,
            [Frames, TiledImage, TiledImage, ImageSet, type(None), ImageSet, type(None)],
            strict=True,
        )
    )
    num_placeholders = {
        key: int((each[0].input_ids == IMAGE_TOKEN_INDEX).sum()) for key, each in batches.items()
    }
    assert num_placeholders == dict(zip(KEYS, [1, 1, 1, 2, 0, 3, 0], strict=True))
    assert [len(batch.questions[0]) for batch in batches["photo"][:2]] in ([2, 1], [1, 2])
    assert [len(batch.questions[0]) for key in KEYS[3:] for batch in batches[key][:1]] == [
        1,
        3,
        3,
        1,
    ]  # not cut
    assert not any(batch.skipped for each in batches.values() for batch in each)


def test_kinds_share_a_batch(toy: ToyProject, processor: HourLLaVAProcessor, mixed: Path) -> None:
    words = (
        f"data.sources.world.shards={mixed}",
        "data.global_batch_size=8",
        "data.micro_batch_size=8",
        "training.max_steps=1",
    )
    (batch,) = data_of_rank(toy, processor, *words).train_dataloader()
    assert sorted(batch.keys) == sorted([*KEYS, "photo"])
    assert len(batch.visuals) == len(batch.input_ids) == 8


def test_pictures_and_texts_are_validated_question_by_question(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed: Path
) -> None:
    data = data_of_rank(toy, processor, f"data.val_sources.world.shards={mixed}")
    batches = {batch.keys[0]: batch for batch in data.val_dataloader()}
    assert {key: len(batch.input_ids) for key, batch in batches.items()} == dict(
        zip(KEYS, [1, 1, 3, 1, 3, 3, 1], strict=True)
    )
    assert all(len(questions) == 1 for batch in batches.values() for questions in batch.questions)
    placeholders = (batches["record_00000006"].input_ids == IMAGE_TOKEN_INDEX).sum(dim=1)
    assert placeholders.tolist() == [3, 3, 3]


def test_a_marked_question_that_is_asked_alone_has_all_pictures_in_front(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_files: Path, tmp_path: Path
) -> None:
    records = [talk("<image> Is it red?", "And <image>?", image=["photo.jpg", "dot.bmp"])]
    pack(
        mixed_files,
        write_records(tmp_path / "q.json", records),
        tmp_path / "shards",
        VIDEO,
        SETTINGS,
    )
    shards = tmp_path / "shards"
    words = (
        f"data.sources.world.shards={shards}",
        f"data.val_sources.world.shards={shards}",
    )
    data = data_of_rank(toy, processor, *words)
    together, (alone,) = next(iter(data.train_dataloader())), data.val_dataloader()
    assert [question.question for question in together.questions[0]] == [
        "<image> Is it red?",
        "And <image>?",
    ]
    assert [questions[0].question for questions in alone.questions] == ["Is it red?", "And ?"]
    assert (alone.input_ids == IMAGE_TOKEN_INDEX).sum(dim=1).tolist() == [2, 2]


def test_there_is_a_word_for_each_kind(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed: Path
) -> None:
    data = data_of_rank(toy, processor, f"data.sources.world.shards={mixed}")
    counts = (
        "1 videos, 2 images, 2 image sets, 2 texts, 0.0 hours of video, 13 questions in 8 samples"
    )
    assert data.describe() == f"{counts}; 2 videos for validation"


def test_only_videos_have_to_be_sampled_as_the_run_samples(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_files: Path, mixed: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=rf"{mixed} was packed with video\.max_frames=6, this run has 5"
    ):
        data_of_rank(toy, processor, f"data.sources.world.shards={mixed}", "video.max_frames=5")
    records = [record for record in RECORDS if "video" not in record]
    pack(
        mixed_files,
        write_records(tmp_path / "q.json", records),
        tmp_path / "shards",
        VIDEO,
        SETTINGS,
    )
    config = toy.config(
        "none", f"data.sources.world.shards={tmp_path / 'shards'}", "video.max_frames=5"
    )
    assert len(list(training_questions(config))) == 12


def test_a_source_without_weight_is_not_there(
    toy: ToyProject, processor: HourLLaVAProcessor, twice: list[str], tmp_path: Path
) -> None:
    absent = ["data.sources.absent.shards=/nowhere", "data.sources.absent.weight=0"]
    with_absent, without = (data_of_rank(toy, processor, *twice, *words) for words in (absent, []))
    assert list(with_absent.sources) == ["copy", "world"]
    assert [with_absent.order[place] for place in range(50)] == [
        without.order[place] for place in range(50)
    ]
    config = toy.config("none", *absent)
    assert len(list(training_questions(config))) > 0
    with pytest.raises(ShardError, match="/nowhere contains no shards"):
        data_of_rank(
            toy,
            processor,
            "data.sources.absent.shards=/nowhere",
            "data.sources.absent.weight=0.01",
        )
    with pytest.raises(ConfigError, match=r"data\.sources has no source with a weight above 0"):
        data_of_rank(toy, processor, "data.sources.world.weight=0")


def test_a_damaged_picture_is_handed_on(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(mixed, tmp_path / "shards")
    for tar in folder.glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"???").replace(b"RIFF", b"????"))
    words = (
        f"data.sources.world.shards={folder}",
        "training.max_steps=0",
        f"data.val_sources.world.shards={folder}",
    )
    data = data_of_rank(toy, processor, *words)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        skipped = {each.key: each.reason for batch in loader for each in batch.skipped}
        assert sorted(skipped) == ["clip", "photo", "record_00000003", "record_00000006"]
        assert all(
            reason.startswith(str(folder)) and f"{key}.000000." in reason
            for key, reason in skipped.items()
        )
