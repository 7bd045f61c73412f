"""Pins: environments of verifiers before v1 play here as in the package's own rollout, and earn the same."""

import json
import subprocess

import pytest
from catalogue_worlds import HERE, played, python_of

from phronesis.envs import registry
from phronesis.envs.scripted import recorded
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Message, TextPart, ToolCall

WORLDS = str(HERE / "verifiers_v0_worlds.py")


def spec_of(kind: str):
    python_of("verifiers-v0")
    return registry.get("verifiers_v0", {"module": WORLDS, "settings": json.dumps({"kind": kind})})


def messages(words) -> list[Message]:
    found = []
    for text, calls in words:
        made = tuple(ToolCall(id=f"call_{i}", name=n, arguments=a) for i, (n, a) in enumerate(calls))
        found.append(Message(role="assistant", content=(TextPart(text=text),), tool_calls=made))
    return found


def script(kind: str, n: int) -> list:
    """What is said to task n: right, off by one, wrong, or something that breaks a rule."""
    right = 2 * n + 3
    final = [(str(right), []), (str(right + 1), []), ("no idea", []), ("", [])][n % 4]
    if kind == "single":
        return [final]
    if kind == "multi":
        return [(str(right), []), (str(right - (1 if n % 3 else 7)), []), (str(right - 2), []), ("end", []), ("end", [])]
    broken = [("", [("double", {"number": n})]), ("", [("double", {"wrong": 1})]), ("", [("double", {"number": 2000})])]
    return [broken[n % 3], *([("", [("double", {"number": n})])] * 4 if n % 5 == 0 else [final])]


async def test_rewards_are_those_of_the_package():
    """24 tasks of each kind: with one answer, with several turns, with tools."""
    kinds = ("single", "multi", "tool")
    said = {kind: [script(kind, n) for n in range(24)] for kind in kinds}
    command = [python_of("verifiers-v0"), WORLDS]
    done = subprocess.run(command, input=json.dumps(said), capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    for kind in kinds:
        spec = spec_of(kind)
        ours: dict[int, float | None] = {}
        for split, size in spec.sizes.items():
            for index in range(size or 0):
                number = spec.task(split, index).payload["row"]["info"]["n"]
                if number < 24:
                    _, ours[number] = await played(spec, recorded(messages(said[kind][number])), index, split)
        assert [ours[n] for n in range(24)] == pytest.approx(theirs[kind]), kind
        assert len(set(theirs[kind])) >= 2, "some are right and some are wrong"


async def test_what_the_policy_sees():
    """System message and question; the tool's answer, and its complaint; its own words are not told back."""
    spec = spec_of("tool")
    split, index = next(
        (s, i) for s, size in spec.sizes.items() for i in range(size) if spec.task(s, i).payload["row"]["info"]["n"] == 4
    )
    said = messages([("", [("double", {"number": 4})]), ("", [("double", {"number": 2000})]), ("11", [])])
    found, reward = await played(spec, recorded(said), index, split)
    assert [(m.role, m.text) for m in found.opening.messages] == [("user", "What is 4 + 7?")]
    assert [t.name for t in found.opening.tools] == ["double"]
    assert found.opening.tools[0].parameters["properties"]["number"]["type"] == "integer"
    assert [[(m.role, m.text) for m in r.messages] for r in found.replies] == [[("tool", "8")], [("tool", "too large")], []]
    assert [r.done for r in found.replies] == [False, False, True]
    assert reward == 1.0 and found.replies[-1].metrics["exact"] == 1.0 and found.replies[-1].metrics["num_turns"] == 3.0


def test_the_packages_own_evaluation_set_is_held_out():
    spec = spec_of("single")
    assert spec.sizes == {"train": 24, "heldout": 8}
    assert spec.task("heldout", 0).payload["row"]["info"]["n"] == 100


def test_without_one_problems_are_split_by_content():
    sizes = spec_of("multi").sizes
    assert sum(sizes.values()) == 24 and min(sizes.values()) > 0


async def test_a_tool_that_reaches_for_the_episode_is_refused():
    with pytest.raises(EnvFault, match="a tool named 'reset'; that name is reserved"):
        await played(spec_of("thief"), recorded(messages([("1", [])])))


def test_what_is_no_environment_says_so(tmp_path):
    python_of("verifiers-v0")
    (tmp_path / "nothing.py").write_text("x = 1\n")
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="has no function load_environment"):
        registry.get("verifiers_v0", {"module": str(tmp_path / "nothing.py")})
    with pytest.raises(ConfigError, match="there is no file"):
        registry.get("verifiers_v0", {"module": str(tmp_path / "absent.py")})
    with pytest.raises(ConfigError, match="expected a JSON object"):
        registry.get("verifiers_v0", {"module": WORLDS, "settings": "7"})
