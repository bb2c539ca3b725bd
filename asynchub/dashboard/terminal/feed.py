"""What a terminal shows, made in a thread of its own: the runs are followed, and charts drawn, while keys are answered.

Slices: what has come is taken for a twentieth of a second at a time, so that what somebody wants to see instead never
    waits for longer than that, nor for the reading of a long run.
Newest: whoever shows it is handed the newest state only, at most once in an interval, and at once after ``want``.
Unchanged: a chart of which nothing has come, and which is wanted as before, is the same object as before.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Chart, Mark, RunRow, Screen
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.paced import Paced
from asynchub.dashboard.terminal.plot import Span, plotted
from asynchub.dashboard.terminal.trying import Stop
from asynchub.dashboard.terminal.viewpoint import Viewpoint
from asynchub.dashboard.terminal.waiting import Waiting
from asynchub.dashboard.view import RunView, matching
from asynchub.errors import AsyncHubError

try:
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("Charted", "Feed", "Shown", "Wanted")

SLICE = 0.05
"""Seconds that runs are read at a time."""
MOST_RUNS = 10
"""Runs that are drawn at most: there are as many colours."""
MOST_MARKS = 60
"""Decisions that are marked on a chart at most."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be shown.

    Attributes:
        number: of this wish; what is shown bears it.
        view: what somebody looks at.
        sizes: columns and lines of each chart, without its frame.
        look: of the terminal.
        trial: where a rule that is tried would have stopped runs.
    """

    number: int
    view: Viewpoint
    sizes: tuple[tuple[int, int], ...]
    look: Look
    trial: tuple[Stop, ...] = ()


@dataclass(frozen=True, slots=True)
class Charted:
    """A chart as it is shown.

    Attributes:
        key: of the scalar.
        number: which it is among all.
        note: to stand in its head.
        footer: the truth about it.
        summary: what it shows, in words.
        log: whether its y axis is logarithmic.
        lines: it.
    """

    key: str
    number: int
    note: str
    footer: str
    summary: str
    log: bool
    lines: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is to show.

    Attributes:
        number: of the wish that it answers.
        rows: all runs.
        drawn: ids of those that are drawn, that in front first.
        front: the first screen of the run in front; None while there is no run.
        charts: those that there is room for.
        total: how many charts there are.
        first: the first step of the runs that are drawn.
        last: the last one.
        reading: whether runs are still being read up to what is newest.
        problem: what is wrong with all that, in words; "" if nothing is.
    """

    number: int = 0
    rows: tuple[RunRow, ...] = ()
    drawn: tuple[str, ...] = ()
    front: Screen | None = None
    charts: tuple[Charted, ...] = ()
    total: int = 0
    first: int = 0
    last: int = 0
    reading: bool = True
    problem: str = ""


@dataclass(slots=True)
class _Cache:
    """What was made last, and of what."""

    rows: Paced[tuple[RunRow, ...]] = field(default_factory=Paced)
    screen: Paced[Screen] = field(default_factory=Paced)
    seqs: tuple[object, ...] = ()
    made_of: object = None
    charts: tuple[Charted, ...] = ()
    keys: tuple[str, ...] = ()
    extent: tuple[int, int] = (0, 0)
    own: dict[str, Chart] = field(default_factory=dict)


