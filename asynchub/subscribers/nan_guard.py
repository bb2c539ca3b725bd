"""A guard against numbers that are none: it says which scalar is NaN or infinite, and asks to skip or to stop.

Deterministic: it decides at settle points, from the events alone; a recorded run gives the same decisions again.
Resume: the state holds what was seen, never the arguments: those of the constructor win.
Cost: one look at each value of the keys it watches; nothing is kept of those that are finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import ScalarUpdated
from asynchub.patterns import check_pattern
from asynchub.requests import Decided
from asynchub.subscribers.actions import Action, act, at_step, check_action, verdict_of
from asynchub.subscribers.checks import check_count, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("NanGuard",)


class NanGuard:
    """Act when a scalar is NaN or infinite more often than is tolerated.

    A value is one update, the mean ``value / count``; an update over no samples is none, and an int beyond every float
    counts as infinite. Each key is counted for itself, in a row: a finite value ends the row.

    ==================  =====================================================================================
    verdict             of a ``Decided`` that says
    ==================  =====================================================================================
    ``"tolerated"``     a value that is not finite, one of the first ``tolerate`` in a row
    ``"skip"``, …       the next ones: ``"skip"``, ``"stop"`` or ``"call"``
    ``"stop"``          the one after ``max_actions`` of these in a row, whatever the action
    ``"recovered"``     the first finite value after one that was not
    ==================  =====================================================================================

    Nothing is published for other values. Of several keys that are not finite at one step each has its ``Decided``, and
    the loop is asked once. A stop is asked for once in a life, too.

    Mixed precision: a ``GradScaler`` finds its scale by trying, so a single infinite norm of the gradients is its
    ordinary way of working, and it has skipped that step itself. Watch the norm with a ``tolerate`` of a few, and the
    loss, which is to be finite always, with a guard of its own.

    Args:
        keys: a key pattern, or several.
        action: ``"stop"`` or ``"skip"``, which are asked of the loop; or a function of the event, called in the
            training loop's thread.
        tolerate: values in a row, of one key, that are let pass.
        infinities: whether an infinity counts; otherwise only a NaN does.
        max_actions: actions in a row, of one key, after which the next asks for a stop instead, as what is NaN by then
            will not heal; None for no limit. The default is above the 16 halvings that bring the first scale of a
            ``GradScaler``, 2 ** 16, down to 1.

    Attributes:
        keys: as given, a tuple.
        streaks: of each key whose newest value is not finite, how many of its values have not been, in a row.
        counts: of each key that had such values, how many they are in all.

    Raises:
        PatternError: one of ``keys`` is not a key pattern.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    role = "control"

    def __init__(
        self,
        keys: str | Iterable[str] = "train/**",
        *,
        action: Action = "stop",
        tolerate: int = 0,
        infinities: bool = True,
        max_actions: int | None = 20,
    ) -> None:
        if not isinstance(keys, str | Iterable):
            raise ArgumentError(f"keys must be a key pattern or several, got {keys!r:.80}")
        self.keys = tuple(check_pattern(key) for key in ((keys,) if isinstance(keys, str) else keys))
        if not self.keys:
            raise ArgumentError("keys must name what to watch, got none; e.g. 'train/**'")
        check_action(action, ("skip", "stop"))
        self._action = action
        self._tolerate = check_count("tolerate", tolerate)
        if not isinstance(infinities, bool):
            raise ArgumentError(f"infinities must be True or False, got {infinities!r}")
        self._infinities = infinities
        self._max_actions = None if max_actions is None else check_count("max_actions", max_actions)
        self.streaks: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self._acted_step: int | None = None  # of the newest request to skip,
        self._acted_keys: set[str] = set()  # and the keys that it is for
        self._stop_asked = False

    async def __call__(self, events: Subscription) -> None:
        self._stop_asked = False  # once in a life: a run that goes on after a resume is to hear it again
        async for event in events:
            if not isinstance(event, ScalarUpdated):
                continue
            value = mean_of(event)
            if value is None:
                continue
            if math.isnan(value) or (self._infinities and math.isinf(value)):
                self._count(event, value, events)
            elif self.streaks and event.key in self.streaks:
                self._recovered(event, value, events)

    def _count(self, event: ScalarUpdated, value: float, events: Subscription) -> None:
        key = event.key
        streak = self.streaks[key] = self.streaks.get(key, 0) + 1
        self.counts[key] = self.counts.get(key, 0) + 1
        reason = f"{key} is {value}{at_step(event)}"
        if streak > 1:
            reason += f", {streak} in a row"
        if streak <= self._tolerate:
            reason += f"; {self._tolerate} are tolerated"
            events.publish(self._decision("tolerated", reason, event, value, events))
            return
        action = self._action
        if self._max_actions is not None and streak - self._tolerate > self._max_actions and action != "stop":
            action = "stop"
            reason += f"; {self._max_actions} action{'' if self._max_actions == 1 else 's'} did not help"
        decided = self._decision(verdict_of(action), reason, event, value, events)
        if (action == "skip" and self._is_asked(event)) or (action == "stop" and self._stop_asked):
            events.publish(decided)
            return
        self._stop_asked = self._stop_asked or action == "stop"
        act(action, event, events, decided)

    def _is_asked(self, event: ScalarUpdated) -> bool:
        """Tell whether skipping this step was asked for already, for another key; take note of this one."""
        asked = event.step == self._acted_step and event.key not in self._acted_keys and bool(self._acted_keys)
        if not asked:  # also where a key comes again at the same step: that is a new one, of a program that sets none
            self._acted_step, self._acted_keys = event.step, set()
        self._acted_keys.add(event.key)
        return asked

    def _recovered(self, event: ScalarUpdated, value: float, events: Subscription) -> None:
        del self.streaks[event.key]
        reason = f"{event.key} is {value:.6g} again{at_step(event)}"
        events.publish(self._decision("recovered", reason, event, value, events))

    def _decision(self, verdict: str, reason: str, event: ScalarUpdated, value: float, events: Subscription) -> Decided:
        return Decided(
            author=events.name,
            verdict=verdict,
            reason=reason,
            monitor=event.key,
            value=value,
            wait=self.streaks.get(event.key, 0),
            patience=self._tolerate,
            step=event.step,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen; no arguments."""
        acted = {"acted_step": self._acted_step, "acted_keys": sorted(self._acted_keys)}
        return {"streaks": dict(self.streaks), "counts": dict(self.counts), **acted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields = {"streaks": (dict,), "counts": (dict,), "acted_step": (int, type(None)), "acted_keys": (list,)}
        taken = take_state(state, fields, "NanGuard")
        for name in ("streaks", "counts"):
            if not all(type(key) is str and type(count) is int for key, count in taken[name].items()):
                raise StateDictError(
                    f"{name!r} in the state of NanGuard must map keys to ints, got {taken[name]!r:.80}"
                )
        if not all(type(key) is str for key in taken["acted_keys"]):
            raise StateDictError(f"'acted_keys' must be a list of keys, got {taken['acted_keys']!r:.80}")
        self.streaks, self.counts = dict(taken["streaks"]), dict(taken["counts"])
        self._acted_step, self._acted_keys = taken["acted_step"], set(taken["acted_keys"])
