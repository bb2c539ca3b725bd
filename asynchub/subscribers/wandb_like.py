"""A run in any tracker that takes a dict of values for a step: SwanLab, a ``wandb`` fork, a function of one's own.

    WandbLike(swanlab)                                          it has log(values, step=...)
    WandbLike(lambda values, step: print(step, values))

Rows: all that came of one step is one call. Where an update has no step, the number of updates of its key before it is.
Rewound: nothing is taken back. A run that is resumed hands over what comes from there on; what it had abandoned, also
    where that counts again by now, is for the tracker to tell apart.
Twice: what a call raised for is handed over again, so a tracker that had taken it has it twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.events import Event, ScalarUpdated
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.checks import take_state
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.subscribers.display import DECISIONS
from asynchub.subscribers.rows import check_counts, rows_of

__all__ = ("WandbLike",)


class WandbLike(TrackerLogger):
    """Hand each step of a run to ``run.log(values, step=step)``.

    Args:
        run: an object or a module with such a ``log``, or a function that is called ``run(values, step)``; in a thread
            of the logger's own, one call at a time.
        step_metric: hand the step over as a value of this key, not as an argument: for a ``log`` that takes none, or
            drops what has an earlier step than the last.
        decisions: whether decisions and failures are handed over, in words, as the value ``hub/decisions``.
        finish: called at the end of each life of the hub; None: nothing is.
        options: those of ``TrackerLogger``: ``every``, ``aggregate``, ``interval``, ``batch``, …

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    def __init__(
        self,
        run: Any,
        *,
        step_metric: str | None = None,
        decisions: bool = False,
        finish: Callable[[], object] | None = None,
        **options: Any,
    ) -> None:
        log = getattr(run, "log", None)
        self._log: Callable[..., object] = log if callable(log) else run
        if not callable(self._log):
            raise ArgumentError(
                f"run must have a log(values, step=...), or be called run(values, step), got {run!r:.80}"
            )
        if step_metric is not None and (not isinstance(step_metric, str) or not step_metric):
            raise ArgumentError(f"step_metric must be None or a key such as 'step', got {step_metric!r:.80}")
        if not isinstance(decisions, bool):
            raise ArgumentError(f"decisions must be True or False, got {decisions!r:.80}")
        if finish is not None and not callable(finish):
            raise ArgumentError(f"finish must be None or a function, got {finish!r:.80}")
        self.keys: tuple[str | type[Event], ...] = (ScalarUpdated, *(DECISIONS if decisions else ()))
        super().__init__(**options)
        self._named = callable(log)
        self._step_metric = step_metric
        self._at_end = finish
        self._counts: Mapping[str, int] = {}

    def write(self, items: Sequence[Item]) -> None:
        """Hand over ``items``, a call for each step."""
        counts = Counter(self._counts)
        for row in rows_of(items, counts):
            if self._step_metric is not None:
                self._log({**row.values, self._step_metric: row.step})
            elif self._named:
                self._log(row.values, step=row.step)
            else:
                self._log(row.values, row.step)
        self._counts = counts

    def close(self) -> None:
        """Call what was given as ``finish``."""
        if self._at_end is not None:
            self._at_end()

    def tracker_state(self) -> dict[str, Any]:
        """Return how many updates of each key there were."""
        return {"counts": dict(self._counts)}

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:
        """Go on counting where ``state`` was saved."""
        self._counts = check_counts(take_state(state, {"counts": (dict,)}, "WandbLike")["counts"])
