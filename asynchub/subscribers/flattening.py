"""A nested configuration as names and texts, for trackers that know nothing else.

Bounded: neither grows beyond a limit, whatever the object.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Iterator, Mapping
from itertools import islice
from types import SimpleNamespace
from typing import Any

from asynchub.subscribers.rows import sound

__all__ = ("flattened",)

DEPTH_LIMIT = 20
"""Levels that are looked into; what lies deeper is shown as it is."""
ITEM_LIMIT = 10_000


def flattened(value: object) -> dict[str, str]:
    """Return what ``value`` holds: nested keys joined by dots, and each value as text; the first 10,000 of them.

    Mappings, dataclasses, namespaces, and objects with a ``to_dict`` are looked into, and sequences that hold such. An
    empty one stands as text, and so does a value that is none of these, under ``"value"``.
    """
    leaves = islice(_leaves(value, ()), ITEM_LIMIT)
    return {sound(".".join(path)) or "value": _shown(one) for path, one in leaves}


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    inner = _items(value) if len(path) < DEPTH_LIMIT else {}
    if not inner:
        yield path, value
    for key, one in list(inner.items()):
        yield from _leaves(one, (*path, str(key)))


def _items(value: object) -> Mapping[Any, Any]:
    """Return what ``value`` has, and under which names; nothing if it is to be shown as it is."""
    if isinstance(value, list | tuple) and any(_named(one) for one in value):
        return dict(enumerate(value))
    return _named(value)


def _named(value: object) -> Mapping[Any, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return {}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, Namespace | SimpleNamespace):
        return vars(value)
    to_dict = getattr(value, "to_dict", None)
    try:
        found = to_dict() if callable(to_dict) else None
    except Exception:  # it wants arguments, say: then it is shown as it is
        return {}
    return found if isinstance(found, Mapping) else {}


def _shown(value: object) -> str:
    try:
        return sound(str(value))
    except Exception as error:  # whatever an object of the program's own does, the logger goes on
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
