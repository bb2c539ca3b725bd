"""Changes of msgpack that leave it msgpack, also inside of extension values."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgpack

__all__ = ("changed",)

ODD: tuple[Any, ...] = (
    *(None, False, True, 0, 1, -1, 2, 127, 128, 4096, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1),
    *(0.0, -0.0, 0.5, float("nan"), float("inf"), 1e300, b"", b"\0", b"-", bytes(8), bytes(16), b"\xff" * 40),
    *("", "a", "\n", "9" * 30, "x" * 70, "<f8", "|O", "|S9", "<U2", "M8[ns]", "U", "bfloat16", "int4", "float32"),
    *("size", "dtype", "device", "cpu", "range", "slice", "posix", "sNaN", "Europe/Berlin"),
    *([], [0], {}, {"a": 1}, [[]], [1, 2]),
)
"""Values at which something may turn."""


def changed(data: bytes, generator: random.Random) -> bytes:
    """Return msgpack with one value changed, moved or left out.

    Raises:
        ValueError, TypeError: ``data`` is no msgpack, or what came of it cannot be packed.
    """
    tree = msgpack.unpackb(data, strict_map_key=False, max_array_len=10_000, max_map_len=10_000)
    with suppress(OverflowError):
        return bytes(msgpack.packb(_changed(tree, tree, generator)))
    return data


def _changed(value: Any, root: Any, generator: random.Random) -> Any:
    inside: Any = None
    if isinstance(value, list | dict) and value and generator.random() < 0.85:
        return _container(value, root, generator)
    if isinstance(value, msgpack.ExtType) and generator.random() < 0.85:
        with suppress(ValueError, TypeError):
            inside = msgpack.packb(_changed(msgpack.unpackb(value.data, strict_map_key=False), root, generator))
        return msgpack.ExtType(value.code, inside or value.data + b"\0")
    if isinstance(value, bytes) and value and generator.random() < 0.5:
        cut = generator.randrange(len(value))
        return value[:cut] + generator.randbytes(1) + value[cut + generator.randrange(2) :]
    return generator.choice(
        (
            lambda: generator.choice(ODD),
            lambda: value + generator.choice((-1, 1)) if type(value) is int else [value],
            lambda: msgpack.ExtType(generator.randrange(128), msgpack.packb([value])),
            lambda: msgpack.ExtType(generator.randrange(50), value.data if isinstance(value, msgpack.ExtType) else b""),
            lambda: _some(root, generator),
        )
    )()


def _container(value: Any, root: Any, generator: random.Random) -> Any:
    """Return a list or dict that is not empty with one of its items changed."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    at = generator.randrange(len(items))
    how = generator.random()
    if how < 0.1:
        del items[at]
    elif how < 0.2:
        items.insert(generator.randrange(len(items)), (generator.choice(ODD[:9]), items[at][1]))
    else:
        items[at] = items[at][0], _changed(items[at][1], root, generator)
    return dict(items) if isinstance(value, dict) else [item for _, item in items]


def _some(value: Any, generator: random.Random) -> Any:
    """Return some part of a tree."""
    while generator.random() < 0.8 and isinstance(value, list | dict) and value:
        value = generator.choice(list(value.values()) if isinstance(value, dict) else value)
    return value
