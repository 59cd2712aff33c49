"""The model classes that lmms-eval calls; a `VideoPredictor` generates the responses.

lmms-eval sends requests in the order of the task's docs. The memory of the last video is kept until
a request shows another one, so a video is read once for consecutive questions about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from lit_hour.evaluation.lmms_eval.prompt import (
    GenerationKwargs,
    Prompt,
    prompt_from_messages,
    prompt_from_visuals,
    save_visual,
)
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory

log = logging.getLogger(__name__)


class LitHour(lmms):
    """Model for simple tasks, which give visuals and text apart: `--force_simple`, likelihoods."""

    is_simple = True

    def __init__(
        self,
        run: str,
        checkpoint: str | None = None,
        device: str | None = None,
        overrides: str = "",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        """Load a run.

        Args:
            run: the run folder.
            checkpoint: name of a checkpoint of the run, as for `lit-hour ask`.
            device: a torch device. With several processes of `accelerate launch` it is ignored, and
                each has its own GPU.
            overrides: settings as `a.b=c`, separated by spaces, applied over those of the run.
            batch_size: has no effect, so that no response depends on other questions.
            max_batch_size: has no effect either.

        Raises:
            RunError: the run or the checkpoint is missing.
            WeightsError: the checkpoint is damaged or belongs to another model.
            ConfigError: a setting does not exist or is out of range.
        """
        super().__init__()
        if str(batch_size) != "1":
            log.warning(
                "--batch_size %s has no effect: lit_hour evaluates questions one by one", batch_size
            )
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            device = str(self.accelerator.device)
        name = None if checkpoint is None else str(checkpoint)
        self.predictor = VideoPredictor.from_run(Path(str(run)), name, device, overrides.split())
        self._last_memory: tuple[tuple[str, ...], VideoMemory] | None = None  # with its files
        self._warned: set[str] = set()

    @property
    def device(self) -> torch.device:
        """The device of the tensors that lmms-eval's processes exchange."""
        return self.predictor.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generate the response to each request.

        Raises:
            ConfigError: a task requests sampling or beam search.
            QuestionError: a question is empty or too long, or has unsupported visuals.
            VideoError: a video cannot be read.
            ImageError: an image cannot be read.
        """
        resps = []
        for request in self._progress(requests):
            prompt, values = self._parse_request(request)
            resps.append(self._generate(prompt, values, request.task_name))
        return resps

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Compute the mean negative log-probability of each continuation, and whether it is greedy.

        lmms-eval takes the option with the lowest number; its own models return their loss, too,
        despite the method's name. Results are wrapped like responses, because lmms-eval 0.7.3 would
        turn a bare pair into a string.

        Raises:
            QuestionError: a question is empty or too long, or has unsupported visuals.
            VideoError: a video cannot be read.
            ImageError: an image cannot be read.
            NotImplementedError: a request has no video.
        """
        resps = []
        for request in self._progress(requests):
            if len(request.args) == 2:
                raise NotImplementedError(
                    f"Task {request.task_name}: the metric acc_mutual_info needs likelihoods"
                    " without a video, which lit_hour does not support. Use the metric acc."
                )
            context, doc_to_target, doc_to_visual, *location = request.args
            doc = self._doc(*location)
            prompt = prompt_from_visuals(doc_to_visual(doc), context, request.task_name)
            target = doc_to_target(doc) if callable(doc_to_target) else doc_to_target
            conversation = self.predictor.processor.build_prompt(prompt.text)
            memory = self._encode(prompt)
            (result,) = self.predictor.loglikelihood(memory, conversation, [str(target)])
            resps.append(GenerationResult((result.loss, result.is_greedy)))
        return resps

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks of several rounds.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"Task {requests[0].task_name} has several rounds; lit_hour supports tasks of type"
            " generate_until."
        )

    def clean(self) -> None:
        """Release the model's memory, which lmms-eval needs for a judge."""
        del self.predictor, self._last_memory
        super().clean()

    def _parse_request(self, request: Instance) -> tuple[Prompt, Mapping[str, Any]]:
        """Return the prompt and the `generation_kwargs` of a request."""
        context, values, doc_to_visual, *location = request.args
        visuals = doc_to_visual(self._doc(*location))
        return prompt_from_visuals(visuals, context, request.task_name), values

    def _generate(self, prompt: Prompt, values: Mapping[str, Any], task: str) -> str:
        kwargs = GenerationKwargs.parse(values, task)
        for name in set(kwargs.ignored) - self._warned:
            log.warning("Task %s: %s=%s has no effect in lit_hour", task, name, values[name])
            self._warned.add(name)
        predictor, memory = self._predictor_for(prompt, kwargs), self._encode(prompt)
        text = ""
        for piece in predictor.generate(memory, prompt.text):
            text += piece if isinstance(piece, str) else ""
            if (end := kwargs.find_stop(text)) is not None:
                return text[:end]
        return text

    def _predictor_for(self, prompt: Prompt, kwargs: GenerationKwargs) -> VideoPredictor:
        """Return a predictor with the same model and the settings of the task."""
        config = self.predictor.config
        if kwargs.max_new_tokens is not None:
            generation = replace(config.generation, max_new_tokens=kwargs.max_new_tokens)
            config = replace(config, generation=generation)
        if prompt.system_prompt is not None:
            config = replace(config, text=replace(config.text, system_prompt=prompt.system_prompt))
        processor = replace(self.predictor.processor, config=config.text)
        return VideoPredictor(config, self.predictor.model, processor)

    def _encode(self, prompt: Prompt) -> VideoMemory:
        """Return the memory of a prompt's visuals, from the last call if they are the same."""
        with TemporaryDirectory(prefix="lit_hour_") as folder:
            files = [save_visual(visual, Path(folder)) for visual in prompt.visuals]
            names = tuple(str(file).removeprefix(folder) for file in files)
            if self._last_memory is None or self._last_memory[0] != names:
                self._last_memory = None  # two memories of an hour may not fit on the device
                self._last_memory = names, self.predictor.encode_video(files)
            return self._last_memory[1]

    def _doc(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _progress(self, requests: Sequence[Instance]) -> Iterable[Instance]:
        return tqdm(requests, desc="lit_hour", disable=self.rank != 0)


class LitHourChat(LitHour):
    """Model for chat tasks, which give messages: lmms-eval's default."""

    is_simple = False

    def _parse_request(self, request: Instance) -> tuple[Prompt, Mapping[str, Any]]:
        _, doc_to_messages, values, *location = request.args
        messages = doc_to_messages(self._doc(*location))
        return prompt_from_messages(messages, request.task_name), values
