"""The `terminal` environment."""

from phronesis.envs.terminal.env import TerminalEnv, make
from phronesis.envs.terminal.job import Check, Commit, Job
from phronesis.envs.terminal.tasks import Dials

__all__ = ["Check", "Commit", "Dials", "Job", "TerminalEnv", "make"]
