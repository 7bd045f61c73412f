"""How a group adds up: gradients summed over processes that each hold everything (ddp), or spread over them (fsdp).

The rule this module keeps: losses already have the denominators of the whole step, so gradients are added and never averaged.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from msgspec.structs import replace
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from phronesis.errors import ConfigError
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.records import Batch, Segment
from phronesis.train.peers import Peers
from phronesis.train.sharded import fill, whole
from phronesis.train.splitting import shares, split

T = TypeVar("T")
BUCKET = 1 << 25
"""Bytes of gradients that are added up at once: long enough to use the line fully, short enough to cost little memory."""


class Replicated:
    """Every process holds all weights (ddp): one sum of all gradients per optimiser step."""

    def __init__(self, device: torch.device):
        self.rank, self.size, self._device = dist.get_rank(), dist.get_world_size(), device

    def parts(self, step: Batch, max_tokens: int) -> list[Batch]:
        """See `Peers.parts`."""
        return own_parts(step, max_tokens, self.rank, self.size)

    def copy(self, decoder: LanguageModel) -> LanguageModel:
        """See `Peers.copy`."""
        return duplicate(decoder)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """See `Peers.add_gradients`; in buckets of equal type."""
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)  # pyright: ignore[reportUnknownMemberType]
            for grad, total in zip(bucket, torch.split_with_sizes(flat, [g.numel() for g in bucket]), strict=True):
                grad.copy_(total.view_as(grad))

    def gathered(self, mine: T) -> list[T]:
        """See `Peers.gathered`."""
        return gather(mine, self._device)


class Sharded:
    """Weights, gradients and optimiser are spread over the processes (fsdp), one decoder layer whole at a time."""

    def __init__(self, device: torch.device):
        self.rank, self.size, self._device = dist.get_rank(), dist.get_world_size(), device

    def parts(self, step: Batch, max_tokens: int) -> list[Batch]:
        """See `Peers.parts`."""
        return own_parts(step, max_tokens, self.rank, self.size)

    def copy(self, decoder: LanguageModel) -> LanguageModel:
        """See `Peers.copy`."""
        return shard(duplicate(decoder), self._device)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """They were added up on the way back through the layers."""

    def gathered(self, mine: T) -> list[T]:
        """See `Peers.gathered`."""
        return gather(mine, self._device)


def own_parts(step: Batch, max_tokens: int, rank: int, size: int) -> list[Batch]:
    """The micro-batches of one process. Those with fewer than others, or nothing to do, pass through the model with an empty
    one, since weights that are spread are gathered by all at once."""
    cuts = [[] if share is None else split(share, max_tokens) for share in shares(step, size)]
    own = cuts[rank]
    return own + [_empty(step)] * (max(map(len, cuts)) - len(own))


def _empty(step: Batch) -> Batch:
    """One token that nothing is learned from."""
    token = Segment(parent=None, ids=(0,), mask=(False,), logprobs=(0.0,), advantages=(0.0,), turns=(-1,), episode=-1)
    return replace(step, segments=(token,))


def peers_of(method: str, device: torch.device) -> Peers:
    """The processes of the default group, holding a learner by `method`."""
    return Sharded(device) if method == "fsdp" else Replicated(device)


def shard(decoder: Decoder, device: torch.device) -> Decoder:
    """Spreads a decoder over the processes of the default group, in place.

    Raises:
        ConfigError: this torch cannot add gradients up without dividing them.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # a second that ddp need not wait

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*decoder.blocks, decoder):
        fully_shard(module, mesh=mesh)
        _undivided(module)
    register_fsdp_forward_method(decoder, "hidden")
    return decoder


def duplicate(decoder: LanguageModel) -> Decoder:
    """A whole copy of a decoder that may be spread."""
    if not isinstance(decoder, Decoder):
        raise ConfigError(f"a learner group needs the compact decoder, which the model is not ({decoder.note})")
    copy = Decoder(decoder.config, decoder.dtype).to(decoder.device)
    fill(copy, {name: whole(t) for name, t in decoder.state_dict().items()})
    return copy


def gather(mine: T, device: torch.device) -> list[T]:
    """What every process of the default group gives, in order; tensors in it on `device`."""
    packed = io.BytesIO()
    torch.save(mine, packed)
    found: list[bytes | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, packed.getvalue())  # pyright: ignore[reportUnknownMemberType]
    # between processes of one run, which trust one another
    return [cast("T", torch.load(io.BytesIO(one or b""), map_location=device, weights_only=False)) for one in found]


def _undivided(module: nn.Module) -> None:
    """Gradients of a spread module are added up and not divided by the number of processes."""
    spread = cast("Any", module)
    if not hasattr(spread, "set_gradient_divide_factor") or not hasattr(spread, "set_force_sum_reduction_for_comms"):
        raise ConfigError('this torch divides gradients in fsdp; install a newer one, or set learners.method = "ddp"')
    spread.set_gradient_divide_factor(1.0)
    spread.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def _buckets(grads: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one type, up to `BUCKET` bytes together; a larger one alone."""
    found: list[list[Tensor]] = []
    size = 0
    for grad in grads:
        if not found or size + grad.nbytes > BUCKET or found[-1][0].dtype != grad.dtype:
            found.append([])
            size = 0
        found[-1].append(grad)
        size += grad.nbytes
    return found
