import json
from collections.abc import Callable

import pytest
from terminal import Seen

from phronesis.cli.play import mistyped, read_action, signature
from phronesis.records import ToolCall, ToolSpec

Run = Callable[..., Seen]

GUESS = ToolSpec(
    name="guess",
    description="",
    parameters={"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
)
NOTE = ToolSpec(
    name="note",
    description="",
    parameters={"properties": {"text": {"type": "string"}, "times": {"type": "integer"}}, "required": ["text"]},
)
PUT = ToolSpec(
    name="put",
    description="",
    parameters={"properties": {"place": {"type": "integer"}, "text": {"type": "string"}}, "required": ["place", "text"]},
)
LOOK = ToolSpec(name="look", description="", parameters={"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("guess number=5", [("guess", {"number": 5})]),
        ("guess 5", [("guess", {"number": 5})]),
        ("guess five", [("guess", {"number": "five"})]),
        ("look", [("look", {})]),
        ("note two", [("note", {"text": "two"})]),
        ("put 7 hello  =  world", [("put", {"place": 7, "text": "hello  =  world"})]),
        ("put text=x place=1", [("put", {"text": "x", "place": 1})]),
        ("note text=5 times=2", [("note", {"text": "5", "times": 2})]),
        ('note text="two words" times=[1]', [("note", {"text": "two words", "times": [1]})]),
        ('{"name": "guess", "arguments": {"number": 5}}', [("guess", {"number": 5})]),
        ('{"name": "absent"}', [("absent", {})]),
        ('[{"name": "look"}, {"name": "guess", "arguments": {"number": 1}}]', [("look", {}), ("guess", {"number": 1})]),
    ],
)
def test_lines_that_are_calls(line: str, calls: list[tuple[str, dict[str, object]]]):
    message = read_action(line, [GUESS, NOTE, LOOK, PUT], 3)
    assert message.role == "assistant" and message.content == ()
    assert [(c.name, c.arguments) for c in message.tool_calls] == calls
    assert [c.id for c in message.tool_calls] == [f"call_3_{n}" for n in range(len(calls))]


@pytest.mark.parametrize("line", ["guessing is fun", "5", "{not json", '{"a": 1}', "[1, 2]", "hello world"])
def test_lines_that_are_said(line: str):
    message = read_action(line, [GUESS], 0)
    assert message.text == line and message.tool_calls == ()


def test_a_slip_is_not_said():
    assert mistyped("gues 5", [GUESS, LOOK]) == "guess" and mistyped("Look", [LOOK]) == "look"
    assert [mistyped(line, [GUESS, LOOK]) for line in ("guess 5", "it is done", "5", "lo ok", "")] == [None] * 5


def test_arguments_that_are_no_object_reach_the_environment_as_an_error():
    (call,) = read_action('{"name": "guess", "arguments": [5]}', [GUESS], 0).tool_calls
    assert call == ToolCall(id="call_0_0", name="guess", arguments={}, error="arguments must be an object, got [5]")


def test_signatures():
    assert signature(NOTE) == ["text: string", "times?: integer"] and signature(LOOK) == []


def test_a_whole_game_with_score(run: Run):
    seen = run("play", "guess", "--task", "0", stdin="\n/help\nguess 5\nguess 2\nguess 1\nguess 0\n")
    assert seen.code == 0 and seen.err == ""
    assert "Find the hidden number from 0 to 9" in seen.out
    assert "tool guess(number: integer)" in seen.out
    assert "call a tool" in seen.out
    assert (
        seen.out.rstrip().splitlines()[-1].startswith(("score 0.7 (", "score 0.8 (", "score 0.9 (", "score 1 (", "score 0 ("))
    )


def test_the_score_is_the_environments_own(run: Run):
    """Guessing in order finds the number n at guess n + 1, worth 1 - 0.1 n, or not within four guesses."""
    for task in range(6):
        lines = run(
            "play", "guess", "--task", str(task), "--json", stdin="".join(f"guess {n}\n" for n in range(4))
        ).out.splitlines()
        end = json.loads(lines[-1])
        found = [n for n, line in enumerate(lines[1:-1]) if "correct" in line]
        assert end["turns"] == (found[0] + 1 if found else 4)
        assert end["reward"] == pytest.approx(1 - 0.1 * found[0] if found else 0.0)


def test_giving_up_is_said_and_scored_like_silence(run: Run):
    assert run("play", "guess", stdin="guess 5\n/quit\n").out.rstrip().endswith("gave up")
    end = json.loads(run("play", "guess", "--json", stdin="").out.splitlines()[-1])
    assert end["gave_up"] is True and end["reward"] in (0.0, None) and end["turns"] == 0


def test_mistakes_come_back_as_tool_errors(run: Run):
    seen = run("play", "guess", "--json", stdin='{"name": "gess", "arguments": {}}\nguess number=x\n')
    end = json.loads(seen.out.splitlines()[-1])
    assert seen.code == 0 and end["errors"][0] == "unknown_tool" and len(end["errors"]) == 2


def test_dials_reach_the_environment(run: Run):
    wide = run("play", "frozenlake", "map_name=8x8", stdin="").out
    assert wide.count("\n") > run("play", "frozenlake", "map_name=4x4", stdin="").out.count("\n")


def test_environments_are_listed(run: Run):
    listed = {entry["name"]: entry for entry in json.loads(run("env", "list", "--json").out)}
    assert {"ledger", "guess", "frozenlake", "taxi"} <= listed.keys()
    assert all(entry["description"] and ":" in entry["path"] for entry in listed.values())
    text = run("env", "list").out
    assert all(name in text for name in listed)


def test_checking_an_environment(run: Run):
    good = run("env", "check", "guess", "--json")
    report = json.loads(good.out)
    assert good.code == 0 and report["ok"] and {f["verdict"] for f in report["findings"]} <= {"ok", "skip"}
    assert run("env", "check", "guess").out.startswith("guess: ok (")


def test_a_broken_promise_is_exit_code_1(run: Run, tmp_path: object, monkeypatch: pytest.MonkeyPatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(tmp_path)
    Path(str(tmp_path), "liar_for_cli.py").write_text(
        "from dataclasses import replace\n"
        "from phronesis.envs import registry\n"
        "def make():\n"
        "    return replace(registry.get('guess'), name='liar', oracle_reward=2.0)\n"
    )
    seen = run("env", "check", "liar_for_cli:make")
    assert seen.code == 1 and seen.out.startswith("liar: FAILED") and "promised 2.000" in seen.out


def test_at_a_shell_a_line_is_a_command(run: Run):
    typed = "/help\necho one; echo two\nshell echo three\n[ 1 = 1 ] && echo 'f o  u r'\nprintf 'a\\033[31mb'\nfalse\n/done\n"
    seen = run("play", "terminal", stdin=typed)
    assert "Every line is a command" in seen.out and "COMMAND              runs it" in seen.out
    assert "\none\ntwo\nthree\nf o  u r\na␛[31mb\n[exit status 1]\n" in seen.out
    assert "score 0 (no success) after 6 turns of at most 20" in seen.out


def test_a_command_line_with_command_in_it_is_run_as_it_is(run: Run):
    seen = run("play", "terminal", stdin="echo command=1; x=2; echo $x\n/say it is done\n")
    assert "\ncommand=1\n2\n" in seen.out and "after 2 turns" in seen.out
