"""Hand-written backward passes agree with finite differences and with automatic differentiation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from phronesis.models.kernels import gated, gather, heads, rms_norm, rotate


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def angles(n: int, size: int):
    a = rand(n, 1, size // 2).detach()
    return torch.cat([a.cos(), a.cos()], -1), torch.cat([-a.sin(), a.sin()], -1)


def test_rotation_by_hand():
    quarter = torch.tensor([0.0, 0.0]), torch.tensor([-1.0, 1.0])  # 90 degrees
    assert torch.equal(rotate(torch.tensor([1.0, 2.0]), *quarter), torch.tensor([-2.0, 1.0]))


def test_rms_norm():
    x, w = rand(5, 6), rand(6, seed=1)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 0.1), (x, w))
    assert torch.allclose(rms_norm(x, w, 0.1), F.rms_norm(x, (6,), w, 0.1))


def test_gated():
    x = rand(4, 6)
    assert torch.autograd.gradcheck(gated, (x,))
    assert torch.allclose(gated(x), F.silu(x[:, :3]) * x[:, 3:])


@pytest.mark.parametrize("normalised", [True, False])
def test_heads(normalised):
    x, scale = rand(3, 5, 4), rand(4, 4, seed=2) if normalised else None
    cos, sin = angles(3, 4)
    inputs = (x, scale) if normalised else (x,)
    assert torch.autograd.gradcheck(lambda x, s=None: heads(x, s, cos, sin, 3, 0.1), inputs)
    q, kv = heads(x, scale, cos, sin, 3, 0.1)
    qk = x[:, :4] if scale is None else F.rms_norm(x[:, :4], (4,), None, 0.1) * scale
    expected = rotate(qk, cos, sin)
    assert torch.allclose(q, expected[:, :3])
    assert torch.allclose(kv, torch.cat([expected[:, 3:], x[:, 4:]], 1))


def test_gather_adds_up_or_takes_the_one_place():
    x = rand(4, 2)
    index = torch.tensor([2, 0, 2, 1, 3])
    assert torch.autograd.gradcheck(lambda x: gather(x, index), (x,))
    # place 2 is padding: its result is not used
    used = gather(x, index, torch.tensor([1, 3, 0, 4])) * torch.tensor([1.0, 2.0, 0.0, 3.0, 4.0])[:, None]
    used.sum().backward()
    assert torch.equal(x.grad[:, 0], torch.tensor([2.0, 3.0, 1.0, 4.0], dtype=torch.float64))


def test_half_precision_keeps_its_type_and_is_close():
    x, w = rand(8, 16).detach(), rand(16, seed=1).detach()
    a, b = x.to(torch.bfloat16).requires_grad_(), x.clone().requires_grad_()
    rms_norm(a, w.to(torch.bfloat16), 1e-6).sum().backward()
    rms_norm(b, w, 1e-6).sum().backward()
    assert a.grad.dtype == torch.bfloat16
    assert (a.grad - b.grad).abs().max() < 0.05
