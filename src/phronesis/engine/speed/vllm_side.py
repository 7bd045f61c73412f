"""vLLM on this machine's CPU, asked over HTTP with token ids; needs a Python that has it, see `INTERPRETER`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from phronesis.engine.speed.workload import SIZES, VOCABULARY, Work, observation, prompts
from phronesis.errors import ConfigError
from phronesis.models.checkpoint import save
from phronesis.models.tiny import tiny

INTERPRETER = "PHRONESIS_VLLM_PYTHON"
"""Environment variable with the path of a Python that can import vllm; else `.venv-vllm` of the current folder is taken."""
DTYPE = "PHRONESIS_VLLM_DTYPE"
"""Environment variable with the type vLLM computes in; float32 when it is not set, as all other sides do."""
START = 300.0
"""Seconds a server may take to answer."""


def interpreter() -> Path | None:
    """The Python that has vLLM; None when there is none."""
    found = Path(os.environ.get(INTERPRETER, ".venv-vllm/bin/python"))
    return found if found.exists() else None


class Vllm:
    """One server per model, started and ended by this side."""

    def __init__(self) -> None:
        self.dtype = os.environ.get(DTYPE, "float32")
        self.name = f"vLLM on CPU, {self.dtype}, over HTTP"
        self._server: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def load(self, size: str) -> None:
        """Starts a server and waits until it answers.

        Raises:
            ConfigError: there is no Python with vLLM, or the server ended.
        """
        self.close()
        python = interpreter()
        if python is None:
            raise ConfigError(f"no vLLM here: set {INTERPRETER} to a Python that has it")
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        save(tiny(SIZES[size], VOCABULARY, 0), folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        limits = (
            "--max-model-len",
            "4096",
            "--max-num-seqs",
            "256",
            "--dtype",
            self.dtype,
            "--skip-tokenizer-init",
            "--enable-scale-out",
            "--generation-config",
            "vllm",
        )
        server = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "measured"]
        known = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
        with (folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                [*server, "--model", str(folder), "--port", str(port), "--disable-log-stats", *limits],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | known,
                process_group=0,
            )
        started = time.monotonic()
        while time.monotonic() < started + START:
            if self._server.poll() is not None:
                lines = (folder / "server.log").read_text(errors="replace").splitlines()
                wrong = [line for line in lines if "Error" in line] or lines[-1:]
                raise ConfigError(f"the vLLM server ended: {wrong[-1].strip() if wrong else 'it said nothing'}")
            try:
                if httpx.get(f"{self._url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise ConfigError(f"the vLLM server did not answer within {START:g} s")

    def run(self, work: Work) -> float:
        """All sequences at once, each turn a request; what earlier runs cached is dropped by another first id."""
        self._salt = getattr(self, "_salt", 0) + 1

        async def episode(client: httpx.AsyncClient, ids: list[int]) -> None:
            for turn in range(work.turns):
                settings = {"max_tokens": work.new, "ignore_eos": True, "temperature": 1.0, "logprobs": 1, "detokenize": False}
                body = {
                    "model": "measured",
                    "token_ids": ids,
                    "return_token_ids": True,
                    "sampling_params": settings,
                    "cache_salt": f"run {self._salt}",
                }
                answer = await client.post("/inference/v1/generate", json=body)
                if answer.status_code != 200:
                    raise ConfigError(f"vLLM answered {answer.status_code}: {answer.text[:300]}")
                said: list[int] = answer.json()["choices"][0]["token_ids"]
                assert len(said) == work.new, f"vLLM answered {len(said)} ids instead of {work.new}"
                ids = [*ids, *said, *observation(ids[-1], turn)]

        async def everyone() -> float:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx.AsyncClient(base_url=self._url, timeout=600, limits=limits, trust_env=False) as client:
                start = time.perf_counter()
                await asyncio.gather(*[episode(client, ids) for ids in prompts(work)])
                return time.perf_counter() - start

        return asyncio.run(everyone())

    def close(self) -> None:
        """Ends the server."""
        if self._server is not None and self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGTERM)
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._server.pid, signal.SIGKILL)
                self._server.wait()
        if self._folder is not None:
            self._folder.cleanup()
        self._server = self._folder = None
