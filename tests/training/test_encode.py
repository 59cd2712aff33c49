"""Videos -> features by real processes, which are killed; and training on what came out."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from forked import FORK, Forked
from lightning.pytorch.callbacks import Callback
from small_run import Small, Trained, Watch, largest_difference, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.__main__ import main
from lit_hour.data.encode_source import Place
from lit_hour.data.feature_folder import FeatureFolder
from lit_hour.data.pack import pack
from lit_hour.data.shards import open_shards
from lit_hour.data.visual import load_features, load_frames
from lit_hour.errors import ConfigError, InputError, ShardError, WeightsError
from lit_hour.interop.encoder import load_encoder
from lit_hour.training import fit
from lit_hour.training.encode import deal, encode
from lit_hour.types import Batch

NUM_VIDEOS = 8  # in three shards


@pytest.fixture(scope="module")
def frames(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of frames of the world's four videos, each of them twice."""
    folder, world = tmp_path_factory.mktemp("frames"), small.yaml.parent / "world/train"
    records = json.loads((world / "questions.json").read_text())
    (folder / "videos").mkdir()
    twice = []
    for copy in ("a", "b"):
        for file in (world / "videos").glob("*.mp4"):
            shutil.copy2(file, folder / f"videos/{copy}_{file.name}")
        twice += [{**record, "id": f"{copy}{record['id']}", "video": f"{copy}_{record['video']}"} for record in records]
    (folder / "questions.json").write_text(json.dumps(twice))
    config = small.config("none", "pack.videos_per_shard=3")
    pack(folder / "videos", folder / "questions.json", folder / "shards", config.video, config.pack)
    return folder


@pytest.fixture(scope="module")
def features(frames: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process that nobody disturbs makes of them."""
    target = tmp_path_factory.mktemp("features") / "shards"
    encode(str(frames / "shards"), target, run=trained.run.path)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def fork_encode(
    words: Sequence[str], outputs: Path, *, num_ranks: int = 1, prepare: Callable[[int], None] = lambda rank: None
) -> Forked:
    """`python -m lit_hour encode` in forks, after something was prepared in each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = [outputs / f"rank{rank}.txt" for rank in range(num_ranks)]

    def work(rank: int) -> None:
        with files[rank].open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if num_ranks > 1:
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        prepare(rank)
        try:
            main(["encode", *words, f"training.devices={num_ranks}"])
        except InputError as error:
            sys.exit(f"error: {error}")

    ranks = [FORK.Process(target=work, args=(rank,)) for rank in range(num_ranks)]
    for each in ranks:
        each.start()
    return Forked(ranks, files)


def die_at(method: str, *, call: int, rank: int, log: Path) -> Callable[[int], None]:
    """Note each video that is kept, and have one rank killed at the how many-th call of a method of the folder."""

    def prepare(this_rank: int) -> None:
        original, keep, calls = getattr(FeatureFolder, method), FeatureFolder.keep, []

        def noted(folder: FeatureFolder, place: Place, *given: Any) -> None:
            keep(folder, place, *given)
            with log.open("a") as lines:
                lines.write(f"{place.shard} {place.number}\n")

        def counted(*given: Any) -> Any:
            calls.append(given)
            if this_rank == rank and len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return (noted if method == "keep" else original)(*given)

        FeatureFolder.keep = noted  # type: ignore[method-assign]
        if call:
            setattr(FeatureFolder, method, counted)

    return prepare


# Processes


def test_one_process_and_several_make_the_same_bytes(frames: Path, features: Path, trained: Trained, tmp_path: Path) -> None:
    words = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path), "data.num_workers=1")
    started = fork_encode(words, tmp_path, num_ranks=3)
    assert started.wait() == [0, 0, 0], started.printed()
    assert contents(tmp_path / "out") == contents(features)
    assert f"{tmp_path}/out: {NUM_VIDEOS} videos to encode, for 3 processes" in started.printed()
    assert f"{tmp_path}/out: 3 shards with {NUM_VIDEOS} videos; " in started.printed() and "frame/s" in started.printed()
    assert not started.printed(1).count("shards with")


