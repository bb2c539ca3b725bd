"""The events of a run, every one, as they come, and as lines of a terminal.

Newest: it begins with the newest thousand, and holds five thousand; older ones go, and are counted.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import anyio

from asynchub.batches import events_of
from asynchub.channels import Selection
from asynchub.dashboard.terminal.look import clean
from asynchub.errors import AsyncHubError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.journal.folder import find_journal
from asynchub.journal.following import follow
from asynchub.journal.reading import read_journal
from asynchub.subscribers.display import described, format_quantity, mean_per_sample

__all__ = ("Tail", "event_line", "newest_of")

BEGIN, MOST = 1_000, 5_000
STOP_LOOK = 0.05
LONGEST_KEY = 40
LONGEST_VALUE = 200


def newest_of(run: Path, patterns: Sequence[str], count: int) -> tuple[list[Event], int]:
    """Return the newest events of a run, oldest first, and the ``seq`` up to which it was read.

    Raises:
        PatternError: a pattern is malformed.
        StateError: the journal is damaged.
        OSError: it cannot be read.
    """
    test = Selection.of(tuple(patterns) or ("**",)).test()
    folder = find_journal(run)
    if folder is None:
        return [], 0
    journal = read_journal(folder, "salvage")
    parts: list[list[Event]] = []
    left = count
    for batch in journal.newest_first():
        if left <= 0:
            break
        parts.append(list(events_of(batch, test=test)))
        left -= len(parts[-1])
    events = [event for part in reversed(parts) for event in part]
    return events[-count:], journal.last_seq


class Tail:
    """Follows a run in a thread of its own.

    Attributes:
        events: the newest, oldest first.
        seen: how many there were in all, those that are gone included.
        problem: what has ended it, in words; "" if nothing has.

    Args:
        run: folder of the run; it need not be there yet.
        patterns: of keys; none for all.
    """

    def __init__(self, run: Path, patterns: Sequence[str]) -> None:
        Selection.of(tuple(patterns) or ("**",)).test()  # says at once that a pattern is malformed
        self.events: deque[Event] = deque(maxlen=MOST)
        self.seen = 0
        self.problem = ""
        self._run, self._patterns = run, tuple(patterns)
        self._over = False
        self._thread = threading.Thread(target=self._work, name="asynchub watch events", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a tenth of a second but for the reading of a long journal."""
        self._over = True
        if self._thread.is_alive():
            self._thread.join(10)

    def _work(self) -> None:
        try:
            events, since = newest_of(self._run, self._patterns, BEGIN)
            self._take(events)
            if not self._over:
                anyio.run(self._follow, since)
        except Exception as error:  # whatever it is, it is shown in place of the events
            self._ends(error)

    def _ends(self, error: Exception) -> None:
        known = isinstance(error, AsyncHubError | OSError)
        self.problem = clean(str(error) if known else f"{type(error).__name__}: {error}")

    def _take(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self.seen += len(events)

    async def _follow(self, since: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            try:
                async with aclosing(follow(self._run, *self._patterns, since=since)) as events:
                    async for event in events:
                        self._take((event,))
            except (AsyncHubError, OSError) as error:
                self._ends(error)
                group.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        while not self._over:
            await anyio.sleep(STOP_LOOK)
        scope.cancel()


def event_line(event: Event, key_width: int) -> str:
    """Return an event as a line: time of day, ``seq``, step, key, what it says.

    Args:
        event: it.
        key_width: columns of its key, at least.
    """
    step = "" if event.step is None else f"{event.step:,}"
    key = clean(event.key)[:LONGEST_KEY]
    return f"{_moment(event.time)}  {event.seq:>9,}  {step:>11}  {key:<{key_width}}  {_said(event)}"


def _said(event: Event) -> str:
    if isinstance(event, ScalarUpdated):
        samples = "" if event.count in (0, 1) else f"  ({event.count} samples)"
        return format_quantity(event.key, mean_per_sample(event)) + samples
    if isinstance(event, InfoUpdated):
        return _short(repr(event.value))
    if (text := described(event)) is not None:
        return _short(text)
    fields = (field.name for field in dataclasses.fields(event) if field.name not in ("seq", "time", "step", "key"))
    return _short(" ".join([type(event).__name__, *(f"{name}={getattr(event, name)!r:.100}" for name in fields)]))


def _short(text: str) -> str:
    text = clean(text)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds):%H:%M:%S.%f}"[:12]
    except (OverflowError, OSError, ValueError):
        return "-" * 12
