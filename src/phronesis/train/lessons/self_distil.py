"""Self-distillation: the same policy, shown how a sibling succeeded or what was wrong, teaches the policy that was not.

Source: SDPO, arXiv 2601.20802; formula [sdpo]. The teacher reads the student's own tokens behind a prompt that ends with the
hint. An attempt's own success is no hint for itself, thoughts are no part of a hint, and an attempt without any hint is left
out and counted.

Shapes: K trained tokens, D width, R sampled tokens of the hinted attempts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple, cast

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.chat.format import ChatFormat
from phronesis.credit.rule import members, value_of
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.models.causal import LanguageModel
from phronesis.records import Batch, Credit, Episode, EpisodeGroup, Segment
from phronesis.rollout.asking import hinted
from phronesis.train.forest import Forest
from phronesis.train.learner import Learner
from phronesis.train.lessons.distil import divergence_of, gathered
from phronesis.train.lessons.lesson import Ground, Learned, counts
from phronesis.train.lessons.traces import attempts_batch
from phronesis.train.packed import Packed, pack
from phronesis.train.scoring import states
from phronesis.train.splitting import split

SOLUTION = "A correct solution of this task:\n{solution}"
"""How a sibling's success is shown by default; ours."""
FEEDBACK = "Feedback on an earlier attempt at this task:\n{feedback}"
"""How the rubric's explanation is shown by default; ours."""


class SelfDistilLesson(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="self_distil"):
    """Learn from the same policy that has been shown a sibling's success, feedback, or both; credit is not read.

    Needs an objective over whole distributions (``sdpo`` or ``gkd``). The teacher is the learner's running average of weights
    where it keeps one (`learner.average`), else the policy as it is when the update begins.
    """

    success: float = 1.0
    """The reward from which a sibling's attempt is a solution."""
    solution: str = SOLUTION
    """How it is shown, with ``{solution}``; empty shows none."""
    feedback: str = FEEDBACK
    """How the explanations of the attempt's own reward are shown, with ``{feedback}``, where it failed; empty shows none."""

    def __post_init__(self) -> None:
        if not self.solution and not self.feedback:
            raise ConfigError("self_distil shows neither solution nor feedback; give a text for one of them")
        if (self.solution and "{solution}" not in self.solution) or (self.feedback and "{feedback}" not in self.feedback):
            raise ConfigError("self_distil solution must hold {solution}, and feedback {feedback}, or be empty")

    def check(self, spec: EnvSpec) -> None:
        """Every environment will do."""

    def begin(self, ground: Ground) -> SelfDistilling:
        """The lesson at work."""
        return SelfDistilling(self, ground)


class SelfDistilling:
    """`SelfDistilLesson` at work."""

    def __init__(self, config: SelfDistilLesson, ground: Ground):
        """Args: settings, and what to work with."""
        self.config, self.ground = config, ground

    async def learn(self, step: int, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> Learned:
        """One update towards the policy that was shown a hint; credit is not read."""
        learner = self.ground.learner
        told = {e.id: hint for g in groups for e, hint in hints(g, self.config)}
        rows, left_out = _rows(groups, told, self.ground.stage.chat, learner.decoder.max_positions)
        batch = attempts_batch(groups, self.ground.batch, left_out)
        teacher = Hinted(_teacher(learner), rows, learner)
        update = learner.update(batch, teacher)
        found = {"distil/attempts": float(len(batch.episodes))} | counts("distil", Counter(left_out.values()))
        return Learned(update, found | divergence_of(update.shares))


def _teacher(learner: Learner) -> LanguageModel:
    """Who teaches: it must not change during the update."""
    if learner.average is not None:
        return learner.average
    alone = learner.config.epochs * learner.config.minibatches == 1
    return learner.decoder if alone else deepcopy(learner.decoder).requires_grad_(False)


def hints(group: EpisodeGroup, config: SelfDistilLesson) -> list[tuple[Episode, str]]:
    """Every episode that counts, and what its teacher is shown; empty where there is nothing to show.

    The solution is the first successful sibling's. Feedback is shown to failures alone.
    """
    kept = [group.episodes[i] for i in members(group, compared=False).kept]
    solved = [e for e in kept if value_of(e) >= config.success]
    found: list[tuple[Episode, str]] = []
    for episode in kept:
        parts: list[str] = []
        sibling = next((e for e in solved if e.id != episode.id), None)
        if config.solution and sibling is not None:
            parts.append(config.solution.replace("{solution}", written(sibling)))
        said = explained(episode) if config.feedback and value_of(episode) < config.success else ""
        if said:
            parts.append(config.feedback.replace("{feedback}", said))
        found.append((episode, "\n\n".join(parts)))
    return found


def written(episode: Episode) -> str:
    """What an attempt said and called, turn by turn, without its thoughts."""
    lines: list[str] = []
    for turn in episode.turns:
        if turn.action is None:
            continue
        if turn.action.text:
            lines.append(turn.action.text)
        lines += [json.dumps({"name": c.name, "arguments": c.arguments}) for c in turn.action.tool_calls]
    return "\n".join(lines)


def explained(episode: Episode) -> str:
    """The explanations of an episode's reward; those for people alone are not among them."""
    parts = () if episode.reward is None else episode.reward.components
    return "\n".join(p.explanation for p in parts if p.explanation and not p.audit)


class _Row(NamedTuple):
    """A turn behind its hinted prompt."""

    episode: str
    turn: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]


