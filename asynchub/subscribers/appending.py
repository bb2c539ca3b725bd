"""A text file that only grows, and after a resume becomes again what it was when the state was saved.

That may be a past which an earlier resume had left: then what it takes is put back from what was kept.

Kept: what is cut off is moved to ``<path>.rewound-1``, ``-2``, …; nothing is ever deleted. See ``cuts``.
Changed: bytes that are not those which were saved are noticed. What is missing then is said in a warning, and the file
    goes on after a whole record.
Killed: what was flushed is with the operating system: killing the process loses none of it, a power failure may.
Failure: text that could not be written stays here, whole, and is written first by the next flush.
Threads: ``flush`` reads and writes in a worker thread, so no event loop waits for the disk.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import anyio.to_thread

from asynchub.errors import StateDictError
from asynchub.statefile import write_all
from asynchub.subscribers.cuts import TAIL, Cuts, Place, last_bytes

__all__ = ("AppendingFile",)

logger = logging.getLogger("asynchub")


class AppendingFile:
    """Text appended to a file in whole records, each of which ends in a newline.

    Args:
        path: the file; it and its folder are created with the first record.
        quoted: whether a newline between ``"`` belongs to a record, as in CSV.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | PathLike[str], *, quoted: bool = False) -> None:
        self.path = Path(path)
        self._quoted = quoted
        self._saved: Place | None = None  # what to begin with; None: the file as it is found
        self._end: tuple[int, bytes] | None = None  # once begun: its length, and its last bytes
        self._rewound = 0
        self._parts: list[str] = []
        self._unwritten = b""

    def state_dict(self) -> dict[str, Any]:
        """Return how far the file has come, up to the last record written.

        Its length in bytes; the CRC-32 of its last bytes, which tell one past of it from another; the number of the
        newest ``.rewound`` file.
        """
        place = self._place() or self._found()
        return {"offset": place.offset, "tail": place.tail, "rewound": place.rewound}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next ``begin`` make the file what it was; states of earlier versions have its length only.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields = state if isinstance(state, Mapping) else {}
        offset, tail, rewound = fields.get("offset"), fields.get("tail"), fields.get("rewound", 0)
        for number in (offset, 0 if tail is None else tail, rewound):
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise StateDictError(f"wanted offset, tail and rewound of {self.path}, got {state!r:.200}")
        self._saved, self._end = Place(fields["offset"], tail, rewound), None
        self._parts, self._unwritten = [], b""

    def add(self, text: str) -> None:
        """Append ``text``, whole records, with the next flush."""
        self._parts.append(text)

    async def begin(self) -> None:
        """Make the file what the state says; without a state, cut it to the end of its last whole record.

        Raises:
            OSError: it could not be read or written; it is as it was, or a shorter one of whole records.
        """
        await anyio.to_thread.run_sync(self._begin)

    async def flush(self) -> None:
        """Write what was added, at once, and hand it to the operating system.

        Raises:
            OSError: it could not be written.
        """
        if self._parts or self._unwritten:
            await anyio.to_thread.run_sync(self._flush)

    def _flush(self) -> None:
        # backslashreplace: a lone surrogate, which UTF-8 lacks, becomes the escape that JSON has for it
        self._unwritten += "".join(self._parts).encode("utf-8", "backslashreplace")
        self._parts = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end, last = self._end or (0, b"")
        with self.path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            if start != end:  # somebody else has written to it
                last = last_bytes([(self.path, start)])
            try:
                write_all(file.fileno(), self._unwritten)
            except OSError:
                file.truncate(start)  # no half record: the next flush writes it whole
                raise
        self._end = start + len(self._unwritten), (last + self._unwritten[-TAIL:])[-TAIL:]
        self._unwritten = b""

    def _begin(self) -> None:
        cuts = Cuts(self.path, quoted=self._quoted)
        place = self._place()
        past = cuts.whole() if place is None else cuts.past(place)
        cuts.restore(past, after=0 if place is None else place.rewound)
        if place is not None and past.problem:
            missing = f"bytes {past.size} to {place.offset} of what was saved are missing, and it goes on without them"
            said = missing if past.size < place.offset else "it goes on with what it has"
            logger.warning("%s is not what it was when its state was saved: %s; %s", self.path, past.problem, said)
        self._rewound = max(cuts.newest, place.rewound if place else 0)
        self._end = past.size, last_bytes([(self.path, past.size)])

    def _place(self) -> Place | None:
        end = self._end  # one look: a flush may be on its way
        return self._saved if end is None else Place(end[0], zlib.crc32(end[1]), self._rewound)

    def _found(self) -> Place:
        """Return where the file would be taken up if there were no state."""
        cuts = Cuts(self.path, quoted=self._quoted)
        size = cuts.whole().keep
        return Place(size, zlib.crc32(last_bytes([(self.path, size)])), cuts.newest)
