"""Exact gradients of losses that look beyond a micro-batch.

A loss is a function of the step's log-probabilities (and entropies). Where the loss of a token depends on tokens of other
micro-batches, it is evaluated once on the whole step without the model's graph; its derivative in each log-probability is the
*pull* on that token, and every micro-batch then back-propagates its own pulls. The gradient is that of the whole step at the
price of one more forward pass, however the step was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phronesis.losses import Loss, LossInputs, LossOutput, Scope, join
from phronesis.train.packed import Packed
from phronesis.train.peers import Peers


class Pull(NamedTuple):
    """Derivatives of the step's loss in what one micro-batch computes."""

    logp_K: Tensor
    """In the log-probabilities."""
    entropy_K: Tensor | None
    """In the entropies; None when they were not computed."""

    def apply(self, logp_K: Tensor, entropy_K: Tensor | None) -> None:
        """Back-propagates through a micro-batch's own graph."""
        total = (self.logp_K * logp_K).sum()
        if self.entropy_K is not None and entropy_K is not None:
            total = total + (self.entropy_K * entropy_K).sum()
        total.backward()  # pyright: ignore[reportUnknownMemberType]


class Whole(NamedTuple):
    """A loss evaluated on a whole step."""

    output: LossOutput
    """Without a graph."""
    pulls: list[Pull]
    """One per micro-batch."""


def needs_whole(scope: Scope, parts: Sequence[Packed], processes: int = 1) -> bool:
    """Whether micro-batches do not add up: a loss of the whole step, or of whole sequences one of which is cut.

    Args:
        scope: of the loss.
        parts: this process's micro-batches.
        processes: how many hold a share of the step; where one of them must say True, all of them do the same.
    """
    if scope == "token" or len(parts) * processes < 2:
        return False
    return scope == "step" or any(_cuts(part) for part in parts)


def share_whole(loss: Loss, parts: Sequence[LossInputs], peers: Peers) -> Whole:
    """Evaluates the loss once on the micro-batches of all processes; the pulls are those of this process's own.

    Args:
        loss: of any scope.
        parts: inputs of this process's micro-batches, without a graph; equally many in every process.
        peers: the processes.
    """
    shares = peers.gathered(list(parts))
    found = evaluate_whole(loss, [part for share in shares for part in share])
    first = sum(map(len, shares[: peers.rank]))
    return found._replace(pulls=found.pulls[first : first + len(parts)])


def evaluate_whole(loss: Loss, parts: Sequence[LossInputs]) -> Whole:
    """Evaluates the loss once on all micro-batches of a step.

    Args:
        loss: of any scope.
        parts: inputs of each, without a graph.
    """
    theta = [p.logp_theta_N.detach().requires_grad_() for p in parts]
    entropy = [None if p.entropy_N is None else p.entropy_N.detach().requires_grad_() for p in parts]
    leaves = [p._replace(logp_theta_N=t, entropy_N=e) for p, t, e in zip(parts, theta, entropy, strict=True)]
    output = loss(join(leaves))
    output.loss.backward()  # pyright: ignore[reportUnknownMemberType]
    pulls = [Pull(_grad(t), None if e is None else _grad(e)) for t, e in zip(theta, entropy, strict=True)]
    return Whole(output._replace(loss=output.loss.detach()), pulls)


def _grad(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _cuts(part: Packed) -> bool:
    sequence_K = part.sequence_K if part.sampled_K is None else part.sequence_K[part.sampled_K]
    here_S = torch.bincount(sequence_K, minlength=part.totals.tokens_S.shape[0])
    return bool(((here_S > 0) & (here_S < part.totals.tokens_S)).any())
