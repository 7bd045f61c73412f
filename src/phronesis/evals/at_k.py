"""Several attempts at a task taken as one: pass@k, pass^k, best@k, avg@k, cons@k, each without bias from n >= k attempts.

All are means over the k-subsets of the n attempts, counted instead of enumerated. Average over tasks, and put the interval
over tasks too (`statistics.bootstrap_mean`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from phronesis.errors import ConfigError


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that at least one of k attempts succeeds, from `correct` of n: 1 - C(n-c, k) / C(n, k).

    >>> round(pass_at_k(10, 3, 5), 6)   # the plug-in 1 - (1 - 0.3)^5 = 0.832 is biased
    0.916667

    The difference is taken between whole numbers, so that it is exact to the last bit also where it is nearly 0 or 1, as
    the product form 1 - Π_{i=n-c+1..n} (1 - k/i) nearly is. With fewer than k failures it is 1.

    Source: arXiv 2107.03374 eq. 1; formula [pass-at-k].

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.
    """
    _check_counts(n, correct, k)
    everything = math.comb(n, k)
    return (everything - math.comb(n - correct, k)) / everything


def pass_hat_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that all of k attempts succeed (pass^k), from `correct` of n: C(c, k) / C(n, k).

    >>> round(pass_hat_k(10, 3, 2), 6)
    0.066667

    Source: tau-bench, arXiv 2406.12045; formula [pass-hat-k].

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.
    """
    _check_counts(n, correct, k)
    return math.comb(correct, k) / math.comb(n, k)


def best_at_k(scores: Sequence[float], k: int) -> float:
    """Unbiased mean of the best of k attempts: with scores sorted upwards, Σ_{i=k..n} C(i-1, k-1) x_(i) / C(n, k).

    >>> round(best_at_k([0.2, 0.9, 0.5, 0.5, 0.0], 2), 6)
    0.63

    With scores 0 and 1 it is `pass_at_k`.   Formula [best-at-k].

    Raises:
        ValueError: unless 1 <= k <= len(scores).
    """
    n = len(scores)
    _check_counts(n, 0, k)
    ordered, everything = sorted(scores), math.comb(n, k)
    return math.fsum(math.comb(i - 1, k - 1) / everything * ordered[i - 1] for i in range(k, n + 1))


def avg_at_k(scores: Sequence[Sequence[float]]) -> float:
    """Mean over each task's attempts, then over tasks: every task counts alike, however often it was attempted.

    >>> avg_at_k([[1, 0, 1, 1], [0, 0]])
    0.375

    Formula [avg-at-k]. Tasks without attempts are left out; no task at all gives NaN.
    """
    means = [math.fsum(row) / len(row) for row in scores if row]
    return math.fsum(means) / len(means) if means else math.nan


def cons_at_k(answers: Sequence[Hashable], gold: Hashable, k: int) -> float:
    """Unbiased probability that the most frequent of k answers is right, a tie of m answers at the top counting 1/m.

    >>> round(cons_at_k(["A", "A", "A", "B", "C"], "A", 3), 6)   # of 10 triples one is A, B, C: a three-way tie
    0.8

    None means that an attempt gave no answer: it has no vote, and k attempts without any vote count as wrong.

    Source: majority voting, arXiv 2203.11171; formula [cons-at-k].

    Raises:
        ValueError: unless 1 <= k <= len(answers).
        ConfigError: `gold` is None.
    """
    if gold is None:
        raise ConfigError("the gold answer is None, which stands for an attempt without an answer; give the right answer")
    n = len(answers)
    _check_counts(n, 0, k)
    counts = Counter(answers)
    right, silent = counts.pop(gold, 0), counts.pop(None, 0)
    rivals = list(counts.values())
    won = math.fsum(
        math.comb(right, votes) * ways / math.comb(n, k) / (tied + 1)
        for votes in range(1, min(right, k) + 1)
        for tied, ways in enumerate(_ways(rivals, silent, votes, k - votes))
    )
    return min(won, 1.0)


def _ways(rivals: Sequence[int], silent: int, most: int, size: int) -> list[int]:
    """By m: in how many ways `size` attempts can be chosen so that m rivals have `most` votes and none has more."""
    # table[m][s]: ways with m rivals at the top and s attempts chosen
    table = [[math.comb(silent, s) for s in range(size + 1)]]
    for count in rivals:
        grown = [[0] * (size + 1) for _ in range(len(table) + 1)]
        for tied, row in enumerate(table):
            for chosen, ways in enumerate(row):
                if not ways:
                    continue
                for votes in range(min(count, most, size - chosen) + 1):
                    grown[tied + (votes == most)][chosen + votes] += ways * math.comb(count, votes)
        table = grown
    return [row[size] for row in table]


def _check_counts(n: int, correct: int, k: int) -> None:
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"need 0 <= correct <= n and 1 <= k <= n, got n {n!r}, correct {correct!r}, k {k!r}")
