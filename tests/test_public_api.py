"""Pins: the names of the one door, that each is the thing itself, and that opening it does not import torch."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import phronesis

NAMES = [
    "AdamWConfig",
    "Agent",
    "AllOf",
    "Completion",
    "Component",
    "Conversation",
    "Credit",
    "CreditRule",
    "Env",
    "EnvChoice",
    "EnvReward",
    "EnvSpec",
    "Episode",
    "EpisodeGroup",
    "EvalConfig",
    "FunctionRubric",
    "GiGPOCredit",
    "Hooks",
    "LearnerConfig",
    "Limits",
    "Message",
    "ModelConfig",
    "MuonConfig",
    "PhronesisError",
    "Policy",
    "PrimeConfig",
    "Reply",
    "Reward",
    "Rubric",
    "Run",
    "RunConfig",
    "Sampling",
    "SamplingParams",
    "Session",
    "Stop",
    "SupervisedConfig",
    "Task",
    "TaskSource",
    "TinyModel",
    "ToolCall",
    "ToolError",
    "TrajectoryCredit",
    "Turn",
    "TurnReturnCredit",
    "UserError",
    "__version__",
    "from_class",
    "from_env",
    "from_tools",
    "recipe",
    "run",
    "say",
    "tool",
    "with_demonstrations",
]
"""What is public. A name is added here on purpose, and is not taken away again without a line in CHANGELOG.md."""

HOMES = {
    "CreditRule": "phronesis.credit.rule",
    "EnvSpec": "phronesis.env",
    "FunctionRubric": "phronesis.rewards.function",
    "Message": "phronesis.records.message",
    "Run": "phronesis.store.run",
    "RunConfig": "phronesis.train.config",
    "from_class": "phronesis.envs.trl_style",
    "run": "phronesis.train.job",
    "tool": "phronesis.tool",
}


def test_the_door_has_exactly_these_names():
    assert phronesis.__all__ == NAMES
    assert set(NAMES) <= set(dir(phronesis))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_somewhere(name: str):
    found = getattr(phronesis, name)
    assert found is getattr(phronesis, name)
    assert isinstance(found, str) or found.__module__.startswith("phronesis.")


@pytest.mark.parametrize(("name", "module"), HOMES.items())
def test_a_name_is_the_thing_itself(name: str, module: str):
    assert getattr(phronesis, name) is getattr(importlib.import_module(module), name)


def test_recipe_is_the_one_of_the_command_line():
    assert phronesis.recipe("quickstart").name == "quickstart"


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="module 'phronesis' has no attribute 'Environment'"):
        phronesis.Environment  # noqa: B018


def test_opening_the_door_imports_nothing_heavy():
    heavy = ("torch", "transformers", "tokenizers", "gymnasium", "numpy", "typer", "rich")
    code = f"import phronesis, sys; print([m for m in {heavy!r} if m in sys.modules], phronesis.tool.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] tool\n"


def test_the_decorator_does_not_hide_its_module():
    code = (
        "import phronesis.tool; from phronesis.tool import Tool, as_tool; from phronesis import tool\n"
        "@tool\ndef double(n: int) -> int:\n    '''Doubles.'''\n    return 2 * n\n"
        "assert isinstance(as_tool(double), Tool); print(phronesis.tool is tool)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
