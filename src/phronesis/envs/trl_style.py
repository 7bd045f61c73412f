"""Second way in: a plain class as TRL's `environment_factory` takes it, unchanged.

`reset(**row)` prepares an episode and may return text for the last user message; every other public method, typed and
documented, is a tool; `get_reward()` says what has been earned so far.

Differences from TRL, on purpose: a method that raises `ValueError` (or `ToolError`) tells the policy, any other exception is
an environment fault and not a lesson; `close()` is called at the end and is no tool; and, if asked for, reward is credited
to the turn that earned it.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MethodType
from typing import Generic, TypeVar, cast

import msgspec

from phronesis.env import EnvSpec, Rubric
from phronesis.envs.blocking import Worker
from phronesis.envs.tasks import Tasks, TaskTable, messages_of, task_table
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Message, Reply, Task, TextPart, ToolCall, say
from phronesis.rewards import EnvReward
from phronesis.seeding import stream
from phronesis.tool import Tool, as_tool

T = TypeVar("T")
R = TypeVar("R")
Call = tuple[str, dict[str, object]]
"""A tool's name and its arguments."""
LIFECYCLE = frozenset({"reset", "get_reward", "close"})
"""Public methods that are not tools."""


@dataclass(frozen=True, kw_only=True)
class Hooks(Generic[T]):
    """What Phronesis can do beyond TRL when told how to look into an instance. All optional."""

    done: Callable[[T], bool] | None = None
    """True when the episode is over; without it only a message without calls ends it."""
    state_key: Callable[[T], str] | None = None
    """Names the full state, for step-level credit."""
    legal: Callable[[T], Sequence[Call]] | None = None
    """Calls that make sense now."""
    expert: Callable[[T], Call | str] | None = None
    """A best call, or the text of a best final answer."""
    snapshots: bool = False
    """The instance can be pickled, so an episode can be run again from any point."""


@dataclass(frozen=True, kw_only=True)
class Blueprint(Generic[T]):
    """What all episodes of one class share."""

    make: Callable[[], T]
    """Builds an instance."""
    tools: tuple[Tool, ...]
    """Unbound tools, in order of name."""
    hooks: Hooks[T] = field(default_factory=Hooks[T])
    """See `Hooks`."""
    max_turns: int = 16
    """Turn on which the reward is read at the latest."""
    read_once: bool = False
    """Read `get_reward` only at the end."""
    thread: bool = True
    """Run sync methods and hooks in a thread of their own."""


