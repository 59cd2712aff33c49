import socket

import torch.distributed as dist

from lit_hour.training.distributed import CrossRankMax
from tests.helpers.fork import FORK


def test_a_process_alone_asks_nobody() -> None:
    agreement = CrossRankMax()
    assert [agreement.reduce(number) for number in (0, 15, -3)] == [0, 15, -3]


def test_all_ranks_hear_the_largest_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def ask(rank: int) -> None:
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3
        )
        agreement = CrossRankMax()
        assert agreement.reduce(0) == 0
        assert agreement.reduce([0, 15, 10][rank]) == 15
        assert -agreement.reduce(-[2, 1, 2][rank]) == 1

    ranks = [FORK.Process(target=ask, args=(rank,)) for rank in range(3)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(60)
    assert [each.exitcode for each in ranks] == [0, 0, 0]
