"""What viewers are told as it happens: one loop takes what has come, and each viewer gets what is new to him.

Rates: a list of runs at most once a second; a first screen 4 times, and once a second even if nothing has changed but
    ages; curves ``CURVES_EACH`` seconds at the soonest, later if they take long to make, and if nothing is new about
    one but up to which event it was read, once a second.
Slow: a viewer is told nothing more until he has taken what he was told; then he gets the newest state. What waits for
    him is at most what one turn has made. One that takes nothing for ``SEND_SECONDS`` is let go.
Shared: what several viewers look at is made once.
Idle: without a viewer nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from asynchub.dashboard.web.recent import Recent
from asynchub.dashboard.web.source import Source
from asynchub.dashboard.web.tokens import Role
from asynchub.dashboard.web.wanted import Look
from asynchub.dashboard.web.wire import Change, ChartNow, changes, encode, to_json
from asynchub.dashboard.web.worker import Worker
from asynchub.errors import AsyncHubError, LifecycleError

__all__ = ("Live", "Viewer")

TURN_SECONDS = 0.1
CURVES_EACH = 0.09
SCREEN_EACH = 0.24
SCREEN_AT_LEAST = 1.0
ROWS_EACH = 1.0
REST = 9.0
"""Curves are made again after so many times as long as they took, besides, so that they take a tenth of the time ..."""
LONGEST_REST = 0.1
"""... but, so that they are fresh, after no more than so many seconds ..."""
LEAST_REST = 3.0
"""... or, if that is longer, so many times as long: they never take more than a quarter of the time."""
WORDS_EACH = 1.0
SEND_SECONDS = 30.0
LOADING_PAUSE = 0.01
"""Seconds between two turns while there is more to take, for what others ask."""
AFTER_DEFECT = 1.0
MOST_TEXTS = 200
ENCODED_BYTES = 16 * 2**20

logger = logging.getLogger("asynchub")


class Viewer:
    """Somebody who looks.

    Attributes:
        role: who it is.
        outbox: what he is to be told.
        filled: is set when there is something in it.
        busy: whether he has not taken what he was told before.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.outbox: list[str | bytes] = []
        self.filled = asyncio.Event()
        self.busy = False
        self.told = _Told(Look())

    def look_at(self, look: Look) -> None:
        """Show something else from now on, from its beginning."""
        self.told = _Told(look)

    def tell(self, message: str | bytes) -> None:
        """Put something into the outbox."""
        self.outbox.append(message)
        self.filled.set()


