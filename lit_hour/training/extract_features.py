"""Precompute the vision encoder's features of videos, over any number of processes and machines.

Entry point: `extract_features`, the command `lit-hour extract-features`.
"""

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

from lit_hour.config.data import SourceConfig, resolve_num_workers
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.external.tar_files import names_tars
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
    TarSource,
    VideoFileSource,
)
from lit_hour.data.features.writer import FeatureWriter
from lit_hour.data.packing.pack import PackSummary, make_output_dir
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.io.file_lock import dir_lock
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.run_dir import RunDir
from lit_hour.training.predict import assign_greedily, claim_output_dir, predict
from lit_hour.weights.pretrained import config_for_new_run, load_vision_encoder

RESUME_HINT = "Run the same command again to extract the missing videos"


def extract_features(
    source: str,
    target: Path,
    overrides: Sequence[str] = (),
    *,
    files: Sequence[Path] = (),
    questions: Path | None = None,
    mapping: str = "",
    run: Path | None = None,
    checkpoint: str | None = None,
) -> PackSummary | None:
    """Write shards with the features of a source's videos, and copies of its images and texts.

    Videos that an earlier start has extracted are kept.

    Args:
        source: folder or URL of frame shards, or tars of others; with `questions` the folder of
            the video files.
        target: folder of the feature shards; created if missing.
        overrides: settings as `a.b=c`, which win over the files or the run's settings.
        files: YAML files of settings; none together with `run`, whose settings are used.
        questions: question file about the videos, as for packing.
        mapping: of the fields in tars of others, `data.sources.NAME.mapping`.
        run: run directory with the vision encoder; by default the encoder and its weights are those
            of the settings.
        checkpoint: name of the run's checkpoint, see `RunDir.checkpoint`.

    Returns:
        The totals of the target; None on all ranks but rank zero.

    Raises:
        InputError: the settings, the source, the encoder or the target cannot be used, or more
            videos are damaged than `pack.max_bad_samples` allows.
    """
    config, checkpoint_path = _load_settings(files, overrides, run, checkpoint)
    videos = _open_source(source, questions, mapping, target, config)
    encoder = load_vision_encoder(config, checkpoint_path)
    metadata = FeatureMetadata(
        precision=config.features.precision,
        tokens_per_frame=encoder.tokens_per_frame,
        vision_dim=encoder.dim,
        config=feature_config(config),
        encoder_sha256=encoder.digest(),
    )
    writer = FeatureWriter(target, videos, metadata, config.pack.max_bad_samples)
    num_workers = resolve_num_workers(config.data.num_workers)
    with ExitStack() as locks:
        module = FeatureExtraction(encoder, videos, writer, metadata, num_workers, locks)
        predict(module, config.training, RESUME_HINT)
    return module.summary


