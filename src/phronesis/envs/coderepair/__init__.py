"""The `coderepair` environment."""

from phronesis.envs.coderepair.env import CodeRepairEnv, make
from phronesis.envs.coderepair.mutate import Mutation, mutations
from phronesis.envs.coderepair.tasks import Mutant, stock, visible

__all__ = ["CodeRepairEnv", "Mutant", "Mutation", "make", "mutations", "stock", "visible"]
