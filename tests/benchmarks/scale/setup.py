"""A random checkpoint of the published sizes and an hour of stored features, on disk.

Entry point: `write_checkpoint`, then `convert_checkpoint` and `write_features`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.weights.convert import convert
from lit_hour.weights.hf_config import CONFIG, hf_config_values
from lit_hour.weights.hf_folder import drop_tied_output, meta_state_dict
from lit_hour.weights.name_map import hf_meta_tensors
from lit_hour.weights.safetensors_writer import write_weights
from tests import published_stage
from tests.benchmarks.speed.step.noise_features import write_noise

VOCABULARY = {"3b": 151_936, "7b": 152_064}  # rows of the published embeddings
NUM_TOKENS = 300  # of the tokenizer: every byte is a token
WEIGHT_STD = 0.02
NOISE_LENGTH = 1_000_003  # numbers; a prime, so that rows of a weight differ
FREE_BYTES = 3_000_000_000  # to leave on the disk
SOURCE = "llava_onevision_single_image"  # stage 1 reads it


@dataclass(frozen=True)
class Job:
    """One measurement; passed to the measuring processes as JSON.

    Attributes:
        size: "3b" or "7b".
        folder: of all files.
        num_frames: of the stored video, one per second.
        num_layers: of the language model; 0 for the published number.
        num_new_tokens: of each answer.
        train_frames: of the video of the training step.
    """

    size: str
    folder: str
    num_frames: int = 3600
    num_layers: int = 0
    num_new_tokens: int = 8
    train_frames: int = 256

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` returned."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(asdict(self))

    @property
    def published(self) -> Path:
        """The checkpoint in the published layout; removed when it is converted."""
        return Path(self.folder) / "published"

    @property
    def run(self) -> Path:
        """The converted run."""
        return Path(self.folder) / "run"

    def config(self, num_frames: int = 0, *overrides: str) -> Config:
        """Return the settings of stage 1 with the projector learning, on features of one video."""
        frames = num_frames or self.num_frames
        layers = [f"model.llm.num_layers={self.num_layers}"] if self.num_layers else []
        settings = [
            "training.init_from=",
            "training.strategy=auto",
            "training.accelerator=cpu",
            "training.devices=1",
            "training.precision=bf16-true",
            "training.learning_rate.projector=1e-4",
            f"model.llm.vocab_size={VOCABULARY[self.size]}",
            f"video.min_frames={min(128, frames)}",
            f"video.max_frames={max(128, frames)}",
            f"data.sources.{SOURCE}.shards={self.folder}/features-{frames}",
            f"run.folder={self.folder}/runs",
            "data.global_batch_size=1",
            "data.micro_batch_size=1",
            "data.num_workers=0",
        ]
        return load_config(published_stage(self.size, "s1"), [*settings, *layers, *overrides])


def write_checkpoint(job: Job) -> int:
    """Write a random bf16 checkpoint in the published layout, and return its size in bytes.

    At most one shard of 2 GiB is in memory.

    Raises:
        SystemExit: the disk has too little space for it and for the run that it is converted to.
    """
    config = job.config()
    meta_tensors = hf_meta_tensors(drop_tied_output(meta_state_dict(config, 0), config))
    num_bytes = sum(2 * meta.numel() for meta in meta_tensors.values())
    free = shutil.disk_usage(job.folder).free
    if 2 * num_bytes + FREE_BYTES > free:
        raise SystemExit(
            f"error: {job.folder} has {free / 1e9:.1f} GB free. The checkpoint and its run take"
            f" {2 * num_bytes / 1e9:.1f} GB, and {FREE_BYTES / 1e9:.0f} GB must stay free."
            " Give --folder on another disk, or fewer --layers."
        )
    job.published.mkdir()
    vision_dim = job_vision(config).dim
    values = hf_config_values(config, VOCABULARY[job.size], vision_dim, "bfloat16")
    (job.published / CONFIG).write_text(json.dumps(values), encoding="utf-8")
    train_byte_level_tokenizer([], NUM_TOKENS).save_pretrained(str(job.published))
    write_weights(job.published, random_weights(meta_tensors))
    return num_bytes


def random_weights(meta_tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield noise of the given names and shapes in bf16; weights of norms are near 1."""
    torch.manual_seed(0)
    noise = (WEIGHT_STD * torch.randn(NOISE_LENGTH)).bfloat16()  # (NOISE_LENGTH,)
    for number, (name, meta) in enumerate(meta_tensors.items()):
        turned = noise.roll(number)  # so that equal layers differ
        repeats = meta.numel() // NOISE_LENGTH + 1
        weight = turned.repeat(repeats)[: meta.numel()].view(meta.shape)  # any shape
        is_norm = "norm" in name and name.endswith("weight")
        yield name, weight + 1 if is_norm else weight


def job_vision(config: Config) -> VisionEncoder:
    """Return the vision encoder on the meta device."""
    with torch.device("meta"):
        return VisionEncoder(config.model.vision)


def convert_checkpoint(job: Job) -> None:
    """Convert the checkpoint to a run as `lit-hour convert` does, and remove it."""
    convert(job.published, job.run)
    shutil.rmtree(job.published)


def write_features(job: Job, num_frames: int) -> None:
    """Write a shard with the features of one video."""
    config = job.config(num_frames)
    folder = Path(job.folder) / f"features-{num_frames}"
    write_noise(folder, 1, num_frames, config, job_vision(config), num_questions=1)
