"""Schedulers and workers that the tests of this folder share: starting them takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.cluster import LocalCluster


@pytest.fixture(scope="package")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A scheduler with two good workers, for tests that leave them alive."""
    with LocalCluster(tmp_path_factory.mktemp("two")) as cluster:
        cluster.start_worker()
        cluster.start_worker()
        yield cluster


@pytest.fixture(scope="package")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("scheduler")) as cluster:
        yield cluster


@pytest.fixture
def cluster(scheduler: LocalCluster) -> LocalCluster:
    """A scheduler whose workers the test starts."""
    scheduler.clear()
    return scheduler
