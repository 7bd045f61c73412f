"""An episode: a task, played once. It is a tree of turns; a root-to-leaf path is a trajectory."""

from __future__ import annotations

from msgspec import Struct

from phronesis.records.message import Message, ToolSpec
from phronesis.records.reward import Reward
from phronesis.records.task import Task
from phronesis.records.turn import Stop, Turn


class Failure(Struct, frozen=True, kw_only=True):
    """Why an episode says nothing about the policy."""

    where: str
    """The boundary that caught it, e.g. ``env.step``."""
    kind: str
    """Name of the exception's type."""
    message: str
    """Its text, shortened."""
    traceback: str | None = None
    """Last frames, for people; None when it was not an exception."""


class Episode(Struct, frozen=True, kw_only=True):
    """Everything that happened in one attempt at one task.

    Concatenating context and completion ids along a path gives exactly what the model saw.
    """

    id: str
    """Unique within the run, e.g. ``train-12-3-0`` (step 12, group 3, member 0)."""
    task: Task
    """What was attempted."""
    seed: int
    """Stream that seeded the environment and, by turn, the policy."""
    opening: tuple[Message, ...] = ()
    """Messages of the first prompt, as the environment's reset completed them."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools offered at reset."""
    turns: tuple[Turn, ...] = ()
    """All policy calls, parents before children."""
    stop: Stop
    """Why it ended."""
    reward: Reward | None = None
    """The rubric's judgement; None when never scored (a fault, or no rubric yet)."""
    failure: Failure | None = None
    """Set exactly when `stop.is_fault`."""
    group: str | None = None
    """Id of the group it is compared within; None when alone."""
    step: int | None = None
    """Training step that played it; None outside training."""
    seconds: float = 0.0
    """Wall-clock duration."""

    @property
    def leaves(self) -> tuple[int, ...]:
        """Indices of turns no other turn extends, in order."""
        parents = {t.parent for t in self.turns}
        return tuple(i for i in range(len(self.turns)) if i not in parents)

    def path(self, leaf: int) -> tuple[int, ...]:
        """Turn indices from a root to `leaf`."""
        chain: list[int] = []
        at: int | None = leaf
        while at is not None:
            chain.append(at)
            at = self.turns[at].parent
        return tuple(reversed(chain))

    def prompt(self, turn: int) -> tuple[int, ...]:
        """The ids the engine consumed before producing turn `turn`."""
        ids: list[int] = []
        for i in self.path(turn)[:-1]:
            ids += self.turns[i].context
            ids += self.turns[i].completion
        ids += self.turns[turn].context
        return tuple(ids)

    @property
    def sampled_tokens(self) -> int:
        """Tokens produced by the policy (forced ones not counted)."""
        return sum(sum(t.sampled) for t in self.turns)

    @property
    def context_tokens(self) -> int:
        """Tokens that were given, not sampled (prompts, replies, forced text)."""
        return sum(len(t.context) + len(t.completion) for t in self.turns) - self.sampled_tokens

    @property
    def errors(self) -> tuple[str, ...]:
        """Kinds of mistakes the policy made, over all turns in order."""
        return tuple(e for t in self.turns if t.reply is not None for e in t.reply.errors)


class EpisodeGroup(Struct, frozen=True, kw_only=True):
    """Episodes that are compared with one another, usually attempts at one task."""

    id: str
    """Unique within the run."""
    task: Task
    """The task they share."""
    episodes: tuple[Episode, ...]
    """The attempts, in the order they were started."""

    @property
    def valid(self) -> tuple[Episode, ...]:
        """Episodes that say something about the policy: no fault, and scored."""
        return tuple(e for e in self.episodes if not e.stop.is_fault and e.reward is not None and e.reward.value is not None)
