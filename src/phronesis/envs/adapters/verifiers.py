"""Environments of verifiers: tasksets of v1, and modules with ``load_environment`` of the versions before.

Each lives in an environment of its own (``phronesis catalogue setup verifiers``, ``… verifiers-v0``), and its worker in a box
of the sandbox. Tools run there and so do scores; a module in a file is shown to the worker with its folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from phronesis.env import EnvSpec
from phronesis.envs.adapters.catalogues import advice, interpreter
from phronesis.envs.worker.env import WorkerEnv
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.envs.worker.tasks import ListedTasks
from phronesis.errors import ConfigError
from phronesis.rewards import EnvReward

GUESTS = Path(__file__).parent / "guests"


def taskset(module: str, settings: str = "{}", max_turns: int = 16, python: str = "", isolated: bool = True) -> EnvSpec:
    """A taskset of verifiers v1: its tasks, their tools, and the sum of their weighted rewards.

    Args:
        module: an installed module, or a file, that has a `Taskset`.
        settings: fields of the taskset's configuration, as JSON.
        max_turns: answers of the policy at most.
        python: interpreter that has verifiers; that of the catalogue's own environment by default.
        isolated: run in a box of the sandbox.

    Raises:
        ConfigError: not installed, no taskset, or one that needs a container.
        SandboxUnavailable: isolated, and this machine cannot.
    """
    spec = _worker("verifiers", "verifiers_v1_guest.py", module, settings, python, isolated)
    return _spec("verifiers", spec, max_turns, f"verifiers, {Path(module).name}")


def environment(module: str, settings: str = "{}", max_turns: int = 16, python: str = "", isolated: bool = True) -> EnvSpec:
    """A module with ``load_environment``, of verifiers before v1: the package's own rollout, with our policy as its model.

    Args:
        module: an installed module, or a file.
        settings: arguments of ``load_environment``, as JSON.
        max_turns: answers of the policy at most, beside the environment's own bound.
        python: interpreter that has verifiers before 0.2; that of the catalogue's own environment by default.
        isolated: run in a box of the sandbox.

    Raises:
        ConfigError: not installed, no ``load_environment``, or an environment of another kind.
        SandboxUnavailable: isolated, and this machine cannot.
    """
    spec = _worker("verifiers-v0", "verifiers_v0_guest.py", module, settings, python, isolated)
    return _spec("verifiers_v0", spec, max_turns, f"verifiers v0, {Path(module).name}")


def _worker(name: str, guest: str, module: str, settings: str, python: str, isolated: bool) -> WorkerSpec:
    try:
        args = msgspec.json.decode(settings, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"settings is {settings!r}, expected a JSON object: {error}") from error
    path = os.path.abspath(module) if module.endswith(".py") else module
    if path.endswith(".py") and not os.path.isfile(path):
        raise ConfigError(f"there is no file {path!r}")
    return WorkerSpec(
        name=name,
        python=interpreter(name, python),
        guest=GUESTS / guest,
        args={"module": path, "args": args},
        isolated=isolated,
        readable=(os.path.dirname(path),) if path.endswith(".py") else (),
        install=advice(name),
    )


def _spec(name: str, spec: WorkerSpec, max_turns: int, description: str) -> EnvSpec:
    tasks = ListedTasks(name, spec, endless=False)
    return EnvSpec(
        name=name,
        make=lambda: WorkerEnv(spec),
        task=tasks.task,
        sizes=tasks.sizes,
        rubric=EnvReward(by="episode", name="success"),
        description=description,
        max_turns=max_turns,
        oracle_reward=None,
        null_reward=None,
        secrets=("answer",),
    )
