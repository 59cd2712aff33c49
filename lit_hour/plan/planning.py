"""Plan a run, and look for settings with which it fits. Entry point: `plan_run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from lit_hour.config.schema import Config
from lit_hour.config.training import PREFERENCE_OBJECTIVES
from lit_hour.errors import ConfigError
from lit_hour.plan.estimate import Estimate, estimate_run
from lit_hour.plan.gpus import Cluster
from lit_hour.plan.longest_sample import LongestSample
from lit_hour.plan.model_sizes import with_known_sizes

LORA_RANK = 16


@dataclass(frozen=True)
class Change:
    """A setting or option that lowers the memory of a run.

    Attributes:
        name: as it is written on the command line.
        cost: what is given up besides time; empty for nothing.
    """

    name: str
    cost: str
    config: Config
    cluster: Cluster


@dataclass(frozen=True)
class Remedy:
    """A change that was tried, on top of the changes before it."""

    change: Change
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """A run as configured and with checkpointing switched, and changes that make it fit.

    Attributes:
        estimate: as configured.
        sample: the longest sample.
        switched: the same with the other value of `training.activation_checkpointing`.
        remedies: changes that were tried until the run fits; empty for a run that fits.
    """

    estimate: Estimate
    sample: LongestSample
    switched: Estimate
    remedies: tuple[Remedy, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        return {
            **self.estimate.to_dict(),
            "sample": asdict(self.sample),
            "other_checkpointing": self.switched.to_dict(),
            "remedies": [
                {"change": remedy.change.name, **remedy.estimate.to_dict()}
                for remedy in self.remedies
            ],
        }


def plan_run(
    config: Config,
    cluster: Cluster,
    sample: LongestSample,
    progress: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plan a run.

    Args:
        config: settings.
        cluster: machines.
        sample: the longest sample.
        progress: gets a line before each trace.

    Raises:
        ConfigError: the ranks cannot share a step, the settings contradict each other, or the
            objective has more than one pass.
    """
    if config.training.objective in PREFERENCE_OBJECTIVES:
        raise ConfigError(
            f"A step of training.objective={config.training.objective} cannot be planned: it runs a"
            " reference model and several answers to a question. Plan training.objective=next_token"
            " with as many texts in data.micro_batch_size."
        )
    config = with_known_sizes(config)
    progress("tracing a step")
    estimate = estimate_run(config, cluster, sample)
    is_on = config.training.activation_checkpointing
    progress(f"tracing a step with training.activation_checkpointing={str(not is_on).lower()}")
    switched = estimate_run(
        with_training(config, activation_checkpointing=not is_on), cluster, sample
    )
    remedies: list[Remedy] = []
    current = estimate
    while not current.fits:
        change = next(iter_changes(current), None)
        if change is None:
            break
        if (change.config, change.cluster) == (switched.config, switched.cluster):
            current = switched
        else:
            progress(f"tracing a step with {change.name} too")
            current = estimate_run(change.config, change.cluster, sample)
        remedies.append(Remedy(change, current))
    return Plan(estimate, sample, switched, tuple(remedies))


def iter_changes(estimate: Estimate) -> Iterator[Change]:
    """Yield the changes that may make a run fit, the cheapest first."""
    config, cluster = estimate.config, estimate.cluster
    training, data, lora = config.training, config.data, config.model.llm.lora
    if not training.activation_checkpointing:
        changed = with_training(config, activation_checkpointing=True)
        yield Change("training.activation_checkpointing=true", "", changed, cluster)
    if data.micro_batch_size > 1 and not data.tokens_per_batch:
        changed = replace(config, data=replace(data, micro_batch_size=1))
        yield Change("data.micro_batch_size=1", "", changed, cluster)
    is_sharded = training.strategy == "fsdp"
    can_shard = training.objective != "answer_words"  # check_config refuses both together
    if not is_sharded and can_shard and cluster.num_ranks > 1:
        changed = with_training(config, strategy="fsdp")
        yield Change("training.strategy=fsdp", "", changed, cluster)
    if training.replicas > 1:
        changed = with_training(config, replicas=1)
        yield Change("training.replicas=1", "", changed, cluster)
    if training.optimizer != "adamw_8bit" and not training.cpu_offload:
        changed = with_training(config, optimizer="adamw_8bit")
        yield Change("training.optimizer=adamw_8bit", "averages of 8 bits", changed, cluster)
    num_ranks, samples = 2 * cluster.num_ranks, data.batches_per_step or data.global_batch_size
    unit = 1 if data.tokens_per_batch else data.micro_batch_size
    if is_sharded and samples % (num_ranks * unit) == 0:
        larger = replace(cluster, num_nodes=2 * cluster.num_nodes)
        yield Change(f"--nodes {larger.num_nodes}", "twice the GPUs", config, larger)
    if is_sharded and not training.cpu_offload:
        changed = with_training(config, cpu_offload=True, optimizer="adamw")
        cost = "weights pass PCI Express, the CPU updates them: slower than stated"
        name = "training.cpu_offload=true training.optimizer=adamw"
        yield Change(name, cost, changed, cluster)
    if lora.rank == 0 and training.learning_rate.llm > 0:
        llm = replace(config.model.llm, lora=replace(lora, rank=LORA_RANK))
        changed = replace(config, model=replace(config.model, llm=llm))
        cost = "the language model learns by adapters only"
        yield Change(f"model.llm.lora.rank={LORA_RANK}", cost, changed, cluster)


def with_training(config: Config, **changes: Any) -> Config:
    """Return the settings with other values in the section `training`."""
    return replace(config, training=replace(config.training, **changes))
