"""What a gallery knows of a run in its list."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from asynchub.dashboard.finding import Trace
from asynchub.dashboard.heads import journal_head
from asynchub.dashboard.screen import Colour, RunRow
from asynchub.dashboard.view import RunView
from asynchub.errors import AsyncHubError
from asynchub.journal.folder import find_journal
from asynchub.subscribers.display import one_line

__all__ = ("Entry", "named")

GOING = ("running", "silent", "stopping")
"""States of a run that may have more to say though no file has changed that is looked at."""


@dataclass(slots=True)
class Entry:
    """A run that was found.

    Attributes:
        id: see ``RunRow``.
        folder: of the run.
        place: that as text, as seen from the folder that is looked at.
        identity: what its colour follows from.
        title: what it is called among the others.
        colour: its colour.
        trace: what its files looked like at the last look.
        row: what was last read of it; None before that.
        row_trace: what its files looked like then.
        row_time: when that was, by the monotonic clock.
        view: it, if it is open.
        whole: whether all of it is followed, or its curves only.
        used: when somebody last asked for it.
        served: when it was last updated.
        more: whether there is more to take.
    """

    id: str
    folder: Path
    place: str
    identity: str
    title: str
    colour: Colour
    trace: Trace = ()
    row: RunRow | None = None
    row_trace: Trace = ()
    row_time: float = 0.0
    view: RunView | None = None
    whole: bool = False
    used: float = 0.0
    served: float = 0.0
    more: bool = True

    @property
    def is_stale(self) -> bool:
        """Whether its row has to be read again."""
        if self.whole:
            return False
        return self.row is None or self.row_trace != self.trace or self.row.state in GOING

    def shown(self, now: float) -> RunRow:
        """Return its row, as far as it is known.

        Args:
            now: seconds since the epoch.
        """
        view = self.view
        if view is not None and self.whole:
            self.row, self.row_trace = view.row(now), self.trace
        if self.row is not None:
            return replace(self.row, folder=self.place, colour=self.colour)
        run_id = "" if os.path.isabs(self.identity) else self.identity
        word = "Not read yet"
        return RunRow(self.id, self.title, self.place, run_id, self.colour, "unknown", word, "quiet")

    def close(self) -> None:
        """Close it, if it is open."""
        view, self.view, self.whole = self.view, None, False
        if view is not None:
            view.close()


def named(folder: Path) -> tuple[str, str]:
    """Return the identity of a run, or "", and its name."""
    name = folder.resolve().name
    try:
        journal = find_journal(folder)
        head = None if journal is None else journal_head(journal)
    except (AsyncHubError, OSError):  # its row says so
        head = None
    return ("", one_line(name)) if head is None else (head.run_id.hex(), one_line(head.name or name))
