"""From a config, or from the import path of a user's own, to a player."""

from __future__ import annotations

from msgspec import Struct

from phronesis.config import import_path
from phronesis.errors import ConfigError
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.earl import EARLPlayer
from phronesis.reason.players.speed import SpeedPlayer
from phronesis.reason.players.tree import TreePlayer
from phronesis.rollout.play import GroupPlayer


class Alone(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="alone"):
    """Every attempt of a group is played by itself, from the start."""

    def check(self, size: int) -> None:
        """A group of any size will do."""

    def begin(self) -> None:
        """Nobody: `phronesis.rollout.play.play_groups` does so by itself."""


PlayerConfig = Alone | ARPOPlayer | TreePlayer | EARLPlayer | SpeedPlayer
"""The built-in players, told apart by their tag in configs."""


def build(choice: PlayerConfig | str) -> GroupPlayer | None:
    """The player a config names; None where attempts are played by themselves.

    Args:
        choice: a built-in player, or ``package.module:name`` of a class or function without arguments that gives one.

    Raises:
        ConfigError: the path cannot be imported, or what lies there gives no player.
    """
    if not isinstance(choice, str):
        return choice.begin()
    found = import_path(choice)
    if not callable(found):
        raise ConfigError(f"player {choice!r} is a {type(found).__name__}; name a class or function that gives a player")
    player: object = found()
    if not isinstance(player, GroupPlayer):
        raise ConfigError(f"player {choice!r} gives a {type(player).__name__}, which has no play, settle and metrics")
    return player
