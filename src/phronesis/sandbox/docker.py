"""Boxes in containers of a local Docker engine (or podman). The engine must run on this machine: descriptors are handed to it.

Written to the documented command line; the project's own tests run it against a stand-in for the engine only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile

from phronesis.errors import SandboxFault, SandboxUnavailable
from phronesis.sandbox.box import Box
from phronesis.sandbox.spec import BoxSpec
from phronesis.sandbox.zygotes import FIND_INSIDE, PACKAGE

INSIDE = "/phronesis"
BOOT = (
    FIND_INSIDE
    + """
import os, socket
from phronesis.sandbox.inside import boxes, repl
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect("/run/phronesis/box")
asked = {"kind": "inherited", "work": "/work", "loopback": sys.argv[2] == "1"}
boxes.enter(asked, channel.detach(), os.open("/dev/null", os.O_WRONLY), boxes.Step())
"""
)
START = 60.0
"""Seconds a container has to start."""


class Docker:
    """Starts one container for each box."""

    def __init__(self, program: str | None = None, image: str = "python:3.11-slim"):
        """Finds the client.

        Args:
            program: path of the client; None looks for docker, then podman.
            image: one with Python that the engine already has; nothing is fetched.

        Raises:
            SandboxUnavailable: there is no client, or it reaches no engine.
        """
        found = program or shutil.which("docker") or shutil.which("podman")
        if found is None:
            raise SandboxUnavailable("no docker or podman client is installed")
        self.program, self.image = found, image

    async def open(self, spec: BoxSpec) -> Box:
        """A new box.

        Raises:
            SandboxFault: the engine refused; the message is its own.
        """
        if spec.hidden or spec.links:
            raise SandboxFault("a box could not be made: docker: files cannot be hidden and no links made in an image")
        folder = tempfile.mkdtemp(prefix="phronesis-docker-")
        os.chmod(folder, 0o711)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{folder}/box")
            os.chmod(f"{folder}/box", 0o666)
            listener.listen(1)
            listener.settimeout(START)
            try:
                container = (await self._call(*self._arguments(spec, folder))).strip()
                ours, _ = await asyncio.to_thread(listener.accept)
                first = int(await self._call("inspect", "--format", "{{.State.Pid}}", container))
            except (OSError, ValueError, SandboxFault) as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise SandboxFault(f"a box could not be made: docker: {error}") from error
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8", **spec.environment}
        return Box(
            spec, "docker", ours, first, environment=variables, python="@python",
            on_close=lambda: shutil.rmtree(folder, ignore_errors=True),
        )  # fmt: skip

    def close(self) -> None:
        """Containers remove themselves."""

    def _arguments(self, spec: BoxSpec, folder: str) -> list[str]:
        arguments = ["run", "--detach", "--rm", "--pull", "never", "--network", "none", "--read-only", "--user", "65534:65534"]
        arguments += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--ipc", "private"]
        arguments += ["--memory", str(spec.memory), "--memory-swap", str(spec.memory), "--pids-limit", str(spec.processes)]
        arguments += ["--tmpfs", f"/work:rw,nosuid,nodev,exec,size={spec.disk},nr_inodes={spec.files},mode=1777"]
        arguments += ["--tmpfs", "/tmp:rw,nosuid,nodev,size=1m", "--workdir", "/work"]
        arguments += [
            "--volume",
            f"{folder}:/run/phronesis",
            "--volume",
            f"{PACKAGE / 'sandbox' / 'inside'}:{INSIDE}/sandbox/inside:ro",
        ]
        for path in spec.readable:
            arguments += ["--volume", f"{path}:{path}:ro"]
        return [*arguments, self.image, "python3", "-I", "-S", "-c", BOOT, INSIDE, str(int(spec.loopback))]

    async def _call(self, *arguments: str) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(self.program, *arguments, stdout=pipe, stderr=pipe)
        try:
            out, complaint = await asyncio.wait_for(process.communicate(), START)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise SandboxFault(f"no answer within {START:.0f} s") from None
        if process.returncode != 0:
            raise SandboxFault(complaint.decode("utf-8", "replace").strip()[-300:] or f"exit status {process.returncode}")
        return out.decode("utf-8", "replace")
