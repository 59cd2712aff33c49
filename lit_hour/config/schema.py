"""Every setting of the project, once: name, type, default, unit, range, meaning.

YAML files hold differences from these defaults. The defaults are the paper's values where it gives one
(Hour-LLaVA, arXiv:2506.05332); conf/tiny.yaml is what runs on two CPU cores.
"""

# ruff: noqa: RUF009  (`setting` and `section` make a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.data import DataConfig, EncodeConfig
from lit_hour.config.evaluation import EvaluationConfig
from lit_hour.config.fields import section, setting
from lit_hour.config.model import ModelConfig
from lit_hour.config.serving import ServingConfig
from lit_hour.config.synthetic import WorldConfig
from lit_hour.config.videomarathon import MarathonConfig


@dataclass(frozen=True)
class RunConfig:
    """Where a run's files go and what its randomness starts from."""

    name: str = setting("hour_llava", "name of the run; the same name continues it")
    folder: str = setting("runs", "where run folders are made")
    seed: int = setting(
        0, "seed of weights, data order and forgetting", at_least=0, at_most=2**32 - 1
    )


@dataclass(frozen=True)
class VideoConfig:
    """How frames are taken from a video file."""

    frames_per_second: float = setting(1.0, "sampling rate", unit="1/s", above=0)
    min_frames: int = setting(
        128, "a shorter video gets this many, spread over it", unit="frames", at_least=1
    )
    max_frames: int = setting(
        3600, "a longer video gets this many, spread over it", unit="frames", at_least=1
    )
    size_pixels: int = setting(
        384, "side of the square that each frame is resized to", unit="pixels", at_least=8
    )
    show: Literal["all", "first_frame", "nothing"] = setting(
        "all",
        "what training and validation see; less than all tells what questions give away without the video",
    )
    on_damage: Literal["error", "use"] = setting(
        "error",
        "a file that stops decoding before its end: refuse it, or use what could be read and say so",
    )
    key_frames_only: bool = setting(
        False,
        "show the last key frame before each time, not the frame on screen: far faster, seconds too early",
    )


@dataclass(frozen=True)
class ImageConfig:
    """How a single picture is cut into tiles: the grid whose tiles lose least of it."""

    max_grid: int = setting(
        6, "rows and columns of the largest grid of tiles", unit="tiles", at_least=1, at_most=16
    )
    max_tiles: int = setting(
        9, "a picture with more tokens than this many tiles have is shrunk to them", at_least=1
    )


@dataclass(frozen=True)
class PackConfig:
    """How videos and questions become tar shards."""

    videos_per_shard: int = setting(
        16, "videos in one tar; or pictures, or texts", unit="videos", at_least=1
    )
    jpeg_quality: int = setting(90, "quality of the stored frames", at_least=1, at_most=100)
    num_workers: int = setting(
        0, "shards made at once; 0 for one per core", unit="processes", at_least=0
    )
    max_skipped: int = setting(
        0, "videos and pictures that may fail before packing stops", unit="videos", at_least=0
    )
    timeout_seconds: float = setting(
        3600.0,
        "how long reading one may take until it counts as one that fails; 0 for ever",
        unit="s",
        at_least=0,
    )


@dataclass(frozen=True)
class TextConfig:
    """How conversations become token ids."""

    tokenizer: str = setting(
        "byte-level",
        'folder of a language model\'s tokenizer, or "byte-level": one learnt from the training questions',
    )
    vocabulary_size: int = setting(2048, "of the byte-level tokenizer", unit="tokens", at_least=300)
    system_prompt: str = setting(
        "You are a helpful assistant.", "first message of each conversation"
    )
    choice_answer: Literal["letter", "words"] = setting(
        "letter",
        "how multiple choice is asked and answered: lettered options and a letter, or options and their words",
    )
    learn_template: bool = setting(
        False,
        "also learn the marks of turns and line ends in prompts and the headers of answers, and hide them from MemAug, as the"
        " published training did; answering shows them to MemAug, so it was asked otherwise than it had learnt",
    )
    memory_question: Literal["all", "first"] = setting(
        "all",
        "questions of a conversation that MemAug sees; all, as published, lets later ones change what the model sees of the"
        " video when it answers earlier ones",
    )
    time_instruction: bool = setting(True, "tell the model the duration and the number of frames")
    max_tokens: int = setting(
        32768, "longest text with its video tokens; a longer one is cut", unit="tokens", at_least=64
    )


