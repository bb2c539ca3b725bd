"""What a tracker gets, as rows: all that came of one step, together.

Replay: only facts in the items count, so the same items give the same rows again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from asynchub.errors import StateDictError
from asynchub.events import Event
from asynchub.subscribers.aggregation import Point
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.display import described

__all__ = ("DECISIONS_KEY", "Row", "as_float", "check_counts", "rows_of", "said", "sound", "step_of")

DECISIONS_KEY = "hub/decisions"
"""What decisions are called in a tracker."""


class Row(NamedTuple):
    """What came of one step, one after the other, each key once.

    Attributes:
        step: of all of it.
        time: of the newest, in seconds since the epoch.
        seq: of the newest.
        values: means per sample, by key; a decision in words.
    """

    step: int
    time: float
    seq: int
    values: dict[str, float | str]


def rows_of(items: Sequence[Item], counts: Counter[str]) -> list[Row]:
    """Return ``items`` as rows; what is neither a point nor a decision is left out.

    Args:
        items: in their order.
        counts: how many of each key there were before; it is the step of what has none.
    """
    rows: list[Row] = []
    for item in items:
        value: float | str | None
        if isinstance(item, Point):
            key, value = item.key, as_float(item.value)
        else:
            key, value = DECISIONS_KEY, said(item)
        if value is None:
            continue
        step = step_of(item, key, counts)
        if not rows or rows[-1].step != step or key in rows[-1].values:
            rows.append(Row(step, item.time, item.seq, {}))
        rows[-1].values[key] = value
        rows[-1] = rows[-1]._replace(time=item.time, seq=item.seq)
    return rows


def step_of(item: Item, key: str, counts: Counter[str]) -> int:
    """Return the step of ``item``, and count it as one more of ``key``; without a step, how many there were."""
    before = counts[key]
    counts[key] = before + 1
    return before if item.step is None else item.step


def check_counts(counts: Mapping[Any, Any]) -> dict[str, int]:
    """Return a copy of ``counts``, of keys and how many of each there were.

    Raises:
        StateDictError: it is something else.
    """
    if not all(isinstance(key, str) and type(count) is int for key, count in counts.items()):
        raise StateDictError(f"wanted how many of each key there were, got {counts!r:.200}")
    return dict(counts)


def said(event: Event) -> str | None:
    """Return a decision or a failure in words, on one line; None for what is neither."""
    try:
        return described(event)
    except Exception as error:  # a value that cannot be shown must not end the log
        return f"{type(event).__name__} that cannot be shown: {type(error).__name__}"


def as_float(value: float) -> float:
    """Return an int as the float next to it, beyond all of them as an infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def sound(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 lacks: their escapes stand for them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
