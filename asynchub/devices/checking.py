"""What of a caller's tensor can be taken, or why it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._C import _functorch
from torch._subclasses.fake_tensor import FakeTensor

from asynchub.errors import NotAScalarError

__all__ = ("plain_tensor", "plain_tensors")

_Tensor = torch.Tensor
_transform = _functorch.peek_interpreter_stack
"""Returns None outside of what vmap and its like transform."""


def plain_tensor(key: str, tensor: Any) -> Any:
    """Return a tensor of shape ``()``, without a gradient, that holds the value.

    Args:
        key: what it is for; named in errors.
        tensor: it.

    Raises:
        NotAScalarError: it has not exactly one element, or holds no value that is here: it is sharded over processes,
            or one that only stands for others while a program is transformed or traced.
    """
    if type(tensor) is not _Tensor or _transform() is not None:
        tensor = _unwrapped(key, tensor)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dim():
        if tensor.numel() != 1:
            raise NotAScalarError(key, tensor)
        tensor = tensor.reshape(())
    return tensor


def plain_tensors(keys: Sequence[str], tensors: Sequence[Any]) -> list[Any]:
    """Do the same for several; raise what is wrong with the first that is not right."""
    return list(map(plain_tensor, keys, tensors))


def _unwrapped(key: str, tensor: Any) -> Any:
    placements = getattr(tensor, "placements", None)
    if placements is not None:  # a DTensor
        if not all(placement.is_replicate() for placement in placements):
            advice = "it is spread over processes: publish .full_tensor(), which every process has to call"
            raise NotAScalarError(key, tensor, advice)
        return tensor.to_local()
    if isinstance(tensor, FakeTensor):
        raise NotAScalarError(key, tensor, "it has no value: it stands for one while a program is traced")
    if isinstance(tensor, _Tensor):
        if _functorch.is_functorch_wrapped_tensor(tensor):
            advice = (
                "it is one of a function that vmap or grad transforms: return it from there, and publish it outside"
            )
            raise NotAScalarError(key, tensor, advice)
    elif not all(hasattr(tensor, name) for name in ("dim", "dtype", "numel", "requires_grad")):
        raise NotAScalarError(key, tensor)  # a module, say, that is on a device
    return tensor
