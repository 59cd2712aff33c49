import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError, QuestionError, ShardError
from lit_hour.model.meta_init import missing_weights
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.fit import FitResult
from lit_hour.training.module import HourLLaVAModule
from lit_hour.weights.reader import open_weights
from tests.helpers.toy_run import (
    NUM_STEPS,
    ToyProject,
    TrainedRun,
    load_weights,
    max_abs_difference,
    toy_settings,
)
from tests.training.fork_run import fork_run

PARTS = ("vision", "projector", "memaug", "llm")


@pytest.fixture(scope="module")
def events(trained: TrainedRun) -> EventAccumulator:
    accumulator = EventAccumulator(str(trained.run.tensorboard))
    accumulator.Reload()
    return accumulator


# Files and logs of a run


def test_run_saves_checkpoints_with_their_settings(trained: TrainedRun) -> None:
    run, config = trained.run, trained.config
    checkpoints = {file.stem for file in run.checkpoints.glob("*.ckpt")}
    assert checkpoints == {"best", "last", "step=000002", "step=000004", "step=000006"}
    assert {file.name for file in run.checkpoints.iterdir()} == {
        f"{name}{end}" for name in checkpoints for end in (".ckpt", ".yaml")
    }
    assert load_config(run.config) == config
    for name in checkpoints:
        assert load_config(run.checkpoint(name).with_suffix(".yaml")) == config
        step = torch.load(run.checkpoint(name), weights_only=True)["global_step"]
        assert step == (int(name[-6:]) if name.startswith("step=") else step)
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == NUM_STEPS
    assert (run.tokenizer / "tokenizer.json").is_file()
    assert not run.bad_samples.exists()


def test_train_prints_final_step_scores_and_next_commands(trained: TrainedRun) -> None:
    printed = trained.output
    assert f"run {trained.run.path}: starts from the beginning" in printed
    assert f"{NUM_STEPS}/{NUM_STEPS}" in printed  # the bar counts optimizer steps
    assert f"{trained.run.path}: step {NUM_STEPS}" in printed
    assert "(guessing: 25.0%)" in printed
    assert (
        f"--logdir {trained.run.tensorboard}" in printed and f"--run {trained.run.path}" in printed
    )


def test_save_total_limit_keeps_the_newest_checkpoints(toy: ToyProject) -> None:
    toy.fit(
        "kept",
        "training.save_total_limit=1",
        "training.save_every_n_steps=1",
        "training.max_steps=3",
    )
    names = {file.stem for file in toy.run_dir("kept").checkpoints.glob("*")}
    assert names == {"best", "last", "step=000003"}


@pytest.mark.parametrize(
    "tag",
    [
        "train/loss",
        *(f"learning_rate/{part}" for part in PARTS),
        "throughput/frames_per_second",
        "throughput/text_tokens_per_second",
        "throughput/data_wait_frac",
        "data/bad_samples",
        "data/padding_share",
    ],
)
def test_tensorboard_has_a_value_at_each_step(events: EventAccumulator, tag: str) -> None:
    values = {event.step: event.value for event in events.Scalars(tag)}
    assert list(values) == list(range(NUM_STEPS))
    assert all(value >= 0 for value in values.values())
    if tag in ("data/bad_samples", "data/padding_share"):  # one text in each micro-batch
        assert set(values.values()) == {0}
    if tag == "throughput/data_wait_frac":
        assert all(0 < value < 1 for value in values.values())
    if tag.startswith("learning_rate/"):
        peak = 0.001 * (1 + PARTS.index(tag.split("/")[1]))
        assert values[0] == pytest.approx(peak)
        # Half way down the cosine; none of the six steps is warm-up.
        assert values[3] == pytest.approx(peak / 2)


def test_tensorboard_has_the_scores_of_each_validation(
    events: EventAccumulator, trained: TrainedRun
) -> None:
    for tag in (
        "loss",
        "acc/open_ended",
        "acc/multiple_choice",
        "chance/multiple_choice",
    ):
        assert [event.step for event in events.Scalars(f"val/{tag}")] == [2, 5]
    assert events.Scalars("val/chance/multiple_choice")[0].value == 0.25
    with (trained.project.yaml.parent / "world/validation/questions.json").open() as questions:
        tasks = {question["task"] for question in json.load(questions)}
    shown = {tag.removeprefix("val/acc/") for tag in events.Tags()["scalars"] if "val/acc/" in tag}
    assert shown - {"open_ended", "multiple_choice"} <= tasks and len(shown) > 2