@dataclass(frozen=True)
class LearningRateConfig:
    """A peak learning rate for each part of the model; 0 freezes the part."""

    vision: float = setting(0.0, "vision encoder; 0 freezes it", at_least=0)
    projector: float = setting(1e-4, "projector and frame-end token; 0 freezes them", at_least=0)
    memory: float = setting(1e-4, "MemAug; 0 freezes it", at_least=0)
    language: float = setting(2e-5, "language model; 0 freezes it", at_least=0)


@dataclass(frozen=True)
class TrainingConfig:
    """Optimizer, schedule, validation, checkpoints and hardware."""

    start_from: str = setting(
        "",
        "folder of another run, or of a published LLaVA-OneVision or Hour-LLaVA, whose weights and tokenizer this run starts"
        " from; empty: random weights, or those that model.language.folder and model.vision.weights name",
    )
    max_steps: int = setting(
        0, "optimizer steps; 0: as many as make one pass over the sources", unit="steps", at_least=0
    )
    learning_rate: LearningRateConfig = section(
        LearningRateConfig, "peak learning rate of each part"
    )
    warmup_share: float = setting(
        0.03, "share of the steps over which the learning rates rise", at_least=0, at_most=1
    )
    weight_decay: float = setting(0.0, "AdamW's weight decay", at_least=0)
    clip_norm: float = setting(1.0, "largest norm of the gradient; 0 for no clipping", at_least=0)
    precision: Literal["bf16-mixed", "bf16-true", "32-true"] = setting(
        "bf16-mixed", "arithmetic, as Lightning names it"
    )
    validate_every_steps: int = setting(500, "steps between validations", unit="steps", at_least=1)
    checkpoint_every_steps: int = setting(
        500, "steps between checkpoints", unit="steps", at_least=1
    )
    keep_checkpoints: int = setting(
        3, "newest periodic checkpoints kept; best and last are kept besides", at_least=1
    )
    max_skipped_steps: int = setting(
        0,
        "steps that a run may leave out because their loss or gradient is not finite",
        unit="steps",
        at_least=0,
    )
    max_requeues: int = setting(
        500, "times that a SLURM job that was warned starts again by itself", at_least=0
    )
    log_every_steps: int = setting(
        10, "steps between lines in TensorBoard", unit="steps", at_least=1
    )
    pictures: int = setting(4, "validation questions shown as pictures in TensorBoard", at_least=0)
    accelerator: Literal["auto", "cpu", "gpu"] = setting(
        "auto", "where to compute; auto: on a GPU when there is one"
    )
    devices: str = setting("auto", "processes on each node, or auto")
    strategy: Literal["auto", "ddp", "fsdp"] = setting(
        "auto",
        "how processes share the work: ddp, each has the whole model; fsdp, each has a part of it; auto is ddp where there are"
        " several",
    )
    activation_checkpointing: bool = setting(
        False,
        "blocks keep only their inputs and compute the rest again in the backward pass: less memory, a third slower",
    )
    compile: bool = setting(
        False, "translate each block with torch.compile: minutes at the start, faster steps"
    )
    cpu_threads: int = setting(
        0, "threads that compute in each process on a CPU; 0: as many as torch takes", at_least=0
    )
    num_nodes: int = setting(1, "machines", at_least=1)


@dataclass(frozen=True)
class AnswerConfig:
    """How answers are generated."""

    max_new_tokens: int = setting(128, "longest answer", unit="tokens", at_least=1)


@dataclass(frozen=True)
class Config:
    """Every setting of a run."""

    run: RunConfig = section(RunConfig, "name and place of the run")
    video: VideoConfig = section(VideoConfig, "mp4 -> frames")
    image: ImageConfig = section(ImageConfig, "picture -> tiles")
    pack: PackConfig = section(PackConfig, "frames and questions -> tar shards")
    encode: EncodeConfig = section(EncodeConfig, "videos -> features")
    text: TextConfig = section(TextConfig, "conversations -> token ids")
    data: DataConfig = section(DataConfig, "tar shards -> batches")
    model: ModelConfig = section(ModelConfig, "batch -> loss or answer")
    training: TrainingConfig = section(TrainingConfig, "optimizer, schedule, checkpoints, hardware")
    answer: AnswerConfig = section(AnswerConfig, "how answers are generated")
    serving: ServingConfig = section(ServingConfig, "how a trained run answers")
    world: WorldConfig = section(WorldConfig, "made-up videos whose answers are known")
    marathon: MarathonConfig = section(
        MarathonConfig, "videos -> instruction data, by a model that is asked for it"
    )
    evaluation: EvaluationConfig = section(
        EvaluationConfig, "published questions and videos -> a score that can be checked"
    )
