"""The `countdown` environment."""

from phronesis.envs.countdown.env import Countdown, make
from phronesis.envs.countdown.judge import Verdict, judge
from phronesis.envs.countdown.tasks import Dials, reachable, solve, task

__all__ = ["Countdown", "Dials", "Verdict", "judge", "make", "reachable", "solve", "task"]
