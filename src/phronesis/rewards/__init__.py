"""Who judges an episode: rubrics over what the environment said and over the user's own functions."""

from phronesis.rewards.env_reward import EnvReward, acted_turns
from phronesis.rewards.function import AllOf, FunctionRubric, Judgement, RewardFunction

__all__ = ["AllOf", "EnvReward", "FunctionRubric", "Judgement", "RewardFunction", "acted_turns"]
