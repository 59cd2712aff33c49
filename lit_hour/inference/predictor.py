"""An answer, and what it took.

A trained run that is asked about a video or pictures, which it remembers once; each question is answered from memory.

A question about what is remembered and answers that could be given -> how likely the model gives each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.inference.inputs import open_input_files
from lit_hour.inference.video_memory import (
    VideoMemory,
    VideoMemoryBuilder,
    build_video_memory,
    check_continuation,
    digest_files,
    make_thumbnail,
    subsample_thumbnails,
)
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import MemoryRepository
from lit_hour.model.meta_init import materialize
from lit_hour.model.multimodal_inputs import LLMInputs, truncate_to_prompts
from lit_hour.model.streaming_repository import StreamingRepository
from lit_hour.processor import Processor, count_placeholders
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import end_of_turn_id, load_tokenizer
from lit_hour.types import (
    Conversation,
    Example,
    Features,
    Frames,
    Message,
    Video,
    Visual,
)
from lit_hour.weights.name_map import optional_weights
from lit_hour.weights.reader import (
    StoredWeights,
    check_state_dict,
    load_into,
    open_weights,
    shapes_of,
)


@dataclass(frozen=True)
class Answer:
    """What the model said about a video, what it had seen, and what it took.

    Attributes:
        num_memory_tokens: that were looked back into.
        num_prompt_tokens: that the language model read: words, and the visual tokens that were not forgotten.
        num_tokens: that it wrote, the end of the turn among them.
        finish_reason: "stop" if the model ended its turn, "length" if the answer was cut off.
        seconds: by part: "decode", "encode", "first token", "other tokens".
    """

    text: str
    num_frames: int
    num_memory_tokens: int
    num_prompt_tokens: int
    num_new_tokens: int
    finish_reason: Literal["stop", "length"]
    seconds: dict[str, float]


@dataclass(frozen=True)
class LogLikelihood:
    """How likely an answer is, and no word more.

    Attributes:
        log_probability: sum over its tokens and the end of the turn; the likelier, the higher.
        num_tokens: of them.
        is_greedy: whether each is the likeliest, so that the predictor would answer so.
    """

    log_probability: float
    num_tokens: int
    is_greedy: bool

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token, as training has it; the likelier, the lower."""
        return -self.log_probability / self.num_tokens


REPLACEMENT_CHARACTER = (
    "\ufffd"  # what a tokenizer shows for a character whose last bytes are still to come
)


ProgressCallback = Callable[[int, int], None]


def no_progress(num_read: int, num_frames: int) -> None:
    """Nobody looks at the progress."""


