"""A trained run that encodes a video once and answers questions about it.

Entry point: `VideoPredictor.from_run`, then `encode_video` and `generate`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from lit_hour.config.load import load_config
from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.inference.answer import Answer, AnswerPiece, LogLikelihood
from lit_hour.inference.batching import stream_answers
from lit_hour.inference.devices import check_device, join_ranks
from lit_hour.inference.precision import cast_weights, resolve_dtype
from lit_hour.inference.video_memory import (
    InputFiles,
    VideoMemory,
    VideoMemoryBuilder,
    check_continuation,
    check_input_files,
    digest_files,
    make_thumbnail,
    subsample_thumbnails,
)
from lit_hour.media.subtitles import load_video_subtitles
from lit_hour.media.video_reader import SampledVideo
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.memory_repository import MemoryRepository
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.model.prefix_cache import AugmentationCache, PrefixCache
from lit_hour.model.sharded_memory import divide_frames
from lit_hour.model.streaming_repository import CHUNK_FRAMES
from lit_hour.processor import HourLLaVAProcessor, count_placeholders
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import end_of_turn_id, load_tokenizer
from lit_hour.types import (
    Conversation,
    Example,
    Features,
    Frames,
    Message,
    Subtitle,
    Video,
    Visual,
)
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import check_state_dict, load_into, optional_weights


class VideoPredictor:
    """A trained model that encodes videos and answers questions about them.

    Attributes:
        group: ranks over which the memory of a video is divided, see `join_ranks`. All of them call
            each method together and get the same results. None for a process of its own.
    """

    group: dist.ProcessGroup | None = None

    def __init__(self, config: Config, model: HourLLaVA, processor: HourLLaVAProcessor) -> None:
        self.config, self.model, self.processor = config, model.eval(), processor
        self.device = next(model.parameters()).device
        model.llm.use_packed_attention()  # of batched decoding
        num_bytes = int(config.serving.prefix_cache_gb * 1e9)
        self.prefixes = PrefixCache(num_bytes - num_bytes // 4)
        self.augmentations = AugmentationCache(model.memaug, num_bytes // 4)

    @classmethod
    def from_run(
        cls,
        run_dir: Path,
        checkpoint: str | None = None,
        device: str | None = None,
        overrides: Sequence[str] = (),
    ) -> VideoPredictor:
        """Load a run that `train.py` or `lit-hour convert` wrote.

        Args:
            run_dir: the run folder.
            checkpoint: a name in `RUN/checkpoints`, as `RunDir.checkpoint` takes it.
            device: "cpu" or "cuda"; a GPU if there is one by default.
            overrides: `key=value` settings that override those of the run.

        Raises:
            RunError: the run or the checkpoint is missing.
            WeightsError: the checkpoint is corrupt or belongs to another model.
            ConfigError: a setting does not exist or is out of range, or the device does not exist.
        """
        if device is not None:
            check_device(device)
        run = RunDir(run_dir)
        path = run.checkpoint(checkpoint)
        config = load_config(path.with_suffix(".yaml"), overrides)
        group, device = join_ranks(config, device)
        predictor = cls.from_checkpoint(config, run, path, device)
        predictor.group = group
        return predictor

    @classmethod
    def from_checkpoint(
        cls,
        config: Config,
        run_dir: RunDir,
        checkpoint: Path,
        device: str | torch.device | None = None,
    ) -> VideoPredictor:
        """Load one checkpoint of a run with a config of the caller.

        The weights get the dtype of `serving.precision` and require no gradients. The model is
        built on the meta device, so no memory is spent on random weights, or on another precision.

        Raises:
            WeightsError: the checkpoint is corrupt or belongs to another model.
        """
        weights = open_run_weights(checkpoint, config)
        processor = HourLLaVAProcessor(
            load_tokenizer(run_dir.tokenizer), config.text, config.model.memaug
        )
        with torch.device("meta"):
            model = HourLLaVA.from_config(config, len(processor.tokenizer))
        origin = f"{weights.path}, with the settings beside it,"
        expected, optional = model.state_dict(), optional_weights(config)
        check_state_dict(expected, weights.meta_tensors, origin, optional=optional)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        cast_weights(model, resolve_dtype(config.serving.precision, device))
        model.requires_grad_(False).materialize(device)
        load_into(model, weights.tensors())
        model.llm.quantize_frozen_layers()
        return cls(config, model, processor)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights that determine a memory."""
        return self.model.digest()

    @torch.inference_mode()
    def encode_video(
        self,
        files: InputFiles | str | Path | Sequence[str | Path],
        progress_bar: tqdm[Any] | None = None,
    ) -> VideoMemory:
        """Encode a video file, an image file or several image files into a memory.

        A video is decoded and encoded in chunks, so memory use does not depend on its frames.

        Args:
            files: paths, or what `check_input_files` returned for them.
            progress_bar: advanced by the number of frames after each chunk of a video.

        Raises:
            VideoError, ImageError: a file cannot be read.
            QuestionError: there is no file, or a video is one of several files.
        """
        if not isinstance(files, InputFiles):
            files = check_input_files([files] if isinstance(files, str | Path) else files)
        started, source = time.perf_counter(), ", ".join(map(str, files.paths))
        visual = files.open_visual(self.config)
        if isinstance(visual, SampledVideo):
            timestamps, group = list(visual.timestamps), self.group
            part = slice(0, len(timestamps))
            if group is not None and self._is_divided(len(timestamps)):
                part = divide_frames(len(timestamps), CHUNK_FRAMES, group)
            visual.timestamps[:] = timestamps[part]
            num_frames = len(visual.timestamps)
            builder = VideoMemoryBuilder(self.model, self.processor, num_frames, part.start)
            for frames in visual.chunks(self.config.model.vision.encode_batch_size):
                builder.add(frames)
                if progress_bar is not None:
                    progress_bar.total = num_frames
                    progress_bar.update(len(frames))
            subtitles = self.read_subtitles(files.paths[0])
            described = (visual.duration_seconds, source, subtitles)
            if group is not None and self._is_divided(len(timestamps)):
                memory = builder.finalize_sharded(*described, timestamps, group)
            else:
                memory = builder.finalize(*described)
        else:
            memory = self.encode_visual(visual, 0.0, source)
        decode_seconds = time.perf_counter() - started - memory.seconds["encode"]
        return replace(
            memory,
            seconds={"decode": decode_seconds, **memory.seconds},
            files_digest=digest_files(files.paths),
        )

    def _is_divided(self, num_frames: int) -> bool:
        """Return whether a video is long enough to be divided over the ranks of `group`."""
        fewest = CHUNK_FRAMES * dist.get_world_size(self.group)
        return num_frames >= max(fewest, self.config.model.memaug.min_frames)

    def read_subtitles(
        self, video: Path, clip_seconds: tuple[float, float] | None = None
    ) -> tuple[Subtitle, ...]:
        """Read the subtitles beside a video, if `text.subtitles` uses them.

        Raises:
            QuestionError: see `load_video_subtitles`.
        """
        if self.config.text.subtitles == "off":
            return ()
        return load_video_subtitles(video, clip_seconds)

    @torch.inference_mode()
    def encode_visual(
        self, visual: Visual | None, duration_seconds: float, source: str
    ) -> VideoMemory:
        """Encode decoded frames, stored features, images, or None for a text-only question."""
        if isinstance(visual, Frames | Features):
            builder = VideoMemoryBuilder(self.model, self.processor, len(visual))
            builder.add(visual)
            return builder.finalize(duration_seconds, source)
        started = time.perf_counter()
        images = None if visual is None else visual.to(self.device)
        (repository,) = self.model.build_repositories([images])
        memory = self.build_image_memory(repository, count_placeholders(visual), source)
        return replace(
            memory,
            duration_seconds=duration_seconds,
            seconds={"encode": time.perf_counter() - started},
        )

    @torch.inference_mode()
    def build_image_memory(
        self, repository: MemoryRepository, num_placeholders: int, source: str
    ) -> VideoMemory:
        """Return the memory of images, or of a text-only question, with its KV cache."""
        return VideoMemory(
            source=source,
            duration_seconds=0.0,
            num_frames=0,
            num_placeholders=num_placeholders,
            note="",
            repository=self.model.with_kv_cache(repository),
            seconds={},
        )

    def extend(self, memory: VideoMemory, video: Video, duration_seconds: float) -> VideoMemory:
        """Append frames to the memory of a video, with the same result as encoding it in one piece.

        The cost depends on the new frames alone. `memory` itself is not changed.

        Args:
            memory: of a video.
            video: frames or features, with times counted from the beginning of the video.
            duration_seconds: of the video, including what is appended.

        Raises:
            QuestionError: the memory is one of images.
            VideoError: the times do not follow those before, or there are more frames than
                `video.max_frames`.
        """
        started, num_frames = time.perf_counter(), memory.num_frames + len(video)
        seconds = tuple(video.timestamps.tolist())
        stream = check_continuation(
            memory, video, duration_seconds, self.config.video.max_frames
        ).fork_and_extend(memory.num_frames, video.to(self.device))
        thumbnails = list(memory.thumbnails)
        if isinstance(video, Frames):
            thumbnails.append(make_thumbnail(video, len(video) - 1))
        longer = replace(
            memory,
            duration_seconds=duration_seconds,
            num_frames=num_frames,
            note=self.processor.describe_video(
                duration_seconds, [*memory.timestamps_seconds, *seconds], memory.subtitles
            ),
            timestamps_seconds=(*memory.timestamps_seconds, *seconds),
            repository=stream.repository(num_frames),
            thumbnails=subsample_thumbnails(thumbnails),
            files_digest="",
            stream=stream,
        )
        encode_seconds = memory.seconds["encode"] + time.perf_counter() - started
        return replace(longer, seconds={**memory.seconds, "encode": encode_seconds})

    def generate(
        self,
        memory: VideoMemory,
        question: str,
        history: Sequence[Message] = (),
        max_new_tokens: int | None = None,
        sampling: SamplingParams = GREEDY,
    ) -> Generator[str | Answer, None, None]:
        """Generate the answer to a question, by greedy decoding unless `sampling` is given.

        Args:
            memory: of the video or images.
            question: text of the user.
            history: earlier questions and answers, alternating.
            max_new_tokens: limit below `generation.max_new_tokens`, which holds in any case.
            sampling: how to sample one answer.

        Yields:
            Pieces of text as they are generated, then the `Answer`.

        Raises:
            QuestionError: the question is empty, or too long.
        """
        conversation = self.processor.build_prompt(question, history)
        params = replace(sampling, max_new_tokens=max_new_tokens or sampling.max_new_tokens)
        for event in stream_answers(self, memory, conversation, params):
            yield event.text if isinstance(event, AnswerPiece) else event

    @torch.inference_mode()
    def generate_batch(
        self, memory: VideoMemory, conversations: Sequence[Conversation]
    ) -> list[str]:
        """Generate the answers to several questions about one memory in a batch.

        Raises:
            QuestionError: a question is too long.
        """
        tokenizer, limit = self.processor.tokenizer, self.config.generation.max_new_tokens
        prompts = self.build_prompts(memory, conversations)
        steps = self.model.llm.generate(prompts, limit, end_of_turn_id(tokenizer))
        tokens = torch.stack(list(steps), dim=1)  # (texts, tokens)
        return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in tokens.tolist()]

    @torch.inference_mode()
    def loglikelihood(
        self, memory: VideoMemory, conversation: Conversation, answers: Sequence[str]
    ) -> list[LogLikelihood]:
        """Return the log-likelihood of each given answer to one question.

        The prompt is encoded once for all answers. White space around an answer does not count,
        as in training.

        Raises:
            QuestionError: the question is too long.
        """
        continuations = [
            self.processor.answer_ids(answer.strip()).to(self.device) for answer in answers
        ]  # (tokens,) per answer
        prompt = self.build_prompts(memory, [conversation])
        log_probabilities, is_greedy = self.model.llm.loglikelihood(prompt, continuations)
        return [
            LogLikelihood(log_probability, len(ids), greedy)
            for log_probability, ids, greedy in zip(
                log_probabilities.tolist(), continuations, is_greedy.tolist(), strict=True
            )
        ]

    def build_prompts(
        self, memory: VideoMemory, conversations: Sequence[Conversation]
    ) -> LLMInputs:
        """Return the inputs of the LLM up to where each answer begins.

        Raises:
            QuestionError: a question is too long.
        """
        texts = self.processor.tokenize(
            conversations,
            num_placeholders=memory.num_placeholders,
            note=memory.note,
            timestamps_seconds=memory.timestamps_seconds,
        )
        # no visual: its tokens are in the memory's repository already
        batch = self.processor.collate([Example(memory.source, None, texts)]).to(self.device)
        max_tokens = self.config.text.max_tokens
        if batch.input_ids.shape[1] < max_tokens:  # else too long even without the visual tokens
            repeats = self.config.text.memaug_question_scope == "first"
            run_memaug = self.augmentations if repeats else None
            inputs = self.model.build_inputs(batch, [memory.repository], run_memaug=run_memaug)
            if inputs.labels.shape[1] < max_tokens:
                return left_pad_prompts(inputs)
        raise QuestionError(
            f"The question does not fit beside the visual tokens of {memory.source} in"
            f" text.max_tokens={max_tokens}. Ask a shorter question, or raise text.max_tokens."
        )
