"""RLAG inside a run: a task's knowledge, and the answer given with it, against the answer given without.

Source: RLAG, arXiv 2509.20162; formula [rlag]. The paper alternates rounds of generating and of learning offline; a step is
such a round. Attempts with the knowledge in their opening are learned behind the prompt without it.

Shapes: Q questions of a step; sequence 3q is the knowledge, 3q + 1 the answer with it, 3q + 2 the answer without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from msgspec import Struct
from msgspec.structs import replace

from phronesis.data.rejection import without_hint
from phronesis.data.traces import Trace, played
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.losses import Loss, LossInputs, LossOutput
from phronesis.losses.distillation.rlag import rlag_loss
from phronesis.records import Batch, Credit, Episode, EpisodeGroup, say
from phronesis.rollout.hints import Hint, plain_prompt
from phronesis.seeding import rng
from phronesis.train.lessons.hints import hint_of
from phronesis.train.lessons.lesson import Ground, Learned, counts
from phronesis.train.lessons.rationalise import play_hinted
from phronesis.train.lessons.traces import traces_batch
from phronesis.train.packed import Packed, pack
from phronesis.train.results import StepResult, summary


class RLAGLesson(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rlag"):
    """Learn a task's knowledge and the answers it leads to; rewards, credit and `learner.loss` are not read.

    Of every group the first attempt is the answer without the knowledge. See `rlag_loss`.
    """

    answer: str = ""
    """Key of the task's payload that holds the knowledge; empty asks the environment (`EnvSpec.hint`)."""
    hint: str = "Known facts: {answer}"
    """What ends the opening, with ``{answer}``; ours."""
    beta_d: float = 0.2
    """Weight of the knowledge; .5 where both answers agree."""
    beta_a: float = 0.5
    """Weight of the answers; 0 where both agree."""
    gamma: float = 8.0
    """Margin to reach, nats."""
    chosen_max: float = -0.2
    """Mean log-probability from which the chosen ones are good enough."""
    rejected_min: float = -5.0
    """Mean log-probability below which the rejected one is rare enough."""

    def __post_init__(self) -> None:
        if min(self.beta_d, self.beta_a) < 0:
            raise ConfigError(f"rlag beta_d {self.beta_d!r} and beta_a {self.beta_a!r} must be at least 0")
        if "{answer}" not in self.hint:
            raise ConfigError(f"rlag hint {self.hint!r} must hold {{answer}}")

    def check(self, spec: EnvSpec) -> None:
        """Raises ConfigError where the environment has no knowledge to show."""
        hint_of(spec, self.answer, self.hint, "rlag")

    def begin(self, ground: Ground) -> AugmentedTeaching:
        """The lesson at work.

        Raises:
            ConfigError: the environment has no knowledge to show.
        """
        spec = ground.stage.spec
        known = hint_of(spec, self.answer, "{answer}", "rlag")
        return AugmentedTeaching(self, ground, known, hint_of(spec, self.answer, self.hint, "rlag"))


class Question(NamedTuple):
    """The three texts of a task as traces; all begin with the same prompt."""

    knowledge: Trace
    """Said outright."""
    augmented: Trace
    """Said by an attempt that was shown the knowledge."""
    plain: Trace
    """Said by one that was not."""

    @property
    def agree(self) -> bool:
        """Whether both attempts said the same."""
        return self.augmented == self.plain


