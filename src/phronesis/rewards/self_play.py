"""Rewards of self-play after Absolute Zero: what a proposed problem is worth, and what a bad format costs.

Source: Absolute Zero, arXiv 2505.03335 eq. 4 to 6.
"""

from __future__ import annotations


def proposal_reward(accuracy: float) -> float:
    """What a proposer earns: 1 minus the solvers' success rate, and 0 where all or none succeed.

    Formula [azr-propose]; the paper estimates the rate from 8 attempts and counts an invalid program as rate 1.

    >>> [proposal_reward(rate) for rate in (0.0, 0.25, 1.0)]
    [0.0, 0.75, 0.0]
    """
    return 1.0 - accuracy if 0.0 < accuracy < 1.0 else 0.0


def formatted_reward(reward: float, *, formatted: bool) -> float:
    """The reward of a well-formed reply, -.5 where it earned nothing, and -1 for a reply of bad format.

    Formula [azr-composite].

    >>> formatted_reward(0.75, formatted=True), formatted_reward(0.0, formatted=True), formatted_reward(1.0, formatted=False)
    (0.75, -0.5, -1.0)
    """
    if not formatted:
        return -1.0
    return reward if reward > 0 else -0.5
