"""The critic: a decoder with a value head that learns what return to expect before every token.

A value belongs to the state a token was sampled in, so it is read where the token is predicted: the first value of a turn is
the value at the turn's boundary, and observations have none. In a step the critic first looks at the episodes, then credit
is assigned with what it saw, then it learns towards the credit rule's own targets. The rule this module keeps: credit never
sees a value that has learned from the very episodes it judges.

Shapes: N packed tokens, K sampled tokens, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple, cast

import torch
from msgspec import Struct
from torch import Tensor, nn

from phronesis.credit.rule import TokenValues, members
from phronesis.errors import ConfigError, TrainingError
from phronesis.losses.value import explained_variance, value_clip, value_loss
from phronesis.models.decoder import Decoder
from phronesis.records import Credit, Episode, EpisodeGroup
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.optimizer import AdamWConfig, Constant, OptimizerConfig, Schedule, Stepper
from phronesis.train.packed import Packed, pack
from phronesis.train.scoring import Precision
from phronesis.train.splitting import split

Targets = Callable[[Episode, TokenValues], TokenValues]
"""`NeedsValues.targets` of the credit rule."""

ATTENTION = ("attn_norm", "qkv", "q_norm", "k_norm", "o")
"""Parameters of a block that belong to attention."""


class TwinConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A critic of whole utterances that learns off-policy (ArCHer); see `phronesis.train.twins`."""

    polyak: float = 0.1
    """How far the target critic follows at every optimiser step, in (0, 1]; as published."""
    capacity: int = 1024
    """Episodes of earlier steps kept to learn from again, the oldest go first; at least 0. Ours."""
    replay: int = 64
    """Of these, how many join the step's own in every pass, at least 0. Ours."""

    def __post_init__(self) -> None:
        if not 0.0 < self.polyak <= 1.0 or self.capacity < 0 or self.replay < 0:
            raise ConfigError(f"twins need polyak in (0, 1], capacity >= 0 and replay >= 0; got {self!r}")


class CriticConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who expects what; one that learns beside the policy."""

    trunk: Literal["copy", "policy"] = "copy"
    """A copy of the policy as it is when reinforcement learning begins, trained with the head; or the policy itself, under a
    head that reads its states and leaves it alone: almost free, and only as good as what the policy happens to represent."""
    frozen: Literal["nothing", "attention"] = "nothing"
    """What of a copy is not trained; SAO freezes attention."""
    optimizer: OptimizerConfig = AdamWConfig(lr=1e-3)
    """How to step; its state is the critic's own."""
    schedule: Schedule = Constant()
    """Share of the peak learning rate at each of the critic's optimiser steps."""
    warmup: int = 0
    """Training steps in which only the critic learns and the policy stays as it is."""
    epochs: int = 1
    """Passes over each step's episodes, one optimiser step each, at least 1; SAO makes 2."""
    clip: float | None = 0.2
    """Values are pulled no further than this from where they were before the step (see `value_clip`); None means freely, as
    during the warm-up in any case (ours): a head that begins at 0 would need many small steps to the level of the returns."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are scaled down to this Euclidean norm; None means never."""
    precision: Precision = "fp32"
    """Of matrix products; the head is always float32."""
    checkpointing: bool = False
    """Recompute layers in the backward pass."""
    max_tokens: int = 16384
    """Tokens computed at once, at least 1."""
    twins: TwinConfig | None = None
    """Judge whole utterances, learning from earlier steps too, for credit archer; None expects a return before every token."""

    def __post_init__(self) -> None:
        if self.twins is not None and self.clip is not None:
            raise ConfigError(f'critic.clip {self.clip!r} has no meaning for critic.twins; set critic.clip = "none"')
        if self.warmup < 0 or self.epochs < 1 or self.max_tokens < 1:
            raise ConfigError(f"a critic needs warmup >= 0, epochs >= 1, max_tokens >= 1; got {self!r}")
        if (self.clip is not None and self.clip <= 0) or (self.max_grad_norm is not None and self.max_grad_norm <= 0):
            raise ConfigError("critic.clip and critic.max_grad_norm must be above 0, or null for none")
        if self.trunk == "policy" and self.frozen != "nothing":
            raise ConfigError(f'critic.frozen {self.frozen!r} says nothing on trunk "policy", of which nothing is trained')


def sao_critic(lr: float = 5e-6) -> CriticConfig:
    """The critic of SAO (arXiv 2607.07508): ten warm-up steps, two updates a step, attention frozen, five times the policy's
    learning rate (1e-6 at 30B; a small model needs far more). It goes with `SAOCredit` and `DISLoss`; its value pre-training is
    the warm-up alone here, and the clip of values is ours.
    """
    return CriticConfig(frozen="attention", warmup=10, epochs=2, optimizer=AdamWConfig(lr=lr))


