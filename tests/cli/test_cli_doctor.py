import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from terminal import Seen

from phronesis.cli.machine import Machine, advise, available_memory, inspect, render

Run = Callable[..., Seen]

FINE = Machine(
    python="3.12.1",
    platform="Linux",
    packages={"torch": "2.6"},
    commit=None,
    cpus=2,
    threads=2,
    omp_wait_policy="passive",
    memory_gib=8.0,
    disk_gib=50.0,
    accelerators=(),
)


def test_advice_only_where_something_hurts():
    assert advise(FINE) == ()
    assert advise(msgspec.structs.replace(FINE, memory_gib=None)) == ()
    cases = {
        "torch uses 8 threads on 2 processors": {"threads": 8},
        "OMP_WAIT_POLICY is None": {"omp_wait_policy": None},
        "torch is not installed; pip install torch": {"packages": {"torch": None}},
        "only 0.5 GiB of memory": {"memory_gib": 0.5},
        "only 0.2 GiB are left on this disk": {"disk_gib": 0.2},
    }
    for text, change in cases.items():
        (line,) = advise(msgspec.structs.replace(FINE, **change))
        assert line.startswith(text)


def test_the_kernels_memory_table(tmp_path: Path):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:       8388608 kB\nMemAvailable:   3145728 kB\n")
    assert available_memory(table) == 3.0
    assert available_memory(tmp_path / "absent") is None
    table.write_text("MemTotal: 1 kB\n")
    assert available_memory(table) is None


def test_the_report_says_what_was_found(run: Run):
    found = json.loads(run("doctor", "--json").out)
    assert found["python"] == sys.version.split()[0]
    assert found["cpus"] >= 1 and found["disk_gib"] > 0
    assert msgspec.convert(found, Machine).threads == found["threads"] >= 1
    text = run("doctor").out
    assert "processors" in text and found["packages"]["torch"] in text


def test_rendering_ends_with_the_advice():
    assert render(FINE).endswith("\n\nnothing to complain about")
    bad = msgspec.structs.replace(FINE, advice=("do this", "then that"))
    assert render(bad).endswith("\n\nadvice: do this\nadvice: then that")
    assert inspect().python in render(inspect())
