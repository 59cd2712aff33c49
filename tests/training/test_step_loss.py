"""The loss and the gradients of a step do not depend on its micro-batches, ranks and strategy."""

from __future__ import annotations

import itertools
import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_hour.data.packing.pack import pack
from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import IGNORE_INDEX, Batch
from lit_hour.weights.reader import open_weights
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import ToyProject, toy_settings

pytestmark = pytest.mark.slow

NUM_SAMPLES = 4
LORA = "model.llm.lora.rank=4"
VARIANTS = {
    "all": (),
    "lora": (LORA,),
    "frozen": ("training.learning_rate.vision=0", "training.learning_rate.memaug=0"),
    "conversations": ("data.conversations_per_video=3",),
}
PACKED = ("training.packing=true", "training.activation_checkpointing=true")
TOLERANCE = 1e-6  # relative to the norm of a parameter's gradient


@dataclass(frozen=True)
class Layout:
    """Ranks, strategy and micro-batches that share the samples of a step."""

    num_ranks: int
    strategy: str
    micro_batch_size: int

    def __str__(self) -> str:
        return f"{self.strategy}-{self.num_ranks}x{self.micro_batch_size}"


WHOLE = Layout(1, "auto", NUM_SAMPLES)
LAYOUTS = (
    WHOLE,
    *(Layout(1, "auto", size) for size in (2, 1)),
    *(Layout(1, "fsdp", size) for size in (4, 1)),
    *(Layout(2, strategy, size) for strategy in ("ddp", "fsdp") for size in (2, 1)),
    *(Layout(4, strategy, 1) for strategy in ("ddp", "fsdp")),
)


