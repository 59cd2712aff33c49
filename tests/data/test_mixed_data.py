"""Videos, images, image sets and texts in one run."""

import shutil
from pathlib import Path

import pytest
import torch

from lit_hour.data.packing.pack import pack
from lit_hour.errors import ConfigError, ShardError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import IMAGE_TOKEN_INDEX, Frames, ImageSet, TiledImage
from tests.data.factories import MIXED_KEYS, MIXED_RECORDS, PACK, VIDEO, conversation, write_records
from tests.data.rank_data import data_of_rank, training_questions
from tests.helpers.toy_run import ToyProject


def test_samples_have_the_visuals_of_their_modality(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_shards: Path
) -> None:
    data = data_of_rank(
        toy, processor, f"data.sources.world.shards={mixed_shards}", "training.max_steps=0"
    )
    batches = {}
    for batch in data.train_dataloader():
        batches.setdefault(batch.keys[0], []).append(batch)
    assert sorted(batches) == sorted(MIXED_KEYS)
    assert {key: type(group[0].visuals[0]) for key, group in batches.items()} == dict(
        zip(
            MIXED_KEYS,
            [Frames, TiledImage, TiledImage, ImageSet, type(None), ImageSet, type(None)],
            strict=True,
        )
    )
    num_placeholders = {
        key: int((group[0].input_ids == IMAGE_TOKEN_INDEX).sum()) for key, group in batches.items()
    }
    assert num_placeholders == dict(zip(MIXED_KEYS, [1, 1, 1, 2, 0, 3, 0], strict=True))
    assert [len(batch.questions[0]) for batch in batches["photo"][:2]] in ([2, 1], [1, 2])
    assert [len(batch.questions[0]) for key in MIXED_KEYS[3:] for batch in batches[key][:1]] == [
        1,
        3,
        3,
        1,
    ]  # one conversation each
    assert not any(batch.skipped for group in batches.values() for batch in group)


def test_modalities_share_a_batch(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_shards: Path
) -> None:
    argv = (
        f"data.sources.world.shards={mixed_shards}",
        "data.global_batch_size=8",
        "data.micro_batch_size=8",
        "training.max_steps=1",
    )
    (batch,) = data_of_rank(toy, processor, *argv).train_dataloader()
    assert sorted(batch.keys) == sorted([*MIXED_KEYS, "photo"])
    assert len(batch.visuals) == len(batch.input_ids) == 8


def test_validation_has_one_conversation_per_question(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_shards: Path
) -> None:
    data = data_of_rank(toy, processor, f"data.val_sources.world.shards={mixed_shards}")
    batches = {batch.keys[0]: batch for batch in data.val_dataloader()}
    assert {key: len(batch.input_ids) for key, batch in batches.items()} == dict(
        zip(MIXED_KEYS, [1, 1, 3, 1, 3, 3, 1], strict=True)
    )
    assert all(len(questions) == 1 for batch in batches.values() for questions in batch.questions)
    placeholders = (batches["record_00000006"].input_ids == IMAGE_TOKEN_INDEX).sum(dim=1)
    assert placeholders.tolist() == [3, 3, 3]


def test_single_question_with_partial_placeholders_has_all_images_in_front(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_files: Path, tmp_path: Path
) -> None:
    records = [conversation("<image> Is it red?", "And <image>?", image=["photo.jpg", "dot.bmp"])]
    pack(
        mixed_files,
        write_records(tmp_path / "q.json", records),
        tmp_path / "shards",
        VIDEO,
        PACK,
    )
    shards = tmp_path / "shards"
    argv = (
        f"data.sources.world.shards={shards}",
        f"data.val_sources.world.shards={shards}",
    )
    data = data_of_rank(toy, processor, *argv)
    together, (alone,) = next(iter(data.train_dataloader())), data.val_dataloader()
    assert [question.question for question in together.questions[0]] == [
        "<image> Is it red?",
        "And <image>?",
    ]
    assert [questions[0].question for questions in alone.questions] == [" Is it red?", "And ?"]
    assert (alone.input_ids == IMAGE_TOKEN_INDEX).sum(dim=1).tolist() == [2, 2]


