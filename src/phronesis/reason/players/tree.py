"""Groups played as trees: at each of the first segments several attempts go on.

Source: TreeRPO, arXiv 2506.05183; SPO-tree, arXiv 2505.23564; formulas [treerpo], [spo-tree].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.reason.players.account import Account
from phronesis.reason.players.branching import Brood, Wish, joins_not
from phronesis.records import EpisodeGroup
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import GroupPlayer, Stage, Ticket


class TreePlayer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tree"):
    """Every node of the first levels has a number of children, each drawn anew; leaves are played to their end.

    A node is a segment of whole turns. With widths (2, 3): two attempts from the start; before the second segment of each, two
    more attempts go on, so that each first segment has three second ones; six attempts, the group's size. One that ends
    before a level has no children there.

    SPO-tree publishes widths 6, 6, 6 and 4, 5, 6 over segments of tokens; TreeRPO's are unverified. Ours: segments of turns.
    """

    widths: tuple[int, ...] = (2, 2, 2)
    """Children of a node by level, each at least 1; their product is the group's size."""
    every: int = 1
    """Turns of a segment, at least 1."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.every < 1:
            raise ConfigError(f"player tree needs widths and every of at least 1, got {self.widths!r} and {self.every!r}")

    def check(self, size: int) -> None:
        """Raises ConfigError where a group is not as large as the tree."""
        if size != prod(self.widths):
            raise ConfigError(
                f"player tree with widths {list(self.widths)} has {prod(self.widths)} leaves, and group_size is {size!r}; set "
                f"group_size = {prod(self.widths)}, or other widths"
            )

    def begin(self) -> GroupPlayer:
        """One that plays."""
        return _Tree(self)


class _Tree:
    def __init__(self, config: TreePlayer) -> None:
        self.config, self.account = config, Account()

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        self.config.check(len(tickets))
        brood = Brood(stage, gate, self.account)
        nodes = await brood.fresh(tickets[: self.config.widths[0]])
        for level, width in enumerate(self.config.widths[1:], 1):
            at, wishes = level * self.config.every, list[Wish]()
            for node in nodes:
                if joins_not(node.base) or len(node.base.turns) <= at:
                    self.account.add("short", width - 1)
                elif width > 1:
                    wishes.append(Wish(node.family, node.base, at, width - 1))
            nodes = [*nodes, *await brood.branch(wishes)]
        return await brood.group(name)

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Nothing to remember."""

    def metrics(self) -> dict[str, float]:
        return self.account.take()
