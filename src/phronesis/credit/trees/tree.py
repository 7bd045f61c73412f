"""Tree credit: attempts that share a beginning are compared where they part.

The episodes of a group are laid over one another: equal tokens are one node. A node is worth the mean of its children, a leaf
its reward, and a node's credit is its worth against its siblings'. A node with no sibling continues the segment of the node
before it and shares its number. Leave-one-out among siblings gives an unbiased gradient: see the test by enumeration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from msgspec import Struct

from phronesis.credit.baselines.group import GroupMean, GroupStandard, LeaveOneOut
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import turn_credit
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup

Tree = float | Sequence["Tree"]
"""A leaf's score, or the children of a node."""

Against = Literal["others", "siblings"]
"""A node against the mean of its other siblings, or of all siblings with itself, which is its parent's value."""


def tree_value(node: Tree) -> float:
    """A leaf's score, or the mean of the children's values; 0 of a node without any.   Formula [spo-tree], [treerpo].

    >>> tree_value([[1.0, 0.0, 1.0, 1.0], [0.0]])
    0.375
    """
    if isinstance(node, int | float):
        return float(node)
    return sum(tree_value(child) for child in node) / len(node) if node else 0.0


def sibling_advantages(values: Sequence[float], *, against: Against = "others", scale: bool = False) -> tuple[float, ...]:
    """What each sibling is worth against the others.

    ``others`` is leave-one-out and unbiased given the prefix; ``siblings`` is (n-1)/n of it. A node without siblings gets 0.
    Source: SPO-tree, arXiv 2505.23564 (``others``; ``siblings`` with `scale` is its other form); TreeRPO, arXiv 2506.05183
    (``siblings``; its normaliser is unverified).

    >>> sibling_advantages([0.5, 1.0], against="siblings")
    (-0.25, 0.25)

    Args:
        values: worth of the children of one node.
        against: what each is compared with.
        scale: divide by the siblings' standard deviation (Bessel, plus 1e-6).
    """
    if scale:
        return GroupStandard().advantages(values, "zero")
    return (LeaveOneOut() if against == "others" else GroupMean()).advantages(values, "zero")


class Node:
    """Tokens of one turn, shared by all attempts that wrote the same up to here."""

    def __init__(self) -> None:
        self.children: dict[tuple[tuple[int, ...], tuple[int, ...]], Node] = {}
        """What was written next, by context and completion."""
        self.scores: list[float] = []
        """Rewards of attempts that end here."""
        self.draws = 0
        """How often it was drawn: turns laid over one another here."""
        self.value = 0.0
        """Mean over the children, each as often as it was drawn, and the attempts that end here."""
        self.credit = 0.0
        """Its worth against its siblings'."""


Places = Mapping[tuple[int, int], Node]
"""The node of turn k of episode e, by (e, k)."""


def branch_reward(episode: Episode, end: int) -> float:
    """Reward of one branch: what judges it, what its turns earned, and what belongs to the episode as a whole."""
    if len(episode.ends) <= 1 or episode.reward is None:
        return value_of(episode)
    return episode.reward.of_branch(end, episode.line(end))


def overlay(episodes: Mapping[int, Episode]) -> tuple[Node, Places]:
    """The tree of all attempts, with the node of every turn.

    Turns are laid over one another in order of time (`Episode.before`): a rewritten prompt goes on where it was rewritten.
    """
    root = Node()
    nodes = [root]
    places: dict[tuple[int, int], Node] = {}
    for e, episode in episodes.items():
        before = episode.before
        for k, turn in enumerate(episode.turns):
            follows = before[k]
            at = root if follows is None else places[e, follows]
            written = turn.context, turn.completion
            if written not in at.children:
                at.children[written] = Node()
                nodes.append(at.children[written])
            places[e, k] = at.children[written]
            places[e, k].draws += 1
        for end in episode.ends:
            places[e, end].scores.append(branch_reward(episode, end))
    for node in reversed(nodes):  # children come after their parents
        node.value = tree_value(_drawn(node))
    return root, places


def _drawn(node: Node) -> list[float]:
    """Worth of what was drawn after a node, equal draws repeated, and of attempts that end there."""
    return [child.value for child in node.children.values() for _ in range(child.draws)] + node.scores


def credit_nodes(root: Node, against: Against, scale: bool) -> None:
    """Sets the credit of every node below `root`.

    Equal draws are siblings too: counted once, they would tilt the comparison towards what is rarely drawn.
    """
    waiting = [root]
    while waiting:
        node = waiting.pop()
        advantages = sibling_advantages(_drawn(node), against=against, scale=scale)
        at = 0
        for child in node.children.values():
            child.credit = node.credit if len(advantages) == 1 else advantages[at]
            at += child.draws
            waiting.append(child)


class TreeCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tree"):
    """A turn gets its node's credit: its worth against that of its siblings.

    Episodes that are not forked and share no tokens are siblings of one another, and their credit is plain leave-one-out.
    SPO-tree is the default; TreeRPO is ``against = "siblings"`` with ``scale``. See `sibling_advantages`.
    """

    needs_siblings: ClassVar[bool] = True
    """A lone episode that does not fork has nothing to be compared with."""
    against: Against = "others"
    """What a node is compared with."""
    scale: bool = False
    """Divide by the siblings' spread; biased."""

    def __post_init__(self) -> None:
        if self.scale and self.against == "others":
            raise ConfigError("tree scale divides a deviation from the mean of all siblings; set against = 'siblings'")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group, compared=False).kept
        episodes = {e: group.episodes[e] for e in kept}
        root, places = overlay(episodes)
        credit_nodes(root, self.against, self.scale)
        found = {e: [places[e, k].credit for k in range(len(episode.turns))] for e, episode in episodes.items()}
        return turn_credit(group, found)
