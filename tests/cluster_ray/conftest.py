"""Tests on a real Ray cluster of this machine, which takes most of it: left out under xdist, run apart by `make test`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TRAIN = str(Path(__file__).resolve().parents[1] / "train")
sys.path += [TRAIN]
if os.environ.get("PYTEST_XDIST_WORKER"):
    collect_ignore_glob = ["test_*"]

from phronesis.cluster import ray as cluster
from phronesis.train.workers import ClusterConfig

SMALL = ClusterConfig(
    workers=4,  # so many logical CPUs are there; most tests use two workers
    store_bytes=200 << 20,
    pulse_seconds=0.5,
    backoff_seconds=0.1,
    start_seconds=500.0,
    silence_seconds=100.0,
)


@pytest.fixture(scope="session", autouse=True)
def ray_here():
    """One cluster for all tests of this folder, ended after the last."""
    assert cluster.connect(cluster.LOCAL, SMALL)
    yield
    cluster.disconnect()
    assert not cluster.connected()
