"""Every metric a run writes has a definition, a unit and a rule for combining; the table loads without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import phronesis
from phronesis.train.metrics import METRICS, undefined

SOURCE = Path(phronesis.__file__).parent
AREAS = sorted({key.split("/")[0] for key in METRICS})
UNITS = {metric.unit for metric in METRICS.values()}
KEY = re.compile(rf"(?:{'|'.join(AREAS)})/[a-z][a-z0-9_]*")


def written_keys(path: Path) -> Iterator[tuple[str, int]]:
    """Literals that look like metric keys of a known area."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and KEY.fullmatch(node.value)
            and node.value not in UNITS
        ):
            yield node.value, node.lineno


def test_every_key_in_the_source_is_defined():
    missing = [
        f"{path.relative_to(SOURCE)}:{line}: {key}"
        for room in ("train", "evals", "view", "data", "rollout")
        for path in sorted((SOURCE / room).rglob("*.py"))
        for key, line in written_keys(path)
        if key not in METRICS
    ]
    assert missing == []


def test_the_search_would_find_an_undefined_key(tmp_path: Path):
    (tmp_path / "x.py").write_text('m = {"reward/meen": 1.0, "reward/mean": 2.0, "text/plain": 3}\n')
    assert undefined(k for k, _ in written_keys(tmp_path / "x.py")) == ("reward/meen",)


def test_definitions_are_sentences_with_units():
    for key, metric in METRICS.items():
        assert metric.key == key and re.fullmatch(r"[a-z]+/((\*/)?[a-z0-9_]+|source/\*)", key)
        assert metric.unit and metric.definition[0].isupper() and metric.definition.endswith("."), key
        assert len(metric.definition) <= 160, key


def test_shares_and_extremes_combine_as_their_names_say():
    assert METRICS["reward/max"].reducer == "max" and METRICS["reward/min"].reducer == "min"
    assert METRICS["mismatch/max_logprob_difference"].reducer == "max"
    assert METRICS["tokens/sampled"].reducer == "sum"
    assert all(m.reducer == "mean" for m in METRICS.values() if m.unit == "share")


def test_reports_and_definitions_load_without_torch():
    code = (
        "import sys, phronesis.train.metrics, phronesis.view.report, phronesis.view.terminal; "
        "print(*(m for m in ('torch', 'transformers', 'gymnasium') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
