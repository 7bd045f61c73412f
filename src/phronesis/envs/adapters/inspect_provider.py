"""Our sandbox as one of Inspect AI's: ``sandbox="phronesis"`` gives every sample a box of its own.

For an environment that has Inspect AI and Phronesis: an entry point tells Inspect of this module.
"""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from phronesis.sandbox import Box, BoxSpec, Limits, Refused, Sandbox, start

Foreign = Any
"""Something of the package."""
inspect_util: Foreign = importlib.import_module("inspect_ai.util")
LIMITS = Limits(seconds=120.0, output=10 << 20)
"""Of commands that bring no time limit."""


@inspect_util.sandboxenv(name="phronesis")
class PhronesisSandbox(inspect_util.SandboxEnvironment):
    """One box. Its commands reach neither network nor host; its work folder ends with the sample."""

    sandbox: Sandbox | None = None
    """Makes the boxes of all samples."""

    def __init__(self, box: Box):
        inspect_util.SandboxEnvironment.__init__(self)
        self.box = box

    @classmethod
    async def sample_init(cls, task_name: str, config: object, metadata: dict[str, str]) -> dict[str, Foreign]:
        """Opens a box."""
        if PhronesisSandbox.sandbox is None:
            PhronesisSandbox.sandbox = await start()
        return {"default": cls(await PhronesisSandbox.sandbox.open(BoxSpec()))}

    @classmethod
    async def sample_cleanup(cls, task_name: str, config: object, environments: dict[str, Foreign], interrupted: bool) -> None:
        """Closes it."""
        for found in environments.values():
            await found.box.close()

    @classmethod
    async def task_cleanup(cls, task_name: str, config: object, cleanup: bool) -> None:
        """Ends what makes boxes."""
        sandbox, PhronesisSandbox.sandbox = PhronesisSandbox.sandbox, None
        if sandbox is not None:
            sandbox.close()

    async def exec(
        self, cmd: list[str], input: str | bytes | None = None, cwd: str | None = None, env: dict[str, str] | None = None,
        user: str | None = None, timeout: int | None = None, **more: object,
    ) -> Foreign:  # fmt: skip
        """Runs a command, always as the box's own user.

        Raises:
            TimeoutError: it took longer than `timeout`.
        """
        given = input.encode() if isinstance(input, str) else input or b""
        limits = LIMITS if timeout is None else msgspec.structs.replace(LIMITS, seconds=float(timeout))
        ran = await self.box.run(cmd, stdin=given, cwd=cwd, environment=env, limits=limits)
        if ran.stopped == "time":
            raise TimeoutError(f"{cmd[0]} took longer than {limits.seconds:g} s")
        code = 1 if ran.code is None else ran.code
        return inspect_util.ExecResult(ran.ok, code, ran.stdout.text, ran.stderr.text)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Makes or replaces a file of the work folder."""
        await self.box.write(file, contents.encode() if isinstance(contents, str) else contents)

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """A file of the work folder.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            data = await self.box.read(file)
        except Refused as error:
            raise FileNotFoundError(f"{file!r}: {error}") from error
        return data.decode() if text else data
