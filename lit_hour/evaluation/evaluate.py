"""Evaluate a run on a benchmark, on any number of processes and machines.

Entry point: `evaluate`. Lightning's predict loop drives `EvaluationModule`, which reads each video
once, answers all questions about it from memory, and stores every response at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from torch.utils.data import DataLoader
from tqdm import tqdm

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.training_videos import TrainingVideos
from lit_hour.errors import QuestionError
from lit_hour.evaluation.answer_store import AnswerStore
from lit_hour.evaluation.eval_plan import EvalPlan, VideoQuestions, build_plan, check_skip_budget
from lit_hour.evaluation.generate import FrameChunk, VideoFrameStream, generate_responses
from lit_hour.evaluation.item import Item
from lit_hour.evaluation.protocol import describe_protocol, with_questions
from lit_hour.evaluation.report.html import render_report
from lit_hour.evaluation.report.report import Report, build_report, mark_seen, write_report
from lit_hour.evaluation.report.text import summarize
from lit_hour.evaluation.submission import write_submission
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemoryBuilder
from lit_hour.io.atomic import atomic_write_text
from lit_hour.io.file_lock import dir_lock
from lit_hour.run_dir import RunDir
from lit_hour.training.predict import assign_greedily, claim_output_dir, predict

if TYPE_CHECKING:  # needs the client of chat servers, which is optional
    from lit_hour.evaluation.judge import Judge

RESUME_HINT = "Run the same command again to evaluate the remaining questions."


def evaluate(
    files: Sequence[Path],
    overrides: Sequence[str],
    run: Path,
    checkpoint: str | None = None,
    out: Path | None = None,
) -> str | None:
    """Evaluate a run on the questions that have no stored response, and score all responses.

    Args:
        files: YAML files such as conf/eval/NAME.yaml, applied over the settings of the run.
        overrides: settings as `a.b=c`, applied over both.
        run: the run folder.
        checkpoint: name of a checkpoint of the run, as for `RunDir.checkpoint`.
        out: folder of the responses and the report; RUN/evaluation/NAME if None.

    Returns:
        The summary of the report on rank zero; None on other ranks.

    Raises:
        InputError: the settings, the files, the run or the folder cannot be used, or more questions
            are skipped than `evaluation.max_skipped_questions` allows.
    """
    run_dir = RunDir(run)
    weights = run_dir.checkpoint(checkpoint)
    config = load_config(files, overrides, base=weights.with_suffix(".yaml"))
    store = AnswerStore(out or default_folder(run_dir, files, config))
    judge = load_judge(config)
    with ExitStack() as locks:
        module = EvaluationModule(config, run_dir, weights, build_plan(config), store, locks, judge)
        # Without autocast: `serving.precision` holds, as for `ask` and `serve`.
        predict(module, replace(config.training, precision="32-true"), RESUME_HINT)
    if module.report is None:
        return None
    submission = write_submission(module.plan.questions, module.report, store.path)
    return "\n".join(filter(None, [summarize(module.report, store.path), submission]))


def default_folder(run_dir: RunDir, files: Sequence[Path], config: Config) -> Path:
    """Return RUN/evaluation/NAME; NAME is the file's or benchmark's, with `video.frames` if set."""
    name = files[-1].stem if files else config.evaluation.benchmark
    frames = config.video.frames
    return run_dir.evaluation / (name if frames == "all" else f"{name}-{frames}")


def load_judge(config: Config) -> Judge | None:
    """Return the judge of the settings; None if they name none, without importing its client.

    Raises:
        ConfigError: see `Judge`.
    """
    if not config.evaluation.judge:
        return None
    from lit_hour.evaluation.judge import Judge

    return Judge(config)


class EvaluationModule(L.LightningModule):
    """Reads the videos assigned to its rank, and stores the responses to all their questions.

    Attributes:
        report: on rank zero, when all ranks are done.
    """

    predictor: VideoPredictor

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        checkpoint: Path,
        plan: EvalPlan,
        store: AnswerStore,
        locks: ExitStack,
        judge: Judge | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            config: settings of the run with those of the evaluation over them.
            run_dir: of the run.
            checkpoint: file or folder with the weights.
            plan: the questions and videos.
            store: folder of the responses.
            locks: keeps the folder locked until the caller closes it.
            judge: grades the responses that no rule can score.
        """
        super().__init__()
        self.config, self.run_dir, self.checkpoint = config, run_dir, checkpoint
        self.plan, self.store, self.judge = plan, store, judge
        self.report: Report | None = None
        self.prepare_data_per_node = False
        self._protocol: dict[str, Any] = {}
        self._locks = locks
        self._builders: dict[int, VideoMemoryBuilder] = {}
        self._skipped: dict[str, str] = {}

    def prepare_data(self) -> None:
        """Open the store on rank zero, after any earlier start has ended; other ranks wait."""
        with claim_output_dir(self.store.path, self.store.answers_dir, self._locks):
            device = self.trainer.strategy.root_device.type
            self._protocol = describe_protocol(self.config, self.checkpoint, device)
            self.store.open(with_questions(self._protocol, self.plan.questions))

    def configure_model(self) -> None:
        """Load the whole model on every rank."""
        self.predictor = VideoPredictor.from_checkpoint(
            self.config, self.run_dir, self.checkpoint, self.trainer.strategy.root_device
        )
        self.model = self.predictor.model  # registers the parameters with the Trainer

    def setup(self, stage: str) -> None:
        """Assign the remaining questions to ranks.

        Rank zero lists the stored responses and broadcasts them, because another machine may see an
        older state of a network folder.
        """
        self._locks.enter_context(dir_lock(self.store.answers_dir, self.trainer.global_rank))
        stored = set(self.store.read()[0]) if self.trainer.is_global_zero else set()
        answered: set[str] = self.trainer.strategy.broadcast(stored)
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        remaining = [video.without(answered) for video in self.plan.videos]
        videos = [video for video in remaining if video.items]
        self._videos = assign_videos(videos, num_ranks)[rank]
        self._writer = self._locks.enter_context(self.store.writer(rank))
        if self.trainer.is_global_zero:
            num_questions = sum(len(video.items) for video in videos)
            before = f" ({len(answered)} answered before)" if answered else ""
            counts = f"{num_questions} questions about {len(videos)} videos to evaluate{before}"
            print(f"{self.store.path}: {counts}", flush=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the frames of this rank's videos in chunks."""
        num_workers = resolve_num_workers(self.config.data.num_workers)
        shows_frames = self.config.video.frames != "none"
        stream = VideoFrameStream(
            [(video.file if shows_frames else None, video.clip_seconds) for video in self._videos],
            self.config.video,
            self.config.model.vision.encode_batch_size,
        )
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=2 if num_workers else None,
        )

    def on_predict_start(self) -> None:
        """Start the progress bar, and let SIGTERM end the process at once.

        Lightning's own handler would first evaluate all remaining questions.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        total = sum(len(video.items) for video in self._videos)
        disable = not self.trainer.is_global_zero
        self._progress_bar = tqdm(total=total, desc="evaluate", unit="question", disable=disable)

    def predict_step(self, chunk: FrameChunk, batch_idx: int) -> None:
        """Encode some frames of a video, or respond to its questions after its last frame."""
        index = chunk.video_index
        if chunk.frames is not None:
            if index not in self._builders:
                self._builders[index] = VideoMemoryBuilder(
                    self.predictor.model, self.predictor.processor, chunk.num_frames
                )
            self._builders[index].add(chunk.frames)
            return
        builder = self._builders.pop(index, None)
        for item, response in self._respond(self._videos[index], chunk, builder):
            self._store(item, response)
        skipped = {**self.plan.missing, **self._skipped}
        check_skip_budget(skipped, self.config.evaluation.max_skipped_questions)

    def on_predict_end(self) -> None:
        """Build the report on rank zero when all ranks are done."""
        self._progress_bar.close()
        self.trainer.strategy.barrier("evaluated")
        if self.trainer.is_global_zero:
            self.report = self._build_report()

    def _respond(
        self, video: VideoQuestions, end: FrameChunk, builder: VideoMemoryBuilder | None
    ) -> Iterator[tuple[Item, str | QuestionError]]:
        """Respond to the questions about a video, given the chunk that ends it."""
        if end.error:
            yield from ((item, QuestionError(end.error)) for item in video.items)
            return
        source = str(video.file or "nothing")
        if builder:
            self.store.save_frames(video.name, builder.thumbnails)
            assert video.file is not None
            try:
                subtitles = self.predictor.read_subtitles(video.file, video.clip_seconds)
            except QuestionError as error:
                yield from ((item, error) for item in video.items)
                return
            memory = builder.finalize(end.duration_seconds, source, subtitles)
        else:
            memory = self.predictor.encode_visual(None, end.duration_seconds, source)
        yield from generate_responses(self.predictor, memory, video.items)

    def _store(self, item: Item, response: str | QuestionError) -> None:
        if isinstance(response, QuestionError):
            self._skipped[item.id] = str(response)
            self._writer.write({"id": item.id, "skipped": str(response)})
        else:
            self._writer.write({"id": item.id, "response": response})
        self._progress_bar.update()

    def _build_report(self) -> Report:
        responses, skipped = self.store.read()
        budget = self.config.evaluation.max_skipped_questions
        check_skip_budget({**self.plan.missing, **skipped}, budget)
        planned = {item.id for video in self.plan.videos for item in video.items}
        responses = {key: response for key, response in responses.items() if key in planned}
        judgments, protocol = None, self._protocol
        if self.judge:
            items = self.plan.questions.items
            judgments = self.judge.judge(items, responses, self.store.judge_path)
            protocol = {**protocol, "judge": self.judge.description}
        seen, unknown = find_training_videos(self.plan, self.checkpoint)
        report = build_report(
            mark_seen(self.plan.questions, seen),
            responses,
            {**self.plan.missing, **self.plan.excluded, **skipped},
            protocol,
            judgments,
            unknown,
        )
        write_report(report, self.store.report_path)
        frames = {result.id: self.store.load_frames(result.video) for result in report.wrong}
        atomic_write_text(self.store.html_path, render_report(report, frames))
        return report


def find_training_videos(plan: EvalPlan, checkpoint: Path) -> tuple[set[str], dict[str, str]]:
    """Compare the videos with those that the run was trained on, by their content.

    Returns:
        Ids of the questions about a video of the training data, and by setting the reason why a
        source of training data could not be compared.
    """
    videos = TrainingVideos.of_run(load_config(base=checkpoint.with_suffix(".yaml")))
    found = videos.find(video.file for video in plan.videos if video.file)
    seen = {item.id for video in plan.videos if video.file in found for item in video.items}
    return seen, dict(videos.unknown)


def assign_videos(videos: Sequence[VideoQuestions], num_ranks: int) -> list[list[VideoQuestions]]:
    """Assign each video to the rank with the least to read so far, the largest files first."""
    largest_first = sorted(videos, key=_cost, reverse=True)
    return assign_greedily(largest_first, list(map(_cost, largest_first)), num_ranks)


def _cost(video: VideoQuestions) -> float:
    return video.file.stat().st_size if video.file else len(video.items)
