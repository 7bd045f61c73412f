"""Two processes that hold one learner after another, so that the tests of a file start them once; and what to compare."""

from __future__ import annotations

import msgspec
import torch

from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.learner import GroupLearner
from phronesis.train.group.processes import Processes
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig

replace = msgspec.structs.replace


class Lent:
    """Processes that outlive a learner."""

    shares_memory = True

    def __init__(self, processes):
        self.ask = processes.ask

    def close(self):
        pass


def started(ranks=2, **settings):
    return Processes(LearnerGroupConfig(ranks=ranks, threads=1, timeout=60.0, **settings))


def grouped(processes, decoder, config, method="ddp"):
    """A learner held by processes that run already."""
    group = LearnerGroupConfig(ranks=len(processes.pids), method=method)
    return GroupLearner(decoder, config, group, start=lambda _: Lent(processes))


def gradients(learner, decoder):
    """The clipped gradient of an update, by name: AdamW's mean of gradients without memory (`NO_MEMORY`)."""
    names = {id(p): n for n, p in decoder.named_parameters()}
    order = [names[id(p)] for p in Learner(decoder, LearnerConfig()).stepper.parameters]
    (part,) = learner.state()["stepper"]["parts"]
    groups = [i for group in part["param_groups"] for i in group["params"]]
    shapes = [name for wide in (True, False) for name in order if (dict(decoder.named_parameters())[name].ndim >= 2) is wide]
    return {name: part["state"][i]["exp_avg"] for name, i in zip(shapes, groups, strict=True)}


NO_MEMORY = AdamWConfig(lr=1e-4, beta1=0.0)
"""Keeps the gradient of the last step as it was."""


def distance(mine, other):
    """Largest relative distance of tensors with the same name."""
    assert mine.keys() == other.keys()
    return max(float((mine[n] - other[n]).norm() / other[n].norm().clamp_min(1e-12)) for n in mine)


def equal_trees(a, b, path="state"):
    """Two states are equal to the bit; says where they are not."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), path
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            equal_trees(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            equal_trees(x, y, f"{path}[{i}]")
    else:
        assert a == b, (path, a, b)
