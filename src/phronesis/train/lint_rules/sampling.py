"""How turns are sampled, against what the learner assumes."""

from __future__ import annotations

from phronesis.train.config import RunConfig


def truncated(run: RunConfig) -> str | None:
    """Sampled from fewer ids than are scored."""
    s = run.sampling
    if s.top_p < 1 or s.top_k > 0 or s.min_p > 0:
        return (
            f"sampling truncates (top_p {s.top_p!r}, top_k {s.top_k!r}, min_p {s.min_p!r}), and the learner scores "
            "all ids, so that every ratio is wrong: at mass .95 a hundred tokens make .006"
        )
    return None


def temperature(run: RunConfig) -> str | None:
    """Another distribution is trained than evaluated."""
    t = run.sampling.temperature
    if t != 1 and t > 0:
        return (
            f"episodes are sampled, and learned from, at temperature {t!r}, while held-out tasks are played at 1: what "
            "improves is another distribution than what is measured"
        )
    return None
