"""`VideoPredictor` and `lit-hour ask`: answers, their cost, settings, and errors by name."""

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from lit_hour.cli.main import main
from lit_hour.config.load import load_config, save_config
from lit_hour.errors import ConfigError, InputError, QuestionError, RunError
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.media.video_reader import load_video
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.run_dir import RunDir
from lit_hour.text.chat_template import build_conversation, format_question
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.types import Message, Question, Sample
from tests.helpers.toy_run import TrainedRun, load_weights, max_abs_difference

TOKENS_PER_FRAME = 2 * 2 + 1  # a grid of 2 x 2, and the newline token


@pytest.fixture
def run_copy(trained: TrainedRun, tmp_path: Path) -> RunDir:
    """A copy of the run that a test may damage."""
    return RunDir(Path(shutil.copytree(trained.run.path, tmp_path / "copy")))


def ask(predictor: VideoPredictor, memory: VideoMemory, question: str) -> tuple[list[str], Answer]:
    *pieces, answer = predictor.generate(memory, question)
    assert isinstance(answer, Answer)
    return [piece for piece in pieces if isinstance(piece, str)], answer


def test_generate_yields_pieces_that_add_up_to_the_answer(
    predictor: VideoPredictor, memory: VideoMemory, questions: list[Question]
) -> None:
    texts = set()
    for question in questions:
        pieces, answer = ask(predictor, memory, question.question)
        assert "".join(pieces) == answer.text
        assert len(pieces) <= predictor.config.generation.max_new_tokens
        texts.add(answer.text)
    assert len(texts) > 1


def test_encode_video_advances_the_progress_bar_after_each_chunk(
    predictor: VideoPredictor, video: Path
) -> None:
    calls: list[tuple[float, float | None]] = []

    class RecordedBar(tqdm):  # type: ignore[type-arg]  # not subscriptable at run time
        def update(self, n: float | None = 1) -> bool | None:
            is_displayed = super().update(n)
            calls.append((self.n, self.total))
            return is_displayed

    vision = replace(predictor.config.model.vision, encode_batch_size=4)
    config = replace(predictor.config, model=replace(predictor.config.model, vision=vision))
    memory = VideoPredictor(config, predictor.model, predictor.processor).encode_video(
        video, RecordedBar(file=io.StringIO())
    )
    assert calls == [(4, 6), (6, 6)]
    assert [seconds for seconds, _ in memory.thumbnails] == memory.repository.timestamps.tolist()
    assert all(jpeg.startswith(b"\xff\xd8") for _, jpeg in memory.thumbnails)


def test_generate_depends_on_the_history(
    predictor: VideoPredictor, memory: VideoMemory, questions: list[Question]
) -> None:
    first, second = questions[0].question, questions[1].question
    history = (Message("user", first), Message("assistant", "green"))
    _, alone = ask(predictor, memory, second)
    *_, later = predictor.generate(memory, second, history)
    assert isinstance(later, Answer) and later.text != alone.text


def test_answer_reports_frames_tokens_and_seconds(
    predictor: VideoPredictor, memory: VideoMemory, video: Path
) -> None:
    frames, duration_seconds = load_video(video, predictor.config.video)
    assert (memory.num_frames, memory.duration_seconds) == (len(frames), duration_seconds)
    assert memory.repository.num_frames == 6  # video.max_frames; at least memaug.min_frames
    _, answer = ask(predictor, memory, "What color is it?")
    assert answer.num_frames == len(frames)
    assert answer.num_memory_tokens == memory.repository.num_frames * TOKENS_PER_FRAME
    assert list(answer.seconds) == ["decode", "encode", "first_token", "other_tokens"]
    assert all(seconds >= 0 for seconds in answer.seconds.values())


def test_generate_equals_batched_generation_on_a_training_batch(
    predictor: VideoPredictor, memory: VideoMemory, video: Path, questions: list[Question]
) -> None:
    frames, duration_seconds = load_video(video, predictor.config.video)
    processor, model = predictor.processor, predictor.model
    conversations = tuple(
        build_conversation([question], processor.config) for question in questions
    )
    batch = processor.collate(
        [processor.build_example(Sample("key", "", duration_seconds, frames, conversations))]
    )
    with torch.inference_mode():
        prompts = left_pad_prompts(
            model.build_inputs(batch, model.build_repositories(batch.visuals))
        )
        tokens = model.llm.generate(
            prompts, predictor.config.generation.max_new_tokens, end_of_turn_id(processor.tokenizer)
        )
        texts = processor.tokenizer.batch_decode(
            torch.stack(list(tokens), dim=1), skip_special_tokens=True
        )
    for question, text in zip(questions, texts, strict=True):
        _, answer = ask(
            predictor, memory, format_question(question, predictor.config.text.mcq_format)
        )
        assert answer.text == text


def test_build_prompts_equals_the_prompt_of_training(
    predictor: VideoPredictor, memory: VideoMemory, video: Path, questions: list[Question]
) -> None:
    frames, duration_seconds = load_video(video, predictor.config.video)
    processor, model = predictor.processor, predictor.model
    for question in questions:
        asked = format_question(question, predictor.config.text.mcq_format)
        prompts = []
        for conversation in (
            build_conversation([question], processor.config),
            processor.build_prompt(asked),
        ):
            batch = processor.collate(
                [
                    processor.build_example(
                        Sample("key", "", duration_seconds, frames, (conversation,))
                    )
                ]
            )
            with torch.inference_mode():
                prompts.append(
                    left_pad_prompts(model.build_inputs(batch, [memory.repository])).embeddings
                )  # (1, tokens, dim)
        assert torch.equal(*prompts)