class AugmentedTeaching:
    """`RLAGLesson` at work."""

    def __init__(self, config: RLAGLesson, ground: Ground, known: Hint, hint: Hint):
        """Args: settings, what to work with, a task's knowledge, and what its opening ends with."""
        self.config, self.ground, self.known, self.hint = config, ground, known, hint

    async def learn(self, step: int, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> Learned:
        """One update, as many passes and optimiser steps as the learner makes; credit is not read."""
        learner, settings = self.ground.learner, self.ground.learner.config
        began, left_out = perf_counter(), Counter[str]()
        usable = [g for g in groups if g.valid]
        left_out["fault"] += len(groups) - len(usable)
        again = await play_hinted(self.ground, self.hint, usable, size=1, step=step)
        questions: list[Question] = []
        for plain, augmented in zip(usable, again, strict=True):
            found = self._question(plain.valid[0], augmented)
            if isinstance(found, Question):
                questions.append(found)
            else:
                left_out[found] += 1
        results: list[StepResult] = []
        computed = 0
        for batch in self._plan(questions):
            parts = _pack(batch, settings.max_tokens, learner.decoder.device)
            results.append(learner.descend(parts, question_loss(batch, self.config)))
            computed += sum(p.ids_N.numel() for p in parts)
        learner.updates += 1
        update = summary(results, _batch(questions), computed=computed, seconds=perf_counter() - began)
        told = {
            "hinted/tasks": float(len(usable)),
            "hinted/episodes": float(sum(len(g.episodes) for g in again)),
            "hinted/learned": float(len(questions)),
        }
        if results:
            names = ("knowledge", "augmented", "plain")
            told |= {f"rlag/{n}": sum(r.sums[n] for r in results) / len(results) for n in names}
            told["rlag/agree"] = sum(q.agree for q in questions) / len(questions)
        return Learned(update, told | counts("hinted", left_out))

    def _question(self, plain: Episode, again: EpisodeGroup) -> Question | str:
        """A task as three traces, or why it is left out."""
        chat, knowledge = self.ground.stage.chat, self.known(plain.task)
        if not again.valid:
            return "fault"
        augmented = again.valid[0]
        if not plain.sampled_tokens or not augmented.sampled_tokens:
            return "no_tokens"
        prompt = plain_prompt(augmented, self.hint(plain.task), chat)
        without = played(plain)
        if prompt is None or len(without) > 1 or plain.turns[0].context != prompt:
            return "rewritten"
        (shown,) = played(augmented)
        said = tuple(i for i in chat.render(say("assistant", knowledge)) if i not in chat.stop_ids)
        stated = Trace(ids=prompt + said, mask=(False,) * len(prompt) + (True,) * len(said))
        question = Question(stated, without_hint(shown, augmented.turns[0].context, prompt), without[0])
        room = self.ground.learner.decoder.max_positions
        return "no_room" if any(len(t.ids) > room for t in question) else question

    def _plan(self, questions: Sequence[Question]) -> list[list[Question]]:
        """The questions of every optimiser step, in an order drawn from the seed."""
        settings, steps = self.ground.learner.config, list[list[Question]]()
        for epoch in range(settings.epochs if questions else 0):
            order = list(questions)
            rng(self.ground.seed, "rlag", self.ground.learner.updates, epoch).shuffle(order)
            size = -(-len(order) // settings.minibatches)
            steps += [order[i : i + size] for i in range(0, len(order), size)]
        return steps


def question_loss(questions: Sequence[Question], config: RLAGLesson) -> Loss:
    """Mean of `rlag_loss` over a step's questions; a micro-batch adds those it holds."""
    count = len(questions)
    agree = [q.agree for q in questions]

    def loss(inputs: LossInputs) -> LossOutput:
        logp_N = inputs.logp_theta_N
        sums_S = logp_N.new_zeros(3 * count).index_add(0, inputs.sequence_N, logp_N)
        means_Q3 = (sums_S / inputs.totals.tokens_S.clamp_min(1)).view(count, 3)
        here_Q = torch.bincount(inputs.sequence_N // 3, minlength=count) > 0
        agree_Q = torch.tensor(agree, device=logp_N.device)
        total = logp_N.sum() * 0.0
        for chosen_Q, weights in ((here_Q & ~agree_Q, (config.beta_d, config.beta_a)), (here_Q & agree_Q, (0.5, 0.0))):
            rows = means_Q3[chosen_Q]
            found = rlag_loss(
                rows[:, 0], rows[:, 1], rows[:, 2], beta_d=weights[0], beta_a=weights[1], gamma=config.gamma,
                chosen_max=config.chosen_max, rejected_min=config.rejected_min,
            )  # fmt: skip
            total = total + found.loss_B.sum() / count
        seen_Q3 = means_Q3.detach()[here_Q] / count
        names = ("knowledge", "augmented", "plain")
        return LossOutput(total, {name: seen_Q3[:, i].sum() for i, name in enumerate(names)}, {})

    return loss


def _batch(questions: Sequence[Question]) -> Batch:
    traces = [t for q in questions for t in q]
    return traces_batch(traces, [f"{i // 3}-{i % 3}" for i in range(len(traces))])


def _pack(questions: Sequence[Question], max_tokens: int, device: torch.device) -> list[Packed]:
    """Micro-batches of whole questions, numbered by their place."""
    whole = _batch(questions)
    sizes = [sum(len(t.ids) for t in q) for q in questions]
    parts: list[list[int]] = []
    filled = 0
    for i, size in enumerate(sizes):
        if not parts or filled + size > max_tokens:
            parts.append([])
            filled = 0
        parts[-1].append(i)
        filled += size
    cut = [tuple(whole.segments[3 * q + k] for q in part for k in range(3)) for part in parts]
    return [pack(replace(whole, segments=segments), device) for segments in cut]