@pytest.mark.parametrize(
    ("ranks", "method", "call", "victim"),
    [
        ((2, 1), "keep", 2, 1),  # the other one goes on to the end of its share, and does not wait for ever
        ((2, 3), "keep", 3, 0),
        ((1, 2), "assemble", 2, 0),
        ((1, 1), "finish", 1, 0),
    ],
)
def test_after_kill_9_another_number_of_processes_goes_on(
    frames: Path, features: Path, trained: Trained, tmp_path: Path, ranks: tuple[int, int], method: str, call: int, victim: int
) -> None:
    words = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path))
    log = tmp_path / "kept.txt"
    killed = fork_encode(words, tmp_path, num_ranks=ranks[0], prepare=die_at(method, call=call, rank=victim, log=log))
    statuses = killed.wait()
    assert statuses[victim] == -signal.SIGKILL
    for rank in {*range(ranks[0])} - {victim}:
        assert statuses[rank] == 1
        assert "error: another rank of this run has ended" in killed.printed(
            rank
        ) and "videos that are missing" in killed.printed(rank)
    num_kept = len(log.read_text().splitlines())
    assert num_kept > 0 and (num_kept < NUM_VIDEOS or method != "keep")
    with pytest.raises(ShardError):
        open_shards(tmp_path / "out")

    again = fork_encode(words, tmp_path, num_ranks=ranks[1], prepare=die_at("keep", call=0, rank=0, log=log))
    assert again.wait() == [0] * ranks[1], again.printed()
    assert f"{NUM_VIDEOS - num_kept} videos to encode" in again.printed()
    kept = log.read_text().splitlines()
    assert len(kept) == len(set(kept)) == NUM_VIDEOS
    assert contents(tmp_path / "out") == contents(features)


def test_sigterm_ends_all_processes(frames: Path, trained: Trained, tmp_path: Path) -> None:
    def terminate(rank: int) -> None:
        keep = FeatureFolder.keep

        def keep_and_terminate(*given: Any) -> None:
            keep(*given)
            os.kill(os.getpid(), signal.SIGTERM)

        FeatureFolder.keep = keep_and_terminate  # type: ignore[method-assign]

    words = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path))
    assert fork_encode(words, tmp_path, prepare=terminate).wait() == [1]
    assert len(list((tmp_path / "out/unfinished").glob("*/*.json"))) == 1


def test_another_start_waits_until_the_first_has_ended(frames: Path, features: Path, trained: Trained, tmp_path: Path) -> None:
    words = (str(frames / "shards"), str(tmp_path / "out"), "--run", str(trained.run.path))
    log = tmp_path / "kept.txt"
    outputs = [tmp_path / name for name in ("one", "other")]
    for folder in outputs:
        folder.mkdir()
    starts = [fork_encode(words, folder, prepare=die_at("keep", call=0, rank=0, log=log)) for folder in outputs]
    assert [start.wait() for start in starts] == [[0], [0]]
    assert len(log.read_text().splitlines()) == NUM_VIDEOS
    assert contents(tmp_path / "out") == contents(features)


def test_videos_are_dealt_by_what_they_cost_and_keep_their_order() -> None:
    videos = [Place(0, number) for number in range(7)]
    shares = deal(videos, [9, 1, 1, 1, 5, 1, 5], 2)
    assert shares == [[videos[0], videos[6]], videos[1:6]]
    assert deal(videos[:1], [3], 3) == [[videos[0]], [], []]


# The encoder


def test_features_are_what_the_model_makes_of_the_frames(features: Path, frames: Path, trained: Trained) -> None:
    encoder = load_encoder(trained.config, trained.run.checkpoint())
    stored, seen = open_shards(features), open_shards(frames / "shards")
    for one, other in zip(stored.subjects, seen.subjects, strict=True):
        images = load_frames(seen.read_subject(other), 64, 6).images
        with torch.no_grad():
            expected = encoder(images).bfloat16()  # (frames, tokens, vision_dim)
        torch.testing.assert_close(load_features(stored.read_subject(one), 6).tokens, expected)


