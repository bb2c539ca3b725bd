"""Events as lines for people, in columns: time, step, key, value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from datetime import datetime

from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.subscribers.display import described, format_quantity, mean_per_sample, one_line

__all__ = ("EventLines", "format_time", "format_value")

LONGEST_KEY = 40
"""Characters up to which the column of keys grows."""
LONGEST_VALUE = 120
"""Characters of a value that are shown."""


class EventLines:
    """Makes lines, whose column of keys is as wide as the longest key so far.

    Args:
        events: those to come, as far as they are known.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._width = max((min(len(event.key), LONGEST_KEY) for event in events), default=0)

    def line(self, event: Event) -> str:
        """Return an event as a line, without an end."""
        self._width = max(self._width, min(len(event.key), LONGEST_KEY))
        step = "" if event.step is None else str(event.step)
        return f"{format_time(event.time)}  {step:>8}  {one_line(event.key):<{self._width}}  {format_value(event)}"


def format_time(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as local date and time of day, to the millisecond."""
    if not math.isfinite(seconds):
        return "-".ljust(23)
    return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")


def format_value(event: Event) -> str:
    """Return what an event says beside its time, step and key; of a scalar, the mean of its samples."""
    if isinstance(event, ScalarUpdated):
        samples = "" if event.count in (0, 1) else f"  ({event.count} samples)"
        return format_quantity(event.key, mean_per_sample(event)) + samples
    if isinstance(event, InfoUpdated):
        return _shown(event.value)
    if (text := described(event)) is not None:
        return text
    fields = (field.name for field in dataclasses.fields(event) if field.name not in ("seq", "time", "step", "key"))
    return " ".join([type(event).__name__, *(f"{name}={_shown(getattr(event, name))}" for name in fields)])


def _shown(value: object) -> str:
    text = one_line(repr(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
