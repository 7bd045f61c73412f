"""Three operations with hand-written backward passes: at small sizes the passes over memory cost more than the products.

Each is checked against automatic differentiation in the tests. They are differentiable once.

Shapes: N tokens, D width, H query heads, J key/value heads, E head size, M inner width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable  # pyright: ignore[reportUnknownVariableType]

_once = cast("Any", once_differentiable)


class _Context(Protocol):
    """What a backward pass keeps; torch gives its context no types."""

    saved_tensors: tuple[Tensor | None, ...]
    number: int

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def _apply(function: type[torch.autograd.Function], *inputs: object) -> object:
    return cast("Callable[..., object]", function.apply)(*inputs)  # pyright: ignore[reportUnknownMemberType]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) in the half layout.

    Args:
        x: `[..., E]`.
        cos, sin: broadcastable to x; `sin` carries the sign: minus on the first half.
    """
    return torch.addcmul(x * cos, torch.roll(x, x.shape[-1] // 2, -1), sin)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x²) + eps) over the last axis, kept as an axis of size 1, at least in fp32."""
    kind = torch.promote_types(x.dtype, torch.float32)
    size = cast("Tensor", torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=kind))  # pyright: ignore[reportUnknownMemberType]
    return size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    @_once
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = cast("tuple[Tensor, Tensor, Tensor]", ctx.saved_tensors)
        wide = inverse.dtype
        both = grad.to(wide) * x
        # d/dx of x·r(x)·w: r·g·w − x·r³·mean(g·w·x)
        pull = (both @ weight.to(wide))[:, None] * inverse.pow(3).div_(-x.shape[-1])
        out = (grad * weight).to(wide).mul_(inverse).addcmul_(x.to(wide), pull)
        return out.to(x.dtype), (inverse.t() @ both)[0].to(weight.dtype), None


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last axis (arXiv 1910.07467); statistics at least in fp32."""
    return cast("Tensor", _apply(_RmsNorm, x_ND, weight_D, eps))


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @_once
    def backward(ctx: _Context, grad: Tensor) -> Tensor:
        (gate_up,) = cast("tuple[Tensor]", ctx.saved_tensors)
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        out_gate, out_up = out.chunk(2, -1)
        torch.mul(grad, F.silu(gate), out=out_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=out_gate)  # pyright: ignore[reportUnknownMemberType]
        return out


def gated(gate_up_N2M: Tensor) -> Tensor:
    """SiLU(gate) · up for gate and up side by side (SwiGLU, arXiv 2002.05202): `[N, M]`."""
    return cast("Tensor", _apply(_GatedMlp, gate_up_N2M))


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, qkv: Tensor, scale: Tensor | None, turn: tuple[Tensor, Tensor], heads: int, eps: float
    ) -> tuple[Tensor, Tensor]:
        cos, sin = turn
        kv_heads = (qkv.shape[1] - heads) // 2
        raw = qkv[:, : heads + kv_heads]
        inverse = None if scale is None else _inverse_rms(raw, eps)
        qk = raw if scale is None or inverse is None else (raw * inverse).to(qkv.dtype).mul_(scale)
        qk = rotate(qk, cos, sin)
        ctx.save_for_backward(qkv, scale, inverse, cos, sin)
        ctx.number = heads
        return qk[:, :heads], torch.cat([qk[:, heads:], qkv[:, heads + kv_heads :]], 1)

    @staticmethod
    @_once
    def backward(ctx: _Context, grad_q: Tensor, grad_kv: Tensor) -> tuple[Tensor | None, ...]:
        qkv, scale, inverse, cos, sin = cast("tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]", ctx.saved_tensors)
        heads = ctx.number
        kv_heads = (qkv.shape[1] - heads) // 2
        turned = heads + kv_heads
        grad = torch.cat([grad_q, grad_kv], 1)  # becomes the gradient of qkv; the values' part is final already
        # the transpose of a rotation: the same rotation with the halves of the sines exchanged
        qk = rotate(grad[:, :turned], cos, torch.roll(sin, sin.shape[-1] // 2, -1))
        if scale is None or inverse is None:
            grad[:, :turned] = qk
            return grad, None, None, None, None
        wide, raw = inverse.dtype, qkv[:, :turned]
        both = qk.to(wide) * raw
        grad_scale = (both * inverse).sum(0).to(scale.dtype)
        pull = (both.mul_(scale).sum(-1, keepdim=True)) * inverse.pow(3).div_(-qkv.shape[-1])
        grad[:, :turned] = (qk.to(wide) * scale).mul_(inverse).addcmul_(raw.to(wide), pull)
        return grad, grad_scale, None, None, None


def heads(
    qkv_NPE: Tensor, scale: Tensor | None, cos_N1E: Tensor, sin_N1E: Tensor, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Splits projected heads, normalises queries and keys per head where a scale is given, and rotates them.

    Args:
        qkv_NPE: `[N, H + 2 J, E]`.
        scale: `[H + J, E]` weights of the per-head RMSNorm; None for no norm.
        cos_N1E, sin_N1E: `[N, 1, E]`, see `rotate`.
        count: H.
        eps: of the norm.

    Returns:
        Queries `[N, H, E]`, and keys followed by values `[N, 2 J, E]`.
    """
    return cast("tuple[Tensor, Tensor]", _apply(_Heads, qkv_NPE, scale, (cos_N1E, sin_N1E), count, eps))


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        ctx.save_for_backward(index, inverse)
        ctx.number = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    @_once
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = cast("tuple[Tensor, Tensor | None]", ctx.saved_tensors)
        if inverse is not None:
            return grad.index_select(0, inverse), None, None
        out = grad.new_zeros(ctx.number, *grad.shape[1:])
        return out.index_add_(0, index, grad), None, None


def gather(x: Tensor, index: Tensor, inverse: Tensor | None = None) -> Tensor:
    """Rows of x by index.

    Args:
        x: `[N, ...]`.
        index: int64 rows to take.
        inverse: `[N]` place of each row in `index`, when every row's gradient comes from that one place (other
            occurrences are padding whose result nobody uses); None when gradients must be added up.
    """
    return cast("Tensor", _apply(_Rows, x, index, inverse))
