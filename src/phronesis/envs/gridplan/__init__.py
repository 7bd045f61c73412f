"""The `gridplan` environment."""

from phronesis.envs.gridplan.env import make, opened
from phronesis.envs.gridplan.puzzle import Drawn, Puzzle, shortest
from phronesis.envs.gridplan.tasks import DEFAULT, FAMILIES, Dials, task

__all__ = ["DEFAULT", "FAMILIES", "Dials", "Drawn", "Puzzle", "make", "opened", "shortest", "task"]
