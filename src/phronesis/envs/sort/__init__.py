"""The `sort` environment."""

from phronesis.envs.sort.env import make
from phronesis.envs.sort.machine import Sorting
from phronesis.envs.sort.plan import Step, most_steps, next_step
from phronesis.envs.sort.tasks import Dials, task

__all__ = ["Dials", "Sorting", "Step", "make", "most_steps", "next_step", "task"]
