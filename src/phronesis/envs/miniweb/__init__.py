"""The `miniweb` environment."""

from phronesis.envs.miniweb.env import MiniwebEnv, make
from phronesis.envs.miniweb.tasks import Dials, task
from phronesis.envs.miniweb.town import HOST, Town

__all__ = ["HOST", "Dials", "MiniwebEnv", "Town", "make", "task"]