class ClassEnv(ToolEnv, Generic[T]):
    """Plays one episode with one instance of a plain class."""

    def __init__(self, blueprint: Blueprint[T]):
        super().__init__()
        self.blueprint = blueprint
        self.instance: T | None = None
        self._turns = 0
        self._reward = 0.0
        self._worker = Worker() if blueprint.thread else None
        hooks = blueprint.hooks
        if hooks.legal is not None:
            self.legal = partial(self._legal, hooks.legal)
        if hooks.expert is not None:
            self.expert = partial(self._expert, hooks.expert)
        if hooks.snapshots:
            self.snapshot, self.restore = self._snapshot, self._restore

    async def begin(self, task: Task, seed: int) -> Opening:
        """Hands the row to `reset` and appends what it returns to the last user message.

        Raises:
            EnvFault: `reset` returned something else than text or None, or there is nothing to begin with.
        """
        if self.instance is None:
            self.instance = cast("T", await self._run(self.blueprint.make))
            self._bind()
        reset = cast("Callable[..., object]", getattr(self.instance, "reset", None))
        row = dict(task.payload)
        if _accepts(reset, "prompt"):
            row["prompt"] = [{"role": m.role, "content": m.text} for m in task.messages]
        text = await self._run(reset, **row)
        if text is not None and not isinstance(text, str):
            raise EnvFault(f"reset returned {type(text).__name__!r}, expected text or None")
        messages = _append(task.messages, text or "")
        if not messages:
            raise EnvFault("the episode has no opening: give the rows a prompt, or let reset return text")
        return Opening(messages, tuple(self.tools.values()), await self._state_key())

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """Ends on a message without calls or when the hook says so; the reward is the change of `get_reward()`."""
        self._turns += 1
        hooks = self.blueprint.hooks
        done = outcome is None or (hooks.done is not None and bool(await self._ask(hooks.done)))
        last = done or self._turns >= self.blueprint.max_turns
        earned = await self._earned() if last or not self.blueprint.read_once else None
        return Reply(reward=earned, done=done, state_key=await self._state_key())

    async def close(self) -> None:
        """Calls the instance's own `close`, if it has one."""
        await super().close()
        own = cast("Callable[[], object] | None", getattr(self.instance, "close", None))
        if self._worker is not None:
            await self._worker.release(own)
        elif own is not None:
            await self._run(own)

    def _bind(self) -> None:
        self.tools = {tool.spec.name: replace(tool, function=self._bound(tool.function)) for tool in self.blueprint.tools}

    def _bound(self, function: Callable[..., object]) -> Callable[..., object]:
        method = cast("Callable[..., object]", getattr(self.instance, function.__name__))
        return method if self._worker is None else partial(self._run, method)

    async def _run(self, method: Callable[..., object], /, **arguments: object) -> object:
        if self._worker is not None:
            return await self._worker.run(method, **arguments)
        result = method(**arguments)
        return await cast("Awaitable[object]", result) if inspect.isawaitable(result) else result

    async def _earned(self) -> float | None:
        get_reward = cast("Callable[[], object] | None", getattr(self.instance, "get_reward", None))
        if get_reward is None:
            return None
        total = await self._run(get_reward)
        if total is None:
            return None
        if not isinstance(total, int | float):
            raise EnvFault(f"get_reward returned {total!r}, expected a number or None")
        earned, self._reward = total - self._reward, float(total)
        return earned

    async def _ask(self, hook: Callable[[T], R]) -> R:
        return cast("R", await self._run(partial(hook, cast("T", self.instance))))

    async def _state_key(self) -> str | None:
        hook = self.blueprint.hooks.state_key
        return None if hook is None else await self._ask(hook)

    async def _legal(self, hook: Callable[[T], Sequence[Call]]) -> Sequence[Message]:
        return [calling(name, arguments) for name, arguments in await self._ask(hook)]

    async def _expert(self, hook: Callable[[T], Call | str]) -> Message:
        best = await self._ask(hook)
        return say("assistant", best) if isinstance(best, str) else calling(*best)

    async def _snapshot(self) -> bytes:
        return cast("bytes", await self._run(partial(pickle.dumps, (self.instance, self._turns, self._reward))))

    async def _restore(self, state: bytes) -> None:
        self.instance, self._turns, self._reward = cast("tuple[T, int, float]", await self._run(partial(pickle.loads, state)))
        self._bind()


def from_class(
    cls: Callable[[], T],
    *,
    rows: Tasks | None = None,
    prompt: str | Sequence[Mapping[str, str]] | None = None,
    system: str | None = None,
    name: str | None = None,
    turn_rewards: bool = False,
    rubric: Rubric | None = None,
    hooks: Hooks[T] | None = None,
    max_turns: int = 16,
    read_once: bool = False,
    thread: bool = True,
    tell: tuple[type[Exception], ...] = (ValueError,),
    secrets: tuple[str, ...] = (),
    description: str = "",
) -> EnvSpec:
    """An environment from a TRL-style class. For promised scores use `dataclasses.replace` on the result.

    Args:
        cls: the class, or a function that builds an instance.
        rows: the data set; see `phronesis.envs.tasks.task_table`. None when the class owns its problems: if its `reset`
            takes a ``seed``, every task passes its own, else every episode is whatever the class makes of it.
        prompt: opening of rows that have no ``prompt`` column.
        system: system message put before every prompt.
        name: the class's name by default.
        turn_rewards: False credits `get_reward()` to the episode, as TRL does. True credits each turn with the change it
            made, which is honest only when the class counts what was earned *so far*; both sum to the same total.
        rubric: another judge than `get_reward()`.
        hooks: see `Hooks`.
        max_turns: turns an episode needs at most.
        read_once: call `get_reward` only when the episode is over (or at `max_turns`): for costly judges, or ones that
            may not be asked twice. An episode cut short by another limit then counts as unrewarded. By default it is
            called after every turn, so that no way of ending loses the reward.
        thread: build each instance, and run its sync methods and hooks, in a thread of its own, so that one that hangs
            fails its own episode and no other. Costs about 0.1 ms a call. False for code that never blocks, or that must
            run in the event loop's thread.
        tell: exceptions whose text goes back to the policy; ``(Exception,)`` is TRL's behaviour.
        secrets: columns of the rows that the opening must not depend on.
        description: the first line of the class's docstring by default.

    Raises:
        ConfigError: no `reset`, no tool, a tool without hints or docstring, no reward, or rows `reset` cannot take.
    """
    kind = cast("type[object]", cls if isinstance(cls, type) else type(cls()))
    label = name or kind.__name__
    reset, tools = _interface(kind, tell, needs_reward=rubric is None)
    table = task_table(label, _own_problems(label, _accepts(reset, "seed")) if rows is None else rows, system=system)
    task = _opened(table, messages_of(prompt) if prompt is not None else ())
    for split, size in table.sizes.items():
        if size is None or size > 0:
            _check_row(label, reset, task(split, 0))
    shared = Blueprint[T](
        make=cls, tools=tools, hooks=hooks or Hooks[T](), max_turns=max_turns, read_once=read_once, thread=thread
    )
    return EnvSpec(
        name=label,
        make=lambda: ClassEnv[T](shared),
        task=task,
        sizes=table.sizes,
        rubric=rubric or EnvReward(by="turn" if turn_rewards else "episode", name="get_reward"),
        description=description or (inspect.getdoc(kind) or "").split("\n")[0],
        max_turns=max_turns,
        secrets=secrets,
        oracle_reward=None,
        null_reward=None,
    )


