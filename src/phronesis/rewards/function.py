"""Rewards from the user's own functions, and rubrics made of rubrics."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import cast

from phronesis.env import Rubric
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Component, Episode, EpisodeGroup, Reward

Judgement = float | None | Mapping[str, float | None] | Reward
"""What a reward function may return; None means "cannot be scored"."""
RewardFunction = Callable[[Episode], Judgement | Awaitable[Judgement]]


class FunctionRubric:
    """Scores every fault-free episode with one function.

    >>> rubric = FunctionRubric(lambda episode: {"found": 1.0, "polite": 0.5}, weights={"polite": 0.1}, audit=())
    >>> rubric.reward({"found": 1.0, "polite": 0.5}).value
    1.05
    """

    def __init__(
        self,
        function: RewardFunction,
        *,
        name: str | None = None,
        weights: float | Mapping[str, float] = 1.0,
        audit: bool | Collection[str] = False,
    ):
        """Wrap a function.

        Args:
            function: episode -> number, None, names with numbers, or a whole `Reward`; sync or async.
            name: component name of a plain number; the function's own name by default.
            weights: factor of all components, or of components by name (1 for those not named).
            audit: True, or the names of components that are recorded and never reach credit.
        """
        self.function = function
        self.name = name or getattr(function, "__name__", "reward").strip("<>")
        self.weights, self.audit = weights, audit

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode; without components for those that ended in a fault.

        Raises:
            EnvFault: the function raised or returned something that is no judgement; names the episode.
        """
        rewards: list[Reward] = []
        for episode in group.episodes:
            if episode.stop.is_fault:
                rewards.append(Reward())
                continue
            try:
                judgement = self.function(episode)
                if inspect.isawaitable(judgement):
                    judgement = await judgement
                rewards.append(self.reward(cast("Judgement", judgement)))
            except Exception as error:  # the boundary to user code
                raise EnvFault(f"rubric {self.name!r} failed on {episode.id!r}: {type(error).__name__}: {error}") from error
        return rewards

    def reward(self, judgement: Judgement) -> Reward:
        """One function result as a `Reward`.

        Raises:
            TypeError: neither a number, None, a mapping of them, nor a Reward.
            ValueError: a number that is not finite.
        """
        if isinstance(judgement, Reward):
            return judgement
        scores = cast("Mapping[str, object]", judgement) if isinstance(judgement, Mapping) else {self.name: judgement}
        return Reward(components=tuple(self._component(name, score) for name, score in scores.items()))

    def _component(self, name: str, score: object) -> Component:
        if score is not None:
            if not isinstance(score, int | float):
                raise TypeError(f"score {name!r} is {score!r}, expected a number or None")
            if not math.isfinite(score):
                raise ValueError(f"score {name!r} is {score!r}, expected a finite number")
        weight = self.weights.get(name, 1.0) if isinstance(self.weights, Mapping) else self.weights
        audit = self.audit if isinstance(self.audit, bool) else name in self.audit
        return Component(name=name, score=None if score is None else float(score), weight=weight, audit=audit)


class AllOf:
    """Several rubrics at once: an episode gets the components of all of them, in order."""

    def __init__(self, *rubrics: Rubric):
        """Join rubrics.

        Raises:
            ConfigError: none given.
        """
        if not rubrics:
            raise ConfigError("AllOf needs at least one rubric")
        self.rubrics = rubrics

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode; unscored when any of the rubrics leaves a counted component unscored."""
        columns = [await rubric.score(group) for rubric in self.rubrics]
        rows = zip(*columns, strict=True)
        return [Reward(components=tuple(c for reward in row for c in reward.components)) for row in rows]