class VideoPredictor:
    """A model that is ready to read videos and to answer."""

    def __init__(self, config: Config, model: HourLLaVA, processor: Processor) -> None:
        self.config, self.model, self.processor = config, model.eval(), processor
        self.device = next(model.parameters()).device

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights that decide a memory."""
        return self.model.digest()

    @classmethod
    def from_run(
        cls,
        run_dir: Path,
        checkpoint: str | None = None,
        device: str | None = None,
        overrides: Sequence[str] = (),
    ) -> VideoPredictor:
        """Load a run that `train.py` or `python -m lit_hour convert` has made.

        Args:
            run: the run folder.
            checkpoint: a name in its checkpoints, as `RunDir.checkpoint` has it.
            device: where to compute; a GPU when there is one, if not given.
            settings: `a.b=c` words that win over those of the run.

        Raises:
            RunError: the run or the checkpoint is missing.
            WeightsError: the checkpoint is damaged or belongs to another model.
            ConfigError: a setting does not exist or is out of range.
        """
        folder = RunDir(run_dir)
        place = folder.checkpoint(checkpoint)
        return cls.from_checkpoint(
            load_config(place.with_suffix(".yaml"), overrides), folder, place, device
        )

    @classmethod
    def from_checkpoint(
        cls,
        config: Config,
        run_dir: RunDir,
        checkpoint: Path,
        device: str | torch.device | None = None,
    ) -> VideoPredictor:
        """Load one of a run's checkpoints by settings that fit it, straight onto a device.

        Raises:
            WeightsError: the checkpoint is damaged or belongs to another model.
        """
        weights = open_weights(checkpoint)
        processor = Processor(load_tokenizer(run_dir.tokenizer), config.text)
        with torch.device("meta"):  # no random weights, and no memory, before those that are read
            model = HourLLaVA(config, len(processor.tokenizer))
        _load_weights(
            model, weights, config, device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
        return cls(config, model, processor)

    @torch.inference_mode()
    def encode_video(
        self, files: str | Path | Sequence[str | Path], on_progress: ProgressCallback = no_progress
    ) -> VideoMemory:
        """Read a video file, a picture file, or several picture files, and keep all their tokens.

        A video is read and encoded a chunk of frames at a time, and its frames are not kept.

        Args:
            progress: is told after each chunk of a video how many of its frames were read, and how many there are.

        Raises:
            VideoError, ImageError: a file cannot be read.
            QuestionError: there is no file, or there are several and a video is among them.
        """
        paths = [Path(files)] if isinstance(files, str | Path) else list(map(Path, files))
        source, started = ", ".join(map(str, paths)), time.perf_counter()
        visual = open_input_files(paths, self.config)
        if not isinstance(visual, SampledVideo):
            decode_seconds = time.perf_counter() - started
            memory = self.encode_visual(visual, 0.0, source)
            return replace(
                memory,
                seconds={"decode": decode_seconds, **memory.seconds},
                files_digest=digest_files(paths),
            )
        encode_seconds = 0.0
        builder = self.memory_builder(len(visual.timestamps))
        for frames in visual.chunks(self.config.model.vision.encode_batch_size):
            decoded = time.perf_counter()
            builder.add(frames.to(self.device))
            encode_seconds += time.perf_counter() - decoded
            on_progress(builder.num_frames, len(visual.timestamps))
        seconds = {
            "decode": time.perf_counter() - started - encode_seconds,
            "encode": encode_seconds,
        }
        memory = builder.finalize(visual.duration_seconds, source)
        return replace(memory, seconds=seconds, files_digest=digest_files(paths))

    @torch.inference_mode()
    def encode_visual(
        self, visual: Visual | None, duration_seconds: float, source: str
    ) -> VideoMemory:
        """Keep all tokens of what is at hand: frames or features of a video, pictures, or nothing to see."""
        started = time.perf_counter()
        if isinstance(visual, Frames | Features):
            growing = StreamingRepository(self.model, len(visual))
            growing.append(visual.to(self.device))
            memory = build_video_memory(growing, self.processor, duration_seconds, source)
        else:
            repository = self.model.build_repositories([None if visual is None else visual.to(self.device)])[
                0
            ]
            memory = self.build_image_memory(repository, count_placeholders(visual), source)
        return replace(
            memory,
            duration_seconds=duration_seconds,
            seconds={"encode": time.perf_counter() - started},
        )

    def memory_builder(self, num_frames: int) -> VideoMemoryBuilder:
        """Return a builder to which the frames of a video are added chunk by chunk."""
        return VideoMemoryBuilder(self.model, self.processor, num_frames)

    def extend(self, memory: VideoMemory, video: Video, duration_seconds: float) -> VideoMemory:
        """Add what comes next to the memory of a video: the same as if it had been read in one piece.

        What it costs depends on the new frames alone. The memory of before stays as it is, and may be asked on.

        Args:
            memory: of a video.
            video: frames or features, at the times at which they are seen, counted from the beginning of the video.
            duration_seconds: of the video, with what is added.

        Raises:
            QuestionError: the memory is one of pictures.
            VideoError: the times do not follow on those before, or the frames are more than `video.max_frames`.
        """
        started = time.perf_counter()
        growing = check_continuation(
            memory, video, duration_seconds, self.config.video.max_frames
        ).fork_and_extend(memory.num_frames, video.to(self.device))
        longer = build_video_memory(
            growing, self.processor, duration_seconds, memory.source, memory.num_frames + len(video)
        )
        pictures = (
            [*memory.thumbnails, make_thumbnail(video, len(video) - 1)]
            if isinstance(video, Frames)
            else memory.thumbnails
        )
        encode_seconds = memory.seconds["encode"] + time.perf_counter() - started
        return replace(
            longer,
            seconds={**memory.seconds, "encode": encode_seconds},
            thumbnails=subsample_thumbnails(pictures),
        )

    @torch.inference_mode()
    def build_image_memory(
        self, repository: MemoryRepository, num_placeholders: int, source: str
    ) -> VideoMemory:
        """The memory of pictures, or of nothing to see."""
        return VideoMemory(
            source=source,
            duration_seconds=0.0,
            num_frames=0,
            num_placeholders=num_placeholders,
            note="",
            repository=self.model.with_kv_cache(repository),
            seconds={},
        )

    @torch.inference_mode()
    def generate(
        self,
        memory: VideoMemory,
        question: str,
        history: Sequence[Message] = (),
        max_new_tokens: int | None = None,
    ) -> Iterator[str | Answer]:
        """Answer a question about what is remembered: pieces of text as they come, and the whole answer last.

        Args:
            history: questions that were asked before and their answers, in turn.
            max_tokens: the answer is cut off after so many, as it is in any case after `generation.max_new_tokens`.

        Raises:
            QuestionError: the question is empty, or too long.
        """
        started = time.perf_counter()
        prompt = self.build_prompt(memory, [self.processor.ask(question, history)])
        ids: list[int] = []
        text = ""
        tokenizer, most = self.processor.tokenizer, self.config.generation.max_new_tokens
        end_id = end_of_turn_id(tokenizer)
        for token in self.model.llm.generate(
            prompt, min(most, max_new_tokens or most), end_id
        ):
            if not ids:
                first_token_seconds = time.perf_counter() - started
            ids.append(int(token))
            longer = str(tokenizer.decode(ids, skip_special_tokens=True))
            if not longer.endswith(REPLACEMENT_CHARACTER):
                yield longer.removeprefix(text)
                text = longer
        if longer != text:  # cut off within a character
            yield longer.removeprefix(text)
        seconds = {
            **memory.seconds,
            "first token": first_token_seconds,
            "other tokens": time.perf_counter() - started - first_token_seconds,
        }
        yield Answer(
            longer,
            num_frames=memory.num_frames,
            num_memory_tokens=len(memory.repository.tokens),
            num_prompt_tokens=prompt.embeddings.shape[1],
            num_new_tokens=len(ids),
            finish_reason="stop" if ids[-1] == end_id else "length",
            seconds=seconds,
        )

    @torch.inference_mode()
    def generate_batch(
        self, memory: VideoMemory, conversations: Sequence[Conversation]
    ) -> list[str]:
        """The answers to several questions about what is remembered, generated side by side.

        Raises:
            QuestionError: a question is too long.
        """
        tokenizer, max_new_tokens = self.processor.tokenizer, self.config.generation.max_new_tokens
        end_id = end_of_turn_id(tokenizer)
        prompts = self.build_prompt(memory, conversations)
        tokens = torch.stack(
            list(self.model.llm.generate(prompts, max_new_tokens, end_id)), dim=1
        )  # (texts, tokens)
        return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in tokens.tolist()]

    @torch.inference_mode()
    def loglikelihood(
        self, memory: VideoMemory, conversation: Conversation, answers: Sequence[str]
    ) -> list[LogLikelihood]:
        """Score answers to a question without generating: one `LogLikelihood` per answer.

        The question is encoded once. White space around an answer does not count, as in training.

        Raises:
            QuestionError: the question is too long.
        """
        continuations = [
            self.processor.answer_ids(answer.strip()).to(self.device) for answer in answers
        ]  # (tokens,) each
        prompt = self.build_prompt(memory, [conversation])
        log_probabilities, is_greedy = self.model.llm.loglikelihood(prompt, continuations)
        return [
            LogLikelihood(log_probability, len(ids), greedy)
            for log_probability, ids, greedy in zip(
                log_probabilities.tolist(), continuations, is_greedy.tolist(), strict=True
            )
        ]

    def build_prompt(
        self, memory: VideoMemory, conversations: Sequence[Conversation]
    ) -> LLMInputs:
        """What the language model reads before it answers.

        Raises:
            QuestionError: a question is too long.
        """
        texts = self.processor.texts(
            conversations, num_placeholders=memory.num_placeholders, note=memory.note
        )
        batch = self.processor.batch([Example(memory.source, None, texts)]).to(self.device)
        if (
            batch.input_ids.shape[1] < self.config.text.max_tokens
        ):  # or it would not fit without the video
            inputs = self.model.build_inputs(batch, [memory.repository])
            if inputs.labels.shape[1] < self.config.text.max_tokens:
                return truncate_to_prompts(inputs)
        raise QuestionError(
            f"the question does not fit beside the tokens of {memory.source} in"
            f" text.max_tokens={self.config.text.max_tokens}: ask a shorter one, or raise it"
        )


def _load_weights(
    model: HourLLaVA, weights: StoredWeights, config: Config, device: str | torch.device
) -> None:
    """Put a checkpoint's weights into a model that is built on "meta", straight onto a device.

    Raises:
        WeightsError: weights are missing, left over or of another shape.
    """
    origin = f"{weights.path}, with the settings beside it,"
    check_state_dict(
        shapes_of(model.state_dict()), weights.shapes, origin, optional=optional_weights(config)
    )
    materialize(model, device)
    load_into(model, weights.tensors())
