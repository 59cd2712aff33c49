"""Plans: sizes and operations of the tiny model, what makes a run fit, and invalid input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_hour.cli.main import main
from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.plan.estimate import Estimate, estimate_run, language_tokens
from lit_hour.plan.fake_tensors import PlanningMode
from lit_hour.plan.gpus import GPUS, build_cluster
from lit_hour.plan.longest_sample import FRAME_TIME_TOKENS, LongestSample, build_batch
from lit_hour.plan.memory_tracker import Collective
from lit_hour.plan.planning import Plan, Remedy, iter_changes, plan_run, with_training
from lit_hour.plan.report import format_plan
from lit_hour.plan.trace import StepTrace
from lit_hour.training.module import forgetting_generators
from lit_hour.training.optim import freeze_parts
from lit_hour.training.parallelize import parallelize
from tests import CONF, published_stage

TINY = CONF / "tiny_model.yaml"
SAMPLE = LongestSample("video", num_frames=8, num_text_tokens=32)
SMALL = ("data.micro_batch_size=1", "data.global_batch_size=1")


@pytest.fixture(scope="module")
def tiny() -> Estimate:
    return estimate_run(load_config(TINY, SMALL), build_cluster("H100", 1, 1), SAMPLE)


def test_indices_have_values_and_floats_have_none() -> None:
    with PlanningMode():
        mask = torch.arange(6) % 2 == 0  # (6,)
        weights = torch.zeros(6, 3)
        assert mask.nonzero().flatten().tolist() == [0, 2, 4]
        assert weights[mask].shape == (3, 3)
        assert type(weights).__name__ == "FakeTensor"
        draws = torch.rand(4, generator=torch.Generator().manual_seed(0))  # (4,)
    expected = torch.rand(4, generator=torch.Generator().manual_seed(0))  # (4,)
    assert torch.equal(draws, expected)


def test_held_memory_follows_from_the_number_of_parameters(tiny: Estimate) -> None:
    trace = tiny.trace
    num_parameters = sum(number for number, _ in trace.num_parameters.values())
    config = load_config(TINY, SMALL)
    model = HourLLaVA.from_config(config, config.text.vocab_size)
    assert num_parameters == sum(one.numel() for one in model.parameters())
    assert trace.gradients == 4 * num_parameters
    assert trace.weights == pytest.approx(4 * num_parameters, rel=1e-3)  # and rotary frequencies
    assert trace.optimizer_state == pytest.approx(8 * num_parameters, rel=1e-3)
    assert trace.peak.total_bytes > trace.weights + trace.gradients + trace.optimizer_state
    for peak in trace.peaks.values():
        assert sum(peak.by_kind.values()) == peak.total_bytes


def test_operations_are_those_of_a_real_step(tiny: Estimate) -> None:
    assert sum(tiny.trace.flops.values()) == pytest.approx(real_operations(), rel=0.02)
    assert all(number > 0 for number in tiny.trace.flops.values())


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_objective_with_a_reference_model_is_not_planned(objective: str) -> None:
    config = with_training(load_config(TINY, SMALL), objective=objective)
    with pytest.raises(ConfigError, match=f"training.objective={objective} cannot be planned"):
        plan_run(config, build_cluster("H100", 1, 1), SAMPLE)


def test_answer_words_takes_no_operations_of_the_language_model() -> None:
    words = (*SMALL, "training.objective=answer_words", "training.learning_rate.llm=0")
    trace = estimate_run(load_config(TINY, words), build_cluster("H100", 1, 1), SAMPLE).trace
    assert trace.flops["MemAug"] > 0 == trace.flops["language model"] and trace.logits == 0


@pytest.mark.slow
def test_quantized_base_takes_less_memory_and_no_copy_in_the_backward_pass() -> None:
    words = (*SMALL, "model.llm.lora.rank=4", "training.save_weights=learned")
    traces = {
        kind: estimate_run(
            load_config(TINY, [*words, f"model.llm.quantize={kind}"]),
            build_cluster("H100", 1, 1),
            SAMPLE,
        ).trace
        for kind in ("none", "int8", "int4")
    }
    plain, int8, int4 = traces.values()
    assert plain.weights > int8.weights > int4.weights
    num_llm, num_trained = plain.num_parameters["llm"]
    assert plain.weights - int8.weights < 3 * (num_llm - num_trained)
    assert plain.gradients == int8.gradients == int4.gradients
    assert int8.activations <= plain.activations and int4.activations <= plain.activations


@pytest.mark.slow
def test_times_of_frames_are_tokens_of_the_language_model() -> None:
    config = load_config(TINY, [*SMALL, "text.frame_times=text"])
    assert SAMPLE.num_frame_times(config) == 8  # of 32 repeated frames a quarter is kept
    plain = load_config(TINY, SMALL)
    added = language_tokens(config, SAMPLE) - language_tokens(plain, SAMPLE)
    assert added == 8 * FRAME_TIME_TOKENS
    assert "8 times of 9 tokens each" in SAMPLE.describe(config)
    assert "times" not in SAMPLE.describe(plain)
    with torch.device("meta"):
        model = HourLLaVA.from_config(plain, 300)
    timed, without = (build_batch(one, SAMPLE, model, 1) for one in (config, plain))
    assert timed.input_ids.shape[1] - without.input_ids.shape[1] == added + 8 - 1
    assert int((timed.labels != -100).sum()) == int((without.labels != -100).sum()) == 16
    assert torch.equal(timed.question_mask.sum(), without.question_mask.sum())
    trace = estimate_run(config, build_cluster("H100", 1, 1), SAMPLE).trace
    expected = estimate_run(plain, build_cluster("H100", 1, 1), SAMPLE).trace
    assert trace.flops["MemAug"] == expected.flops["MemAug"]
    assert trace.flops["language model"] > expected.flops["language model"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("training.activation_checkpointing=true",),
        ("training.learning_rate.vision=0", "model.llm.lora.rank=4"),
        ("training.learning_rate.llm=0", "training.packing=true"),
    ],
)
def test_operations_of_other_settings_are_those_of_a_real_step(words: tuple[str, ...]) -> None:
    config = load_config(TINY, [*SMALL, *words])
    trace = estimate_run(config, build_cluster("H100", 1, 1), SAMPLE).trace
    assert sum(trace.flops.values()) == pytest.approx(real_operations(*words), rel=0.02)


def real_operations(*words: str) -> int:
    """Count the operations of a forward and backward pass on real tensors."""
    config = load_config(TINY, [*SMALL, *words])
    model = HourLLaVA.from_config(config, config.text.vocab_size)
    freeze_parts(model, config.training)
    parallelize(model, config.training, None)
    batch = build_batch(config, SAMPLE, model, 1)
    with FlopCounterMode(display=False) as counter:
        model(batch, forgetting_generators(batch, config.run.seed)).loss.backward()
    return counter.get_total_flops()


def test_a_run_that_fits_is_reported_so(tiny: Estimate) -> None:
    text = format_plan(Plan(tiny, SAMPLE, tiny))
    assert "It fits: " in text and "backward (" in text
    assert json.loads(json.dumps(Plan(tiny, SAMPLE, tiny).to_dict()))["fits"] is True


def test_changes_are_offered_from_the_cheapest_on(tiny: Estimate) -> None:
    """Each change is offered until it is made; then there is none left."""
    cluster = build_cluster("L4", 4, 1, memory_gib=0.001)
    config = load_config(TINY, ["data.micro_batch_size=2", "data.global_batch_size=8"])
    current, names = replace(tiny, config=config, cluster=cluster), []
    remedies = []
    while change := next(iter_changes(current), None):
        names.append(change.name)
        current = replace(current, config=change.config, cluster=change.cluster)
        remedies.append(Remedy(change, current))
    assert names == [
        "training.activation_checkpointing=true",
        "data.micro_batch_size=1",
        "training.strategy=fsdp",
        "training.optimizer=adamw_8bit",
        "--nodes 2",
        "training.cpu_offload=true training.optimizer=adamw",
        "model.llm.lora.rank=16",
    ]
    no_llm = with_training(tiny.config, objective="answer_words", activation_checkpointing=True)
    names = [change.name for change in iter_changes(replace(tiny, config=no_llm, cluster=cluster))]
    assert names and "training.strategy=fsdp" not in names  # check_config refuses both together
    text = format_plan(Plan(replace(tiny, cluster=cluster), SAMPLE, tiny, tuple(remedies)))
    assert "It does not fit" in text and "+ --nodes 2" in text


def test_time_is_the_longer_of_computation_and_communication(tiny: Estimate) -> None:
    cluster = build_cluster("H100", 8, 2, mfu=0.5, network_gb_per_second=10)
    estimate = replace(
        tiny,
        config=with_training(tiny.config, precision="bf16-mixed"),
        cluster=cluster,
        trace=replace(
            tiny.trace,
            flops={"MemAug": int(989e12)},
            collectives={Collective("all_gather", 16, 15): 320 * 10**9},
        ),
    )
    assert estimate.compute_seconds == pytest.approx(2)
    assert estimate.communication_seconds == pytest.approx(30)  # 15/16 of it at 10 GB/s
    assert estimate.step_seconds == estimate.communication_seconds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "7"], "global_batch_size=128 must be a multiple of 7"),
        (["--nodes", "0"], "--nodes 0 must be at least 1"),
        (["--gpus", "-1"], "--gpus -1 must be at least 1"),
        (["--gpu", "H1000"], "--gpu H1000 is unknown. Did you mean H100? Known are: A100-40"),
        (["--gpu-memory", "0"], "--gpu-memory 0 must be above 0"),
        (["--mfu", "40"], "--mfu 40 must be above 0 and at most 1"),
        (["--frames", "0"], "--frames 0 must be from 1 to video.max_frames=1000000"),
        (
            ["--text-tokens", "40000"],
            "--text-tokens 40000 must be from 16 to text.max_tokens=32768",
        ),
        (["training.activation_checkpoint=true"], "activation_checkpointing"),
    ],
)
def test_invalid_input_is_refused_in_one_line(words: list[str], message: str) -> None:
    files = [str(file) for file in published_stage("3b", "s3")]
    with pytest.raises(ConfigError) as error:
        main(["plan", *files, *words])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_each_gpu_has_plausible_rates() -> None:
    for name, gpu in GPUS.items():
        assert gpu.bf16_flops > gpu.fp32_flops > 1e12, name
        assert build_cluster(name.lower().replace("-", ""), 8, 1).gpu_name == name


@pytest.mark.slow
def test_replicas_offload_and_8_bit_averages_are_planned() -> None:
    """Two replicas of two ranks hold twice the weights; offloaded ones take no GPU memory."""
    words = ["training.strategy=fsdp", "data.global_batch_size=4", "data.micro_batch_size=1"]
    cluster = build_cluster("H100", 2, 2)

    def trace(*more: str) -> StepTrace:
        config = load_config(TINY, [*words, "training.accelerator=gpu", *more])
        return estimate_run(config, cluster, SAMPLE).trace

    plain, replicas = trace(), trace("training.replicas=2")
    assert replicas.weights == pytest.approx(2 * plain.weights, rel=0.05)  # with padding
    groups = {(one.num_ranks, one.last_rank) for one in replicas.collectives}
    assert {(2, 1), (2, 2)} <= groups  # shards in a machine, replicas of a shard between machines
    quantized = trace("training.optimizer=adamw_8bit")
    assert quantized.optimizer_state < 0.4 * plain.optimizer_state
    offloaded = trace("training.cpu_offload=true")
    held = {"weights", "gradients", "optimizer state"}
    assert not held & set(offloaded.peak.by_kind)
    assert offloaded.peak.total_bytes < plain.peak.total_bytes
