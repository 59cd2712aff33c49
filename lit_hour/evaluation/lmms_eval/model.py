"""The model that lmms-eval calls: requests of its tasks in, answers of a `Session` out.

Requests come in the order of the task's questions. The last video is remembered until another one is asked about, so that it
is read once for all its questions where these follow each other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.processor import Processor

log = logging.getLogger("lit_hour")


class LitHour(lmms):
    """A run, for tasks that give their visuals and their text apart: to generate (`--force_simple`) and for likelihoods."""

    is_simple = True

    def __init__(
        self,
        run: str,
        checkpoint: str | None = None,
        device: str | None = None,
        settings: str = "",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        """Load a run.

        Args:
            run: the run folder.
            checkpoint: a name in its checkpoints, as for `python -m lit_hour ask`.
            device: where to compute; several processes of `accelerate launch` have one GPU each, whatever is said here.
            settings: `a.b=c` words between spaces that win over those of the run.
            batch_size, max_batch_size: questions are asked one at a time, so that no answer depends on its neighbours.

        Raises:
            RunError, WeightsError, ConfigError: as `Session.open` has them.
        """
        super().__init__()
        if str(batch_size) != "1":
            log.warning(
                "--batch_size %s has no effect: lit_hour asks one question at a time", batch_size
            )
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            device = str(self.accelerator.device)
        self.session = VideoPredictor.from_run(
            Path(str(run)),
            None if checkpoint is None else str(checkpoint),
            device,
            settings.split(),
        )
        self._remembered: tuple[tuple[str, ...], VideoMemory] | None = None
        self._warned: set[str] = set()

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts the tensors that its processes exchange."""
        return self.session.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request.

        Raises:
            ConfigError: a task asks for samples or beams.
            QuestionError: a question is empty or too long, or shows what lit_hour cannot read.
            VideoError, ImageError: a file cannot be read.
        """
        return [
            self._answer(*self._asked(request), request.task_name)
            for request in self._each(requests)
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each request the mean negative log-probability of the continuation's tokens, and whether each is the likeliest.

        lmms-eval takes the option with the lowest number; its own models also give their loss in place of what the name says.
        A bare pair it would turn into a string (0.7.3), so each is wrapped as it wraps answers.

        Raises:
            QuestionError, VideoError, ImageError: as for `generate_until`.
            NotImplementedError: the continuation is asked for without a video.
        """
        found = []
        for request in self._each(requests):
            if len(request.args) == 2:
                raise NotImplementedError(
                    f"task {request.task_name}: acc_mutual_info asks without a video; take the metric acc"
                )
            context, target, doc_to_visual, *place = request.args
            document = self._document(*place)
            prompt = prompt_from_visuals(doc_to_visual(document), context, request.task_name)
            answer = target(document) if callable(target) else target
            conversation = self.session.processor.ask(prompt.text)
            (likelihood,) = self.session.loglikelihood(
                self._remember(prompt), conversation, [str(answer)]
            )
            found.append(GenerationResult((likelihood.loss, likelihood.is_greedy)))
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"task {requests[0].task_name} has several rounds: lit_hour runs tasks of type generate_until"
        )

    def clean(self) -> None:
        """Give the memory of the model back, which lmms-eval wants for a judge."""
        del self.session, self._remembered
        super().clean()

    def _asked(self, request: Instance) -> tuple[Prompt, Mapping[str, Any]]:
        """What a request asks, and its `generation_kwargs`."""
        context, generation_kwargs, doc_to_visual, *place = request.args
        return prompt_from_visuals(
            doc_to_visual(self._document(*place)), context, request.task_name
        ), generation_kwargs

    def _answer(self, prompt: Prompt, generation_kwargs: Mapping[str, Any], task: str) -> str:
        decoding = GenerationKwargs.parse(generation_kwargs, task)
        for name in set(decoding.ignored) - self._warned:
            log.warning(
                "task %s: %s=%s has no effect in lit_hour", task, name, generation_kwargs[name]
            )
            self._warned.add(name)
        text = ""
        for piece in self._session_for(prompt, decoding).generate(
            self._remember(prompt), prompt.text
        ):
            text += piece if isinstance(piece, str) else ""
            if (end := decoding.find_stop(text)) is not None:
                return text[:end]
        return text

    def _session_for(self, prompt: Prompt, decoding: GenerationKwargs) -> VideoPredictor:
        """The same model with what the task says in place of the run's settings."""
        config = self.session.config
        if decoding.max_new_tokens is not None:
            config = replace(
                config,
                generation=replace(config.generation, max_new_tokens=decoding.max_new_tokens),
            )
        if prompt.system_prompt is not None:
            config = replace(config, text=replace(config.text, system_prompt=prompt.system_prompt))
        return VideoPredictor(
            config, self.session.model, Processor(self.session.processor.tokenizer, config.text)
        )

    def _remember(self, prompt: Prompt) -> VideoMemory:
        with TemporaryDirectory(prefix="lit_hour_") as folder:
            files = [save_visual(visual, Path(folder)) for visual in prompt.visuals]
            names = tuple(str(file).removeprefix(folder) for file in files)
            if self._remembered is None or self._remembered[0] != names:
                self._remembered = None  # two hours at a time may not fit
                self._remembered = names, self.session.encode_video(files)
            return self._remembered[1]

    def _document(self, number: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][number]

    def _each(self, requests: Sequence[Instance]) -> Any:
        return tqdm(requests, desc="lit_hour answers", disable=self.rank != 0)


class LitHourChat(LitHour):
    """A run, for tasks that give messages: what lmms-eval takes unless it is told `--force_simple`."""

    is_simple = False

    def _asked(self, request: Instance) -> tuple[Prompt, Mapping[str, Any]]:
        _, doc_to_messages, generation_kwargs, *place = request.args
        return prompt_from_messages(
            doc_to_messages(self._document(*place)), request.task_name
        ), generation_kwargs
