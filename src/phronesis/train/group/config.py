"""How many processes hold the learner, and how."""

from __future__ import annotations

import os
from typing import Literal

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.train.learner_config import LearnerConfig

Method = Literal["ddp", "fsdp"]
"""ddp: every process holds all weights, gradients are added up. fsdp: weights, gradients and optimiser are spread over them."""
Backend = Literal["gloo", "nccl"]
"""What carries tensors between processes: gloo between processors, nccl between GPUs."""


class LearnerGroupConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several processes hold one learner. What they learn is what one process learns, up to the order of sums."""

    ranks: int = 2
    """Processes, at least 1."""
    method: Method = "ddp"
    """How they hold it."""
    backend: Backend | None = None
    """What carries tensors; None takes nccl where every process has a GPU of its own, else gloo."""
    threads: int | None = None
    """Threads each computes with; None divides the machine's cores among them."""
    host: str = "127.0.0.1"
    """Address they meet at; a loopback address keeps it inside the machine."""
    port: int = 0
    """Port they meet at; 0 takes a free one."""
    timeout: float = 1800.0
    """Seconds an answer may take before the group is ended with an error, above 0. A process that dies is noticed at once."""

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.timeout <= 0 or not 0 <= self.port < 1 << 16:
            raise ConfigError(f"learners needs ranks >= 1, timeout > 0 and a port below 65536; got {self!r}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"learners.threads must be at least 1, got {self.threads!r}")

    @property
    def threads_each(self) -> int:
        """Threads each process computes with, on this machine."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.ranks)


def check(config: LearnerConfig) -> None:
    """Refuses settings of the learner that a group cannot do.

    Raises:
        ConfigError: names the field.
    """
    refused = {
        'learner.baseline = "variance"': config.baseline == "variance",
        "learner.restart": config.restart,
        "learner.average": config.average is not None,
    }
    for name in (name for name, chosen in refused.items() if chosen):
        raise ConfigError(f"{name} is not done by a learner group; leave it out, or set learners = none")
