"""All formulas there are, one table module per area. Add a module here when you add a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from phronesis.conformance import advantages, corrections, credit, critic, data, distillation, metrics, objectives
from phronesis.conformance.case import Case
from phronesis.errors import ConfigError

MODULES: Sequence[ModuleType] = (advantages, credit, metrics, critic, objectives, corrections, data, distillation)
"""Modules that hold a ``TABLE`` of formula ids."""


def formulas(modules: Sequence[ModuleType] = MODULES) -> Mapping[str, Case]:
    """Every formula's function, by id.

    Raises:
        ConfigError: two tables know the same id.
    """
    found: dict[str, Case] = {}
    for module in modules:
        table: Mapping[str, Case] = module.TABLE
        twice = sorted(found.keys() & table.keys())
        if twice:
            raise ConfigError(f"formulas {twice!r} are in two tables; the second is {module.__name__!r}")
        found |= table
    return found
