"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import phronesis.view

MODULES = [f"phronesis.view.{m.name}" for m in pkgutil.iter_modules(phronesis.view.__path__)]
MODULES += ["phronesis.evals.statistics", "phronesis.evals.at_k", "phronesis.train.metrics"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples():
    tried = sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES)
    assert tried >= 30
