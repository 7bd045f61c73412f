"""Which tasks a few attempts say are worth more of them."""

from __future__ import annotations


def screened(passed: int, n_screen: int = 4) -> bool:
    """Whether a task that passed so many of its screening attempts deserves the others: some did and some did not.

    1 of 4: yes; 0 of 4 or 4 of 4: no. How likely that is: `phronesis.data.curriculum.screening_probability`.

    Source: SPEED-RL, arXiv 2506.09016; formula [speed-keep].
    """
    return 0 < passed < n_screen
