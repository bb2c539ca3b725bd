"""One run, as every view of it shows it: is it alive, why will it stop, what limits it, what is wrong, its curves.

Once: what is shown is worked out here, in figures and in words; whoever draws it computes nothing.
Fast: what a run does now is known in milliseconds; what it said before, and its curves, are read in slices by
    ``update``, and the screen says how far that is if it takes long.
True: what was rewound does not count; what is damaged or missing is said, and what is around it is shown.
Harmless: the folder of the run is only read, and nothing that is in it makes anything here raise.
Threads: any thread may call anything here; one at a time goes on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from asynchub.dashboard.alerts import alert_lines
from asynchub.dashboard.asking import asked, steerable
from asynchub.dashboard.charts import Bests, Choice, main_keys
from asynchub.dashboard.colours import colour_of
from asynchub.dashboard.fact_reader import FactReader
from asynchub.dashboard.facts import LONGEST_SILENCE, RunFacts
from asynchub.dashboard.marks import shown
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Colour, KeyRow, Mark, RunRow, Screen
from asynchub.dashboard.speed import pipeline_cards, speed_lines
from asynchub.dashboard.status import Seen, ended_of, status_of
from asynchub.dashboard.stops import stop_lines
from asynchub.dashboard.wording import summaries
from asynchub.dashboard.writers import Writer, writer_in
from asynchub.errors import AsyncHubError, PatternError
from asynchub.journal.folder import find_journal
from asynchub.patterns import matcher
from asynchub.subscribers.display import format_quantity

__all__ = ("RunView", "matching")

ON_SCREEN = 50
"""Marks on the first screen."""
ASKED = 50
"""Requests on the first screen."""
IN_ROW = 40
"""Newest values, and infos, in a list of runs, at most."""
LONGEST_VALUE = 80
"""Letters of an info in a list of runs."""
ON_THE_WAY = 2.0
"""Seconds, at most, that events take from the run to its viewers."""
LONG = 1.5
"""Seconds from which it is said that the past of a run is being read."""
ARRIVALS = 20
"""Times, at most, at which events were seen to come, by which two clocks are compared."""


class RunView:
    """What there is to see of a run.

    Attributes:
        folder: of the run.
        pyramid: its curves, which share the cache.

    Args:
        folder: of the run, or of its journal.
        cache: folder for what viewers keep; default as of ``Pyramid``.
        row_id: its identity in a list of runs.
        title: what it is called there; default the name that it has itself.
        colour: its colour; default the one that follows from its identity.
        place: its folder as it stands there; default the whole path.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path | None = None,
        *,
        row_id: str = "",
        title: str = "",
        colour: Colour | None = None,
        place: str = "",
    ) -> None:
        self.folder = Path(folder)
        self.pyramid = Pyramid(folder, cache)
        self._lock = threading.RLock()
        self._reader = FactReader(self.folder)
        self._bests = Bests(self.pyramid)
        self._charts, self._row_charts = Choice(), Choice()
        self._row_id, self._title, self._colour, self._place = row_id, title, colour, place
        self._writer: Writer = "none"
        self._arrivals: deque[float] = deque(maxlen=ARRIVALS)
        self._seen_seq = 0
        self._quiet = self._waited = 0.0
        self._looked = self._followed = False
        self._reading_since: float | None = None

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, seconds: float = float("inf")) -> bool:
        """Take what has come since; return whether there is more.

        It raises nothing about the run: what is wrong with it is on the screen.

        Args:
            seconds: how long to go on at most, about.
        """
        deadline = time.monotonic() + seconds
        with self._lock:
            more = self._read_facts(seconds)
            left = max(deadline - time.monotonic(), 0.0)
            return self.pyramid.update(left) or more

    def close(self) -> None:
        """Save what is worth it, and let another viewer keep the cache."""
        with self._lock:
            self.pyramid.close()

    def _read_facts(self, seconds: float, only_ends: bool = False) -> bool:
        """Read on, knowing how the writer was before: what it had written by then is read."""
        reader = self._reader
        writer: Writer = "none" if reader.journal is None else writer_in(reader.journal)
        before = reader.journal
        more = reader.update(seconds, only_ends)
        if reader.journal != before and reader.journal is not None:
            writer = writer_in(reader.journal)
        self._writer, self._looked = writer, True
        if reader.is_whole:
            self._reading_since = None
        elif self._reading_since is None:
            self._reading_since = time.monotonic()
        seq, newest = reader.facts.seq, reader.facts.time
        if self._followed and newest is not None:
            if seq > self._seen_seq:
                self._arrivals.append(time.time() - newest)
                self._waited = max(self._waited, min(self._quiet, LONGEST_SILENCE))
                self._quiet = 0.0
            else:
                self._quiet = time.time() - newest - self._offset
        self._followed, self._seen_seq = not more, max(seq, self._seen_seq)
        return more

    def _look(self, only_ends: bool = False) -> None:
        if not self._looked:
            self._read_facts(0.0, only_ends)

    @property
    def run_folder(self) -> Path:
        """The folder of the run, also if that of its journal was given."""
        return self.folder.parent if find_journal(self.folder) == self.folder else self.folder

    # --- what there is

    def screen(self, now: float | None = None) -> Screen:
        """Return the first screen.

        Args:
            now: seconds since the epoch; default the clock's.
        """
        with self._lock:
            self._look()
            moment = time.time() if now is None else now
            reader, facts = self._reader, self._reader.facts
            seen = self._seen(moment)
            keys = self._keys()
            wanted = self._charts.of(facts, keys)
            marks = facts.marks.kept()
            offered, why_not = steerable(self.run_folder)
            return Screen(
                row=self._row(seen, list(wanted)),
                seq=facts.seq,
                time=moment,
                status=status_of(seen),
                stops=stop_lines(facts, ended_of(seen)),
                stops_head="Why it ended" if seen.is_over else "Why it will stop",
                speed=speed_lines(facts, 0 if seen.is_over else reader.behind, seen.is_over),
                speed_head="What limited its speed" if seen.is_over else "What limits its speed",
                alerts=alert_lines(facts, reader.damages, self._problems(), self._skew),
                charts=tuple(self._bests.chart(key, *one) for key, one in wanted.items()),
                keys=len(keys),
                pipelines=pipeline_cards(facts),
                marks=tuple(reversed(marks[-ON_SCREEN:])),
                marks_total=facts.marks.total,
                steerable=offered,
                steering=why_not,
                asked=asked(self.run_folder, facts.requests, moment)[:ASKED],
            )

    def row(self, now: float | None = None) -> RunRow:
        """Return the run as it stands in a list: cheap, also if ``update`` was never called.

        Args:
            now: seconds since the epoch; default the clock's.
        """
        with self._lock:
            self._look(only_ends=True)
            seen = self._seen(time.time() if now is None else now)
            return self._row(seen, list(self._row_charts.of(self._reader.facts, self._reader.facts.newest)))

    def glance(self) -> RunRow:
        """Look at what has come since, and return the row; of a run whose past ``update`` does not follow."""
        with self._lock:
            self._read_facts(0.0, only_ends=True)
            row = self.row()
            self._looked, self._reading_since = False, None  # who looks at all of it begins then
            return row

    def marks(
        self, start: int | None = None, stop: int | None = None, key: str = "", most: int = 200
    ) -> tuple[Mark, ...]:
        """Return the newest marks between two steps, oldest first; those without a step only if neither is given.

        Args:
            start: the first step; None for no bound.
            stop: the last step; None for no bound.
            key: of a scalar: those that are about it, or about none; "" for all.
            most: how many at most.
        """
        with self._lock:
            self._look()
            found: deque[Mark] = deque(maxlen=max(most, 0))
            for mark in self._reader.facts.marks.kept():
                if key and mark.key not in ("", key):
                    continue
                if mark.step is None:
                    if start is None and stop is None:
                        found.append(mark)
                elif (start is None or mark.step >= start) and (stop is None or mark.step <= stop):
                    found.append(mark)
            return tuple(found)

    def keys(self, pattern: str = "", start: int = 0, most: int = 200) -> tuple[int, list[KeyRow]]:
        """Return how many scalars there are that match, and some of them, in the order in which they came.

        Args:
            pattern: a key pattern, if it has a ``*``; else text that the key has somewhere, in any case.
            start: index of the first one that is wanted.
            most: how many are, at most.
        """
        with self._lock:
            self._look()
            facts = self._reader.facts
            found = list(filter(matching(pattern), self._keys()))
            page = found[max(start, 0) :][: max(most, 0)]
            words: dict[str, str] = {}
            with contextlib.suppress(AsyncHubError, OSError):  # what is wrong with the run is on the screen
                words = summaries(self.pyramid, page)
            return len(found), [self._key_row(key, facts, words.get(key, "")) for key in page]

    def _keys(self) -> list[str]:
        """Return the scalars in the order in which they came; behind them those that have no curve yet."""
        return list(dict.fromkeys([*self.pyramid.keys, *self._reader.facts.newest]))

    def _key_row(self, key: str, facts: RunFacts, words: str) -> KeyRow:
        newest = facts.newest.get(key)
        last = None if newest is None else newest.mean
        number = None if last is None else _double(last)
        text = "" if newest is None else newest.text(key)
        return KeyRow(key, self.pyramid.count(key), number, text, words)

    # --- how it is

    @property
    def _read(self) -> float | None:
        """How much of its past is read, if that takes long."""
        since = self._reading_since
        return None if since is None or time.monotonic() - since < LONG else self._reader.share

    @property
    def _skew(self) -> float | None:
        """Seconds by which this clock is ahead of the run's; None if nothing was seen to come."""
        return min(self._arrivals, default=None)

    @property
    def _offset(self) -> float:
        """The same, if it is more than what events take on their way."""
        skew = self._skew or 0.0
        return skew if abs(skew) > ON_THE_WAY else 0.0

    def _seen(self, now: float) -> Seen:
        reader, facts = self._reader, self._reader.facts
        age = None
        if facts.time is not None:
            age = max(now - facts.time - self._offset, 0.0)
        return Seen(
            facts,
            reader.source,
            self._writer,
            reader.closed,
            age,
            self._read,
            reader.problem,
            reader.stop,
            self._waited,
        )

    def _row(self, seen: Seen, charts: list[str]) -> RunRow:
        facts = seen.facts
        status = status_of(seen)
        run_id = self.pyramid.run_id or self._reader.run_id
        name = self._title or shown(self._reader.name or self.folder.resolve().name)
        metrics = {key: facts.newest[key].text(key) for key in main_keys(facts, charts, IN_ROW)}
        return RunRow(
            self._row_id,
            shown(name),
            shown(self._place or self.folder),
            run_id,
            self._colour or colour_of(run_id or str(self.folder)),
            status.state,
            status.word,
            status.level,
            status.step,
            facts.time,
            metrics,
            dict(_config(facts)),
            shown(next((one for one in (*self._reader.damages, *self._problems()) if one), "")),
        )

    def _problems(self) -> Iterator[str]:
        """Yield what is wrong with the folder of the run, or what is kept of it."""
        reader = self._reader
        if reader.problem:
            yield reader.problem
        elif self.pyramid.problem and not reader.damages:
            yield self.pyramid.problem
        elif self.pyramid.problem:
            yield f"curves end before the damage: {self.pyramid.problem}"
        if self.pyramid.cache_problem:
            yield f"{self.pyramid.cache_problem}; the run is read anew each time"


def matching(pattern: str) -> Callable[[str], bool]:
    """Return the test of keys that a pattern stands for.

    Args:
        pattern: a key pattern, if it has a ``*``; else, or if it is malformed, text that a key has somewhere, in any
            case.
    """
    if "*" in pattern:
        with contextlib.suppress(PatternError):
            return matcher((pattern,))
    wanted = pattern.replace("*", "").lower()
    return lambda key: wanted in key.lower()


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _config(facts: RunFacts) -> Iterator[tuple[str, str]]:
    """Yield what the program said of itself, as text."""
    for key, value in list(facts.infos.items())[: 10 * IN_ROW]:
        text = format_quantity(key, value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        yield key, shown(text)[:LONGEST_VALUE]
