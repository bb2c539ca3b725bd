"""What another rule would have done to a run, in figures and in words, as every view shows it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from asynchub.dashboard.screen import Mark
from asynchub.requests import ParameterChanged
from asynchub.subscribers.display import format_duration, format_number, one_line
from asynchub.what_if import Outcome

__all__ = ("HEADS", "LABEL", "OverlayAnswer", "OverlayRow", "overlay_row")

LABEL = "replay, not a forecast"
MOST_MARKS = 100
"""Marks of a run and rule, at most."""


@dataclass(frozen=True, slots=True)
class OverlayRow:
    """What a rule would have done to a run.

    Attributes:
        run: the run, by the id that it was given.
        rule: the rule, as text.
        state: ``"stops"``; ``"goes on"``: it would not have stopped it; ``"failed"``: see ``error``.
        judge: key of the scalar that it is judged by; "" for none.
        stop: the step at which it would have stopped; None if it would not.
        why: it would have stopped, in words.
        best: the best value up to there; None if there is none.
        best_step: the step of that.
        best_of_run: the best value of the whole run.
        worse_by: how much worse ``best`` is than that, 0 or above.
        steps_saved: steps of the run after the stop.
        share_saved: the same as a share of all steps, 0 to 1.
        seconds_saved: time of the run after the stop.
        cells: stop, best, loss and saving in words, to stand below ``HEADS``.
        text: all that in a line.
        error: why there is nothing to say; "" if there is.
        marks: what it would have decided, to be drawn.
    """

    run: str
    rule: str
    state: Literal["stops", "goes on", "failed"]
    judge: str = ""
    stop: int | None = None
    why: str = ""
    best: float | None = None
    best_step: int | None = None
    best_of_run: float | None = None
    worse_by: float | None = None
    steps_saved: int = 0
    share_saved: float = 0.0
    seconds_saved: float = 0.0
    cells: tuple[str, ...] = ()
    text: str = ""
    error: str = ""
    marks: tuple[Mark, ...] = ()


HEADS = ("stops at step", "best kept", "worse by", "steps saved", "time saved")


@dataclass(frozen=True, slots=True)
class OverlayAnswer:
    """What is known by now of what rules would have done.

    Attributes:
        rows: run by run, in the order of the rules; those that are ready.
        waiting: how many runs are not yet replayed; ask again.
        heads: what stands above ``OverlayRow.cells``.
        label: what it is, to be shown with it.
        error: why nothing was tried, in words; "" if something was.
    """

    rows: tuple[OverlayRow, ...]
    waiting: int = 0
    heads: tuple[str, ...] = HEADS
    label: str = LABEL
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of what JSON has."""
        return asdict(self)


def overlay_row(name: str, one: Outcome) -> OverlayRow:
    """Return what a rule would have done to a run, by its id."""
    rule = str(one.rule)
    if one.error is not None:
        problem = one_line(f"the rule failed: {one.error!r}")
        return OverlayRow(name, rule, "failed", one.judge, text=problem, error=problem)
    stop, lost = one.stop, one.worse_by if one.worse_by != math.inf else None
    cells = (
        "never" if stop is None else "?" if stop.step is None else f"{stop.step:,}",
        "-" if one.best is None else format_number(one.best),
        "-" if lost is None else format_number(lost),
        f"{one.steps_saved:,} ({100 * one.share_saved:.0f} %)",
        format_duration(one.seconds_saved),
    )
    kept = "" if one.best is None else f", keeps {one.judge} {cells[1]}"
    kept += "" if one.best is None or one.best_step is None else f" of step {one.best_step:,}"
    kept += f" (the run had {format_number(one.best_of_run)})" if lost and one.best_of_run is not None else ""
    text = f"would stop at step {cells[0]}{kept}, saves {cells[3]} steps, {cells[4]}"
    changes = len(one.answers.changes)
    if stop is None:
        text = f"would not stop{f', would change a parameter {changes:,} times' if changes else ''}"
    return OverlayRow(
        *(name, rule, "goes on" if stop is None else "stops", one.judge),
        stop=None if stop is None else stop.step,
        why="" if stop is None else one_line(stop.reason),
        best=one.best,
        best_step=one.best_step,
        best_of_run=one.best_of_run,
        worse_by=lost,
        steps_saved=one.steps_saved,
        share_saved=one.share_saved,
        seconds_saved=one.seconds_saved,
        cells=cells,
        text=one_line(text),
        marks=_marks(one),
    )


def _marks(one: Outcome) -> tuple[Mark, ...]:
    inputs = {"rule": one_line(str(one.rule)), "label": LABEL}
    marks = []
    for change in one.answers.changes[: MOST_MARKS - 1]:
        was = f"{format_number(change.old)} -> " if isinstance(change, ParameterChanged) else ""
        value = change.new if isinstance(change, ParameterChanged) else change.value
        now = format_number(value) if isinstance(value, int | float) else str(value)
        what, short = one_line(f"would set {change.name} {was}{now}"), one_line(f"{change.name} {now}?")
        marks.append(
            Mark(change.seq, change.step, change.time, one.rule.name, what, "", "suggested", one.judge, short, inputs)
        )
    if (stop := one.stop) is not None:
        why = one_line(stop.reason)
        marks.append(
            Mark(
                *(stop.seq, stop.step, stop.time, one.rule.name, "would stop", why),
                *("suggested", one.judge, "would stop", inputs),
            )
        )
    return tuple(marks)
