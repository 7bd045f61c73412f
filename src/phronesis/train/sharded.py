"""Tensors that may be spread over processes: made whole, and spread again. Whole tensors pass through untouched.

The rule this module keeps: torch.distributed is not imported unless a tensor is spread, so that nobody else pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered from all processes where it is spread; then all of them must ask for it, in the same order."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else cast("Tensor", gather())


def whole_tree(tree: object) -> object:
    """A tree of dicts and lists with every tensor whole; see `whole`."""
    if isinstance(tree, Tensor):
        return whole(tree)
    if isinstance(tree, dict):
        return {key: whole_tree(value) for key, value in cast("dict[object, object]", tree).items()}
    if isinstance(tree, list):
        return [whole_tree(value) for value in cast("list[object]", tree)]
    return tree


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that every process holds, spread as `like` is; itself where `like` is whole."""
    if not hasattr(like, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    spread = cast("Any", like)
    return distribute_tensor(tensor.to(spread.device), spread.device_mesh, spread.placements, src_data_rank=None)


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts whole tensors into a model that may be spread.

    Args:
        model: whose `state_dict` names them.
        tensors: every process holds them all.

    Raises:
        KeyError: one is missing.
    """
    for name, own in cast("dict[str, Tensor]", model.state_dict()).items():
        own.copy_(placed(tensors[name].to(own.dtype), own))
