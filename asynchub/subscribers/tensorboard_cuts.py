"""Event files taken back to an earlier state: what does not count is moved where readers pass over it, and kept.

    events.out.rewound.<rest of the name>-N  what a file had beyond the place where it was cut
    asynchub.cuts.<run>                      a line of JSON for each piece that was cut off, oldest first: ``number`` of
                                             the cut that it belongs to; ``file``, from which it is; ``start``, its
                                             place there; ``size`` and ``crc32``; ``aside``, the file that has it

Each byte of an event file is written once: a life begins a file of its own. So what the files had when a state was
saved, up to the place that it names, is in them still, or in what cuts since then have moved.

Readers: never go back in a file. They forget what they have from a step on when they come upon a ``SessionLog`` that
    says START; what counts nevertheless, and what counts again, is written once more behind it, in a new file. Files
    are cut, too: TensorBoard's fast loader (0.8) pays no heed to a ``SessionLog``.
Trusted: nothing by its name: a piece counts if its CRC is that of its line. Lines that cannot be read are passed over.
Killed: at any moment, nothing is lost: what is cut off is under its name, with its line, before a file becomes shorter.
    Doing the same again ends at the same; it may keep the same bytes twice.
Threads: one at a time.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from asynchub.statefile import write_all
from asynchub.subscribers.tensorboard_writers import Backend, files_of, records_in

__all__ = ("EventCuts", "Part")

CHUNK = 1 << 20


class Part(NamedTuple):
    """Bytes of a file, from ``start`` to ``stop``."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class _Piece:
    number: int
    file: str
    start: int
    size: int
    crc32: int
    aside: str

    @property
    def end(self) -> int:
        return self.start + self.size


class EventCuts:
    """The cuts of the files of one run.

    Args:
        backend: whose messages.
        folder: where the files are.
        run: whose files.
    """

    def __init__(self, backend: Backend, folder: Path, run: str) -> None:
        self._backend = backend
        self._folder = folder
        self._run = run
        self._list = folder / f"asynchub.cuts.{run}"
        self._pieces = self._read()

    @property
    def newest(self) -> int:
        """Number of the newest cut; 0 for none."""
        return max((piece.number for piece in self._pieces), default=0)

    def cut(self, name: str, size: int, keep: bool) -> list[int]:
        """Cut the files behind the first ``size`` bytes of the file ``name``; later files go as a whole.

        Args:
            name: the newest file of which something counts; empty if nothing does.
            size: bytes of it that count.
            keep: whether what is cut stays; not, if it never counted.

        Returns:
            The steps of what was cut.

        Raises:
            OSError: the disk said no.
        """
        steps: list[int] = []
        number = self.newest + 1
        for path in files_of(self._folder, self._run):
            start = size if path.name == name else 0
            if path.name < name or start >= path.stat().st_size:
                continue
            steps += self._steps_of([Part(path, start, path.stat().st_size)])
            if keep:
                self._note(self._moved(number, path, start))
            os.truncate(path, start)  # an empty file stays: a new one of the same name would be an old one to readers
        return steps

    def parts(self, name: str, size: int, number: int) -> tuple[list[Part], list[Part], str]:
        """Return what the files had at a place when ``number`` was that of the newest cut; they are cut to it by now.

        Returns:
            All of it, in the order in which it was read; what of it the files do not have; and what is missing, in
            words, empty if nothing is.
        """
        found: list[Part] = []
        back: list[Part] = []
        problem = ""
        names = {path.name for path in files_of(self._folder, self._run)}
        since = [piece for piece in self._pieces if piece.number > number]
        for file in sorted(names | {piece.file for piece in since}):
            path = self._folder / file
            end = path.stat().st_size if file in names else 0
            found.append(Part(path, 0, end))
            for piece in sorted((one for one in since if one.file == file), key=lambda one: one.start):
                upto = piece.end if file < name else min(piece.end, size) if file == name else 0
                if upto <= max(end, piece.start):
                    continue
                if piece.start > end or not self._is_whole(piece):
                    problem = (
                        f"{piece.aside}, which has bytes {piece.start} to {piece.end} of {file}, is not what it was"
                    )
                    continue
                part = Part(self._folder / piece.aside, end - piece.start, upto - piece.start)
                found.append(part)
                back.append(part)
                end = upto
            if file == name and end < size:
                problem = problem or f"{file} has {end} bytes, {size} when its state was saved"
        return [part for part in found if part.stop > part.start], back, problem

    def survivors(self, parts: Iterable[Part], back: Iterable[Part], step: int) -> list[bytes]:
        """Return the records of values that a reader of some parts has at their end.

        Args:
            parts: they, in order.
            back: those of them of which everything is wanted.
            step: of the others, what is of this step and beyond.
        """
        again = set(back)
        kept: list[tuple[int, bytes]] = []
        for part in parts:
            for data in records_in(self._backend, *part):
                event = self._backend.event.FromString(data)
                if self._backend.is_restart(event):
                    kept = [one for one in kept if one[0] < event.step]
                elif event.HasField("summary") and (part in again or event.step >= step):
                    kept.append((event.step, data))
        return [data for _, data in kept]

    def steps_of(self, parts: Iterable[Part]) -> list[int]:
        """Return the steps of the records in some parts."""
        return list(self._steps_of(parts))

    def _steps_of(self, parts: Iterable[Part]) -> Iterator[int]:
        for part in parts:
            for data in records_in(self._backend, *part):
                event = self._backend.event.FromString(data)
                if event.HasField("summary") or self._backend.is_restart(event):
                    yield event.step

    # --- what was cut off

    def _moved(self, number: int, path: Path, start: int) -> _Piece:
        """Copy what a file has from ``start`` on."""
        aside = _free(path)
        size = crc = 0
        with path.open("rb") as source, aside.open("xb") as target:
            source.seek(start)
            while chunk := source.read(CHUNK):
                target.write(chunk)
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        return _Piece(number, path.name, start, size, crc, aside.name)

    def _note(self, piece: _Piece) -> None:
        line = json.dumps(asdict(piece)).encode() + b"\n"
        with self._list.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                write_all(file.fileno(), b"\n" + line)  # somebody may have been killed amid a line
            except OSError:
                file.truncate(end)
                raise
        self._pieces.append(piece)

    def _read(self) -> list[_Piece]:
        try:
            lines = self._list.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [piece for piece in map(_parsed, lines) if piece is not None]

    def _is_whole(self, piece: _Piece) -> bool:
        crc = size = 0
        try:
            with (self._folder / piece.aside).open("rb") as file:
                while chunk := file.read(CHUNK):
                    crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        except FileNotFoundError:
            return False
        return (size, crc) == (piece.size, piece.crc32)


def _parsed(line: bytes) -> _Piece | None:
    try:
        fields = json.loads(line)
        piece = _Piece(**fields)
    except (ValueError, TypeError):
        return None
    numbers = piece.number, piece.start, piece.size, piece.crc32
    names = piece.file, piece.aside
    sound = all(type(number) is int and number >= 0 for number in numbers)
    return piece if sound and all(isinstance(name, str) and Path(name).name == name for name in names) else None


def _free(path: Path) -> Path:
    """Return a name, next to ``path``, under which nothing is and that readers pass over."""
    number = 1
    while (kept := path.with_name(f"{path.name.replace('tfevents', 'rewound')}-{number}")).exists():
        number += 1
    return kept
