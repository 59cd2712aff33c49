"""All settings of the project: name, type, default, unit, range and help, each once.

The defaults are the values of the paper (Hour-LLaVA, arXiv:2506.05332) where it gives one. YAML
files contain differences from them; conf/tiny.yaml runs on two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.data import DataConfig, FeatureConfig
from lit_hour.config.evaluation import EvaluationConfig
from lit_hour.config.fields import field
from lit_hour.config.model import ModelConfig
from lit_hour.config.serving import ServingConfig
from lit_hour.config.synthetic import (
    PretrainLanguageConfig,
    PretrainTowerConfig,
    SyntheticConfig,
)
from lit_hour.config.training import TrainingConfig
from lit_hour.config.videomarathon import VideoMarathonConfig


@dataclass(frozen=True)
class RunConfig:
    """Name, folder and seed of a run."""

    name: str = field(
        "hour_llava", "name of the run; training again under the same name resumes it"
    )
    folder: str = field("runs", "folder of the run folders")
    seed: int = field(
        0,
        "seed of random weights, data order and random forgetting",
        ge=0,
        le=2**32 - 1,
    )


@dataclass(frozen=True)
class VideoConfig:
    """Sampling of frames from a video file."""

    fps: float = field(1.0, "sampling rate", unit="1/s", gt=0)
    min_frames: int = field(
        128,
        "frames of a shorter video, sampled evenly",
        unit="frames",
        ge=1,
    )
    max_frames: int = field(
        3600,
        "frames of a longer video, sampled evenly",
        unit="frames",
        ge=1,
    )
    image_size: int = field(
        384,
        "width and height to which each frame is resized",
        unit="pixels",
        ge=8,
    )
    sampling: Literal["seconds", "published"] = field(
        "seconds",
        "seconds: the frames on screen at evenly spaced times; published: the frames by number that"
        " the published training takes, every round(frame rate / video.fps)-th one, or others if"
        " features are extracted from video files",
    )
    frames: Literal["all", "first", "none"] = field(
        "all",
        "frames that the model gets in training, validation and evaluation; first and none are"
        " baselines that show how much the questions give away",
    )
    on_decode_error: Literal["raise", "truncate"] = field(
        "raise",
        "for a file that is cut or has packets that cannot be decoded: raise an error, or use the"
        " frames that can be read and log a warning",
    )
    keyframes_only: bool = field(
        False,
        "use the last keyframe before each timestamp instead of the exact frame: much faster, but"
        " the frame may be seconds too early",
    )


@dataclass(frozen=True)
class ImageConfig:
    """Tiles of a single image (anyres), in the grid that keeps most of its resolution."""

    max_grid: int = field(
        6,
        "largest number of rows and columns of the grid",
        unit="tiles",
        ge=1,
        le=16,
    )
    max_tiles: int = field(
        9,
        "largest number of tiles; the tokens of a larger image are resized to this many tiles",
        ge=1,
    )


@dataclass(frozen=True)
class PackConfig:
    """Packing of videos and questions into tar shards."""

    videos_per_shard: int = field(
        16,
        "videos, images or texts in one tar",
        unit="videos",
        ge=1,
    )
    jpeg_quality: int = field(90, "JPEG quality of the stored frames", ge=1, le=100)
    num_workers: int = field(
        -1,
        "shards packed in parallel; -1 for one per core",
        unit="processes",
        ge=-1,
    )
    max_bad_samples: int = field(
        0,
        "videos and images that may fail to decode, and records of the question file that may be"
        " invalid, before packing stops; each is listed",
        unit="samples",
        ge=0,
    )
    grounding_share: float = field(
        0.0,
        "share of the questions with evidence that ask for its times instead: When does the video"
        " show the answer to ...?",
        ge=0,
        le=1,
    )
    timeout_seconds: float = field(
        3600.0,
        "time limit for decoding one video or image, after which it counts as failed; 0 for none",
        unit="s",
        ge=0,
    )


@dataclass(frozen=True)
class TextConfig:
    """Tokenization of conversations."""

    tokenizer: str = field(
        "byte-level",
        "folder of a language model's tokenizer, or a GGUF file with one; byte-level for the"
        " tokenizer of model.llm.path, or without that for one trained on the questions",
    )
    vocab_size: int = field(
        2048,
        "vocabulary size of the byte-level tokenizer",
        unit="tokens",
        ge=300,
    )
    system_prompt: str = field("You are a helpful assistant.", "first message of each conversation")
    mcq_format: Literal["letter", "text"] = field(
        "letter",
        "format of multiple-choice questions: lettered options answered with a letter, or options"
        " answered with their text",
    )
    loss_on_template: bool = field(
        False,
        "also train on the chat template (turn markers and newlines in prompts, headers of answers)"
        " and hide it from MemAug, as the published training does. Generation shows it to MemAug,"
        " so the published model sees other questions there than in training",
    )
    memaug_question_scope: Literal["all", "first"] = field(
        "all",
        "questions of a conversation that MemAug attends with. With all, as published, later"
        " questions change the visual tokens that earlier answers are based on",
    )
    time_sentence: Literal["own", "published", "none"] = field(
        "own",
        "sentence before the first question about a video, with the duration and the number of"
        " frames: in the words of this project, in those of the published training, or none",
    )
    frame_times: Literal["off", "text", "embedding"] = field(
        "off",
        "time of each frame of a video: off, as published; text: words such as <12.0 s> before the"
        " tokens of each frame that forgetting keeps, for the language model; embedding: a learned"
        " embedding of seconds, added to the tokens of each frame before MemAug",
    )
    frames_per_time: int = field(
        1,
        "with frame_times=text: kept frames that share one time, that of the first of them; 4 needs"
        " a quarter of the tokens",
        unit="frames",
        ge=1,
    )
    subtitles: Literal["off", "all", "kept"] = field(
        "off",
        "subtitles of a video in the prompt, before the first question: none, all, or those shown"
        " at the frames that forgetting keeps. They come from the file beside the video",
    )
    max_subtitle_tokens: int = field(
        2048,
        "tokens of these subtitles; of more, evenly spaced lines are taken",
        unit="tokens",
        ge=16,
    )
    max_tokens: int = field(
        32768,
        "longest sequence, visual tokens included; longer ones are truncated",
        unit="tokens",
        ge=64,
    )


@dataclass(frozen=True)
class GenerationConfig:
    """Generation of answers."""

    max_new_tokens: int = field(128, "longest answer", unit="tokens", ge=1)


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    run: RunConfig = field(RunConfig, "name, folder and seed of the run")
    video: VideoConfig = field(VideoConfig, "sampling frames from videos")
    image: ImageConfig = field(ImageConfig, "splitting images into tiles")
    pack: PackConfig = field(PackConfig, "packing videos and questions into tar shards")
    features: FeatureConfig = field(FeatureConfig, "storing features of the vision encoder")
    text: TextConfig = field(TextConfig, "tokenizing conversations")
    data: DataConfig = field(DataConfig, "loading batches from shards")
    model: ModelConfig = field(ModelConfig, "parts and sizes of the model")
    training: TrainingConfig = field(
        TrainingConfig, "optimizer, schedule, validation, checkpoints and hardware"
    )
    generation: GenerationConfig = field(GenerationConfig, "generating answers")
    serving: ServingConfig = field(ServingConfig, "inference with a trained run")
    synthetic: SyntheticConfig = field(SyntheticConfig, "synthetic videos with known answers")
    pretrain_tower: PretrainTowerConfig = field(
        PretrainTowerConfig, "training of a small vision encoder on synthetic frames"
    )
    pretrain_language: PretrainLanguageConfig = field(
        PretrainLanguageConfig, "training of a small language model on synthetic questions"
    )
    videomarathon: VideoMarathonConfig = field(
        VideoMarathonConfig, "instruction data about videos, written by a teacher model"
    )
    evaluation: EvaluationConfig = field(EvaluationConfig, "evaluation on benchmarks")
