"""The pipeline of a run, seen from another process: the reports in the run's journal, from the newest on.

Cheap: of a long journal only the end is read.
Harmless: nothing is locked, nothing is written; see ``asynchub.journal.following``.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asynchub.dataflow import PipelineRecovered, PipelineReported, PipelineStalled
from asynchub.errors import ArgumentError
from asynchub.eventforms import event_to_json
from asynchub.events import Event
from asynchub.journal.folder import find_journal
from asynchub.journal.following import follow
from asynchub.pipeline.cells import duration
from asynchub.pipeline.layout import LEAST, laid_out
from asynchub.pipeline.news import News
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.recorded import newest_events

if TYPE_CHECKING:
    from asynchub.pipeline.view import PipelineView

__all__ = ("show_pipeline",)

KINDS = (PipelineReported, PipelineStalled, PipelineRecovered)
KEYS = ("report", "stalled", "recovered")
"""Under which, below the name of a pipeline, events of these kinds come."""
HISTORY = 600
"""Events that a view begins with: ten minutes of reports, by default."""
TICK = 1.0
"""Seconds between two looks of a view at the clock."""
OLD = 60.0
"""Seconds after which it is said how old a report is."""
Told = PipelineReported | PipelineStalled | PipelineRecovered
Write = Callable[[str], object]


def show_pipeline(
    run: Path,
    write: Write,
    *,
    name: str | None = None,
    once: bool = False,
    as_json: bool = False,
    width: int | None = None,
) -> bool:
    """Show the newest report of a pipeline, and those that come until it ends; return whether there was any.

    In a terminal that is a live view, else a line for each change and the last report.

    Args:
        run: folder of the run; without ``once`` it may be one that begins later.
        write: called with what is to be printed, a line or several.
        name: of the pipeline; None for the one that reported last.
        once: whether the newest report is all that is wanted.
        as_json: whether each report is a line of JSON: its event, whole.
        width: columns that a line may have, 40 or more; default as many as the terminal has, 100 without one.

    Raises:
        FileNotFoundError: there is no such run, and ``once`` is true.
        ArgumentError: ``width`` is too small.
        PatternError: ``name`` cannot be part of a key.
        StateError: the run is damaged.
    """
    if width is not None and width < LEAST:
        raise ArgumentError(f"a width must be {LEAST} columns or more, got {width}")
    columns = width or shutil.get_terminal_size((100, 24)).columns
    begun, since = _newest(run, name, "report", count=1, missing=not once)
    if begun and (once or _is_last(begun[-1]) or find_journal(run) is None):
        write(event_to_json(begun[-1]) if as_json else _text(begun[-1], columns))
        return True
    if once:
        return False
    if begun:
        name = begun[-1].pipeline
    if as_json:
        return anyio.run(_as_json, begun, _coming(run, name, since), write)
    view = _view(name, width)
    if view is None:
        return anyio.run(_in_lines, begun, _coming(run, name, since), write, columns)
    if begun:
        begun, since = _newest(run, name, *KEYS, count=HISTORY, missing=True)
    view.waiting_for = f"a report of {'a pipeline' if name is None else f'the pipeline {name!r}'} in {run}"
    return anyio.run(_live, begun, _coming(run, name, since), view)


def _newest(run: Path, name: str | None, *keys: str, count: int, missing: bool) -> tuple[list[Told], int]:
    """Return the newest events of a pipeline, and the ``seq`` up to which was read; none of a run that may be missing.

    Raises:
        FileNotFoundError: there is no such run, and it may not be missing.
    """
    try:
        events, since = newest_events(run, *_wanted(name, *keys), count=count)
    except FileNotFoundError:
        if not missing:
            raise
        return [], 0
    return [event for event in events if isinstance(event, KINDS) and name in (None, event.pipeline)], since


def _wanted(name: str | None, *keys: str) -> tuple[str | type[Event], ...]:
    """Return what to read of a run: of one pipeline, by key, or of all."""
    return KINDS[: len(keys)] if name is None else tuple(f"{name}/{key}" for key in keys)


def _is_last(event: Event) -> bool:
    return isinstance(event, PipelineReported) and event.report.get("state") == "done"


def _text(event: Told, columns: int) -> str:
    """Return a report as lines, and how old it is if that is much."""
    report = event.report if isinstance(event, PipelineReported) else {}
    text = laid_out(PipelineReport.from_dict(report), columns)
    age = time.time() - event.time
    return f"{text}\nreported {duration(age)} ago" if age >= OLD else text


def _view(name: str | None, width: int | None) -> PipelineView | None:
    """Return a live view; None without a terminal, and without what draws it."""
    if not sys.stdout.isatty():
        return None
    if importlib.util.find_spec("rich") is None:
        print("for a live view: python -m pip install 'asynchub[rich]'", file=sys.stderr)
        return None
    from asynchub.pipeline.view import PipelineView

    return PipelineView(name, width=width)


async def _coming(run: Path, name: str | None, since: int) -> AsyncGenerator[Told, None]:
    """Yield the events of a pipeline up to its last report, or up to the end of the run."""
    async with aclosing(follow(run, *_wanted(name, *KEYS), since=since, until="closed")) as events:
        async for event in events:
            if isinstance(event, KINDS) and name in (None, event.pipeline):
                name = event.pipeline
                yield event
                if _is_last(event):
                    return


async def _as_json(begun: Sequence[Told], coming: AsyncGenerator[Told, None], write: Write) -> bool:
    found = bool(begun)
    for event in begun:
        write(event_to_json(event))
    async with aclosing(coming):
        async for event in coming:
            if isinstance(event, PipelineReported):
                found = True
                write(event_to_json(event))
    return found


async def _in_lines(begun: Sequence[Told], coming: AsyncGenerator[Told, None], write: Write, columns: int) -> bool:
    news = News()
    for event in begun:
        _tell(news, event, write)
    async with aclosing(coming):
        async for event in coming:
            _tell(news, event, write)
    if news.newest is not None:
        write(laid_out(news.newest, columns))
    return news.newest is not None


def _tell(news: News, event: Event, write: Write) -> None:
    if (happened := news.take(event)) is not None:
        write(happened.told(news.name))


async def _live(begun: Sequence[Told], coming: AsyncGenerator[Told, None], view: PipelineView) -> bool:
    with view.shown():
        view.take(begun)
        async with anyio.create_task_group() as group, aclosing(coming):
            group.start_soon(_tick, view)
            async for event in coming:
                await anyio.to_thread.run_sync(view.take, (event,))
            group.cancel_scope.cancel()
    return view.news.newest is not None


async def _tick(view: PipelineView) -> None:
    """Draw now and then: that nothing comes is worth telling, too."""
    while True:
        await anyio.sleep(TICK)
        await anyio.to_thread.run_sync(view.draw)
