"""Worlds and a credit rule as a user would write them, for the loop's tests; found by import path."""

from __future__ import annotations

from dataclasses import replace

from lessons import bandit, copy

from phronesis.credit import GroupMean, TrajectoryCredit
from phronesis.env import EnvSpec
from phronesis.records import Component, Reward


class Same:
    """Rewards every episode alike."""

    async def score(self, group):
        half = Reward(components=(Component(name="same", score=0.5),))
        return [Reward() if e.stop.is_fault else half for e in group.episodes]


def flat() -> EnvSpec:
    """Nothing makes a difference."""
    return replace(copy(), rubric=Same())


def broken(method: str = "step", every: int = 1) -> EnvSpec:
    """A bandit of which every so many episodes break; which ones depends on their seed alone."""
    spec = bandit()

    def make():
        env = spec.make()
        reset, method_of = env.reset, getattr(env, method)

        async def begin(task, seed):
            env.cursed = seed % every == 0
            if method == "reset" and env.cursed:
                raise ConnectionError("the world is gone")
            return await reset(task, seed)

        async def fail(*arguments):
            if env.cursed:
                raise ConnectionError("the world is gone")
            return await method_of(*arguments)

        env.reset = begin
        if method != "reset":
            setattr(env, method, fail)
        return env

    return replace(spec, make=make)


def unsplit() -> EnvSpec:
    """No tasks are held out."""
    return replace(copy(), sizes={"train": None})


class Reversed:
    """Makes what went well less likely: trajectory credit with its sign turned."""

    calls = 0

    async def assign(self, group, rerun=None):
        Reversed.calls += 1
        credit = await TrajectoryCredit(baseline=GroupMean()).assign(group)
        turned = tuple(v and tuple(tuple(-a for a in row) for row in v) for v in credit.values)
        return type(credit)(group=credit.group, values=turned, reasons=credit.reasons, zero_variance=credit.zero_variance)


class Sometimes:
    """Rewards by the group's number: in every third one members differ, the others pay the same to everybody."""

    async def score(self, group):
        number = int(group.id.rpartition("-")[2])
        found = []
        for m, episode in enumerate(group.episodes):
            score = float(m % 2) if number % 3 == 0 else 0.5
            found.append(Reward() if episode.stop.is_fault else Reward(components=(Component(name="some", score=score),)))
        return found


def sometimes() -> EnvSpec:
    """A world of which every third group teaches something."""
    return replace(copy(), rubric=Sometimes())
