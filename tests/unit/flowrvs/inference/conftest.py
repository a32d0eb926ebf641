"""What the tests of a cluster share."""

from __future__ import annotations

import sys

import pytest

import flowrvs
from flowrvs.inference.cluster import dispatch, worker
from tests.fixtures.network import Network
from tests.fixtures.segmenters import WindowSegmenter


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(dispatch, "Link", network.connect)
    monkeypatch.setattr(dispatch, "_TICK", 0.001)
    monkeypatch.setattr(worker, "_state", worker._State())
    monkeypatch.setattr(flowrvs, "load_segmenter", lambda name, **_: WindowSegmenter())
    # This process is no worker of dask's, whose import takes a second.
    monkeypatch.setitem(sys.modules, "distributed.worker", None)
    return network
