"""Every setting of the project, once: name, type, default, unit, range, meaning.

YAML files hold differences from these defaults. The defaults are the paper's values where it gives one
(Hour-LLaVA, arXiv:2506.05332); conf/tiny.yaml is what runs on two CPU cores.
"""

# ruff: noqa: RUF009  (`field` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.data import DataConfig, FeatureConfig
from lit_hour.config.evaluation import EvaluationConfig
from lit_hour.config.fields import field
from lit_hour.config.model import ModelConfig
from lit_hour.config.serving import ServingConfig
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.config.videomarathon import VideoMarathonConfig


@dataclass(frozen=True)
class RunConfig:
    """Where a run's files go and what its randomness starts from."""

    name: str = field("hour_llava", "name of the run; the same name continues it")
    folder: str = field("runs", "where run folders are made")
    seed: int = field(0, "seed of weights, data order and forgetting", ge=0, le=2**32 - 1)


@dataclass(frozen=True)
class VideoConfig:
    """How frames are taken from a video file."""

    fps: float = field(1.0, "sampling rate", unit="1/s", gt=0)
    min_frames: int = field(
        128, "a shorter video gets this many, spread over it", unit="frames", ge=1
    )
    max_frames: int = field(
        3600, "a longer video gets this many, spread over it", unit="frames", ge=1
    )
    image_size: int = field(
        384, "side of the square that each frame is resized to", unit="pixels", ge=8
    )
    frames: Literal["all", "first", "none"] = field(
        "all",
        "what training and validation see; less than all tells what questions give away without the video",
    )
    on_decode_error: Literal["raise", "truncate"] = field(
        "raise",
        "a file that stops decoding before its end: refuse it, or use what could be read and say so",
    )
    keyframes_only: bool = field(
        False,
        "show the last key frame before each time, not the frame on screen: far faster, seconds too early",
    )


@dataclass(frozen=True)
class ImageConfig:
    """How a single picture is cut into tiles: the grid whose tiles lose least of it."""

    max_grid: int = field(
        6, "rows and columns of the largest grid of tiles", unit="tiles", ge=1, le=16
    )
    max_tiles: int = field(
        9, "a picture with more tokens than this many tiles have is shrunk to them", ge=1
    )


@dataclass(frozen=True)
class PackConfig:
    """How videos and questions become tar shards."""

    videos_per_shard: int = field(
        16, "videos in one tar; or pictures, or texts", unit="videos", ge=1
    )
    jpeg_quality: int = field(90, "quality of the stored frames", ge=1, le=100)
    num_workers: int = field(
        -1, "shards packed in parallel; -1 for one per core", unit="processes", ge=-1
    )
    max_bad_samples: int = field(
        0, "videos and pictures that may fail before packing stops", unit="videos", ge=0
    )
    timeout_seconds: float = field(
        3600.0,
        "how long reading one may take until it counts as one that fails; 0 for ever",
        unit="s",
        ge=0,
    )


@dataclass(frozen=True)
class TextConfig:
    """How conversations become token ids."""

    tokenizer: str = field(
        "byte-level",
        'folder of a language model\'s tokenizer, or "byte-level": one learnt from the training questions',
    )
    vocab_size: int = field(2048, "of the byte-level tokenizer", unit="tokens", ge=300)
    system_prompt: str = field("You are a helpful assistant.", "first message of each conversation")
    mcq_format: Literal["letter", "text"] = field(
        "letter",
        "how multiple choice is asked and answered: lettered options and a letter, or options and their words",
    )
    loss_on_template: bool = field(
        False,
        "also learn the marks of turns and line ends in prompts and the headers of answers, and hide them from MemAug, as the"
        " published training did; answering shows them to MemAug, so it was asked otherwise than it had learnt",
    )
    memaug_question_scope: Literal["all", "first"] = field(
        "all",
        "questions of a conversation that MemAug sees; all, as published, lets later ones change what the model sees of the"
        " video when it answers earlier ones",
    )
    time_instruction: bool = field(True, "tell the model the duration and the number of frames")
    max_tokens: int = field(
        32768, "longest text with its video tokens; a longer one is cut", unit="tokens", ge=64
    )


