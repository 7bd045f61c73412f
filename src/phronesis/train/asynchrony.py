"""Playing while the policy learns: the settings, and how many rollouts may be in flight."""

from __future__ import annotations

from msgspec import Struct

from phronesis.errors import ConfigError


class AsyncConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Play and learn at the same time; see `phronesis.train.async_loop`."""

    staleness: int = 1
    """Most updates between the weights a group was started with and those that learn from it, at least 0. 0 gives
    exactly the synchronous run, to the bit. With more, clipping or corrections should answer for the difference."""
    lead: int | None = 1
    """Whole batches that may lie ready before no further group starts, at least 1: keeps what is learned from young where
    playing is faster than learning. None lets players run ahead as far as `staleness` allows."""
    max_age: int | None = None
    """Leave out groups whose oldest token is older than so many updates when they would be learned from; None leaves out none.
    The pacing keeps every group within `staleness` already, so this is for asking less of the buffer than of the players."""

    def __post_init__(self) -> None:
        if self.staleness < 0 or (self.lead is not None and self.lead < 1) or (self.max_age is not None and self.max_age < 0):
            raise ConfigError(f"asynchrony: staleness and max_age must be at least 0, lead at least 1, got {self!r}")


def capacity(*, batch: int, eta: int, version: int, accepted: int, running: int, max_concurrent: int) -> int:
    """How many rollouts may start so that none is more than `eta` versions old when it is trained.

    ``min(max_concurrent - running, (eta + version + 1) batch - (accepted + running))``; negative means none, and how many
    there are too many. batch 8, eta 4, version 2, accepted 50, running 3, at most 16 at once: 3.

    Source: AReaL, arXiv 2505.24298; formula [capacity].
    """
    return min(max_concurrent - running, (eta + version + 1) * batch - (accepted + running))
