"""What was cut off a text file, kept so that the file can become again what it was before.

``<path>.rewound-N``  what stood beyond the place of cut N, byte for byte
``<path>.rewound``    a line of JSON for each cut, oldest first: its ``number``; ``offset``, the length that was left;
                      ``before``, the CRC-32 of the last ``TAIL`` bytes of that; ``size`` and ``crc32`` of what was cut
                      off

A file only grows between two cuts. So what it was before cut N is what it was after cut N, up to ``offset``, and then
``<path>.rewound-N``; undone like this, newest first, the cuts lead back to whatever the file once was.

Trusted: nothing by its name. A kept file counts if its CRC is that of its line, and follows only what its line says
    stood before it. Lines that cannot be read are passed over.
Killed: at any moment, nothing is lost: what is cut off is on the disk, under its name and with its line, before the
    file becomes shorter. Doing the same again ends at the same; it may keep the same bytes twice.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from asynchub.statefile import flush, flush_folder, write_all

__all__ = ("TAIL", "Cuts", "Past", "Piece", "Place", "last_bytes", "tail_of")

logger = logging.getLogger("asynchub")

TAIL = 4096
"""Bytes before a place that tell one past of a file from another: times stand in them."""
CHUNK = 1 << 20

Piece = tuple[Path, int]
"""A file, and how many bytes of it from its start."""


@dataclass(frozen=True)
class Place:
    """How far a file had come.

    Attributes:
        offset: its length in bytes.
        tail: CRC-32 of its last ``TAIL`` bytes; None if nobody knows.
        rewound: number of the newest cut by then; 0 for none.
    """

    offset: int
    tail: int | None = None
    rewound: int = 0


@dataclass(frozen=True)
class Past:
    """How to make a file what it was.

    Attributes:
        keep: bytes of it that stay.
        pieces: what follows them.
        problem: why it will not be all that it was, in words; empty if it will.
    """

    keep: int
    pieces: tuple[Piece, ...] = ()
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes that it makes."""
        return self.keep + self.added

    @property
    def added(self) -> int:
        """Bytes of its pieces."""
        return sum(size for _, size in self.pieces)


@dataclass(frozen=True)
class _Cut:
    number: int
    offset: int
    before: int
    size: int
    crc32: int


