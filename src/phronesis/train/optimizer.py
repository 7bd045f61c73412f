"""Optimisers and learning-rate schedules: AdamW for everything, or Muon for hidden matrices with AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import cos, pi
from typing import Any, cast

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from phronesis.errors import ConfigError
from phronesis.train.sharded import placed, whole

NOT_HIDDEN = ("embed", "head", "wte", "wpe")
"""Matrices whose name contains one of these map from or to tokens; Muon leaves them to AdamW."""


class AdamWConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="adamw"):
    """AdamW.   Source: arXiv 1711.05101."""

    lr: float = 3e-4
    """Peak learning rate, above 0."""
    beta1: float = 0.9
    """Decay of the gradient's mean, in [0, 1)."""
    beta2: float = 0.95
    """Decay of the gradient's square, in [0, 1)."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; vectors (norms, biases) are never decayed."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1) or self.eps <= 0 or self.weight_decay < 0:
            raise ConfigError(f"adamw needs lr > 0, betas in [0, 1), eps > 0, weight_decay >= 0; got {self!r}")

    @property
    def peak(self) -> float:
        """The learning rate that is reported."""
        return self.lr


class MuonConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="muon"):
    """Muon for hidden matrices, AdamW for embeddings, the head and vectors.

    Source: Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; arXiv 2502.16982.
    """

    lr: float = 0.02
    """Peak learning rate of hidden matrices: the spectral norm of a step on a wide matrix."""
    momentum: float = 0.95
    """Decay of the (Nesterov) momentum, in [0, 1)."""
    iterations: int = 5
    """Newton-Schulz iterations, at least 1."""
    weight_decay: float = 0.0
    """Decoupled decay of hidden matrices."""
    rest: AdamWConfig = AdamWConfig()
    """For all other parameters."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.momentum < 1 or self.iterations < 1 or self.weight_decay < 0:
            raise ConfigError(f"muon needs lr > 0, momentum in [0, 1), iterations >= 1, weight_decay >= 0; got {self!r}")

    @property
    def peak(self) -> float:
        """The learning rate that is reported."""
        return self.lr


OptimizerConfig = AdamWConfig | MuonConfig
"""The built-in optimisers, told apart by their tag in configs."""


class Constant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="constant"):
    """The peak learning rate after a linear warm-up."""

    warmup: int = 0
    """Steps of linear warm-up; the first step uses 1 / (warmup + 1) of the peak."""

    def over(self, steps: int) -> Constant:
        """Itself, however long the run is."""
        return self

    def factor(self, step: int) -> float:
        """Share of the peak at optimiser step `step` (from 0)."""
        return _warm(step, self.warmup)


class Linear(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="linear"):
    """Falls linearly from the peak after a linear warm-up."""

    steps: int | None = None
    """Optimiser steps until `final`, warm-up included; None means as many as the run has."""
    warmup: int = 0
    """Steps of linear warm-up."""
    final: float = 0.0
    """Share of the peak at the end and after it, in [0, 1]."""

    def over(self, steps: int) -> Linear:
        """The same over a run of that many optimiser steps, unless it has a length of its own.

        >>> Linear().over(40).steps, Linear(steps=8).over(40).steps
        (40, 8)
        """
        return replace(self, steps=steps) if self.steps is None else self

    def factor(self, step: int) -> float:
        """Share of the peak at optimiser step `step` (from 0)."""
        return _warm(step, self.warmup) * (1.0 - (1.0 - self.final) * _progress(step, self.warmup, _known(self.steps)))


class Cosine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cosine"):
    """Falls along half a cosine from the peak after a linear warm-up.   Source: arXiv 1608.03983."""

    steps: int | None = None
    """Optimiser steps until `final`, warm-up included; None means as many as the run has."""
    warmup: int = 0
    """Steps of linear warm-up."""
    final: float = 0.0
    """Share of the peak at the end and after it, in [0, 1]."""

    def over(self, steps: int) -> Cosine:
        """The same over a run of that many optimiser steps, unless it has a length of its own.

        >>> Cosine().over(40).steps, Cosine(steps=8).over(40).steps
        (40, 8)
        """
        return replace(self, steps=steps) if self.steps is None else self

    def factor(self, step: int) -> float:
        """Share of the peak at optimiser step `step` (from 0)."""
        fall = 0.5 * (1.0 + cos(pi * _progress(step, self.warmup, _known(self.steps))))
        return _warm(step, self.warmup) * (self.final + (1.0 - self.final) * fall)


Schedule = Constant | Linear | Cosine
"""The built-in schedules, told apart by their tag in configs."""


def _known(steps: int | None) -> int:
    if steps is None:
        raise ConfigError("a schedule without `steps` does not know how long the run is; give it steps, or call over(steps)")
    return steps


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def _progress(step: int, warmup: int, steps: int) -> float:
    return min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))


