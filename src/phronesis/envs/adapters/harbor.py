"""`harbor`: task folders in the format of Harbor, played in boxes.

The agent has a shell on a machine that the Dockerfile describes. Tests and solution are nowhere near it: when it has stopped,
everything it left running is killed, its files are taken out, and the tests run in a fresh box: on all of its files (shared),
or on a fresh machine that gets only the declared artifacts (separate). The reward is what ``tests/test.sh`` writes.
"""

from __future__ import annotations

import base64
import io
import json
import math
import posixpath
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from phronesis.env import EnvSpec
from phronesis.envs import boxes
from phronesis.envs.adapters.harbor_folder import OWN, Command, HarborTask, Machine, read_all
from phronesis.envs.digest import digest
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError, EnvFault, UnknownName
from phronesis.records import Message, Reply, Task, say
from phronesis.rewards import EnvReward
from phronesis.sandbox import Box, BoxSpec, Limits, Ran, Refused
from phronesis.tools.shell import ShellTool

FILES = 16_384
"""Entries of a task's folders."""
MOST = 256 << 20
"""Bytes an agent may leave."""
LEVELS = {"easy": 1.0, "medium": 2.0, "hard": 3.0}
"""Difficulties by the names they usually have."""
PACK = """
import os, sys, tarfile
kept = json.loads(sys.stdin.read())
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as packed:
    for name in kept:
        if os.path.lexists(name):
            packed.add(name)
"""
UNPACK = """
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as packed:
    packed.extractall(".", filter="fully_trusted")
"""


class HarborEnv(ToolEnv):
    """One episode: the tool ``shell``, and a message without a call when the work is done."""

    def __init__(self, tasks: dict[str, HarborTask], seconds: float, max_turns: int):
        super().__init__()
        self.tasks, self.seconds, self.max_turns = tasks, seconds, max_turns
        self.held = boxes.Held()
        self.task: HarborTask | None = None
        self.turns = 0

    @property
    def here(self) -> HarborTask:
        """The episode's task.

        Raises:
            RuntimeError: the environment was not reset.
        """
        if self.task is None:
            raise RuntimeError("reset the environment before using it")
        return self.task

    async def begin(self, task: Task, seed: int) -> Opening:
        """Builds the machine."""
        self.task, self.turns = self.tasks[task.payload["name"]], 0
        here = self.here
        box = await self.held.open(spec(here, here.machine))
        await build(box, here.machine)
        shell = ShellTool(box, Limits(seconds=min(self.seconds, here.agent_seconds), memory=here.memory))
        shell.folder = here.machine.folder
        return Opening(task.messages, tuple(shell.tools()))

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """Runs the tests when there is no call, or no turn is left."""
        self.turns += 1
        if outcome is not None and self.turns < self.max_turns:
            return Reply()
        metrics = await self._judge()
        return Reply(done=True, reward=metrics["reward"], metrics=metrics)

    async def expert(self) -> Message:
        """Runs the solution; then says that it is done."""
        folder = Path(self.here.folder) / "solution"
        if self.turns or not (folder / "solve.sh").is_file():
            return say("assistant", "Done.")
        packed = base64.b64encode(_packed({f"solution/{k}": v for k, v in _files(folder).items()})).decode()
        unpack = f"echo {packed} | base64 -d | tar -xf - -C /solution --strip-components=1"
        return calling("shell", {"command": f"mkdir -p /solution/ && {unpack} && bash /solution/solve.sh"})

    async def close(self) -> None:
        """Gives the box back."""
        await self.held.close()

    async def _judge(self) -> dict[str, float]:
        here, box = self.here, self.held.box
        await box.clear()
        separate = here.mode == "separate"
        machine = here.judging if separate else here.machine
        kept = [posixpath.normpath(a).lstrip("/") for a in here.artifacts] if separate else [
            e.path for e in await box.entries(".", FILES) if "/" not in e.path and e.path not in OWN
        ]  # fmt: skip
        ran = await box.run_python(f"import json\n{PACK}", stdin=json.dumps(kept).encode(), limits=_wide(60))
        left = ran.stdout.data if ran.ok and not ran.stdout.truncated else None
        await self.held.close()
        if left is None:  # more than may be left, or nothing that can be read
            return {"reward": 0.0, "unreadable": 1.0}
        async with boxes.fresh(spec(here, machine)) as fresh:
            if separate:
                await build(fresh, machine)
            await _unpacked(fresh, left)
            return await _tested(fresh, here, machine)


async def _tested(box: Box, task: HarborTask, machine: Machine) -> dict[str, float]:
    """Puts the tests in, runs them, and reads what they wrote."""
    await box.run(["/bin/rm", "-rf", "tests", "solution", "logs/verifier"])  # by path: PATH may lead to what the agent left
    await _unpacked(box, _packed({f"tests/{path}": file for path, file in _files(Path(task.folder) / "tests").items()}))
    await box.run(["/bin/mkdir", "-p", "logs/verifier", "logs/agent", "logs/artifacts", "solution"])
    ran = await box.run(
        ["/bin/bash", "/tests/test.sh"],
        cwd=machine.folder,
        environment=task.verifier_environment,
        limits=Limits(seconds=task.verifier_seconds, memory=task.memory, file_size=None),
    )
    if ran.stopped == "died":
        raise EnvFault(f"the box of the tests of {task.name!r} died")
    found = await _rewards(box)
    if not found:
        return {"reward": 0.0, "no_reward_file": 1.0, "verifier_timeout": float(ran.stopped == "time")}
    if "reward" not in found:
        found["reward"] = math.fsum(found.values()) / len(found)
    return found