def _interface(
    kind: type[object], tell: tuple[type[Exception], ...], *, needs_reward: bool
) -> tuple[Callable[..., object], tuple[Tool, ...]]:
    """A class's `reset`, bound to an instance that never lives, and its tools.

    Raises:
        ConfigError: no `reset`, no tool, or no reward where one is needed.
    """
    reset = cast("Callable[..., object] | None", getattr(kind, "reset", None))
    if reset is None:
        raise ConfigError(f"{kind.__name__} has no reset method")
    if needs_reward and not hasattr(kind, "get_reward"):
        raise ConfigError(f"{kind.__name__} has no get_reward method; add one, or pass rubric=...")
    bare = object.__new__(kind)
    tools = tuple(as_tool(MethodType(f, bare), tell=tell) for f in _tool_functions(kind))
    if not tools:
        raise ConfigError(f"{kind.__name__} has no public method that could be a tool")
    return MethodType(reset, bare), tools


def _opened(table: TaskTable, opening: tuple[Message, ...]) -> Callable[[str, int], Task]:
    """The table's tasks; `opening` opens those whose row has no user message."""

    def task(split: str, index: int) -> Task:
        found = table.task(split, index)
        if any(m.role == "user" for m in found.messages):
            return found
        return msgspec.structs.replace(found, messages=found.messages + opening)

    return task


def calling(name: str, arguments: Mapping[str, object]) -> Message:
    """An assistant message that makes one call.

    >>> calling("guess", {"number": 5}).tool_calls[0].arguments
    {'number': 5}
    """
    return Message(role="assistant", tool_calls=(ToolCall(id="call_0", name=name, arguments=dict(arguments)),))


def _tool_functions(kind: type) -> list[Callable[..., object]]:
    """Public methods in order of name, the way TRL lists them; properties and static functions are not tools."""
    found = inspect.getmembers_static(kind, lambda member: inspect.isfunction(member) or isinstance(member, classmethod))
    named = [(n, m) for n, m in found if not n.startswith("_") and n not in LIFECYCLE]
    return [cast("Callable[..., object]", getattr(m, "__func__", m)) for _, m in named]


def _own_problems(label: str, seeded: bool) -> Callable[[str, int], Task]:
    def task(split: str, index: int) -> Task:
        payload = {"seed": stream(0, label, split, index) % 2**31} if seeded else {}
        return Task(id=f"{split}-{index}", env=label, payload=payload, split=split)

    return task


def _accepts(function: Callable[..., object], argument: str) -> bool:
    """Whether a call may name this argument, explicitly or through ``**row``."""
    parameters = inspect.signature(function).parameters
    if argument == "seed":
        return argument in parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_row(label: str, reset: Callable[..., object], task: Task) -> None:
    columns = dict(task.payload)
    if _accepts(reset, "prompt"):
        columns["prompt"] = []
    try:
        inspect.signature(reset).bind(**columns)
    except TypeError as error:
        raise ConfigError(f"{label}.reset cannot take a row with the columns {sorted(columns)}: {error}") from error


def _append(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Text joined to the last user message, as TRL does; a user message of its own when there is none."""
    if not text:
        return messages
    at = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "user"), None)
    if at is None:
        return (*messages, say("user", text))
    joined = msgspec.structs.replace(messages[at], content=(*messages[at].content, TextPart(text=text)))
    return (*messages[:at], joined, *messages[at + 1 :])
