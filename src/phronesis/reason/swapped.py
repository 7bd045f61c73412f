"""An intervention: the policy acts on somebody else's thoughts. If thought is load-bearing, it does worse."""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.agent import Session
from phronesis.records import Episode
from phronesis.rewards.env_reward import acted_turns


class SwappedThoughts:
    """ReAct whose every turn begins with the thought another episode had at that turn; only what follows is sampled.

    Source: intervention on the reasoning trace, as in arXiv 2307.13702 (Lanham et al.), with thoughts of sibling problems
    instead of corrupted ones, so that the forced text is as fluent as the policy's own.
    """

    def __init__(self, thoughts: Sequence[tuple[int, ...]]) -> None:
        """
        Args:
            thoughts: ids of the donor's think block by turn (see `thoughts_of`); its last one repeats when it runs out.
        """
        self.thoughts = tuple(thoughts)

    async def run(self, session: Session) -> None:
        """Plays one episode."""
        turn = 0
        while not session.done:
            forced = self.thoughts[min(turn, len(self.thoughts) - 1)] if self.thoughts else ()
            await session.act(await session.sample(forced=forced))
            turn += 1


def thoughts_of(episode: Episode) -> tuple[tuple[int, ...], ...]:
    """The ids of each turn's completion up to the end of its think block; () where it had none.

    Turns are those the agent acted on, in order, also over several roots (a rewritten history starts a new one); of an
    episode that forked, those of the last trajectory.
    """
    blocks: list[tuple[int, ...]] = []
    for i in acted_turns(episode):
        ends = [span.end for span in episode.turns[i].spans if span.kind == "think"]
        blocks.append(episode.turns[i].completion[: max(ends)] if ends else ())
    return tuple(blocks)
