"""A run and published question files -> answers and a report: Lightning's predict on any number of processes and machines."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader
from tqdm import tqdm

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.evaluation.answer_store import AnswerStore
from lit_hour.evaluation.eval_plan import EvalPlan, VideoQuestions, build_plan, check_budget
from lit_hour.evaluation.generate import FrameChunk, VideoFrameStream, generate_responses
from lit_hour.evaluation.item import Item
from lit_hour.evaluation.protocol import describe_protocol, identify
from lit_hour.evaluation.report.html import render_report
from lit_hour.evaluation.report.report import Report, build_report, write_report
from lit_hour.evaluation.report.text import summarize
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemoryBuilder
from lit_hour.io.atomic import write_whole
from lit_hour.io.file_lock import is_held, locked
from lit_hour.run_dir import RunDir
from lit_hour.training.predict import assign_greedily, predict

RESUME_HINT = "The same command goes on with the questions that are open"


def evaluate(
    file: Path | None,
    overrides: Sequence[str],
    run: Path,
    checkpoint: str | None = None,
    out: Path | None = None,
) -> str | None:
    """Ask a run every question of a benchmark that was not asked before, and score the answers.

    Args:
        file: conf/eval/NAME.yaml or another, laid over the settings of the run.
        words: settings as `a.b=c`, which win over both.
        run: the run folder.
        checkpoint: a name in its checkpoints, as `RunDir.checkpoint` has it.
        out: the folder of the answers and the report; RUN/evaluation/NAME if not given.

    Returns:
        The score in words, once the report is written; None on every rank but the first.

    Raises:
        InputError: the settings, the files, the run or the folder cannot be used, or more questions cannot be asked than
            `evaluation.max_skipped_questions` allows.
    """
    place = RunDir(run).checkpoint(checkpoint)
    config = load_config(file, overrides, base=place.with_suffix(".yaml"))
    folder = AnswerStore(out or default_folder(run, file, config))
    with ExitStack() as held:
        module = EvaluationModule(config, RunDir(run), place, build_plan(config), folder, held)
        predict(module, config.training, RESUME_HINT)
    return summarize(module.report, folder.path) if module.report else None


def default_folder(run: Path, file: Path | None, config: Config) -> Path:
    """RUN/evaluation/NAME by the file's name, or the benchmark's; what is not shown is added to it."""
    name = file.stem if file else config.evaluation.benchmark
    return RunDir(run).evaluation / (
        name if config.video.frames == "all" else f"{name}-{config.video.frames}"
    )


class EvaluationModule(L.LightningModule):
    """Watches its rank's share of the videos, each once, asks all questions about it, and keeps each answer at once.

    Attributes:
        report: once the first rank has made it.
    """

    session: VideoPredictor

    def __init__(
        self,
        config: Config,
        run: RunDir,
        place: Path,
        plan: EvalPlan,
        folder: AnswerStore,
        held: ExitStack,
    ) -> None:
        """Args: held: keeps the folder locked until all is done."""
        super().__init__()
        self.config, self.run, self.place, self.plan, self.folder = config, run, place, plan, folder
        self.report: Report | None = None
        self.prepare_data_per_node = False
        self._protocol: dict[str, Any] = {}
        self._held = held
        self._open: dict[int, VideoMemoryBuilder] = {}
        self._unasked: dict[str, str] = {}

    def prepare_data(self) -> None:
        """The first rank makes the folder ready, once no other start is at work there; the others wait."""
        if self.folder.path.is_dir() and is_held(self.folder.path):
            print(
                f"{self.folder.path} is being filled by processes that were started before: waiting until they end",
                flush=True,
            )
        self._held.enter_context(locked(self.folder.path))
        with locked(self.folder.answers_dir):  # ranks of a start whose first rank was killed
            device = self.trainer.strategy.root_device.type
            self._protocol = describe_protocol(self.config, self.place, device)
            self.folder.prepare(identify(self._protocol, self.plan.questions))

    def configure_model(self) -> None:
        """Load the weights, on every rank the whole model."""
        self.session = VideoPredictor.from_checkpoint(
            self.config, self.run, self.place, self.trainer.strategy.root_device
        )
        self.model = self.session.model  # where the Trainer finds it

    def setup(self, stage: str) -> None:
        """Share what is open. The first rank says what that is: another machine may see the folder as it was before."""
        self._held.enter_context(locked(self.folder.answers_dir, shared=True))
        known = set(self.folder.read()[0]) if self.trainer.is_global_zero else set()
        answered: set[str] = self.trainer.strategy.broadcast(known)
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        to_watch = [video for each in self.plan.videos if (video := each.without(answered)).items]
        self._videos = assign_videos(to_watch, num_ranks)[rank]
        self._journal = self._held.enter_context(self.folder.journal(rank))
        if self.trainer.is_global_zero:
            num_open = sum(len(video.items) for video in to_watch)
            before = f"; {len(answered)} are answered" if answered else ""
            print(
                f"{self.folder.path}: {num_open} questions about {len(to_watch)} videos to ask{before}",
                flush=True,
            )

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's videos in chunks of frames."""
        num_workers = resolve_num_workers(self.config.data.num_workers)
        files = [
            (number, None if self.config.video.frames == "none" else video.file)
            for number, video in enumerate(self._videos)
        ]
        watching = VideoFrameStream(
            files, self.config.video, self.config.model.vision.encode_batch_size
        )
        return DataLoader(
            watching,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=2 if num_workers else None,
        )

    def on_predict_start(self) -> None:
        """Start the bar."""
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # Lightning's own handler would go on to the end
        total = sum(len(video.items) for video in self._videos)
        self._bar = tqdm(
            total=total, desc="asking", unit="question", disable=not self.trainer.is_global_zero
        )

    def predict_step(self, seen: FrameChunk, batch_idx: int) -> None:
        """Keep some frames of a video, or ask about one that was watched to its end."""
        video = self._videos[seen.video_index]
        if seen.frames is not None:
            recollection = self._open.setdefault(
                seen.video_index, self.session.memory_builder(seen.num_frames)
            )
            recollection.add(seen.frames)
            return
        watched = self._open.pop(seen.video_index, None)
        for item, said in self._ask(video, seen, watched):
            self._note(item, said)
        check_budget(
            {**self.plan.missing, **self._unasked}, self.config.evaluation.max_skipped_questions
        )

    def on_predict_end(self) -> None:
        """The first rank makes the report, when all have come to their end."""
        self._bar.close()
        self.trainer.strategy.barrier("asked")
        if self.trainer.is_global_zero:
            self.report = self._finish()

    def _ask(
        self, video: VideoQuestions, end: FrameChunk, watched: VideoMemoryBuilder | None
    ) -> Iterator[tuple[Item, str | QuestionError]]:
        """Each question about a video that has come to its end, with the answer, or why it is not asked."""
        if end.error:
            yield from ((item, QuestionError(end.error)) for item in video.items)
            return
        source = str(video.file or "nothing")
        if watched:
            self.folder.save_frames(video.name, watched.thumbnails)
            memory = watched.finalize(end.duration_seconds, source)
        else:
            memory = self.session.encode_visual(None, end.duration_seconds, source)
        yield from generate_responses(self.session, memory, video.items)

    def _note(self, item: Item, said: str | QuestionError) -> None:
        if isinstance(said, QuestionError):
            self._unasked[item.id] = str(said)
        self._journal.add(
            {
                "id": item.id,
                **({"response": said} if isinstance(said, str) else {"skipped": str(said)}),
            }
        )
        self._bar.update()

    def _finish(self) -> Report:
        answers, unasked = self.folder.read()
        check_budget({**self.plan.missing, **unasked}, self.config.evaluation.max_skipped_questions)
        asked = {item.id for video in self.plan.videos for item in video.items}
        skipped = {**self.plan.missing, **self.plan.excluded, **unasked}
        report = build_report(
            self.plan.questions,
            {key: said for key, said in answers.items() if key in asked},
            skipped,
            self._protocol,
        )
        write_report(report, self.folder.report_path)
        pictures = {result.id: self.folder.load_frames(result.video) for result in report.wrong}
        write_whole(self.folder.html_path, render_report(report, pictures))
        return report


def assign_videos(videos: Sequence[VideoQuestions], num_ranks: int) -> list[list[VideoQuestions]]:
    """Each video to the rank that has least to read so far, the largest files first."""
    largest_first = sorted(videos, key=_cost, reverse=True)
    return assign_greedily(largest_first, list(map(_cost, largest_first)), num_ranks)


def _cost(video: VideoQuestions) -> float:
    return video.file.stat().st_size if video.file else len(video.items)
