"""Processes that torchrun has started answer together, each with a part of the video's memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError, MemoryFileError, QuestionError
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory, check_continuation
from lit_hour.inference.video_memory_io import save_memory
from lit_hour.model.sharded_memory import ShardedTokens
from lit_hour.run_dir import RunDir
from tests.helpers.fork import ForkedRanks, fork_ranks
from tests.inference.helpers import random_frames

SHARDED = ("model.memaug.shard_memory=true", "video.min_frames=20", "video.max_frames=40")


def start(num_ranks: int, folder: Path, name: str, work: object) -> ForkedRanks:
    """Fork ranks as torchrun does."""

    def run(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": str(rank)}
        work()

    return fork_ranks(run, [folder / f"{name}-{rank}.txt" for rank in range(num_ranks)])


def tensor_bytes(memory: VideoMemory) -> int:
    return memory.num_bytes - sum(len(jpeg) for _, jpeg in memory.thumbnails)


def test_ranks_answer_as_one_process_and_rank_zero_prints(
    random_run: RunDir, video: Path, tmp_path: Path
) -> None:
    one = VideoPredictor.from_run(random_run.path, device="cpu", overrides=SHARDED)
    assert one.group is None
    memory = one.encode_video(video)
    *_, expected = one.generate(memory, "What is shown?")
    assert isinstance(expected, Answer) and expected.num_new_tokens > 1

    def ask() -> None:
        words = ["--run", str(random_run.path), "--device", "cpu", *SHARDED]
        main(["ask", str(video), "What is shown?", *words])

    ranks = start(2, tmp_path, "ask", ask)
    assert ranks.wait() == [0, 0], ranks.output(0) + ranks.output(1)
    printed = ranks.output(0)
    assert printed.startswith(expected.text) and not ranks.output(1)
    assert f"[{memory.num_frames} frames, {expected.num_memory_tokens} tokens in mem" in printed


@pytest.mark.slow
def test_divided_memory_is_half_as_large_and_cannot_be_saved_or_extended(
    random_run: RunDir, video: Path, tmp_path: Path
) -> None:
    whole = VideoPredictor.from_run(random_run.path, device="cpu", overrides=SHARDED)
    num_bytes = tensor_bytes(whole.encode_video(video))

    def encode() -> None:
        predictor = VideoPredictor.from_run(random_run.path, device="cpu", overrides=SHARDED)
        memory = predictor.encode_video(video)
        assert isinstance(memory.repository.memory, ShardedTokens)
        assert tensor_bytes(memory) < 0.6 * num_bytes
        with pytest.raises(MemoryFileError, match="divided over ranks and cannot be saved"):
            save_memory(predictor, memory, tmp_path / "memory.safetensors")
        with pytest.raises(QuestionError, match="divided over ranks and cannot be extended"):
            check_continuation(memory, random_frames(2), 100.0, 100)
        short = replace(predictor.config.video, min_frames=4, max_frames=6)
        predictor.config = replace(predictor.config, video=short)
        memory = predictor.encode_video(video)  # too short to be divided
        assert memory.stream is not None and memory.num_frames == 6

    ranks = start(2, tmp_path, "encode", encode)
    assert ranks.wait() == [0, 0], ranks.output(0) + ranks.output(1)


@pytest.mark.slow
def test_conversation_and_evidence_of_ranks_are_refused(
    random_run: RunDir, video: Path, tmp_path: Path
) -> None:
    def ask() -> None:
        words = ["--run", str(random_run.path), "--device", "cpu", *SHARDED]
        main(["ask", str(video), *words])

    ranks = start(2, tmp_path, "talk", ask)
    assert ranks.wait() == [1, 1]
    assert "answer one question, without --evidence." in ranks.output()


def test_forgetting_by_content_is_refused() -> None:
    words = ["model.memaug.shard_memory=true", "model.memaug.temporal_forgetting=keyframe"]
    with pytest.raises(ConfigError, match="needs frames that are chosen without their tokens"):
        load_config(overrides=words)
