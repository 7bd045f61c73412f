"""Parts of a batch: micro-batches that add up to it, and mini-batches that are steps of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from phronesis.errors import ConfigError
from phronesis.records import Batch, Segment
from phronesis.seeding import rng

FINENESS = 8
"""Units per share that `shares` aims at: a share ends within about a sixteenth of its size of where it should."""


class _Tree:
    """Child lists and token counts of a batch's segments."""

    def __init__(self, batch: Batch):
        self.segments = batch.segments
        self.children: list[list[int]] = [[] for _ in self.segments]
        self.roots: list[int] = []
        for i, s in enumerate(self.segments):
            (self.roots if s.parent is None else self.children[s.parent]).append(i)
        self.below = [len(s.ids) for s in self.segments]
        self.above = [0] * len(self.segments)
        for i in reversed(range(len(self.segments))):
            parent = self.segments[i].parent
            if parent is not None:
                self.below[parent] += self.below[i]
        for i, s in enumerate(self.segments):
            if s.parent is not None:
                self.above[i] = self.above[s.parent] + len(self.segments[s.parent].ids)

    def ancestors(self, i: int) -> list[int]:
        """Indices above `i`, nearest first."""
        found: list[int] = []
        at = self.segments[i].parent
        while at is not None:
            found.append(at)
            at = self.segments[at].parent
        return found

    def subtree(self, i: int) -> list[int]:
        """`i` and all below it."""
        found, stack = list[int](), [i]
        while stack:
            at = stack.pop()
            found.append(at)
            stack += self.children[at]
        return found


def split(batch: Batch, max_tokens: int) -> list[Batch]:
    """Micro-batches of at most `max_tokens` computed tokens whose losses and gradients add up to the batch's.

    Groups stay together where they fit, since they share a prompt; a prompt needed by several parts is repeated in each
    (only its first copy keeps trained tokens). A single trajectory longer than `max_tokens` is a part of its own.
    Denominators stay those of the whole step.

    Args:
        batch: what to cut.
        max_tokens: at least 1.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens {max_tokens!r} must be at least 1")
    if batch.tokens <= max_tokens:
        return [batch]
    tree = _Tree(batch)
    parts: list[list[int]] = []
    size = 0
    present: set[int] = set()
    for top in _units(tree, max_tokens):
        path = tree.ancestors(top)
        new = tree.below[top] + sum(len(batch.segments[a].ids) for a in path if a not in present)
        if not parts or size + new > max_tokens:
            parts.append([])
            size = 0
            present = set()
            new = tree.below[top] + tree.above[top]
        parts[-1].append(top)
        present.update(path)
        size += new
    trained: set[int] = set()
    return [_part(batch, tree, tops, trained) for tops in parts]


def shares(batch: Batch, count: int) -> list[Batch | None]:
    """`count` parts of one step whose losses and gradients add up to the step's, of about equal computed tokens.

    Each is a run of neighbours, so that a prompt is repeated for no more than those that meet at a border; only its first copy
    keeps trained tokens, and denominators stay those of the whole step. Four attempts of 30 tokens at one prompt of 10, for
    two: the prompt and the first two, the prompt again and the last two, 70 tokens each.

    Args:
        batch: what to share.
        count: at least 1.

    Returns:
        In order; None where there is nothing left to do, as with fewer trajectories than parts.
    """
    if count < 1:
        raise ConfigError(f"a step cannot be shared by {count!r}")
    if count == 1:
        return [batch]
    tree = _Tree(batch)
    # small units end nearer to where a share should end, and repeat more of what lies above them
    units = _units(tree, max(1, batch.tokens // (FINENESS * count)))
    costs, seen = list[int](), set[int]()
    for top in units:
        above = [i for i in tree.ancestors(top) if i not in seen]
        seen.update(above)
        costs.append(tree.below[top] + sum(len(batch.segments[i].ids) for i in above))
    tops: list[list[int]] = [[] for _ in range(count)]
    done, total = 0, sum(costs)
    for top, cost in zip(units, costs, strict=True):
        tops[min(count - 1, int((done + cost / 2) * count / total))].append(top)
        done += cost
    trained: set[int] = set()
    return [_part(batch, tree, own, trained) if own else None for own in tops]


def minibatches(batch: Batch, count: int, seed: int) -> list[Batch]:
    """Up to `count` batches of about equal size, each with denominators of its own, in an order drawn from `seed`.

    An episode is never cut, however many prompts it answered. Groups stay together where there are enough of them and their
    episodes share no later prompt. Episodes left out of the batch count in proportion.
    """
    if count <= 1 or not batch.segments:
        return [batch]
    tree = _Tree(batch)
    tops = list(tree.roots)
    while True:
        open_tops = [u for u in tops if any(batch.segments[c].episode < 0 for c in tree.children[u])]
        if not open_tops and len(_whole(tree, tops)) < count:
            open_tops = sorted((u for u in tops if tree.children[u]), key=lambda u: -tree.below[u])[:1]
        if not open_tops:
            break
        at = tops.index(open_tops[0])
        tops[at : at + 1] = tree.children[open_tops[0]]
    units = _whole(tree, tops)
    rng(seed, "minibatches").shuffle(units)
    bins: list[list[int]] = [[] for _ in range(min(count, len(units)))]
    sizes = [0] * len(bins)
    for unit in sorted(units, key=lambda u: -_below(tree, u)):
        least = sizes.index(min(sizes))
        bins[least] += unit
        sizes[least] += _below(tree, unit)
    order = list(range(len(bins)))
    rng(seed, "minibatch order").shuffle(order)
    trained: set[int] = set()
    return [_own_totals(batch, _part(batch, tree, sorted(bins[i]), trained)) for i in order]


def _whole(tree: _Tree, tops: Sequence[int]) -> list[list[int]]:
    """Tops that hold parts of one episode, together; in order of their first."""
    owner: dict[int, int] = {}  # episode -> unit
    units: list[list[int]] = []
    for top in tops:
        episodes = {tree.segments[i].episode for i in tree.subtree(top)} - {-1}
        met = sorted({owner[e] for e in episodes if e in owner})
        here = met[0] if met else len(units)
        if not met:
            units.append([])
        units[here].append(top)
        for other in met[1:]:
            units[here] += units[other]
            units[other] = []
            owner = {e: here if u == other else u for e, u in owner.items()}
        owner |= dict.fromkeys(episodes, here)
    return [unit for unit in units if unit]


def _below(tree: _Tree, unit: Sequence[int]) -> int:
    """Tokens of a unit, its ancestors' not counted."""
    return sum(tree.below[top] for top in unit)


