"""ArCHer: an off-policy critic over whole utterances, and advantages from twins of it.

Source: arXiv 2402.19446; formula [archer]. As published: gamma .9, target networks averaged with rate .1, critic learning
rate 1e-3, policy 1e-5, three epochs. These are the pure functions; no rule trains such a critic here.
"""

from __future__ import annotations

from collections.abc import Sequence


def archer_targets(
    rewards: Sequence[float], done: Sequence[bool], next_values: Sequence[float], *, gamma: float = 0.9
) -> list[float]:
    """What Q of an utterance learns towards: ``r + gamma (1 - done) V_target(next state)``.

    Reward 0, not done, next value .5: .45. The next value of a finished episode is not read.
    """
    return [r if d else r + gamma * v for r, d, v in zip(rewards, done, next_values, strict=True)]


def archer_advantages(q1: Sequence[float], q2: Sequence[float], v1: Sequence[float], v2: Sequence[float]) -> list[float]:
    """The more careful of two critics' Q minus the more careful of their V: ``min(Q1, Q2) - min(V1, V2)``.

    Q (.5, .7), V (.4, .3): .2. Biased low in Q and in V alike, so of unknown sign in their difference.
    """
    return [min(a, b) - min(c, d) for a, b, c, d in zip(q1, q2, v1, v2, strict=True)]