def test_describe_counts_each_modality(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_shards: Path
) -> None:
    data = data_of_rank(toy, processor, f"data.sources.world.shards={mixed_shards}")
    counts = (
        "1 videos, 2 images, 2 image sets, 2 texts, 0.0 hours of video, 13 questions in 8 samples"
    )
    assert data.describe() == f"{counts}; 2 videos for validation"


def test_sampling_settings_are_checked_for_videos_only(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    mixed_files: Path,
    mixed_shards: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"{mixed_shards} was packed with video\.max_frames=6, this run has 5",
    ):
        data_of_rank(
            toy, processor, f"data.sources.world.shards={mixed_shards}", "video.max_frames=5"
        )
    records = [record for record in MIXED_RECORDS if "video" not in record]
    pack(
        mixed_files,
        write_records(tmp_path / "q.json", records),
        tmp_path / "shards",
        VIDEO,
        PACK,
    )
    config = toy.config(
        "none", f"data.sources.world.shards={tmp_path / 'shards'}", "video.max_frames=5"
    )
    assert len(list(training_questions(config))) == 12


def test_source_with_weight_zero_may_be_missing(
    toy: ToyProject, processor: HourLLaVAProcessor, two_sources: list[str], tmp_path: Path
) -> None:
    absent = ["data.sources.absent.shards=/nowhere", "data.sources.absent.weight=0"]
    with_absent, without = (
        data_of_rank(toy, processor, *two_sources, *argv) for argv in (absent, [])
    )
    assert list(with_absent.sources) == ["copy", "world"]
    assert [with_absent.mixed_order[position] for position in range(50)] == [
        without.mixed_order[position] for position in range(50)
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


def test_corrupt_images_are_listed_as_skipped(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_shards: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(mixed_shards, tmp_path / "shards")
    for tar in folder.glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"???").replace(b"RIFF", b"????"))
    argv = (
        f"data.sources.world.shards={folder}",
        "training.max_steps=0",
        f"data.val_sources.world.shards={folder}",
    )
    data = data_of_rank(toy, processor, *argv)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        skipped = {sample.key: sample.reason for batch in loader for sample in batch.skipped}
        assert sorted(skipped) == ["clip", "photo", "record_00000003", "record_00000006"]
        assert all(
            reason.startswith(str(folder)) and f"{key}.000000." in reason
            for key, reason in skipped.items()
        )


@pytest.mark.parametrize("packing", ["true", "false"])
def test_batches_of_all_modalities_keep_the_budget(
    toy: ToyProject, processor: HourLLaVAProcessor, mixed_shards: Path, packing: str
) -> None:
    argv = (
        f"data.sources.world.shards={mixed_shards}",
        "data.tokens_per_batch=1500",
        "data.batches_per_step=1",
        "data.min_bytes_per_token=1",
        "data.length_balance_window=100",
        "data.conversations_per_video=2",
        "training.max_steps=0",
        f"training.packing={packing}",
    )
    data = data_of_rank(toy, processor, *argv)
    model = HourLLaVA.from_config(data.config, len(processor.tokenizer))
    num_samples, num_texts = [], 0
    for batch in data.train_dataloader():
        with torch.no_grad():
            inputs = model.build_inputs(batch, model.build_repositories(batch.visuals))
        mask = inputs.attention_mask  # (texts, tokens)
        computed = int(mask.sum()) if packing == "true" else mask.numel()
        assert computed <= 1500 or len(batch.keys) == 1
        num_samples.append(len(batch.keys))
        num_texts += len(mask)
    assert sum(num_samples) == data.mixed_order.num_samples < num_texts + 1
    assert max(num_samples) > 1 and len(num_samples) == data.num_steps
