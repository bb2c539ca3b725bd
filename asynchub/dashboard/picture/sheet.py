"""What a picture of runs shows, before anything has a place on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asynchub.dashboard.curves import Axis, Curve
from asynchub.dashboard.drawing import Drawing
from asynchub.dashboard.picture.decisions import Placed
from asynchub.dashboard.screen import Line, Mark, RunRow

__all__ = ("Panel", "Sheet")


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart.

    Attributes:
        key: of the scalar that it shows.
        note: to stand beside the key.
        curves: by the id of their run, the most important first.
        drawing: how these are drawn.
        marks: decisions that are marked on it.
        said: how many of them there are, in words; "" if all are marked.
    """

    key: str
    note: str
    curves: Mapping[str, Curve]
    drawing: Drawing
    marks: tuple[Placed, ...] = ()
    said: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page.

    Attributes:
        title: its heading.
        state: of the run, in words; what there is to say of several.
        facts: columns of text, each with a heading.
        alerts: what is wrong.
        runs: whose curves are shown; those after the first ``coloured`` are grey.
        coloured: how many runs have a colour.
        panels: the charts.
        axis: what their x is.
        decisions: the newest ones, to be listed, the newest first, each with the name of its run; "" of the only one.
        notes: what else there is to say, at the end.
        share: how much of the run is done, 0 to 1; None if that is not known.
    """

    title: str
    state: Line
    facts: tuple[tuple[str, tuple[Line, ...]], ...] = ()
    alerts: tuple[Line, ...] = ()
    runs: tuple[RunRow, ...] = ()
    coloured: int = 10
    panels: tuple[Panel, ...] = ()
    axis: Axis = "step"
    decisions: tuple[tuple[str, Mark], ...] = ()
    notes: tuple[str, ...] = ()
    share: float | None = None
