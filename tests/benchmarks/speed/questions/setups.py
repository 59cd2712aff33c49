"""Models, and videos with many questions as frames and features, to measure steps on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.packing.pack import pack
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.synthetic.dataset import build_dataset
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.fit import make_tokenizer
from lit_hour.training.module import HourLLaVAModule
from tests import CONF, published_stage
from tests.benchmarks.speed.step.noise_features import write_noise

CONVERSATIONS_PER_VIDEO = 24  # of the published data set, with up to 5 questions in each
NUM_VIDEOS = 4
NUM_TOKENS = 1024  # of the model that only encodes
TINY = (CONF / "tiny_model.yaml",)
# The frozen tower of the default run, with random weights, which take as long.
TINY_TOWER = ("model.vision.name=lit-hour-conv", "training.learning_rate.vision=0")
# One layer of each part, in float32, with the tokenizer's vocabulary in place of 152,000 words.
WIDTHS_3B = (
    "model.vision.layer=0",
    "model.memaug.num_layers=1",
    "model.llm.num_layers=1",
    "model.llm.vocab_size=0",
    "training.init_from=",
    "training.strategy=auto",
    "training.precision=32-true",
    "training.activation_checkpointing=false",
    "training.accelerator=cpu",
    "training.devices=1",
)


@dataclass(frozen=True)
class Setup:
    """A model and the videos that it is trained on.

    Attributes:
        title: for the table.
        stored: how the shards store the videos.
        num_frames: of every video.
        num_questions: of a conversation.
        num_steps: of each round, with the warm-up.
        num_warmup: first steps of a round, which do not count.
        num_rounds: the numbers of conversations alternate in each.
        goal: times as many questions per second with 8 conversations as with one.
    """

    title: str
    model: Literal["tiny", "3b"]
    stored: Literal["frames", "features"]
    num_frames: int
    num_questions: int
    num_steps: int
    num_warmup: int
    num_rounds: int
    goal: float | None = None

    def config(self, folder: Path, *overrides: str) -> Config:
        """Return the settings of a run on shards in a folder; features need a frozen encoder."""
        is_tiny, shards = self.model == "tiny", folder / self.stored
        source = "world" if is_tiny else "video_marathon"
        files = TINY if is_tiny else published_stage("3b", "s3")
        others = [
            f"data.sources.{name}.weight=0"
            for name in (
                "llava_onevision_text",
                "llava_onevision_single_image",
                "llava_onevision_multi_image",
                "llava_video_178k",
            )
        ]
        settings = [
            *(TINY_TOWER if is_tiny else (*WIDTHS_3B, *others)),
            f"run.folder={folder}/runs",
            f"data.sources.{source}.shards={shards}",
            f"data.questions_per_sample={self.num_questions}",
            "data.length_balance_window=1",
            "data.num_workers=1",
            f"training.max_steps={self.num_steps}",
            "video.sampling=seconds",
            f"video.min_frames={self.num_frames}",
            f"video.max_frames={self.num_frames}",
            f"model.memaug.min_frames={min(32, self.num_frames)}",
            *(("training.learning_rate.vision=0",) if self.stored == "features" else ()),
        ]
        return load_config(files, [*settings, *overrides])

    def build(self, config: Config) -> tuple[HourLLaVAProcessor, HourLLaVAModule]:
        """Build the processor and the module with random weights, always the same."""
        processor = self.load_processor(config)
        L.seed_everything(config.run.seed, verbose=False)
        num_tokens = len(processor.tokenizer)
        return processor, HourLLaVAModule(config, num_tokens, config.training.max_steps)

    def load_processor(self, config: Config) -> HourLLaVAProcessor:
        """Load the tokenizer that is trained on the questions of the shards."""
        run = RunDir.from_config(config.run)
        run.path.mkdir(parents=True, exist_ok=True)
        make_tokenizer(config, run)
        return HourLLaVAProcessor(load_tokenizer(run.tokenizer), config.text)

    def write_shards(self, folder: Path) -> None:
        """Write videos with the questions of 24 conversations each."""
        config = self.config(folder)
        num_questions = CONVERSATIONS_PER_VIDEO * self.num_questions
        if self.stored == "features":
            L.seed_everything(config.run.seed, verbose=False)
            vision = HourLLaVAModule(config, NUM_TOKENS, 1).model.vision
            target = folder / "features"
            write_noise(target, NUM_VIDEOS, self.num_frames, config, vision, num_questions)
            return
        seconds = self.num_frames * 1.5  # the durations vary within a third
        synthetic = load_config(
            CONF / "tiny.yaml",
            [
                f"synthetic.folder={folder}/world",
                f"synthetic.num_videos={NUM_VIDEOS}",
                "synthetic.num_val_videos=1",
                "synthetic.num_hour_videos=0",
                f"synthetic.duration_seconds={max(30, seconds)}",
            ],
        ).synthetic
        dataset = build_dataset(synthetic)
        questions = repeat_questions(dataset.train_questions, num_questions)
        pack(dataset.train_videos, questions, folder / "frames", config.video, config.pack)


def repeat_questions(questions: Path, num_questions: int) -> Path:
    """Write a question file in which each video has so many of its questions, with repetitions."""
    records = json.loads(questions.read_text(encoding="utf-8"))
    repeated = []
    for video in sorted({record["video"] for record in records}):
        about: Sequence[dict[str, str]] = [one for one in records if one["video"] == video]
        repeated += [
            {**about[number % len(about)], "id": f"{video}/{number}"}
            for number in range(num_questions)
        ]
    target = questions.with_name("repeated.json")
    target.write_text(json.dumps(repeated), encoding="utf-8")
    return target