class _Told:
    """What a viewer looks at, and what he was told of it."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.rows: dict[str, Any] | None = None
        self.rows_at = self.screen_at = self.screen_told_at = self.curves_at = -1e9
        self.screen: dict[str, Any] | None = None
        self.charts: dict[str, ChartNow] = {}
        self.words_at: dict[str, float] = {}
        self.curves_begun = False
        self.problems: dict[str, str] = {}


class Live:
    """Tells viewers.

    Args:
        worker: the thread in which ``source`` is asked.
        source: of what they are told.
    """

    def __init__(self, worker: Worker, source: Source) -> None:
        self._worker = worker
        self._source = source
        self._viewers: set[Viewer] = set()
        self._somebody = asyncio.Event()
        self._asked = asyncio.Event()
        self._texts: dict[tuple[str, ...], tuple[float, dict[str, Any], str]] = {}
        self._encoded = Recent(ENCODED_BYTES)

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def enter(self, viewer: Viewer) -> None:
        """Tell somebody from now on."""
        self._viewers.add(viewer)
        self._somebody.set()

    def look_at(self, viewer: Viewer, look: Look) -> None:
        """Show somebody something else, soon."""
        viewer.look_at(look)
        self._asked.set()

    def leave(self, viewer: Viewer) -> None:
        """Tell somebody nothing more."""
        self._viewers.discard(viewer)
        if not self._viewers:
            self._somebody.clear()

    async def run(self) -> None:
        """Go on for ever."""
        while True:
            await self._somebody.wait()
            began = time.monotonic()
            more = False
            try:
                more = await self._one_turn()
            except LifecycleError:
                return
            except Exception:  # a defect, or a disk that went away: viewers learn of what is new when it is over
                logger.exception("the page is not told what is new")
                await asyncio.sleep(AFTER_DEFECT)
            took = time.monotonic() - began
            rest = max(TURN_SECONDS - took, took / 2)
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), rest)
            await asyncio.sleep(LOADING_PAUSE)
            self._asked.clear()

    async def _one_turn(self) -> bool:
        """Take what has come, and tell those who can be told; return whether there is more to take."""
        more = await self._worker.call(self._source.update)
        ready = [viewer for viewer in self._viewers if not viewer.busy]
        if len(self._texts) > MOST_TEXTS:
            self._texts.clear()
        parts: tuple[Literal["texts", "curves"], ...] = ("texts", "curves")  # what is short, and says most, first
        for part in parts:
            for viewer in ready:
                if viewer not in self._viewers:
                    continue
                told = viewer.told
                for message in await self._worker.call(self._made, viewer.role, told, part):
                    if viewer.told is told:  # else he looks at something else by now
                        viewer.tell(message)
        return more

    # --- in the worker's thread

    def _made(self, role: Role, told: _Told, part: Literal["texts", "curves"]) -> list[str | bytes]:
        """Return what a viewer is to be told."""
        now = time.monotonic()
        if part == "curves":
            return list(self._tried(told, part, lambda: self._curves(told, now)))
        return [
            *self._tried(told, "rows", lambda: self._rows(role, told, now)),
            *self._tried(told, "screen", lambda: self._screen(role, told, now)),
        ]

    def _tried(self, told: _Told, what: str, make: Callable[[], Iterator[str | bytes]]) -> Iterator[str | bytes]:
        """Yield what is made, or in words why it cannot be made, once."""
        problem = ""
        try:
            yield from make()
        except (AsyncHubError, LookupError, OSError) as error:
            problem = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
        except Exception as error:  # a defect: the others are told all the same, and this one learns of it
            logger.exception("the page cannot be told %s", what)
            problem = f"a defect: {type(error).__name__}: {error!s:.500}"
        if problem and told.problems.get(what) != problem:
            yield to_json({"type": "error", "what": what, "text": problem})
        told.problems[what] = problem

    def _rows(self, role: Role, told: _Told, now: float) -> Iterator[str]:
        filter = told.look.rows
        if filter is None or now - told.rows_at < ROWS_EACH:
            return
        told.rows_at = now
        rows, text = self._text(("rows", filter, role), now, lambda: self._source.rows(filter, role))
        if told.rows is None or _but_time(rows) != _but_time(told.rows):
            told.rows = rows
            yield text

    def _screen(self, role: Role, told: _Told, now: float) -> Iterator[str]:
        run = told.look.screen
        if not run or now - told.screen_at < SCREEN_EACH:
            return
        told.screen_at = now
        made, text = self._text(("screen", run, role), now, lambda: {"screen": self._source.screen(run, role)})
        due = now - told.screen_told_at >= SCREEN_AT_LEAST
        if due or told.screen is None or _lasting(made["screen"]) != _lasting(told.screen):
            told.screen, told.screen_told_at = made["screen"], now
            yield text

    def _text(
        self, what: tuple[str, ...], now: float, make: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], str]:
        """Return what is told, and as JSON; as another was told it a moment ago, if so."""
        made_at, value, text = self._texts.get(what, (-1e9, {}, ""))
        if now - made_at > SCREEN_EACH / 2:
            value = make()
            text = to_json({"type": what[0], **value})
            self._texts[what] = now, value, text
        return value, text

    def _curves(self, told: _Told, now: float) -> Iterator[bytes]:
        look = told.look
        if look.curves is None or now - told.curves_at < CURVES_EACH:
            return
        charts = self._source.charts(look.curves)
        took = time.monotonic() - now
        told.curves_at = now + max(min(REST * took, LONGEST_REST), LEAST_REST * took)
        found = [
            change
            for change in changes(told.charts, charts)
            if not change.only_words or now - told.words_at.get(change.chart.key, 0.0) >= WORDS_EACH
        ]
        if not found and told.curves_begun:
            return
        message = self._message(told, found)
        for change in found:
            told.charts[change.chart.key] = change.chart
            told.words_at[change.chart.key] = now
        told.curves_begun = True
        yield message

    def _message(self, told: _Told, found: list[Change]) -> bytes:
        # the charts themselves are kept with it, so that none that is made later can have an id of theirs
        olds = [told.charts.get(change.chart.key) for change in found]
        news = [change.chart for change in found]
        question = (told.look.n, *(id(chart) for chart in (*olds, *news)))
        kept = self._encoded.get(question, None)
        if kept is None:
            message = encode(found, told.look.n)
            kept = (message, olds, news)
            self._encoded.put(question, None, kept, len(message) + sum(chart.size for chart in news))
        return kept[0]  # type: ignore[no-any-return]  # it is what is put there above


def _but_time(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "time"}


def _lasting(screen: dict[str, Any]) -> dict[str, Any]:
    """Return what of a screen does not change by itself as time goes on."""
    status = {name: value for name, value in screen["status"].items() if name != "age"}
    return {**_but_time(screen), "status": status}
