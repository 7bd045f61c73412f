"""The `talkworld` environment."""

from phronesis.envs.talkworld.customer import Customer, Mood
from phronesis.envs.talkworld.desk import Desk
from phronesis.envs.talkworld.env import make
from phronesis.envs.talkworld.families import FAMILIES
from phronesis.envs.talkworld.game import TalkEnv, TalkWorld
from phronesis.envs.talkworld.tasks import Dials, task

__all__ = ["FAMILIES", "Customer", "Desk", "Dials", "Mood", "TalkEnv", "TalkWorld", "make", "task"]
