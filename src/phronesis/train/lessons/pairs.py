"""Preference learning inside a run: the newest policy tries, its attempts are paired, and pairs are what is learned from.

Source: DPO, arXiv 2305.18290; IPO, arXiv 2310.12036; Step-DPO, arXiv 2406.18629; Step-APO, arXiv 2409.08642. Learning from
pairs the newest policy has just played, round by round, is the online form; the reference stays the policy that reinforcement
learning began with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Literal

from msgspec import Struct

from phronesis.credit.trees.search import step_pairs
from phronesis.data.preferences import Collected, Preference, best_against_worst
from phronesis.data.traces import Trace
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.losses.preference.dpo import DPOLoss
from phronesis.models.causal import LanguageModel
from phronesis.records import Credit, Episode, EpisodeGroup
from phronesis.rollout.forks import split
from phronesis.seeding import rng
from phronesis.train.learner import Learner
from phronesis.train.lessons.lesson import Ground, Learned, counts
from phronesis.train.pair_rows import AnyPairObjective, PairRow, pack_pairs, pair_loss, pairs_batch, referenced, usable
from phronesis.train.results import StepResult, summary

Compared = Literal["attempts", "first_step", "steps"]
"""Whole attempts, best against worst; those cut to the first step they differ in; or steps wherever attempts part."""


class PairsLesson(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pairs"):
    """Learn from pairs of a group's attempts; credit, `learner.loss` and its corrections are not read.

    Passes, optimiser steps per pass, optimiser, schedule and micro-batches are the learner's.
    """

    objective: AnyPairObjective = DPOLoss()
    """Loss of one pair."""
    compare: Compared = "attempts"
    """What makes a pair. Step-DPO is `dpo` on ``first_step``; Step-APO is `step_apo` on ``steps``, whose values are the mean
    rewards of the attempts that go through a step."""
    margin: float = 0.0
    """Only pairs whose values differ by more than this, at least 0."""

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ConfigError(f"pairs margin {self.margin!r} must be at least 0")

    def check(self, spec: EnvSpec) -> None:
        """Every environment will do."""

    def begin(self, ground: Ground) -> PairTeaching:
        """The lesson at work.

        Raises:
            ConfigError: the learner keeps no reference.
        """
        if ground.learner.reference is None:
            raise ConfigError("pairs are measured from a reference; make the learner with reference=True")
        return PairTeaching(self, ground.learner, ground.learner.reference, ground.seed)


class PairTeaching:
    """`PairsLesson` at work."""

    def __init__(self, config: PairsLesson, learner: Learner, reference: LanguageModel, seed: int):
        """Args: settings, who learns, what movement is measured from, the run's seed."""
        self.config, self.learner, self.reference, self.seed = config, learner, reference, seed

    async def learn(self, step: int, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> Learned:
        """One update from the step's pairs; without any pair nothing changes. Credit is not read."""
        found = collect(groups, self.config)
        learner, settings = self.learner, self.learner.config
        began = perf_counter()
        rows, same = usable(found.pairs, first=self.config.compare == "first_step")
        left_out = Counter(found.left_out) + Counter(same)
        rows = referenced(self.reference, rows, micro_tokens=settings.max_tokens, precision=settings.precision)
        results: list[StepResult] = []
        computed = 0
        for batch in self._plan(rows):
            parts = pack_pairs(batch, settings.max_tokens, learner.decoder.device)
            results.append(learner.descend(parts, pair_loss(batch, self.config.objective)))
            computed += sum(p.ids_N.numel() for p in parts)
        learner.updates += 1
        update = summary(results, pairs_batch(rows), computed=computed, seconds=perf_counter() - began)
        return Learned(update, _metrics(rows, results) | counts("pairs", left_out))

    def _plan(self, rows: Sequence[PairRow]) -> list[list[PairRow]]:
        """The pairs of every optimiser step, in an order drawn from the seed."""
        settings, steps = self.learner.config, list[list[PairRow]]()
        for epoch in range(settings.epochs if rows else 0):
            order = list(rows)
            rng(self.seed, "pairs", self.learner.updates, epoch).shuffle(order)
            size = -(-len(order) // settings.minibatches)
            steps += [order[i : i + size] for i in range(0, len(order), size)]
        return steps


def collect(groups: Sequence[EpisodeGroup], config: PairsLesson) -> Collected:
    """The pairs of scored groups, and how many groups or pairs give none, by reason.

    Reasons: ``alone`` (fewer than two attempts count), ``tied`` (all rewards equal), ``no_tokens``, ``margin`` (too alike),
    ``nowhere`` (attempts never part at a common prompt).
    """
    found = _steps(groups) if config.compare == "steps" else best_against_worst(groups)
    kept = [p for p in found.pairs if p.chosen_value - p.rejected_value > config.margin]
    close = len(found.pairs) - len(kept)
    return Collected(kept, found.left_out | ({"margin": close} if close else {}))


def _steps(groups: Sequence[EpisodeGroup]) -> Collected:
    """Best against worst step wherever attempts part, the branches of forked episodes among them."""
    pairs: list[Preference] = []
    left_out: Counter[str] = Counter()
    for group in groups:
        judged = [a for e in group.valid for a in split(e)]
        rewards = {a.reward.value for a in judged if a.reward is not None}
        if len(judged) < 2 or len(rewards) < 2:
            left_out["alone" if len(judged) < 2 else "tied"] += 1
            continue
        here = step_pairs(group)
        left_out["nowhere"] += not here
        for pair in here:
            chosen, rejected = (step_trace(group.episodes[e], k) for e, k in (pair.chosen, pair.rejected))
            if not any(chosen.mask) or not any(rejected.mask):
                left_out["no_tokens"] += 1
                continue
            values = {"chosen_value": pair.chosen_value, "rejected_value": pair.rejected_value}
            pairs.append(Preference(chosen=(chosen,), rejected=(rejected,), **values))
    return Collected(pairs, {reason: n for reason, n in left_out.items() if n})


def step_trace(episode: Episode, turn: int) -> Trace:
    """One turn behind the ids it saw, its sampled tokens marked.

    A turn that saw (1, 2) and sampled (3, 4), the 4 forced: ids (1, 2, 3, 4), marks on the 3 alone.
    """
    prompt, said = episode.prompt(turn), episode.turns[turn]
    return Trace(ids=prompt + said.completion, mask=(False,) * len(prompt) + said.sampled)


def _metrics(rows: Sequence[PairRow], results: Sequence[StepResult]) -> dict[str, float]:
    """Means over the update's optimiser steps, each before it stepped, and how many pairs there were."""
    if not results:
        return {"pairs/count": 0.0}
    n = len(results)
    mean = {name: sum(r.sums[name] for r in results) / n for name in ("accuracy", "chosen", "rejected")}
    return {
        "pairs/count": float(len(rows)),
        "pairs/accuracy": mean["accuracy"],
        "pairs/chosen": mean["chosen"],
        "pairs/rejected": mean["rejected"],
        "pairs/margin": mean["chosen"] - mean["rejected"],
    }
