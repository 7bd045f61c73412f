"""Returns of tokens: the reward still to come after each sampled token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from phronesis.records import Episode


def reward_to_go(rewards: Sequence[float], gamma: float = 1.0, mask: Sequence[bool] | None = None) -> tuple[float, ...]:
    """Per token, its reward plus `gamma` times what follows: ``G_t = r_t + gamma * G_next``.

    "Next" is the next token of the mask, so a discount is not applied across observations, whose rewards are never read
    and whose return is 0.   Source: REINFORCE with returns to go; formula [reinforce-rtg].

    >>> reward_to_go([0.0, 9.0, 1.0], 0.5, [True, False, True])
    (0.5, 0.0, 1.0)

    Args:
        rewards: one per token.
        gamma: discount per sampled token, in [0, 1].
        mask: which tokens were sampled; None means all.
    """
    found = [0.0] * len(rewards)
    after = 0.0
    for t in reversed(range(len(rewards))):
        if mask is None or mask[t]:
            found[t] = after = rewards[t] + gamma * after
    return tuple(found)


def token_returns(episode: Episode, gamma: float = 1.0) -> list[float]:
    """Returns of an episode's sampled tokens, over its turns in order: a turn's reward falls on its last sampled token.

    Where the episode forks, the mean of the branches follows. A turn without sampled tokens hands its reward to the turn
    before it, undiscounted. Turn rewards (0, 1), two sampled tokens each and gamma .5: (.125, .25, .5, 1).

    Args:
        episode: scored; without a reward all returns are 0.
        gamma: discount per sampled token, in [0, 1].
    """
    turns = episode.turns
    earned = episode.earned
    after: dict[int, list[float]] = defaultdict(list)
    before = episode.before
    rows: list[tuple[float, ...]] = [()] * len(turns)
    for k in reversed(range(len(turns))):
        follows = sum(after[k]) / len(after[k]) if after[k] else 0.0
        n = sum(turns[k].sampled)
        first = earned[k] + follows
        if n:
            rows[k] = reward_to_go([0.0] * (n - 1) + [earned[k] + gamma * follows], gamma)
            first = rows[k][0]
        at = before[k]
        if at is not None:
            after[at].append(first)
    return [value for row in rows for value in row]
