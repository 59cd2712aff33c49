"""GPUs and the links between them: rates and memory, by which a plan estimates time and fit."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from lit_hour.errors import ConfigError

# Cards with PCI Express 4.0 x16 and no NVLink.
PCIE_GB_PER_SECOND = 32.0
# One 400 Gbit/s InfiniBand adapter per GPU, as in DGX H100 and in the larger machines of clouds.
NETWORK_GB_PER_SECOND = 50.0


@dataclass(frozen=True)
class Gpu:
    """A GPU as its vendor states it.

    Attributes:
        memory_gib: that CUDA reports.
        bf16_flops: dense matrix products per second, accumulated in float32, without sparsity.
        fp32_flops: in float32, without tensor cores, as torch computes by default.
        link_gb_per_second: to the other GPUs of a machine, in one direction.
    """

    memory_gib: float
    bf16_flops: float
    fp32_flops: float
    link_gb_per_second: float = PCIE_GB_PER_SECOND


# From NVIDIA's data sheets of each product, SXM boards where there are several. Memory: nvidia-smi.
GPUS = {
    "A100-40": Gpu(40, 312e12, 19.5e12, 300),
    "A100-80": Gpu(80, 312e12, 19.5e12, 300),
    "H100": Gpu(80, 989e12, 67e12, 450),
    "H200": Gpu(140, 989e12, 67e12, 450),
    "B200": Gpu(179, 2250e12, 75e12, 900),
    "L4": Gpu(22, 121e12, 30.3e12),
    "L40S": Gpu(45, 362e12, 91.6e12),
    "A10G": Gpu(22, 70e12, 35e12),
    "A6000": Gpu(48, 155e12, 38.7e12),
    "RTX3090": Gpu(24, 71e12, 35.6e12),
    "RTX4090": Gpu(24, 165e12, 82.6e12),
}


@dataclass(frozen=True)
class Cluster:
    """The machines that a plan is made for.

    Attributes:
        gpu_name: key of `GPUS`.
        gpus_per_node: number of GPUs in a machine.
        num_nodes: machines.
        memory_gib: of a GPU.
        mfu: share of the GPU's peak rate at which operations are computed, recomputed ones
            included.
        link_gb_per_second: of each GPU to the others of its machine, in one direction.
        network_gb_per_second: of each GPU to other machines.
    """

    gpu_name: str
    gpus_per_node: int
    num_nodes: int
    memory_gib: float
    mfu: float
    link_gb_per_second: float
    network_gb_per_second: float

    @property
    def num_ranks(self) -> int:
        """One for each GPU."""
        return self.gpus_per_node * self.num_nodes

    def describe(self) -> str:
        """Return the number and the name of the GPUs."""
        num_gpus = f"{self.num_ranks} {self.gpu_name}"
        return f"{num_gpus} in {self.num_nodes} machines" if self.num_nodes > 1 else num_gpus

    def flops_per_second(self, precision: str) -> float:
        """Return the peak rate of a GPU in the precision of `training.precision`."""
        gpu = GPUS[self.gpu_name]
        return gpu.fp32_flops if precision == "32-true" else gpu.bf16_flops

    def link_to(self, last_rank: int) -> str:
        """Return the link from rank 0 to another: "link" inside of a machine, else "network"."""
        return "link" if last_rank < self.gpus_per_node else "network"

    def gb_per_second(self, link: str) -> float:
        """Return the rate of "link" or "network"."""
        return self.link_gb_per_second if link == "link" else self.network_gb_per_second


def build_cluster(
    gpu_name: str,
    gpus_per_node: int,
    num_nodes: int,
    *,
    memory_gib: float | None = None,
    mfu: float = 0.4,
    link_gb_per_second: float | None = None,
    network_gb_per_second: float | None = None,
) -> Cluster:
    """Look up a GPU and check the numbers; missing ones are taken from the GPU.

    Raises:
        ConfigError: the GPU is unknown, or a number is not possible.
    """
    name = next((one for one in GPUS if _plain(one) == _plain(gpu_name)), None)
    if name is None:
        similar = difflib.get_close_matches(_plain(gpu_name), map(_plain, GPUS), n=1)
        meant = [one for one in GPUS if _plain(one) in similar]
        hint = f" Did you mean {meant[0]}?" if meant else ""
        raise ConfigError(f"--gpu {gpu_name} is unknown.{hint} Known are: {', '.join(GPUS)}")
    gpu = GPUS[name]
    cluster = Cluster(
        name,
        gpus_per_node,
        num_nodes,
        gpu.memory_gib if memory_gib is None else memory_gib,
        mfu,
        gpu.link_gb_per_second if link_gb_per_second is None else link_gb_per_second,
        NETWORK_GB_PER_SECOND if network_gb_per_second is None else network_gb_per_second,
    )
    for option, value in (
        ("--gpus", cluster.gpus_per_node),
        ("--nodes", cluster.num_nodes),
    ):
        if value < 1:
            raise ConfigError(f"{option} {value} must be at least 1")
    for option, number in (
        ("--gpu-memory", cluster.memory_gib),
        ("--link", cluster.link_gb_per_second),
        ("--network", cluster.network_gb_per_second),
    ):
        if not 0 < number < float("inf"):
            raise ConfigError(f"{option} {number:g} must be above 0")
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu {mfu:g} must be above 0 and at most 1")
    return cluster


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace(" ", "")
