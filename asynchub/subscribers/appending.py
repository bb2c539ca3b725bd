"""A text file that only grows, and after a resume goes back to where the saved state was.

Kept: what is cut off is moved to ``<path>.rewound-1``, ``-2``, …; nothing is ever deleted.
Killed: what was flushed is with the operating system: killing the process loses none of it, a power failure may.
Failure: text that could not be written stays here, whole, and is written first by the next flush.
Threads: ``flush`` reads and writes in a worker thread, so no event loop waits for the disk.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import anyio.to_thread

from asynchub.errors import StateDictError

__all__ = ("AppendingFile",)

logger = logging.getLogger("asynchub")

CHUNK = 1 << 20


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
        self._offset: int | None = None  # None: take the file as it is found
        self._parts: list[str] = []
        self._unwritten = b""

    def state_dict(self) -> dict[str, Any]:
        """Return the length of the file in bytes, up to the last record written."""
        return {"offset": self._whole_records() if self._offset is None else self._offset}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next ``begin`` cut the file to the saved length.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        offset = state.get("offset") if isinstance(state, Mapping) else None
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            raise StateDictError(f"wanted {{'offset': bytes}} of {self.path}, got {state!r:.200}")
        self._offset = offset
        self._parts, self._unwritten = [], b""

    def add(self, text: str) -> None:
        """Append ``text``, whole records, with the next flush."""
        self._parts.append(text)

    async def begin(self) -> None:
        """Bring the file to where the state says; without a state, to the end of its last whole record."""
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
        with self.path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, self._unwritten)
            except OSError:
                file.truncate(start)  # no half record: the next flush writes it whole
                raise
            self._offset = start + len(self._unwritten)
        self._unwritten = b""

    def _begin(self) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        offset = self._whole_records() if self._offset is None else self._offset
        if offset > size:
            logger.warning("%s has %d bytes, %d when its state was saved: going on at its end", self.path, size, offset)
            offset = self._whole_records()
        if offset < size:
            self._cut(offset)
        self._offset = offset

    def _cut(self, offset: int) -> None:
        """Move what is beyond ``offset`` to a file of its own."""
        for number in count(1):
            kept = self.path.with_name(f"{self.path.name}.rewound-{number}")
            if not kept.exists():
                break
        with self.path.open("rb+") as file:
            file.seek(offset)
            with kept.open("xb") as target:
                shutil.copyfileobj(file, target)
            file.truncate(offset)
        logger.warning("%s was cut to %d bytes; what came after is in %s", self.path, offset, kept)

    def _whole_records(self) -> int:
        """Return the length of the file up to the end of its last whole record."""
        if not self.path.exists():
            return 0
        end = position = 0
        inside = False
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                for index, piece in enumerate(chunk.split(b'"') if self._quoted else (chunk,)):
                    if index:
                        inside = not inside
                        position += 1
                    newline = -1 if inside else piece.rfind(b"\n")
                    if newline >= 0:
                        end = position + newline + 1
                    position += len(piece)
        return end


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
