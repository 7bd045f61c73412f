"""SPEED-RL's way of playing a group: a few attempts screen the task, and only a task they disagree on gets the others.

Source: SPEED-RL, arXiv 2506.09016; formula [speed-keep].
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from phronesis.credit.rule import value_of
from phronesis.errors import ConfigError
from phronesis.records import EpisodeGroup
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import GroupPlayer, Stage, Ticket, judge, play_again
from phronesis.rollout.screening import screened


class SpeedPlayer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="speed"):
    """Some attempts first; the rest of the group only where these were neither all successes nor all failures.

    Tasks that do not pass the screening are left out: counted, reported to the order of tasks, not learned from. The group is
    learned from whole, its screening attempts included. With `dynamic` other tasks take the places of those left out.

    Published: 4 screening attempts, 20 more. Ours: an attempt that faulted counts for nothing, and a task that fewer than two
    sound ones screened is left out; the rubric judges the screening attempts again together with the others.

    Biased towards tasks of middling success, as it is meant to be. Conditioning on the screening biases its own attempts, too:
    the first four of a kept group of 24 always hold a success and a failure.
    """

    n_screen: int = 4
    """Screening attempts, at least 2 and below `group_size`."""

    def __post_init__(self) -> None:
        if self.n_screen < 2:
            raise ConfigError(f"player speed n_screen {self.n_screen!r} must be at least 2: one attempt always agrees")

    def check(self, size: int) -> None:
        """Refuses a group that the screening fills.

        Raises:
            ConfigError: `size` is not above `n_screen`.
        """
        if size <= self.n_screen:
            raise ConfigError(
                f"player speed screens with {self.n_screen} attempts, and group_size is {size}; raise group_size (published: "
                "24) or lower player.n_screen"
            )

    def begin(self) -> GroupPlayer:
        """One that plays."""
        return Speed(self)


class Speed:
    """A `SpeedPlayer` in a run; implements `phronesis.rollout.play.GroupPlayer` and `phronesis.rollout.play.LeavesOut`."""

    def __init__(self, config: SpeedPlayer) -> None:
        self.config = config
        self._counts: Counter[str] = Counter()
        self._left_out: set[str] = set()

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        """One group; see `GroupPlayer.play`."""
        n = self.config.n_screen
        first = tuple(await asyncio.gather(*(play_again(stage, t, gate) for t in tickets[:n])))
        group = EpisodeGroup(id=name, task=tickets[0].task, episodes=first)
        judged = await judge(stage, group)
        passed, sound = sum(value_of(e) >= stage.spec.of(group.task).success for e in judged.valid), len(judged.valid)
        self._counts["screened"] += 1
        if not screened(passed, sound):
            why = "dropped_faulted" if sound < 2 else "dropped_solved" if passed else "dropped_failed"
            self._counts[why] += 1
            self._left_out.add(name)
            return judged
        self._counts["continued"] += 1
        rest = tuple(await asyncio.gather(*(play_again(stage, t, gate) for t in tickets[n:])))
        return await judge(stage, replace(group, episodes=(*first, *rest)))

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Nothing is remembered."""

    def leaves_out(self, group: EpisodeGroup) -> bool:
        """Whether the screening left it out."""
        return group.id in self._left_out

    def metrics(self) -> dict[str, float]:
        """What was done since this was last asked."""
        found = {f"player/{what}": float(n) for what, n in self._counts.items()}
        self._left_out.clear()
        self._counts.clear()
        return found
