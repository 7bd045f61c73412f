"""STaR's rationalisation: a task no attempt solved is tried again with its answer as a hint, and learned without the hint.

Source: STaR, arXiv 2203.14465 section 3.2; formula [rft]. The policy is told the answer while it plays; what it said is then
learned behind the prompt without it, as if it had thought of it alone. So it can learn from tasks it never solves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from phronesis.credit.baselines.verified import check_cap, why_left_out
from phronesis.data.rejection import without_hint
from phronesis.data.traces import Trace, played
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup
from phronesis.rollout.hints import Hint, hinted_stage, plain_prompt
from phronesis.rollout.play import play_groups
from phronesis.train.batching import build_batch
from phronesis.train.lessons.hints import hint_of
from phronesis.train.lessons.lesson import Ground, Learned, counts
from phronesis.train.lessons.traces import joined, scored, traces_batch

KIND = "hinted"
"""What the attempts with a hint are stored as."""


class RationaliseLesson(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rationalise"):
    """Learn from verified attempts, and from attempts at failed tasks that knew the answer.

    For supervised objectives under credit ``verified``. A task has failed when none of its attempts is verified.
    """

    answer: str = ""
    """Key of the task's payload that holds the answer; empty asks the environment (`EnvSpec.hint`)."""
    hint: str = "Hint: the answer is {answer}."
    """What ends the opening, with ``{answer}``; ours."""
    attempts: int = 1
    """Attempts with a hint per failed task, at least 1."""
    success: float | None = None
    """The reward from which an attempt is verified; None takes that of credit ``verified``, so that a task counts as failed
    exactly where none of its attempts is learned from."""
    cap: int | None = 4
    """Most hinted attempts learned from per task, at least 1; None means all."""

    def __post_init__(self) -> None:
        check_cap(self.cap)
        if self.attempts < 1:
            raise ConfigError(f"rationalise attempts {self.attempts!r} must be at least 1")
        if "{answer}" not in self.hint:
            raise ConfigError(f"rationalise hint {self.hint!r} must hold {{answer}}")

    def check(self, spec: EnvSpec) -> None:
        """Raises ConfigError where the environment has no answer to show."""
        hint_of(spec, self.answer, self.hint, "rationalise")

    def begin(self, ground: Ground) -> Rationalising:
        """The lesson at work.

        Raises:
            ConfigError: the environment has no answer to show.
        """
        return Rationalising(self, ground, hint_of(ground.stage.spec, self.answer, self.hint, "rationalise"))


class Rationalising:
    """`RationaliseLesson` at work."""

    def __init__(self, config: RationaliseLesson, ground: Ground, hint: Hint):
        """Args: settings, what to work with, what tasks' openings end with."""
        self.config, self.ground, self.hint = config, ground, hint
        self.success = ground.success if config.success is None else config.success

    async def learn(self, step: int, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> Learned:
        """One update from what credit says of the groups, and from hinted attempts at those of them that failed."""
        ground, learner = self.ground, self.ground.learner
        failed = [g for g in groups if g.valid and not self._solved(g)]
        again = await play_hinted(ground, self.hint, failed, size=self.config.attempts, step=step)
        traces, left_out = self._traces(again)
        batch = build_batch(groups, credits, ground.batch)
        found = {
            "hinted/tasks": float(len(failed)),
            "hinted/episodes": float(sum(len(g.episodes) for g in again)),
            "hinted/learned": float(len(traces)),
        }
        if traces:
            own = traces_batch(traces, [f"{KIND}-{step}-{i}" for i in range(len(traces))])
            settings = learner.config
            batch = joined(batch, scored(own, learner.decoder, max_tokens=settings.max_tokens, precision=settings.precision))
        return Learned(learner.update(batch), found | counts("hinted", left_out))

    def _solved(self, group: EpisodeGroup) -> bool:
        rewards = [e.reward.value for e in group.valid if e.reward is not None]
        return any(r is not None and r >= self.success for r in rewards)

    def _traces(self, groups: Sequence[EpisodeGroup]) -> tuple[list[Trace], dict[str, int]]:
        """Verified hinted attempts without their hints, each once, and why the others are left out."""
        found: list[Trace] = []
        left_out: Counter[str] = Counter()
        for group in groups:
            left_out["fault"] += len(group.episodes) - len(group.valid)
            episodes = [e for e in group.valid if e.sampled_tokens]
            left_out["no_tokens"] += len(group.valid) - len(episodes)
            values = [e.reward.value or 0.0 for e in episodes if e.reward is not None]
            said = [tuple(t.completion for t in e.turns) for e in episodes]
            why = why_left_out(values, said, success=self.success, cap=self.config.cap)
            for episode, reason in zip(episodes, why, strict=True):
                if reason is not None:
                    left_out[reason] += 1
                    continue
                plain = plain_prompt(episode, self.hint(group.task), self.ground.stage.chat)
                if plain is None:
                    left_out["rewritten"] += 1
                    continue
                found += [without_hint(t, episode.turns[0].context, plain) for t in played(episode)]
        return found, {reason: n for reason, n in left_out.items() if n}


async def play_hinted(
    ground: Ground, hint: Hint, groups: Sequence[EpisodeGroup], *, size: int, step: int
) -> list[EpisodeGroup]:
    """Attempts with a hint at the groups' tasks, scored and stored as `KIND`."""
    return await play_groups(
        hinted_stage(ground.stage, hint),
        [g.task for g in groups],
        size=size,
        seed=ground.seed,
        name=KIND,
        step=step,
        concurrency=ground.concurrency,
        on_episode=lambda episode: ground.store(episode, KIND),
    )
