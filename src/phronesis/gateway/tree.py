"""The conversations of one episode as a tree: where a list of messages continues what was sampled, token by token.

A client sends its whole history with every request. It is compared with every branch of the episode, and continues the
turn that explains the longest beginning of it: the next prompt is that turn's prompt and sampled ids, followed by the ids of
the messages after it. Nothing that was sampled is encoded again. A history that no branch explains begins at a new root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from phronesis.chat.format import ChatFormat
from phronesis.gateway.matching import Repairs, same
from phronesis.records import Message, ToolSpec

Kind = Literal["opened", "extended", "forked", "rewritten", "rerooted", "restarted"]
"""How a request stands to what came before it in its episode:

* opened: the first request.
* extended: goes on where a branch ends.
* forked: goes on where another request went on before (a retry, a second sample, a parallel attempt).
* rewritten: goes on from an earlier turn with assistant messages the policy never said (edited or compacted history).
* rerooted: shares no sampled turn with any branch (another system prompt, other tools, a sub-agent): a new root.
* restarted: extends a branch, but the chat format drops past thoughts here, so that a new root begins.
"""


@dataclass(eq=False)
class Point:
    """A place in a conversation: just after a sampled message."""

    turn: int
    """Number of the turn, in order of completion."""
    parent: Point | None
    """The turn it extends; None at the beginning of a conversation."""
    between: tuple[Message, ...]
    """What the client added since the parent; the whole opening where there is none."""
    tools: tuple[ToolSpec, ...]
    """Tools offered."""
    said: Message
    """What the policy said, parsed, thoughts included."""
    sent: Message
    """What the client was sent."""
    prompt: tuple[int, ...]
    """Ids the policy consumed."""
    completion: tuple[int, ...]
    """Ids the policy produced."""
    line: str = ""
    """Cache key of the engine for this branch."""
    uses: int = 0
    """Requests that continue it, those in flight included."""
    began: int = 0
    """When its request came, in events of the episode (requests that came, messages that were sampled)."""
    ended: int = 0
    """When it was sampled, likewise."""
    kind: Kind = "opened"
    """How its request stood to what came before."""
    delivered: bool = False
    """Whether the client has been sent all of it, as far as the server can tell."""
    judged: bool = False
    """Whether it has a reward of its own."""
    children: list[Point] = field(default_factory=list["Point"])
    """Turns that extend it, in order."""

    @property
    def root(self) -> Point:
        """Where its conversation begins."""
        at = self
        while at.parent is not None:
            at = at.parent
        return at

    def history(self) -> list[Message]:
        """All messages up to and including what was said here, as the policy saw and said them."""
        chain: list[Point] = []
        at: Point | None = self
        while at is not None:
            chain.append(at)
            at = at.parent
        return [m for point in reversed(chain) for m in (*point.between, point.said)]


class Place(NamedTuple):
    """Where a request goes on."""

    kind: Kind
    """How it stands to what came before."""
    parent: Point | None
    """The turn it continues in the conversation; None at its beginning."""
    joined: bool
    """Whether its ids extend the parent's, too; False begins a new root of ids."""
    between: tuple[Message, ...]
    """Messages after the parent."""
    context: tuple[int, ...]
    """Ids added to the parent's; the whole prompt where not `joined`."""
    repairs: Repairs
    """What was overlooked to recognise the history."""

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids to continue."""
        if self.parent is None or not self.joined:
            return self.context
        return self.parent.prompt + self.parent.completion + self.context


class _Match(NamedTuple):
    point: Point
    end: int
    """Messages explained."""
    repairs: Repairs


class TokenTree:
    """All branches of one episode."""

    def __init__(self, chat: ChatFormat):
        self.chat = chat
        self.roots: list[Point] = []
        self.asked = False
        """Whether anything was ever asked."""
        self.kinds: Counter[str] = Counter()
        """Requests by `Kind`."""
        self.repairs: Counter[str] = Counter()
        """Repairs by kind; each sampled message counts once per request that brings it back repaired."""

    def place(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Place:
        """Where a request continues. Nothing is changed; see `enter`.

        Raises:
            TemplateError: the chat format cannot write the messages.
        """
        offered, given = tuple(tools), tuple(messages)
        match = self._longest(given, offered)
        if match is None:
            context = self.chat.open(given, offered)
            again = any(root.prompt == context for root in self.roots)
            kind: Kind = "forked" if again else "rerooted" if self.asked else "opened"
            return Place(kind, None, False, given, context, ())
        return self._continue(match, given, offered)

    def enter(self, place: Place) -> None:
        """Counts a request that will be sampled."""
        self.asked = True
        self.kinds[place.kind] += 1
        self.repairs.update(place.repairs)
        if place.parent is not None:
            place.parent.uses += 1
            place.parent.delivered = True  # its reader has it, whatever happened on the wire

    def leave(self, place: Place) -> None:
        """Takes back the use of a request that came to nothing."""
        if place.parent is not None:
            place.parent.uses -= 1

    def add(self, point: Point) -> None:
        """Enters a sampled turn."""
        self.siblings(point).append(point)

    def siblings(self, point: Point) -> list[Point]:
        """The turns that continue what it continues, itself included."""
        return self.roots if point.parent is None else point.parent.children

    def superseded(self, point: Point) -> bool:
        """Whether its client asked for the very same again, once it was there, and never built upon it: a retry, or a
        candidate that was thrown away. Messages sampled side by side do not supersede one another."""
        if point.uses or point.judged:
            return False
        return any(p.began > point.ended and p.prompt == point.prompt for p in self.siblings(point))

    def _continue(self, match: _Match, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> Place:
        point, new = match.point, messages[match.end :]
        extension = self.chat.extend(point.history(), tools, point.completion, new)
        kind: Kind = "extended"
        if any(m.role == "assistant" for m in new):
            kind = "rewritten"
        elif point.uses:
            kind = "forked"
        elif extension.restart:
            kind = "restarted"
        return Place(kind, point, not extension.restart, new, extension.ids, match.repairs)

    def _longest(self, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> _Match | None:
        """The turn that explains the longest beginning of `messages`.

        Of several equals the one with the fewest repairs, then one nobody has continued, then the latest.
        """
        best: tuple[tuple[int, int, bool, int], _Match] | None = None
        stack = [(root, 0, ()) for root in self.roots if root.tools == tools]
        while stack:
            point, start, before = stack.pop()
            found = self._explains(point, messages, start)
            if found is None:
                continue
            match = _Match(point, start + len(point.between) + 1, (*before, *found))
            if match.end < len(messages):
                rank = (match.end, -len(match.repairs), not point.uses, point.turn)
                if best is None or rank > best[0]:
                    best = rank, match
                stack += [(child, match.end, match.repairs) for child in point.children]
        return None if best is None else best[1]

    def _explains(self, point: Point, messages: tuple[Message, ...], start: int) -> Repairs | None:
        """The repairs with which the turn and what led to it stand at `start`; None when they do not."""
        end = start + len(point.between)
        if end >= len(messages):
            return None
        found: list[str] = []
        for mine, theirs in zip((*point.between, point.sent), messages[start : end + 1], strict=True):
            repairs = same(mine, theirs)
            if repairs is None:
                return None
            found += repairs
        return tuple(found)