async def _rewards(box: Box) -> dict[str, float]:
    """What ``reward.json``, or else ``reward.txt`` says; nothing where there is neither.

    Raises:
        EnvFault: the tests wrote something else than numbers.
    """
    for name in ("reward.json", "reward.txt"):
        try:
            text = (await box.read(f"logs/verifier/{name}", 1 << 16)).decode("utf-8", "replace").strip()
        except Refused:
            continue
        try:
            read = cast("object", json.loads(text))
        except ValueError as error:
            raise EnvFault(f"{name} of the tests holds no number: {text[:80]!r}") from error
        numbers = cast("dict[str, object]", read if isinstance(read, dict) else {"reward": read})
        if not numbers or any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers.values()):
            raise EnvFault(f"{name} of the tests holds something else than numbers: {text[:80]!r}")
        values = {str(k): float(cast("float", v)) for k, v in numbers.items()}
        if not all(map(math.isfinite, values.values())):
            raise EnvFault(f"{name} of the tests holds a number that is not finite: {text[:80]!r}")
        return values
    return {}


def spec(task: HarborTask, machine: Machine) -> BoxSpec:
    """The box of a machine: its top folders are links into the work folder."""
    tops = {*machine.tops, *(a.split("/")[1] for a in task.artifacts if a.startswith("/"))} - {"tmp", "work"}
    return BoxSpec(
        disk=task.disk,
        files=FILES,
        memory=task.memory,
        environment=machine.environment,
        links={f"/{top}": f"/work/{top}" for top in sorted(tops)},
    )


async def build(box: Box, machine: Machine) -> None:
    """Follows a Dockerfile.

    Raises:
        EnvFault: a RUN failed; says what it printed.
    """
    await box.run(["mkdir", "-p", *(f"./{top}" for top in machine.tops), "logs/agent", f".{machine.folder}"])
    for step in machine.steps:
        if not isinstance(step, Command):
            await _unpacked(box, _packed({path.lstrip("/"): Path(host) for path, host in step.files.items()}))
            continue
        await box.run(["mkdir", "-p", f".{step.folder}"])
        ran: Ran = await box.run(["sh", "-c", step.text], cwd=step.folder, environment=step.environment, limits=_wide(60))
        if not ran.ok:
            why = ran.stderr.text.strip()[-300:] or ran.stopped or f"exit status {ran.code}"
            raise EnvFault(f"RUN {step.text[:80]!r} failed: {why}; a box has no network and a read-only system")


def _wide(seconds: float) -> Limits:
    return Limits(seconds=seconds, memory=None, file_size=MOST, output=MOST)


async def _unpacked(box: Box, data: bytes) -> None:
    ran = await box.run_python(UNPACK, stdin=data, limits=_wide(60))
    if not ran.ok:
        raise EnvFault(f"files could not be put into a box: {ran.stderr.text.strip()[-300:]}")


def _files(folder: Path) -> dict[str, Path]:
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _packed(files: dict[str, Path]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, host in files.items():
            data = host.read_bytes()
            about = tarfile.TarInfo(path)
            about.size, about.mode = len(data), 0o755 if host.stat().st_mode & 0o111 else 0o644
            archive.addfile(about, io.BytesIO(data))
    return made.getvalue()


def _content(task: HarborTask) -> str:
    """Hash of everything that makes the task."""
    return digest(
        [task.instruction, {path: digest(file.read_bytes().hex()) for path, file in _files(Path(task.folder)).items()}]
    )


def make(folder: str, *, max_turns: int = 40, seconds: float = 60.0, heldout: Iterable[str] = ()) -> EnvSpec:
    """The tasks of a folder.

    Args:
        folder: holds one task, or a sub-folder for each.
        max_turns: turns of an episode; after the last one the tests run as it is.
        seconds: longest one command of the agent may take; a task may say less.
        heldout: names of tasks that are held out; all others are for training.

    Raises:
        ConfigError: there is no task, one cannot be played here, or one is in both splits; says which and why.
        UnknownName: there is no task of a name that is held out.
        SandboxUnavailable: this machine cannot isolate commands.
    """
    boxes.require()
    tasks = {task.name: task for task in read_all(folder)}
    apart = set(heldout)
    for name in sorted(apart - tasks.keys()):
        raise UnknownName("held-out task", name, tasks)
    keys = {name: _content(found) for name, found in tasks.items()}
    training = {keys[name]: name for name in tasks if name not in apart}
    for name in sorted(apart):
        if keys[name] in training:
            raise ConfigError(f"the task {name!r}, which is held out, is the same as {training[keys[name]]!r}, which is not")
    splits = {"train": [n for n in tasks if n not in apart], "heldout": [n for n in tasks if n in apart]}

    def task(split: str, index: int) -> Task:
        found = tasks[splits[split][index]]
        return Task(
            id=found.name,
            env="harbor",
            messages=(
                say("user", f"{found.instruction}\n\nYou work at a shell in {found.machine.folder}, without a network."),
            ),
            payload={"name": found.name},
            split=split,
            difficulty=LEVELS.get(found.difficulty),
            content_key=keys[found.name],
        )

    return EnvSpec(
        name="harbor",
        make=lambda: HarborEnv(tasks, seconds, max_turns),
        task=task,
        rubric=EnvReward(by="episode", name="reward"),
        sizes={split: len(names) for split, names in splits.items() if names},
        description=f"{len(tasks)} task{'s' if len(tasks) > 1 else ''} in the format of Harbor.",
        max_turns=max_turns,
        oracle_reward=1.0 if all((Path(t.folder) / "solution" / "solve.sh").is_file() for t in tasks.values()) else None,
    )


__all__ = ["HarborEnv", "make"]
