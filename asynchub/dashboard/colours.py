"""The colours of runs: each has one, which stays, whatever is shown beside it and in which view.

Hashed: a run's colour follows from its identity, so that two people who look at it see the same.
Apart: a run that is seen for the first time beside others gets the nearest hue that none of them has, and, once all
    ten are taken, another pattern of dashes. What it got is kept in the cache; another run that comes never changes it.
Seen: each hue stands out from the ground of the page by at least 3 to 1, light or dark; in lightness, too, hues that
    look the same to people who do not see red or green differ.
Kept: a file of lines, which is only appended to, so that any number of viewers share it. The first line of a run
    counts, and the newest that pins it. A line that is damaged is passed over.
Threads: one at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from asynchub.dashboard.keeping import cache_path
from asynchub.dashboard.screen import Colour
from asynchub.errors import ArgumentError
from asynchub.statefile import make_folder, write_all

__all__ = ("DASHES", "GREY", "PALETTE", "Colours", "colour", "colour_of")

PALETTE = (
    ("#d21e82", "#f01eb4"),
    ("#a44b0a", "#e68914"),
    ("#9a8f36", "#e1d56a"),
    ("#414a02", "#707c33"),
    ("#047d51", "#25c377"),
    ("#0c9cac", "#2ce7f7"),
    ("#164a92", "#2787bf"),
    ("#7c6cd9", "#b3a7e3"),
    ("#9310c8", "#ae63fe"),
    ("#cd6f8f", "#ac5d81"),
)
"""Of each hue, the colour on a light ground and on a dark one, around the circle from magenta to pink. None is red,
which is for what is wrong."""
GREY = Colour(0, 0, "#8a8f98", "#7b818c")
"""That of runs which are not told apart by colour."""
DASHES = ((), (6, 3), (2, 2), (8, 3, 2, 3))
"""Of each pattern, the lengths of strokes and gaps in turn, in pixels; none of a whole line."""
NAME = "colours.txt"
LINE = re.compile(rb"([0-9a-f]{16}) ([0-9]) ([0-3])( pinned)?")
LONGEST = 2**24
"""Bytes of the file, at most, that are read: some 800,000 runs."""


def colour(hue: int, dash: int = 0) -> Colour:
    """Return a colour.

    Raises:
        ArgumentError: there is no such hue or dash.
    """
    if type(hue) is not int or not 0 <= hue < len(PALETTE) or type(dash) is not int or not 0 <= dash < len(DASHES):
        raise ArgumentError(f"a colour has a hue from 0 to 9 and a dash from 0 to 3, got {hue!r:.20} and {dash!r:.20}")
    return Colour(hue, dash, *PALETTE[hue])


def colour_of(run: str) -> Colour:
    """Return the colour that a run has by itself, when nobody has kept another one for it.

    Args:
        run: its identity; or, if that is not known, whatever stays the same of it, e.g. its path.
    """
    number = int(_name(run), 16)
    return colour(number % len(PALETTE), number // len(PALETTE) % len(DASHES))


class Colours:
    """The colours that were given out.

    Attributes:
        problem: what is wrong with the file that they are kept in, in words; "" if nothing is.

    Args:
        cache: folder that the file is in; default as of ``Pyramid``.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.problem = ""
        self._path = cache_path(Path(), cache).parent / NAME
        self._known: dict[str, Colour] = {}
        self._pinned: dict[str, Colour] = {}
        self._seen: tuple[int, int, int] | None = None

    def of(self, runs: Sequence[str]) -> list[Colour]:
        """Return the colours of runs that are shown together; what is new is kept."""
        names = [_name(run) for run in runs]
        self._read()
        new: dict[str, Colour] = {}
        taken = Counter((one.hue, one.dash) for name in dict.fromkeys(names) if (one := self._found(name)) is not None)
        for name, run in zip(names, runs, strict=True):
            if self._found(name) is None and name not in new:
                new[name] = _apart(colour_of(run), taken)
                taken[new[name].hue, new[name].dash] += 1
        if new:
            self._append(f"{name} {one.hue} {one.dash}" for name, one in new.items())
            self._read()  # another viewer may have been first
            for name, one in new.items():  # and where nothing can be kept, it stays for as long as this one looks
                self._known.setdefault(name, one)
        return [self._found(name) or GREY for name in names]

    def keep(self, run: str, own: Colour) -> None:
        """Give a run that has no colour yet the one that it was shown in before its identity was known."""
        self._read()
        if self._found(_name(run)) is None:
            self._known[_name(run)] = own
            self._append([f"{_name(run)} {own.hue} {own.dash}"])

    def pin(self, run: str, hue: int, dash: int = 0) -> None:
        """Give a run a colour that somebody has chosen.

        Raises:
            ArgumentError: there is no such hue or dash.
        """
        chosen = self._pinned[_name(run)] = colour(hue, dash)
        self._append([f"{_name(run)} {chosen.hue} {chosen.dash} pinned"])

    def _found(self, name: str) -> Colour | None:
        return self._pinned.get(name) or self._known.get(name)

    def _read(self) -> None:
        """Take what is in the file, if it is another one than before."""
        try:
            status = self._path.stat()
            now = (status.st_ino, status.st_size, status.st_mtime_ns)
            if now == self._seen:
                return
            with self._path.open("rb") as file:
                lines = file.read(LONGEST).splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            self.problem = f"the colours of runs cannot be read: {error}"
            return
        damaged = 0
        for line in lines:
            found = LINE.fullmatch(line)
            if found is None:
                damaged += bool(line)
                continue
            name, one = found[1].decode(), colour(int(found[2]), int(found[3]))
            if found[4]:
                self._pinned[name] = one
            else:
                self._known.setdefault(name, one)
        self._seen = now
        self.problem = f"{self._path}: {damaged} damaged lines were passed over" if damaged else ""

    def _append(self, lines: Iterable[str]) -> None:
        data = "".join(f"\n{line}\n" for line in lines).encode()  # behind what a killed viewer has torn
        try:
            make_folder(self._path.parent, sync=False)
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666
            )
            try:
                write_all(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.problem = f"the colours of runs cannot be kept: {error}"


def _name(run: str) -> str:
    return hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _apart(own: Colour, taken: Counter[tuple[int, int]]) -> Colour:
    """Return the colour nearest to a run's own that is had by the fewest of those that it is shown with."""
    hues, dashes = Counter[int](), Counter[int]()
    for (hue, dash), count in taken.items():
        hues[hue] += count
        dashes[dash] += count

    def cost(place: tuple[int, int]) -> tuple[int, ...]:
        hue, dash = place
        around = abs(hue - own.hue)
        distance = min(around, len(PALETTE) - around), hue
        return hues[hue], *distance, taken[place], dash != own.dash, dashes[dash], dash

    places = [(hue, dash) for hue in range(len(PALETTE)) for dash in range(len(DASHES))]
    return colour(*min(places, key=cost))