def test_tensorboard_has_a_plot_for_each_of_the_first_videos(events: EventAccumulator) -> None:
    assert events.Tags()["images"] == ["val/answers/0", "val/answers/1"]
    assert [picture.step for picture in events.Images("val/answers/0")] == [2, 5]


def test_run_without_validation_sources_trains(toy: ToyProject, tmp_path: Path) -> None:
    values = toy_settings(toy.yaml.parent / "world")
    values["data"]["val_sources"] = {}
    outcome = ToyProject.write(tmp_path, values).fit("alone", "training.max_steps=3")
    assert (outcome.step, outcome.scores) == (3, {})
    assert torch.load(outcome.run.checkpoint("last"), weights_only=True)["global_step"] == 3


def test_missing_shards_are_refused_before_training(toy: ToyProject, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=f"{tmp_path}/none contains no shards"):
        toy.fit("nothing", f"data.sources.world.shards={tmp_path}/none")


@pytest.mark.parametrize(
    "precision", ["bf16-mixed", pytest.param("bf16-true", marks=pytest.mark.slow)]
)
def test_bf16_run_trains_and_validates(toy: ToyProject, precision: str) -> None:
    outcome = toy.fit(
        "half", f"training.precision={precision}", f"run.folder={toy.runs}/{precision}"
    )
    assert outcome.step == NUM_STEPS and "val/loss" in outcome.scores
    dtypes = {
        weight.dtype for weight in load_weights(outcome.run).values() if weight.is_floating_point()
    }
    assert dtypes == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


@pytest.mark.slow
def test_bf16_run_draws_its_weights_by_name_without_a_float32_copy(toy: ToyProject) -> None:
    """The weights after a step of tiny learning rates are those that a sharded run would draw."""
    rates = [f"training.learning_rate.{part}=1e-12" for part in PARTS]
    words = ("training.precision=bf16-true", "training.max_steps=1", *rates)
    outcome = toy.fit("drawn", *words)
    config = load_config(outcome.run.checkpoint("last").with_suffix(".yaml"))
    num_tokens = len(load_tokenizer(outcome.run.tokenizer))
    module = HourLLaVAModule(config, num_tokens, 1)
    assert {weight.device.type for weight in module.parameters()} == {"meta"}
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
    expected = dict(missing_weights(module.model, (), config.run.seed))
    found = {name.removeprefix("model."): one for name, one in load_weights(outcome.run).items()}
    assert expected.keys() <= found.keys() and len(expected) > 30
    for name, weight in expected.items():
        drawn = weight.to(found[name].dtype)
        torch.testing.assert_close(found[name], drawn, atol=1e-11, rtol=0, msg=name)


# Initialization


def test_init_from_run_loads_its_weights_and_tokenizer(
    toy: ToyProject, trained: TrainedRun
) -> None:
    source = f"training.init_from={trained.run.path}"
    toy.fit("second", source, "training.max_steps=1", "training.learning_rate.llm=0")
    first, second = load_weights(trained.run, "best"), load_weights(toy.run_dir("second"))
    language = [name for name in first if name.startswith("model.llm.")]
    assert language and all(torch.equal(first[name], second[name]) for name in language)
    assert (toy.run_dir("second").tokenizer / "tokenizer.json").read_bytes() == (
        trained.run.tokenizer / "tokenizer.json"
    ).read_bytes()


def test_stale_tokenizer_of_a_failed_start_is_replaced(
    toy: ToyProject, trained: TrainedRun
) -> None:
    with pytest.raises(ConfigError, match="Every part is frozen"):
        frozen = [f"training.learning_rate.{part}=0" for part in PARTS]
        toy.fit("again", "text.vocab_size=320", *frozen)
    tokenizer = toy.run_dir("again").tokenizer / "tokenizer.json"
    stale = tokenizer.read_bytes()
    toy.fit("again", f"training.init_from={trained.run.path}", "training.max_steps=1")
    assert (
        stale != tokenizer.read_bytes() == (trained.run.tokenizer / "tokenizer.json").read_bytes()
    )


