"""How a measurement is taken and written down.

The rule this module keeps: ours and the peer's run one after the other, each in its own process, on the same core, with one
thread, and are compared by the CPU-seconds they used; a machine that is busy with other work stretches wall time far more.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
QUICK = "BENCH_QUICK"
"""Set in the environment by ``python -m bench --quick``."""
CORE = int(os.environ.get("BENCH_CORE", "0"))
"""The core both sides run on."""


def quick() -> bool:
    """Whether only to see that everything runs: small sizes, few rounds, figures that mean nothing."""
    return os.environ.get(QUICK) == "1"


class Row(Struct, frozen=True, kw_only=True):
    """One line of the table."""

    case: str
    """Case it belongs to."""
    what: str
    """What is measured, with its setting."""
    unit: str
    """Unit of both numbers."""
    ours: float
    """Phronesis: median over the repeats."""
    peer: float
    """The peer: median over the repeats."""
    peer_name: str
    """Who the peer is, with its version."""
    better: str = "lower"
    """``lower`` or ``higher``."""
    noise: float = 0.0
    """Half the interquartile range of either side over its median, the larger of the two."""
    target: float | None = None
    """Ratio to reach; None when none is set."""

    @property
    def ratio(self) -> float:
        """How many times better ours is; below 1 means worse."""
        return self.peer / self.ours if self.better == "lower" else self.ours / self.peer


class Machine(Struct, frozen=True, kw_only=True):
    """What the numbers belong to."""

    cpu: str
    """Model name."""
    cores: int
    """Logical cores."""
    python: str
    """Version."""
    system: str
    """Operating system and architecture."""


class Result(Struct, frozen=True, kw_only=True):
    """All rows of one run of the benchmark."""

    machine: Machine
    """Where."""
    time: str
    """UTC ISO stamp."""
    rows: tuple[Row, ...]
    """Measured lines."""


def machine() -> Machine:
    """This machine, without names that identify it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return Machine(
        cpu=model,
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
    )


def pinned(command: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> str:
    """Runs a command on one core with one thread; its standard output.

    Raises:
        RuntimeError: it failed; carries the end of its output.
    """
    taskset = ["taskset", "-c", str(CORE)] if shutil.which("taskset") else []
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [*taskset, *map(str, command)],
        cwd=ROOT,
        env=os.environ | threads | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | dict(extra or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} failed with code {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout


def spread(values: Sequence[float]) -> float:
    """Half the interquartile range over the median; 0 for fewer than four values.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    0.5
    """
    if len(values) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def compare(case: str, what: str, ours: Sequence[float], peer: Sequence[float], **settings: object) -> Row:
    """A row from the repeats of both sides; `settings` are the row's other fields."""
    row = {
        "case": case,
        "what": what,
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "noise": max(spread(ours), spread(peer)),
    }
    return msgspec.convert(row | settings, Row)


def write(rows: Sequence[Row]) -> Path:
    """Writes a result file and returns its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result = Result(machine=machine(), time=stamp, rows=tuple(rows))
    path = RESULTS / f"{stamp.replace(':', '')}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def read(path: Path) -> Result:
    """A result file."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def table(rows: Sequence[Row]) -> str:
    """Rows as the Markdown table of docs/performance.md."""
    lines = [
        "| case | what | unit | Phronesis | peer | | times better | ± noise | target |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        target = "" if r.target is None else f"{r.target:g}"
        lines.append(
            f"| {r.case} | {r.what} | {r.unit} | {r.ours:.4g} | {r.peer:.4g} | {r.peer_name} | **{r.ratio:.1f}** "
            f"| {100 * r.noise:.0f} % | {target} |"
        )
    return "\n".join(lines)


def difference(before: Result, after: Result) -> str:
    """How ratios moved between two results; a move within twice the noise of both is called none."""
    old = {(r.case, r.what): r for r in before.rows}
    lines = ["| case | what | before | after | change | |", "|---|---|---|---|---|---|"]
    for r in after.rows:
        was = old.get((r.case, r.what))
        if was is None:
            lines.append(f"| {r.case} | {r.what} | | {r.ratio:.2f} | new | |")
            continue
        change = r.ratio / was.ratio - 1
        verdict = "within noise" if abs(change) <= 2 * max(r.noise, was.noise, 0.02) else ("better" if change > 0 else "WORSE")
        lines.append(f"| {r.case} | {r.what} | {was.ratio:.2f} | {r.ratio:.2f} | {100 * change:+.0f} % | {verdict} |")
    return "\n".join(lines)


def load_json(path: Path) -> dict[str, object]:
    """A JSON object written by one side of a comparison."""
    return msgspec.convert(json.loads(path.read_text()), dict[str, object])


def both_sides(module: str, *settings: str) -> tuple[list[float], list[float]]:
    """Repeats of ours and of the peer, from ``python -m MODULE ours|peer SETTINGS`` printing a JSON list as its last line."""
    ours, peer = (
        json.loads(pinned([sys.executable, "-m", module, side, *settings]).splitlines()[-1]) for side in ("ours", "peer")
    )
    return ours, peer


def repeat(work: Callable[[], object], amount: float, repeats: int, warm_up: int = 2) -> list[float]:
    """`amount` per CPU-second of `work`, for each repeat after the warm-up."""
    rates: list[float] = []
    for i in range(warm_up + repeats):
        start = time.process_time()
        work()
        if i >= warm_up:
            rates.append(amount / (time.process_time() - start))
    return rates
