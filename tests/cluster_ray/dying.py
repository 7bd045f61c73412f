"""A world that kills the process it is played in, once, in the middle of an episode: as the kernel does for want of memory."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import lessons

from phronesis.env import EnvSpec


def make(mark: str, seconds: float = 0.0, after: int = 1) -> EnvSpec:
    """The copy lesson.

    Args:
        mark: a file; while it is not there, nobody has died.
        seconds: every answer takes.
        after: the process that answers its call number `after` first dies.
    """
    spec, calls = lessons.copy(), 0

    def build():
        env = spec.make()
        step = env.step

        async def deadly(action):
            nonlocal calls
            calls += 1
            await asyncio.sleep(seconds)
            if calls >= after:
                try:
                    Path(mark).touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return await step(action)

        env.step = deadly
        return env

    return replace(spec, make=build)
