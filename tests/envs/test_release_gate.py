"""The release gate: no world is shipped unless its oracle earns what is promised, silence and cheats earn nothing, a random
agent stays at chance, a planted weakness is seen by the audit, and everything else of the contract holds."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from phronesis.config.importing import import_path
from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.check_rules import RULES
from phronesis.errors import ConfigError, SandboxUnavailable

ALWAYS = {"tasks", "opening", "steps", "secrecy", "oracle", "null agent", "random agent", "mistakes", "closing", "time limits"}
"""Rules that apply to every world; only rules beyond these may be skipped."""


def made(listing, **dials):
    """The world, or a skip that names what is missing."""
    try:
        return registry.get(listing.name, dials)
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox: {error}")
    except ConfigError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            pytest.skip(f"not installed: {error.__cause__.name}")
        raise


def has_weakness(listing):
    try:
        return "loophole" in inspect.signature(import_path(listing.path)).parameters
    except ConfigError:
        return False  # the gate itself skips it and says why


PLANTED = [listing for listing in registry.BUILT_IN if has_weakness(listing)]


@pytest.mark.parametrize("listing", registry.BUILT_IN, ids=lambda listing: listing.name)
def test_the_contract(listing):
    report = asyncio.run(check(made(listing)))
    assert report.ok, render(report)
    assert [f.rule for f in report.findings] == list(RULES)
    ran = {f.rule for f in report.findings if f.verdict == "ok"}
    assert ran >= ALWAYS, render(report)
    assert report.seconds < 60


@pytest.mark.parametrize("listing", PLANTED, ids=lambda listing: listing.name)
def test_the_planted_weakness(listing):
    honest, planted = made(listing), made(listing, loophole=True)
    assert honest.hack is None and planted.hack is not None and planted.exploit
    assert honest.cheats and honest.chance_reward is not None
    (found,) = asyncio.run(check(planted, rules=["exploit"])).findings
    assert found.verdict == "ok", found.explanation


def test_the_worlds_with_a_weakness_are_these():
    """So that none loses its weakness, and with it the test of detectors, without being noticed."""
    assert {
        "countdown",
        "sort",
        "gridplan",
        "datadesk",
        "microwiki",
        "miniweb",
        "talkworld",
        "terminal",
        "coderepair",
        "mergeroad",
    } <= {listing.name for listing in PLANTED}
