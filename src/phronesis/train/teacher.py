"""A frozen teacher: another decoder that says how likely it finds what the policy sampled."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch

from phronesis.credit.judged.teacher import NeedsTeacher
from phronesis.credit.judged.uncertainty import NeedsDoubts, measured
from phronesis.credit.routed import RoutedCredit
from phronesis.credit.rule import CreditRule, TokenValues, members
from phronesis.errors import ConfigError
from phronesis.losses import entropy
from phronesis.models import checkpoint
from phronesis.models.causal import LanguageModel
from phronesis.records import Batch, Credit, EpisodeGroup
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.packed import Packed, pack
from phronesis.train.scoring import MAX_LOGITS, Precision, score, states
from phronesis.train.splitting import split

_EVERYTHING = BatchConfig(drop_silent=False)


class Teacher:
    """Scores the sampled tokens of groups, on packed segments as the learner does. See `TeacherScores`."""

    def __init__(self, decoder: LanguageModel, *, max_tokens: int = 16384, precision: Precision = "fp32"):
        self.decoder, self.max_tokens = decoder, max_tokens
        self.precision: Precision = precision

    def __call__(self, group: EpisodeGroup) -> dict[int, TokenValues]:
        """Nats of every token of the episodes that count, at the temperature it was sampled with; 0 at forced tokens.

        Raises:
            TrainingError: an episode's records contradict one another.
        """
        kept = members(group, compared=False)
        zeros = [tuple((0.0,) * len(t.completion) for t in e.turns) for e in group.episodes]
        values = tuple(zeros[i] if i in kept.kept else None for i in range(len(group.episodes)))
        batch = build_batch([group], [Credit(group=group.id, values=values, reasons=kept.reasons)], _EVERYTHING)
        found = {i: [list(row) for row in zeros[i]] for i in kept.kept}
        places = {group.episodes[i].id: i for i in kept.kept}
        for (episode, turn), logprobs in self._scores(batch).items():
            sampled = group.episodes[places[batch.episodes[episode]]].turns[turn].sampled
            given = iter(logprobs)
            found[places[batch.episodes[episode]]][turn] = [next(given) if s else 0.0 for s in sampled]
        return {i: tuple(tuple(row) for row in rows) for i, rows in found.items()}

    def read(self, packed: Packed) -> list[float]:
        """What is said of every trained token of a packed batch."""
        with torch.no_grad():
            logp_K = score(self.decoder, packed, precision=self.precision).logp_K
        return cast("list[float]", logp_K.tolist())  # pyright: ignore[reportUnknownMemberType]

    def _scores(self, batch: Batch) -> dict[tuple[int, int], list[float]]:
        """Per (index into `Batch.episodes`, turn), what is said of the sampled tokens in order."""
        found: dict[tuple[int, int], list[float]] = {}
        if not batch.trained_tokens:
            return found
        for part in split(batch, self.max_tokens):
            packed = pack(part, self.decoder.device)
            episodes, turns = (cast("list[int]", c.tolist()) for c in (packed.sequence_K, packed.turn_K))  # pyright: ignore[reportUnknownMemberType]
            for episode, turn, said in zip(episodes, turns, self.read(packed), strict=True):
                found.setdefault((episode, turn), []).append(said)
        return found


class Doubter(Teacher):
    """Says how unsure the policy itself was at every sampled token, from whole distributions. See `Doubts`."""

    def read(self, packed: Packed) -> list[float]:
        """`Uncertainty.mean` of the distribution each token was sampled from."""
        hidden_KD, size = states(self.decoder, packed, precision=self.precision), self.decoder.vocab_size
        found: list[float] = []
        step = max(1, MAX_LOGITS // size)
        for start in range(0, hidden_KD.shape[0], step):
            part = slice(start, start + step)
            with torch.no_grad():
                logits_KV = self.decoder.logits(hidden_KD[part]).float()
                if packed.temperatures_K is not None:
                    logits_KV = logits_KV / packed.temperatures_K[part, None]
                logp_KV = logits_KV.log_softmax(-1)
                rows_K3 = torch.cat([entropy(logp_KV)[:, None], logp_KV.topk(2).values.exp()], dim=1)
            rows = cast("list[tuple[float, float, float]]", rows_K3.tolist())  # pyright: ignore[reportUnknownMemberType]
            found += [measured(h, first, second, size).mean for h, first, second in rows]
        return found


def taught(rule: CreditRule, student: LanguageModel) -> CreditRule:
    """The rule with the teacher it names, loaded and frozen, or with what it asks of the student's own distributions; a rule
    that needs neither is returned as it is.

    Raises:
        ConfigError: its vocabulary is not the student's.
        CheckpointError: it cannot be loaded.
    """
    if isinstance(rule, RoutedCredit):
        return rule.bound(partial(taught, student=student))
    if isinstance(rule, NeedsDoubts):
        return rule.with_doubts(Doubter(student))
    if not isinstance(rule, NeedsTeacher):
        return rule
    decoder = checkpoint.load(rule.teacher).requires_grad_(False).to(student.device)
    if decoder.vocab_size != student.vocab_size:
        raise ConfigError(
            f"the teacher knows {decoder.vocab_size} ids, the student {student.vocab_size}; on-policy "
            "distillation compares token by token, so both must share one tokenizer"
        )
    return rule.with_teacher(Teacher(decoder))


def check_teacher(rule: CreditRule) -> None:
    """Refuses, before anything is played, a rule whose teacher is not there.

    Raises:
        CheckpointError: no model can be read where the rule says.
    """
    if isinstance(rule, RoutedCredit):
        for part in (rule.rest, *rule.rules.values()):
            check_teacher(part)
    if isinstance(rule, NeedsTeacher):
        checkpoint.read_config(rule.teacher)