def test_generate_does_not_change_the_memory(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    before = memory.repository.tokens.clone()
    first = ask(predictor, memory, "What is shown?")[1].text
    ask(predictor, memory, "What color is the background?")
    assert ask(predictor, memory, "What is shown?")[1].text == first
    assert torch.equal(memory.repository.tokens, before)


def test_from_run_loads_the_weights_of_the_named_checkpoint(trained: TrainedRun) -> None:
    early, late = (
        VideoPredictor.from_run(trained.run.path, name) for name in ("step=000002", "last")
    )
    assert not torch.equal(early.model.frame_newline, late.model.frame_newline)
    assert not early.model.training
    expected = load_weights(trained.run, "last")
    loaded = {f"model.{name}": weight for name, weight in late.model.state_dict().items()}
    assert max_abs_difference(loaded, expected) == 0


def test_from_run_overrides_the_settings_of_the_run(trained: TrainedRun, video: Path) -> None:
    predictor = VideoPredictor.from_run(
        trained.run.path, "last", "cpu", ["video.max_frames=5", "generation.max_new_tokens=1"]
    )
    memory = predictor.encode_video(video)
    pieces, _ = ask(predictor, memory, "What is shown?")
    assert memory.num_frames == 5 and len(pieces) <= 1


def test_generate_rejects_an_empty_question(predictor: VideoPredictor, memory: VideoMemory) -> None:
    for question in ("", "  \n"):
        with pytest.raises(QuestionError, match=r"[Tt]he question is empty"):
            list(predictor.generate(memory, question))


def test_ask_prints_the_answer_and_its_cost(
    run_copy: RunDir, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(run_copy.checkpoint("step=000002"), weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, weight in checkpoint["state_dict"].items():
        if "llm." in name and weight.dim() == 2:
            weight.normal_(std=0.5, generator=generator)  # a trained toy model answers nothing
    torch.save(checkpoint, run_copy.checkpoint("step=000002"))
    run = ["--run", str(run_copy.path), "--checkpoint", "step=000002"]
    main(["ask", str(video), "What is shown?", *run])
    *lines, cost = capsys.readouterr().out.strip("\n").split("\n")
    predictor = VideoPredictor.from_run(run_copy.path, "step=000002")
    _, answer = ask(predictor, predictor.encode_video(video), "What is shown?")
    assert "\n".join(lines) == answer.text.strip("\n") != ""
    parts = ("decode", "encode", "first token", "other tokens")
    seconds = ", ".join(rf"{part} \d+\.\d\d s" for part in parts)
    assert re.fullmatch(rf"\[6 frames, 30 tokens in memory; {seconds}\]", cost)


def change_hidden_size(run: RunDir) -> None:
    config = load_config(run.config, ["model.llm.hidden_size=64"])
    save_config(config, run.checkpoint("best").with_suffix(".yaml"))


ASK = ["VIDEO", "What?", "--run", "RUN"]


@pytest.mark.parametrize(
    ("damage", "argv", "message"),
    [
        (None, ["VIDEO", "What?", "--run", "RUN/none"], r"[Nn]o run at .*none. Train one first"),
        (
            None,
            [*ASK, "--checkpoint", "x"],
            r"no checkpoint 'x'.*It has: best, last, step=000002",
        ),
        (
            change_hidden_size,
            ASK,
            r"best\.ckpt, with the settings beside it, does not fit the model"
            r"\n  wrong shape: frame_newline is \(32,\)",
        ),
        (
            lambda run: run.checkpoint("best").write_bytes(b"x"),
            ASK,
            r"best\.ckpt is corrupt or not a checkpoint",
        ),
        (
            lambda run: run.checkpoint("best").with_suffix(".yaml").unlink(),
            ASK,
            r"Config file not found: .*best\.yaml",
        ),
        (
            lambda run: shutil.rmtree(run.tokenizer),
            ASK,
            r"no tokenizer\.json in .*tokenizer",
        ),
        (None, ["VIDEO", " ", "--run", "RUN"], r"The question is empty\. Ask something\."),
        (None, ["RUN/none.mp4", "What?", "--run", "RUN"], r"none\.mp4"),
        (
            lambda run: (run.path / "fake.mp4").write_text("no video"),
            ["RUN/fake.mp4", "What?", "--run", "RUN"],
            r"fake\.mp4",
        ),
        (
            None,
            [*ASK, "video.max_frame=5"],
            r"Unknown setting 'video\.max_frame'.*Did you mean 'video\.max_frames'",
        ),
    ],
)
def test_ask_reports_input_errors_by_name(
    run_copy: RunDir,
    video: Path,
    damage: Callable[[RunDir], object] | None,
    argv: list[str],
    message: str,
) -> None:
    if damage:
        damage(run_copy)
    argv = [word.replace("VIDEO", str(video)).replace("RUN", str(run_copy.path)) for word in argv]
    with pytest.raises(InputError, match=message) as raised:
        main(["ask", *argv])
    _, *details = str(raised.value).splitlines()  # one line, then one for each weight
    assert all(line.startswith("  wrong shape: ") for line in details)


def test_from_run_refuses_a_missing_gpu_before_it_reads_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for device in ("gpu", "cuda:", "cuda:first", "cpu:0x"):
        with pytest.raises(ConfigError, match=f"no device {device}. Use cpu, cuda or cuda:N"):
            VideoPredictor.from_run(Path("none"), device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"no GPU here for device cuda:1\. Use cpu\."):
        VideoPredictor.from_run(Path("none"), device="cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"no device cuda:1 here\. The last is cuda:0\."):
        VideoPredictor.from_run(Path("none"), device="cuda:1")
    with pytest.raises(RunError, match="There is no run at none"):
        VideoPredictor.from_run(Path("none"), device="cuda:0")
