"""Charts as they are sent: of each run its own curve, or one of each group of runs.

Shared: what several viewers look at is made once, and of what has not changed nothing is made again.
Damaged: of a run that cannot be read, the others are shown all the same; its own curves are empty, and say why.
Threads: one, the server's ``Worker``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.groups import groups_in_words
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.web.grouping import Grouping, grouped_series
from asynchub.dashboard.web.looked_at import Runs
from asynchub.dashboard.web.recent import Recent
from asynchub.dashboard.web.wanted import CurvesWanted
from asynchub.dashboard.web.wire import ChartNow, SeriesNow, chart_now, empty_series, series_now
from asynchub.errors import AsyncHubError
from asynchub.subscribers.display import one_line

__all__ = ("Charts",)

MOST_BYTES = 128 * 2**20
"""Of curves that are kept, and of charts, about; many of the latter are in the former."""
BYTES_OF_ROW = 130
BYTES_OF_PART = 2000


class _Part(NamedTuple):
    """A curve of a run.

    Attributes:
        curve: it; None if it cannot be read.
        series: it, as it is sent.
        stamp: is another one if there is something new about it.
    """

    curve: Curve | None
    series: SeriesNow
    stamp: tuple[Any, ...]


_Parts = dict[str, _Part]


class Charts:
    """Makes charts.

    Args:
        runs: whose curves they show.
        grouping: which of these belong together.
    """

    def __init__(self, runs: Runs, grouping: Grouping) -> None:
        self._runs = runs
        self._grouping = grouping
        self._curves = Recent(MOST_BYTES)
        self._charts = Recent(MOST_BYTES)

    def charts(self, wanted: CurvesWanted) -> tuple[ChartNow, ...]:
        """Return charts, a key each; the same objects as before where nothing has changed."""
        each = [self._of_run(run, wanted) for run in wanted.runs]
        return tuple(
            self._chart(key, wanted, {run: part[key] for run, part in zip(wanted.runs, each, strict=True)})
            for key in wanted.keys
        )

    def _of_run(self, run: str, wanted: CurvesWanted) -> _Parts:
        """Return the curves of a run, and how they are sent, by key."""
        query = (run, replace(wanted, runs=(), log=False, fit_all=False, pixels=None, group=""))
        try:
            pyramid = self._runs.pyramid(run)
        except LookupError as error:
            return self._nothing(run, wanted, str(error.args[0]))
        version = (pyramid, pyramid.seq)
        if (kept := self._curves.get(query, version)) is not None:
            return kept  # type: ignore[no-any-return]  # it is what is put there below
        before: _Parts = self._curves.last(query) or {}
        stamps = {key: _stamp(pyramid, key, wanted.axis) for key in wanted.keys}
        changed = [key for key in wanted.keys if key not in before or before[key].stamp != stamps[key]]
        try:
            found = _curves(pyramid, changed, wanted) if changed else []
        except (AsyncHubError, OSError) as error:
            return self._nothing(run, wanted, str(error))
        seq = version[1]
        parts = {key: _read_until(before[key], seq) for key in wanted.keys if key not in changed}
        for curve in found:
            series = _same(before.get(curve.key), series_now(run, curve))
            parts[curve.key] = _Part(curve, series, stamps[curve.key])
        size = sum(part.series.rows for part in parts.values()) * BYTES_OF_ROW
        self._curves.put(query, version, parts, size + BYTES_OF_PART * len(parts))
        return parts

    def _nothing(self, run: str, wanted: CurvesWanted, problem: str) -> _Parts:
        """Return curves without values, that say why; the same ones each time."""
        query = ("nothing", run, wanted.keys, wanted.axis)
        parts: _Parts | None = self._curves.get(query, problem)
        if parts is None:
            series = empty_series(run, one_line(problem), wanted.axis)
            parts = {key: _Part(None, series, ()) for key in wanted.keys}
            self._curves.put(query, problem, parts, BYTES_OF_PART * len(parts))
        return parts

    def _chart(self, key: str, wanted: CurvesWanted, parts: Mapping[str, _Part]) -> ChartNow:
        log = wanted.is_log(key)
        query = (key, replace(wanted, keys=(), log=log))
        groups = self._grouping.of(wanted.group, wanted.runs) if wanted.group else ()
        version = (groups, *(id(part.series) for part in parts.values()))
        if (kept := self._charts.get(query, version)) is not None:
            return kept[0]  # type: ignore[no-any-return]  # as above
        shown = {run: part.curve for run, part in parts.items() if part.curve is not None}
        made_of = series = [part.series for part in parts.values()]
        names, words = self._names(shown), ""
        if wanted.group:
            found, series = grouped_series(groups, shown, wanted.axis)
            shown = {group: one.curve for group, one in found.items()}
            names, words = {group.id: group.label for group in groups}, groups_in_words(wanted.group, [*found.values()])
        drawing = draw(shown, log=log, fit_all=wanted.fit_all, pixels=wanted.pixels, names=names)
        if words:
            drawing = replace(drawing, footer=f"{drawing.footer} · {one_line(words)}")
        chart = chart_now(key, series, drawing)
        rows = sum(one.rows for one in series)
        # with what it is made of, so that nothing that is made later can have an id of theirs
        self._charts.put(query, version, (chart, made_of), rows * BYTES_OF_ROW + BYTES_OF_PART)
        return chart

    def _names(self, runs: Mapping[str, Any]) -> dict[str, str]:
        """Return how runs are called, if there are several."""
        return {run: self._runs.title(run) for run in runs} if len(runs) > 1 else {}


def _curves(run: Pyramid, keys: Sequence[str], wanted: CurvesWanted) -> list[Curve]:
    return curves(
        run,
        keys,
        wanted.start,
        wanted.stop,
        wanted.buckets,
        axis=wanted.axis,
        window=wanted.window,
        smoothing=wanted.smoothing,
    )


def _stamp(run: Pyramid, key: str, axis: str) -> tuple[Any, ...]:
    """Return what is another one if there is something new about a curve."""
    epochs = len(run.epochs) if axis == "epoch" else 0
    return run, run.count(key), len(run.rewinds), run.base, epochs


def _read_until(part: _Part, seq: int) -> _Part:
    """Return a curve of which there is nothing new up to an event."""
    if part.curve is None or part.curve.seq == seq:
        return part
    series = part.series._replace(head={**part.series.head, "seq": seq})
    return part._replace(curve=replace(part.curve, seq=seq), series=series)


def _same(before: _Part | None, now: SeriesNow) -> SeriesNow:
    """Return a series as it was sent before, if it is the same down to the last bit."""
    if before is None or before.series.head != now.head or before.series.form != now.form:
        return now
    old = before.series.columns
    return (
        before.series if all(old[name].tobytes() == column.tobytes() for name, column in now.columns.items()) else now
    )
