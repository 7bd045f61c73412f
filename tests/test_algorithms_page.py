"""docs/algorithms.md and docs/paper-index.md are what the code says, and nothing is missing from them."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from phronesis.conformance.tables import formulas

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("algorithms_script", ROOT / "scripts" / "algorithms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(script: ModuleType) -> None:
    stale = [page.name for page, text in script.pages().items() if page.read_text(encoding="utf-8") != text]
    assert stale == [], "run `python scripts/algorithms.py`"


def test_every_config_value_is_on_the_page(script: ModuleType) -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    for section in script.SECTIONS:
        table = page.split(f"## {section.title}\n")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [script.tag(v) for v in script.values(section)]


def test_every_formula_is_on_the_page_with_the_function_that_computes_it() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8").split("## Formulas with a worked case")[1]
    lines = dict(re.findall(r"^\| `([\w.+-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert list(lines) == list(formulas())
    for formula, line in lines.items():
        where = re.search(r"\| `(?P<file>[\w/]+\.py)`: `(?P<name>\w+)`", line)
        assert where is not None, formula
        assert re.search(rf"(?:def|class) {where['name']}\b", (ROOT / "src" / "phronesis" / where["file"]).read_text()), formula


def test_no_use_is_written_for_what_does_not_exist(script: ModuleType) -> None:
    notes = tomllib.loads((ROOT / "scripts" / "algorithms.toml").read_text(encoding="utf-8"))
    for section in script.SECTIONS:
        assert notes[section.key].keys() == {script.tag(v) for v in script.values(section)}
    for key in script.PIECES:
        assert notes[key].keys() <= formulas().keys()


def test_what_a_docstring_says_first(script: ModuleType) -> None:
    assert script.summary("``a|b`` of\n`x`.   Source: Y, arXiv 2402.03300; formula [z].\n\nMore.") == "``a|b`` of `x`."
    assert script.sources("Source: Y, arXiv 2402.03300 eq. 3; Z, arXiv 1707.06347.") == ["2402.03300", "1707.06347"]
    assert script.unpublished("Text.   Source: prime-rl, where it is `x`; formula [tv-sym].") == ["prime-rl, where it is `x`"]
    assert script.unpublished("Text.   Source: formula [entropy]. Source: Y, arXiv 2402.03300.") == []