class FeatureExtraction(L.LightningModule):
    """Encodes its rank's videos, saves each when it is finished, and writes its rank's shards.

    Attributes:
        summary: the totals, on rank zero, when all ranks are done.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        source: FeatureSource,
        writer: FeatureWriter,
        metadata: FeatureMetadata,
        num_workers: int,
        locks: ExitStack,
    ) -> None:
        """Keep the output folder locked until the caller closes `locks`."""
        super().__init__()
        self.encoder, self.source = encoder, source
        self.writer, self.metadata = writer, metadata
        self.summary: PackSummary | None = None
        self.prepare_data_per_node = False
        self._num_workers, self._locks = num_workers, locks
        self._videos: list[SampleRef] = []
        self._shards: deque[int] = deque()
        self._unfinished: dict[SampleRef, _UnfinishedVideo] = {}

    def prepare_data(self) -> None:
        """Open the output folder on rank zero, after any earlier start has ended."""
        make_output_dir(self.writer.parts)
        with claim_output_dir(self.writer.path, self.writer.parts, self._locks):
            self.writer.open()

    def setup(self, stage: str) -> None:
        """Assign the missing videos and shards to ranks.

        Rank zero lists them and broadcasts the lists, because another machine may see an older
        state of a network folder.
        """
        self._locks.enter_context(dir_lock(self.writer.parts, self.trainer.global_rank))
        missing = None
        if self.trainer.is_global_zero:
            missing = (self.writer.missing_videos(), self.writer.missing_shards())
        videos, shards = self.trainer.strategy.broadcast(missing)  # type: ignore[misc]
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        costs = [self.source.cost(video) for video in videos]
        self._videos = assign_greedily(videos, costs, num_ranks)[rank]
        self._shards = deque(shards[rank::num_ranks])
        if self.trainer.is_global_zero:
            counts = f"{len(videos)} videos to extract, {num_ranks} processes"
            print(f"{self.writer.path}: {counts}", flush=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the frames of this rank's videos in chunks."""
        return DataLoader(
            FrameChunkDataset(self.source, self._videos),
            batch_size=None,
            num_workers=self._num_workers,
        )

    def on_predict_start(self) -> None:
        """Start the progress bar, let SIGTERM end the process, and write shards that are complete.

        Lightning's own SIGTERM handler would first extract all remaining videos.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._bar = tqdm(
            total=sum(map(self.source.cost, self._videos)),
            desc="extracting",
            unit=self.source.cost_unit,
            unit_scale=True,
            disable=not self.trainer.is_global_zero,
        )
        self._write_complete_shards()

    def predict_step(self, chunk: FrameChunk, batch_idx: int) -> None:
        """Encode some frames, or save a video after its last frame."""
        if chunk.error:
            self._unfinished.pop(chunk.ref, None)
            self.writer.skip(chunk.ref, chunk.error)
        elif chunk.metadata:
            tokens = self._unfinished.pop(chunk.ref).finish()
            self.writer.save(chunk.ref, tokens, chunk.metadata)
        else:
            self._encode(chunk)
            return
        self._write_complete_shards()

    def on_predict_end(self) -> None:
        """Write the shards that had to wait for other ranks, and on rank zero the totals."""
        self.trainer.strategy.barrier("extracted")
        self._write_complete_shards()
        self.trainer.strategy.barrier("written")
        if self.trainer.is_global_zero:
            self.summary = self.writer.write_totals()
        self._bar.close()

    def _encode(self, chunk: FrameChunk) -> None:
        tokens = self.encoder.encode_images(chunk.images)  # (frames, tokens, vision_dim)
        if not tokens.isfinite().all():
            raise WeightsError(
                "The vision encoder returns non-finite tokens. Its weights are corrupt, or too"
                " large for training.precision"
            )
        if chunk.ref not in self._unfinished:
            self._unfinished[chunk.ref] = _UnfinishedVideo(chunk.num_frames, self.metadata)
        self._unfinished[chunk.ref].append(encode_tokens(tokens, self.metadata.precision))
        self._bar.update(self.source.cost(chunk.ref) * len(chunk.images) / chunk.num_frames)

    def _write_complete_shards(self) -> None:
        """Write this rank's shards in order, up to the first one with a missing video."""
        while self._shards and self.writer.is_shard_complete(self._shards[0]):
            self.writer.write_shard(self._shards.popleft())


class _UnfinishedVideo:
    """Tokens of the frames encoded so far, in a buffer with the size of the whole video."""

    def __init__(self, num_frames: int, metadata: FeatureMetadata) -> None:
        self._buffer = StoredTokens.empty(num_frames, metadata)
        self._num_frames = 0

    def append(self, tokens: StoredTokens) -> None:
        end = self._num_frames + len(tokens)
        self._buffer[self._num_frames : end].copy_from(tokens)
        self._num_frames = end

    def finish(self) -> StoredTokens:
        return self._buffer[: self._num_frames]


def _open_source(
    source: str, questions: Path | None, mapping: str, target: Path, config: Config
) -> FeatureSource:
    if questions:
        return VideoFileSource(Path(source), questions, target, config)
    if names_tars(source):
        return TarSource(SourceConfig(source, mapping=mapping), config)
    return FrameShardSource(source, config)


def _load_settings(
    files: Sequence[Path], overrides: Sequence[str], run: Path | None, checkpoint: str | None
) -> tuple[Config, Path | None]:
    """Return the settings, and the checkpoint with the encoder's weights if a run is given."""
    if run is None:
        if checkpoint is not None:
            raise ConfigError("--checkpoint names a checkpoint of a run. Give the run with --run")
        return config_for_new_run(load_config(files, overrides)), None
    if files:
        raise ConfigError(f"--run {run} has its own settings. Remove {files[0]} or --run")
    path = RunDir(run).checkpoint(checkpoint)
    return load_config(path.with_suffix(".yaml"), overrides), path