class CriticMetrics(Struct, frozen=True, kw_only=True):
    """What a critic expected of a step and learned from it."""

    loss: float
    """Value loss of the first pass."""
    grad_norm: float
    """Euclidean norm of the gradient before clipping, mean over passes."""
    lr: float
    """Learning rate of the last optimiser step."""
    explained_variance: float | None
    """Of the targets by the values before the step; None when the targets do not vary."""
    value_mean: float
    """Mean value before the step."""
    target_mean: float
    """Mean of what it learned towards."""
    clip_share: float
    """Share of tokens whose value was clipped, in the last pass."""
    tokens: int
    """Sampled tokens."""


class Place(NamedTuple):
    """A sampled token of a step."""

    episode: str
    """Id."""
    turn: int
    """Index into `Episode.turns`."""
    token: int
    """Index into the turn's completion."""


class Layout(NamedTuple):
    """Scored episodes as micro-batches."""

    parts: list[Packed]
    """Micro-batches."""
    places: list[list[Place]]
    """Per part, its sampled tokens in order."""
    positions: list[Tensor]
    """Per part, int64 `[K]`: where each sampled token itself stands among the part's N tokens."""
    episodes: dict[str, Episode]
    """All of them, by id."""


@dataclass(frozen=True)
class Look:
    """What a critic expected of one step's episodes; implements `phronesis.credit.rule.Values`."""

    parts: list[Packed]
    """Micro-batches."""
    places: list[list[Place]]
    """Per part, its sampled tokens in order."""
    values: list[Tensor]
    """Per part `[K]`."""
    episodes: dict[str, Episode]
    """Those looked at, by id."""
    found: dict[str, TokenValues]
    """Their values."""

    def __call__(self, episode: Episode) -> TokenValues:
        """Values of one of the step's episodes, 0 at forced tokens."""
        return self.found[episode.id]


