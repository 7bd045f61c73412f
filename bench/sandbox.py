"""What isolation costs: the life of a box, a command in it, a cell of an interpreter; beside a subprocess and bubblewrap."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from bench.measure import Row, compare
from phronesis.errors import SandboxFault
from phronesis.sandbox import BoxSpec, Interpreter, Limits, Pool, ladder, start

ROUNDS = 7
COUNT = 20
CODE = "print(sum(range(1000)))"


async def _timed(action: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of one action, mean of some."""
    began = time.perf_counter()
    for _ in range(COUNT):
        await action()
    return (time.perf_counter() - began) / COUNT * 1e3


async def _plain() -> None:
    """An isolated mode interpreter, as a subprocess."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", CODE, stdout=subprocess.PIPE)
    await process.communicate()


async def _measure() -> list[Row]:
    sandbox = await start("landlock")
    box = await sandbox.open(BoxSpec())
    pool = Pool(sandbox, BoxSpec(), ready=COUNT)
    python = Interpreter(box)

    async def life() -> None:
        async with await sandbox.open(BoxSpec()) as fresh:
            await fresh.run_python(CODE)

    async def pooled() -> None:
        async with pool.box() as fresh:
            await fresh.run_python(CODE)

    sides: dict[str, Callable[[], Awaitable[object]]] = {
        "python program in a box that is open": lambda: box.run_python(CODE),
        "box opened, program run, box closed": life,
        "box from a warm pool, program run": pooled,
        "cell of an interpreter in a box": lambda: python.run("1 + 1"),
        "/bin/true in a box that is open": lambda: box.run(["/bin/true"], limits=Limits()),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    peers: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            if name == "box from a warm pool, program run":
                await pool.fill()
            found[name].append(await _timed(side))
            peers[name].append(await _timed(_plain))
    await pool.close()
    await box.close()
    sandbox.close()
    peer = "python -I -S as a plain subprocess"
    rows = [_row(f"{name} ({box.tier})", found[name], peers[name], peer) for name in sides]
    return rows + await _beside_bubblewrap(found["box opened, program run, box closed"])


async def _beside_bubblewrap(ours: list[float]) -> list[Row]:
    if shutil.which("bwrap") is None:
        return []
    sandbox = ladder.MAKERS["bubblewrap"]()

    async def life() -> None:
        async with await sandbox.open(BoxSpec()) as fresh:
            await fresh.run_python(CODE)

    try:
        theirs = [await _timed(life) for _ in range(ROUNDS)]
    except SandboxFault:  # as root the interpreter may lie where an unprivileged user cannot read it
        return []
    return [_row("box opened, program run, box closed", ours, theirs, "the same over bubblewrap")]


def _row(what: str, ours: list[float], peers: list[float], peer: str) -> Row:
    return compare("sandbox", what, ours, peers, unit="ms", peer_name=peer)


def sandbox() -> list[Row]:
    """All rows."""
    return asyncio.run(_measure())
