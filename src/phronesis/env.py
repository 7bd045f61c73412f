"""The environment contract: messages in, messages out, one episode per instance.

An environment is three methods. Everything else is an optional capability, found by `isinstance`:
`Snapshots`, `Legal`, `Expert`. An `EnvSpec` names an environment, says where its tasks come from, who judges them and
what an oracle and a random agent should score, so that `phronesis env check` can hold it to its word.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from phronesis.errors import EnvFault
from phronesis.records import Conversation, EpisodeGroup, Message, Reply, Reward, Task, ToolSpec


@runtime_checkable
class Env(Protocol):
    """A world for one episode. May raise anything: the session turns it into `Stop.env_fault`."""

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begin. The reply's messages are the whole opening conversation, its tools are what can be called."""
        ...

    async def step(self, action: Message) -> Reply:
        """Answer one assistant message."""
        ...

    async def close(self) -> None:
        """Release everything; called exactly once, also after a fault."""
        ...


@runtime_checkable
class Snapshots(Protocol):
    """Capability: the whole state can be saved and put back, so that an episode can be run again from a prefix."""

    async def snapshot(self) -> bytes:
        """The state after the last step."""
        ...

    async def restore(self, state: bytes) -> None:
        """Continue from a state of `snapshot`, also in a fresh instance that was never reset."""
        ...


@runtime_checkable
class Legal(Protocol):
    """Capability: the environment can list actions that are legal now."""

    async def legal(self) -> Sequence[Message]:
        """Assistant messages the environment would accept now, in a fixed order."""
        ...


@runtime_checkable
class Expert(Protocol):
    """Capability: the environment knows a best action. Used by oracles, never shown to the policy."""

    async def expert(self) -> Message:
        """The assistant message an oracle would send now."""
        ...


@runtime_checkable
class Admits(Protocol):
    """Capability: the environment has to wait for a place before it begins, as long as others need theirs. That time counts
    neither as the environment's nor as the episode's."""

    @property
    def waits_for(self) -> str:
        """What is waited for, in words."""
        ...

    async def admit(self) -> None:
        """Waits, under a deadline of its own, until the episode can begin; called once, before anything else."""
        ...


Speaker = Callable[[Env, tuple[ToolSpec, ...]], Awaitable[Message]]
"""A scripted agent: chooses the next assistant message, given the environment and the tools that can be called."""


@runtime_checkable
class Rubric(Protocol):
    """Judges the episodes of a group together, so that a score may compare them."""

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode, in order. Episodes that ended in a fault must get an unscored reward."""
        ...


@runtime_checkable
class TaskSource(Protocol):
    """Where tasks come from: a data set, a generator, a curriculum, a proposer."""

    def draw(self, n: int) -> Sequence[Task]:
        """The next `n` tasks. Fewer only when a finite source is exhausted."""
        ...

    def report(self, task: Task, group: EpisodeGroup) -> None:
        """Tells the source how a task went; a curriculum uses it, a data set ignores it."""
        ...

    def state(self) -> dict[str, int | float | str]:
        """What a checkpoint must keep so that `restore` continues the same order."""
        ...

    def restore(self, state: dict[str, int | float | str]) -> None:
        """Continues from a `state`."""
        ...


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """An environment family: tasks, a fresh `Env` per episode, a rubric, and the scores it promises.

    This is what `my_package.my_env:make` returns.
    """

    name: str
    """Name used in configs and records."""
    make: Callable[[], Env]
    """Builds a fresh environment for one episode."""
    task: Callable[[str, int], Task]
    """`task(split, index)`: the same task for the same arguments, on every machine."""
    rubric: Rubric
    """Judges finished episodes."""
    sizes: dict[str, int | None] = field(default_factory=lambda: {"train": None, "heldout": None})
    """Number of tasks by split; None means unlimited."""
    description: str = ""
    """One sentence for `phronesis env list`."""
    success: float = 1.0
    """An episode whose reward is at least this counts as a success."""
    oracle_reward: float | None = 1.0
    """Mean reward of the oracle (environments with `Expert`); None when there is no oracle."""
    null_reward: float | None = 0.0
    """Mean reward of an agent that says nothing."""
    chance_reward: float | None = None
    """Highest mean reward a random agent may reach; None when unknown."""
    max_turns: int = 16
    """Turns an episode needs at most; an oracle finishes within it."""
    demonstrate: Callable[[int, int], Awaitable[Conversation]] | None = None
    """`demonstrate(index, seed)`: one conversation of imperfect behaviour on training task `index`, for supervised
    priming; None when the environment has no scripted behaviour."""
    hint: Callable[[Task], str] | None = None
    """`hint(task)`: the answer of a task, as a policy can be told it; None when the environment tells nothing. Only lessons
    that teach behind a hint ask (`phronesis.train.lessons`), never play or evaluation."""
    secrets: tuple[str, ...] = ()
    """Payload keys (``a.b`` for nested ones) that must not influence what the policy sees before it acts."""
    cheats: dict[str, Callable[[], Speaker]] = field(default_factory=dict[str, Callable[[], Speaker]])
    """Scripted agents that try to be paid without solving the task, by name. None may earn anything, unless the audit
    component ``flagged`` says that it was caught."""
    exploit: str = ""
    """What a planted weakness is, in one sentence; empty for a world that has none."""
    hack: Callable[[], Speaker] | None = None
    """An agent that uses the planted weakness: it is paid, while the audit component ``true`` says 0."""
    cheat_tasks: int = 4
    """Tasks that the checker plays with each cheat; fewer where an episode takes long."""
    oracle_tasks: int = 20
    """How many tasks the checker plays per agent."""
    playable: bool = True
    """False where only agents outside can play it, through the gateway."""
    parts: Mapping[str, EnvSpec] = field(default_factory=dict[str, "EnvSpec"])
    """The environments of a mixture, by the name their tasks carry (`phronesis.envs.mixture`); empty for all others."""

    def of(self, task: Task) -> EnvSpec:
        """The environment that plays a task: one of the parts of a mixture, itself otherwise.

        Raises:
            EnvFault: a mixture that has no part of that name.
        """
        if not self.parts:
            return self
        if task.env not in self.parts:
            raise EnvFault(f"task {task.id!r} is of environment {task.env!r}; this one plays {', '.join(self.parts)}")
        return self.parts[task.env]
