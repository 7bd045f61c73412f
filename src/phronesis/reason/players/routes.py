"""Routes: what an attempt may be made to do. A tool to call, or an action the world lists, as ids to force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from phronesis.chat.format import ChatFormat
from phronesis.env import Legal
from phronesis.errors import ConfigError
from phronesis.records import Episode, Message, Stop, ToolCall, Turn
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import Stage, Ticket, open_attempt
from phronesis.rollout.session import EpisodeOver, EpisodeSession


class Route(NamedTuple):
    """Something the policy could have done."""

    name: str
    """A tool's name, or what a legal action says."""
    action: Message | None = None
    """The legal action; None for a tool."""

    def ids(self, chat: ChatFormat, *, thought: bool) -> tuple[int, ...]:
        """Ids that begin it. Of a tool, what calls with different arguments have in common: its name is given, the arguments
        are the policy's. Of a legal action, all but the id that ends the message.

        Args:
            chat: whose ids.
            thought: whether they come after a think block that was just closed.
        """
        before = "." if thought else None
        if self.action is not None:
            spoken = Message(role="assistant", thought=before, content=self.action.content, tool_calls=self.action.tool_calls)
            ids = _after_thought(chat, chat.render(spoken))
            return ids[:-1] if ids and ids[-1] in chat.stop_ids else ids
        calls = [ToolCall(id="call", name=self.name, arguments=arguments) for arguments in ({}, {"a": 0}, {"b": "c"})]
        rows = [chat.render(Message(role="assistant", thought=before, tool_calls=(call,))) for call in calls]
        return common([_after_thought(chat, ids) for ids in rows])

    def taken(self, turn: Turn) -> bool:
        """Whether a turn went this way by itself."""
        action = turn.action
        if action is None:
            return False
        if self.action is None:
            return any(call.name == self.name for call in action.tool_calls)
        return (action.text.strip(), _calls(action)) == (self.action.text.strip(), _calls(self.action))


def place(turn: Turn) -> int | None:
    """Where in a turn's completion another route can begin: behind its thought, else at its start; None where the thought was
    never closed."""
    ends = [span.end for span in turn.spans if span.kind == "think"]
    at = max(ends, default=0)
    return None if ends and at >= len(turn.completion) else at


async def routes(stage: Stage, episode: Episode, gate: Gate) -> tuple[Route, ...]:
    """What the world offers: the tools of its opening; where it has none, the actions it lists as legal after a reset.

    Raises:
        ConfigError: it offers neither.
    """
    if episode.tools:
        return tuple(Route(tool.name) for tool in episode.tools)
    ticket = Ticket(id=f"{episode.id}/routes", task=episode.task, seed=episode.seed)
    attempt = open_attempt(stage, ticket)
    async with gate:
        try:
            session = EpisodeSession(attempt, await attempt.open_env())
            if not isinstance(session.env, Legal):
                raise ConfigError(
                    f"player earl forces routes, and environment {stage.spec.name!r} has neither tools nor a list of legal "
                    "actions; give it tools or `legal()`, or choose another player"
                )
            await session.reset()
            actions = await attempt.guard(
                "env.legal", session.env.legal, Stop.env_fault, stage.limits_of(episode.task).env_seconds
            )
        except EpisodeOver:
            return ()
        finally:
            await attempt.close()
    return tuple(Route(name(action), action) for action in actions)


def name(action: Message) -> str:
    """What a legal action says, in a word."""
    return action.text.strip() or " ".join(call.name for call in action.tool_calls)


def common(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning that all rows share.

    >>> common([(1, 2, 3), (1, 2, 4, 5)])
    (1, 2)
    """
    n = 0
    while all(len(row) > n and row[n] == rows[0][n] for row in rows):
        n += 1
    return rows[0][:n]


def _after_thought(chat: ChatFormat, ids: tuple[int, ...]) -> tuple[int, ...]:
    ends = [span.end for span in chat.parse(ids).spans if span.kind == "think"]
    return ids[max(ends, default=0) :]


def _calls(action: Message) -> list[tuple[str, str]]:
    return [(call.name, repr(sorted(call.arguments.items()))) for call in action.tool_calls]
