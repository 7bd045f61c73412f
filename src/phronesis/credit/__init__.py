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
from phronesis.credit.archer import archer_advantages, archer_targets
from phronesis.credit.build import CreditConfig, build
from phronesis.credit.gae import GAECredit, SAOCredit, gae, gae_skip, lambda_len
from phronesis.credit.gigpo import GiGPOCredit
from phronesis.credit.poad import POADCredit, ntpo, poad
from phronesis.credit.rule import (
    ComparesSiblings,
    CreditRule,
    Members,
    NeedsValues,
    Rerun,
    Settles,
    TokenValues,
    Values,
    members,
    sampled_values,
    spread,
    spread_tokens,
    value_of,
)
from phronesis.credit.trajectory import TrajectoryCredit, episode_advantages
from phronesis.credit.turn_gae import TurnGAECredit, turn_gae
from phronesis.credit.turns import INITIAL_STATE, TurnReturnCredit, discounted_returns, turn_advantages

__all__ = [
    "INITIAL_STATE",
    "AnyBaseline",
    "Baseline",
    "ComparesSiblings",
    "CreditConfig",
    "CreditRule",
    "GAECredit",
    "GiGPOCredit",
    "GroupMean",
    "GroupStandard",
    "LeaveOneOut",
    "Members",
    "NeedsValues",
    "NoBaseline",
    "POADCredit",
    "Rerun",
    "SAOCredit",
    "Settles",
    "TokenValues",
    "TrajectoryCredit",
    "TurnGAECredit",
    "TurnReturnCredit",
    "Values",
    "archer_advantages",
    "archer_targets",
    "build",
    "discounted_returns",
    "dr_grpo",
    "episode_advantages",
    "gae",
    "gae_skip",
    "grpo",
    "lambda_len",
    "leave_one_out",
    "members",
    "ntpo",
    "poad",
    "sampled_values",
    "spread",
    "spread_tokens",
    "turn_advantages",
    "turn_gae",
    "value_of",
]
