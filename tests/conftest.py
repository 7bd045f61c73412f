"""How every test runs: one thread, fixed hypothesis examples in CI, and no silent skips there."""

from __future__ import annotations

import os

for _name, _value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "passive"), ("TOKENIZERS_PARALLELISM", "false")):
    os.environ.setdefault(_name, _value)
os.environ["HF_HUB_OFFLINE"] = "1"

import asyncio
import inspect
from collections.abc import Generator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")

ALLOWED_MISSING = frozenset({"gpu"})
"""Things a CI machine may lack. A test that needs one skips with the reason ``needs NAME``; any other skip fails in CI."""


def _forbidden(reason: str) -> bool:
    needed = reason.removeprefix("Skipped: ").strip()
    return os.environ.get("CI") == "true" and needed.removeprefix("needs ") not in ALLOWED_MISSING


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure that says how to make it legal."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    where = report.longrepr
    reason = str(where[2]) if isinstance(where, tuple) else str(where)
    if _forbidden(reason):
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped ({reason}); in CI every test runs. If the machine may lack what it needs, skip with "
            f"the reason 'needs NAME' and add NAME to ALLOWED_MISSING in tests/conftest.py (now: {sorted(ALLOWED_MISSING)})."
        )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Says what a parallel run leaves out."""
    parallel = config.getoption("numprocesses", None)
    alone = "tests/engine_vllm, tests/catalogues and tests/cluster_ray are left out: run each by itself"
    return alone if parallel else None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse(report)
    return report