class Feed:
    """Makes what is shown.

    Args:
        folders: of the runs.
        show: called, in the thread of the feed, with what there is to show.
        failed: called there with the error that has ended it.
        interval: seconds from one state to the next.
        cache: folder for what viewers keep.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        show: Callable[[Shown], object],
        failed: Callable[[Exception], object],
        *,
        interval: float = 0.2,
        cache: Path | None = None,
    ) -> None:
        self._gallery = Gallery(folders, cache)
        self._waiting = Waiting(folders)
        self._show, self._failed, self._interval = show, failed, interval
        self._wanted: Wanted | None = None
        self._news = threading.Event()
        self._over = False
        self._cache = _Cache()
        self._thread = threading.Thread(target=self._work, name="asynchub watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def want(self, wanted: Wanted) -> None:
        """Say what is to be shown from now on. Never waits."""
        self._wanted = wanted
        self._news.set()

    def stop(self) -> None:
        """End; wait for a slice at most."""
        self._over = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def folder(self, row_id: str) -> Path:
        """Return the folder of a run.

        Raises:
            LookupError: there is no such run.
        """
        return self._gallery.run(row_id).run_folder

    def pyramids(self, row_ids: Sequence[str]) -> dict[str, Pyramid]:
        """Return the curves of runs, but of those that are not there any more."""
        found = {}
        for row_id in row_ids:
            try:
                found[row_id] = self._gallery.run(row_id).pyramid
            except LookupError:  # deleted at this moment
                continue
        return found

    def _work(self) -> None:
        try:
            self._go_on()
        except Exception as error:
            self._failed(error)
        finally:
            self._gallery.close()

    def _go_on(self) -> None:
        due, more = 0.0, True
        while not self._over:
            asked = self._news.is_set()
            self._news.clear()
            if not asked:  # what somebody wants to see comes before what is new
                more = self._gallery.update(SLICE)
            if self._wanted is not None and (asked or time.monotonic() >= due):
                self._show(self._shown(self._wanted, more))
                due = time.monotonic() + self._interval
            if not more:
                self._news.wait(max(due - time.monotonic(), 0.0))

    # --- what there is to show

    def _shown(self, wanted: Wanted, reading: bool) -> Shown:
        cache = self._cache
        rows = cache.rows.get(self._gallery.folders, cache.seqs, lambda: tuple(self._gallery.rows()))
        drawn = _drawn(rows, wanted.view)
        views: dict[str, RunView] = {}
        for row in drawn:
            try:
                views[row.id] = self._gallery.run(row.id)
            except LookupError:  # deleted at this moment
                continue
        if not views:
            problem = self._waiting.words(self._gallery.problem)
            return Shown(wanted.number, rows, reading=reading, problem=problem)
        name, front = next(iter(views.items()))
        seqs = tuple((id, view.pyramid.seq, view.pyramid.problem) for id, view in views.items())
        cache.seqs = (seqs, reading)
        screen = cache.screen.get(name, cache.seqs, front.screen)
        made_of = (cache.seqs, replace(wanted, number=0), screen.charts, screen.marks_total, tuple(_drawn_of(drawn)))
        if cache.made_of != made_of:
            self._find_keys(views, screen, wanted.view)
            cache.charts = self._charts(views, wanted, {row.id: row for row in drawn}, reading)
            cache.made_of = made_of
        return Shown(
            wanted.number,
            rows,
            tuple(views),
            screen,
            cache.charts,
            len(cache.keys),
            *cache.extent,
            reading,
            self._gallery.problem if len(self._gallery.folders) > 1 else "",
        )

    def _find_keys(self, views: Mapping[str, RunView], screen: Screen, view: Viewpoint) -> None:
        """Find out which charts there are, and over which steps."""
        cache = self._cache
        if view.filter:
            test = matching(view.filter)
            names = [key for one in views.values() for key in one.pyramid.keys if test(key)]
        else:
            names = [chart.key for chart in screen.charts]
            names += [key for one in views.values() for key in one.pyramid.keys]
        cache.keys = tuple(dict.fromkeys(names))
        cache.own = {chart.key: chart for chart in screen.charts}
        extents = [
            extent
            for one in views.values()
            for key in islice(one.pyramid.keys, 200)
            if (extent := one.pyramid.extent(key)) is not None
        ]
        lows, highs = zip(*extents, strict=True) if extents else ((0,), (0,))
        cache.extent = (min(lows), max(highs))

    def _charts(
        self, views: Mapping[str, RunView], wanted: Wanted, rows: Mapping[str, RunRow], reading: bool
    ) -> tuple[Charted, ...]:
        keys, view = self._cache.keys, wanted.view
        chosen = min(view.chart, max(len(keys) - 1, 0))
        room = 1 if view.large else max(len(wanted.sizes), 1)
        first = chosen if view.large else chosen // room * room
        page = keys[first : first + len(wanted.sizes)]
        if not page:
            return ()
        start, stop = view.steps(*self._cache.extent)
        buckets = max(2 * max(width for width, _ in wanted.sizes), 16)
        found: dict[str, dict[str, Curve]] = {key: {} for key in page}
        problems: list[str] = []
        for run, one in views.items():
            there = [key for key in page if one.pyramid.extent(key) is not None]
            try:
                for curve in _curves_of(one.pyramid, there, start, stop, buckets, view):
                    found[curve.key][run] = curve
            except (AsyncHubError, OSError) as error:
                problems.append(f"{rows[run].name}: {error}")
        front = next(iter(views.values()))
        charts = []
        for number, (key, size) in enumerate(zip(page, wanted.sizes, strict=False), first):
            parts = found[key]
            log = key in view.logs
            drawing = draw(parts, log=log, fit_all=view.fit_all, names={run: rows[run].name for run in parts})
            span = _span(parts, view, start, stop)
            marks = front.marks(start, stop, key, MOST_MARKS)
            own = next(iter(parts.values()), None)
            placed = [(mark, x) for mark in marks if (x := _place(mark, view, own)) is not None]
            trial = [
                (mark, x, rows[run].colour)
                for run, mark in wanted.trial
                if run in rows and (x := _place(mark, view, parts.get(run))) is not None
            ]
            chart = self._cache.own.get(key)
            if reading and not drawing.points:
                charts.append(Charted(key, number, "reading…", "", "", log, ()))
                continue
            lines = plotted(
                parts,
                drawing,
                span,
                placed,
                {run: row.colour for run, row in rows.items()},
                width=size[0],
                height=size[1],
                look=wanted.look,
                trial=trial,
            )
            note = "; ".join(problems) or (chart.note or chart.why if chart is not None else "")
            charts.append(Charted(key, number, note, drawing.footer, drawing.summary, log, lines))
        return tuple(charts)


def _curves_of(run: Pyramid, keys: Sequence[str], start: int, stop: int, buckets: int, view: Viewpoint) -> list[Curve]:
    """Return scalars of a run as they are looked at; raises what ``curves`` does."""
    return curves(run, keys, start, stop, buckets, axis=view.axis, window=view.window, smoothing=view.smoothing)


def _drawn_of(rows: Sequence[RunRow]) -> list[tuple[str, object]]:
    """Return what of runs charts depend on."""
    return [(row.id, row.colour) for row in rows]


def _drawn(rows: Sequence[RunRow], view: Viewpoint) -> list[RunRow]:
    """Return the runs that are drawn: that in front, those that are pinned, then the newest."""
    if not rows:
        return []
    front = view.front if any(row.id == view.front for row in rows) else rows[0].id
    order = sorted(rows, key=lambda row: (row.id != front, row.id not in view.pinned, -(row.newest or 0.0)))
    return order[:MOST_RUNS]


def _span(parts: Mapping[str, Curve], view: Viewpoint, start: int, stop: int) -> Span:
    """Return what stands on the x axis of a chart."""
    if view.axis == "step":
        return Span("step", start, max(stop, start) + 1)
    with np.errstate(all="ignore"):
        places = [one for curve in parts.values() for one in (np.nanmin(_of(curve)), np.nanmax(_of(curve)))]
    low, high = (min(places), max(places)) if places else (0.0, 1.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 1.0
    return Span(view.axis, low, high if high > low else low + 1.0)


def _of(curve: Curve) -> np.ndarray:
    x = np.asarray(curve.x, np.float64)
    return x[np.isfinite(x)] if np.isfinite(x).any() else np.array([math.inf])


def _place(mark: Mark, view: Viewpoint, curve: Curve | None) -> float | None:
    """Return where a decision is on the x axis, given a curve of its run; None if it has no place there."""
    if view.axis == "step":
        return None if mark.step is None else float(mark.step)
    if view.axis == "time":
        return mark.time
    if curve is None or mark.step is None or not curve.buckets.size:
        return None
    after = min(int(np.searchsorted(curve.buckets.first, mark.step)), curve.buckets.size - 1)
    x = float(curve.x[after])
    return x if math.isfinite(x) else None
