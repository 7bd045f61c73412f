"""Who judges an episode: rubrics over what the environment said and over the user's own functions."""

from phronesis.rewards.env_reward import EnvReward, acted_turns
from phronesis.rewards.function import AllOf, FunctionRubric, Judgement, RewardFunction
from phronesis.rewards.overlong import Overlong, overlong
from phronesis.rewards.self_play import formatted_reward, proposal_reward

__all__ = [
    "AllOf",
    "EnvReward",
    "FunctionRubric",
    "Judgement",
    "Overlong",
    "RewardFunction",
    "acted_turns",
    "formatted_reward",
    "overlong",
    "proposal_reward",
]
