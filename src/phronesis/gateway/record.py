"""From what was sampled to the record: what is kept, how turns follow one another in time, what is told of them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phronesis.gateway.tree import Place, Point, TokenTree
from phronesis.records import Turn


def sift(tree: TokenTree, points: Sequence[Point]) -> tuple[int, int, list[int]]:
    """Which messages make the episode.

    Messages whose sending broke off, and messages that were asked for again before anything was built upon them, are left
    out: what came after does not follow from them. One with a reward of its own stays.

    Returns:
        How many were never delivered, how many superseded, and the numbers of those that are kept.
    """
    lost = [not (p.delivered or p.uses or p.judged) for p in points]
    retried = [tree.superseded(p) for p in points]
    kept = [k for k in range(len(points)) if not (lost[k] or retried[k])]
    return sum(lost), sum(retried), kept


def renumbered(turns: Sequence[Turn], kept: Sequence[int]) -> tuple[Turn, ...]:
    """The kept turns, numbered anew. What followed a turn that is left out follows what that one followed."""
    new = {old: k for k, old in enumerate(kept)}

    def after(turn: Turn) -> int:
        at = -1 if turn.follows is None else turn.follows
        while at >= 0 and at not in new:
            before = turns[at].follows
            at = -1 if before is None else before
        return new[at] if at >= 0 else -1

    mine = (turns[k] for k in kept)
    return tuple(replace(t, parent=None if t.parent is None else new[t.parent], follows=after(t)) for t in mine)


def follows(tree: TokenTree, points: Sequence[Point], turns: Sequence[Turn], place: Place, *, busy: bool) -> int:
    """The turn a request comes after in time; −1 for none (see `Turn.follows`).

    An agent that calls a helper with a conversation of its own comes back to its own one: its next turn follows the
    helper's last. Where requests overlap (`busy`) there is no such order, and a turn follows the one it extends.
    """
    latest, parent = points[-1] if points else None, place.parent
    if parent is None:
        twin = next((p for p in tree.roots if p.prompt == place.context), None)
        if twin is not None:
            before = turns[twin.turn].follows
            return -1 if before is None else before
        return -1 if latest is None else latest.turn
    detour = latest is not None and latest.root is not parent.root and not busy
    if latest is not None and detour and place.kind in ("extended", "restarted"):
        return latest.turn
    return parent.turn


def told(turn: Turn, point: Point) -> dict[str, object]:
    """A turn in an episode's summary."""
    return {
        "turn": point.turn,
        "parent": turn.parent,
        "kind": point.kind,
        "prompt_tokens": len(point.prompt),
        "completion_tokens": len(turn.completion),
        "finish": turn.finish.value,
        "version": list(turn.version),
        "delivered": point.delivered,
    }
