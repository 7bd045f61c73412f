"""Rejection sampling: attempts that were verified become what supervised learning learns from.

Learning from verified attempts alone is REINFORCE with advantages 1 and 0 and no baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from phronesis.credit.baselines.verified import check_cap, why_left_out
from phronesis.data.traces import Trace, played
from phronesis.errors import ConfigError
from phronesis.records import Episode, EpisodeGroup


class Verified(NamedTuple):
    """What is learned from, and what is not."""

    traces: list[Trace]
    """In order of groups and attempts."""
    left_out: dict[str, int]
    """Attempts by reason: ``fault``, ``unscored``, ``failed``, ``too_easy``, ``duplicate``, ``over_cap``, ``no_tokens``."""


def rejection_sample(
    groups: Sequence[EpisodeGroup], *, success: float = 1.0, cap: int | None = 4, easiest: float = 1.0
) -> Verified:
    """Keeps verified attempts, each once, and not too many of one prompt.

    Of 4 attempts at one task with rewards 1, 1, 0, 1 of which the first two sampled the same tokens: the first and the last
    are kept; left out 1 duplicate, 1 failed.

    Args:
        groups: scored groups; groups of one task count together.
        success: the reward from which an attempt is verified.
        cap: most attempts kept per prompt, at least 1, so that easy prompts do not crowd out hard ones; None means all.
        easiest: prompts whose share of verified attempts is above this are left out altogether; 1 keeps them.

    Source: STaR, arXiv 2203.14465; RAFT, arXiv 2304.06767; RFT, arXiv 2308.01825; formula [rft].
    """
    check_cap(cap)
    left_out: Counter[str] = Counter()
    by_task: dict[tuple[str, str], list[tuple[float, Episode]]] = {}
    for group in groups:
        for episode in group.episodes:
            value = None if episode.reward is None else episode.reward.value
            if episode.stop.is_fault or value is None:
                left_out["fault" if episode.stop.is_fault else "unscored"] += 1
            else:
                by_task.setdefault((group.task.env, group.task.content_key or group.task.id), []).append((value, episode))
    traces: list[Trace] = []
    for attempts in by_task.values():
        share = sum(value >= success for value, _ in attempts) / len(attempts)
        spoken = [(value, e) for value, e in attempts if value < success or e.sampled_tokens]
        left_out["no_tokens"] += len(attempts) - len(spoken)
        said = [tuple(t.completion for t in e.turns) for _, e in spoken]
        why = why_left_out([value for value, _ in spoken], said, success=success, cap=cap)
        for (_, episode), reason in zip(spoken, why, strict=True):
            reason = "too_easy" if share > easiest and reason != "failed" else reason
            if reason is None:
                traces += played(episode)
            else:
                left_out[reason] += 1
    return Verified(traces, {reason: n for reason, n in left_out.items() if n})


def without_hint(trace: Trace, hinted: Sequence[int], prompt: Sequence[int]) -> Trace:
    """A trace that was sampled behind a hint, as if it had been sampled without: STaR's rationalisation.

    Ids (9 9 | 1 2 [3]) behind the hinted prompt (9 9 1 2), for the prompt (1 2): (1 2 [3]).

    Args:
        trace: begins with `hinted`.
        hinted: the prompt with the answer in it.
        prompt: the prompt without, at least one id.

    Raises:
        ConfigError: the trace begins otherwise, learns from the prompt, or there is no prompt.

    Source: STaR, arXiv 2203.14465 section 3.2. Each round restarts from the base model.
    """
    n = len(hinted)
    if not prompt or trace.ids[:n] != tuple(hinted) or any(trace.mask[:n]):
        raise ConfigError(f"the trace does not begin with the hinted prompt of {n} ids, unmarked; give the prompt it saw")
    return Trace(ids=(*prompt, *trace.ids[n:]), mask=(False,) * len(prompt) + trace.mask[n:])
