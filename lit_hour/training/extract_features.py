"""Shards of frames, or videos, -> shards of features: Lightning's predict on any number of processes and machines."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader
from tqdm import tqdm

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.features.format import (
    FeatureMetadata,
    StoredTokens,
    encode_tokens,
    feature_config,
)
from lit_hour.data.features.source import (
    FeatureSource,
    FrameChunk,
    FrameChunkDataset,
    FrameShardSource,
    SampleRef,
    VideoFileSource,
)
from lit_hour.data.features.writer import FeatureWriter
from lit_hour.data.packing.pack import PackSummary, make_output_dir
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.io.file_lock import is_held, locked
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.run_dir import RunDir
from lit_hour.training.predict import assign_greedily, predict
from lit_hour.weights.pretrained import config_for_new_run, load_vision_encoder

RESUME_HINT = "The same command goes on with the videos that are missing"


def extract_features(
    source: str,
    target: Path,
    overrides: Sequence[str] = (),
    *,
    files: Sequence[Path] = (),
    questions: Path | None = None,
    run: Path | None = None,
    checkpoint: str | None = None,
) -> PackSummary | None:
    """Encode every video of a source; what was encoded before stays, and pictures and texts are copied.

    Args:
        source: folder or URL of shards of frames; or with `questions` the folder of the files that they are about.
        target: folder of the shards of features; made when missing.
        overrides: settings as `a.b=c`, which win over the files or the run's settings.
        files: YAML files of settings; none together with `run`, whose settings are used.
        questions: question file, as packing takes it.
        run: run folder whose vision encoder it is; without one that of the settings, with the weights that they start from.
        checkpoint: a name in its checkpoints, as `RunDir.checkpoint` has it.

    Returns:
        The totals of the target; None on every rank but the first.

    Raises:
        InputError: the settings, the source, the encoder or the target cannot be used, or more videos were damaged than
            `pack.max_bad_samples` allows.
    """
    config, file = _read_settings(files, overrides, run, checkpoint)
    videos = (
        VideoFileSource(Path(source), questions, config)
        if questions
        else FrameShardSource(source, config)
    )
    return extract_with(load_vision_encoder(config, file), videos, target, config)


def extract_with(
    encoder: VisionEncoder, source: FeatureSource, target: Path, config: Config
) -> PackSummary | None:
    """As `encode`, with an encoder and a source that are at hand."""
    encoding = FeatureMetadata(
        precision=config.features.precision,
        tokens_per_frame=encoder.tokens_per_frame,
        vision_dim=encoder.dim,
        config=feature_config(config),
        encoder_sha256=encoder.digest(),
    )
    folder = FeatureWriter(target, source, encoding, config.pack.max_bad_samples)
    with ExitStack() as held:
        module = VideoEncoding(
            encoder, source, folder, encoding, resolve_num_workers(config.data.num_workers), held
        )
        predict(module, config.training, RESUME_HINT)
    return module.summary


class VideoEncoding(L.LightningModule):
    """Encodes its rank's share of the videos, keeps each at once, and puts its rank's share of the shards together.

    Attributes:
        summary: the totals, once the first rank has written them.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        source: FeatureSource,
        folder: FeatureWriter,
        encoding: FeatureMetadata,
        num_workers: int,
        held: ExitStack,
    ) -> None:
        """Args: held: keeps the folder locked until all is done."""
        super().__init__()
        self.encoder, self.source, self.folder, self.encoding = encoder, source, folder, encoding
        self.summary: PackSummary | None = None
        self.prepare_data_per_node = False
        self._num_workers, self._held = num_workers, held
        self._videos: list[SampleRef] = []
        self._shards: deque[int] = deque()
        self._opened: dict[SampleRef, _OpenVideo] = {}

    def prepare_data(self) -> None:
        """The first rank makes the folder ready, once no other start is at work there; the others wait."""
        path, unfinished = self.folder.path, self.folder.parts
        make_output_dir(unfinished)
        if is_held(path) or is_held(unfinished, even_shared=True):
            print(
                f"{path} is being filled by processes that were started before: waiting until they end",
                flush=True,
            )
        self._held.enter_context(locked(path))
        with locked(unfinished):  # ranks of a start whose first rank was killed
            self.folder.open()

    def setup(self, stage: str) -> None:
        """Share what is missing. The first rank says what that is: another machine may see the folder as it was before."""
        self._held.enter_context(locked(self.folder.parts, shared=True))
        missing = (
            (self.folder.missing_videos(), self.folder.missing_shards())
            if self.trainer.is_global_zero
            else None
        )
        videos, shards = self.trainer.strategy.broadcast(missing)  # type: ignore[misc]
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        self._videos = assign_greedily(
            videos, [self.source.cost(place) for place in videos], num_ranks
        )[rank]
        self._shards = deque(shards[rank::num_ranks])
        if self.trainer.is_global_zero:
            print(
                f"{self.folder.path}: {len(videos)} videos to encode, for {num_ranks} processes",
                flush=True,
            )

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's videos in chunks of frames."""
        return DataLoader(
            FrameChunkDataset(self.source, self._videos),
            batch_size=None,
            num_workers=self._num_workers,
        )

    def on_predict_start(self) -> None:
        """Start the bar, and finish shards whose videos are there already."""
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # Lightning's own handler would go on to the end
        self._bar = tqdm(
            total=sum(map(self.source.cost, self._videos)),
            desc="encoding",
            unit=self.source.cost_unit,
            unit_scale=True,
            disable=not self.trainer.is_global_zero,
        )
        self._assemble_ready_shards()

    def predict_step(self, chunk: FrameChunk, batch_idx: int) -> None:
        """Encode some frames, or keep a video that has come to its end."""
        if chunk.error:
            self._opened.pop(chunk.ref, None)
            self.folder.skip(chunk.ref, chunk.error)
        elif chunk.metadata:
            self.folder.save(chunk.ref, self._opened.pop(chunk.ref).finish(), chunk.metadata)
        else:
            self._encode(chunk)
            return
        self._assemble_ready_shards()

    def on_predict_end(self) -> None:
        """Put the shards together whose last videos came from other ranks; then the first rank writes the totals."""
        self.trainer.strategy.barrier("encoded")
        self._assemble_ready_shards()
        self.trainer.strategy.barrier("assembled")
        if self.trainer.is_global_zero:
            self.summary = self.folder.write_totals()
        self._bar.close()

    def _encode(self, chunk: FrameChunk) -> None:
        tokens = self.encoder(chunk.images)  # (frames, tokens, vision_dim)
        if not tokens.isfinite().all():
            raise WeightsError(
                "the vision encoder makes tokens that are no finite numbers: its weights are damaged, or too large for"
                " training.precision"
            )
        if chunk.ref not in self._opened:
            self._opened[chunk.ref] = _OpenVideo(chunk.num_frames, self.encoding)
        self._opened[chunk.ref].add(encode_tokens(tokens, self.encoding.precision))
        self._bar.update(self.source.cost(chunk.ref) * len(chunk.images) / chunk.num_frames)

    def _assemble_ready_shards(self) -> None:
        """Shards are finished in their order, or nearly so: after the first that is not ready there is nothing to look for."""
        while self._shards and self.folder.is_shard_complete(self._shards[0]):
            self.folder.write_shard(self._shards.popleft())


class _OpenVideo:
    """The tokens of a video that is still being encoded, in memory that has the size of the whole from the beginning."""

    def __init__(self, num_frames: int, encoding: FeatureMetadata) -> None:
        self._room = StoredTokens.empty(num_frames, encoding)
        self._num_frames = 0

    def add(self, stored: StoredTokens) -> None:
        end = self._num_frames + len(stored)
        self._room[self._num_frames : end].copy_from(stored)
        self._num_frames = end

    def finish(self) -> StoredTokens:
        return self._room[: self._num_frames]


def _read_settings(
    files: Sequence[Path], overrides: Sequence[str], run: Path | None, checkpoint: str | None
) -> tuple[Config, Path | None]:
    """The settings, and the checkpoint that has the encoder's weights, if it is a run's."""
    if run is None:
        if checkpoint is not None:
            raise ConfigError("--checkpoint names a checkpoint of a run: give the run with --run")
        return config_for_new_run(load_config(files, overrides)), None
    if files:
        raise ConfigError(
            f"--run {run} brings its settings: leave out {files[0]}, or leave out --run"
        )
    file = RunDir(run).checkpoint(checkpoint)
    return load_config(file.with_suffix(".yaml"), overrides), file
