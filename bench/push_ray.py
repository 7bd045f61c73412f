"""What it costs to give new weights to two Ray actors of this machine, through one bucket in the object store.

The same models and the same bound as `bench.push`. A push ends when both actors have the weights in the parameters of a model.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import torch

from bench.measure import Row, compare
from bench.push import SIZES, Weights, once
from phronesis.engine.weights.bucket import Layout, load_into, unpack

TAKERS = 2
REPEATS = {"0.3M": 30, "3M": 20, "12M": 10}


class Taker:
    """Holds a model that weights are loaded into."""

    def __init__(self, name: str, path: list[str]):
        sys.path += [p for p in path if p not in sys.path]
        torch.set_num_threads(1)
        self.model = Weights.of(name)

    def take(self, bucket: np.ndarray) -> int:
        """Loads a bucket; its version."""
        return load_into(self.model, unpack(bucket.data))


def push_ray() -> list[Row]:
    """All rows."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    torch.set_num_threads(1)
    room = {"num_cpus": TAKERS, "object_store_memory": 400 << 20}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False, **room)
    try:
        return [row for name in REPEATS for row in pushes(ray, name)]
    finally:
        ray.shutdown()


def pushes(ray, name: str) -> list[Row]:
    """How long until both have it, and how long the learner's process is busy with it."""
    model = Weights.of(name)
    layout = Layout(model.named_parameters())
    made = ray.remote(Taker).options(runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})
    takers = [made.remote(name, sys.path) for _ in range(TAKERS)]
    source = torch.ones(layout.nbytes, dtype=torch.uint8)
    target = torch.empty_like(source)
    ours: list[float] = []
    busy: list[float] = []
    bound: list[float] = []
    for version in range(REPEATS[name] + 1):
        began = time.perf_counter()
        bucket = np.empty(layout.nbytes, np.uint8)
        layout.pack_into(bucket.data, model.named_parameters(), version)
        held = ray.put(bucket)
        busy.append(1000 * (time.perf_counter() - began))
        assert ray.get([taker.take.remote(held) for taker in takers]) == [version] * TAKERS
        ours.append(1000 * (time.perf_counter() - began))
        bound.append(once(lambda: target.copy_(source)))
    for taker in takers:
        ray.kill(taker)
    what = f"{name}, {layout.nbytes / 1e6:.3g} MB"
    assert name in SIZES
    return [
        compare("push-ray", f"{said}: {what}", found[1:], bound[1:], unit="ms", peer_name="one copy of the bytes")
        for said, found in (("packed and put", busy), (f"until {TAKERS} actors have it", ours))
    ]
