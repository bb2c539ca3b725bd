"""The batches that a run is not to see again, in memory and in a file.

The file is a JSON array of ints, in order. It is replaced atomically, and what it lists is never forgotten: not by a
run that is resumed from a state saved before, nor by the next one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from asynchub.errors import ArgumentError, CorruptStateError
from asynchub.statefile import replace_file, write_all

__all__ = ("BadBatches",)

logger = logging.getLogger("asynchub")


class BadBatches:
    """A list of batches that only grows.

    Args:
        path: the file to read it from now, and to keep it in; None for memory only.

    Attributes:
        listed: the batches, in order.

    Raises:
        ArgumentError: ``path`` is no path, or that of something else than a file.
        CorruptStateError: the file holds something else than a JSON array of ints.
    """

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        self._path = None if path is None else _file_of(path)
        self.listed: list[int] = []
        self.reread()

    def reread(self, *more: int) -> None:
        """Add what the file lists by now, and ``more``, without writing it.

        Raises:
            CorruptStateError: the file holds something else than a JSON array of ints.
        """
        self.listed = sorted({*self.listed, *_read(self._path), *more})

    def add(self, batches: Iterable[int]) -> None:
        """Add ``batches`` and, if that changes anything, replace the file; waits for the disk."""
        listed = sorted({*self.listed, *batches})
        if listed == self.listed:
            return
        self.listed = listed
        if self._path is None:
            return
        text = f"{json.dumps(listed)}\n".encode()
        try:
            replace_file(self._path, lambda descriptor: write_all(descriptor, text))
        except OSError as error:  # protecting the run matters more; the next one that is added writes them all
            logger.warning("the bad batches could not be written to %s, and are kept in memory: %s", self._path, error)


def _file_of(path: object) -> Path:
    if not isinstance(path, str | PathLike):
        raise ArgumentError(f"exclude_batches_path must be a path, got {path!r:.80}")
    file = Path(os.path.abspath(path))  # a program may change its folder before the first bad batch
    if file.exists() and not file.is_file():
        raise ArgumentError(f"exclude_batches_path must name a file, got {file}; e.g. {file / 'skip_batches.json'}")
    return file


def _read(path: Path | None) -> list[int]:
    try:
        batches = [] if path is None else json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise CorruptStateError(f"{path} is no JSON: {error}; remove it to begin a new list") from error
    if not isinstance(batches, list) or not all(type(one) is int for one in batches):
        raise CorruptStateError(f"{path} must be a JSON array of ints, got {batches!r:.80}; remove it for a new list")
    return batches