def orthogonalise(matrices_BMN: Tensor, iterations: int = 5) -> Tensor:
    """Approximately the nearest semi-orthogonal matrix of each: all singular values move to about 1 (.7 to 1.2).

    Newton-Schulz iteration X <- a X + (b A + c A²) X with A = X Xᵀ, after scaling to Frobenius norm 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices_BMN.shape[-2] > matrices_BMN.shape[-1]
    x = matrices_BMN.mT if tall else matrices_BMN
    x = x / (x.square().sum((-2, -1), keepdim=True).sqrt() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum, orthogonalised: each step of a matrix has all singular values about lr * sqrt(max(1, rows / columns)).

    Matrices of equal shape are handled in one batch. Of matrices spread over processes, each makes all the directions, which
    need whole matrices, and takes its part of them.
    """

    def __init__(self, matrices: Iterable[Parameter], config: MuonConfig):
        super().__init__(matrices, {"lr": config.lr})
        self.config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Applies the gradients. `closure` is not used."""
        momentum, decay = self.config.momentum, self.config.weight_decay
        for group in self.param_groups:
            lr = cast(float, group["lr"])
            shapes: dict[torch.Size, list[Parameter]] = defaultdict(list)
            for p in cast("list[Parameter]", group["params"]):
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, alike in shapes.items():
                grads = [cast(Tensor, p.grad) for p in alike]
                means = [self._momentum(p) for p in alike]
                for m, g in zip(means, grads, strict=True):
                    m.lerp_(g, 1.0 - momentum)
                nesterov = [whole(g.lerp(m, momentum)) for g, m in zip(grads, means, strict=True)]
                direction = orthogonalise(torch.stack(nesterov), self.config.iterations)
                size = lr * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, d in zip(alike, direction.unbind(), strict=True):
                    if decay:
                        p.mul_(1.0 - lr * decay)
                    p.add_(placed(d, p), alpha=-size)

    def _momentum(self, p: Parameter) -> Tensor:
        state = cast("dict[str, Tensor]", self.state[p])
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]


class Stepper:
    """One optimiser over all parameters of a model, with a schedule and its own step count."""

    def __init__(self, named: Iterable[tuple[str, Parameter]], config: OptimizerConfig, schedule: Schedule):
        self.config, self.schedule = config, schedule
        self.steps = 0
        schedule.factor(0)  # a schedule that does not know its length fails here, not after a step of play
        hidden: list[Parameter] = []
        rest: list[Parameter] = []
        for name, p in named:
            muon = isinstance(config, MuonConfig) and p.ndim == 2 and not any(n in name for n in NOT_HIDDEN)
            (hidden if muon else rest).append(p)
        self.parameters = [*hidden, *rest]
        if not self.parameters:
            raise ConfigError("there are no parameters to train")
        self._parts: list[tuple[Optimizer, float]] = []
        if isinstance(config, MuonConfig) and hidden:
            self._parts.append((Muon(hidden, config), config.lr))
        adam = config.rest if isinstance(config, MuonConfig) else config
        if rest:
            self._parts.append((_adamw(rest, adam), adam.lr))

    @property
    def lr(self) -> float:
        """Learning rate of the next step (Muon's where Muon is used)."""
        return self.config.peak * self.schedule.factor(self.steps)

    def step(self, scale: float = 1.0) -> None:
        """Applies the gradients at `scale` times the scheduled learning rate and advances the schedule."""
        factor = self.schedule.factor(self.steps) * scale
        for optimizer, peak in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
        self.steps += 1

    def clear(self) -> None:
        """Drops all gradients."""
        for p in self.parameters:
            p.grad = None

    def forget(self) -> None:
        """Drops what the optimisers remember of earlier gradients; the schedule goes on."""
        for optimizer, _ in self._parts:
            optimizer.state.clear()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep: tensors and numbers."""
        return {"steps": self.steps, "parts": [o.state_dict() for o, _ in self._parts]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state` of a stepper over the same model and config, with whole tensors."""
        parts = cast("list[dict[str, Any]]", state["parts"])
        for (optimizer, _), saved in zip(self._parts, parts, strict=True):
            optimizer.load_state_dict(saved | {"state": _placed(saved["state"], optimizer)})
        self.steps = int(state["steps"])


def _placed(state: dict[int, dict[str, object]], optimizer: Optimizer) -> dict[int, dict[str, object]]:
    """What an optimiser remembers of each parameter, spread as that is."""
    own = [p for group in optimizer.param_groups for p in cast("list[Parameter]", group["params"])]

    def spread(value: object, like: Tensor) -> object:
        return placed(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value

    return {i: {name: spread(value, own[i]) for name, value in kept.items()} for i, kept in state.items()}


def _adamw(parameters: list[Parameter], config: AdamWConfig) -> AdamW:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    used = [g for g in groups if g["params"]]
    return AdamW(used, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
