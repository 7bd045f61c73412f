"""The `mergeroad` environment."""

from phronesis.envs.mergeroad.env import CHEATS, MergeEnv, Merging, make, thinking_ticks
from phronesis.envs.mergeroad.plan import advise, search
from phronesis.envs.mergeroad.road import Action, Road, follow
from phronesis.envs.mergeroad.tasks import Dials, task

__all__ = [
    "CHEATS",
    "Action",
    "Dials",
    "MergeEnv",
    "Merging",
    "Road",
    "advise",
    "follow",
    "make",
    "search",
    "task",
    "thinking_ticks",
]
