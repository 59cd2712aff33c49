"""The cluster that every test of this folder shares."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster
