"""Worlds that services play in tests: one that counts, with every capability and every way to fail."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from phronesis.env import EnvSpec
from phronesis.records import Message, Reply, Task, TextPart, ToolCall, say
from phronesis.rewards import EnvReward


class Counter:
    """Adds up what is said; over at 3. Certain words make it fail, hang, or say something impossible."""

    def __init__(self, delay: float = 0.0):
        self.delay, self.total, self.seed = delay, 0, 0
        self.closed = 0

    async def reset(self, task: Task, seed: int) -> Reply:
        self.total, self.seed = int(task.payload["start"]), seed
        return Reply(messages=(say("user", f"{self.total} of 3, seed {seed}"),), metrics={"start": self.total})

    async def step(self, action: Message) -> Reply:
        await asyncio.sleep(self.delay)
        word = action.text
        if word == "fail":
            raise ValueError("the world broke")
        if word == "hang":
            await asyncio.sleep(1000)
        if word == "nonsense":
            return "no reply"  # type: ignore[return-value]
        if word == "unencodable":
            return Reply(messages=(say("user", "x"),), metrics={"x": object()})  # type: ignore[dict-item]
        if word == "compute":
            time.sleep(3.0)  # and nothing else moves in its process
        if word == "die":
            os._exit(9)
        if word == "pid":
            return Reply(messages=(say("user", str(os.getpid())),))
        self.total += 1
        call = Message(role="tool", content=(TextPart(text=f"{self.total} é☃"),), tool_call_id="c", name="add")
        return Reply(messages=(call,), done=self.total >= 3, reward=0.1 + 0.2 * self.total, state_key=str(self.total))

    async def close(self) -> None:
        self.closed += 1

    async def snapshot(self) -> bytes:
        return bytes([self.total, 0, 255])

    async def restore(self, state: bytes) -> None:
        self.total = state[0]

    async def legal(self) -> Sequence[Message]:
        call = ToolCall(id="c", name="add", arguments={"n": 1, "deep": {"of": [1.5, None, "x"]}})
        return [say("assistant", "one"), Message(role="assistant", tool_calls=(call,))]


class Plain:
    """One that can do nothing besides."""

    def __init__(self) -> None:
        self.inner = Counter()

    async def reset(self, task: Task, seed: int) -> Reply:
        return await self.inner.reset(task, seed)

    async def step(self, action: Message) -> Reply:
        return await self.inner.step(action)

    async def close(self) -> None:
        await self.inner.close()


def task(split: str, index: int) -> Task:
    return Task(
        id=f"{split}-{index}", env="counter", split=split, payload={"start": index % 2, "big": 2**70 if index == 5 else 1}
    )


def counter(delay: float = 0.0, plain: bool = False) -> EnvSpec:
    return EnvSpec(
        name="counter",
        make=Plain if plain else lambda: Counter(delay),
        task=task,
        rubric=EnvReward(),
        sizes={"train": None, "heldout": 4},
        oracle_reward=None,
        null_reward=None,
    )


class Machine:
    """A service in a process of its own, as the command line starts it."""

    def __init__(self, register: str, *words: str, token: str | None = None):
        folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(f for f in folders if f)}
        if token is not None:
            variables["PHRONESIS_SERVICES_TOKEN"] = token
        command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())"]
        self.process = subprocess.Popen(
            [*command, "env", "serve", "served_worlds:counter", "--register", register, *words],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Sends a signal and waits; exit code and what was printed."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Waits for its end; exit code and what was printed."""
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextmanager
def machines() -> Generator[Callable[..., Machine]]:
    """Starts services, and leaves none behind."""
    started: list[Machine] = []

    def start(register: str, *words: str, token: str | None = None) -> Machine:
        started.append(Machine(register, *words, token=token))
        return started[-1]

    try:
        yield start
    finally:
        for machine in started:
            if machine.process.poll() is None:
                machine.end(signal.SIGKILL)
            if machine.process.stdout is not None:
                machine.process.stdout.close()


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until something is so."""
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never became so")
