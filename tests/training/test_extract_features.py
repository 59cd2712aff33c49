"""Extract features with real processes, some of which are killed."""

import contextlib
import io
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hour.cli.main import main
from lit_hour.data.datasets import load_features, load_frames
from lit_hour.data.features.source import SampleRef
from lit_hour.data.features.writer import FeatureWriter
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ConfigError, ShardError, WeightsError
from lit_hour.training.extract_features import extract_features
from lit_hour.training.predict import assign_greedily
from lit_hour.weights.pretrained import load_vision_encoder
from tests.helpers.fork import ForkedRanks, fork_ranks
from tests.helpers.toy_run import TrainedRun

NUM_VIDEOS = 8  # of `frames`, in three shards


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def fork_extract(
    overrides: Sequence[str],
    outputs: Path,
    *,
    num_ranks: int = 1,
    prepare: Callable[[int], None] = lambda rank: None,
) -> ForkedRanks:
    """Start `lit-hour extract-features` in forked ranks; each calls `prepare` first."""

    def work(rank: int) -> None:
        prepare(rank)
        main(["extract-features", *overrides, f"training.devices={num_ranks}"])

    return fork_ranks(work, [outputs / f"rank{rank}.txt" for rank in range(num_ranks)])


def die_at(method: str, *, call: int, rank: int, log: Path) -> Callable[[int], None]:
    """Return a function that logs each saved video and kills one rank at a call of a method.

    Args:
        method: of `FeatureWriter`.
        call: which call of it, from 1; 0 kills nothing.
        rank: to kill.
        log: file with one line for each saved video.
    """

    def prepare(this_rank: int) -> None:
        original, keep, calls = getattr(FeatureWriter, method), FeatureWriter.save, []

        def noted(folder: FeatureWriter, sample: SampleRef, *given: Any) -> None:
            keep(folder, sample, *given)
            with log.open("a") as lines:
                lines.write(f"{sample.shard} {sample.index}\n")

        def counted(*given: Any) -> Any:
            calls.append(given)
            if this_rank == rank and len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return (noted if method == "save" else original)(*given)

        FeatureWriter.save = noted  # type: ignore[method-assign]
        if call:
            setattr(FeatureWriter, method, counted)

    return prepare


# Processes


@pytest.mark.slow
def test_three_processes_write_the_same_bytes_as_one(
    frames: Path, features: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    overrides = (
        str(frames / "shards"),
        str(tmp_path / "out"),
        "--run",
        str(trained.run.path),
        "data.num_workers=1",
    )
    started = fork_extract(overrides, tmp_path, num_ranks=3)
    assert started.wait() == [0, 0, 0], started.output()
    assert contents(tmp_path / "out") == contents(features)
    assert f"{tmp_path}/out: {NUM_VIDEOS} videos to extract, 3 processes" in started.output()
    assert (
        f"{tmp_path}/out: 3 shards with {NUM_VIDEOS} videos; " in started.output()
        and "frame/s" in started.output()
    )
    assert not started.output(1).count("shards with")


@pytest.mark.parametrize(
    ("ranks", "method", "call", "victim"),
    [
        ((2, 1), "save", 2, 1),  # the other rank finishes its videos and does not wait forever
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ((2, 3), "save", 3, 0),
                ((1, 2), "write_shard", 2, 0),
                ((1, 1), "write_totals", 1, 0),
            )
        ),
    ],
)
def test_killed_extraction_resumes_with_another_number_of_processes(
    frames: Path,
    features: Path,
    trained: TrainedRun,
    tmp_path: Path,
    ranks: tuple[int, int],
    method: str,
    call: int,
    victim: int,
) -> None:
    overrides = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path))
    log = tmp_path / "kept.txt"
    killed = fork_extract(
        overrides,
        tmp_path,
        num_ranks=ranks[0],
        prepare=die_at(method, call=call, rank=victim, log=log),
    )
    statuses = killed.wait()
    assert statuses[victim] == -signal.SIGKILL
    for rank in {*range(ranks[0])} - {victim}:
        assert statuses[rank] == 1
        assert "error: Another rank of this run has exited" in killed.output(
            rank
        ) and "to extract the missing videos" in killed.output(rank)
    num_kept = len(log.read_text().splitlines())
    assert num_kept > 0 and (num_kept < NUM_VIDEOS or method != "save")
    with pytest.raises(ShardError):
        open_shards(tmp_path / "out")

    again = fork_extract(
        overrides, tmp_path, num_ranks=ranks[1], prepare=die_at("save", call=0, rank=0, log=log)
    )
    assert again.wait() == [0] * ranks[1], again.output()
    assert f"{NUM_VIDEOS - num_kept} videos to extract" in again.output()
    kept = log.read_text().splitlines()
    assert len(kept) == len(set(kept)) == NUM_VIDEOS
    assert contents(tmp_path / "out") == contents(features)


