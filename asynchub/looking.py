"""The newest events of a run on the terminal, and those to come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from asynchub.eventforms import event_to_json
from asynchub.events import Event
from asynchub.journal.following import follow
from asynchub.lines import EventLines
from asynchub.recorded import newest_events

__all__ = ("look",)


def look(
    run: Path,
    patterns: Sequence[str],
    write: Callable[[str], object],
    *,
    count: int | None = 10,
    since: int = 0,
    live: bool = False,
    as_json: bool = False,
) -> None:
    """Write the newest events of a run, one a line; with ``live``, go on with those that come, and never return.

    Args:
        run: its folder.
        patterns: key patterns; none for all.
        write: called with each line.
        count: how many to begin with; None for all.
        since: only events after this ``seq``.
        live: whether to wait for more; for the run to begin, too.
        as_json: whether a line is the whole event as JSON.

    Raises:
        FileNotFoundError: there is no such run, and ``live`` is False.
        PatternError: a pattern is malformed.
        StateError: the run is damaged.
    """
    events: list[Event] = []
    try:
        events, since = newest_events(run, *patterns, count=count, since=since)
    except FileNotFoundError:
        if not live:
            raise
    line = event_to_json if as_json else EventLines(events).line
    for event in events:
        write(line(event))
    if live:
        anyio.run(_watch, run, patterns, since, lambda event: write(line(event)))


async def _watch(run: Path, patterns: Sequence[str], since: int, show: Callable[[Event], object]) -> None:
    async for event in follow(run, *patterns, since=since):
        show(event)
