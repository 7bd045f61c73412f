"""An episode as a conversation: thoughts, calls, results and answers, with the reward beside the turn that earned it."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from phronesis.evals.pick import Pick, value
from phronesis.records import Component, Episode, Message, ToolCall, Turn
from phronesis.view.html import Html, join, tag
from phronesis.view.quantity import count, number, seconds, signed
from phronesis.view.strip import Decode, strip

MOST_CHARACTERS = 6000
"""Longest text shown of one message; the rest is counted."""
MOST_TURNS = 60
"""Most turns shown of one episode; the rest is counted."""

TITLES = {
    "best": "Best",
    "worst": "Worst",
    "median": "Median",
    "most_changed": "Most changed",
    "failed": "Failed",
}
"""Heading of each category of `phronesis.evals.pick`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all episodes of a page share."""

    run: str
    """Run folder as the commands should name it."""
    decode: Decode | None = None
    """Text of a token id; None when no tokenizer was found."""
    success: float = 1.0
    """Reward from which an episode counts as a success."""


def card(pick: Pick, setting: Setting) -> Html:
    """One picked episode, with the same task before training folded below it."""
    episode, before = pick.episode, pick.before
    name = f"episode-{pick.category}"
    head = tag(
        "header",
        tag("h3", TITLES[pick.category], tag("span", _outcome(episode, setting.success), class_="outcomes")),
        tag("p", f"Chosen for: {pick.why}.", class_="quiet"),
        tag("p", join(_facts(episode), " · "), class_="facts"),
    )
    twin = None
    if before is not None:
        opened = pick.category == "most_changed"
        twin = tag(
            "details",
            tag(
                "summary",
                "The same task and seed before training ",
                tag("span", _outcome(before, setting.success), class_="outcomes"),
            ),
            chat(before, setting, f"{name}-before", opening=False),
            replay(before, setting),
            class_="twin",
            open=opened,
        )
    return tag("article", head, chat(episode, setting, name), replay(episode, setting), twin, class_="episode", id=name)


def chat(episode: Episode, setting: Setting, name: str, opening: bool = True) -> Html:
    """The conversation. Branches of a tree are shown one after the other, each saying which turn it continues."""
    parts: list[Html] = [_given(m) for m in episode.opening] if opening else []
    if not episode.turns:
        parts.append(tag("p", "The policy was never asked.", class_="quiet"))
    for k, turn in enumerate(episode.turns[:MOST_TURNS]):
        earned = [c for c in _components(episode) if c.turn == k]
        parts.append(_turn(turn, k, f"{name}-{k}", setting, earned))
    hidden = len(episode.turns) - MOST_TURNS
    if hidden > 0:
        parts.append(tag("p", f"{count(hidden, 'more turn')} not shown here.", class_="quiet"))
    parts += [_reward(c) for c in _components(episode) if c.turn is None or c.turn >= len(episode.turns)]
    parts.append(_end(episode))
    return tag("div", *parts, class_="chat")


def replay(episode: Episode, setting: Setting) -> Html:
    """The command that plays the episode again, ready to copy."""
    command = f"phronesis replay {shlex.quote(setting.run)} {shlex.quote(episode.id)}"
    return tag("div", tag("code", command), tag("button", "Copy", type="button", data_copy=command), class_="copy")


def _components(episode: Episode) -> Sequence[Component]:
    return () if episode.reward is None else episode.reward.components


def _outcome(episode: Episode, success: float) -> Html:
    reward = value(episode)
    if episode.stop.is_fault:
        chip = tag("span", "fault", class_="chip bad")
    elif reward is None:
        chip = tag("span", "unscored", class_="chip")
    else:
        chip = tag(
            "span",
            "✓ success" if reward >= success else "✗ no success",
            class_="chip good" if reward >= success else "chip bad",
        )
    shown = None if reward is None else tag("span", f"reward {number(reward)}", class_="chip")
    return join([chip, shown])


def _facts(episode: Episode) -> list[str]:
    facts = [f"task {episode.task.id}"]
    if episode.task.difficulty is not None:
        facts.append(f"difficulty {number(episode.task.difficulty)}")
    facts += [
        count(len(episode.turns), "turn"),
        f"{number(episode.sampled_tokens)} tokens sampled, {number(episode.context_tokens)} given",
        seconds(episode.seconds),
        f"ended by {episode.stop.value}",
    ]
    if episode.errors:
        facts.append(count(len(episode.errors), "mistake"))
    return facts


def _text(text: str) -> Html:
    """Text as written, line breaks kept, cut when very long."""
    hidden = len(text) - MOST_CHARACTERS
    note = tag("em", f" … {number(hidden)} more characters", class_="quiet") if hidden > 0 else None
    return tag("div", text[:MOST_CHARACTERS], note, class_="text")


def _parts(message: Message) -> list[Html]:
    images = [p for p in message.content if not hasattr(p, "text")]
    shown = [_text(message.text)] if message.text else []
    return shown + [tag("div", f"[{count(len(images), 'image')}]", class_="quiet")] * bool(images)


def _bubble(kind: str, label: str, *children: Html) -> Html:
    return tag("div", tag("span", label, class_="who"), *children, class_=f"bubble {kind}")


def _given(message: Message) -> Html:
    if message.role == "system":
        return tag("details", tag("summary", "system"), *_parts(message), class_="bubble system")
    if message.role == "tool":
        return _bubble("tool", f"result of {message.name}" if message.name else "result", *_parts(message))
    if message.role == "assistant":
        return join(_said(message))
    return _bubble("user", message.role, *_parts(message))


def _call(call: ToolCall) -> Html:
    if call.error is not None:
        return tag(
            "div", tag("b", call.name or "?"), " ", tag("span", f"malformed: {call.error}", class_="error"), class_="call"
        )
    arguments = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
    return tag("div", tag("b", call.name), f"({arguments})"[:MOST_CHARACTERS], class_="call")


def _said(message: Message, answer: bool = False) -> list[Html]:
    parts: list[Html] = []
    kind = "answer" if answer else "say"
    if message.thought:
        parts.append(_bubble("think", "think", _text(message.thought)))
    elif message.thought == "":
        parts.append(_bubble("think", "think", tag("em", "empty", class_="quiet")))
    if message.content and message.text.strip():
        parts.append(_bubble(kind, kind, *_parts(message)))
    if message.tool_calls:
        parts.append(_bubble("act", "act", *(_call(c) for c in message.tool_calls)))
    return parts


def _turn(turn: Turn, k: int, name: str, setting: Setting, earned: Sequence[Component]) -> Html:
    """One policy call: what it cost, what the policy said, what the world answered, and the exact tokens."""
    return tag(
        "section",
        tag("h4", tag("b", f"turn {k + 1}"), *(tag("span", line) for line in _cost(turn, k))),
        tag("div", *_spoken(turn, setting), class_="said"),
        tag("div", *_answered(turn), *(_reward(c) for c in earned), class_="answered"),
        strip(turn, name, setting.decode),
        class_="turn",
    )


def _cost(turn: Turn, k: int) -> list[str]:
    lines = [count(sum(turn.sampled), "token"), seconds(turn.policy_seconds + turn.env_seconds)]
    surprise = [-p for p, s in zip(turn.logprobs, turn.sampled, strict=False) if s]
    if surprise:
        lines.append(f"{number(math.fsum(surprise) / len(surprise), 2)} nats a token")
    if turn.author != "policy":
        lines.append(f"by {turn.author}")
    if turn.parent != (k - 1 if k else None):
        lines.append("a new root" if turn.parent is None else f"branch of turn {turn.parent + 1}")
    return lines


def _spoken(turn: Turn, setting: Setting) -> list[Html]:
    body: list[Html] = []
    if turn.action is not None:
        done = turn.reply is not None and turn.reply.done
        body += _said(turn.action, answer=done or any(s.kind == "answer" for s in turn.spans))
    if turn.parse_error is not None:
        body.append(tag("p", f"could not be parsed: {turn.parse_error}", class_="error"))
    if setting.decode is not None and (turn.action is None or turn.parse_error is not None):
        body.append(_bubble("written", "as written", _text("".join(setting.decode(i) for i in turn.completion))))
    if turn.finish.value != "stop":
        body.append(tag("p", f"completion ended by {turn.finish.value}", class_="error"))
    return body


def _answered(turn: Turn) -> list[Html]:
    if turn.reply is None:
        return [tag("p", "no reply", class_="quiet")]
    body = [_given(m) for m in turn.reply.messages]
    for mistake, times in Counter(turn.reply.errors).items():
        body.append(tag("span", f"mistake: {mistake}" + (f" × {times}" if times > 1 else ""), class_="chip bad"))
    if turn.reply.reward is not None:
        body.append(tag("span", f"environment reward {signed(turn.reply.reward)}", class_="chip"))
    return body


def _reward(component: Component) -> Html:
    scored = component.score is not None
    shown = signed(component.weight * component.score) if component.score is not None else "unscored"
    details = (
        [f"score {number(component.score)} × weight {number(component.weight)}"] if scored and component.weight != 1 else []
    )
    if component.answer is not None:
        details.append(f"judged: {component.answer!r}")
    if component.explanation:
        details.append(component.explanation)
    if component.audit:
        details.append("audit only, never part of the reward")
    kind = "audit" if component.audit else "good" if (component.score or 0) * component.weight > 0 else "zero"
    where = "episode" if component.turn is None else f"turn {component.turn + 1}"
    return tag(
        "div",
        tag("b", shown),
        tag("span", component.name, class_="name"),
        tag("small", "; ".join([where, *details])[:MOST_CHARACTERS]),
        class_=f"reward {kind}",
    )


def _end(episode: Episode) -> Html:
    failure = episode.failure
    if failure is None:
        return tag("p", f"ended: {episode.stop.value}", class_="end")
    return tag(
        "div",
        tag("p", f"{failure.kind} in {failure.where}: {failure.message}"[:MOST_CHARACTERS], class_="error"),
        tag("details", tag("summary", "Last frames"), tag("pre", failure.traceback[:MOST_CHARACTERS]))
        if failure.traceback
        else None,
        tag("p", f"ended: {episode.stop.value}; a fault says nothing about the policy and is never a reward", class_="end"),
        class_="fault",
    )
