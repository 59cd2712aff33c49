import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hour.data.shards.reader import open_shards
from lit_hour.data.training_samples import samples_per_shard
from lit_hour.errors import ConfigError, ShardError
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import IGNORE_INDEX, Batch, Frames
from tests.data.rank_data import data_of_rank, finish_step, resume, training_questions
from tests.helpers.toy_run import SAMPLES_PER_STEP, StepRecorder, StoppedError, ToyProject


def batches_equal(one: Batch, other: Batch) -> bool:
    return (one.keys, one.positions, one.questions) == (
        other.keys,
        other.positions,
        other.questions,
    ) and all(
        torch.equal(first, second)
        for first, second in [
            (one.input_ids, other.input_ids),
            (one.labels, other.labels),
            *(
                (first.images, second.images)
                for first, second in zip(one.visuals, other.visuals, strict=True)
            ),  # type: ignore[union-attr]
        ]
    )


def progress_of(state: dict[str, Any]) -> tuple[int, int]:
    """Return step and position."""
    return state["step"], state["position"]


# Batches


def test_run_is_one_pass_long_by_default(toy: ToyProject, processor: HourLLaVAProcessor) -> None:
    data = data_of_rank(toy, processor, "training.max_steps=0")
    num_samples = sum(samples_per_shard(data.sources["world"], data.config))
    assert data.num_steps == -(-num_samples // SAMPLES_PER_STEP) == len(data.train_dataloader()) / 2
    positions = [position for batch in data.train_dataloader() for position in batch.positions]
    assert positions == list(range(data.num_steps * SAMPLES_PER_STEP))
    assert data_of_rank(toy, processor, "training.max_steps=5").num_steps == 5


@pytest.mark.parametrize(("show", "num_frames"), [("all", 6), ("first", 1), ("none", None)])
def test_frames_setting_selects_all_first_or_no_frames(
    toy: ToyProject, processor: HourLLaVAProcessor, show: str, num_frames: int | None
) -> None:
    everything, data = (
        data_of_rank(toy, processor),
        data_of_rank(toy, processor, f"video.frames={show}"),
    )
    batch, expected = next(iter(data.val_dataloader())), next(iter(everything.val_dataloader()))
    assert batch.questions == expected.questions
    (visual,) = batch.visuals
    assert (None if visual is None else len(visual)) == num_frames
    if isinstance(visual, Frames):
        assert (
            torch.equal(visual.images[0], expected.visuals[0].images[0])
            and visual.timestamps[0] == 0
        )


def test_one_pass_contains_every_question_once(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    data = data_of_rank(toy, processor, "training.max_steps=0", "data.global_batch_size=1")
    batches = list(data.train_dataloader())
    ids = [
        question.id for batch in batches for questions in batch.questions for question in questions
    ]
    assert len(ids) == len(set(ids))
    assert sorted(ids) == sorted(question.id for question in training_questions(toy.config("none")))
    assert {len(questions) for batch in batches for questions in batch.questions} <= {1, 2}
    videos, num_questions = len({batch.keys for batch in batches}), len(ids)
    assert (
        f"{videos} videos" in data.describe()
        and f"{num_questions} questions in {len(batches)} samples" in data.describe()
    )


def test_number_of_workers_does_not_change_batches(
    toy: ToyProject, processor: HourLLaVAProcessor, two_sources: list[str]
) -> None:
    read = [
        list(
            data_of_rank(
                toy,
                processor,
                *two_sources,
                f"data.num_workers={num_workers}",
                "data.micro_batch_size=2",
            ).train_dataloader()
        )
        for num_workers in (0, 1, 2)
    ]
    assert len(read[0]) == 6
    for other in read[1:]:
        assert all(
            batches_equal(first, second) for first, second in zip(read[0], other, strict=True)
        )


def test_sources_are_mixed_by_weight(
    toy: ToyProject, processor: HourLLaVAProcessor, two_sources: list[str]
) -> None:
    data = data_of_rank(toy, processor, *two_sources, "training.max_steps=0")
    per_source = {
        name: sum(samples_per_shard(shards, data.config)) for name, shards in data.sources.items()
    }
    assert data.mixed_order.num_samples == per_source["world"] + round(per_source["copy"] / 2)
    drawn = [data.mixed_order[position][0] for position in range(data.mixed_order.num_samples)]
    assert drawn.count("copy") == round(per_source["copy"] / 2)
    assert "copy" in drawn[:10] and "copy" in drawn[-10:]


# Ranks


@pytest.mark.parametrize("argv", [(), ("data.micro_batch_size=2",)])
def test_all_ranks_together_read_each_step_once(
    toy: ToyProject, processor: HourLLaVAProcessor, argv: tuple[str, ...]
) -> None:
    argv = ("data.global_batch_size=8", "training.max_steps=3", *argv)
    steps = {}
    for num_ranks in (1, 2, 4):
        loaders = [
            data_of_rank(toy, processor, *argv, rank=rank, num_ranks=num_ranks).train_dataloader()
            for rank in range(num_ranks)
        ]
        batches = [[batch.positions for batch in loader] for loader in loaders]
        assert (
            len({len(of_rank) for of_rank in batches}) == 1
        )  # every rank computes the same number of micro-batches
        per_step = len(batches[0]) // 3
        steps[num_ranks] = [
            sorted(
                position
                for rank in batches
                for positions in rank[step * per_step : (step + 1) * per_step]
                for position in positions
            )
            for step in range(3)
        ]
    assert (
        steps[1] == steps[2] == steps[4] == [list(range(start, start + 8)) for start in (0, 8, 16)]
    )


def test_step_that_ranks_cannot_share_evenly_is_rejected(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.global_batch_size=2 must be a multiple of 3 .*Set it to 3"
    ):
        data_of_rank(toy, processor, num_ranks=3).train_dataloader()


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_validation_has_each_video_once_over_all_ranks(
    toy: ToyProject, processor: HourLLaVAProcessor, num_ranks: int
) -> None:
    shards = toy.yaml.parent / "world/train/shards"
    argv = [f"data.val_sources.more.shards={shards}"]
    loaders = [
        data_of_rank(toy, processor, *argv, rank=rank, num_ranks=num_ranks).val_dataloader()
        for rank in range(num_ranks)
    ]
    batches = [batch for loader in loaders for batch in loader]
    videos = [
        (source, video.key)
        for source, folder in (
            ("more", shards),
            ("world", toy.yaml.parent / "world/validation/shards"),
        )
        for video in open_shards(folder).entries
    ]
    assert sorted(batch.keys[0] for batch in batches) == sorted(key for _, key in videos)
    for batch in batches:
        assert batch.positions == () and set(batch.visual_of_text) == {0}
        assert all(
            len(questions) == 1 for questions in batch.questions
        )  # one conversation per question
        assert 0 < len(batch.questions) <= 4


def test_validation_has_no_labels_on_the_template(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    published = HourLLaVAProcessor(
        processor.tokenizer, replace(processor.config, loss_on_template=True)
    )
    override = "text.loss_on_template=true"
    plain, with_template = (
        data_of_rank(toy, one, *more) for one, more in ((processor, ()), (published, (override,)))
    )
    for one, other in zip(plain.val_dataloader(), with_template.val_dataloader(), strict=True):
        assert torch.equal(one.labels, other.labels) and torch.equal(
            one.question_mask, other.question_mask
        )
    one, other = next(iter(plain.train_dataloader())), next(iter(with_template.train_dataloader()))
    assert int((other.labels != IGNORE_INDEX).sum()) > int((one.labels != IGNORE_INDEX).sum())


def test_validation_forgets_like_training(toy: ToyProject, processor: HourLLaVAProcessor) -> None:
    memaug = replace(processor.memaug, max_kept_frames=3)  # for `text.subtitles=kept`
    loader = data_of_rank(toy, replace(processor, memaug=memaug)).val_dataloader()
    assert loader.dataset.processor.memaug == memaug


def test_fewer_validation_videos_than_ranks_are_rejected(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_sources have 2 entries for 3 ranks"):
        data_of_rank(toy, processor, num_ranks=3, rank=1).val_dataloader()


def test_validation_sources_may_be_empty(
    toy: ToyProject, processor: HourLLaVAProcessor, tmp_path: Path
) -> None:
    data = data_of_rank(toy, processor)
    data.val_sources = {}
    assert data.val_dataloader() == []


# State


def test_state_counts_trained_samples_and_not_prefetched_ones(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    data = data_of_rank(toy, processor, "data.num_workers=2", "training.max_steps=20")
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(5):  # the workers have read further batches
        next(batches)
    assert progress_of(data.state_dict()) == (0, 0)
    finish_step(data)
    finish_step(data)
    assert progress_of(data.state_dict()) == (2, 4)
    assert loader.data_wait_seconds > 0
    other = data_of_rank(toy, processor, "training.max_steps=20")
    resume(other, data.state_dict())
    assert next(iter(other.train_dataloader())).positions == (4,)
    assert len(other.train_dataloader()) == len(data.train_dataloader()) == 40


def test_checkpoint_has_step_and_position(toy: ToyProject, step_recorder: StepRecorder) -> None:
    step_recorder.stop_after_batches = 9
    with pytest.raises(StoppedError):
        toy.fit("state", "data.num_workers=2")
    state = torch.load(toy.run_dir("state").checkpoint("last"), weights_only=True)
    assert progress_of(state["VideoQADataModule"]) == (4, 8)


def test_state_resumes_with_other_ranks_and_workers(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    argv = ("data.global_batch_size=4", "training.max_steps=6")
    expected = [
        list(batch.positions) for batch in data_of_rank(toy, processor, *argv).train_dataloader()
    ]
    rest = []
    for rank in range(2):
        data = data_of_rank(toy, processor, *argv, "data.num_workers=1", rank=rank, num_ranks=2)
        resume(data, {**data.state_dict(), "step": 4, "position": 16})
        rest += [position for batch in data.train_dataloader() for position in batch.positions]
    assert sorted(rest) == sorted(position for positions in expected[16:] for position in positions)


# Corrupt samples


def test_corrupt_sample_is_listed_as_skipped_in_its_batch(
    toy: ToyProject, processor: HourLLaVAProcessor, tmp_path: Path
) -> None:
    folder = shutil.copytree(toy.yaml.parent / "world/train/shards", tmp_path / "shards")
    tar = folder / "000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"???"))
    argv = (
        f"data.sources.world.shards={folder}",
        "data.micro_batch_size=2",
        "training.max_steps=0",
    )
    batches = list(data_of_rank(toy, processor, *argv).train_dataloader())
    positions = [position for batch in batches for position in batch.positions]
    skipped = [sample for batch in batches for sample in batch.skipped]
    assert len(positions) + len(skipped) == 2 * len(batches)
    assert all(
        sample.key in {"synthetic_00002", "synthetic_00003"} and f"{tar}: video" in sample.reason
        for sample in skipped
    )
    mixed = [batch for batch in batches if len(batch.positions) == 1]
    assert mixed and all(len(batch.keys) == len(batch.visuals) == 1 for batch in mixed)
    empty = [batch for batch in batches if not batch.positions]
    assert empty and all(batch.keys == ("",) and batch.visuals == (None,) for batch in empty)


def test_source_without_shards_is_rejected(
    toy: ToyProject, processor: HourLLaVAProcessor, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match=f"{tmp_path} contains no shards"):
        data_of_rank(toy, processor, f"data.sources.other.shards={tmp_path}")
