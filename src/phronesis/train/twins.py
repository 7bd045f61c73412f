"""The off-policy critic of whole utterances (ArCHer): twins of Q and V, targets that follow, episodes to learn from again.

V is read where an utterance begins, Q from there and from its last sampled token together. In every pass Q of each utterance
learns towards what it earned and the target V of what follows, on the step's episodes and on episodes of earlier steps alike;
V learns towards the target Q of what the policy says. What it says is taken from the step itself, whose utterances are the
policy's own; the published code samples anew in replayed states (ours: nothing is played twice). The critic learns before it
judges, as published: unlike `phronesis.train.critic`, its values have learned from the very episodes they judge.

Source: arXiv 2402.19446; formula [archer]. Shapes: N packed tokens, K sampled tokens, U utterances, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from phronesis.credit.rule import NeedsUtterances, Utterances
from phronesis.errors import ConfigError, TrainingError
from phronesis.losses.value import explained_variance, value_clip, value_loss
from phronesis.models.decoder import Decoder
from phronesis.records import Episode, EpisodeGroup
from phronesis.seeding import rng, stream
from phronesis.train.critic import (
    Critic,
    CriticConfig,
    CriticMetrics,
    Layout,
    Place,
    clip_gradient,
    is_attention,
    lay_out,
)
from phronesis.train.optimizer import Stepper
from phronesis.train.packed import Packed

HEADS = ("q1", "q2", "v1", "v2")
"""Order of everything that comes in fours."""


class Net(nn.Module):
    """A trunk and four heads of one hidden layer, whose outputs begin at 0."""

    def __init__(self, policy: Decoder, config: CriticConfig, seed: int):
        """Begins as the policy is now; nets of one seed begin alike."""
        super().__init__()
        self.config = config
        trunk = deepcopy(policy) if config.trunk == "copy" else policy
        # A list hides the policy's own weights from `state_dict`, which must hold the critic's alone.
        self._trunk = [trunk]
        if config.trunk == "copy":
            self.trunk = trunk
        d = policy.config.width
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
            self.value_heads = nn.ModuleList(_head(2 * d if name[0] == "q" else d, d) for name in HEADS)
        self.value_heads.to(policy.device)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not (config.frozen == "attention" and is_attention(name)))
        if config.trunk == "copy" and trunk.untied_head is not None:
            trunk.untied_head.requires_grad_(False)  # words are not its business

    def forward(self, part: Part) -> Tensor:
        """Values `[4, U]` of the utterances of a part, in float32."""
        config, trunk, packed = self.config, self._trunk[0], part.packed
        trained = torch.is_grad_enabled() and config.trunk == "copy"
        with (
            torch.autocast(packed.ids_N.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"),
            torch.set_grad_enabled(trained),
        ):
            hidden_ND = trunk.hidden(packed.ids_N, packed.plan, checkpointing=config.checkpointing)
            before_UD, after_UD = hidden_ND.index_select(0, part.before_U), hidden_ND.index_select(0, part.after_U)
        state_UD, said_UD = before_UD.float(), torch.cat([before_UD, after_UD], dim=1).float()
        read = [said_UD if name[0] == "q" else state_UD for name in HEADS]
        return torch.stack([cast(Tensor, head(x_UD))[:, 0] for head, x_UD in zip(self.value_heads, read, strict=True)])


class Part(NamedTuple):
    """A micro-batch and the utterances in it."""

    packed: Packed
    """Its tokens."""
    names: list[tuple[str, int]]
    """Per utterance, episode and turn."""
    before_U: Tensor
    """int64: position before its first sampled token."""
    after_U: Tensor
    """int64: position of its last one."""


@dataclass(frozen=True)
class TwinLook:
    """What twins say about one step's episodes; implements `phronesis.credit.rule.UtteranceValues`."""

    found: dict[str, Utterances]
    """By episode id."""

    def __call__(self, episode: Episode) -> Utterances:
        """Values of one of the step's episodes."""
        return self.found[episode.id]


