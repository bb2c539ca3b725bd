"""What a run was asked to do, as trackers show it: a runtime info with its settings, as plain data or as text.

Bounded: neither grows beyond a limit, whatever the object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.subscribers.checks import check_key

__all__ = ("CONFIG_KEYS", "check_config_keys", "config_text", "plain")

CONFIG_KEYS = ("cfg", "config", "hparams")
"""Runtime infos that hold the settings of a run; mmengine's is ``cfg``."""
TEXT_LIMIT = 65_536
ITEM_LIMIT = 10_000
DEPTH_LIMIT = 20


def check_config_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return ``keys`` as a tuple.

    Raises:
        ArgumentError: they are a single str, or one is a pattern of several.
        PatternError: one is not a key.
    """
    if isinstance(keys, str):
        raise ArgumentError(f"config must be several keys, got the str {keys!r}; write ({keys!r},)")
    return tuple(check_key("a key in config", key) for key in keys)


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: at most 10,000 parts, 20 levels deep.

    Keys become text, non-finite numbers the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, arrays lists, and
    other objects their ``repr``.
    """
    left = [ITEM_LIMIT]

    def taken(one: Any, depth: int) -> Any:
        left[0] -= 1
        if one is None or type(one) in (bool, int):
            return one
        if isinstance(one, str):
            return _shortened(str(one))
        if isinstance(one, float):
            return float(one) if math.isfinite(one) else _name_of(one)
        if left[0] <= 0 or depth >= DEPTH_LIMIT:
            return "..."
        if isinstance(one, Mapping):
            return {_shortened(str(key)): taken(item, depth + 1) for key, item in _first(list(one.items()), left)}
        if isinstance(one, (list, tuple, set, frozenset)):
            return [taken(item, depth + 1) for item in _first(list(one), left)]
        if callable(getattr(one, "tolist", None)):  # arrays, tensors and NumPy scalars
            size = getattr(one, "size", 1)
            count = size() if callable(size) else size
            small = math.prod(count) if isinstance(count, tuple) else count
            return taken(one.tolist(), depth + 1) if isinstance(small, int) and small <= left[0] else _shown(one)
        return _shown(one)

    return taken(value, 0)


def config_text(value: Any) -> str:
    """Return ``value`` as text of at most 65,536 characters: a str as it is, anything else as indented JSON."""
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False, indent=2)
    return _shortened(text)


def _first(items: list[Any], left: list[int]) -> list[Any]:
    return items[: max(left[0], 0)]


def _name_of(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _shown(value: object) -> str:
    try:
        return _shortened(repr(value))
    except Exception as error:  # whatever an object of the program's own does, the logger goes on
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _shortened(text: str) -> str:
    """Return ``text`` as UTF-8 can hold it, and not too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= TEXT_LIMIT:
        return text
    left_out = f"\n... {len(text)} characters in all"
    return text[: TEXT_LIMIT - len(left_out)] + left_out
