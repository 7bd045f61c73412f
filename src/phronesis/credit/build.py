"""From a config, or from the import path of a user's own rule, to a credit rule."""

from __future__ import annotations

from phronesis.config.importing import import_made
from phronesis.credit.baselines.batchwide import GDPOCredit, GPGCredit, LitePPOCredit
from phronesis.credit.baselines.cells import HierarchicalCredit, TRRPPCredit
from phronesis.credit.baselines.lengths import LengthPenaltyCredit, OPOCredit
from phronesis.credit.baselines.optimal import OptimalTokenCredit
from phronesis.credit.baselines.remax import ReMaxCredit
from phronesis.credit.baselines.role_baselines import RoleBaselineCredit
from phronesis.credit.baselines.trajectory import TrajectoryCredit
from phronesis.credit.baselines.verified import VerifiedCredit
from phronesis.credit.baselines.whitening import ReinforcePPBaselineCredit, ReinforcePPCredit
from phronesis.credit.critics.archer import ArCHerCredit
from phronesis.credit.critics.gae import GAECredit, SAOCredit
from phronesis.credit.critics.poad import POADCredit
from phronesis.credit.critics.turn_gae import TurnGAECredit
from phronesis.credit.judged.hindsight import HCACredit, HindsightCredit, SelfDistilledCredit
from phronesis.credit.judged.igpo import IGPOCredit
from phronesis.credit.judged.shapley import ShapleyCredit
from phronesis.credit.judged.teacher import OPDCredit
from phronesis.credit.judged.uncertainty import CriticalCredit, EMPGCredit, SELAURCredit
from phronesis.credit.replays.counterfactual import CounterfactualCredit
from phronesis.credit.replays.earl import EARLCredit
from phronesis.credit.replays.montecarlo import SPOChainCredit, VinePPOCredit
from phronesis.credit.replays.stepwise import SPAECredit, VSRMCredit
from phronesis.credit.rule import CreditRule
from phronesis.credit.trees.arpo import ARPOCredit
from phronesis.credit.trees.tree import TreeCredit
from phronesis.credit.turnwise.aspo import ASPOCredit
from phronesis.credit.turnwise.gigpo import GiGPOCredit
from phronesis.credit.turnwise.mt_grpo import MTGRPOCredit
from phronesis.credit.turnwise.plans import PlanCredit
from phronesis.credit.turnwise.potential import PotentialCredit
from phronesis.credit.turnwise.rewardflow import RewardFlowCredit
from phronesis.credit.turnwise.turns import TurnReturnCredit

CreditConfig = (
    TrajectoryCredit
    | TurnReturnCredit
    | GiGPOCredit
    | GAECredit
    | SAOCredit
    | TurnGAECredit
    | POADCredit
    | ArCHerCredit
    | ARPOCredit
    | ASPOCredit
    | CounterfactualCredit
    | EARLCredit
    | HCACredit
    | HindsightCredit
    | SelfDistilledCredit
    | IGPOCredit
    | SPOChainCredit
    | VinePPOCredit
    | MTGRPOCredit
    | PlanCredit
    | PotentialCredit
    | RewardFlowCredit
    | ShapleyCredit
    | SPAECredit
    | VSRMCredit
    | TreeCredit
    | CriticalCredit
    | EMPGCredit
    | SELAURCredit
    | OPDCredit
    | VerifiedCredit
    | GDPOCredit
    | GPGCredit
    | LitePPOCredit
    | TRRPPCredit
    | HierarchicalCredit
    | LengthPenaltyCredit
    | OPOCredit
    | OptimalTokenCredit
    | ReMaxCredit
    | RoleBaselineCredit
    | ReinforcePPBaselineCredit
    | ReinforcePPCredit
)
"""The built-in rules, told apart by their tag in configs. Each is its own rule, but for `RoleBaselineCredit`, which makes one
that remembers."""


def build(choice: CreditConfig | str) -> CreditRule:
    """The rule a config names.

    Args:
        choice: a built-in rule, or ``package.module:name`` where the name is a rule, or a class or function without
            arguments that gives one.

    Raises:
        ConfigError: the path cannot be imported, or what lies there is no rule and gives none.

    >>> build("phronesis.credit.turnwise.gigpo:GiGPOCredit") == GiGPOCredit()
    True
    """
    if isinstance(choice, RoleBaselineCredit):
        return choice.begin()
    if not isinstance(choice, str):
        return choice
    return import_made(choice, CreditRule, "a credit rule: it has no async assign(group, rerun)")
