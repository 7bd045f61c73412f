"""EARL: where every attempt failed, force a route that was not taken and learn from the difference.

Source: Expanded Action Space / EARL, arXiv 2510.07581; formula [earl-adv].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, fsum
from typing import NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupStandard
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import spread_over, token_credit
from phronesis.credit.turnwise.turns import is_chain
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


def earl_advantages(counterfactual: Sequence[float], factual: Sequence[float]) -> tuple[float, ...]:
    """Reward with the forced route minus reward without it, not divided by any spread.

    >>> earl_advantages([1.0, 0.0, 0.5], [0.0, 0.0, 0.75])
    (1.0, 0.0, -0.25)
    """
    return tuple(c - f for c, f in zip(counterfactual, factual, strict=True))


def insertion_weights(
    logprobs: Sequence[float], *, temperature: float = 10.0, top_k: int = 10, top_p: float = 0.9
) -> tuple[float, ...]:
    """Probability of forcing a route at each position of the free text: softmax of its log-probability there, cut to a core.

    Log-probabilities (0, -10, -1e9), temperature 10: (.731059, .268941, 0).

    Args:
        logprobs: nats of the routing token at each position, at least one.
        temperature: divides them.
        top_k: positions kept at most.
        top_p: the likeliest positions are kept until they hold this much.
    """
    top = max(logprobs)
    weights = [exp((lp - top) / temperature) for lp in logprobs]
    total, held = fsum(weights), 0.0
    kept = [0.0] * len(weights)
    for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:top_k]:
        if held >= top_p:
            break
        kept[i] = weights[i]
        held += weights[i] / total
    left = fsum(kept)
    return tuple(w / left for w in kept)


class ToolGains(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much forcing each tool has helped lately, and so how often to force it."""

    gains: Mapping[str, float]
    """Running mean of the gains, by tool."""

    @classmethod
    def start(cls, tools: Sequence[str], initial: float = 0.001) -> ToolGains:
        """All tools alike."""
        return cls(gains=dict.fromkeys(tools, initial))

    def observe(self, tool: str, gain: float, decay: float = 0.9) -> ToolGains:
        """With one more gain of a tool: ``decay * old + (1 - decay) * gain``. Gain 1 on .001: .1009."""
        return ToolGains(gains={**self.gains, tool: decay * self.gains[tool] + (1 - decay) * gain})

    def weights(self) -> dict[str, float]:
        """Probability of forcing each tool: softmax of the gains, scaled so that the largest is 1.

        Gains .1 and .05: softmax of (1, .5) = (.622459, .377541).
        """
        largest = max(self.gains.values())
        scaled = {t: g / largest if largest > 0 else 0.0 for t, g in self.gains.items()}
        top = max(scaled.values())
        raw = {t: exp(s - top) for t, s in scaled.items()}
        total = fsum(raw.values())
        return {t: r / total for t, r in raw.items()}


class Forced(NamedTuple):
    """An attempt with a forced route, and what it departs from."""

    factual: int
    """Index of the episode it follows up to the forced token."""
    turn: int
    """Turn in which it was forced."""
    token: int
    """First forced token of that turn's completion."""


def forced_routes(episodes: Mapping[int, Episode]) -> dict[int, Forced]:
    """Episodes that follow another one of the group token for token and then depart with a token that was forced.

    A budget that closes a thought is forced as well, but nothing departs there from an equal beginning.

    Args:
        episodes: by index; chains of turns.
    """
    flat = {e: _tokens(episode) for e, episode in episodes.items()}
    found: dict[int, Forced] = {}
    for e, tokens in flat.items():
        best = -1
        for f, others in flat.items():
            shared = _shared(tokens, others)
            if f == e or shared == len(tokens) or shared == len(others) or shared <= best:
                continue
            best = shared
            turn, token, forced = tokens[shared][1:]
            if forced:
                found[e] = Forced(f, turn, token)
            else:
                found.pop(e, None)
    return found


def _tokens(episode: Episode) -> list[tuple[int, int, int, bool]]:
    """Id, turn, place in the completion (-1 in the context) and whether it was forced, of every token in order."""
    rows: list[tuple[int, int, int, bool]] = []
    for k, turn in enumerate(episode.turns):
        rows += [(i, k, -1, False) for i in turn.context]
        rows += [(i, k, t, not s) for t, (i, s) in enumerate(zip(turn.completion, turn.sampled, strict=True))]
    return rows


def _shared(a: Sequence[tuple[int, int, int, bool]], b: Sequence[tuple[int, int, int, bool]]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x[:3] != y[:3]:
            break
        n += 1
    return n


class EARLCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="earl"):
    """GRPO among free attempts; an attempt with a forced route gets its reward minus that of the attempt it departs from.

    Forced attempts never enter the baseline, and are told by their tokens (see `forced_routes`): whoever plays puts one beside
    the attempt it departs from. Their tokens before the forced one get 0, as does the forced one, which nobody sampled; both
    are ours.
    """

    baseline: AnyBaseline = GroupStandard()
    """What a free attempt's reward is compared with."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: an episode forks.
        """
        kept = members(group).kept
        episodes = {e: group.episodes[e] for e in kept}
        for episode in episodes.values():
            if not is_chain(episode):
                raise ConfigError(f"earl reads chains of turns and episode {episode.id!r} forks; choose 'tree'")
        forced = forced_routes(episodes)
        free = [e for e in kept if e not in forced]
        found = dict(zip(free, self.baseline.advantages([value_of(episodes[e]) for e in free], "zero"), strict=True))
        departed = list(forced.values())
        gains = earl_advantages([value_of(episodes[e]) for e in forced], [value_of(episodes[f.factual]) for f in departed])
        rows = {e: spread_over(episodes[e], [a] * len(episodes[e].turns)) for e, a in found.items()}
        for e, at, gain in zip(forced, departed, gains, strict=True):
            turns = enumerate(episodes[e].turns)
            rows[e] = [[gain if (k, t) > at[1:] else 0.0 for t in range(len(turn.completion))] for k, turn in turns]
        return token_credit(group, rows)