@pytest.fixture(scope="module")
def project(toy: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """A project with answers of different lengths and a video that cannot be read."""
    folder, world = tmp_path_factory.mktemp("cut"), toy.yaml.parent / "world/train"
    records = json.loads((world / "questions.json").read_text())
    for number, record in enumerate(records):
        if record["format"] == "open_ended":
            record["answer"] += " and then it leaves" * (number % 4)
    (folder / "questions.json").write_text(json.dumps(records))
    config, shards = toy.config("none"), folder / "shards"
    pack(world / "videos", folder / "questions.json", shards, config.video, config.pack)
    damage_first_video(shards / "000000.tar")
    values = toy_settings(toy.yaml.parent / "world")
    values["data"] |= {"val_sources": {}, "global_batch_size": NUM_SAMPLES, "max_bad_samples": 99}
    values["data"]["sources"]["world"]["shards"] = str(shards)
    return ToyProject.write(folder, values)


def damage_first_video(tar: Path) -> None:
    with tarfile.open(tar) as members:
        names = {member.name: member.offset for member in members}
    first = min(names, key=names.__getitem__).split(".")[0]
    end = min(offset for name, offset in names.items() if not name.startswith(first))
    content = tar.read_bytes()
    tar.write_bytes(content[:end].replace(b"\xff\xd8\xff", b"???") + content[end:])


@pytest.fixture
def recorded(project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each run save its latest gradients, before clipping, and the tokens of its batches."""
    training_step = HourLLaVAModule.training_step
    clip = HourLLaVAModule.configure_gradient_clipping
    num_tokens: list[list[int]] = []

    def step(module: HourLLaVAModule, batch: Batch, batch_idx: int) -> dict[str, Any]:
        num_tokens.append((batch.labels != IGNORE_INDEX).sum(dim=1).tolist())
        return training_step(module, batch, batch_idx)

    def record(module: HourLLaVAModule, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        gradients = {
            name: parameter.grad.full_tensor()
            if isinstance(parameter.grad, DTensor)
            else parameter.grad
            for name, parameter in module.model.named_parameters()
            if parameter.grad is not None
        }
        folder = project.run_dir(module.config.run.name).path
        torch.save(num_tokens.copy(), folder / f"num_tokens-{module.global_rank}.pt")
        num_tokens.clear()
        if module.global_rank == 0:
            torch.save(gradients, folder / "gradients.pt")
        clip(module, optimizer, *args, **kwargs)

    monkeypatch.setattr(HourLLaVAModule, "training_step", step)
    monkeypatch.setattr(HourLLaVAModule, "configure_gradient_clipping", record)


def fit_layouts(
    project: ToyProject, layouts: tuple[Layout, ...], runs: dict[str, tuple[str, ...]]
) -> None:
    """Train each run in each layout; layouts with the same ranks share one start of the ranks."""
    for num_ranks, strategy in dict.fromkeys((each.num_ranks, each.strategy) for each in layouts):
        group = [
            each for each in layouts if (each.num_ranks, each.strategy) == (num_ranks, strategy)
        ]

        def work(rank: int, group: list[Layout] = group) -> None:
            for layout in group:
                for name, words in runs.items():
                    project.fit(
                        f"{name}-{layout}",
                        *words,
                        f"training.devices={layout.num_ranks}",
                        f"training.strategy={layout.strategy}",
                        f"data.micro_batch_size={layout.micro_batch_size}",
                    )

        outputs = [project.yaml.parent / f"{strategy}-{rank}.txt" for rank in range(num_ranks)]
        ranks = fork_ranks(work, outputs)
        assert ranks.wait() == [0] * num_ranks, ranks.output()


def losses(project: ToyProject, name: str) -> list[float]:
    accumulator = EventAccumulator(str(project.run_dir(name).tensorboard))
    accumulator.Reload()
    return [event.value for event in accumulator.Scalars("train/loss")]


@pytest.mark.usefixtures("recorded")
def test_step_has_the_same_loss_and_gradients_in_each_layout(project: ToyProject) -> None:
    """Each layout resumes the same run, of one process, and takes its third step.

    Texts are padded, or packed without padding.

    Some gradients cancel, as that of a key's bias, and are mostly rounding errors. So the tolerance
    is relative to the norm of a parameter's gradient, plus a billionth of the norm of all.
    """
    runs = {}
    for variant, words in VARIANTS.items():
        runs[variant] = (*words, "training.max_steps=3")
        runs[f"packed-{variant}"] = (*runs[variant], *PACKED)
        base = project.fit(f"{variant}-base", *words, "training.max_steps=2").run.path
        for layout in LAYOUTS:
            for name in (variant, f"packed-{variant}"):
                shutil.copytree(base, project.run_dir(f"{name}-{layout}").path)
    fit_layouts(project, LAYOUTS, runs)

    for variant in VARIANTS:
        expected = gradients_of(project, f"{variant}-{WHOLE}")
        atol = 1e-9 * float(torch.nn.utils.get_total_norm(expected.values()))
        for layout, run in itertools.product(LAYOUTS, (variant, f"packed-{variant}")):
            name = f"{run}-{layout}"
            assert losses(project, name) == pytest.approx(losses(project, f"{variant}-{WHOLE}"))
            gradients = gradients_of(project, name)
            assert gradients.keys() == expected.keys() and len(gradients) > 10, name
            for parameter, gradient in expected.items():
                difference = float((gradients[parameter] - gradient).norm())
                assert difference <= TOLERANCE * float(gradient.norm()) + atol, (name, parameter)
    # The samples about the video that cannot be read have no tokens.
    assert num_tokens_of(project, f"all-{WHOLE}") == [[[4, 24]]]
    assert num_tokens_of(project, f"all-{Layout(1, 'auto', 1)}") == [[[0], [4], [0], [24]]]
    assert num_tokens_of(project, f"all-{Layout(2, 'fsdp', 1)}") == [[[0], [24]], [[4], [0]]]
    # Ranks with different numbers of conversations.
    several = num_tokens_of(project, f"conversations-{Layout(2, 'fsdp', 1)}")
    assert several == [[[4, 4, 4], [24, 4, 4]], [[0], [0]]]


def gradients_of(project: ToyProject, name: str) -> dict[str, Tensor]:
    return torch.load(project.run_dir(name).path / "gradients.pt", weights_only=True)


def num_tokens_of(project: ToyProject, name: str) -> list[list[list[int]]]:
    """Return the learned tokens of each text of each micro-batch of the latest step, by rank."""
    files = sorted(project.run_dir(name).path.glob("num_tokens-*.pt"))
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_ranks_differ_from_one_process_by_less_than_a_step(
    project: ToyProject, precision: str
) -> None:
    """After three steps the weights differ by less, in L2 norm, than the third step moves them.

    AdamW turns a rounding error of a gradient near zero into a full update of that weight.
    """
    base = f"training.init_from={project.fit('bf16-base', 'training.max_steps=1').run.path}"
    words = (base, f"training.precision={precision}", "training.save_every_n_steps=1")
    two = (Layout(2, "ddp", 1), Layout(2, "fsdp", 1))
    fit_layouts(project, (WHOLE, *two), {precision: (*words, "training.max_steps=3")})
    before, after = (weights(project, f"{precision}-{WHOLE}", step) for step in (2, 3))
    for layout in two:
        name = f"{precision}-{layout}"
        difference = distance(weights(project, name, 3), after)
        assert difference < distance(before, after), name
        expected = pytest.approx(losses(project, f"{precision}-{WHOLE}"), rel=2e-3)
        assert losses(project, name) == expected, name


def weights(project: ToyProject, name: str, step: int) -> dict[str, Tensor]:
    """Return the weights after a step, without the tied output layer, which not all runs store."""
    stored = dict(open_weights(project.run_dir(name).checkpoint(f"step={step:06d}")).tensors())
    stored.pop("llm.network.lm_head.weight", None)
    return stored


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the L2 norm of the difference of two sets of weights."""
    assert one.keys() == other.keys()
    return float(torch.nn.utils.get_total_norm([one[name].float() - other[name] for name in one]))
