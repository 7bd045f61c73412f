"""docs/worlds.md says of every world what playing it gives; speeds are not compared."""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from phronesis.envs import registry
from phronesis.envs.scripted import expert
from phronesis.errors import PhronesisError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("worlds_script", ROOT / "scripts" / "worlds.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [listing.name for listing in registry.BUILT_IN])
def test_the_page_is_up_to_date(script, name):
    try:
        stale = script.stale(name, script.PAGE.read_text(encoding="utf-8"))
    except PhronesisError as error:
        pytest.skip(f"{name} cannot be played here: {error}")
    assert stale is None, f"{stale}; run `python scripts/worlds.py {name}`"


def test_writing_and_reading_the_page_are_each_others_inverse(script):
    page = script.PAGE.read_text(encoding="utf-8")
    found = script.read(page)
    assert script.write(found) == page
    assert all(len(line) == len(script.COLUMNS) for line, _ in found.values())


def test_speeds_are_not_compared_and_all_else_is(script):
    page = script.PAGE.read_text(encoding="utf-8")
    line, text = script.read(page)["probe-bandit"]

    def page_with(*cells):
        return script.write({"probe-bandit": ((*cells, *line[len(cells) :]), text)})

    assert script.stale("probe-bandit", page_with(*line[:-2], "1", "2")) is None
    assert "the page says" in script.stale("probe-bandit", page_with(line[0], "17 train"))
    assert script.stale("probe-copy", page_with()) == "probe-copy is missing from the page"
    other = script.write({"probe-bandit": (line, text.replace("Dials", "Knobs") + "More.\n")})
    assert script.stale("probe-bandit", other) == "probe-bandit: its section differs"


def test_numbers_have_two_digits(script):
    assert [script.rounded(v) for v in (12345.6, 0.0234, 7.0, 999.0)] == ["12,000", "0.023", "7", "1,000"]


def test_an_audit_that_sees_nothing_is_told(script):
    planted = script.with_weakness("countdown")
    assert asyncio.run(script._audit(planted)) == "sees it: paid 3 of 3, true 0 in 3"
    solving = replace(planted, hack=expert)
    assert asyncio.run(script._audit(solving)) == "MISSES IT: paid 3 of 3, true 0 in 0"
    assert script.with_weakness("probe-bandit") is None