class Cuts:
    """The cuts of one file, as they are on the disk.

    Args:
        path: the file; it need not exist.
        quoted: whether a newline between ``"`` belongs to a record, as in CSV.
    """

    def __init__(self, path: Path, *, quoted: bool = False) -> None:
        self.path = path
        self._quoted = quoted
        self._list = path.with_name(f"{path.name}.rewound")
        self._cuts = self._read()

    @property
    def newest(self) -> int:
        """Number of the newest cut; 0 for none."""
        return self._cuts[-1].number if self._cuts else 0

    def whole(self) -> Past:
        """Return the file up to the end of its last whole record."""
        return Past(self._whole_records(self.path, _size(self.path)))

    def past(self, place: Place) -> Past:
        """Return how to make the file what it was at a place, or as much of that as there is, in whole records."""
        stop = place.offset
        undone: list[tuple[_Cut, int]] = []
        for cut in self._cuts:
            if cut.number > place.rewound and cut.offset < stop:
                undone.insert(0, (cut, stop - cut.offset))
                stop = cut.offset
        tails = [*(cut.before for cut, _ in undone), place.tail]
        size = _size(self.path)
        if size < stop:
            problem = f"it has {size} bytes, {place.offset} when its state was saved"
            return Past(self._whole_records(self.path, size), problem=problem)
        keep = stop
        if tails[0] is None or tails[0] != tail_of([(self.path, stop)]):
            keep = self._whole_records(self.path, stop)
            if tails[0] is not None:
                return Past(keep, problem=f"what stands before its byte {stop} is not what stood there then")
            if keep < stop:
                return Past(keep, problem=f"no whole record ends at its byte {stop}")
        pieces: list[Piece] = []
        for (cut, wanted), tail in zip(undone, tails[1:], strict=True):
            aside = self._aside(cut.number)
            problem = _damage(aside, cut)
            if not problem:
                found = (aside, self._whole_records(aside, wanted))
                if found[1] < wanted:
                    pieces.append(found)
                    problem = f"no whole record ends at byte {wanted} of {aside.name}"
                elif tail is not None and tail != tail_of([(self.path, keep), *pieces, found]):
                    problem = f"{aside.name} is not of the past that counts"
            if problem:
                return Past(keep, tuple(pieces), problem)
            pieces.append(found)
        return Past(keep, tuple(pieces))

    def restore(self, past: Past, after: int = 0) -> None:
        """Make the file what ``past`` says; what it holds instead is cut off and kept.

        Args:
            past: what it is to be.
            after: what is cut off gets a higher number than this, and than all others.

        Raises:
            OSError: the disk is full, or the like; the file is as it was, or shorter, with whole records.
        """
        size, added = _size(self.path), past.added
        there = self._there(past)
        if there < added and past.keep + there < size:
            there = 0  # another past follows
        if past.keep + there < size:
            self._cut(past.keep + there, max(after, self.newest))
        if there < added:
            with self.path.open("ab", buffering=0) as file:
                try:
                    for chunk in _chunks(past.pieces, there):
                        write_all(file.fileno(), chunk)
                except OSError:
                    file.truncate(past.keep)
                    raise
            names = ", ".join(path.name for path, _ in past.pieces)
            logger.info("bytes %d to %d of %s were put back from %s", past.keep, past.size, self.path, names)
        self._part.unlink(missing_ok=True)  # of a copy that a kill broke off

    # --- cutting

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.rewound.part")

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.rewound-{number}")

    def _cut(self, offset: int, after: int) -> None:
        """Move what is beyond ``offset`` to a file of its own."""
        number = next(number for number in count(after + 1) if not self._aside(number).exists())
        aside = self._aside(number)
        before = tail_of([(self.path, offset)])
        try:
            size, crc = self._copy(offset)
            self._part.replace(aside)
            self._note(_Cut(number, offset, before, size, crc))
        except OSError:
            for path in (self._part, aside):
                path.unlink(missing_ok=True)  # the file has it all
            raise
        os.truncate(self.path, offset)
        logger.warning("%s was cut to %d bytes; what came after is in %s", self.path, offset, aside)

    def _copy(self, offset: int) -> tuple[int, int]:
        """Copy what is beyond ``offset`` to the disk; return its size and CRC-32."""
        size = crc = 0
        with self._part.open("wb", buffering=0) as file:
            for chunk in _chunks([(self.path, _size(self.path))], offset):
                write_all(file.fileno(), chunk)
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
            flush(file.fileno())
        return size, crc

    def _note(self, cut: _Cut) -> None:
        """Add the line of a cut."""
        line = json.dumps(asdict(cut)).encode() + b"\n"
        with self._list.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end and last_bytes([(self._list, end)])[-1:] != b"\n":  # somebody was killed amid a line
                line = b"\n" + line
            try:
                flush_folder(self.path.parent)
                write_all(file.fileno(), line)
                flush(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        self._cuts.append(cut)

    def _read(self) -> list[_Cut]:
        try:
            lines = self._list.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        cuts = {cut.number: cut for cut in map(_parsed, lines) if cut is not None}
        return [cuts[number] for number in sorted(cuts)]

    # --- comparing

    def _there(self, past: Past) -> int:
        """Return how many bytes of the pieces the file has already, e.g. because a kill broke off putting them back."""
        same = 0
        if not past.pieces or not self.path.exists():
            return same
        with self.path.open("rb") as file:
            for chunk in _chunks(past.pieces, 0):
                file.seek(past.keep + same)
                mine = file.read(len(chunk))
                if mine != chunk[: len(mine)]:
                    break
                same += len(mine)
        return same

    def _whole_records(self, path: Path, stop: int) -> int:
        """Return the length of a file, or of its first ``stop`` bytes, up to the end of the last whole record."""
        end = position = 0
        inside = False
        for chunk in _chunks([(path, stop)] if stop else [], 0):
            for index, piece in enumerate(chunk.split(b'"') if self._quoted else (chunk,)):
                if index:
                    inside = not inside
                    position += 1
                newline = -1 if inside else piece.rfind(b"\n")
                if newline >= 0:
                    end = position + newline + 1
                position += len(piece)
        return end


def tail_of(pieces: Sequence[Piece]) -> int:
    """Return the CRC-32 of the last ``TAIL`` bytes of pieces that follow one another."""
    return zlib.crc32(last_bytes(pieces))


def last_bytes(pieces: Sequence[Piece]) -> bytes:
    """Return the last ``TAIL`` bytes of pieces that follow one another."""
    found = b""
    for path, size in reversed(pieces):
        start = max(size - TAIL + len(found), 0)
        found = b"".join(_chunks([(path, size)], start)) + found
    return found


def _chunks(pieces: Sequence[Piece], start: int) -> Iterator[bytes]:
    """Yield what pieces hold, from byte ``start`` of them all on."""
    for path, size in pieces:
        if start < size:
            with path.open("rb", buffering=0) as file:
                position = file.seek(start)
                while position < size and (chunk := file.read(min(CHUNK, size - position))):
                    position += len(chunk)
                    yield chunk
        start = max(start - size, 0)


def _checksum(path: Path) -> int:
    crc = 0
    for chunk in _chunks([(path, _size(path))], 0):
        crc = zlib.crc32(chunk, crc)
    return crc


def _damage(aside: Path, cut: _Cut) -> str:
    """Return what is wrong with what was kept, in words; empty if nothing is."""
    if not aside.exists():
        return f"{aside.name}, which has what was cut off it, is gone"
    if _size(aside) != cut.size or _checksum(aside) != cut.crc32:
        return f"{aside.name} is not what was cut off it: somebody changed it"
    return ""


def _parsed(line: bytes) -> _Cut | None:
    try:
        fields = json.loads(line)
        numbers = [fields[name] for name in ("number", "offset", "before", "size", "crc32")]
    except (ValueError, KeyError, TypeError):
        return None
    return _Cut(*numbers) if all(type(number) is int and number >= 0 for number in numbers) else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
