"""EARL's way of playing a group: where every attempt failed, each is played again with a route forced that it did not take.

Source: Expanded Action Space / EARL, arXiv 2510.07581; formula [earl-adv].
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import fsum
from random import Random

from msgspec import Struct

from phronesis.credit.replays.earl import ToolGains, forced_routes, insertion_weights
from phronesis.credit.rule import members, value_of
from phronesis.errors import ConfigError, PolicyFault
from phronesis.policy import Scores
from phronesis.reason.players.account import Account
from phronesis.reason.players.routes import Route, place, routes
from phronesis.records import Episode, EpisodeGroup
from phronesis.rollout.deadlines import within
from phronesis.rollout.forks import own_turns
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import GroupPlayer, Stage, Ticket, judge, play_again
from phronesis.rollout.prefix import Cut, PlayOn, check_replay
from phronesis.seeding import rng, stream

INITIAL = 0.001
"""Gain of a route that was never forced."""


class EARLPlayer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="earl"):
    """Attempts one by one; in a group without success each is played again from inside with a forced route.

    The route is drawn by the running gains of all routes (`phronesis.credit.replays.earl.ToolGains`), the place among the
    attempt's turns that did not take it by the policy's own probability of going there (`insertion_weights`): behind the turn's
    thought, else at its start. The forced attempt stands in the group as an episode of its own, beside the one it departs
    from; what lies before the route's end in that turn is forced and never trained.

    Published: temperature 10, top-k 10, top-p .9, decay .9, gains from .001, 4 attempts. Ours: places are one per turn, not one
    per token; one forced attempt for each failed one; routes of worlds without tools are their legal actions at the start,
    which a later state may refuse.
    """

    failed: float = 0.0
    """A group whose rewards are all at most this has failed."""
    temperature: float = 10.0
    """Divides the log-probabilities of the places, above 0."""
    top_k: int = 10
    """Places kept at most, at least 1."""
    top_p: float = 0.9
    """The likeliest places are kept until they hold this much, in (0, 1]."""
    decay: float = 0.9
    """How much of a route's gain is kept when another one is seen, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.top_k < 1 or not 0 < self.top_p <= 1 or not 0 <= self.decay < 1:
            raise ConfigError(
                "player earl needs temperature > 0, top_k >= 1, top_p in (0, 1] and decay in [0, 1), got "
                f"{self.temperature!r}, {self.top_k!r}, {self.top_p!r} and {self.decay!r}"
            )

    def check(self, size: int) -> None:
        """A group of any size will do."""

    def begin(self) -> GroupPlayer:
        """One that plays, and remembers what forcing each route has brought."""
        return EARL(self)


