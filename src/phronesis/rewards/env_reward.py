"""The reward an environment gave while it was played, as components.

Episodes that ended in a fault stay unscored: a broken world says nothing about the policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from phronesis.records import Component, Episode, EpisodeGroup, Reward

Attribution = Literal["turn", "episode"]


class EnvReward:
    """Turns `Reply.reward` into a `Reward`.

    Example: replies with rewards (None, 0.25, 0.5) give ``by="turn"`` components 0.25 at turn 1 and 0.5 at turn 2, and
    ``by="episode"`` one component 0.75 of the whole episode. Both have the value 0.75.

    An episode that was played without fault and never rewarded has earned `unrewarded`, not nothing: leaving it unscored
    would hide exactly the attempts that failed. Which turns count: see `acted_turns`.
    """

    def __init__(
        self,
        *,
        by: Attribution = "turn",
        name: str = "env",
        weight: float = 1.0,
        unrewarded: float | None = 0.0,
        audit_metrics: Sequence[str] = (),
    ):
        """Choose how rewards are attributed.

        Args:
            by: ``turn`` keeps each reward at the turn that earned it; ``episode`` sums them into one component.
            name: name of the component(s).
            weight: factor in the total.
            unrewarded: score of a fault-free episode whose replies carried no reward; None leaves it unscored.
            audit_metrics: keys of `Reply.metrics`, summed over turns, kept as audit components.
        """
        self.by: Attribution = by
        self.name, self.weight, self.unrewarded = name, weight, unrewarded
        self.audit_metrics = tuple(audit_metrics)

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode, in order."""
        return [self.judge(episode) for episode in group.episodes]

    def judge(self, episode: Episode) -> Reward:
        """The reward of one episode; without components when it ended in a fault."""
        if episode.stop.is_fault:
            return Reward()
        turns = acted_turns(episode)
        earned = [(i, reply.reward) for i in turns if (reply := episode.turns[i].reply) and reply.reward is not None]
        if not earned or self.by == "episode":
            # Rounding undoes what telescoping differences lose: 0.1 + (0.8 - 0.1) is 0.7999….
            total = round(math.fsum(r for _, r in earned), 12) if earned else self.unrewarded
            components = [Component(name=self.name, score=total, weight=self.weight)]
        else:
            components = [Component(name=self.name, score=r, weight=self.weight, turn=i) for i, r in earned]
        for key in self.audit_metrics:
            found = [reply.metrics[key] for i in turns if (reply := episode.turns[i].reply) and key in reply.metrics]
            score = math.fsum(found) if found else None
            components.append(Component(name=key, score=score, audit=True))
        return Reward(components=tuple(components))


def acted_turns(episode: Episode) -> tuple[int, ...]:
    """Indices of the turns whose replies make up what the agent did, in order.

    An episode that never forked has one line of turns, possibly over several roots (a rewritten history starts a new one):
    every acted turn counts. After a fork only one line was the agent's choice: the one that ends in the last of `Episode.ends`.
    """
    chosen = episode.line(episode.ends[-1]) if episode.turns else ()
    return tuple(i for i in chosen if episode.turns[i].reply is not None)
