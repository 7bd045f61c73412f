"""Advantages of the members of one group: how much better each did than the others. Plain floats, one group at a time.

The rule this module keeps: a constant group gives exactly 0, never NaN, and a group of one is an error unless the caller
says what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

from phronesis.errors import ConfigError, GroupTooSmall

Singleton = Literal["error", "zero", "raw"]
"""A group of one: refuse it, give it 0, or give it its return unchanged."""


def leave_one_out(returns: Sequence[float]) -> tuple[float, ...]:
    """Each return minus the mean of its siblings: unbiased.   Source: RLOO, arXiv 2402.14740; formula [rloo].

    >>> leave_one_out([2.0, 0.0, 1.0, 1.0])
    (1.3333333333333333, -1.3333333333333333, 0.0, 0.0)

    Raises:
        GroupTooSmall: fewer than two returns.
    """
    n = _at_least_two(returns)
    return tuple(a * n / (n - 1) for a in dr_grpo(returns))


def dr_grpo(returns: Sequence[float]) -> tuple[float, ...]:
    """Each return minus the group's mean, not divided by its spread; (n-1)/n of `leave_one_out`.

    Source: Dr.GRPO, arXiv 2503.20783; formula [drgrpo].

    >>> dr_grpo([2.0, -1.0, -1.0])
    (2.0, -1.0, -1.0)

    Raises:
        GroupTooSmall: fewer than two returns.
    """
    n = _at_least_two(returns)
    if min(returns) == max(returns):
        return (0.0,) * n
    mean = fsum(returns) / n
    return tuple(r - mean for r in returns)


def grpo(returns: Sequence[float], *, population: bool = False, eps: float = 1e-6) -> tuple[float, ...]:
    """Each return minus the group's mean, over the group's standard deviation plus `eps`.

    Source: GRPO, arXiv 2402.03300 eq. 3; formula [grpo]. [1, 0, 0, 0] gives [1.499997, -.499999 (3 times)]; with the
    population standard deviation [1.732047, -.577349 (3 times)].

    Args:
        returns: at least two numbers.
        population: divide the squared deviations by n instead of n - 1 (Bessel).
        eps: added to the standard deviation, above 0.

    Raises:
        GroupTooSmall: fewer than two returns.
    """
    centred = dr_grpo(returns)
    deviation = sqrt(fsum(c * c for c in centred) / (len(returns) - (0 if population else 1)))
    return tuple(c / (deviation + eps) for c in centred)


def max_rl(returns: Sequence[float]) -> tuple[float, ...]:
    """Each return minus the group's mean, over the mean; 0 for all where the mean is not above 0. Made for returns >= 0:
    with negative ones a small mean blows it up.

    Biased on purpose: the expected gradient is the maximum-likelihood one truncated at order n - 1 in the failure rate, so
    hard tasks weigh more. For a coin with success rate p it is ``(1-p)(1 - (1-p)**(n-1))``.

    Source: MaxRL, arXiv 2602.02710; formula [maxrl]. Groups whose mean is 0 give 0, without the order-n control variate.

    >>> max_rl([1.0, 0.0, 0.0, 0.0])
    (3.0, -1.0, -1.0, -1.0)

    Raises:
        GroupTooSmall: fewer than two returns.
    """
    centred = dr_grpo(returns)
    mean = fsum(returns) / len(returns)
    return tuple(c / mean for c in centred) if mean > 0 else (0.0,) * len(returns)


def best_only(returns: Sequence[float], *, eps: float = 1e-6) -> tuple[float, ...]:
    """The best return minus the second best, over the standard deviation (Bessel) plus `eps`; everything else gets 0.

    A tie for the best gives 0 to all. Biased: it rewards what makes one of k attempts succeed, not the mean.

    Source: arXiv 2503.19595, as in verl; formula [passk-adv]. [1, .5, 0] gives [.999998, 0, 0].

    Args:
        returns: at least two numbers.
        eps: added to the standard deviation, above 0.

    Raises:
        GroupTooSmall: fewer than two returns.
    """
    centred = dr_grpo(returns)
    second, first = sorted(returns)[-2:]
    deviation = sqrt(fsum(c * c for c in centred) / (len(returns) - 1))
    return tuple((first - second) / (deviation + eps) if r == first > second else 0.0 for r in returns)


def _at_least_two(returns: Sequence[float]) -> int:
    if len(returns) < 2:
        raise GroupTooSmall(
            f"a baseline over a group needs at least 2 episodes, got {len(returns)}; "
            "raise the group size, or set the baseline's singleton to 'zero' or 'raw'"
        )
    return len(returns)


@runtime_checkable
class Baseline(Protocol):
    """What members of a group are compared with."""

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """One advantage per return; `singleton` overrides the baseline's own rule for a group of one."""
        ...


