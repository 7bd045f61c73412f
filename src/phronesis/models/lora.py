"""Low-rank adapters: a frozen base, and for each chosen matrix W a pair A, B with W' = W + (alpha / rank) B A.

The decoder always holds the merged weights W', so the engine samples from exactly what the learner differentiates, and every
fast path works unchanged. The gradient with respect to W' becomes that of A and B by the chain rule the moment it is there:
dB = s dW' Aᵀ and dA = s Bᵀ dW' with s = alpha / rank, after which dW' is dropped. So only A and B have optimiser state, the
base stays as it was to the bit, and memory holds the base of the chosen matrices beside the merged ones.

Source: arXiv 2106.09685 (LoRA). A begins uniform in ±1/sqrt(in), B at 0, as in peft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple, cast

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn import Parameter

from phronesis.errors import CheckpointError, ConfigError
from phronesis.models.decoder import Decoder
from phronesis.models.slots import Slot, slots
from phronesis.seeding import stream

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""A matrix of every layer, by the name transformers gives it."""

ALL_TARGETS: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train adapters and leave the model as it is."""

    rank: int = 16
    """Inner size of every pair, at least 1."""
    alpha: float = 32.0
    """Factor on B A, divided by the rank; above 0."""
    targets: tuple[Target, ...] = ALL_TARGETS
    """Which matrices of every layer are adapted, at least one."""
    path: str | None = None
    """Folder of a peft adapter to begin from, whose rank, alpha and targets count then; None begins at the base model."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < float("inf") or not self.targets:
            raise ConfigError(f"lora needs rank >= 1, alpha > 0 and at least one target; got {self!r}")
        if len(set(self.targets)) < len(self.targets):
            raise ConfigError(f"lora.targets names a matrix twice: {self.targets!r}")


class Factors(NamedTuple):
    """The pair of one matrix."""

    a: Tensor
    """`[rank, in]`."""
    b: Tensor
    """`[out, rank]`."""


class Adapter(NamedTuple):
    """All pairs of a model, apart from it."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Names of the adapted matrices in a layer, in order."""
    factors: dict[str, Factors]
    """By module, e.g. ``model.layers.0.self_attn.q_proj``."""

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


class _Pair(NamedTuple):
    """The trained factors of one matrix and where it lies."""

    a: Parameter
    b: Parameter
    base: Tensor
    """`[out, in]`, what the matrix was."""
    slot: Slot


def fresh(decoder: Decoder, config: LoraConfig, seed: int) -> Adapter:
    """Factors of an adapter that changes nothing yet; equal arguments give equal factors."""
    generator = torch.Generator()
    factors: dict[str, Factors] = {}
    for slot in _adaptable(decoder):
        module = _module(slot)
        if _kind(module) not in config.targets:
            continue
        out, inner = slot.view.shape
        generator.manual_seed(stream(seed, "lora", module))
        a = (torch.rand(config.rank, inner, generator=generator) * 2 - 1) / inner**0.5
        factors[module] = Factors(a, torch.zeros(out, config.rank))
    return Adapter(config.rank, config.alpha, tuple(t for t in ALL_TARGETS if t in config.targets), factors)


def merge(decoder: Decoder, adapter: Adapter) -> None:
    """Adds an adapter to a decoder's weights for good.

    Raises:
        CheckpointError: the adapter belongs to another model.
    """
    places = _places(decoder, adapter)
    for module, pair in adapter.factors.items():
        view = places[module].view
        a, b = (t.to(view) for t in pair)
        torch.addmm(view, b, a, alpha=adapter.scale, out=view)


