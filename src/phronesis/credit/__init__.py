"""Credit: which tokens earned the reward. One idea a file."""

from phronesis.credit.baselines.batchwide import GDPOCredit, GPGCredit, LitePPOCredit, by_group, gdpo, gpg, lite_ppo, z_scores
from phronesis.credit.baselines.cells import HierarchicalCredit, TRRPPCredit, by_cell, hierarchical
from phronesis.credit.baselines.group import (
    AnyBaseline,
    Baseline,
    BestOnly,
    GroupMean,
    GroupStandard,
    LeaveOneOut,
    MaxRL,
    NoBaseline,
    best_only,
    dr_grpo,
    grpo,
    leave_one_out,
    max_rl,
)
from phronesis.credit.baselines.lengths import LengthPenaltyCredit, OPOCredit, opo, penalised
from phronesis.credit.baselines.optimal import OptimalTokenCredit, optimal_token, otb
from phronesis.credit.baselines.remax import ReMaxCredit, remax
from phronesis.credit.baselines.returns import reward_to_go, token_returns
from phronesis.credit.baselines.role_baselines import RoleBaselineCredit, RoleBaselines, rae
from phronesis.credit.baselines.trajectory import TrajectoryCredit, episode_advantages
from phronesis.credit.baselines.verified import VerifiedCredit, why_left_out
from phronesis.credit.baselines.whitening import ReinforcePPBaselineCredit, ReinforcePPCredit, reinforce_pp, whiten
from phronesis.credit.build import CreditConfig, build
from phronesis.credit.critics.archer import ArCHerCredit, archer_advantages, archer_targets
from phronesis.credit.critics.gae import GAECredit, SAOCredit, gae, gae_skip, lambda_len
from phronesis.credit.critics.poad import POADCredit, ntpo, poad
from phronesis.credit.critics.turn_gae import TurnGAECredit, turn_gae
from phronesis.credit.enumeration import expected_gradient
from phronesis.credit.judged.hindsight import HCACredit, HindsightCredit, SelfDistilledCredit, hca
from phronesis.credit.judged.igpo import IGPOCredit
from phronesis.credit.judged.shapley import ShapleyCredit
from phronesis.credit.judged.teacher import NeedsTeacher, OPDCredit, TeacherScores, opd_advantages
from phronesis.credit.judged.uncertainty import CriticalCredit, EMPGCredit, SELAURCredit, empg
from phronesis.credit.replays.counterfactual import CounterfactualCredit, loo_counterfactual
from phronesis.credit.replays.earl import EARLCredit, ToolGains, earl_advantages
from phronesis.credit.replays.montecarlo import SPOChainCredit, VinePPOCredit, spo_chain, vineppo
from phronesis.credit.replays.stepwise import SPAECredit, VSRMCredit, spae, vsrm
from phronesis.credit.rule import (
    ComparesSiblings,
    CreditRule,
    Members,
    NeedsUtterances,
    NeedsValues,
    Remembers,
    Rerun,
    Settles,
    TokenValues,
    Utterances,
    UtteranceValues,
    Values,
    members,
    sampled_values,
    spread,
    spread_tokens,
    value_of,
)
from phronesis.credit.side import Asks, PartJudge, TokenJudge, TurnJudge
from phronesis.credit.trees.arpo import ARPOCredit, branching
from phronesis.credit.trees.search import StepPair, puct, step_pairs
from phronesis.credit.trees.tree import TreeCredit, sibling_advantages, tree_value
from phronesis.credit.turnwise.aspo import ASPOCredit
from phronesis.credit.turnwise.gigpo import GiGPOCredit
from phronesis.credit.turnwise.mt_grpo import MTGRPOCredit
from phronesis.credit.turnwise.plans import PlanCredit, two_levels
from phronesis.credit.turnwise.potential import PotentialCredit, shaping
from phronesis.credit.turnwise.rewardflow import RewardFlowCredit, graph_values
from phronesis.credit.turnwise.turns import INITIAL_STATE, TurnReturnCredit, discounted_returns, pooled_credit

__all__ = [
    "INITIAL_STATE",
    "ARPOCredit",
    "ASPOCredit",
    "AnyBaseline",
    "ArCHerCredit",
    "Asks",
    "Baseline",
    "BestOnly",
    "ComparesSiblings",
    "CounterfactualCredit",
    "CreditConfig",
    "CreditRule",
    "CriticalCredit",
    "EARLCredit",
    "EMPGCredit",
    "GAECredit",
    "GDPOCredit",
    "GPGCredit",
    "GiGPOCredit",
    "GroupMean",
    "GroupStandard",
    "HCACredit",
    "HierarchicalCredit",
    "HindsightCredit",
    "IGPOCredit",
    "LeaveOneOut",
    "LengthPenaltyCredit",
    "LitePPOCredit",
    "MTGRPOCredit",
    "MaxRL",
    "Members",
    "NeedsTeacher",
    "NeedsUtterances",
    "NeedsValues",
    "NoBaseline",
    "OPDCredit",
    "OPOCredit",
    "OptimalTokenCredit",
    "POADCredit",
    "PartJudge",
    "PlanCredit",
    "PotentialCredit",
    "ReMaxCredit",
    "ReinforcePPBaselineCredit",
    "ReinforcePPCredit",
    "Remembers",
    "Rerun",
    "RewardFlowCredit",
    "RoleBaselineCredit",
    "RoleBaselines",
    "SAOCredit",
    "SELAURCredit",
    "SPAECredit",
    "SPOChainCredit",
    "SelfDistilledCredit",
    "Settles",
    "ShapleyCredit",
    "StepPair",
    "TRRPPCredit",
    "TeacherScores",
    "TokenJudge",
    "TokenValues",
    "ToolGains",
    "TrajectoryCredit",
    "TreeCredit",
    "TurnGAECredit",
    "TurnJudge",
    "TurnReturnCredit",
    "UtteranceValues",
    "Utterances",
    "VSRMCredit",
    "Values",
    "VerifiedCredit",
    "VinePPOCredit",
    "archer_advantages",
    "archer_targets",
    "best_only",
    "branching",
    "build",
    "by_cell",
    "by_group",
    "discounted_returns",
    "dr_grpo",
    "earl_advantages",
    "empg",
    "episode_advantages",
    "expected_gradient",
    "gae",
    "gae_skip",
    "gdpo",
    "gpg",
    "graph_values",
    "grpo",
    "hca",
    "hierarchical",
    "lambda_len",
    "leave_one_out",
    "lite_ppo",
    "loo_counterfactual",
    "max_rl",
    "members",
    "ntpo",
    "opd_advantages",
    "opo",
    "optimal_token",
    "otb",
    "penalised",
    "poad",
    "pooled_credit",
    "puct",
    "rae",
    "reinforce_pp",
    "remax",
    "reward_to_go",
    "sampled_values",
    "shaping",
    "sibling_advantages",
    "spae",
    "spo_chain",
    "spread",
    "spread_tokens",
    "step_pairs",
    "token_returns",
    "tree_value",
    "turn_gae",
    "two_levels",
    "value_of",
    "vineppo",
    "vsrm",
    "whiten",
    "why_left_out",
    "z_scores",
]
