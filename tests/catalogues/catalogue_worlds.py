"""What the tests of this folder share: playing a scripted agent, and where packages are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phronesis.env import Env, EnvSpec
from phronesis.envs.adapters import catalogues
from phronesis.envs.scripted import Clock, Played, expert, play_scripted, reward_of
from phronesis.records import Message, ToolSpec, say

HERE = Path(__file__).parent


def python_of(name: str) -> str:
    """The interpreter that has a catalogue's package; skips where it is not installed."""
    found = Path(catalogues.interpreter(name))
    if not found.exists():
        pytest.skip(f"needs the catalogue {name}: make setup-catalogues")
    return str(found)


def saying(*texts: str | Callable[[], str]) -> Callable[[Env, tuple[ToolSpec, ...]], object]:
    """Says these texts in order, then the last one for ever."""
    left = list(texts)

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        text = left.pop(0) if len(left) > 1 else left[0]
        return say("assistant", text if isinstance(text, str) else text())

    return speak


async def played(spec: EnvSpec, speaker, index: int = 0, split: str = "train", seed: int = 0) -> tuple[Played, float | None]:
    """An episode and what it earned."""
    task = spec.task(split, index)
    found = await play_scripted(spec, task, seed, speaker, clock=Clock(60))
    return found, (await reward_of(spec, found.episode)).value


async def oracle(spec: EnvSpec, index: int, split: str = "train") -> float | None:
    """What the expert earns."""
    return (await played(spec, expert(), index, split))[1]