class EARL:
    """An `EARLPlayer` in a run; implements `phronesis.rollout.play.GroupPlayer` and `phronesis.credit.Remembers`."""

    def __init__(self, config: EARLPlayer) -> None:
        self.config, self.account = config, Account()
        self.gains = ToolGains.start(())
        """What forcing each route has brought lately; the same for all groups that are played at once."""
        self._names: dict[str, str] = {}

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        """One group; see `GroupPlayer.play`."""
        played = await asyncio.gather(*(play_again(stage, t, gate) for t in tickets))
        group = await judge(stage, EpisodeGroup(id=name, task=tickets[0].task, episodes=tuple(played)))
        bases = [e for e in group.valid if e.turns]
        if not bases or any(value_of(e) > self.config.failed for e in bases):
            return group
        if not isinstance(stage.policy, Scores):
            raise ConfigError(
                f"player earl asks how likely each place of a route is, and {type(stage.policy).__name__} cannot score ids"
            )
        offered = await routes(stage, bases[0], gate)
        on = PlayOn(stage, gate)
        found = await asyncio.gather(*(self._force(stage, on, e, offered) for e in bases))
        again = EpisodeGroup(id=f"{name}/forced", task=group.task, episodes=tuple(e for e in found if e is not None))
        self.account.add("replayed", on.replayed)
        if not again.episodes:
            return group
        again = await judge(stage, again)
        return EpisodeGroup(id=name, task=group.task, episodes=(*group.episodes, *again.episodes))

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Notes what forced routes brought, in the order of groups and attempts."""
        for group in groups:
            sound = {e: group.episodes[e] for e in members(group, compared=False).kept}
            for e, forced in forced_routes(sound).items():
                name = self._names.get(group.episodes[e].id)
                if name is None:
                    continue
                gain = value_of(group.episodes[e]) - value_of(group.episodes[forced.factual])
                self.account.add("gain", gain)
                self._know([name])
                self.gains = self.gains.observe(name, gain, self.config.decay)
        self._names.clear()

    def metrics(self) -> dict[str, float]:
        """What was done since this was last asked."""
        return self.account.take()

    def state(self) -> Mapping[str, float]:
        """The gains."""
        return dict(self.gains.gains)

    def restore(self, state: Mapping[str, float]) -> None:
        """Goes on with these gains."""
        self.gains = ToolGains(gains=dict(state))

    def _know(self, names: Sequence[str]) -> None:
        new = {name: INITIAL for name in names if name not in self.gains.gains}
        if new:
            self.gains = ToolGains(gains={**self.gains.gains, **new})

    async def _force(self, stage: Stage, on: PlayOn, episode: Episode, offered: Sequence[Route]) -> Episode | None:
        """The attempt again with a forced route; None where it left none to force, or was over before the route was."""
        draw = rng(episode.seed, "route")
        cut, route = await self._cut(stage, episode, offered, draw)
        if cut is None or route is None:
            self.account.add("no_route")
            return None
        ticket = Ticket(
            id=f"{episode.id}/forced", task=episode.task, seed=episode.seed, group=episode.group, step=episode.step
        )  # fmt: skip
        played = await on.play(cut, ticket, stream(episode.seed, "forced"))
        check_replay(cut, played.failure)
        own = own_turns(played, episode)
        if not own and not played.stop.is_fault:
            self.account.add("cut_off")
            return None
        self._names[played.id] = route.name
        self.account.add("routes")
        self.account.add("faulted", played.stop.is_fault)
        self.account.add("env_steps", sum(t.reply is not None for t in played.turns[len(played.turns) - own :]))
        return played

    async def _cut(
        self, stage: Stage, episode: Episode, offered: Sequence[Route], draw: Random
    ) -> tuple[Cut | None, Route | None]:
        """A route by the gains, and a place by the policy's own probability of it."""
        places: dict[str, list[int]] = {}
        for route in offered:
            free = [k for k, t in enumerate(episode.turns) if place(t) is not None and not route.taken(t)]
            if free:
                places[route.name] = free
        if not places:
            return None, None
        known = {name: self.gains.gains.get(name, INITIAL) for name in places}
        weights = ToolGains(gains=known).weights()
        chosen = draw.choices(list(weights), list(weights.values()))[0]
        route = next(r for r in offered if r.name == chosen)
        turns = places[route.name]
        nats = [await self._nats(stage, episode, k, route) for k in turns]
        config = self.config
        chances = insertion_weights(nats, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
        k = draw.choices(turns, chances)[0]
        at = place(episode.turns[k]) or 0
        return Cut(episode, k, at, route.ids(stage.chat, thought=at > 0)), route

    async def _nats(self, stage: Stage, episode: Episode, k: int, route: Route) -> float:
        """Log-probability of a route at its place in turn `k`."""
        at = place(episode.turns[k]) or 0
        ids = route.ids(stage.chat, thought=at > 0)
        before = (*episode.prompt(k), *episode.turns[k].completion[:at])
        assert isinstance(stage.policy, Scores)
        if not ids:
            return 0.0
        scoring = stage.policy.score((*before, *ids))
        found = await within(
            stage.limits_of(episode.task).policy_seconds, scoring, PolicyFault, "the policy's score (limits.policy_seconds)"
        )
        return fsum(found[-len(ids) :])
