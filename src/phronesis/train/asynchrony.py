"""How many rollouts may be in flight while the policy learns."""

from __future__ import annotations


def capacity(*, batch: int, eta: int, version: int, accepted: int, running: int, max_concurrent: int) -> int:
    """How many rollouts may start so that none is more than `eta` versions old when it is trained.

    ``min(max_concurrent - running, (eta + version + 1) batch - (accepted + running))``; negative means none, and how many
    there are too many. batch 8, eta 4, version 2, accepted 50, running 3, at most 16 at once: 3.

    Source: AReaL, arXiv 2505.24298; formula [capacity].
    """
    return min(max_concurrent - running, (eta + version + 1) * batch - (accepted + running))
