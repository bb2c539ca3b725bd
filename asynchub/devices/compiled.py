"""Publishing from inside of one whole compiled graph: ``torch.compile(..., fullgraph=True)``.

A plain call to a hub ends a graph (``asynchub.compiling``), which ``fullgraph=True`` does not allow. ``graph_probe``
gives an operator of torch instead, that a graph may hold. It is registered as one with an effect, in order: a compiler
neither drops it, though nobody uses what it returns, nor moves it past another one. It is no part of a CUDA graph,
which would run it once: the mode ``reduce-overhead`` splits its graph there.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch

from asynchub.errors import ArgumentError
from asynchub.scalars import checked_key, sample_count

try:
    from torch._library.effects import EffectType
except ImportError as error:
    raise ImportError(
        f"graph_probe needs a torch whose operators can have effects, this is {torch.__version__}: a newer one, or "
        "compile without fullgraph=True and call the hub"
    ) from error

__all__ = ("graph_probe",)

_hubs: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count(1)


@torch.library.custom_op("asynchub::publish", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _publish(hub: int, key: str, count: int, value: torch.Tensor) -> None:
    target = _hubs.get(hub)
    if target is not None:
        target.update_scalar(key, value, count)


@_publish.register_fake
def _(hub: int, key: str, count: int, value: torch.Tensor) -> None:
    return None


_publish.register_effect(EffectType.ORDERED)


def graph_probe(hub: Any, key: str, count: int = 1) -> Callable[[torch.Tensor], None]:
    """Return a function of one tensor that publishes it as ``key``, and that a compiled graph may hold.

    Make it outside of what is compiled. The hub is not kept alive: once it is gone, nothing is published.

    Args:
        hub: a ``MessageHub``.
        key: name of the scalar.
        count: how many samples each value is the sum over.

    Raises:
        ArgumentError: ``hub`` is not a hub.
        KeyTypeError: ``key`` is not a string.
        CountTypeError: ``count`` is not an int.
    """
    if not callable(getattr(hub, "update_scalar", None)):
        raise ArgumentError(f"graph_probe takes a hub, got {type(hub).__name__}")
    number = next((number for number, one in _hubs.items() if one is hub), 0) or next(_numbers)
    _hubs[number] = hub
    return functools.partial(torch.ops.asynchub.publish.default, number, checked_key(key), sample_count(key, count))
