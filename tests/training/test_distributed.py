import socket

import torch.distributed as dist

from lit_hour.training.distributed import CrossRankMax
from tests.helpers.fork import FORK


def test_cross_rank_max_of_one_process_is_its_own_number() -> None:
    cross_rank_max = CrossRankMax()
    assert [cross_rank_max.reduce(number) for number in (0, 15, -3)] == [0, 15, -3]


def test_cross_rank_max_returns_the_largest_number_to_all_ranks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def reduce(rank: int) -> None:
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3
        )
        cross_rank_max = CrossRankMax()
        assert cross_rank_max.reduce(0) == 0
        assert cross_rank_max.reduce([0, 15, 10][rank]) == 15
        assert -cross_rank_max.reduce(-[2, 1, 2][rank]) == 1

    ranks = [FORK.Process(target=reduce, args=(rank,)) for rank in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0, 0]