def test_validation_question_longer_than_max_tokens_is_refused(toy: ToyProject) -> None:
    with pytest.raises(
        QuestionError,
        match=r"questions about synthetic_\d+ do not fit beside its visual tokens in "
        r"text\.max_tokens=64",
    ):
        toy.fit("cut", "text.max_tokens=64", "training.val_every_n_steps=1")


# Several processes


def test_ddp_with_two_ranks_matches_one_process(toy: ToyProject) -> None:
    overrides = (
        "training.max_steps=2",
        "training.gradient_clip_norm=0",
        "training.val_every_n_steps=2",
        "data.max_bad_samples=9",
    )
    ranks = fork_run(toy, "two", *overrides, num_ranks=2)
    assert ranks.wait() == [0, 0], ranks.output()
    toy.fit("one", *overrides)
    assert (
        max_abs_difference(load_weights(toy.run_dir("two")), load_weights(toy.run_dir("one")))
        < 1e-5
    )
    scores = [EventAccumulator(str(toy.run_dir(name).tensorboard)) for name in ("one", "two")]
    for accumulator in scores:
        accumulator.Reload()
    for tag in (
        "val/acc/open_ended",
        "val/chance/multiple_choice",
        "val/loss",
    ):
        one, two = (accumulator.Scalars(tag)[-1].value for accumulator in scores)
        assert two == pytest.approx(one, abs=1e-4)
    states = [
        torch.load(toy.run_dir(name).checkpoint("last"), weights_only=True)
        for name in ("one", "two")
    ]
    one, two = (state["VideoQADataModule"] for state in states)
    assert one == two and (one["step"], one["position"]) == (2, 4)


def test_fsdp_with_two_ranks_matches_one_process(toy: ToyProject, trained: TrainedRun) -> None:
    overrides = (
        f"training.init_from={trained.run.path}",
        "training.max_steps=2",
        "training.val_every_n_steps=2",
        "training.save_every_n_steps=1",
    )
    ranks = fork_run(toy, "fsdp", *overrides, "training.strategy=fsdp", num_ranks=2)
    assert ranks.wait() == [0, 0], ranks.output()
    toy.fit("not-sharded", *overrides)
    sharded = dict(open_weights(toy.run_dir("fsdp").checkpoint("last")).tensors())
    expected = dict(open_weights(toy.run_dir("not-sharded").checkpoint("last")).tensors())
    assert sharded and all(
        torch.allclose(weight, expected[name], atol=1e-5) for name, weight in sharded.items()
    )


# The report at the end


def test_report_quotes_shell_arguments() -> None:
    outcome = FitResult(RunDir(Path("my runs/x")), 7, {"val/acc/open_ended": 0.5})
    report = outcome.report("a b.mp4", "What's that?", "a cat")
    assert "my runs/x: step 7" in report
    assert "open ended accuracy: 50.0%\n" in report and "multiple choice" not in report
    assert "ask 'a b.mp4' 'What'\"'\"'s that?' --run 'my runs/x'   # true answer: a cat" in report
    assert replace(outcome, scores={}).report().count("\n") == report.count("\n") - 1


def test_report_has_a_line_for_the_accuracy_of_each_task() -> None:
    scores = {"val/acc/multiple_choice": 0.75, "val/acc/object/object_attribute": 0.875}
    lines = FitResult(RunDir(Path("run")), 7, scores).report().splitlines()
    assert "  object attribute accuracy: 87.5%" in lines
    assert not any("recognition" in line for line in lines)


def test_report_says_where_the_haystack_plot_is_or_why_there_is_none(tmp_path: Path) -> None:
    outcome = FitResult(RunDir(tmp_path), 7, {})
    assert "length and depth: nothing to draw, since no answer has its evidence" in outcome.report()
    counted = replace(outcome, num_haystack_answers=12)
    assert "length and depth: not drawn, since training.num_val_images=0" in counted.report()
    outcome.run.haystack_plot.touch()
    assert f"length and depth: {outcome.run.haystack_plot} (12 answers)" in counted.report()
