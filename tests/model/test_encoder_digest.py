"""The digest of a vision encoder, by which stored features are matched to it."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_hour.model.vision_encoder import VisionEncoder
from tests.model.toy_model import CONFIG


def encoder(seed: int = 0) -> VisionEncoder:
    torch.manual_seed(seed)
    return VisionEncoder(CONFIG.model.vision)


def test_digest_is_the_same_in_every_precision() -> None:
    digest = encoder().digest()
    assert len(digest) == 64 and digest == encoder().digest()
    assert encoder().to(torch.bfloat16).digest() == digest
    assert encoder().to(torch.bfloat16).float().digest() == digest
    assert encoder(seed=1).digest() != digest


def test_digest_depends_on_every_weight() -> None:
    digest = encoder().digest()
    for name, _ in encoder().tower.named_parameters():
        changed = encoder()
        with torch.no_grad():
            weight = changed.tower.get_parameter(name).view(-1)
            weight[-1] = weight[-1] * 1.01 + 0.01
        assert changed.digest() != digest, name


def test_digest_depends_on_the_color_normalization() -> None:
    changed = encoder()
    changed.mean = (0.4, *changed.mean[1:])
    assert changed.digest() != encoder().digest()


def test_digest_does_not_depend_on_the_grid() -> None:
    torch.manual_seed(0)
    assert VisionEncoder(replace(CONFIG.model.vision, grid=2)).digest() == encoder().digest()


def test_sharded_encoder_has_the_digest_of_the_unsharded(tmp_path: Path) -> None:
    expected = encoder().digest()
    # if the first backward pass came after FSDP, forks of this process could not do another
    torch.zeros(1, requires_grad=True).sum().backward()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded = encoder()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        assert all(isinstance(weight, DTensor) for weight in sharded.tower.parameters())
        assert sharded.digest() == expected
    finally:
        dist.destroy_process_group()
