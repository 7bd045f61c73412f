"""Episodes as terminal text: every line fits, nothing is lost, nothing can steer the terminal."""

from __future__ import annotations

import msgspec
import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from phronesis.records import Episode, Message, Span, TextPart, say
from phronesis.view.terminal import render, render_message, visible

TOKENS = synthetic_run.tokenizer()


def episode(task: int = 1, skill: float = 0.9) -> Episode:
    return synthetic_run.Player(skill, TOKENS).episode("heldout-1-0", task, 5)


def test_what_a_short_episode_looks_like():
    made = episode()
    turn = made.turns[-1]
    short = msgspec.structs.replace(made, turns=(msgspec.structs.replace(turn, parent=None),), seconds=0.0)
    spent = "8 tokens" if sum(turn.sampled) == 8 else f"{sum(turn.sampled)} tokens"
    lines = render(short, width=60, system=True).splitlines()
    total = turn.action.text
    assert lines[0].startswith("── heldout-1-0 · task ledger-heldout-1 · difficulty 2 · rewa")
    assert lines[1] == "   system You keep the books. Think briefly, then look up"
    assert lines[2] == "          one account at a time."
    assert lines[4].startswith(f"── turn 1 · {spent}") and len(lines[4]) == 60
    assert lines[5] == f"    think total {total}"
    assert lines[6] == f"   answer {total}"
    assert lines[7].startswith("   reward ")
    assert lines[-1].startswith("── completed · 1 turn, ")


def test_calls_results_mistakes_and_faults_are_all_there():
    made = synthetic_run.faulted(episode(skill=0.05, task=3))
    text = render(made)
    assert 'act lookup(name="' in text and "result " in text
    assert "lookup: malformed, not a JSON object" in text and "mistake malformed_json" in text
    assert "fault OperationalError in env.step: database is locked" in text
    assert "unscored · env_fault" in text


def test_colour_only_on_request():
    assert "\x1b" not in render(episode())
    assert "\x1b[35mtotal 0\x1b[0m" in render(episode(), colour=True)


def test_tokens_show_ids_probabilities_and_force():
    made = episode()
    turn = msgspec.structs.replace(
        made.turns[0],
        completion=(65, 66),
        sampled=(True, False),
        logprobs=(-0.25, -1.0),
        entropies=None,
        spans=(Span(kind="say", start=0, end=2),),
    )
    text = render(msgspec.structs.replace(made, turns=(turn,)), tokens=True, decode=lambda i: chr(i))
    assert "tokens A·65·-0.25 [B·66·-1.00]" in text


def test_an_unparsed_turn_shows_what_was_written():
    turn = msgspec.structs.replace(episode().turns[0], action=None, parse_error="no closing tag", completion=(72, 105))
    text = render(msgspec.structs.replace(episode(), turns=(turn,)), decode=lambda i: chr(i))
    assert "unparsed Hi" in text and "error no closing tag" in text


def test_branches_and_other_authors_are_named():
    made = episode()
    fork = msgspec.structs.replace(made.turns[1], parent=0, author="teacher")
    text = render(msgspec.structs.replace(made, turns=(*made.turns, fork)))
    assert "by teacher · branch of turn 1" in text


@pytest.mark.parametrize(
    ("text", "shown"), [("\x1b]0;evil\x07", "␛]0;evil␇"), ("a\rb", "a␍b"), ("\x9b31m", "�31m"), ("ok\n\té", "ok\n\té")]
)
def test_control_characters_are_visible(text: str, shown: str):
    assert visible(text) == shown


@given(st.text(max_size=300), st.integers(40, 120))
def test_any_text_stays_inside_its_lines(text: str, width: int):
    made = render_message(Message(role="user", content=(TextPart(text=text),)), width=width)
    assert all(len(line) <= width for line in made.split("\n"))
    assert all(c == "\n" or c.isprintable() for c in made)


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200))
def test_nothing_is_lost_by_wrapping(text: str):
    made = render_message(say("user", text), width=40)
    assert "".join(line[10:] for line in made.split("\n")) == text
