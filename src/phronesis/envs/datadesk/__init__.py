"""The `datadesk` environment."""

from phronesis.envs.datadesk.env import DataDesk, make
from phronesis.envs.datadesk.sources import SOURCES
from phronesis.envs.datadesk.store import Card, build, database, variant
from phronesis.envs.datadesk.tasks import Dials, task

__all__ = ["SOURCES", "Card", "DataDesk", "Dials", "build", "database", "make", "task", "variant"]
