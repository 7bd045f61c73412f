"""How old the data of an update may be: which samples are dropped, and how many may be in flight."""

from __future__ import annotations

from collections.abc import Iterable


def is_fresh(versions: Iterable[int], current: int, tau: int) -> bool:
    """Whether the oldest of a sample's weight versions is at most `tau` behind `current`; a sample without any is fresh.

    Versions [1, 2, 5], current 5, tau 3: 5 - 1 > 3, so not.   Source: GLM-5, arXiv 2602.15763; formula [staleness].
    """
    oldest = min(versions, default=current)
    return current - oldest <= tau


def capacity(*, batch: int, eta: int, version: int, accepted: int, running: int, max_concurrent: int) -> int:
    """How many rollouts may start so that none is more than `eta` versions old when it is trained.

    ``min(max_concurrent - running, (eta + version + 1) batch - (accepted + running))``; negative means none, and how many
    there are too many. batch 8, eta 4, version 2, accepted 50, running 3, at most 16 at once: 3.

    Source: AReaL, arXiv 2505.24298; formula [capacity].
    """
    return min(max_concurrent - running, (eta + version + 1) * batch - (accepted + running))