class Adapters:
    """An adapter in training on a decoder whose other weights are frozen."""

    def __init__(self, decoder: Decoder, adapter: Adapter, base: Mapping[str, Tensor] | None = None):
        """Freezes the decoder, merges the adapter and lets gradients through to its factors.

        Args:
            decoder: float32; holds the base weights, or with `base` the merged ones.
            adapter: where to begin; copied.
            base: the base of every adapted matrix, by module, for a decoder that is merged already, which then is not touched.

        Raises:
            ConfigError: the decoder is not float32.
            CheckpointError: the adapter belongs to another model.
        """
        if decoder.dtype != torch.float32:
            raise ConfigError(f"the weights are {decoder.dtype}, training adapters needs float32")
        self.decoder, self.rank, self.alpha, self.targets = decoder, adapter.rank, adapter.alpha, adapter.targets
        self.scale = adapter.scale
        """alpha / rank."""
        places = _places(decoder, adapter)
        self._pairs = {
            module: _Pair(
                Parameter(factors.a.to(decoder.device, torch.float32, copy=True)),
                Parameter(factors.b.to(decoder.device, torch.float32, copy=True)),
                (places[module].view if base is None else base[module]).to(decoder.device, copy=True),
                places[module],
            )
            for module, factors in adapter.factors.items()
        }
        self._first = self._factors()
        decoder.requires_grad_(False)
        holders: dict[Parameter, list[_Pair]] = {}
        for pair in self._pairs.values():
            holders.setdefault(pair.slot.parameter, []).append(pair)
        for parameter, pairs in holders.items():
            parameter.requires_grad_(True)
            _hook(parameter, lambda p, pairs=tuple(pairs): self._pull(p, pairs))
        if base is None:
            self.merge()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The factors: all that is trained."""
        for module, pair in self._pairs.items():
            yield f"{module}.lora_A", pair.a
            yield f"{module}.lora_B", pair.b

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for _, p in self.named_parameters())

    @torch.no_grad()
    def merge(self) -> None:
        """Writes base + scale · B A into the decoder. To be called after every change of the factors."""
        for pair in self._pairs.values():
            pair.slot.view.copy_(torch.addmm(pair.base, pair.b, pair.a, alpha=self.scale))

    def reset(self) -> None:
        """Back to the factors training began with."""
        self._put(self._first)
        self.merge()

    def adapter(self) -> Adapter:
        """The present factors, copied to the CPU."""
        factors = {m: Factors(p.a.detach().cpu().clone(), p.b.detach().cpu().clone()) for m, p in self._pairs.items()}
        return Adapter(self.rank, self.alpha, self.targets, factors)

    def base(self) -> dict[str, Tensor]:
        """What the adapted matrices were, by module; not copied."""
        return {module: pair.base for module, pair in self._pairs.items()}

    def digest(self) -> str:
        """SHA-256 of the base model: equal before and after training, since training must not touch it."""
        base = self.base()
        hasher = sha256()
        for slot in slots(self.decoder):
            value = base.get(_module(slot), slot.view) if slot.name.endswith(".weight") else slot.view
            hasher.update(slot.name.encode())
            hasher.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep besides the merged weights."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "factors": self._factors(),
            "first": self._first,
            "base": self.base(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state`. The decoder must hold the merged weights of that moment; they are not computed anew."""
        self._put(state["factors"])
        self._first = state["first"]
        for module, pair in self._pairs.items():
            pair.base.copy_(state["base"][module])

    def _factors(self) -> dict[str, dict[str, Tensor]]:
        return {m: {"a": p.a.detach().clone(), "b": p.b.detach().clone()} for m, p in self._pairs.items()}

    @torch.no_grad()
    def _put(self, factors: Mapping[str, Mapping[str, Tensor]]) -> None:
        if factors.keys() != self._pairs.keys():
            raise ConfigError("the checkpoint adapts other matrices; continue with the lora settings it was made with")
        for module, pair in self._pairs.items():
            pair.a.copy_(factors[module]["a"])
            pair.b.copy_(factors[module]["b"])

    @torch.no_grad()
    def _pull(self, parameter: Tensor, pairs: Sequence[_Pair]) -> None:
        """Turns the gradient of merged weights into that of their factors and drops it."""
        grad = cast("Tensor", parameter.grad)
        parameter.grad = None
        for pair in pairs:
            part = grad[pair.slot.rows]
            _add(pair.a, pair.b.t() @ part, self.scale)
            _add(pair.b, part @ pair.a.t(), self.scale)


def adapter_of(state: Mapping[str, Any]) -> Adapter:
    """The adapter in an `Adapters.state`."""
    factors = {module: Factors(pair["a"], pair["b"]) for module, pair in state["factors"].items()}
    return Adapter(int(state["rank"]), float(state["alpha"]), tuple(state["targets"]), factors)


def resume(decoder: Decoder, state: Mapping[str, Any]) -> Adapters:
    """The adapters of an `Adapters.state`, over a decoder that holds the merged weights of that moment."""
    adapters = Adapters(decoder, adapter_of(state), state["base"])
    adapters.restore(state)
    return adapters


def unmerge(decoder: Decoder, state: Mapping[str, Any]) -> None:
    """Puts the base of an `Adapters.state` back into a decoder."""
    for slot in _adaptable(decoder):
        if _module(slot) in state["base"]:
            slot.view.copy_(state["base"][_module(slot)])


def _adaptable(decoder: Decoder) -> Iterator[Slot]:
    """Matrices that an adapter may change."""
    return (s for s in slots(decoder) if s.name.endswith(".weight") and _kind(_module(s)) in ALL_TARGETS)


def _module(slot: Slot) -> str:
    return slot.name.removesuffix(".weight")


def _kind(module: str) -> str:
    return module.rpartition(".")[2]


def _places(decoder: Decoder, adapter: Adapter) -> dict[str, Slot]:
    """Where each pair belongs, after checking that it fits."""
    known = {_module(slot): slot for slot in _adaptable(decoder)}
    for module, (a, b) in adapter.factors.items():
        if module not in known:
            raise CheckpointError(f"the adapter changes {module!r}, which the model lacks; use the model it was trained on")
        wanted, given = tuple(known[module].view.shape), (b.shape[0], a.shape[1])
        if wanted != given or a.shape[0] != b.shape[1]:
            raise CheckpointError(
                f"the adapter's factors of {module!r} have shapes {tuple(a.shape)!r} and {tuple(b.shape)!r}, the model's "
                f"matrix {wanted!r}; use the model it was trained on"
            )
    return {module: known[module] for module in adapter.factors}


def _add(parameter: Parameter, grad: Tensor, scale: float) -> None:
    if parameter.grad is None:
        parameter.grad = grad.mul_(scale)
    else:
        parameter.grad.add_(grad, alpha=scale)


def _hook(parameter: Parameter, pull: Callable[[Tensor], None]) -> None:
    parameter.register_post_accumulate_grad_hook(pull)  # pyright: ignore[reportUnknownMemberType]