class Critic(nn.Module):
    """A trunk, a linear head that begins at 0, and an optimiser of their own."""

    def __init__(self, policy: Decoder, config: CriticConfig):
        """Begins as the policy is now.

        Args:
            policy: its weights are copied, or read at each use where `config.trunk` is ``policy``.
            config: what to train and how.
        """
        super().__init__()
        self.config = config
        self.steps = 0
        own = config.trunk == "copy"
        trunk = deepcopy(policy) if own else policy
        # A list hides the policy's own weights from `state_dict`, which must hold the critic's alone.
        self._trunk = [trunk]
        if own:
            self.trunk = trunk
        self.value_head = nn.Parameter(torch.zeros(1, policy.config.width, device=policy.device))
        self.value_bias = nn.Parameter(torch.zeros(1, device=policy.device))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not (config.frozen == "attention" and is_attention(name)))
        if own and trunk.untied_head is not None:
            trunk.untied_head.requires_grad_(False)  # words are not its business
        learned = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        self.stepper = Stepper(learned, config.optimizer, config.schedule)

    @property
    def ready(self) -> bool:
        """Whether the warm-up is over, so that the policy learns too."""
        return self.steps >= self.config.warmup

    def expect(self, part: Packed) -> Tensor:
        """Values `[K]` before each sampled token of a packed batch, in float32."""
        config, trunk = self.config, self._trunk[0]
        trained = torch.is_grad_enabled() and config.trunk == "copy"
        with (
            torch.autocast(part.ids_N.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"),
            torch.set_grad_enabled(trained),
        ):
            hidden_ND = trunk.hidden(part.ids_N, part.plan, checkpointing=config.checkpointing)
            hidden_KD = hidden_ND.index_select(0, part.predictors_K)
        return torch.addmv(self.value_bias, hidden_KD.float(), self.value_head[0])

    def look(self, groups: Sequence[EpisodeGroup]) -> Look:
        """What the critic expects of a step's scored episodes; faulted and unscored ones are not looked at."""
        parts, places, _, episodes = lay_out(groups, self.config.max_tokens, self.value_head.device)
        with torch.no_grad():
            values = [self.expect(part) for part in parts]
        rows = {e.id: [[0.0] * len(t.completion) for t in e.turns] for e in episodes.values()}
        for part, seen in zip(places, values, strict=True):
            for place, value in zip(part, _listed(seen), strict=True):
                rows[place.episode][place.turn][place.token] = value
        found = {name: tuple(tuple(row) for row in turns) for name, turns in rows.items()}
        return Look(parts, places, values, episodes, found)

    def learn(self, look: Look, targets: Targets) -> CriticMetrics | None:
        """Learns towards the returns of the step that was looked at; None when it holds no sampled token.

        Raises:
            TrainingError: a target, loss or gradient is not finite; no weight was changed by the failing pass.
        """
        clip = self.config.clip if self.ready else None
        self.steps += 1
        if not look.parts:
            return None
        wanted = {name: targets(episode, look.found[name]) for name, episode in look.episodes.items()}
        returns = [
            torch.tensor([wanted[p.episode][p.turn][p.token] for p in part], device=v.device)
            for part, v in zip(look.places, look.values, strict=True)
        ]
        before_K, target_K = torch.cat(look.values), torch.cat(returns)
        if not bool(target_K.isfinite().all()):
            raise TrainingError("the critic's targets are not finite; mend the rubric to return finite scores")
        passes = [self._descend(look, returns, clip) for _ in range(self.config.epochs)]
        return CriticMetrics(
            loss=passes[0].loss,
            grad_norm=sum(p.grad_norm for p in passes) / len(passes),
            lr=passes[-1].lr,
            explained_variance=explained_variance(before_K, target_K),
            value_mean=float(before_K.mean()),
            target_mean=float(target_K.mean()),
            clip_share=passes[-1].clipped / target_K.numel(),
            tokens=target_K.numel(),
        )

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep: weights, optimiser, steps."""
        return {"steps": self.steps, "weights": self.state_dict(), "stepper": self.stepper.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state` of a critic of the same config and model."""
        self.load_state_dict(cast("dict[str, Tensor]", state["weights"]))
        self.stepper.restore(state["stepper"])
        self.steps = int(state["steps"])

    def _descend(self, look: Look, returns: Sequence[Tensor], clip: float | None) -> _Pass:
        """One optimiser step over all parts."""
        total, clipped, tokens = 0.0, 0, sum(r.numel() for r in returns)
        try:
            for part, old_K, returns_K in zip(look.parts, look.values, returns, strict=True):
                terms = value_clip(self.expect(part), old_K, returns_K, clip=clip)
                loss = value_loss(terms, tokens)
                value = float(loss.detach())
                if not isfinite(value):
                    raise TrainingError(f"the critic's loss is {value!r}; lower critic.optimizer.lr or use fp32")
                loss.backward()  # pyright: ignore[reportUnknownMemberType]
                total, clipped = total + value, clipped + int(terms.clipped_N.sum())
            norm, lr = clip_gradient(self.stepper, self.config.max_grad_norm), self.stepper.lr
            self.stepper.step()
        finally:
            self.stepper.clear()
        return _Pass(total, norm, lr, clipped)


class _Pass(NamedTuple):
    loss: float
    grad_norm: float
    lr: float
    clipped: int


def clip_gradient(stepper: Stepper, limit: float | None) -> float:
    """Scales a critic's gradient down to the limit; its Euclidean norm before.

    Raises:
        TrainingError: it is not finite.
    """
    grads = [p.grad for p in stepper.parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    length = float(norm)
    if not isfinite(length):
        raise TrainingError(f"the critic's gradient norm is {length!r}; lower critic.optimizer.lr or use fp32")
    if limit is not None and length > limit:
        torch.nn.utils.clip_grads_with_norm_(stepper.parameters, limit, norm)
    return length


def withheld(group: EpisodeGroup) -> Credit:
    """The credit of a group while the critic warms up: none, for a reason that is counted."""
    n = len(group.episodes)
    reasons = tuple(r or "critic_warmup" for r in members(group, compared=False).reasons)
    return Credit(group=group.id, values=(None,) * n, reasons=reasons)


def lay_out(groups: Sequence[EpisodeGroup], max_tokens: int, device: torch.device) -> Layout:
    """The scored episodes of some groups, faulted and unscored ones left out, in parts of at most so many tokens."""
    kept = [members(g, compared=False).kept for g in groups]
    marks = [_marks(g, k) for g, k in zip(groups, kept, strict=True)]
    batch = build_batch(groups, marks, BatchConfig(drop_silent=False))
    episodes = {g.episodes[i].id: g.episodes[i] for g, k in zip(groups, kept, strict=True) for i in k}
    cut = split(batch, max_tokens) if batch.segments else []
    parts = [pack(part, device) for part in cut]
    places = [_places(part, batch.episodes, episodes) for part in parts]
    masks = [torch.tensor([m for s in part.segments for m in s.mask], device=device) for part in cut]
    return Layout(parts, places, [m.nonzero()[:, 0] for m in masks], episodes)


def _marks(group: EpisodeGroup, kept: Sequence[int]) -> Credit:
    """Zeros for the episodes to look at: a batch is built from credit."""
    reasons = members(group, compared=False).reasons
    values = [tuple((0.0,) * len(t.completion) for t in e.turns) if i in kept else None for i, e in enumerate(group.episodes)]
    return Credit(group=group.id, values=tuple(values), reasons=reasons)


def _places(part: Packed, names: Sequence[str], episodes: dict[str, Episode]) -> list[Place]:
    """Where the sampled tokens of a micro-batch come from. A turn's tokens are together, in order, in one segment."""
    seen: Counter[tuple[int, int]] = Counter()
    sampled: dict[tuple[int, int], list[int]] = {}
    found: list[Place] = []
    for key in zip(map(int, _listed(part.sequence_K)), map(int, _listed(part.turn_K)), strict=True):
        sequence, turn = key
        if key not in sampled:
            sampled[key] = [t for t, s in enumerate(episodes[names[sequence]].turns[turn].sampled) if s]
        found.append(Place(names[sequence], turn, sampled[key][seen[key]]))
        seen[key] += 1
    return found


def is_attention(name: str) -> bool:
    """Whether a parameter belongs to attention, by its name."""
    return any(part.removesuffix("_bias") in ATTENTION for part in name.split("."))


def _listed(x_K: Tensor) -> list[float]:
    return cast("list[float]", x_K.tolist())  # pyright: ignore[reportUnknownMemberType]
