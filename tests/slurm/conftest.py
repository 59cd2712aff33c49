"""The cluster that all tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, running_cluster, why_unavailable


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running SLURM with two nodes."""
    if reason := why_unavailable():
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster
