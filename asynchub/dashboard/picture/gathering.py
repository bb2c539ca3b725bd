"""What a picture of runs shows, taken from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from asynchub.dashboard.curves import Axis, Curve, curves
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.marks import MOST
from asynchub.dashboard.picture.decisions import Placed, chosen, in_words, placed
from asynchub.dashboard.picture.sheet import Panel, Sheet
from asynchub.dashboard.picture.signs import KEY
from asynchub.dashboard.screen import Line, Mark, RunRow, Screen
from asynchub.dashboard.smoothing import Smoothing
from asynchub.dashboard.view import RunView
from asynchub.errors import ArgumentError, AsyncHubError
from asynchub.patterns import matcher
from asynchub.subscribers.display import one_line

__all__ = ("Gathered", "Wanted", "gather", "made")

COLOURED = 10
"""Runs that have a colour."""
MOST_PANELS = 36
"""Charts at most; further keys are counted."""
FIRST = 4
"""Charts, if nobody has said which."""
DECISIONS = 6
"""Decisions that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for.

    Attributes:
        keys: patterns of the scalars; none for those of the first screen.
        start: the first step; None for that of the first value.
        stop: the last step; None for that of the last value.
        axis: what stands on the x axis.
        log: whether the y axes are logarithmic.
        window: steps to smooth over; 0 for no smoothing.
        smoothing: which mean that is.
        fit_all: cut nothing off.
    """

    keys: tuple[str, ...] = ()
    start: int | None = None
    stop: int | None = None
    axis: Axis = "step"
    log: bool = False
    window: int = 0
    smoothing: Smoothing = "mean"
    fit_all: bool = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found.

    Attributes:
        rows: the runs.
        screens: by the ids of the runs.
        keys: the scalars that are shown.
        curves: of each scalar, by the ids of the runs.
        marks: decisions, by the ids of the runs.
        problems: what could not be read, in words.
        left_out: scalars that are not shown.
    """

    rows: list[RunRow]
    screens: dict[str, Screen]
    keys: list[str]
    curves: dict[str, dict[str, Curve]]
    marks: dict[str, tuple[Mark, ...]]
    problems: list[str]
    left_out: int


def gather(views: Sequence[RunView], wanted: Wanted, buckets: int, now: float) -> Gathered:
    """Take what was asked for from runs; what cannot be read is said in ``problems``.

    Args:
        views: the runs, up to date.
        wanted: what was asked for.
        buckets: how many a curve has at least, if it has as many values.
        now: seconds since the epoch.

    Raises:
        ArgumentError: a pattern is malformed, or a number out of range.
    """
    screens = [view.screen(now) for view in views]
    keys, left_out = _keys(views, screens, wanted)
    found: dict[str, dict[str, Curve]] = {key: {} for key in keys}
    problems: list[str] = []
    marks: dict[str, tuple[Mark, ...]] = {}
    for view, screen in zip(views, screens, strict=True):
        row = screen.row
        try:
            shown = curves(
                view.pyramid,
                keys,
                wanted.start,
                wanted.stop,
                buckets,
                axis=wanted.axis,
                window=wanted.window,
                smoothing=wanted.smoothing,
            )
            marks[row.id] = view.marks(wanted.start, wanted.stop, most=MOST)
        except ArgumentError:
            raise
        except (AsyncHubError, OSError) as error:
            problems.append(one_line(f"{row.name}: {error}"))
            continue
        for key, curve in zip(keys, shown, strict=True):
            if curve.points or len(views) == 1:
                found[key][row.id] = curve
    by_id = {screen.row.id: screen for screen in screens}
    return Gathered([screen.row for screen in screens], by_id, keys, found, marks, problems, left_out)


def _keys(views: Sequence[RunView], screens: Sequence[Screen], wanted: Wanted) -> tuple[list[str], int]:
    """Return the scalars to show, and how many others were meant, too."""
    if wanted.keys:
        matches = matcher(wanted.keys)
        keys = [key for key in dict.fromkeys(key for view in views for key in view.pyramid.keys) if matches(key)]
        return keys[:MOST_PANELS], len(keys[MOST_PANELS:])
    keys = list(dict.fromkeys(chart.key for screen in screens for chart in screen.charts))[: FIRST + 2]
    if not keys:
        keys = list(dict.fromkeys(key for view in views for key in view.pyramid.keys))[:FIRST]
    return keys, 0


