"""State-graph values: the episodes of a group are one graph of states, and worth flows back along it.

Source: RewardFlow, arXiv 2603.18859; formula [rewardflow].
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import isfinite

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean
from phronesis.credit.baselines.trajectory import episode_advantages, given_up
from phronesis.credit.rule import Rerun
from phronesis.credit.side import turn_credit
from phronesis.credit.turnwise.turns import check_gamma, following, need_states, states
from phronesis.errors import ConfigError, TrainingError
from phronesis.records import Credit, Episode, EpisodeGroup

Edges = Mapping[Hashable, Sequence[Hashable]]
"""Per state, the states that followed it."""


def graph_values(edges: Edges, rewards: Mapping[Hashable, float], gamma: float = 0.95) -> dict[Hashable, float]:
    """``V(s) = max(r(s), gamma * max of V over successors)`` at its fixed point; no successor: ``V = r``.

    A state is worth the best reward seen from it, discounted by the fewest steps seen. Chain a -> b -> c, c rewarded 1, gamma
    .9: (.81, .9, 1). Optimistic: one lucky path counts as if it could be taken at will.   Formula [rewardflow].

    Args:
        edges: who follows whom; cycles are welcome.
        rewards: what each state earned, at least 0; 0 where missing.
        gamma: discount per step, in [0, 1].

    Raises:
        TrainingError: a negative reward, under which the fixed point of a cycle is no reward anyone earned.
    """
    names = dict.fromkeys([*edges, *(t for row in edges.values() for t in row), *rewards])
    values = {s: float(rewards.get(s, 0.0)) for s in names}
    wrong = [v for v in values.values() if not (isfinite(v) and v >= 0)]
    if wrong:
        raise TrainingError(f"state-graph values need finite rewards of at least 0, got {wrong[0]!r}; shift the rewards")
    before: dict[Hashable, list[Hashable]] = {s: [] for s in names}
    for s, row in edges.items():
        for t in row:
            before[t].append(s)
    # Largest value first: what is taken from the heap can no longer rise, since a discount never raises a value.
    waiting = [(-v, i, s) for i, (s, v) in enumerate(values.items())]
    heapify(waiting)
    numbers = {s: i for i, s in enumerate(names)}
    while waiting:
        negative, _, t = heappop(waiting)
        if -negative < values[t]:
            continue
        for s in before[t]:
            if gamma * values[t] > values[s]:
                values[s] = gamma * values[t]
                heappush(waiting, (-values[s], numbers[s], s))
    return values


def step_rewards(edges: Edges, values: Mapping[Hashable, float]) -> dict[tuple[Hashable, Hashable], float]:
    """``V(s') - V(s)`` of every step."""
    return {(s, t): values[t] - values[s] for s, row in edges.items() for t in row}


class RewardFlowCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rewardflow"):
    """The episode's advantage plus how much nearer each turn came to a reward, on the graph of the group's states.

    A state's reward is the largest that a turn into it earned; the last turn of an episode leads into a state of its own when
    none is reported. The sum of both parts and the weight are ours. Rewards must not be negative.
    """

    weight: float = 1.0
    """Weight of the step rewards, at least 0; ours."""
    gamma: float = 0.95
    """Discount per step of the graph, in [0, 1]."""
    baseline: AnyBaseline = GroupMean()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"rewardflow weight {self.weight!r} must be a number of at least 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: the environment reports no state keys.
            TrainingError: a turn earned less than 0.
        """
        advantages = episode_advantages(group, self.baseline)
        need_states(group, tuple(advantages))
        edges: dict[Hashable, list[Hashable]] = {}
        rewards: dict[Hashable, float] = {}
        walked = {e: _steps(group.episodes[e]) for e in advantages}
        for e, steps in walked.items():
            for (s, t), r in zip(steps, group.episodes[e].earned, strict=True):
                edges.setdefault(s, []).append(t)
                rewards[t] = max(r, rewards.get(t, r))
        gained = step_rewards(edges, graph_values(edges, rewards, self.gamma))
        by_turn = {e: [advantages[e] + self.weight * gained[step] for step in steps] for e, steps in walked.items()}
        return turn_credit(group, by_turn, given_up(group, self.baseline))


def _steps(episode: Episode) -> list[tuple[Hashable, Hashable]]:
    """Per turn, the state it acted in and the one it led to; unknown ones are states of their own."""
    acted: list[Hashable] = [s if s is not None else (episode.id, k) for k, s in enumerate(states(episode))]
    found: list[tuple[Hashable, Hashable]] = []
    for k, after in enumerate(following(episode)):
        reply = episode.turns[k].reply
        key = None if reply is None else reply.state_key
        led = key if key is not None else (episode.id, "end", k) if after is None else acted[after]
        found.append((acted[k], led))
    return found
