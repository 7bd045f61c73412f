"""The exact tokens of a turn: what was given, what was sampled, what was forced, with log-probability and entropy.

Colouring is chosen with radio buttons and style sheets alone, so the strip works without JavaScript.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from phronesis.records import Turn
from phronesis.view.html import Html, join, tag
from phronesis.view.quantity import number

Decode = Callable[[int], str]
"""Text of one token id."""

MOST = 1500
"""Most tokens of one turn that are shown; the rest is counted."""

_MODES = (("kind", "Kind"), ("logprob", "Log-probability"), ("entropy", "Entropy"), ("ids", "Ids"))


def token_text(token: int, decode: Decode | None) -> str:
    """A token as visible text; the id in brackets when there is no tokenizer.

    >>> token_text(7, None), token_text(7, lambda i: "a\\n")
    ('⟨7⟩', 'a⏎')
    """
    if decode is None:
        return f"⟨{token}⟩"
    text = decode(token)
    return "".join("⏎" if c == "\n" else "⇥" if c == "\t" else c if c.isprintable() else "�" for c in text) or "∅"


def heat(nats: float, full: float) -> int:
    """Strength of colour in 0-9 for a non-negative number of nats; `full` and more give 9.

    >>> heat(0.0, 4.0), heat(2.0, 4.0), heat(99.0, 4.0)
    (0, 4, 9)
    """
    return 0 if math.isnan(nats) else min(9, int(9 * max(0.0, nats) / full))


def strip(turn: Turn, name: str, decode: Decode | None = None) -> Html:
    """A foldable strip of all tokens of one turn, context first.

    Args:
        turn: the turn.
        name: unique within the page, for the radio buttons.
        decode: text of a token id; None shows ids only.
    """
    kinds = _kinds(turn)
    context = [_given(token, decode) for token in turn.context[-MOST:]]
    made = [_made(turn, i, kinds[i], decode) for i in range(min(MOST, len(turn.completion)))]
    hidden = len(turn.context) + len(turn.completion) - len(context) - len(made)
    forced = len(turn.completion) - sum(turn.sampled)
    counted = [(len(turn.context), "given"), (sum(turn.sampled), "sampled"), (forced, "forced")]
    summary = "Tokens: " + ", ".join(f"{number(n)} {what}" for n, what in counted if n or what == "sampled")
    radios: list[Html] = []
    for i, (mode, label) in enumerate(_MODES):
        radios.append(tag("input", type="radio", name=name, id=f"{name}-{mode}", class_=f"mode {mode}", checked=i == 0))
        radios.append(tag("label", label, for_=f"{name}-{mode}"))
    return tag(
        "details",
        tag("summary", summary),
        tag(
            "div",
            *radios,
            tag("div", _key(), class_="strip-key"),
            tag("div", join(context), join(made), class_="strip"),
            tag("p", f"{number(hidden)} tokens are not shown here.", class_="quiet") if hidden else None,
            class_="tokens",
        ),
        class_="token-box",
    )


def _kinds(turn: Turn) -> list[str]:
    kinds = ["say"] * len(turn.completion)
    for span in turn.spans:
        kinds[span.start : span.end] = [span.kind] * max(0, min(span.end, len(kinds)) - span.start)
    return kinds


def _given(token: int, decode: Decode | None) -> Html:
    return tag("span", token_text(token, decode), tag("b", str(token)), class_="t given", title=f"id {token}, given")


def _made(turn: Turn, i: int, kind: str, decode: Decode | None) -> Html:
    token, sampled = turn.completion[i], _at(turn.sampled, i)
    logprob, entropy = _at(turn.logprobs, i), _at(turn.entropies or (), i)
    read = [f"id {token}", kind, "sampled" if sampled else "forced"]
    if logprob is not None:
        read.append(f"log p {number(logprob)} nats, p {number(math.exp(min(0.0, logprob)))}")
    if entropy is not None:
        read.append(f"entropy {number(entropy)} nats")
    classes = ["t", kind, "sampled" if sampled else "forced"]
    classes.append(f"l{heat(-logprob, 4.0)}" if logprob is not None else "l-")
    classes.append(f"e{heat(entropy, 3.0)}" if entropy is not None else "e-")
    return tag("span", token_text(token, decode), tag("b", str(token)), class_=" ".join(classes), title=", ".join(read))


def _at(values: Sequence[float] | Sequence[bool], i: int) -> float | None:
    return values[i] if i < len(values) else None


def _key() -> Html:
    return join(
        [
            tag("span", tag("i", class_="key given"), "given", class_="entry k"),
            tag("span", tag("i", class_="key think"), "think", class_="entry k"),
            tag("span", tag("i", class_="key act"), "act", class_="entry k"),
            tag("span", tag("i", class_="key answer"), "answer", class_="entry k"),
            tag("span", tag("i", class_="key forced"), "forced (not trained)", class_="entry k"),
            tag("span", tag("i", class_="key ramp"), "0 to 4 nats of surprise (−log p)", class_="entry l"),
            tag("span", tag("i", class_="key ramp"), "0 to 3 nats of entropy", class_="entry e"),
        ]
    )