def test_videos_themselves_give_the_features_of_their_frames_but_for_the_jpegs(
    features: Path, frames: Path, trained: Trained, tmp_path: Path
) -> None:
    words = ("pack.videos_per_shard=3", "training.precision=32-true")
    encode(str(frames / "videos"), tmp_path / "out", words, questions=frames / "questions.json", run=trained.run.path)
    direct, stored = open_shards(tmp_path / "out"), open_shards(features)
    differences = []
    for one, other in zip(direct.subjects, stored.subjects, strict=True):
        one_read, other_read = direct.read_subject(one), stored.read_subject(other)
        assert (one_read.key, one_read.questions, one_read.timestamps_seconds) == (
            other_read.key,
            other_read.questions,
            other_read.timestamps_seconds,
        )
        tokens, jpeg_tokens = (load_features(each, 6).tokens.float() for each in (one_read, other_read))
        differences.append(float((tokens - jpeg_tokens).norm() / jpeg_tokens.norm()))
    assert 0 < max(differences) < 0.1


def test_a_file_of_settings_gives_the_encoder_that_its_run_starts_from(
    frames: Path, features: Path, trained: Trained, tmp_path: Path
) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(
            [
                *("encode", str(frames / "shards"), str(tmp_path / "out")),
                *trained.small.words("next", f"training.start_from={trained.run.path}"),
            ]
        )
    assert contents(tmp_path / "out") == contents(features)
    assert f"to train on them: python train.py FILE.yaml data.sources.NAME.shards={tmp_path}/out" in printed.getvalue()


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (["conf/tiny.yaml"], {"run": True}, r"--run .* brings its settings: leave out conf/tiny\.yaml, or leave out --run"),
        ([], {"checkpoint": "last"}, r"--checkpoint names a checkpoint of a run: give the run with --run"),
        (["video.size_pixels=64", "video.min_frames=4", "video.max_frames=6"], {}, "name no weights for the vision encoder"),
        (["video.max_frames=5"], {"run": True}, r"was packed with video\.max_frames=6, this run has 5"),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_anything_is_written(
    frames: Path, trained: Trained, tmp_path: Path, words: list[str], given: dict[str, Any], message: str
) -> None:
    given = {**given, **({"run": trained.run.path} if "run" in given else {})}
    with pytest.raises(ConfigError, match=message):
        encode(str(frames / "shards"), tmp_path / "out", words, **given)
    assert not (tmp_path / "out").exists()


def test_an_encoder_whose_tokens_are_no_numbers_is_refused(frames: Path, trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if ".vision." in name)
    checkpoint["state_dict"][name].fill_(torch.nan)
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    with pytest.raises(WeightsError, match="makes tokens that are no finite numbers"):
        encode(str(frames / "shards"), tmp_path / "out", run=run, checkpoint="last")


# Training on features


class Losses(Callback):
    """Notes the keys and the loss of each batch."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.keys += batch.keys
        self.losses.append(float(outputs["loss"]))


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Losses]:
    """Watches one run after the other."""
    build_callbacks = fit.build_callbacks

    def watch() -> Losses:
        watching = Losses()
        monkeypatch.setattr(fit, "build_callbacks", lambda *given: [*build_callbacks(*given), watching])
        return watching

    return watch


def frozen(trained: Trained, folder: Path, *words: str) -> list[str]:
    """A run on these shards whose encoder is the trained run's and stays so."""
    return [
        f"training.start_from={trained.run.path}",
        "training.learning_rate.vision=0",
        f"data.sources.world.shards={folder}",
        *words,
    ]


