"""What a step's episodes and its update say, as metrics. Definitions are in `phronesis.train.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, pstdev

from phronesis.env import EnvSpec
from phronesis.evals.run import succeeded
from phronesis.records import Credit, Episode, EpisodeGroup
from phronesis.rollout.forks import split
from phronesis.train.learner import UpdateMetrics


def episode_metrics(spec: EnvSpec, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> dict[str, float]:
    """Metrics of one step's episodes. A metric that cannot be computed (no scored episode, say) is absent, not 0.

    Branches that were judged as attempts count as episodes; tokens they share count once in sums.
    """
    episodes = [e for g in groups for e in g.episodes]
    attempts = [a for e in episodes for a in split(e)]
    metrics = {
        "episode/count": float(len(attempts)),
        "episode/faults": fmean(a.stop.is_fault for a in attempts),
        "episode/truncated": fmean(a.stop.is_truncated for a in attempts),
        "episode/turns": fmean(len(a.turns) for a in attempts),
        "episode/tokens": fmean(a.sampled_tokens for a in attempts),
        "episode/tool_errors": fmean(len(a.errors) for a in attempts),
        "episode/parse_errors": fmean(sum(t.parse_error is not None for t in a.turns) for a in attempts),
        "signal/groups": float(sum(not c.zero_variance for c in credits)),
        "signal/dropped": float(sum(v is None for c in credits for v in c.values)),
        "tokens/sampled": float(sum(e.sampled_tokens for e in episodes)),
        "tokens/context": float(sum(e.context_tokens for e in episodes)),
    }
    if credits:
        metrics["signal/zero_variance"] = fmean(c.zero_variance for c in credits)
    by_source = _by_source(spec, groups) if spec.parts else {}
    return metrics | _counted(credits) | _rewards(spec, attempts) | _entropies(episodes) | by_source


def _by_source(spec: EnvSpec, groups: Sequence[EpisodeGroup]) -> dict[str, float]:
    """How every source of tasks did in the step; one without groups has its share alone, 0."""
    found: dict[str, float] = {}
    for name in spec.parts:
        mine = [g for g in groups if g.task.env == name]
        found |= {f"source/{name}/share": len(mine) / len(groups), f"source/{name}/groups": float(len(mine))}
        attempts = [a for g in mine for e in g.episodes for a in split(e)]
        if not attempts:
            continue
        found[f"source/{name}/faults"] = fmean(a.stop.is_fault for a in attempts)
        found[f"time/source/{name}"] = median(a.seconds for a in attempts)
        rewards = [a.reward.value for a in attempts if a.reward is not None and a.reward.value is not None]
        if rewards:
            found[f"source/{name}/reward"] = fmean(rewards)
            found[f"source/{name}/success"] = fmean(ok for a in attempts if (ok := succeeded(spec, a)) is not None)
    return found


def _counted(credits: Sequence[Credit]) -> dict[str, float]:
    """What credit rules could not do as meant; absent where it never happened."""
    keys = {"lone_turns": "credit/lone_turns", "mean_not_positive": "credit/mean_not_positive"}
    found = {key: float(sum(c.counts.get(name, 0) for c in credits)) for name, key in keys.items()}
    return {key: count for key, count in found.items() if count}


def update_metrics(update: UpdateMetrics) -> dict[str, float]:
    """An update's numbers under their metric keys; absent where nothing was updated."""
    if not update.steps:
        return {"update/tokens": 0.0}
    return (
        {
            "update/loss": update.loss,
            "update/grad_norm": update.grad_norm,
            "update/lr": update.lr,
            "update/kl_k1": update.kl_k1,
            "update/kl_k3": update.kl_k3,
            "update/clip_share": update.clip_share,
            "update/ratio_max": update.ratio_max,
            "update/advantage_mean": update.advantage_mean,
            "update/advantage_std": update.advantage_std,
            "update/tokens": float(update.tokens),
        }
        | _compared(update)
        | _optional(update)
    )


def _compared(update: UpdateMetrics) -> dict[str, float]:
    """The learner against what the sampler recorded: over tokens of the same weights, and over older ones."""
    found: dict[str, float] = {}
    if update.mismatch_tokens:
        found = {
            "mismatch/kl": update.mismatch_kl,
            "mismatch/max_logprob_difference": update.mismatch_max,
            "mismatch/mean_logprob_difference": update.mismatch_mean,
            "mismatch/kl_k1": update.mismatch_k1,
            "mismatch/chi2": update.mismatch_chi2,
            "mismatch/effective_share": update.mismatch_ess,
        }
    if update.stale_kl is not None and update.stale_ess is not None:
        found |= {"age/kl": update.stale_kl, "age/effective_share": update.stale_ess}
    return found


def _optional(update: UpdateMetrics) -> dict[str, float]:
    """What corrections, a reference and a baseline of the step did, and sequences compared, where there are any."""
    shares = update.shares
    left_out = [v for k, v in shares.items() if k.startswith(("zeroed_", "rejected_"))]
    found = {"update/left_out_share": min(1.0, sum(left_out))} if left_out else {}
    if update.perplexity_ratio is not None:
        found["mismatch/perplexity_ratio"] = update.perplexity_ratio
    keys = {"update/weight": "weight", "update/ref_kl": "ref_kl", "update/baseline": "baseline"}
    return found | {key: shares[name] for key, name in keys.items() if name in shares}


def _rewards(spec: EnvSpec, episodes: Sequence[Episode]) -> dict[str, float]:
    rewards = [e.reward.value for e in episodes if e.reward is not None and e.reward.value is not None]
    if not rewards:
        return {}
    outcomes = [(e, ok) for e in episodes if (ok := succeeded(spec, e)) is not None]
    metrics = {
        "reward/mean": fmean(rewards),
        "reward/std": pstdev(rewards),
        "reward/max": max(rewards),
        "reward/min": min(rewards),
        "success/rate": fmean(ok for _, ok in outcomes),
    }
    for key, wanted in (("episode/length_correct", True), ("episode/length_wrong", False)):
        lengths = [e.sampled_tokens for e, ok in outcomes if ok is wanted]
        if lengths:
            metrics[key] = fmean(lengths)
    return metrics


def _entropies(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean entropy of sampled tokens: all of them, in think blocks, in everything else; and the size of think blocks."""
    total, think, acts, thought_tokens = list[float](), list[float](), list[float](), 0
    for turn in (t for e in episodes for t in e.turns):
        inside = [False] * len(turn.completion)
        for span in turn.spans:
            if span.kind == "think":
                inside[span.start : span.end] = [True] * (span.end - span.start)
        thought_tokens += sum(i and s for i, s in zip(inside, turn.sampled, strict=True))
        if turn.entropies is None:
            continue
        for entropy, sampled, thinking in zip(turn.entropies, turn.sampled, inside, strict=True):
            if sampled:
                total.append(entropy)
                (think if thinking else acts).append(entropy)
    metrics = {"episode/think_tokens": thought_tokens / len(episodes)}
    for key, values in (("policy/entropy", total), ("policy/entropy_think", think), ("policy/entropy_act", acts)):
        if values:
            metrics[key] = fmean(values)
    return metrics
