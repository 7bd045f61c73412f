"""Which tasks are worth playing, from how often they are solved.

A group in which all or none succeed carries no signal, so tasks of middling pass rate teach most. The rule this module keeps:
a pass rate from few attempts is an interval, and a task is left out only when the whole interval says so.
"""

from __future__ import annotations

from phronesis.data.intervals import Z95, wilson
from phronesis.errors import ConfigError


def keep_probability(group_size: int, p: float) -> float:
    """Probability that a group holds both a success and a failure: ``1 - p^G - (1-p)^G``.

    Source: DAPO, arXiv 2503.14476; formula [keep-prob]. 16 attempts at success rate .9: .814698.

    Args:
        group_size: attempts, at least 1.
        p: success rate of one, in [0, 1].
    """
    return 1 - p**group_size - (1 - p) ** group_size


def learnability(p: float) -> float:
    """``p (1 - p)``: the variance of a success, largest at .5.

    >>> [round(learnability(p), 4) for p in (0.1, 0.25, 0.5)]
    [0.09, 0.1875, 0.25]

    Source: arXiv 2502.12272; formula [learnability]. With an *estimated* p it is biased downwards; see `learnability_from`.

    Raises:
        ConfigError: p outside [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ConfigError(f"pass rate {p!r} must lie in [0, 1]")
    return p * (1.0 - p)


def learnability_from(successes: int, n: int) -> float:
    """Unbiased estimate of ``p (1 - p)`` from n attempts: c (n - c) / (n (n - 1)).

    >>> learnability_from(1, 4)   # the plug-in 1/4 * 3/4 = .1875 is (n - 1) / n of it on average
    0.25

    Formula [learnability].

    Raises:
        ConfigError: fewer than two attempts, or successes outside [0, n].
    """
    if n < 2 or not 0 <= successes <= n:
        raise ConfigError(f"learnability needs n >= 2 and 0 <= successes <= n, got {n!r} and {successes!r}")
    return successes * (n - successes) / (n * (n - 1))


def screening_probability(p: float, n_screen: int = 4) -> float:
    """Probability that screening keeps a task: that its `n_screen` attempts are neither all right nor all wrong.

    SPEED-RL plays 4 attempts, and 20 more only where 0 < passed < 4. p .5: .875; p .9: .3438. It is the chance that a group
    of that size has a signal, `keep_probability`. Who decides: `phronesis.rollout.screening.screened`.

    Source: SPEED-RL, arXiv 2506.09016; formula [speed-keep].
    """
    return keep_probability(n_screen, p)


def worth_playing(successes: float, n: float, *, low: float = 0.2, high: float = 0.8, z: float = Z95) -> bool:
    """Whether a pass rate in [low, high] is still possible: the Wilson interval touches the window.

    Never attempted: yes. 0 of 8: the interval reaches up to .324, so yes; 0 of 16 reaches .194, so no; likewise 16 of 16.

    Args:
        successes: in [0, n]; fractions are allowed.
        n: attempts; fractions are allowed, for counts that fade.
        low: lower end of the window, in [0, high].
        high: upper end, in [low, 1].
        z: normal quantile of the interval; smaller decides sooner.

    Formula [wilson].
    """
    if not 0.0 <= low <= high <= 1.0:
        raise ConfigError(f"the window needs 0 <= low <= high <= 1, got {low!r} and {high!r}")
    interval = wilson(successes, n, z)
    return interval.high >= low and interval.low <= high
