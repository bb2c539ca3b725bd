"""What of a caller's tensor can be taken, or why it cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from asynchub.errors import NotAScalarError

__all__ = ("plain_tensor",)


def plain_tensor(key: str, tensor: Any) -> Any:
    """Return a tensor of shape ``()``, without a gradient, that holds the value.

    Raises:
        NotAScalarError: it has not exactly one element, or holds no value that is here: it is sharded over processes,
            or one that only stands for others while a program is transformed or traced.
    """
    if type(tensor) is not torch.Tensor:
        tensor = _unwrapped(key, tensor)
    elif torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        advice = "it is one of a function that vmap or grad transforms: return it from there, and publish it outside"
        raise NotAScalarError(key, tensor, advice)
    if tensor.numel() != 1:
        raise NotAScalarError(key, tensor)
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.reshape(()) if tensor.dim() else tensor


def _unwrapped(key: str, tensor: Any) -> Any:
    placements = getattr(tensor, "placements", None)
    if placements is not None:  # a DTensor
        if not all(placement.is_replicate() for placement in placements):
            advice = "it is spread over processes: publish .full_tensor(), which every process has to call"
            raise NotAScalarError(key, tensor, advice)
        return tensor.to_local()
    if isinstance(tensor, FakeTensor):
        raise NotAScalarError(key, tensor, "it has no value: it stands for one while a program is traced")
    return tensor
