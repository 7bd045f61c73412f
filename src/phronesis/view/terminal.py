"""An episode as text for a terminal. Whatever an episode holds, it cannot move the cursor or change colours."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from phronesis.evals.pick import value
from phronesis.records import Component, Episode, Message, Reply, Turn
from phronesis.view.quantity import count, number, seconds, signed
from phronesis.view.strip import Decode, token_text

_COLOURS = {
    "think": 35,
    "act": 34,
    "answer": 32,
    "say": 36,
    "result": 33,
    "user": 1,
    "system": 2,
    "quiet": 2,
    "good": 32,
    "bad": 31,
}
"""Select-graphic-rendition codes of ANSI terminals."""
_LABEL = 9
"""Columns of the label at the left."""


def visible(text: str) -> str:
    """Text with control characters made visible; line breaks and tabs stay.

    >>> visible("a\\x1b[31mb\\n")
    'a␛[31mb\\n'
    """
    return "".join(
        c if c in "\n\t" or c.isprintable() else chr(0x2400 + ord(c)) if ord(c) < 0x20 else "␡" if c == "\x7f" else "�"
        for c in text
    )


def render(
    episode: Episode,
    *,
    width: int = 100,
    colour: bool = False,
    decode: Decode | None = None,
    tokens: bool = False,
    system: bool = False,
) -> str:
    """The whole episode, one block per message.

    Args:
        episode: what to show.
        width: columns, at least 40.
        colour: True writes ANSI colours.
        decode: text of a token id, for turns that could not be parsed and for `tokens`.
        tokens: also list each turn's exact tokens with log-probabilities.
        system: also show system messages.

    Returns:
        Lines joined by newlines, without a final one.
    """
    page = _Page(max(40, width), colour)
    lines = list(page.head(episode))
    for message in episode.opening:
        if message.role != "system" or system:
            lines += page.message(message)
    for k, turn in enumerate(episode.turns):
        lines += page.turn(turn, k, decode)
        if tokens:
            lines += page.tokens(turn, decode)
        lines += [line for c in _components(episode, k) for line in page.component(c)]
    lines += [line for c in _components(episode, None) for line in page.component(c)]
    lines += page.end(episode)
    return "\n".join(lines)


def render_message(message: Message, *, width: int = 100, colour: bool = False) -> str:
    """One message in the same form, for playing by hand."""
    return "\n".join(_Page(max(40, width), colour).message(message))


def _components(episode: Episode, turn: int | None) -> list[Component]:
    """Components earned at a turn; None asks for those of the episode as a whole."""
    all_components = () if episode.reward is None else episode.reward.components
    return [c for c in all_components if c.turn == turn]


class _Page:
    """Lays out labelled blocks."""

    def __init__(self, width: int, colour: bool):
        self.width, self.colour = width, colour

    def paint(self, text: str, tone: str) -> str:
        return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if self.colour and text else text

    def block(self, label: str, text: str, tone: str) -> Iterator[str]:
        """A label and wrapped text beside it; empty text shows as a dash."""
        room = self.width - _LABEL - 1
        wrapped: list[str] = []
        for line in visible(text).expandtabs(4).splitlines() or ["–"]:
            wrapped += textwrap.wrap(line, room, replace_whitespace=False, drop_whitespace=False) or [""]
        for i, line in enumerate(wrapped):
            yield f"{label[:_LABEL] if i == 0 else '':>{_LABEL}} {self.paint(line.rstrip(), tone)}".rstrip()

    def rule(self, text: str) -> str:
        return self.paint(f"── {text} ".ljust(self.width, "─")[: self.width], "quiet")

    def head(self, episode: Episode) -> Iterator[str]:
        reward = value(episode)
        scored = "unscored" if reward is None else f"reward {number(reward)}"
        facts = [visible(episode.id), f"task {visible(episode.task.id)}"]
        if episode.task.difficulty is not None:
            facts.append(f"difficulty {number(episode.task.difficulty)}")
        yield self.rule(" · ".join([*facts, scored, episode.stop.value]))

    def message(self, message: Message) -> Iterator[str]:
        if message.role == "tool":
            yield from self.block("result", message.text, "result")
        elif message.role == "assistant":
            yield from self.said(message, "say")
        else:
            yield from self.block(message.role, message.text, message.role)

    def said(self, message: Message, kind: str) -> Iterator[str]:
        if message.thought is not None:
            yield from self.block("think", message.thought, "think")
        if message.text.strip():
            yield from self.block(kind, message.text, kind)
        for call in message.tool_calls:
            if call.error is not None:
                yield from self.block("act", f"{call.name or '?'}: malformed, {call.error}", "bad")
            else:
                arguments = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
                yield from self.block("act", f"{call.name}({arguments})", "act")

    def turn(self, turn: Turn, k: int, decode: Decode | None) -> Iterator[str]:
        spent = [count(sum(turn.sampled), "token"), seconds(turn.policy_seconds + turn.env_seconds)]
        if turn.author != "policy":
            spent.append(f"by {visible(turn.author)}")
        if turn.parent != (k - 1 if k else None):
            spent.append("a new root" if turn.parent is None else f"branch of turn {turn.parent + 1}")
        if turn.finish.value != "stop":
            spent.append(f"ended by {turn.finish.value}")
        yield self.rule(f"turn {k + 1} · " + " · ".join(spent))
        if turn.action is not None:
            answered = any(s.kind == "answer" for s in turn.spans) or (turn.reply is not None and turn.reply.done)
            yield from self.said(turn.action, "answer" if answered else "say")
        elif decode is not None:
            yield from self.block("unparsed", "".join(decode(i) for i in turn.completion), "bad")
        if turn.parse_error is not None:
            yield from self.block("error", turn.parse_error, "bad")
        if turn.reply is not None:
            yield from self.reply(turn.reply)

    def reply(self, reply: Reply) -> Iterator[str]:
        for message in reply.messages:
            yield from self.message(message)
        for error in reply.errors:
            yield from self.block("mistake", error, "bad")

    def tokens(self, turn: Turn, decode: Decode | None) -> Iterator[str]:
        """Each completion token as text, id and log-probability; forced ones in brackets."""
        shown: list[str] = []
        for token, sampled, logprob in zip(turn.completion, turn.sampled, turn.logprobs, strict=False):
            text = f"{token_text(token, decode)}·{token}·{logprob:.2f}"
            shown.append(text if sampled else f"[{text}]")
        yield from self.block("tokens", " ".join(shown), "quiet")

    def component(self, component: Component) -> Iterator[str]:
        earned = None if component.score is None else component.weight * component.score
        text = f"{'unscored' if earned is None else signed(earned)} {component.name}"
        details = [d for d in (component.explanation, "audit only" if component.audit else None) if d]
        tone = "quiet" if component.audit or earned is None else "good" if earned > 0 else "bad"
        yield from self.block("reward", f"{text} ({'; '.join(details)})" if details else text, tone)

    def end(self, episode: Episode) -> Iterator[str]:
        if episode.failure is not None:
            yield from self.block(
                "fault", f"{episode.failure.kind} in {episode.failure.where}: {episode.failure.message}", "bad"
            )
        spent = (
            f"{count(len(episode.turns), 'turn')}, {number(episode.sampled_tokens)} tokens sampled, {seconds(episode.seconds)}"
        )
        yield self.rule(f"{episode.stop.value} · {spent}")
