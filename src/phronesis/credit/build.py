"""From a config, or from the import path of a user's own rule, to a credit rule."""

from __future__ import annotations

from phronesis.config import import_path
from phronesis.credit.gae import GAECredit, SAOCredit
from phronesis.credit.gigpo import GiGPOCredit
from phronesis.credit.poad import POADCredit
from phronesis.credit.rule import CreditRule
from phronesis.credit.trajectory import TrajectoryCredit
from phronesis.credit.turn_gae import TurnGAECredit
from phronesis.credit.turns import TurnReturnCredit
from phronesis.errors import ConfigError

CreditConfig = TrajectoryCredit | TurnReturnCredit | GiGPOCredit | GAECredit | SAOCredit | TurnGAECredit | POADCredit
"""The built-in rules, told apart by their tag in configs. Each is its own rule."""


def build(choice: CreditConfig | str) -> CreditRule:
    """The rule a config names.

    Args:
        choice: a built-in rule, or ``package.module:name`` where the name is a rule, or a class or function without
            arguments that gives one.

    Raises:
        ConfigError: the path cannot be imported, or what lies there is no rule and gives none.

    >>> build("phronesis.credit.gigpo:GiGPOCredit") == GiGPOCredit()
    True
    """
    if not isinstance(choice, str):
        return choice
    found = import_path(choice)
    rule: object = found
    if isinstance(found, type) or (callable(found) and not isinstance(found, CreditRule)):
        try:
            rule = found()
        except Exception as error:  # the boundary to user code
            raise ConfigError(f"{choice!r} cannot be made without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(rule, CreditRule):
        raise ConfigError(f"{choice!r} is a {type(rule).__name__}, not a credit rule: it has no async assign(group, rerun)")
    return rule
