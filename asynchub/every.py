"""How often a reader wants an event: ``every=10``, ``"100ba"``, ``"1ep"``, ``"30s"``.

Each key has a rate of its own, and is let through when it crosses a boundary, however far it jumps:

    ``10``       each tenth event of the key
    ``"100ba"``  the first event at or after each 100th optimizer step (``Event.step``)
    ``"1ep"``    the first event after each epoch boundary, as the runtime info ``epoch`` counts them
    ``"30s"``    the first event in each 30 s (``Event.time``), counted from the key's first

Only facts in the events count, so a replay lets the same ones through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from asynchub.errors import ScheduleError
from asynchub.events import Event, InfoUpdated, ScalarUpdated

__all__ = ("EPOCH_KEY", "Every")

EPOCH_KEY = "epoch"
"""The runtime info that counts epochs."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)(ba|ep|s)")


class Every:
    """Let through some events of each key.

    Args:
        every: as the module says.

    Attributes:
        every: the same.
        unit: ``""`` (events), ``"ba"``, ``"ep"`` or ``"s"``.

    Raises:
        ScheduleError: ``every`` is not of that form, or not above 0.
    """

    def __init__(self, every: int | str) -> None:
        self.unit, self._n = _parsed(every)
        self.every = every
        self._last: dict[str, float] = {}
        self._begun = 0.0
        self._epoch = 0
        self._position: Callable[[Event], float] = {
            "": self._counted,
            "ba": _step,
            "ep": self._current_epoch,
            "s": _time,
        }[self.unit]

    def begin(self, step: int, epoch: object) -> None:
        """Count what lies before this step and epoch as past, for keys that were not seen yet."""
        self._epoch = _whole(epoch, 0)
        self._begun = {"ba": step, "ep": self._epoch}.get(self.unit, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return where it is, as builtins."""
        return {"begun": self._begun, "epoch": self._epoch, "last": dict(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another one was."""
        self._begun, self._epoch, self._last = state["begun"], state["epoch"], dict(state["last"])

    def __call__(self, event: Event) -> bool:
        """Tell whether ``event`` is let through; ask once for each, in order. What is not of a key's data always is."""
        if not isinstance(event, ScalarUpdated | InfoUpdated):
            return True
        if self.unit == "ep" and event.key == EPOCH_KEY:
            self._epoch = _whole(cast("InfoUpdated", event).value, self._epoch)
        position = self._position(event)
        last = self._last.get(event.key)
        if self.unit == "s":
            if last is None or position - last >= self._n:
                self._last[event.key] = position if last is None else last + (position - last) // self._n * self._n
                return True
            return False
        if last is None:
            last = self._begun
        self._last[event.key] = position
        return position // self._n > last // self._n

    def _counted(self, event: Event) -> float:
        return self._last.get(event.key, 0) + 1

    def _current_epoch(self, event: Event) -> float:
        return self._epoch


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _step(event: Event) -> float:
    return event.step or 0


def _time(event: Event) -> float:
    return event.time


def _parsed(every: int | str) -> tuple[str, float]:
    if isinstance(every, int) and not isinstance(every, bool) and every > 0:
        return "", every
    if isinstance(every, str) and (match := _RATE.fullmatch(every)):
        number, unit = match.groups()
        if float(number) > 0 and (unit == "s" or "." not in number):
            return unit, float(number) if unit == "s" else int(number)
    raise ScheduleError(every)
