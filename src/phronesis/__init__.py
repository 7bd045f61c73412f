"""Phronesis trains and runs language-model agents that think and act in one stream, and shows what made them better.

One door for a user's script: ``from phronesis import EnvSpec, RunConfig, run, tool``. The contracts and records are here at
once; what needs torch is imported when it is first asked for, so that ``import phronesis`` stays quick.

``phronesis.tool`` is the decorator; the module of that name is reached with ``from phronesis.tool import ...``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from phronesis.agent import Agent, Session
from phronesis.env import Env, EnvSpec, Rubric, TaskSource
from phronesis.errors import PhronesisError, ToolError, UserError
from phronesis.policy import Completion, Policy, SamplingParams
from phronesis.records import (
    Component,
    Conversation,
    Credit,
    Episode,
    EpisodeGroup,
    Message,
    Reply,
    Reward,
    Stop,
    Task,
    ToolCall,
    Turn,
    say,
)
from phronesis.tool import tool

if TYPE_CHECKING:
    from phronesis.credit import CreditRule, GiGPOCredit, TrajectoryCredit, TurnReturnCredit
    from phronesis.envs.demonstrations import with_demonstrations
    from phronesis.envs.from_tools import from_tools
    from phronesis.envs.native import from_env
    from phronesis.envs.trl_style import Hooks, from_class
    from phronesis.models.tiny import TinyModel
    from phronesis.rewards import AllOf, EnvReward, FunctionRubric
    from phronesis.rollout.limits import Limits, Sampling
    from phronesis.store import Run
    from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, PrimeConfig, RunConfig
    from phronesis.train.job import run
    from phronesis.train.learner import LearnerConfig
    from phronesis.train.optimizer import AdamWConfig, MuonConfig
    from phronesis.train.recipes import get as recipe
    from phronesis.train.supervised import SupervisedConfig

__version__ = "0.1.0"

_LATER = {
    "AdamWConfig": "train.optimizer",
    "AllOf": "rewards",
    "CreditRule": "credit",
    "EnvChoice": "train.config",
    "EnvReward": "rewards",
    "EvalConfig": "train.config",
    "FunctionRubric": "rewards",
    "GiGPOCredit": "credit",
    "Hooks": "envs.trl_style",
    "LearnerConfig": "train.learner",
    "Limits": "rollout.limits",
    "ModelConfig": "train.config",
    "MuonConfig": "train.optimizer",
    "PrimeConfig": "train.config",
    "Run": "store",
    "RunConfig": "train.config",
    "Sampling": "rollout.limits",
    "SupervisedConfig": "train.supervised",
    "TinyModel": "models.tiny",
    "TrajectoryCredit": "credit",
    "TurnReturnCredit": "credit",
    "from_class": "envs.trl_style",
    "from_env": "envs.native",
    "from_tools": "envs.from_tools",
    "recipe": "train.recipes:get",
    "run": "train.job",
    "with_demonstrations": "envs.demonstrations",
}
"""Where the names that are imported on first use live: a module, and the name there where it differs."""

__all__ = [
    "AdamWConfig",
    "Agent",
    "AllOf",
    "Completion",
    "Component",
    "Conversation",
    "Credit",
    "CreditRule",
    "Env",
    "EnvChoice",
    "EnvReward",
    "EnvSpec",
    "Episode",
    "EpisodeGroup",
    "EvalConfig",
    "FunctionRubric",
    "GiGPOCredit",
    "Hooks",
    "LearnerConfig",
    "Limits",
    "Message",
    "ModelConfig",
    "MuonConfig",
    "PhronesisError",
    "Policy",
    "PrimeConfig",
    "Reply",
    "Reward",
    "Rubric",
    "Run",
    "RunConfig",
    "Sampling",
    "SamplingParams",
    "Session",
    "Stop",
    "SupervisedConfig",
    "Task",
    "TaskSource",
    "TinyModel",
    "ToolCall",
    "ToolError",
    "TrajectoryCredit",
    "Turn",
    "TurnReturnCredit",
    "UserError",
    "__version__",
    "from_class",
    "from_env",
    "from_tools",
    "recipe",
    "run",
    "say",
    "tool",
    "with_demonstrations",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    found: object = getattr(import_module(f"{__name__}.{module}"), attribute or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