def test_sigterm_stops_the_extraction(frames: Path, trained: TrainedRun, tmp_path: Path) -> None:
    def terminate(rank: int) -> None:
        keep = FeatureWriter.save

        def keep_and_terminate(*given: Any) -> None:
            keep(*given)
            os.kill(os.getpid(), signal.SIGTERM)

        FeatureWriter.save = keep_and_terminate  # type: ignore[method-assign]

    overrides = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path))
    assert fork_extract(overrides, tmp_path, prepare=terminate).wait() == [1]
    assert len(list((tmp_path / "out/parts").glob("*/*.json"))) == 1


@pytest.mark.slow
def test_second_start_waits_for_the_first(
    frames: Path, features: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    overrides = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path))
    log = tmp_path / "kept.txt"
    outputs = [tmp_path / name for name in ("one", "other")]
    for folder in outputs:
        folder.mkdir()
    starts = [
        fork_extract(overrides, folder, prepare=die_at("save", call=0, rank=0, log=log))
        for folder in outputs
    ]
    assert [start.wait() for start in starts] == [[0], [0]]
    assert len(log.read_text().splitlines()) == NUM_VIDEOS
    assert contents(tmp_path / "out") == contents(features)


def test_assign_greedily_balances_costs_and_keeps_order() -> None:
    videos = [SampleRef(0, number) for number in range(7)]
    shares = assign_greedily(videos, [9, 1, 1, 1, 5, 1, 5], 2)
    assert shares == [[videos[0], videos[6]], videos[1:6]]
    assert assign_greedily(videos[:1], [3], 3) == [[videos[0]], [], []]


# The encoder


def test_features_equal_the_encoder_output_of_the_frames(
    features: Path, frames: Path, trained: TrainedRun
) -> None:
    encoder = load_vision_encoder(trained.config, trained.run.checkpoint())
    stored, seen = open_shards(features), open_shards(frames / "shards")
    for one, other in zip(stored.entries, seen.entries, strict=True):
        images = load_frames(seen.read(other), 64, 6).images
        with torch.no_grad():
            expected = encoder.encode_images(images).bfloat16()  # (frames, tokens, vision_dim)
        torch.testing.assert_close(load_features(stored.read(one), 6).tokens, expected)


def test_features_of_video_files_match_those_of_frames_up_to_jpeg_loss(
    features: Path, frames: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    overrides = ("pack.videos_per_shard=3", "training.precision=32-true")
    extract_features(
        str(frames / "videos"),
        tmp_path / "out",
        overrides,
        questions=frames / "questions.json",
        run=trained.run.path,
    )
    direct, stored = open_shards(tmp_path / "out"), open_shards(features)
    differences = []
    for one, other in zip(direct.entries, stored.entries, strict=True):
        one_read, other_read = direct.read(one), stored.read(other)
        assert (one_read.key, one_read.questions, one_read.timestamps_seconds) == (
            other_read.key,
            other_read.questions,
            other_read.timestamps_seconds,
        )
        tokens, jpeg_tokens = (
            load_features(sample, 6).tokens.float() for sample in (one_read, other_read)
        )
        differences.append(float((tokens - jpeg_tokens).norm() / jpeg_tokens.norm()))
    assert 0 < max(differences) < 0.1


def test_settings_with_init_from_select_the_encoder_weights(
    frames: Path, features: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(
            [
                *("extract-features", str(frames / "shards"), str(tmp_path / "out")),
                *trained.project.argv("next", f"training.init_from={trained.run.path}"),
            ]
        )
    assert contents(tmp_path / "out") == contents(features)
    assert (
        f"to train on them: python train.py -c FILE.yaml data.sources.NAME.shards={tmp_path}/out"
        in printed.getvalue()
    )


@pytest.mark.parametrize(
    ("overrides", "given", "message"),
    [
        (
            [],
            {"run": True, "files": [Path("conf/tiny.yaml")]},
            r"--run .* has its own settings\. Remove conf/tiny\.yaml or --run",
        ),
        (
            [],
            {"checkpoint": "last"},
            r"--checkpoint names a checkpoint of a run\. Give the run with --run",
        ),
        (
            ["video.image_size=64", "video.min_frames=4", "video.max_frames=6"],
            {},
            "name no weights for the vision encoder",
        ),
        (
            ["video.max_frames=5"],
            {"run": True},
            r"was packed with video\.max_frames=6, this run has 5",
        ),
    ],
)
def test_unusable_settings_are_refused_before_writing(
    frames: Path,
    trained: TrainedRun,
    tmp_path: Path,
    overrides: list[str],
    given: dict[str, Any],
    message: str,
) -> None:
    given = {**given, **({"run": trained.run.path} if "run" in given else {})}
    with pytest.raises(ConfigError, match=message):
        extract_features(str(frames / "shards"), tmp_path / "out", overrides, **given)
    assert not (tmp_path / "out").exists()


def test_encoder_with_nonfinite_tokens_is_refused(
    frames: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if ".vision." in name)
    checkpoint["state_dict"][name].fill_(torch.nan)
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    with pytest.raises(WeightsError, match="returns non-finite tokens"):
        extract_features(str(frames / "shards"), tmp_path / "out", run=run, checkpoint="last")
