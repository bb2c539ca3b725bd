"""All runs in one or several folders, for whoever looks at them: found, listed, and opened one by one.

Found: a run that begins while somebody looks appears, one that is deleted goes. The list of names is there at once,
    before a value is read; rows say what their runs do as they are read, the newest first.
Open: a run is opened when somebody first asks for it, and followed from then on: all of it, or its curves only. The one
    that nobody has asked for longest is closed when there are more than ``MOST_OPEN``, or after ``IDLE`` seconds;
    whoever has it still may go on. Of the others, a row is read again when something was written, or while they go on.
Fair: ``update`` begins with the run that was asked for last, then takes the others in turns.
Threads: any thread may call anything here. Nothing waits for a run that is read at this moment, but for that run.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from asynchub.dashboard.colours import GREY, Colours
from asynchub.dashboard.entries import Entry, named
from asynchub.dashboard.filtering import parse_filter
from asynchub.dashboard.finding import run_folders, trace_of
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import RunRow
from asynchub.dashboard.view import RunView
from asynchub.subscribers.display import one_line

__all__ = ("Gallery",)

MOST_OPEN = 250
"""Runs that are open at most."""
IDLE = 600.0
"""Seconds after which a run is closed that nobody asks for."""
LOOK_EACH = 1.0
"""Seconds, at least, from one look at the folders to the next, and from one reading of a row to the next."""
LOOK_SHARE = 10
"""These take at most one part in this many of the time: where they take long, the next one is later."""
SLICE = 0.05
"""Seconds that one run is given at a time."""
AT_ONCE = 0.2
"""Seconds that a list waits for rows that were never read."""
ID_DIGITS = 12


class Gallery:
    """The runs in some folders.

    Attributes:
        folders: they.
        problem: what is wrong with them, in words; "" if nothing is.

    Args:
        folders: each is the folder of a run, or one in which there are some, up to four levels deep.
        cache: folder for what viewers keep; default as of ``Pyramid``.
    """

    def __init__(self, folders: Sequence[Path], cache: Path | None = None) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self.problem = ""
        self._cache = cache
        self._shared = _shared(self.folders)
        self._colours = Colours(cache)
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._next_look = self._next_rows = self._spent = 0.0
        self._turns: list[Entry] = []

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def unread(self) -> int:
        """How many runs there are of which nothing was read yet."""
        with self._lock:
            return sum(entry.row is None and not entry.whole for entry in self._entries.values())

    @property
    def colours_problem(self) -> str:
        """Why colours cannot be kept, in words; "" if they can."""
        return self._colours.problem

    # --- going on

    def update(self, seconds: float = float("inf")) -> bool:
        """Find new runs, and take what has come; return whether there is more to take at once.

        It raises nothing about the runs: what is wrong with one is in its row, with all of them in ``problem``.

        Args:
            seconds: how long to go on at most, about.
        """
        began = time.monotonic()
        self._look(again=True)
        unread = self._read_new(began + min(seconds / 2, AT_ONCE))
        more = self._serve(began + seconds)
        self._read_again(began + seconds)
        return more or unread

    def _serve(self, deadline: float) -> bool:
        """Update the open runs; return whether one has more."""
        with self._lock:
            self._close_idle()
            turns = [entry for entry in self._entries.values() if entry.view is not None]
            turns.sort(key=lambda entry: entry.served)
            if turns:
                first = max(turns, key=lambda entry: entry.used)
                turns.remove(first)
                turns.insert(0, first)
        while turns:
            for number, entry in enumerate(turns):
                view = entry.view
                if view is None:
                    entry.more = False
                    continue
                left = max(min(SLICE, deadline - time.monotonic()), 0.0)
                entry.more = view.update(left) if entry.whole else view.pyramid.update(left)
                entry.served = time.monotonic()
                if entry.view is not view:  # it was closed meanwhile
                    view.close()
                if number and entry.served > deadline:  # beside the first, one of the others had its turn
                    return any(entry.more for entry in turns)
            turns = [entry for entry in turns if entry.more]
            if time.monotonic() > deadline:
                break
        return bool(turns)

    def _read_new(self, deadline: float) -> bool:
        """Read the rows that were never read, one at least, until a deadline; return whether some are left."""
        with self._lock:
            new = [entry for entry in self._entries.values() if entry.row is None and not entry.whole]
        new.sort(key=lambda entry: -max((written for _, _, written in entry.trace), default=0))
        for entry in new:
            self._read_row(entry)
            if time.monotonic() > deadline:
                break
        return any(entry.row is None for entry in new)

    def _read_again(self, deadline: float) -> None:
        """Read rows again, if it is time, until a deadline."""
        began = time.monotonic()
        if began < self._next_rows:
            return
        if not self._turns:
            with self._lock:
                old = [entry for entry in self._entries.values() if entry.row is not None and entry.is_stale]
            self._turns = sorted(old, key=lambda entry: -entry.row_time)
            self._spent = 0.0
        while self._turns:
            entry = self._turns.pop()
            if not entry.whole:
                self._read_row(entry)
            if time.monotonic() > deadline:
                break
        self._spent += time.monotonic() - began
        if not self._turns:
            self._next_rows = time.monotonic() + max(LOOK_EACH, LOOK_SHARE * self._spent)

    def _read_row(self, entry: Entry) -> None:
        trace = trace_of(entry.folder)
        if (known := entry.view) is not None:
            row = known.glance()
        else:
            with RunView(entry.folder, self._cache, row_id=entry.id, title=entry.title) as view:
                row = view.row()
        if row.run_id not in ("", entry.identity):  # it was not known before
            self._colours.keep(row.run_id, entry.colour)
            entry.identity = row.run_id
        entry.row, entry.row_trace, entry.row_time = row, trace, time.monotonic()

    # --- what there is

    def rows(self, filter: str = "", now: float | None = None) -> list[RunRow]:
        """Return the runs that a filter lets through, in the order of their paths.

        Args:
            filter: see ``asynchub.dashboard.filtering``; "" for all.
            now: seconds since the epoch; default the clock's.

        Raises:
            ArgumentError: the filter is malformed.
        """
        test = parse_filter(filter)
        now = time.time() if now is None else now
        if not self._next_look:
            self._look()
            self._read_new(time.monotonic() + AT_ONCE)
        with self._lock:
            entries = list(self._entries.values())
        return [row for entry in entries if test(row := entry.shown(now))]

    def run(self, row_id: str) -> RunView:
        """Return a run, which is opened if it is not; ``update`` follows all of it from then on.

        Raises:
            LookupError: there is no such run.
        """
        return self._opened(row_id, whole=True)

    def pyramid(self, row_id: str) -> Pyramid:
        """Return the curves of a run, which alone ``update`` follows, unless ``run`` was asked for it, too.

        Raises:
            LookupError: there is no such run.
        """
        return self._opened(row_id, whole=False).pyramid

    def title(self, row_id: str) -> str:
        """Return what a run is called among the others; it is not opened.

        Raises:
            LookupError: there is no such run.
        """
        with self._lock:
            return self._entry_of(row_id).title

    def is_behind(self, row_id: str) -> bool:
        """Return whether there is more to take at once of a run; False of one that is not open."""
        with self._lock:
            entry = self._entries.get(row_id)
            return entry is not None and entry.view is not None and entry.more

    def _entry_of(self, row_id: str) -> Entry:
        if not self._next_look:
            self._look()
        entry = self._entries.get(row_id)
        if entry is None:
            raise LookupError(f"there is no run {row_id!r:.40}: it was deleted, or never there; look at the list")
        return entry

    def _opened(self, row_id: str, whole: bool) -> RunView:
        with self._lock:
            entry = self._entry_of(row_id)
            entry.used = time.monotonic()
            if whole and not entry.whole:  # what was read of it so far is its curves
                entry.whole = entry.more = True
            if entry.view is None:
                entry.view = RunView(entry.folder, self._cache, row_id=entry.id, title=entry.title, colour=entry.colour)
                entry.more = True
            return entry.view

    def pin(self, row_id: str, hue: int, dash: int = 0) -> None:
        """Give a run a colour that somebody has chosen.

        Raises:
            ArgumentError: there is no such colour.
            LookupError: there is no such run.
        """
        with self._lock:
            self._colours.pin(self._entry_of(row_id).identity, hue, dash)
        self._look()

    def close(self) -> None:
        """Close all runs."""
        with self._lock:
            for entry in self._entries.values():
                entry.close()

    # --- the list

    def _look(self, again: bool = False) -> None:
        """Look which runs there are; ``again`` only if it is time."""
        with self._lock:
            began = time.monotonic()
            if again and began < self._next_look:
                return
            problems, found = [], []
            for folder in self.folders:
                try:
                    runs = list(run_folders(folder))
                except OSError as error:
                    problems.append(str(error))
                    continue
                if not runs:
                    problems.append(f"{folder} holds no run yet: none has a journal, a snapshot or a metrics.jsonl")
                found += [(folder, run) for run in runs]
            self.problem = one_line("; ".join(problems))
            self._take(found)
            now = time.monotonic()
            self._next_look = now + max(LOOK_EACH, LOOK_SHARE * (now - began))

    def _take(self, found: Sequence[tuple[Path, Path]]) -> None:
        several = len(self.folders) > 1
        entries: dict[str, Entry] = {}
        for top, folder in found:
            path = folder.resolve() if several else folder.relative_to(top)
            identity = hashlib.sha256(os.fsencode(path)).hexdigest()[:ID_DIGITS]
            entry = self._entries.pop(identity, None) or self._entry(identity, top, folder, several)
            entry.trace = trace_of(folder)
            entries[identity] = entry
        for gone in self._entries.values():
            gone.close()
        self._entries = entries
        colours = self._colours.of([entry.identity for entry in entries.values()])
        for entry, colour in zip(entries.values(), colours, strict=True):
            if entry.colour != colour:
                entry.colour = colour
                entry.close()  # what it shows has the colour, too

    def _entry(self, identity: str, top: Path, folder: Path, several: bool) -> Entry:
        run_id, name = named(folder)
        place = one_line(os.fspath(folder if several else folder.relative_to(top)))
        title = name if folder == top and not several else place
        if several:
            title = one_line(os.path.relpath(os.path.abspath(folder), self._shared))
        return Entry(identity, folder, place, run_id or os.fspath(folder.resolve()), title, GREY)

    def _close_idle(self) -> None:
        views = [entry for entry in self._entries.values() if entry.view is not None]
        views.sort(key=lambda entry: entry.used)
        now = time.monotonic()
        for number, entry in enumerate(views):
            if len(views) - number > MOST_OPEN or now - entry.used > IDLE:
                entry.close()


def _shared(folders: Sequence[Path]) -> str:
    """Return the folder that all of some are in; what their paths begin with says nothing."""
    paths = [os.path.abspath(folder) for folder in folders]
    try:
        shared = os.path.commonpath(paths)
    except ValueError:  # there is none, or they are on different drives
        return os.sep
    return os.path.dirname(shared) if shared in paths else shared