def _single(returns: Sequence[float], rule: Singleton) -> tuple[float, ...] | None:
    """The advantages of a group of at most one; None when there is something to compare or the rule is to refuse."""
    if len(returns) > 1 or rule == "error":
        return None
    return tuple(returns) if rule == "raw" else (0.0,) * len(returns)


class LeaveOneOut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rloo"):
    """RLOO.   See `leave_one_out`."""

    singleton: Singleton = "error"
    """What a group of one means."""

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """Applies `leave_one_out`."""
        alone = _single(returns, singleton or self.singleton)
        return leave_one_out(returns) if alone is None else alone


class GroupMean(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dr_grpo"):
    """Dr.GRPO.   See `dr_grpo`."""

    singleton: Singleton = "error"
    """What a group of one means."""

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """Applies `dr_grpo`."""
        alone = _single(returns, singleton or self.singleton)
        return dr_grpo(returns) if alone is None else alone


class GroupStandard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="grpo"):
    """GRPO.   See `grpo`."""

    population: bool = False
    """Population standard deviation instead of Bessel's."""
    eps: float = 1e-6
    """Added to the standard deviation, above 0."""
    singleton: Singleton = "error"
    """What a group of one means."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ConfigError(f"grpo eps {self.eps!r} must be above 0")

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """Applies `grpo`."""
        alone = _single(returns, singleton or self.singleton)
        return grpo(returns, population=self.population, eps=self.eps) if alone is None else alone


class MaxRL(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="maxrl"):
    """MaxRL, for rewards of at least 0; groups of unequal rewards it gives up on are counted.   See `max_rl`."""

    singleton: Singleton = "error"
    """What a group of one means."""

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """Applies `max_rl`."""
        alone = _single(returns, singleton or self.singleton)
        return max_rl(returns) if alone is None else alone


class BestOnly(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="best_only"):
    """Only the best attempt is credited (pass@k).   See `best_only`."""

    eps: float = 1e-6
    """Added to the standard deviation, above 0."""
    singleton: Singleton = "error"
    """What a group of one means."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ConfigError(f"best_only eps {self.eps!r} must be above 0")

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """Applies `best_only`."""
        alone = _single(returns, singleton or self.singleton)
        return best_only(returns, eps=self.eps) if alone is None else alone


class NoBaseline(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="none"):
    """The return itself: plain REINFORCE. High variance; fit for rewards already centred."""

    def advantages(self, returns: Sequence[float], singleton: Singleton | None = None) -> tuple[float, ...]:
        """The returns, unchanged."""
        return tuple(returns)


def compares(*baselines: Baseline) -> bool:
    """Whether any of them looks at siblings: without one, an episode that faults left alone still has credit."""
    return not all(isinstance(b, NoBaseline) for b in baselines)


def gives_up(baseline: Baseline, returns: Sequence[float]) -> bool:
    """Whether `MaxRL` gives 0 to returns that differ, since their mean is not above 0."""
    return isinstance(baseline, MaxRL) and len(set(returns)) > 1 and fsum(returns) <= 0


AnyBaseline = LeaveOneOut | GroupMean | GroupStandard | MaxRL | BestOnly | NoBaseline
"""The built-in baselines, told apart by their tag in configs."""
