"""The optimal token baseline: what is subtracted at a token weighs siblings by how much gradient they carry up to there."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum
from typing import ClassVar

from msgspec import Struct

from phronesis.credit.baselines.returns import reward_to_go, token_returns
from phronesis.credit.baselines.trajectory import has_zero_variance
from phronesis.credit.rule import Rerun, members, spread_tokens
from phronesis.credit.side import token_numbers
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


def energies(probabilities: Sequence[float], squares: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Per token, the squared gradient of the log-probabilities so far with respect to the logits, summed:
    ``W_t = sum over j <= t of w_j^2 (1 - 2 pi_j + sum over the vocabulary of pi^2)``.

    Args:
        probabilities: of the sampled tokens.
        squares: per token, the sum of squared probabilities over the vocabulary.
        weights: importance weights; None means 1.
    """
    factors = [1.0] * len(probabilities) if weights is None else weights
    total, found = 0.0, list[float]()
    for p, s, w in zip(probabilities, squares, factors, strict=True):
        total += w * w * (1 - 2 * p + s)
        found.append(total)
    return found


def optimal_token(
    returns: Sequence[Sequence[float]], energy: Sequence[Sequence[float]], *, eps: float = 1e-8
) -> list[list[float]]:
    """Returns of tokens minus the baseline of least variance: ``B_t = sum_i G_it W_it / (sum_i W_it + eps)`` over the traces
    of the group that are alive at token t.

    Where only one trace is alive there is nothing to compare with and its baseline is 0; so for a group of one. Biased in a
    finite group, since the baseline contains the trace itself. Past the second-longest trace nothing is subtracted, as
    published, so a constant on all rewards moves that tail; the rule below gives a group of equal rewards no credit at all.

    Source: arXiv 2602.07078; formula [otb]. Probabilities [.5, .8] and [.5, .2], squares [.5, .68] for both,
    returns 1 and 0: energies [.5, .58] and [.5, 1.78], advantages [.5, .754237] and [-.5, -.245763].

    Args:
        returns: per trace, the return of each sampled token; undiscounted in the paper.
        energy: see `energies`; of the same shape.
        eps: added to the sum of energies.
    """
    longest = max((len(row) for row in returns), default=0)
    baselines: list[float] = []
    for t in range(longest):
        alive = [(g[t], w[t]) for g, w in zip(returns, energy, strict=True) if len(g) > t]
        weighted = fsum(g * w for g, w in alive) / (fsum(w for _, w in alive) + eps)
        baselines.append(weighted if len(alive) > 1 else 0.0)
    return [[g - b for g, b in zip(row, baselines, strict=False)] for row in returns]


def otb(
    rewards: Sequence[Sequence[float]],
    probabilities: Sequence[Sequence[float]],
    squares: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]] | None = None,
    *,
    eps: float = 1e-8,
) -> list[list[float]]:
    """`optimal_token` of one group from the rewards of its tokens, whose returns are not discounted."""
    factors: Sequence[Sequence[float] | None] = [None] * len(rewards) if weights is None else weights
    rows = zip(probabilities, squares, factors, strict=True)
    return optimal_token([reward_to_go(r) for r in rewards], [energies(p, s, w) for p, s, w in rows], eps=eps)


class OptimalTokenCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="otb"):
    """Every sampled token gets its undiscounted return minus the optimal token baseline.   See `optimal_token`.

    Episodes record the probability of the sampled token, not the sum of squares over the vocabulary, which a `judge` may know.
    Without one we take the square of the sampled token alone, the lower bound that is known: a token's energy is then
    ``(1 - pi)^2``. Ours; like the exact one it is near 0 for certain tokens and grows with doubt. A group of equal rewards has
    no credit, nor has a group of one.
    """

    judge: str = ""
    """Import path ``package.module:name`` of an async function ``(episode, turn) -> sums of squared probabilities [T]``; empty
    takes the lower bound."""
    eps: float = 1e-8
    """Added to the sum of energies, above 0."""
    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ConfigError(f"otb eps {self.eps!r} must be above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group).kept
        episodes = [group.episodes[e] for e in kept]
        returns = [token_returns(e) for e in episodes]
        if has_zero_variance(group) and len({g for row in returns for g in row}) <= 1:  # also beside one without tokens
            return spread_tokens(group, {e: [0.0] * group.episodes[e].sampled_tokens for e in kept}, zero_variance=True)
        energy = [await self._energies(e) for e in episodes]
        found = optimal_token(returns, energy, eps=self.eps)
        silent = not any(any(row) for row in found)
        return spread_tokens(group, dict(zip(kept, found, strict=True)), zero_variance=silent)

    async def _energies(self, episode: Episode) -> list[float]:
        probabilities = [exp(lp) for lp in _sampled(episode, [turn.logprobs for turn in episode.turns])]
        if not self.judge:
            return energies(probabilities, [p * p for p in probabilities])
        return energies(probabilities, _sampled(episode, await token_numbers(episode, self.judge, "otb")))


def _sampled(episode: Episode, rows: Sequence[Sequence[float]]) -> list[float]:
    """The numbers of sampled tokens, over turns in order."""
    pairs = zip(episode.turns, rows, strict=True)
    return [x for turn, row in pairs for x, sampled in zip(row, turn.sampled, strict=True) if sampled]
