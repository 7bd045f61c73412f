"""An executable contract: plays an environment with scripted agents and says which promises it keeps.

The rules are in `check_rules.RULES`; each one explains what it found. A passing check does not prove an environment right, a
failing one shows where it is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from phronesis.env import EnvSpec
from phronesis.envs.check_inspection import Broken, Inspection, NotApplicable
from phronesis.envs.check_rules import RULES
from phronesis.envs.scripted import Clock
from phronesis.errors import UnknownName

logger = logging.getLogger(__name__)

Verdict = Literal["ok", "fail", "skip"]


class Finding(Struct, frozen=True, kw_only=True):
    """What one rule found."""

    rule: str
    """Name of the rule."""
    verdict: Verdict
    """ok, fail, or skip when the rule does not apply."""
    explanation: str
    """What was measured, what is wrong and what to do, or why the rule does not apply."""


class CheckReport(Struct, frozen=True, kw_only=True):
    """What all rules found."""

    env: str
    """Name of the environment."""
    findings: tuple[Finding, ...]
    """In the order of the rules."""
    seconds: float
    """Wall-clock duration."""

    @property
    def ok(self) -> bool:
        """True when no rule failed."""
        return all(f.verdict != "fail" for f in self.findings)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The rules that failed."""
        return tuple(f for f in self.findings if f.verdict == "fail")


async def check(
    spec: EnvSpec, *, split: str = "train", seed: int = 0, call_seconds: float = 5.0, rules: Sequence[str] | None = None
) -> CheckReport:
    """Holds an environment to its contract. Takes seconds; never raises for what the environment does.

    Args:
        spec: the environment.
        split: the split whose tasks are played.
        seed: of the episodes and of the random agent; equal seeds give equal findings, apart from measured times and
            from how many episodes an agent finished in its time.
        call_seconds: longest one call of the environment may take.
        rules: names of the rules to apply; all by default.

    Raises:
        UnknownName: no such split or rule.

    A call that blocks the event loop cannot be cut off from here: `run_check` can.
    """
    findings: list[Finding] = []
    began = time.monotonic()
    await _collect(_inspect(spec, split, seed, call_seconds), findings, rules)
    return CheckReport(env=spec.name, findings=tuple(findings), seconds=time.monotonic() - began)


def run_check(
    spec: EnvSpec, *, split: str = "train", seed: int = 0, call_seconds: float = 5.0, seconds: float = 60.0
) -> CheckReport:
    """`check` from synchronous code, given up after `seconds` even when the environment blocks everything."""
    findings: list[Finding] = []
    began = time.monotonic()
    inspection = _inspect(spec, split, seed, call_seconds)

    def work() -> None:
        asyncio.run(_collect(inspection, findings, None))

    thread = threading.Thread(target=work, daemon=True, name="phronesis-check")
    thread.start()
    thread.join(seconds)
    found = tuple(findings)
    if thread.is_alive():
        text = (
            f"the check was given up after {seconds:g} s: a call blocks without awaiting; make it async, or do not pass "
            "thread=False"
        )
        found += (Finding(rule="time limits", verdict="fail", explanation=text),)
    return CheckReport(env=spec.name, findings=found, seconds=time.monotonic() - began)


def _inspect(spec: EnvSpec, split: str, seed: int, call_seconds: float) -> Inspection:
    if split not in spec.sizes:
        raise UnknownName(f"split of environment {spec.name!r}", split, spec.sizes)
    return Inspection(spec, split=split, seed=seed, clock=Clock(call_seconds))


async def _collect(inspection: Inspection, findings: list[Finding], rules: Sequence[str] | None) -> None:
    for rule in rules or ():
        if rule not in RULES:
            raise UnknownName("rule", rule, RULES)
    for name, rule in RULES.items():
        if rules is not None and name not in rules:
            continue
        try:
            verdict, text = "ok", await rule(inspection)
        except Broken as error:
            verdict, text = "fail", str(error)
        except NotApplicable as error:
            verdict, text = "skip", str(error)
        except Exception as error:  # the boundary to user code
            logger.debug("rule %s on %s", name, inspection.spec.name, exc_info=True)
            verdict, text = "fail", f"{type(error).__name__}: {error}"
        findings.append(Finding(rule=name, verdict=verdict, explanation=text))


def render(report: CheckReport) -> str:
    """The report as text, one line per rule.

    >>> finding = Finding(rule="reset", verdict="ok", explanation="equal seeds give equal openings")
    >>> print(render(CheckReport(env="guess", findings=(finding,), seconds=0.25)))
    guess: ok (1 ok, 0 failed, 0 skipped, 0.2 s)
      ok    reset  equal seeds give equal openings
    """
    counts = {v: sum(f.verdict == v for f in report.findings) for v in ("ok", "fail", "skip")}
    width = max((len(f.rule) for f in report.findings), default=0)
    head = (
        f"{report.env}: {'ok' if report.ok else 'FAILED'} "
        f"({counts['ok']} ok, {counts['fail']} failed, {counts['skip']} skipped, {report.seconds:.1f} s)"
    )
    lines = [
        f"  {'FAIL' if f.verdict == 'fail' else f.verdict:<4}  {f.rule:<{width}}  {f.explanation}" for f in report.findings
    ]
    return "\n".join([head, *lines])
