"""A side in a process of its own, answering a line of JSON per piece of work: `python -m phronesis.engine.speed.process SIDE`.

Processes live through a whole run, so that no side pays for a start twice, and wait without using the processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple, cast

import msgspec
import torch

from phronesis.engine.speed.bound import rates
from phronesis.engine.speed.sides import Continuous, Generate, Ours, Side
from phronesis.engine.speed.vllm_side import Vllm
from phronesis.engine.speed.workload import Work
from phronesis.errors import ConfigError, PhronesisError

SIDES = {
    "ours": Ours,
    "eager": lambda: Ours(native=False),
    "generate": Generate,
    "continuous": Continuous,
    "vllm": Vllm,
}
"""Name -> what makes the side."""


class Answer(NamedTuple):
    """What a process said to one piece of work."""

    seconds: float
    """Wall time."""
    cpu: float
    """CPU-seconds of the side's process, its servers not counted."""


class Refused(PhronesisError):
    """A side cannot do the work; says why."""


class Process:
    """A running side."""

    def __init__(self, side: str, threads: int, core: int | None = None):
        """Starts it.

        Args:
            side: a name of `SIDES`, or "bound" for the machine's rates.
            threads: it computes with.
            core: the only core it may use; None: any.
        """
        if side != "bound" and side not in SIDES:
            raise ConfigError(f"unknown side {side!r}; known: {', '.join(SIDES)}")
        known = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        self.side = side
        self._process = subprocess.Popen(
            [*pinned, sys.executable, "-m", "phronesis.engine.speed.process", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | known | quiet,
        )
        self.name = str(self._ask(None)["name"])

    def run(self, work: Work) -> Answer:
        """Does the work once.

        Raises:
            Refused: the side cannot.
        """
        said = self._ask(work)
        return Answer(cast("float", said["seconds"]), cast("float", said["cpu"]))

    def rates(self) -> dict[str, float]:
        """Of the side "bound": the fields of `Rates`."""
        return cast("dict[str, float]", self._ask(None)["rates"])

    def close(self) -> None:
        """Ends the process, and with it what it started."""
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None and answered is not None
        with contextlib.suppress(BrokenPipeError):
            asked.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        answered.close()

    def _ask(self, work: Work | None) -> dict[str, object]:
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None and answered is not None
        try:
            asked.write(msgspec.json.encode(work).decode() + "\n")
            asked.flush()
            line = answered.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Refused(f"{self.side} ended with code {self._process.wait()}")
        said = cast("dict[str, object]", json.loads(line))
        if "refused" in said:
            raise Refused(str(said["refused"]))
        return said


def main(side: str) -> None:
    """Serves pieces of work from standard input until it ends."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    made: Side | None = None if side == "bound" else SIDES[side]()
    loaded: str | None = None
    try:
        for line in sys.stdin:
            work = msgspec.json.decode(line, type=Work | None)
            said: dict[str, object]
            try:
                if made is None:
                    said = {"name": "bound", "rates": msgspec.to_builtins(rates())}
                elif work is None:
                    said = {"name": made.name}
                else:
                    if loaded != work.size:
                        made.load(work.size)
                        loaded = work.size
                    used = time.process_time()
                    said = {"seconds": made.run(work), "cpu": time.process_time() - used}
            except Exception as error:  # whatever it is, the table says so and the other sides go on
                said = {"refused": f"{type(error).__name__}: {error}"}
            print(json.dumps(said), file=out, flush=True)
    finally:
        if isinstance(made, Vllm):
            made.close()


if __name__ == "__main__":
    main(sys.argv[1])
