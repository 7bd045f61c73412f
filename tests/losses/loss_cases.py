"""Inputs for tests of losses."""

import torch
from hypothesis import strategies as st
from torch import tensor

from phronesis.losses import LossInputs, totals_of


def f64(values):
    return tensor(values, dtype=torch.float64)


def inputs(theta, *, old=None, infer=None, advantages=None, sequence=None, turn=None, mask=None, **streams):
    """A whole step in float64; streams that are not given are 0, tokens belong to one sequence unless told otherwise."""
    theta = theta if isinstance(theta, torch.Tensor) else f64(theta)
    n = theta.shape[0]
    sequence = tensor([0] * n if sequence is None else sequence, dtype=torch.int64)
    turn = tensor([0] * n if turn is None else turn, dtype=torch.int64)
    mask = None if mask is None else tensor(mask)

    def stream(values):
        return torch.zeros(n, dtype=torch.float64) if values is None else f64(values)

    count = int(sequence.max()) + 1 if n else 0
    totals = totals_of(sequence, count, mask, turn)
    return LossInputs(theta, stream(old), stream(infer), stream(advantages), sequence, turn, totals, mask_N=mask, **streams)


numbers = st.floats(-3, 3, width=32)


@st.composite
def steps(draw, *, on_policy=False):
    """Tokens of 1 to 4 sequences, some without any, each of up to 3 turns, with entropies and a reference."""
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any))
    n = sum(lengths)
    columns = [draw(st.lists(numbers, min_size=n, max_size=n)) for _ in range(5)]
    theta, old, infer, advantages, ref = (f64(c) for c in columns)
    if on_policy:
        old = infer = theta.clone()
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), tensor(lengths))
    turn = tensor([min(i // 2, 2) for k in lengths for i in range(k)], dtype=torch.int64)
    totals = totals_of(sequence, len(lengths), None, turn)
    entropy = f64(draw(st.lists(st.floats(0, 2, width=32), min_size=n, max_size=n)))
    return LossInputs(theta, old, infer, advantages, sequence, turn, totals, entropy_N=entropy, logp_ref_N=ref, trace_N=turn)


def rows(batch, index):
    """Some tokens of a step, denominators kept."""
    return batch._replace(
        logp_theta_N=batch.logp_theta_N[index],
        logp_old_N=batch.logp_old_N[index],
        logp_infer_N=batch.logp_infer_N[index],
        advantages_N=batch.advantages_N[index],
        sequence_N=batch.sequence_N[index],
        turn_N=batch.turn_N[index],
        entropy_N=batch.entropy_N[index],
        logp_ref_N=batch.logp_ref_N[index],
        trace_N=batch.trace_N[index],
    )


def padded(batch, junk, count=3):
    """The step with masked tokens appended whose numbers are all `junk`."""
    n = batch.logp_theta_N.numel()
    pad = torch.full((count,), junk, dtype=torch.float64)
    where = torch.zeros(count, dtype=torch.int64)
    floats = ("logp_theta_N", "logp_old_N", "logp_infer_N", "advantages_N", "entropy_N", "logp_ref_N")
    new = {name: torch.cat([getattr(batch, name), pad]) for name in floats}
    new |= {name: torch.cat([getattr(batch, name), where]) for name in ("sequence_N", "turn_N", "trace_N")}
    return batch._replace(**new, mask_N=tensor([True] * n + [False] * count))


def gradient(config, batch):
    """Loss, and its gradient in theta."""
    theta = batch.logp_theta_N.clone().requires_grad_()
    loss = config.build()(batch._replace(logp_theta_N=theta)).loss
    return loss.detach(), torch.autograd.grad(loss, theta)[0]
