"""docs/cheats.md: every world says of each of the twenty-four known cheats who plays it or why nobody does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from phronesis.envs import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cheats_script", ROOT / "scripts" / "cheats.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_cheat_is_played_or_ruled_out_in_every_world(script):
    assert script.problems(script.read()) == []


def test_the_page_is_written_from_the_file(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.read()), "run: python scripts/cheats.py"


def test_every_cheat_is_played_somewhere_or_excluded_by_what_the_checker_does(script):
    """Only states that carry over and guessed seeds are left to the checker's rules and to dials everywhere."""
    source = script.read()
    played = {n for lines in source.worlds.values() for n, told in lines.items() if isinstance(told, list)}
    assert set(source.cheats) - played == {19, 22}


def test_gaps_and_wrong_names_are_noticed(script):
    source = script.read()
    named = list(registry.get("sort").cheats)
    assert script.wrong(source, "sort", named) == []
    assert script.wrong(source, "sort", [*named, "does magic"]) == ["sort: 'does magic' plays none of the 24"]
    assert script.wrong(source, "sort", named[1:]) == ["sort: no cheat is called 'claims success'"]
    source.worlds["sort"][3] = []
    source.worlds["sort"][4] = "nonsense"
    del source.worlds["sort"][9]
    found = script.wrong(source, "sort", named)
    assert "sort: nothing is said of cheat 3" in found and "sort: nothing is said of cheat 9" in found
    assert "sort: there is no reason 'nonsense'" in found and "sort: 'goes on after done' plays none of the 24" in found
