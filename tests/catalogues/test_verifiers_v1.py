"""Pins: a taskset of verifiers v1 plays here with its tools, its state and its stops, and earns what the package scores."""

import json
import subprocess

import pytest
from catalogue_worlds import HERE, played, python_of

from phronesis.envs import registry
from phronesis.envs.scripted import recorded
from phronesis.errors import ConfigError
from phronesis.records import Message, TextPart, ToolCall

WORLDS = str(HERE / "verifiers_v1_worlds.py")


def spec_of(**settings: object):
    python_of("verifiers")
    return registry.get("verifiers", {"module": WORLDS, "settings": json.dumps(settings)})


def look(place: object, name: str = "shelf_look") -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(id=f"call_{place}", name=name, arguments={"place": place}),))


def reply(text: str) -> Message:
    return Message(role="assistant", content=(TextPart(text=text),))


async def test_rewards_are_those_of_the_package():
    """24 tasks: right and wrong answers after none to three looks."""
    said = [(str(n * n + 1) if n % 2 == 0 else "no idea", n % 4) for n in range(24)]
    command = [python_of("verifiers"), WORLDS]
    theirs = json.loads(subprocess.run(command, input=json.dumps(said), capture_output=True, text=True, check=True).stdout)
    spec, ours = spec_of(), dict[int, float | None]()
    for split, size in spec.sizes.items():
        for index in range(size or 0):
            number = spec.task(split, index).payload["data"]["number"]
            text, looks = said[number]
            _, ours[number] = await played(spec, recorded([look(number)] * looks + [reply(text)]), index, split)
    assert [ours[n] for n in range(24)] == theirs
    assert set(theirs) == {1.25, 1.0, 0.25, 0.0}


async def test_what_the_policy_sees():
    spec = spec_of()
    split, index = next((s, i) for s, size in spec.sizes.items() for i in range(size) if spec.task(s, i).payload["index"] == 3)
    actions = [look(3), look(100), look("up"), look(1, "reset"), reply("10")]
    found, reward = await played(spec, recorded(actions), index, split)
    opening = [(m.role, m.text) for m in found.opening.messages]
    assert opening == [("system", "Say the number alone."), ("user", "What number is on the box at place 3?")]
    assert [(t.name, list(t.parameters["properties"])) for t in found.opening.tools] == [("shelf_look", ["place"])]
    texts = [r.messages[0].text for r in found.replies[:4]]
    assert texts[0] == "a box with the number 10"
    assert "error" in texts[1] and "place" in texts[2] and "there is no tool 'reset'" in texts[3]
    assert [r.errors for r in found.replies] == [(), ("tool_raised",), ("tool_raised",), ("unknown_tool",), ()]
    assert reward == 1.0 and found.replies[-1].metrics["looks"] == 2.0


async def test_a_stop_of_the_task_ends_it():
    found, reward = await played(spec_of(), recorded([look(n) for n in range(9)]))
    assert len(found.replies) == 4 and found.replies[-1].done and reward == 0.0


async def test_settings_reach_the_taskset():
    assert sum(spec_of(tasks=30).sizes.values()) == 30


def test_what_is_no_taskset_says_so(tmp_path):
    python_of("verifiers")
    (tmp_path / "nothing.py").write_text("x = 1\n")
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="has 0 tasksets"):
        registry.get("verifiers", {"module": str(tmp_path / "nothing.py")})