class TwinCritic(nn.Module):
    """Twins, the targets that follow them, an optimiser of their own, and the episodes they still learn from."""

    def __init__(self, policy: Decoder, config: CriticConfig, seed: int = 0):
        """Begins as the policy is now.

        Args:
            policy: its weights are copied, or read at each use where `config.trunk` is ``policy``.
            config: with `twins`.
            seed: of the heads and of what is drawn from earlier steps.
        """
        super().__init__()
        if config.twins is None:
            raise ConfigError("a critic of utterances needs critic.twins")
        self.config, self.twins, self.seed = config, config.twins, seed
        self.steps = 0
        self.net, self.target = (Net(policy, config, stream(seed, "heads")) for _ in range(2))
        self.target.requires_grad_(False)
        self.buffer: list[Episode] = []
        """Episodes of earlier steps, the oldest first."""
        learned = [(n, p) for n, p in self.net.named_parameters() if p.requires_grad]
        self.stepper = Stepper(learned, config.optimizer, config.schedule)

    @property
    def ready(self) -> bool:
        """Whether the warm-up is over, so that the policy learns too."""
        return self.steps >= self.config.warmup

    def look(self, groups: Sequence[EpisodeGroup]) -> TwinLook:
        """What the twins say about a step's scored episodes; faulted and unscored ones are not looked at."""
        layout, parts = self._lay_out(groups)
        with torch.no_grad():
            rows = _by_episode(layout, parts, [cast(Tensor, self.net(part)) for part in parts])
        return TwinLook({name: Utterances(*(tuple(row) for row in four)) for name, four in rows.items()})

    def learn(self, groups: Sequence[EpisodeGroup], rule: NeedsUtterances) -> CriticMetrics | None:
        """Learns from a step's scored episodes and some of earlier steps, and keeps the new ones; None when nothing was said.

        Raises:
            TrainingError: a target, loss or gradient is not finite; no weight was changed by the failing pass.
        """
        drawn = rng(self.seed, "replay", self.steps)
        fresh = lay_out(groups, self.config.max_tokens, self.device).episodes
        known = [e for e in self.buffer if e.id not in fresh]
        self.steps += 1
        passes: list[_Pass] = []
        for _ in range(self.config.epochs):
            old = [known[i] for i in sorted(drawn.sample(range(len(known)), min(self.twins.replay, len(known))))]
            alone = [EpisodeGroup(id=e.id, task=e.task, episodes=(e,)) for e in old]
            layout, parts = self._lay_out([*groups, *alone])
            if parts:
                passes.append(self._descend(layout, parts, {e.id for e in old}, rule))
        self.buffer = [*known, *fresh.values()][-self.twins.capacity :] if self.twins.capacity else []
        if not passes:
            return None
        first, last = passes[0], passes[-1]
        return CriticMetrics(
            loss=first.loss,
            grad_norm=sum(p.grad_norm for p in passes) / len(passes),
            lr=last.lr,
            explained_variance=first.explained,
            value_mean=first.value_mean,
            target_mean=first.target_mean,
            clip_share=0.0,
            tokens=first.utterances,
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.net.value_heads.parameters()).device

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep: weights, targets, optimiser, steps, episodes."""
        kept = np.frombuffer(msgspec.msgpack.encode(self.buffer), dtype=np.uint8).copy()
        return {
            "steps": self.steps,
            "weights": self.state_dict(),
            "stepper": self.stepper.state(),
            "buffer": torch.from_numpy(kept),  # pyright: ignore[reportUnknownMemberType]
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state` of a critic of the same config and model."""
        self.load_state_dict(cast("dict[str, Tensor]", state["weights"]))
        self.stepper.restore(state["stepper"])
        self.steps = int(state["steps"])
        kept = cast(Tensor, state["buffer"]).numpy().tobytes()  # pyright: ignore[reportUnknownMemberType]
        self.buffer = msgspec.msgpack.decode(kept, type=list[Episode])

    def _lay_out(self, groups: Sequence[EpisodeGroup]) -> tuple[Layout, list[Part]]:
        layout = lay_out(groups, self.config.max_tokens, self.device)
        each = zip(layout.parts, layout.places, layout.positions, strict=True)
        return layout, [_utterances(packed, places, own_K) for packed, places, own_K in each]

    def _descend(self, layout: Layout, parts: list[Part], old: set[str], rule: NeedsUtterances) -> _Pass:
        """One optimiser step over all parts, and one of the targets after it."""
        targets, fresh = self._targets(layout, parts, old, rule)
        counts = sum(f.numel() for f in fresh), sum(int(f.sum()) for f in fresh)
        total, seen = 0.0, list[Tensor]()
        try:
            for part, target_4U, fresh_U in zip(parts, targets, fresh, strict=True):
                values_4U = cast(Tensor, self.net(part))
                seen.append(values_4U.detach())
                loss = torch.zeros((), device=self.device)
                for name, value_U, target_U in zip(HEADS, values_4U, target_4U, strict=True):
                    mask_U, n = (None, counts[0]) if name[0] == "q" else (fresh_U, counts[1])
                    loss = loss + value_loss(value_clip(value_U, value_U, target_U, clip=None, mask_N=mask_U), n, mask_U)
                value = float(loss.detach())
                if not isfinite(value):
                    raise TrainingError(f"the critic's loss is {value!r}; lower critic.optimizer.lr or use fp32")
                loss.backward()  # pyright: ignore[reportUnknownMemberType]
                total += value
            norm, lr = clip_gradient(self.stepper, self.config.max_grad_norm), self.stepper.lr
            self.stepper.step()
        finally:
            self.stepper.clear()
        self._follow()
        seen_4U, target_4U = torch.cat(seen, dim=1), torch.cat(targets, dim=1)
        careful_U = torch.minimum(seen_4U[2], seen_4U[3])[torch.cat(fresh)]
        return _Pass(
            loss=total,
            grad_norm=norm,
            lr=lr,
            explained=explained_variance(torch.minimum(seen_4U[0], seen_4U[1]), target_4U[0]),
            value_mean=float(careful_U.mean()) if careful_U.numel() else 0.0,
            target_mean=float(target_4U[0].mean()),
            utterances=counts[0],
        )

    def _targets(
        self, layout: Layout, parts: list[Part], old: set[str], rule: NeedsUtterances
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per part, what each head learns towards `[4, U]`, and which utterances are of this step, bool `[U]`."""
        with torch.no_grad():
            said = [cast(Tensor, self.target(part)) for part in parts]
        rows = _by_episode(layout, parts, said)
        wanted = {
            name: [rule.utterance_targets(episode, rows[name][i]) for i in (2, 3)] for name, episode in layout.episodes.items()
        }
        targets: list[Tensor] = []
        fresh: list[Tensor] = []
        for part, said_4U in zip(parts, said, strict=True):
            q_2U = torch.tensor([[wanted[name][i][turn] for name, turn in part.names] for i in (0, 1)], device=self.device)
            if not bool(q_2U.isfinite().all()):
                raise TrainingError("the critic's targets are not finite; mend the rubric to return finite scores")
            targets.append(torch.cat([q_2U, said_4U[:2]]))
            fresh.append(torch.tensor([name not in old for name, _ in part.names], device=self.device))
        return targets, fresh

    @torch.no_grad()
    def _follow(self) -> None:
        """The targets move towards the twins."""
        for mean, current in zip(self.target.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(current, self.twins.polyak)


AnyCritic = Critic | TwinCritic
"""What `RunConfig.critic` may make."""


def make_critic(policy: Decoder, config: CriticConfig, seed: int) -> AnyCritic:
    """The critic a config describes, which begins as the policy is now."""
    return Critic(policy, config) if config.twins is None else TwinCritic(policy, config, stream(seed, "critic"))


class _Pass(NamedTuple):
    loss: float
    grad_norm: float
    lr: float
    explained: float | None
    value_mean: float
    target_mean: float
    utterances: int


def _head(wide: int, d: int) -> nn.Sequential:
    last = nn.Linear(d, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(wide, d), nn.ReLU(), last)


def _utterances(packed: Packed, places: Sequence[Place], own_K: Tensor) -> Part:
    """Where the utterances of a micro-batch begin and end."""
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for k, place in enumerate(places):
        first.setdefault((place.episode, place.turn), k)
        last[place.episode, place.turn] = k
    begin, end = (torch.tensor(list(at.values()), dtype=torch.int64, device=own_K.device) for at in (first, last))
    return Part(packed, list(first), packed.predictors_K.index_select(0, begin), own_K.index_select(0, end))


def _by_episode(layout: Layout, parts: Sequence[Part], values: Sequence[Tensor]) -> dict[str, list[list[float]]]:
    """Per episode four rows `[turns]`, 0 at turns without a sampled token."""
    rows = {name: [[0.0] * len(e.turns) for _ in HEADS] for name, e in layout.episodes.items()}
    for part, values_4U in zip(parts, values, strict=True):
        listed = cast("list[list[float]]", values_4U.tolist())  # pyright: ignore[reportUnknownMemberType]
        for i, row in enumerate(listed):
            for (name, turn), value in zip(part.names, row, strict=True):
                rows[name][i][turn] = value
    return rows