@dataclass(frozen=True)
class LearningRateConfig:
    """A peak learning rate for each part of the model; 0 freezes the part."""

    vision: float = field(0.0, "vision encoder; 0 freezes it", ge=0)
    projector: float = field(1e-4, "projector and frame-end token; 0 freezes them", ge=0)
    memaug: float = field(1e-4, "MemAug; 0 freezes it", ge=0)
    llm: float = field(2e-5, "language model; 0 freezes it", ge=0)


@dataclass(frozen=True)
class TrainingConfig:
    """Optimizer, schedule, validation, checkpoints and hardware."""

    init_from: str = field(
        "",
        "folder of another run, or of a published LLaVA-OneVision or Hour-LLaVA, whose weights and tokenizer this run starts"
        " from; empty: random weights, or those that model.llm.path and model.vision.weights name",
    )
    max_steps: int = field(
        0, "optimizer steps; 0: as many as make one pass over the sources", unit="steps", ge=0
    )
    learning_rate: LearningRateConfig = field(LearningRateConfig, "peak learning rate of each part")
    warmup_ratio: float = field(
        0.03, "share of the steps over which the learning rates rise", ge=0, le=1
    )
    weight_decay: float = field(0.0, "AdamW's weight decay", ge=0)
    gradient_clip_norm: float = field(1.0, "largest norm of the gradient; 0 for no clipping", ge=0)
    precision: Literal["bf16-mixed", "bf16-true", "32-true"] = field(
        "bf16-mixed", "arithmetic, as Lightning names it"
    )
    val_every_n_steps: int = field(500, "steps between validations", unit="steps", ge=1)
    save_every_n_steps: int = field(500, "steps between checkpoints", unit="steps", ge=1)
    save_total_limit: int = field(
        3, "newest periodic checkpoints kept; best and last are kept besides", ge=1
    )
    max_skipped_steps: int = field(
        0,
        "steps that a run may leave out because their loss or gradient is not finite",
        unit="steps",
        ge=0,
    )
    max_requeues: int = field(
        500, "times that a SLURM job that was warned starts again by itself", ge=0
    )
    log_every_n_steps: int = field(10, "steps between lines in TensorBoard", unit="steps", ge=1)
    num_val_images: int = field(4, "validation questions shown as pictures in TensorBoard", ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = field(
        "auto", "where to compute; auto: on a GPU when there is one"
    )
    devices: str = field("auto", "processes on each node, or auto")
    strategy: Literal["auto", "ddp", "fsdp"] = field(
        "auto",
        "how processes share the work: ddp, each has the whole model; fsdp, each has a part of it; auto is ddp where there are"
        " several",
    )
    activation_checkpointing: bool = field(
        False,
        "blocks keep only their inputs and compute the rest again in the backward pass: less memory, a third slower",
    )
    compile: bool = field(
        False, "translate each block with torch.compile: minutes at the start, faster steps"
    )
    num_threads: int = field(
        0, "threads that compute in each process on a CPU; 0: as many as torch takes", ge=0
    )
    num_nodes: int = field(1, "machines", ge=1)


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated."""

    max_new_tokens: int = field(128, "longest answer", unit="tokens", ge=1)


@dataclass(frozen=True)
class Config:
    """Every setting of a run."""

    run: RunConfig = field(RunConfig, "name and place of the run")
    video: VideoConfig = field(VideoConfig, "mp4 -> frames")
    image: ImageConfig = field(ImageConfig, "picture -> tiles")
    pack: PackConfig = field(PackConfig, "frames and questions -> tar shards")
    features: FeatureConfig = field(FeatureConfig, "videos -> features")
    text: TextConfig = field(TextConfig, "conversations -> token ids")
    data: DataConfig = field(DataConfig, "tar shards -> batches")
    model: ModelConfig = field(ModelConfig, "batch -> loss or answer")
    training: TrainingConfig = field(TrainingConfig, "optimizer, schedule, checkpoints, hardware")
    generation: GenerationConfig = field(GenerationConfig, "how answers are generated")
    serving: ServingConfig = field(ServingConfig, "how a trained run answers")
    synthetic: SyntheticConfig = field(SyntheticConfig, "made-up videos whose answers are known")
    videomarathon: VideoMarathonConfig = field(
        VideoMarathonConfig, "videos -> instruction data, by a model that is asked for it"
    )
    evaluation: EvaluationConfig = field(
        EvaluationConfig, "published questions and videos -> a score that can be checked"
    )
