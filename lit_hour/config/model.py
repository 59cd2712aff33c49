"""The settings of the model, one group of the schema: what it is built of."""

# ruff: noqa: RUF009  (`setting` and `section` make a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import section, setting


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder and what is read from it."""

    name: str = setting("ViT-SO400M-14-SigLIP-384", "open_clip's name of the vision encoder")
    weights: str = setting(
        "",
        "open_clip's pretrained tag or file, or a folder or .safetensors file of a Hugging Face SigLIP; empty: random",
    )
    layer: int = setting(-2, "block whose patch tokens are read: -1 is the last, -2 the one before")
    grid: int = setting(8, "a frame's tokens are pooled to grid x grid", unit="tokens", at_least=1)
    chunk_frames: int = setting(128, "frames encoded at once", unit="frames", at_least=1)
    max_learning_frames: int = setting(
        128,
        "the vision encoder does not learn from a longer video, as in the published training, where videos have at least this"
        " many frames",
        unit="frames",
        at_least=0,
    )
    tanh_gelu: bool = setting(
        True,
        "compute GELU by its tanh form, as SigLIP was trained; open_clip builds its SigLIP towers with the exact form",
    )


@dataclass(frozen=True)
class MemoryConfig:
    """What is kept of a video, what is forgotten, and the blocks that look back."""

    num_layers: int = setting(
        4,
        "blocks of MemAug; with none what survives forgetting is all there is",
        at_least=0,
        at_most=1000,
    )
    look_back: bool = setting(
        True,
        "MemAug looks into the whole memory; false: only into what survived forgetting, by the same arithmetic",
    )
    initial_deviation: float = setting(0.02, "standard deviation of random weights", above=0)
    min_frames: int = setting(
        128,
        "a shorter video is repeated up to this many frames in memory",
        unit="frames",
        at_least=1,
    )
    max_query_frames: int = setting(
        512, "frames that survive forgetting, at most", unit="frames", at_least=1
    )
    spatial_keep: float = setting(
        0.25, "share of each frame's tokens that survives forgetting", above=0, at_most=1
    )
    temporal_keep: float = setting(
        0.25, "share of the frames that survives forgetting", above=0, at_most=1
    )
    spatial_forgetting: Literal["uniform", "random", "none"] = setting(
        "random",
        "which tokens of a frame survive in training: every n-th row and column, a draw for each frame, or all",
    )
    answer_spatial_forgetting: Literal["uniform", "random", "none"] = setting(
        "uniform",
        "which tokens of a frame survive in validation and answers; the published code draws there too, so that its answers"
        " change from call to call; here the draw is the same each time",
    )
    temporal_forgetting: Literal["uniform", "keyframe", "question", "none"] = setting(
        "uniform",
        "which frames survive: spread evenly, those least like their neighbours, those most like the question, or all",
    )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in every linear layer of the language model, which then alone of it learn."""

    rank: int = setting(0, "rank of the adapters; 0 for none", at_least=0)
    alpha: float = setting(32.0, "what the adapters add counts alpha / rank times", above=0)
    dropout: float = setting(
        0.0, "share of an adapter's inputs that training leaves out", at_least=0, at_most=0.9
    )


@dataclass(frozen=True)
class LanguageConfig:
    """The language model: a folder of weights, whose sizes then count, or sizes for random ones."""

    folder: str = setting(
        "",
        "folder of a Qwen2-family model in the Hugging Face layout; empty: random weights of the sizes below",
    )
    vocabulary_size: int = setting(
        0,
        "rows of the embedding; 0: as many as the tokenizer has tokens",
        at_least=0,
        at_most=2**24,
    )
    hidden_size: int = setting(2048, "width", at_least=8, at_most=2**16)
    num_layers: int = setting(36, "decoder layers", at_least=1, at_most=1000)
    num_heads: int = setting(16, "attention heads", at_least=1)
    num_key_value_heads: int = setting(
        2, "heads of keys and values, shared by groups of query heads", at_least=1
    )
    intermediate_size: int = setting(11008, "width of the feed-forward", at_least=8, at_most=2**18)
    rope_theta: float = setting(1_000_000.0, "base of the rotary frequencies", above=0)
    norm_epsilon: float = setting(1e-6, "added to the variance in its norms", above=0)
    initial_deviation: float = setting(0.02, "standard deviation of random weights", above=0)
    tie_embeddings: bool = setting(True, "output layer shares the weights of the input embedding")
    lora: LoraConfig = section(LoraConfig, "low-rank adapters, for those with one GPU")


@dataclass(frozen=True)
class ModelConfig:
    """The three parts of the model."""

    vision: VisionConfig = section(VisionConfig, "frames -> patch tokens")
    memory: MemoryConfig = section(MemoryConfig, "repository, forgetting and memory augmentation")
    language: LanguageConfig = section(LanguageConfig, "the causal language model")
