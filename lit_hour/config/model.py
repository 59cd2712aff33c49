"""The settings of the model, one group of the schema: what it is built of."""

# ruff: noqa: RUF009  (`field` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder and what is read from it."""

    name: str = field("ViT-SO400M-14-SigLIP-384", "open_clip's name of the vision encoder")
    weights: str = field(
        "",
        "open_clip's pretrained tag or file, or a folder or .safetensors file of a Hugging Face SigLIP; empty: random",
    )
    layer: int = field(-2, "block whose patch tokens are read: -1 is the last, -2 the one before")
    grid: int = field(8, "a frame's tokens are pooled to grid x grid", unit="tokens", ge=1)
    encode_batch_size: int = field(128, "frames encoded at once", unit="frames", ge=1)
    max_trainable_frames: int = field(
        128,
        "the vision encoder does not learn from a longer video, as in the published training, where videos have at least this"
        " many frames",
        unit="frames",
        ge=0,
    )
    tanh_gelu: bool = field(
        True,
        "compute GELU by its tanh form, as SigLIP was trained; open_clip builds its SigLIP towers with the exact form",
    )


@dataclass(frozen=True)
class MemAugConfig:
    """What is kept of a video, what is forgotten, and the blocks that look back."""

    num_layers: int = field(
        4,
        "blocks of MemAug; with none what survives forgetting is all there is",
        ge=0,
        le=1000,
    )
    use_full_memory: bool = field(
        True,
        "MemAug looks into the whole memory; false: only into what survived forgetting, by the same arithmetic",
    )
    initializer_range: float = field(0.02, "standard deviation of random weights", gt=0)
    min_frames: int = field(
        128,
        "a shorter video is repeated up to this many frames in memory",
        unit="frames",
        ge=1,
    )
    max_kept_frames: int = field(
        512, "frames that survive forgetting, at most", unit="frames", ge=1
    )
    spatial_keep_ratio: float = field(
        0.25, "share of each frame's tokens that survives forgetting", gt=0, le=1
    )
    temporal_keep_ratio: float = field(
        0.25, "share of the frames that survives forgetting", gt=0, le=1
    )
    spatial_forgetting: Literal["uniform", "random", "none"] = field(
        "random",
        "which tokens of a frame survive in training: every n-th row and column, a draw for each frame, or all",
    )
    eval_spatial_forgetting: Literal["uniform", "random", "none"] = field(
        "uniform",
        "which tokens of a frame survive in validation and answers; the published code draws there too, so that its answers"
        " change from call to call; here the draw is the same each time",
    )
    temporal_forgetting: Literal["uniform", "keyframe", "question", "none"] = field(
        "uniform",
        "which frames survive: spread evenly, those least like their neighbours, those most like the question, or all",
    )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in every linear layer of the language model, which then alone of it learn."""

    rank: int = field(0, "rank of the adapters; 0 for none", ge=0)
    alpha: float = field(32.0, "what the adapters add counts alpha / rank times", gt=0)
    dropout: float = field(
        0.0, "share of an adapter's inputs that training leaves out", ge=0, le=0.9
    )


@dataclass(frozen=True)
class LLMConfig:
    """The language model: a folder of weights, whose sizes then count, or sizes for random ones."""

    path: str = field(
        "",
        "folder of a Qwen2-family model in the Hugging Face layout; empty: random weights of the sizes below",
    )
    vocab_size: int = field(
        0,
        "rows of the embedding; 0: as many as the tokenizer has tokens",
        ge=0,
        le=2**24,
    )
    hidden_size: int = field(2048, "width", ge=8, le=2**16)
    num_layers: int = field(36, "decoder layers", ge=1, le=1000)
    num_heads: int = field(16, "attention heads", ge=1)
    num_key_value_heads: int = field(
        2, "heads of keys and values, shared by groups of query heads", ge=1
    )
    intermediate_size: int = field(11008, "width of the feed-forward", ge=8, le=2**18)
    rope_theta: float = field(1_000_000.0, "base of the rotary frequencies", gt=0)
    rms_norm_eps: float = field(1e-6, "added to the variance in its norms", gt=0)
    initializer_range: float = field(0.02, "standard deviation of random weights", gt=0)
    tie_word_embeddings: bool = field(
        True, "output layer shares the weights of the input embedding"
    )
    lora: LoraConfig = field(LoraConfig, "low-rank adapters, for those with one GPU")


@dataclass(frozen=True)
class ModelConfig:
    """The three parts of the model."""

    vision: VisionConfig = field(VisionConfig, "frames -> patch tokens")
    memaug: MemAugConfig = field(MemAugConfig, "repository, forgetting and memory augmentation")
    llm: LLMConfig = field(LLMConfig, "the causal language model")