def _rows(
    groups: Sequence[EpisodeGroup], told: Mapping[str, str], chat: ChatFormat, room: int
) -> tuple[list[_Row], dict[str, str]]:
    """The turns of the attempts that were given a hint, and why the others are left out."""
    rows: list[_Row] = []
    left_out: dict[str, str] = {}
    for episode in (e for g in groups for e in g.episodes if e.id in told):
        hint, here = told[episode.id], list[_Row]()
        for k, turn in enumerate(episode.turns if hint else ()):
            if any(turn.sampled):
                prompt = tuple(chat.open(hinted(episode, k, hint), episode.tools))
                here.append(_Row(episode.id, k, prompt, turn.completion, turn.sampled))
        if not hint:
            left_out[episode.id] = "no_hint"
        elif any(len(r.prompt) + len(r.ids) > room for r in here):
            left_out[episode.id] = "no_room"
        else:
            rows += here
    return rows, left_out


class Hinted:
    """A teacher that saw more than the student; implements `phronesis.train.learner.Teaches`."""

    def __init__(self, decoder: LanguageModel, rows: Sequence[_Row], learner: Learner):
        """Computes the teacher's states of all rows at once, in parts of the learner's size.

        Args:
            decoder: the teacher; must not change before the update ends.
            rows: turns behind their hinted prompts.
            learner: says how large a part may be, and how exact products are.
        """
        self._decoder = decoder
        self._first: dict[tuple[str, int], int] = {}
        tables: list[Tensor] = []
        count = 0
        batch = _batch(rows)
        for part in split(batch, learner.config.max_tokens) if rows else []:
            packed = pack(part, decoder.device)
            tables.append(states(decoder, packed, precision=learner.config.precision))
            for index in _listed(packed.sequence_K):
                row = rows[index]
                self._first.setdefault((row.episode, row.turn), count)
                count += 1
        self._table = torch.cat(tables) if tables else None

    @property
    def decoder(self) -> LanguageModel:
        """The teacher."""
        return self._decoder

    def states(self, batch: Batch, packed: Packed) -> Tensor:
        """`[K, D]`: each token's row is found by its episode, its turn and its place among the turn's sampled tokens.

        Copies that `batch.repair` makes share an id and its rows; each is counted through by itself, as a sequence.
        """
        assert self._table is not None  # a batch without tokens is never packed
        seen: Counter[tuple[int, int]] = Counter()
        places: list[int] = []
        for sequence, turn in zip(_listed(packed.sequence_K), _listed(packed.turn_K), strict=True):
            if turn < 0:  # the environment's token, whose divergence no loss reads
                places.append(0)
                continue
            places.append(self._first[batch.episodes[sequence], turn] + seen[sequence, turn])
            seen[sequence, turn] += 1
        return gathered(self._table, places)


def _batch(rows: Sequence[_Row]) -> Batch:
    """Rows as segments, what their prompts share computed once; sequence i is row i."""
    forest = Forest()
    anchors = forest.share([r.prompt for r in rows], 16)
    for i, row in enumerate(rows):
        anchor = anchors[row.prompt]
        n = len(anchor.rest)
        mask = (False,) * n + row.sampled
        zeros = (0.0,) * len(mask)
        forest.add(
            Segment(
                parent=anchor.segment,
                ids=anchor.rest + row.ids,
                mask=mask,
                logprobs=zeros,
                advantages=zeros,
                turns=tuple(0 if m else -1 for m in mask),
                episode=i,
            )
        )
    sizes = tuple(sum(r.sampled) for r in rows)
    return Batch(
        segments=tuple(forest.segments),
        episodes=tuple(f"{r.episode}/{r.turn}" for r in rows),
        sequence_tokens=sizes,
        total_tokens=sum(sizes),
        total_sequences=len(sizes),
    )


def _listed(x_K: Tensor) -> list[int]:
    return cast("list[int]", x_K.tolist())  # pyright: ignore[reportUnknownMemberType]
