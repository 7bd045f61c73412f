"""Our sandbox as an environment of Harbor: ``harbor run --environment-import-path
phronesis.envs.adapters.harbor_provider:PhronesisEnvironment``.

For an environment that has Harbor and Phronesis. What a box can do of a Dockerfile, and what it refuses: see `harbor_folder`.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import tarfile
from pathlib import Path
from typing import Any

from phronesis.envs.adapters.harbor import build
from phronesis.envs.adapters.harbor_folder import Machine, dockerfile
from phronesis.sandbox import Box, BoxSpec, Limits, Sandbox, start

Foreign = Any
"""Something of the package."""
base: Foreign = importlib.import_module("harbor.environments.base")
OUTPUT = 64 << 20
"""Bytes of output, and of what is copied at once."""


class PhronesisEnvironment(base.BaseEnvironment):
    """One box, without a network. Paths below the top folders of a task lead into its work folder."""

    sandbox: Sandbox
    box: Box

    @staticmethod
    def type() -> str:
        """Its name."""
        return "phronesis"

    def _validate_definition(self) -> None:
        self.machine: Machine = dockerfile(self.environment_dir.parent, self.environment_dir, {})

    async def start(self, force_build: bool) -> None:
        """Opens a box and follows the Dockerfile."""
        self.sandbox = await start()
        tops = {f"/{top}": f"/work/{top}" for top in self.machine.tops}
        spec = BoxSpec(disk=256 << 20, files=16_384, environment=self.machine.environment, links=tops)
        self.box = await self.sandbox.open(spec)
        await build(self.box, self.machine)
        await self.box.run(["mkdir", "-p", "logs/agent", "logs/verifier", "logs/artifacts"])

    async def stop(self, delete: bool) -> None:
        """Ends the box."""
        await self.box.close()
        self.sandbox.close()

    async def exec(
        self, command: str, cwd: str | None = None, env: dict[str, str] | None = None, timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> Foreign:  # fmt: skip
        """Runs a command, always as the box's own user."""
        limits = Limits(seconds=float(timeout_sec or 3600), memory=None, output=OUTPUT)
        folder = cwd or self.machine.folder
        ran = await self.box.run(["bash", "-c", command], cwd=folder, environment=env, limits=limits, linger=True)
        if ran.stopped == "time":
            raise TimeoutError(f"the command took longer than {timeout_sec} s")
        code = 1 if ran.code is None else ran.code
        return base.ExecResult(stdout=ran.stdout.text, stderr=ran.stderr.text, return_code=code)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        """Puts a file into the box."""
        source = Path(source_path)
        await self.box.write(target_path.lstrip("/"), source.read_bytes(), executable=bool(source.stat().st_mode & 0o111))

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        """Puts the files of a folder into the box."""
        for path in sorted(Path(source_dir).rglob("*")):
            if path.is_file():
                await self.upload_file(path, f"{target_dir}/{path.relative_to(source_dir).as_posix()}")

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        """Takes a file out of the box."""
        data = await self.box.read(source_path.lstrip("/"), OUTPUT)
        await asyncio.to_thread(Path(target_path).write_bytes, data)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        """Takes the files of a folder out of the box."""
        command = ["tar", "-cf", "-", "-C", source_dir, "."]
        ran = await self.box.run(command, limits=Limits(seconds=60, memory=None, output=OUTPUT))
        with tarfile.open(fileobj=io.BytesIO(ran.stdout.data)) as packed:
            packed.extractall(target_dir, filter="data")
