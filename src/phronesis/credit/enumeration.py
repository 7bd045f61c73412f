"""What an estimator estimates: its expected gradient on a bandit, by enumeration of everything that can happen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, fsum

from phronesis.credit.baselines.batchwide import gpg, lite_ppo
from phronesis.credit.baselines.group import BestOnly, GroupMean, GroupStandard, LeaveOneOut, MaxRL, NoBaseline
from phronesis.credit.baselines.lengths import opo
from phronesis.credit.baselines.whitening import whiten
from phronesis.errors import UnknownName

Estimator = Callable[[Sequence[float]], Sequence[float]]
"""From the returns of one group to their advantages."""

ESTIMATORS: dict[str, Estimator] = {
    "reinforce": NoBaseline().advantages,
    "rloo": LeaveOneOut(singleton="zero").advantages,
    "drgrpo": GroupMean(singleton="zero").advantages,
    "grpo": GroupStandard(singleton="zero").advantages,
    "maxrl": MaxRL(singleton="zero").advantages,
    "passk-adv": BestOnly(singleton="zero").advantages,
    "opo": lambda returns: opo(returns, [1] * len(returns)).advantages,
    "gpg": lambda returns: gpg(returns, [0] * len(returns)).advantages,
    "lite-ppo": lambda returns: lite_ppo(returns, [0] * len(returns)),
    "rfpp-baseline": lambda returns: whiten([GroupMean(singleton="zero").advantages(returns)])[0],
}
"""Estimators by formula id, as they are where one group of one-token episodes is the whole step."""


def estimator(name: str) -> Estimator:
    """The estimator of a formula id; hyphens, underscores and dots make no difference.

    Raises:
        UnknownName: there is none.
    """
    plain = {known.replace("-", ""): rule for known, rule in ESTIMATORS.items()}
    key = name.lower().replace("-", "").replace("_", "").replace(".", "")
    if key not in plain:
        raise UnknownName("estimator", name, ESTIMATORS)
    return plain[key]


def expected_gradient(advantages: Estimator, n: int, p: float) -> float:
    """Expectation of ``mean_i A_i d log pi(a_i) / dz`` over all groups of `n` draws of a coin whose reward is its outcome.

    The coin shows 1 with ``p = sigmoid(z)``, so ``d log pi(a) / dz = a - p`` and the true gradient of the mean reward is
    ``p (1 - p)``. Groups with equally many ones are alike, so n + 1 of them stand for all 2^n.

    Formula [enum-grad]. For n = 4 and p = .1, .3, .5, .9:

    ========  =======  =======  =======  =======  ===================================================================
    RLOO      .09      .21      .25      .09      the true gradient
    Dr.GRPO   .0675    .1575    .1875    .0675    (n-1)/n of it, as OPO at equal lengths and GPG in a step of one group
    GRPO      .131744  .297275  .349879  .131744  biased: another factor at every difficulty, 1.40 to 1.46; so LitePPO and
                                                  REINFORCE++ with a baseline in a step of one group
    MaxRL     .2439    .4599    .4375    .0999    (1-p)(1 - (1-p)^(n-1)): maximum likelihood, truncated
    ========  =======  =======  =======  =======  ===================================================================

    Args:
        advantages: the estimator; must treat members alike.
        n: group size, at least 1.
        p: probability of 1, in [0, 1].
    """
    terms: list[float] = []
    for ones in range(n + 1):
        outcomes = [1.0] * ones + [0.0] * (n - ones)
        gradient = fsum(a * (x - p) for a, x in zip(advantages(outcomes), outcomes, strict=True)) / n
        terms.append(comb(n, ones) * p**ones * (1 - p) ** (n - ones) * gradient)
    return fsum(terms)
