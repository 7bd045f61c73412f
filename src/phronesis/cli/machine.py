"""What this machine offers a run: versions, processors, memory, disk, and advice where something will hurt."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from phronesis.engine.native.build import built
from phronesis.store.provenance import PACKAGES, commit, package_version

_GIB = 2**30
_LEAST_DISK = 1.0
_LEAST_MEMORY = 2.0


class Machine(Struct, frozen=True, kw_only=True):
    """One machine, as a run finds it."""

    python: str
    """Version of the interpreter."""
    platform: str
    """Operating system and processor."""
    packages: dict[str, str | None]
    """Version by package; None when it is not installed."""
    commit: str | None
    """Commit of the checkout the package runs from; None outside a checkout."""
    cpus: int
    """Processors this process may use."""
    threads: int
    """Threads torch computes with."""
    omp_wait_policy: str | None
    """``OMP_WAIT_POLICY``; None when it is not set."""
    memory_gib: float | None
    """Memory available now, GiB; None when the system does not say."""
    disk_gib: float
    """Space left in the current folder, GiB."""
    accelerators: tuple[str, ...]
    """Names of the devices torch could compute on besides the CPU."""
    native: str
    """The engine's compiled step: where it lies, or why there is none."""
    compiled: bool
    """Whether there is one."""
    advice: tuple[str, ...] = ()
    """What to change, most important first; empty when nothing is wrong."""


def inspect() -> Machine:
    """Looks at this machine."""
    found = Machine(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages={name: package_version(name) for name in (*PACKAGES, "safetensors", "typer", "zstandard")},
        commit=commit(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        memory_gib=available_memory(Path("/proc/meminfo")),
        disk_gib=shutil.disk_usage(".").free / _GIB,
        accelerators=accelerators(),
        native=built().note,
        compiled=built().library is not None,
    )
    return msgspec.structs.replace(found, advice=advise(found))


def accelerators() -> tuple[str, ...]:
    """Names of CUDA devices, and Apple's GPU."""
    found = tuple(str(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count()))
    return found + (("mps",) if torch.backends.mps.is_available() else ())


def available_memory(meminfo: Path) -> float | None:
    """GiB that can be used without swapping, from the kernel's table; None when there is none."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return None


def advise(machine: Machine) -> tuple[str, ...]:
    """What to change before a run, most important first."""
    found = [f"{name} is not installed; pip install {name}" for name, known in machine.packages.items() if known is None]
    if machine.threads > machine.cpus:
        found.append(
            f"torch uses {machine.threads} threads on {machine.cpus} processors, which makes it slower; "
            f"set OMP_NUM_THREADS={machine.cpus} before starting"
        )
    if (machine.omp_wait_policy or "").lower() != "passive":
        found.append(
            f"OMP_WAIT_POLICY is {machine.omp_wait_policy!r}: idle threads spin and take time from others; "
            "set OMP_WAIT_POLICY=passive (the phronesis command does so itself where it is not set)"
        )
    if not machine.compiled:
        found.append(f"small models decode several times slower than they could: {machine.native}")
    if machine.memory_gib is not None and machine.memory_gib < _LEAST_MEMORY:
        found.append(f"only {machine.memory_gib:.1f} GiB of memory are available; quickstart wants {_LEAST_MEMORY:g}")
    if machine.disk_gib < _LEAST_DISK:
        found.append(f"only {machine.disk_gib:.1f} GiB are left on this disk; a run with checkpoints wants {_LEAST_DISK:g}")
    return tuple(found)


def render(machine: Machine) -> str:
    """The machine as text, advice last."""
    memory = "unknown" if machine.memory_gib is None else f"{machine.memory_gib:.1f} GiB available"
    rows = [
        ("python", machine.python),
        ("platform", machine.platform),
        *((name, version or "missing") for name, version in machine.packages.items()),
        ("commit", machine.commit or "not a checkout"),
        ("processors", f"{machine.cpus} (torch computes with {machine.threads} threads)"),
        ("accelerators", ", ".join(machine.accelerators) or "none; the CPU is used"),
        ("compiled step", machine.native),
        ("OMP_WAIT_POLICY", machine.omp_wait_policy or "not set"),
        ("memory", memory),
        ("disk", f"{machine.disk_gib:.1f} GiB free here"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    verdict = [f"advice: {text}" for text in machine.advice] or ["nothing to complain about"]
    return "\n".join([*lines, "", *verdict])
