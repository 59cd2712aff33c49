"""Settings of training: optimizer, schedule, validation, checkpoints, logging and hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field
from lit_hour.config.preference import DPOConfig, GRPOConfig
from lit_hour.errors import ConfigError

Objective = Literal["next_token", "answer_words", "dpo", "grpo"]
PREFERENCE_OBJECTIVES: tuple[Objective, ...] = ("dpo", "grpo")  # with a reference model


@dataclass(frozen=True)
class LearningRateConfig:
    """Peak learning rate of each part of the model."""

    vision: float = field(0.0, "vision encoder; 0 freezes it", ge=0)
    projector: float = field(1e-4, "projector and frame newline token; 0 freezes them", ge=0)
    memaug: float = field(1e-4, "MemAug; 0 freezes it", ge=0)
    llm: float = field(2e-5, "language model; 0 freezes it", ge=0)


@dataclass(frozen=True)
class ProfilerConfig:
    """Traces of a few steps by torch's profiler."""

    num_steps: int = field(
        0,
        "consecutive steps whose operations rank zero records for a trace in the run's folder, to"
        " be viewed at ui.perfetto.dev; 0 disables the profiler. These steps are slower",
        unit="steps",
        ge=0,
        le=100,
    )
    first_step: int = field(
        10,
        "first of these steps, counted from 1; the one before it warms the profiler up",
        unit="steps",
        ge=2,
    )