def made(found: Gathered, views: Sequence[RunView], wanted: Wanted, pixels: int, now: float) -> Sheet:
    """Return the page that shows what was found.

    Args:
        found: it.
        views: the runs it was found in.
        wanted: what was asked for.
        pixels: how wide the plot of a chart is.
        now: seconds since the epoch.
    """
    names = {row.id: row.name for row in found.rows}
    one = found.screens[found.rows[0].id] if len(found.rows) == 1 else None
    panels = []
    for key in found.keys:
        shown = found.curves[key]
        drawing = draw(shown, log=wanted.log, fit_all=wanted.fit_all, pixels=pixels, names=names, time=now)
        note = next((chart.note or chart.why for chart in one.charts if chart.key == key), "") if one else ""
        panels.append(Panel(key, one_line(note), shown, drawing, *_marked(found, views, wanted.axis, key)))
    notes = [f"made {_moment(now)} by asynchub {version('asynchub')}"]
    if found.left_out:
        notes.append(f"{found.left_out:,} more scalars match and are not shown")
    if any(panel.marks for panel in panels):
        notes.append(KEY if one else f"{KEY}; in the colour of the run, red of what was refused or failed")
    alerts = [Line(problem, "bad") for problem in found.problems]
    if not found.keys:
        missing = f"no scalar matches {' '.join(wanted.keys)}" if wanted.keys else "there is no scalar yet"
        alerts.append(Line(one_line(missing), "warn"))
    said = () if one is None else (*one.alerts, *one.status.lines)
    for row in found.rows:
        if row.problem and all(row.problem != line.text for line in said):
            alerts.append(Line(one_line(f"{row.name}: {row.problem}" if one is None else row.problem), "bad"))
    if one is None:
        return _of_several(found, panels, alerts, notes, wanted)
    status = one.status
    return Sheet(
        title=one.row.name,
        state=Line(status.word, status.level),
        facts=(
            ("How far it is", status.lines),
            (one.stops_head, one.stops),
            (one.speed_head, one.speed),
        ),
        alerts=(*one.alerts, *alerts),
        runs=(one.row,),
        panels=tuple(panels),
        axis=wanted.axis,
        decisions=tuple(("", mark) for mark in one.marks[:DECISIONS]),
        notes=tuple(notes),
        share=status.share,
    )


def _of_several(
    found: Gathered, panels: Sequence[Panel], alerts: Sequence[Line], notes: Sequence[str], wanted: Wanted
) -> Sheet:
    words: dict[str, int] = {}
    for row in found.rows:
        words[row.state] = words.get(row.state, 0) + 1
    state = ", ".join(f"{count:,} {word}" for word, count in words.items())
    decided = [(row.name, mark) for row in found.rows for mark in found.screens[row.id].marks]
    decided.sort(key=lambda one: one[1].time, reverse=True)
    return Sheet(
        title=f"{len(found.rows):,} runs",
        state=Line(state),
        alerts=tuple(alerts),
        runs=tuple(found.rows),
        coloured=COLOURED,
        panels=tuple(panels),
        axis=wanted.axis,
        decisions=tuple(decided[:DECISIONS]),
        notes=tuple(notes),
    )


def _marked(found: Gathered, views: Sequence[RunView], axis: Axis, key: str) -> tuple[tuple[Placed, ...], str]:
    """Return the decisions that are marked on a chart, and how many they are, in words."""
    every = [
        placed(found.marks.get(row.id, ()), view, row.id, axis, key)
        for row, view in zip(found.rows, views, strict=True)
    ]
    coloured = {row.id: some for row, some in zip(found.rows[:COLOURED], every[:COLOURED], strict=True)}
    marked = chosen(coloured)
    grey = sum(map(len, every[COLOURED:]))
    more = any(len(some) >= MOST for some in found.marks.values())
    return marked, in_words(len(marked), sum(map(len, every)), grey, more)


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time).astimezone().isoformat(" ", "seconds")
