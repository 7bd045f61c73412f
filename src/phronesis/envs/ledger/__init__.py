"""The `ledger` environment."""

from phronesis.envs.ledger.behaviour import PERFECT, Bookkeeper, Habits
from phronesis.envs.ledger.env import LedgerEnv, TotalRubric, make
from phronesis.envs.ledger.tasks import Books, Dials

__all__ = ["PERFECT", "Bookkeeper", "Books", "Dials", "Habits", "LedgerEnv", "TotalRubric", "make"]