@dataclass(frozen=True)
class TrainingConfig:
    """Optimizer, schedule, validation, checkpoints and hardware."""

    init_from: str = field(
        "",
        "folder of another run, or of a published LLaVA-OneVision or Hour-LLaVA, whose weights and"
        " tokenizer this run starts from; empty for random weights, or those of model.llm.path and"
        " model.vision.weights",
    )
    objective: Objective = field(
        "next_token",
        "next_token: the language model predicts the tokens of the answers (supervised fine-tuning,"
        " SFT); answer_words: the mean of the visual tokens of a question predicts the words of its"
        " answer, by cosine similarity to their embeddings. Then no decoder layer runs, which takes"
        " a fraction of the time, and a new projector and MemAug learn where a pretrained language"
        " model reads words; dpo: chosen answers become more likely than rejected ones; grpo:"
        " sampled answers with a high reward become more likely",
    )
    dpo: DPOConfig = field(DPOConfig, "preference tuning, for training.objective=dpo")
    grpo: GRPOConfig = field(GRPOConfig, "sampled answers and rewards, for training.objective=grpo")
    max_steps: int = field(
        0,
        "optimizer steps; 0 for one epoch of the sources",
        unit="steps",
        ge=0,
    )
    learning_rate: LearningRateConfig = field(
        LearningRateConfig, "peak learning rate of each part of the model"
    )
    schedule_steps: int = field(
        0,
        "steps of the learning rate schedule, at least those of the run; 0 for those of the run."
        " A run that is going to get more steps later keeps its schedule then",
        unit="steps",
        ge=0,
    )
    warmup_ratio: float = field(
        0.03,
        "share of the schedule over which the learning rates increase linearly from near 0",
        ge=0,
        le=1,
    )
    optimizer: Literal["adamw", "adamw_8bit"] = field(
        "adamw",
        "adamw_8bit keeps AdamW's two averages as 8-bit integers with a scale for 256 of them: a"
        " quarter of their memory. It needs the package torchao and compiles its update. A run may"
        " change from one to the other",
    )
    weight_decay: float = field(0.0, "weight decay of AdamW", ge=0)
    weight_decay_scope: Literal["matrices", "all"] = field(
        "matrices",
        "weights that decay: all but norms, biases and embeddings, or all as in earlier versions",
    )
    adam_beta1: float = field(
        0.9, "decay rate of AdamW's average of the gradient", ge=0, le=0.999999
    )
    adam_beta2: float = field(
        0.999, "decay rate of AdamW's average of the squared gradient", ge=0, le=0.999999
    )
    adam_eps: float = field(1e-8, "number that AdamW adds to the denominator", gt=0)
    gradient_clip_norm: float = field(
        1.0, "largest L2 norm of the gradient; 0 disables clipping", ge=0
    )
    precision: Literal["bf16-mixed", "bf16-true", "32-true"] = field(
        "bf16-mixed", "Lightning's precision"
    )
    val_every_n_steps: int = field(500, "steps between validations", unit="steps", ge=1)
    save_every_n_steps: int = field(500, "steps between checkpoints", unit="steps", ge=1)
    save_total_limit: int = field(
        3, "latest periodic checkpoints to keep, besides best and last", ge=1
    )
    save_weights: Literal["all", "learned"] = field(
        "all",
        "learned: checkpoints leave out frozen weights that training.init_from, model.llm.path or"
        " model.vision.weights brings. Reading one needs the same source again, which is checked",
    )
    async_checkpoints: bool = field(
        False,
        "with strategy=fsdp, write checkpoints in the background: training waits only until each"
        " rank has copied its shards to CPU memory, and keeps this copy (12 bytes per trained"
        " float32 weight, divided by the number of ranks)",
    )
    max_skipped_steps: int = field(
        0,
        "steps with a NaN or Inf loss or gradient that may be skipped before the run stops",
        unit="steps",
        ge=0,
    )
    max_requeues: int = field(
        500, "times that a SLURM job may requeue itself at its time limit", ge=0
    )
    logger: Literal["tensorboard", "csv", "wandb"] = field(
        "tensorboard",
        "where metrics, settings and pictures go: TensorBoard's files, a table and PNG files, or"
        " Weights & Biases, which needs the package wandb and is configured by its own variables,"
        " such as WANDB_PROJECT and WANDB_MODE=offline",
    )
    log_every_n_steps: int = field(10, "steps between records of the logger", unit="steps", ge=1)
    num_val_images: int = field(
        4, "validation questions that the logger shows with their frames", ge=0
    )
    peak_tflops: float = field(
        0.0,
        "peak rate of one device in the precision of training, by its data sheet: 989 for an H100"
        " or H200 and 312 for an A100 in bf16. The logger then shows the model FLOPs utilization"
        " (MFU); 0 leaves it out",
        unit="TFLOP/s",
        ge=0,
    )
    profiler: ProfilerConfig = field(ProfilerConfig, "torch's profiler, for a few steps")
    accelerator: Literal["auto", "cpu", "gpu"] = field(
        "auto", "Lightning's accelerator; auto uses a GPU if there is one"
    )
    devices: str = field("auto", "processes on each node, or auto for all devices")
    strategy: Literal["auto", "ddp", "fsdp"] = field(
        "auto",
        "how several processes share the work: ddp replicates the model, fsdp shards it; auto is"
        " ddp",
    )
    replicas: int = field(
        1,
        "with strategy=fsdp, copies of the model that the ranks hold together (HSDP): each copy is"
        " sharded over consecutive ranks, such as the GPUs of one machine, and only gradients pass"
        " between copies. 1 shards over all ranks",
        unit="copies",
        ge=1,
    )
    cpu_offload: bool = field(
        False,
        "with strategy=fsdp, keep weights, gradients and optimizer state in CPU memory: each rank"
        " copies its shard to the GPU for each use and takes the optimizer's step on the CPU. Much"
        " less GPU memory, slower steps",
    )
    activation_checkpointing: bool = field(
        False,
        "keep only the inputs of each block and recompute its activations in the backward pass:"
        " less memory, a third slower",
    )
    packing: bool = field(
        False,
        "let the language model compute the texts of a micro-batch one after the other in one"
        " sequence, without padding; attention stays inside each text",
    )
    compile: bool = field(
        False, "compile each block with torch.compile: faster steps after minutes of start-up"
    )
    num_threads: int = field(0, "CPU threads of each process; 0 for PyTorch's default", ge=0)
    num_nodes: int = field(1, "machines", ge=1)

    @property
    def steps_per_group(self) -> int:
        """Consecutive optimizer steps on the same samples: with GRPO, on the same answers."""
        return self.grpo.updates_per_group if self.objective == "grpo" else 1


def replica_mesh_shape(num_ranks: int, replicas: int) -> tuple[int, int]:
    """Return the replicas of a sharded model, and the ranks of each.

    Raises:
        ConfigError: the replicas cannot share the ranks evenly.
    """
    if num_ranks % replicas:
        raise ConfigError(
            f"training.replicas={replicas} cannot share {num_ranks} ranks evenly. Set a divisor"
            f" of {num_ranks}, or 1 to shard one model over all ranks."
        )
    return replicas, num_ranks // replicas
