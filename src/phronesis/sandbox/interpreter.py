"""A persistent Python in a box: variables live from one call to the next, until it is restarted or runs out of time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from msgspec import Struct

from phronesis.errors import SandboxFault
from phronesis.sandbox.box import Box, Child
from phronesis.sandbox.spec import Limits

START = "from phronesis.sandbox.inside.repl import main; main()"
LONGEST = 1 << 20
"""Most characters of value and of error that are kept."""


class Said(Struct, frozen=True, kw_only=True):
    """What came of a piece of code."""

    output: str = ""
    """What it printed, to stdout or stderr, in order."""
    value: str | None = None
    """The value of its last line, as Python writes it; None if that was no expression, or None."""
    error: str | None = None
    """The traceback, if it raised."""
    truncated: int = 0
    """Bytes of output left out."""
    restarted: bool = False
    """Whether the interpreter ended: all its variables are lost. The next piece of code finds a fresh one."""


class Interpreter:
    """One interpreter of a box. Several of one box share its work folder."""

    def __init__(self, box: Box, limits: Limits | None = None):
        """Starts when first needed.

        Args:
            box: where it runs.
            limits: of each piece of code (seconds, output) and of the process (the others); None means those of the box.
        """
        self.box, self.limits = box, limits or box.spec.limits
        self.child: Child | None = None
        self.turn = asyncio.Lock()

    async def run(self, code: str, seconds: float | None = None) -> Said:
        """Runs code. One piece at a time; others wait.

        Args:
            code: statements; the value of a last expression is shown.
            seconds: the wall clock; None means the limit.

        Raises:
            SandboxFault: the box broke.
        """
        async with self.turn:
            if self.child is None or self.child.ended:
                self.child = await self.box.start(
                    [self.box.python, "-c", START], limits=self.limits, environment={"TMPDIR": f"{self.box.work}/.tmp"}
                )
            allowed = self.limits.seconds if seconds is None else seconds
            try:
                return await asyncio.wait_for(self._asked(self.child, code), allowed)
            except TimeoutError:
                await self._ended()
                return Said(
                    error=f"out of time after {allowed:g} s; the interpreter was restarted and its variables are lost",
                    restarted=True,
                )
            except (OSError, ValueError, EOFError):
                code_of = await self._ended()
                return Said(error=f"the interpreter ended{code_of}; its variables are lost", restarted=True)
            except asyncio.CancelledError:
                await self._ended()
                raise

    async def close(self) -> None:
        """Ends it; the box stays."""
        if self.child is not None:
            await self._ended()

    async def _asked(self, child: Child, code: str) -> Said:
        child.given.write(json.dumps({"code": code, "most": self.limits.output}).encode() + b"\n")
        await child.given.drain()
        line = await child.output.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        told = cast("dict[str, Any]", json.loads(line))
        value, error = (None if told[k] is None else _short(told[k]) for k in ("value", "error"))
        return Said(output=told["output"], value=value, error=error, truncated=told["truncated"])

    async def _ended(self) -> str:
        """Kills it, and says how it ended if it did so by itself."""
        child, self.child = self.child, None
        if child is None:
            return ""
        await asyncio.sleep(0)
        child.close()
        try:
            await asyncio.wait_for(asyncio.shield(child.answer), 0.2)
        except (TimeoutError, SandboxFault):
            pass
        else:
            return f" with status {child.answer.result()[0]['code']}"
        await self.box.end(child)
        return ""


def _short(text: str) -> str:
    return (
        text
        if len(text) <= LONGEST
        else f"{text[: LONGEST // 2]} [{len(text) - LONGEST} characters left out] {text[-LONGEST // 2 :]}"
    )