def _units(tree: _Tree, max_tokens: int) -> list[int]:
    """Tops of subtrees that fit with their ancestors, in depth-first order; leaves that do not fit stand alone."""
    units: list[int] = []
    stack = tree.roots[::-1]
    while stack:
        top = stack.pop()
        if tree.children[top] and tree.below[top] + tree.above[top] > max_tokens:
            stack += tree.children[top][::-1]
        else:
            units.append(top)
    return units


def _part(batch: Batch, tree: _Tree, tops: Iterable[int], trained: set[int]) -> Batch:
    """The subtrees below `tops` with their ancestors; segments already in `trained` lose their mask, the others join it."""
    wanted = sorted({i for top in tops for i in (*tree.ancestors(top), *tree.subtree(top))})
    place = {old: new for new, old in enumerate(wanted)}
    segments: list[Segment] = []
    for old in wanted:
        s = batch.segments[old]
        s = msgspec.structs.replace(s, parent=None if s.parent is None else place[s.parent])
        segments.append(_untrained(s) if old in trained else s)
    trained.update(wanted)
    return msgspec.structs.replace(batch, segments=tuple(segments))


def _untrained(s: Segment) -> Segment:
    if not any(s.mask) and not s.observed:
        return s
    n = len(s.ids)
    zero = (0.0,) * n
    return msgspec.structs.replace(s, mask=(False,) * n, logprobs=zero, advantages=zero, turns=(-1,) * n, observed=())


def _own_totals(whole: Batch, part: Batch) -> Batch:
    """Denominators of a part that is a step of its own; left-out episodes count in proportion."""
    counts = [0] * len(whole.episodes)
    for s in part.segments:
        if s.episode >= 0:
            counts[s.episode] += sum(s.mask)
    turns = _turns(part)
    return msgspec.structs.replace(
        part,
        sequence_tokens=tuple(counts),
        total_tokens=_scaled(sum(counts), whole.total_tokens, whole.trained_tokens),
        total_sequences=_scaled(sum(map(bool, counts)), whole.total_sequences, _live(whole.sequence_tokens)),
        total_turns=_scaled(turns, whole.total_turns, _turns(whole)),
        total_observed=sum(sum(s.observed) for s in part.segments),
    )


def _turns(batch: Batch) -> int:
    """How many turns have a trained token."""
    return len({(s.episode, t) for s in batch.segments for t, m in zip(s.turns, s.mask, strict=True) if m})


def _scaled(own: int, total: int, kept: int) -> int:
    return round(own * total / kept) if kept else own


def _live(counts: Sequence[int]) -> int:
    return sum(map(bool, counts))
