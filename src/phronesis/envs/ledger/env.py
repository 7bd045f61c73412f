"""`ledger`: a question in words over a database that is reached one look-up at a time.

Solving a task takes several dependent calls (retry when busy, follow a redirect, go on after a miss) and a running total,
which has no place but the policy's own think block.
"""

from __future__ import annotations

import re

import msgspec

from phronesis.env import EnvSpec
from phronesis.envs.ledger.behaviour import Bookkeeper, Habits
from phronesis.envs.ledger.tasks import Dials, books_of, task
from phronesis.envs.ledger.world import Ledger
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.errors import ConfigError
from phronesis.records import Component, Conversation, EpisodeGroup, Message, Reply, Reward, Task, TextPart, ToolCall
from phronesis.seeding import rng
from phronesis.tool import as_tool

MAX_TURNS = 14
"""An oracle needs at most 4 accounts + 2 redirects, each of the 6 names busy once, and 1 answer = 13."""


class LedgerEnv(ToolEnv):
    """One episode: the tool `lookup`, and a final message holding the total."""

    def __init__(self) -> None:
        super().__init__()
        self._ledger: Ledger | None = None

    async def begin(self, task: Task, seed: int) -> Opening:
        """Opens a fresh database."""
        self._ledger = ledger = Ledger(books_of(task))

        def lookup(name: str) -> str:
            """Look up one account.

            Args:
                name: account name.
            """
            return ledger.lookup(name)

        return Opening(task.messages, (as_tool(lookup),), ledger.key(None))

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """A message without a call is the answer: reward 1 when its last number is the total, else 0."""
        ledger = self._opened()
        key = ledger.key(action.thought)
        if outcome is not None:
            return Reply(state_key=key)
        reward = float(extract(action.text) == ledger.books.answer)
        return Reply(done=True, reward=reward, state_key=key, metrics={"lookups": float(ledger.calls)})

    async def expert(self) -> Message:
        """Asks for the first account that is not settled; answers when all are."""
        ledger = self._opened()
        name = ledger.next_name
        if name is None:
            return Message(role="assistant", content=(TextPart(text=str(ledger.books.answer)),))
        return Message(
            role="assistant", tool_calls=(ToolCall(id=f"call_{ledger.calls}_0", name="lookup", arguments={"name": name}),)
        )

    async def close(self) -> None:
        """Closes the database."""
        if self._ledger is not None:
            self._ledger.close()

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("reset comes before step")
        return self._ledger


class TotalRubric:
    """`success`: whether the last number of the final message is the total. An episode without an answer scores 0."""

    async def score(self, group: EpisodeGroup) -> list[Reward]:
        """One reward per episode."""
        return [
            self._judge(e.turns[-1].action if e.turns else None, group.task) if not e.stop.is_fault else Reward()
            for e in group.episodes
        ]

    def _judge(self, last: Message | None, task: Task) -> Reward:
        answer = None if last is None or last.tool_calls else extract(last.text)
        right = answer == task.payload["answer"]
        said = "no answer" if answer is None else f"answered {answer}"
        return Reward(
            components=(
                Component(
                    name="success",
                    score=float(right),
                    answer=None if answer is None else str(answer),
                    explanation=f"{said}; the total is {task.payload['answer']}",
                ),
            )
        )


def extract(text: str) -> int | None:
    """The last whole number of a text.

    >>> extract("3 + 4 = 7"), extract("none")
    (7, None)
    """
    found = re.findall(r"-?\d{1,9}", text)
    return int(found[-1]) if found else None


async def demonstrate(dials: Dials, habits: Habits, index: int, seed: int) -> Conversation:
    """One conversation of an imperfect book-keeper on training task `index`."""
    chosen = task(dials, "train", index)
    env = LedgerEnv()
    keeper = Bookkeeper(books_of(chosen).asked, habits, rng(seed, "keeper", index))
    opening = await env.reset(chosen, seed)
    exchanges: list[tuple[Message, tuple[Message, ...]]] = []
    said = keeper.start()
    while True:
        reply = await env.step(said)
        exchanges.append((said, reply.messages))
        if reply.done:
            break
        said = keeper.next(reply.messages[-1].text)
    await env.close()
    return Conversation(
        opening=opening.messages, tools=opening.tools or (), exchanges=tuple(exchanges), success=reply.reward == 1.0
    )


def make(
    min_difficulty: int = 1,
    max_difficulty: int = 3,
    max_amount: int = 2,
    busy: float = 0.15,
    habits: dict[str, float] | None = None,
) -> EnvSpec:
    """The `ledger` environment.

    Args:
        min_difficulty: see `Dials`.
        max_difficulty: see `Dials`.
        max_amount: see `Dials`.
        busy: see `Dials`.
        habits: fields of `Habits`, the imperfect behaviour shown in priming.

    Raises:
        ConfigError: a dial or habit that does not exist or is out of range.
    """
    dials = Dials(min_difficulty=min_difficulty, max_difficulty=max_difficulty, max_amount=max_amount, busy=busy)
    dials.validate()
    try:
        shown = msgspec.convert(habits or {}, Habits)
    except msgspec.ValidationError as error:
        raise ConfigError(f"ledger habits {habits!r}: {error}; the habits are {', '.join(Habits.__struct_fields__)}") from error

    async def show(index: int, seed: int) -> Conversation:
        return await demonstrate(dials, shown, index, seed)

    return EnvSpec(
        name="ledger",
        make=LedgerEnv,
        task=lambda split, index: task(dials, split, index),
        rubric=TotalRubric(),
        description="Post entries from a SQLite ledger that may be busy, redirect or miss; the total lives in the think block.",
        chance_reward=0.15,
        max_turns=MAX_TURNS,
        secrets=("entries", "renamed", "busy", "answer"),
        demonstrate=show,
        hint=lambda task: str(task.payload["answer"]),
    )
