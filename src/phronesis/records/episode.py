"""An episode: a task, played once. It is a tree of turns; a root-to-leaf path is a trajectory."""

from __future__ import annotations

from msgspec import Struct

from phronesis.records.message import Message, ToolSpec
from phronesis.records.reward import Reward
from phronesis.records.task import Task
from phronesis.records.turn import Stop, Turn, Usage, total


class Failure(Struct, frozen=True, kw_only=True, gc=False):
    """Why an episode says nothing about the policy."""

    where: str
    """The boundary that caught it, e.g. ``env.step``."""
    kind: str
    """Name of the exception's type."""
    message: str
    """Its text, shortened."""
    traceback: str | None = None
    """Last frames, for people; None when it was not an exception."""


class Episode(Struct, frozen=True, kw_only=True, gc=False):
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
    stops: tuple[Stop, ...] = ()
    """Why each branch ended, in the order of `ends`, where they were played as attempts of their own; () where `stop` says it
    of all. `stop` is then that of a completed branch if there is one."""
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

    @property
    def before(self) -> tuple[int | None, ...]:
        """Per turn, the turn whose reply it answers; None where it answers the reset. In order of time, so that a rewritten
        history goes on where `Turn.parent` begins anew.

        Where no turn notes it (`Turn.follows`), a turn follows its parent, and a root after the first turn the turn before it,
        unless it repeats an earlier root's prompt: then it is taken for a fork and shares that root's predecessor.
        """
        found: list[int | None] = []
        roots: dict[tuple[int, ...], int] = {}
        for k, turn in enumerate(self.turns):
            if turn.follows is not None:
                found.append(turn.follows if turn.follows >= 0 else None)
            elif turn.parent is not None:
                found.append(turn.parent)
            else:
                twin = roots.setdefault(turn.context, k) if turn.context else k
                found.append(found[twin] if twin != k else (k - 1 if k else None))
        return tuple(found)

    @property
    def ends(self) -> tuple[int, ...]:
        """Turns that nothing follows, in order: one per trajectory in time, where `leaves` has one per prompt that ends."""
        followed = set(self.before)
        return tuple(k for k in range(len(self.turns)) if k not in followed)

    def line(self, turn: int) -> tuple[int, ...]:
        """The turns that led to `turn`, itself included, in order of time, across rewrites of history."""
        before, found = self.before, [turn]
        while (at := before[found[-1]]) is not None:
            found.append(at)
        return tuple(reversed(found))

    @property
    def earned(self) -> tuple[float, ...]:
        """Reward earned at each turn `[turns]`; zeros when never scored. What belongs to no turn counts at every one of `ends`,
        so that each trajectory's return holds it once."""
        n = len(self.turns)
        return (0.0,) * n if self.reward is None else self.reward.by_turn(n, self.ends)

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
        return sum(t.produced for t in self.turns)

    @property
    def context_tokens(self) -> int:
        """Tokens that were given, not sampled (prompts, replies, forced text); of turns of messages, their whole prompts."""
        return sum(t.given for t in self.turns)

    @property
    def usage(self) -> Usage | None:
        """What the endpoint says all turns took; None for a policy of ids. The cost is None when a turn has none."""
        return total(t.usage for t in self.turns if t.usage is not None)

    @property
    def errors(self) -> tuple[str, ...]:
        """Kinds of mistakes the policy made, over all turns in order."""
        return tuple(e for t in self.turns if t.reply is not None for e in t.reply.errors)


class EpisodeGroup(Struct, frozen=True, kw_only=True, gc=False):
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
