"""Which family of tasks to draw from next: DUMP's upper confidence bound and SEC's running value, each through a softmax.

Both take a family's mean absolute advantage as what can be learned there: it is 0 where everything or nothing succeeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from phronesis.errors import ConfigError


def softmax(scores: Sequence[float], temperature: float) -> tuple[float, ...]:
    """``exp(score / T)`` over its sum; equal scores share, and no scores give nothing.

    Raises:
        ConfigError: temperature not above 0.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature {temperature!r} must be above 0")
    if not scores:
        return ()
    top = max(scores)
    weights = [math.exp((s - top) / temperature) for s in scores]
    total = math.fsum(weights)
    return tuple(w / total for w in weights)


def dump_scores(counts: Sequence[int], mean_abs_advantages: Sequence[float]) -> tuple[float, ...]:
    """Per family, its mean |A| plus ``sqrt(2 ln(N + 1) / (n + 1))``, with n its attempts and N those of all.

    n = 10, 5, 1 and |A| = .3, .6, .2: 1.017725, 1.571805, 1.883215; at temperature .1 the softmax of these is .000167, .042522,
    .957311. A family never tried has |A| 0 and the largest bonus.

    Source: DUMP, arXiv 2504.09710; formula [dump]. Its |A| is over the last 300 attempts, its temperature .1.

    Raises:
        ConfigError: lengths differ, or a negative count.
    """
    if len(counts) != len(mean_abs_advantages) or any(n < 0 for n in counts):
        raise ConfigError(f"need one count of at least 0 per mean, got {list(counts)!r} and {list(mean_abs_advantages)!r}")
    reach = 2.0 * math.log(sum(counts) + 1)
    return tuple(a + math.sqrt(reach / (n + 1)) for n, a in zip(counts, mean_abs_advantages, strict=True))


def sec_value(value: float, mean_abs_advantage: float, *, alpha: float) -> float:
    """``Q + alpha (|A| - Q)``: a family's value after another group.   Source: SEC, arXiv 2505.14970; formula [sec].

    >>> sec_value(0.5, 1.0, alpha=0.5)
    0.75

    Raises:
        ConfigError: alpha outside (0, 1].
    """
    if not 0.0 < alpha <= 1.0:
        raise ConfigError(f"alpha {alpha!r} must lie in (0, 1]")
    return value + alpha * (mean_abs_advantage - value)
