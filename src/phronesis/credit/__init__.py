"""Credit: which tokens earned the reward. One idea a file."""

from phronesis.credit.advantages import (
    AnyBaseline,
    Baseline,
    GroupMean,
    GroupStandard,
    LeaveOneOut,
    NoBaseline,
    dr_grpo,
    grpo,
    leave_one_out,
)
from phronesis.credit.build import CreditConfig, build
from phronesis.credit.gigpo import GiGPOCredit
from phronesis.credit.rule import (
    ComparesSiblings,
    CreditRule,
    Members,
    Rerun,
    Settles,
    members,
    sampled_values,
    spread,
    spread_tokens,
    value_of,
)
from phronesis.credit.trajectory import TrajectoryCredit, episode_advantages
from phronesis.credit.turns import INITIAL_STATE, TurnReturnCredit, discounted_returns, turn_advantages

__all__ = [
    "INITIAL_STATE",
    "AnyBaseline",
    "Baseline",
    "ComparesSiblings",
    "CreditConfig",
    "CreditRule",
    "GiGPOCredit",
    "GroupMean",
    "GroupStandard",
    "LeaveOneOut",
    "Members",
    "NoBaseline",
    "Rerun",
    "Settles",
    "TrajectoryCredit",
    "TurnReturnCredit",
    "build",
    "discounted_returns",
    "dr_grpo",
    "episode_advantages",
    "grpo",
    "leave_one_out",
    "members",
    "sampled_values",
    "spread",
    "spread_tokens",
    "turn_advantages",
    "value_of",
]