@pytest.fixture(scope="module")
def validation_features(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("validation") / "shards"
    encode(str(trained.small.yaml.parent / "world/validation/shards"), target, run=trained.run.path)
    return target


# features of an encoder that has learnt four steps less change the losses by a thousandth
@pytest.mark.parametrize(("precision", "of_losses", "of_weights"), [("bf16", 1e-5, 2e-3), ("int8", 1e-4, 1e-2)])
def test_training_on_features_is_training_on_the_frames(
    frames: Path,
    features: Path,
    validation_features: Path,
    trained: Trained,
    losses: Callable[[], Losses],
    tmp_path: Path,
    precision: str,
    of_losses: float,
    of_weights: float,
) -> None:
    source, validation = features, validation_features
    if precision == "int8":
        source = tmp_path / "int8"
        encode(str(frames / "shards"), source, ["encode.precision=int8"], run=trained.run.path)
    seen, runs = [], {"frames": [], f"features-{precision}": [f"data.validation_sources.world.shards={validation}"]}
    for (name, words), folder in zip(runs.items(), (frames / "shards", source), strict=True):
        seen.append(losses())
        trained.small.fit(f"on-{name}-{precision}", *frozen(trained, folder, "data.balance_steps=3", *words))
    on_frames, on_features = seen
    assert on_features.keys == on_frames.keys and len(set(on_frames.keys)) > 4
    torch.testing.assert_close(on_features.losses, on_frames.losses, rtol=of_losses, atol=0)
    assert on_features.losses != on_frames.losses
    one, other = (weights(trained.small.run(f"on-{name}-{precision}")) for name in runs)
    assert largest_difference(one, other) < of_weights
    scores = [EventAccumulator(str(trained.small.run(f"on-{name}-{precision}").tensorboard)) for name in runs]
    for each in scores:
        each.Reload()
    before, after = (each.Scalars("validation/loss")[-1].value for each in scores)
    assert after == pytest.approx(before, rel=of_losses)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_run_in_bf16_trains_on_features(features: Path, validation_features: Path, trained: Trained, precision: str) -> None:
    words = frozen(
        trained, features, f"training.precision={precision}", f"data.validation_sources.world.shards={validation_features}"
    )
    outcome = trained.small.fit(f"half-{precision}", *words, "training.max_steps=3")
    assert outcome.step == 3 and "validation/loss" in outcome.scores
    outcome = trained.small.fit(f"half-{precision}", *words, "training.max_steps=4")  # from a checkpoint
    assert outcome.step == 4


def test_features_of_another_encoder_are_refused_before_the_first_step(
    features: Path, validation_features: Path, trained: Trained, small: Small, watch: Watch
) -> None:
    other = [word for word in frozen(trained, features) if "start_from" not in word]
    message = r"the features in .*/000000\.tar are of a vision encoder with other weights than this run's .*encode again"
    with pytest.raises(WeightsError, match=message):
        small.fit("strange", *other)
    validation = f"data.validation_sources.world.shards={validation_features}"
    with pytest.raises(WeightsError, match=message):
        small.fit("strange-validation", "training.learning_rate.vision=0", validation)
    assert watch.positions == [] and not list(small.run("strange").checkpoints.glob("*.ckpt"))


def test_a_validation_alone_looks_too(features: Path, trained: Trained, frames: Path) -> None:
    words = frozen(trained, frames / "shards", "training.max_steps=2", "training.validate_every_steps=2")
    trained.small.fit("done", *words)
    file = trained.small.run("done").checkpoint("last")
    state = torch.load(file, weights_only=True)
    name = next(name for name in state["state_dict"] if ".vision." in name)
    state["state_dict"][name] += 1
    torch.save(state, file)
    trained.small.run("done").checkpoint("best").unlink()
    with pytest.raises(WeightsError, match="encode again"):
        trained.small.fit("done", *words, f"data.validation_sources.world.shards={features}", "data.on_change=use")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.vision.grid=4"], r"other settings than this run's: model\.vision\.grid was 2, is 4\. Set .* encode again"),
        (["model.vision.tanh_gelu=false"], r"model\.vision\.tanh_gelu was True, is False"),
        (["video.max_frames=5"], r"video\.max_frames was 6, is 5"),
        (
            ["training.learning_rate.vision=1e-6"],
            r"\(training\.learning_rate\.vision=1e-06\): set training\.learning_rate\.vision=0",
        ),
    ],
)
def test_features_by_other_settings_are_refused_at_the_door(
    features: Path, trained: Trained, small: Small, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{features}.*{message}"):
        small.fit("door", *frozen(trained, features)[1:], *words)
    assert not small.run("door").checkpoints.exists()
