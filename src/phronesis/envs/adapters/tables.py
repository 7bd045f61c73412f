"""Exact values of small worlds whose transitions are listed: what an oracle and a random agent score within a time limit.

Source: backward induction, e.g. Sutton & Barto (2018), section 4.4, over a finite horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Transitions = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""``P[state][action]`` = list of (probability, next state, reward, episode ends), as Gymnasium's toy worlds keep it."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Best actions and expected scores by steps left."""

    policy: NDArray[np.int64]
    """`[H + 1, S]`: best action with h steps left (row 0 is unused)."""
    best: Floats
    """`[S]`: expected score of the best actions with H steps left."""
    random: Floats
    """`[S]`: expected score of uniformly random actions with H steps left."""

    def action(self, state: int, steps_left: int) -> int:
        """The best action; the last rows serve for more steps than were solved for."""
        return int(self.policy[min(max(steps_left, 1), len(self.policy) - 1), state])


def solve(transitions: Transitions, earned: Callable[[float, bool], float], horizon: int) -> Solution:
    """Solves a world exactly for a number of steps.

    Among actions of equal score the one that ends the episode sooner (in expectation) is taken.

    Args:
        transitions: see `Transitions`.
        earned: score of a transition with this reward and this ending.
        horizon: steps H, at least 1.

    >>> corridor = {0: {0: [(1.0, 0, 0, False)], 1: [(1.0, 1, 1, True)]}, 1: {a: [(1.0, 1, 0, True)] for a in (0, 1)}}
    >>> solution = solve(corridor, lambda reward, done: reward, 2)
    >>> float(solution.best[0]), float(solution.random[0]), solution.action(0, 2)
    (1.0, 0.75, 1)
    """
    chance, target, score, goes_on = _arrays(transitions, earned)
    states = chance.shape[0]
    best, steps, random = np.zeros(states), np.zeros(states), np.zeros(states)
    policy = np.zeros((horizon + 1, states), dtype=np.int64)
    for left in range(1, horizon + 1):
        value = (chance * (score + goes_on * best[target])).sum(-1)
        length = (chance * (1.0 + goes_on * steps[target])).sum(-1)
        tied = value >= value.max(1, keepdims=True) - 1e-9
        chosen = np.where(tied, length, np.inf).argmin(1)
        policy[left] = chosen
        random = (chance * (score + goes_on * random[target])).sum(-1).mean(1)
        at = chosen[:, None]
        best, steps = np.take_along_axis(value, at, 1)[:, 0], np.take_along_axis(length, at, 1)[:, 0]
    return Solution(policy=policy, best=best, random=random)


def _arrays(
    transitions: Transitions, earned: Callable[[float, bool], float]
) -> tuple[Floats, NDArray[np.int64], Floats, Floats]:
    """`[S, A, K]` probabilities, next states, scores, and 1 where the episode goes on; padded with probability 0."""
    states, actions = len(transitions), len(transitions[0])
    widest = max(len(outcomes) for by_action in transitions.values() for outcomes in by_action.values())
    shape = (states, actions, widest)
    chance, score, goes_on = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    target = np.zeros(shape, dtype=np.int64)
    for s, by_action in transitions.items():
        for a, outcomes in by_action.items():
            for k, (probability, following, reward, done) in enumerate(outcomes):
                chance[s, a, k], target[s, a, k] = probability, following
                score[s, a, k], goes_on[s, a, k] = earned(float(reward), bool(done)), float(not done)
    return chance, target, score, goes_on
