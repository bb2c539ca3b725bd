"""The file that a viewer keeps the closed buckets of a run in, to open it at once the next time.

It is a cache: it may be deleted at any time, and holds nothing that is not in the journal.
Whole: it is only appended to. A frame that a killed viewer has torn ends it; what is behind is cut off by the next
    viewer that writes. Every byte has a checksum: that of what says where things are is looked at when the file is
    opened, that of buckets when they are read.
Safe: it is read with system calls. In a mapping, a page that somebody cuts off would kill whoever looks at it, and a
    disk that fails, too.
Threads: one at a time uses an object; any number of processes may read while one appends.

The layout is written down in ``docs/formats/pyramid.md``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack
import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined
from asynchub.dashboard.growing import LEVELS, Owned, width_of
from asynchub.dashboard.packing import pack, unpack
from asynchub.dashboard.points import Place
from asynchub.dashboard.pyramid_blocks import Block, Blocks, Table
from asynchub.errors import CorruptStateError, StateError
from asynchub.statefile import replace_file, write_all

__all__ = ("NONE", "PyramidFile", "RunState")

MAGIC = b"\x89AHY\r\n\x1a\n"
VERSION = 2
HEAD = struct.Struct("<8sHH16sI8s")
"""Magic, version, 0, identity of the run, what the width of level 0 is 2 to the power of, random bytes."""
CHECKSUM = struct.Struct("<I")
START = HEAD.size + CHECKSUM.size
SYNC = b"AHY1"
FRAME = struct.Struct("<4sIIQ")
"""Sync, checksum of what follows and of the directory, bytes of the directory, bytes of the body."""
NONE = 2**63 - 1
"""Stands for the smallest step of no value."""
LONGEST = 2**31
"""Bytes that a directory or a body may have."""
MOST_FRAMES = 8
"""Frames that a file may have before it is thought of making them one."""
MOST_COMPACTED = 2**28
"""Bytes of a file, at most, that are copied for that."""


@dataclass(slots=True)
class RunState:
    """What is known of a run up to an event, beside its closed buckets.

    Attributes:
        shift: level 0 has buckets ``2**shift`` steps wide; None while the run is so young that it has none.
        seq: everything up to this event is in it.
        keys: the keys, by number.
        seen: how many values of each there are that count.
        lows: the smallest step of each; ``NONE`` of one without a value.
        highs: the largest one, or the end of its bucket; ``-NONE`` of one without a value.
        opens: the open buckets of each level, by key.
        rewinds: ``seq`` and ``to_seq`` of each ``Rewound``.
        epochs: ``seq`` and value of each update of the runtime info ``epoch``, those that do not count, too.
        began: when the first event was published, in seconds since the epoch; NaN if there was none.
        newest: when the newest one was.
        missed: how many events nobody has any more.
        place: the frame of the journal that has ``seq``.
        end: number and bytes of the newest segment when it had been read to its end.
    """

    shift: int | None = None
    seq: int = 0
    keys: list[str] = field(default_factory=list)
    seen: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    lows: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    highs: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    opens: list[Owned] = field(default_factory=lambda: [Owned.none() for _ in range(LEVELS)])
    rewinds: list[tuple[int, int]] = field(default_factory=list)
    epochs: list[tuple[int, float]] = field(default_factory=list)
    began: float = float("nan")
    newest: float = float("nan")
    missed: int = 0
    place: Place | None = None
    end: tuple[int, int] = (0, 0)


class PyramidFile:
    """Closed buckets, appended to a file.

    Attributes:
        path: the file.
        state: what it has as of its newest frame; None of an empty one.
        size: bytes of its whole frames, and its head.

    Args:
        path: the file; it need not be there.
        run_id: identity of the run, 16 bytes. What belongs to another one, or is damaged, counts as not there.
    """

    def __init__(self, path: Path, run_id: bytes) -> None:
        self.path = path
        self.state: RunState | None = None
        self.size = 0
        self._run_id = run_id
        self._seed = 0
        self._file: int | None = None
        self._tables: list[Table] = []
        self.load()

    @property
    def frames(self) -> int:
        """How many frames it has."""
        return len(self._tables)

    def load(self) -> None:
        """Read what it has, anew."""
        self.close()
        self.state, self.size, self._tables = None, 0, []
        try:
            self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except OSError:  # none yet, or none that may be read
            return
        try:
            state, place = self._head()
            end = os.fstat(self._file).st_size
            self.size = place
            for directory, body, after in self._frames(place, end):
                self._tables.append(Table.of(body, directory["blocks"]))
                _read_into(state, directory)
                self.state, self.size = state, after
        except (StateError, KeyError, TypeError, ValueError, struct.error, OSError):  # damaged where no checksum is
            self.forget()

    def forget(self) -> None:
        """Take it for one that is not there."""
        self.close()
        self.state, self.size, self._tables = None, 0, []

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _head(self) -> tuple[RunState, int]:
        head = self._at(0, START)
        if len(head) < START or CHECKSUM.unpack_from(head, HEAD.size)[0] != crc32(head[: HEAD.size]):
            raise CorruptStateError(f"{self.path} has no head")
        magic, version, _, run_id, shift, _ = HEAD.unpack_from(head)
        if (magic, version, run_id) != (MAGIC, VERSION, self._run_id):
            raise CorruptStateError(f"{self.path} is of another run, or of another version")
        self._seed = crc32(head)
        return RunState(shift=shift), START

    def _frames(self, place: int, end: int) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Yield of each whole frame its directory, where its body begins and where it ends."""
        while len(head := self._at(place, FRAME.size)) == FRAME.size:
            sync, checksum, size, body = FRAME.unpack(head)
            after = place + FRAME.size + size + body
            if sync != SYNC or size > LONGEST or body > LONGEST or after > end:
                return
            data = self._at(place + FRAME.size, size)
            if crc32(data, crc32(head[8:], self._seed)) != checksum:
                return
            yield msgpack.unpackb(data, unicode_errors="surrogatepass"), after - body, after
            place = after

    def _at(self, offset: int, size: int) -> bytes:
        if self._file is None:
            raise CorruptStateError(f"{self.path} is not open")
        if hasattr(os, "pread"):
            return os.pread(self._file, size, offset)
        os.lseek(self._file, offset, os.SEEK_SET)
        return os.read(self._file, size)

    # --- buckets

    def count(self, owner: int, level: int) -> int:
        """Return how many closed buckets it has of a key at a level."""
        for table in reversed(self._tables):
            if (end := table.end(owner, level)) is not None:
                return end
        return 0

    def rows(
        self, owner: int, level: int, most: int, low: int = -NONE, high: int = NONE, after: Buckets | None = None
    ) -> Buckets:
        """Return those of the first ``most`` closed buckets that it has of a key at a level which are near some steps.

        Args:
            owner: number of the key.
            level: the level.
            most: how many there are for this.
            low: blocks whose first values have all smaller steps may be left out.
            high: and those whose first values have all larger ones.
            after: buckets to be put behind them.

        Raises:
            CorruptStateError: they are damaged.
            OSError: they cannot be read.
        """
        width = width_of(self.state.shift or 0, level) if self.state is not None else 1
        parts: list[Buckets] = []
        left = most
        for table in reversed(self._tables):  # what a later one begins with stands in place of what was there
            blocks = table.named(owner, level)
            for block in reversed(blocks):
                if block.rows and block.start < left and block.high >= low and block.low <= high:
                    whole = block.rows <= left - block.start
                    part = self._unpacked(table.body, block, width, after if whole else None)
                    if after is not None and not whole:
                        parts.append(after)
                    after = None
                    parts.append(part if whole else part.take(slice(0, left - block.start)))
            if blocks:
                left = min(left, blocks[0].start)
        return joined([*parts[::-1], *([] if after is None else [after])], width)

    def _unpacked(self, body: int, block: Block, width: int, after: Buckets | None = None) -> Buckets:
        data = self._at(body + block.offset, block.size)
        if crc32(data) != block.crc:
            raise CorruptStateError(f"{self.path}: buckets are damaged")
        part = unpack(data, width, after)
        size = part.size - (0 if after is None else after.size)
        if size != block.rows:
            raise CorruptStateError(f"{self.path}: there are {size} buckets where {block.rows} should be")
        return part

    # --- writing

    def append(self, state: RunState, closed: Sequence[Owned], kept: Mapping[tuple[int, int], int]) -> None:
        """Add buckets that were closed, and what is known of the run now. Only for who has the lock.

        Args:
            state: what is known of the run, with a ``shift``.
            closed: the buckets of each level, in the order of keys.
            kept: of which keys and levels only that many of the buckets count that it has.

        Raises:
            OSError: it cannot be written.
        """
        if self.state is None or self._file is None:
            self.forget()
            self._replace(state, *self._packed(closed, {}))
            return
        known = len(self.state.keys) if self.state is not None else 0
        frame = _frame(state, known, self._seed, *self._packed(closed, kept))
        descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            os.ftruncate(descriptor, self.size)  # what a killed viewer has left
            os.lseek(descriptor, self.size, os.SEEK_SET)
            write_all(descriptor, frame)
        finally:
            os.close(descriptor)
        self.load()

    def _packed(self, closed: Sequence[Owned], kept: Mapping[tuple[int, int], int]) -> tuple[Array, bytes]:
        """Return the table of blocks, in the order of their ids, and the blocks."""
        blocks = Blocks()
        left = dict(kept)
        for level, rows in enumerate(closed):
            owners, starts = np.unique(rows.owners, return_index=True)
            stops = np.append(starts[1:], rows.rows.size)[: len(starts)]
            for owner, start, stop in zip(owners.tolist(), starts.tolist(), stops.tolist(), strict=True):
                begins = left.pop((owner, level), self.count(owner, level))
                blocks.add(owner, level, begins, rows.rows.take(slice(start, stop)))
        for (owner, level), begins in left.items():
            blocks.add(owner, level, begins, Buckets.none())
        return blocks.table(), b"".join(blocks.parts)

    def is_scattered(self, ended: bool) -> bool:
        """Tell whether what it has should be one frame; ``ended`` if nothing more is likely to come."""
        sizes = [int(table.blocks["rows"].sum()) for table in self._tables]
        often = len(sizes) > 1 if ended else len(sizes) > MOST_FRAMES and 2 * sizes[0] <= sum(sizes)
        return often and self.size < MOST_COMPACTED

    def compact(self) -> None:
        """Make one frame of all that it has. Only for who has the lock.

        Raises:
            CorruptStateError: what it has is damaged.
            OSError: it cannot be written.
        """
        state = self.state
        if state is not None:
            blocks = Blocks()
            for owner in range(len(state.keys)):
                for level in range(LEVELS):
                    if count := self.count(owner, level):
                        blocks.add(owner, level, 0, self.rows(owner, level, count))
            self._replace(state, blocks.table(), b"".join(blocks.parts))

    def _replace(self, state: RunState, blocks: Array, body: bytes) -> None:
        """Put a new file in the place of what there is: its head, and one frame."""
        head = HEAD.pack(MAGIC, VERSION, 0, self._run_id, state.shift or 0, os.urandom(8))
        head += CHECKSUM.pack(crc32(head))
        frame = _frame(state, 0, crc32(head), blocks, body)
        replace_file(self.path, lambda descriptor: write_all(descriptor, head + frame), sync=False)
        self.load()

    def is_there(self) -> bool:
        """Tell whether it is the file that has this path still."""
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def has_changed(self) -> bool:
        """Tell whether there is another file now, or more in it, than was read."""
        try:
            return not self.is_there() or os.stat(self.path).st_size != self.size
        except FileNotFoundError:
            return False


def _frame(state: RunState, known: int, seed: int, blocks: Array, body: bytes) -> bytes:
    place = state.place
    tree = {
        "seq": state.seq,
        "keys": state.keys[known:],
        "seen": state.seen.tobytes(),
        "lows": state.lows.tobytes(),
        "highs": state.highs.tobytes(),
        "opens": [[one.owners.tobytes(), pack(one.rows)] if one.rows.size else [] for one in state.opens],
        "rewinds": state.rewinds,
        "epochs": state.epochs,
        "times": [state.began, state.newest],
        "missed": state.missed,
        "place": list(place) if place is not None else [],
        "end": state.end,
        "blocks": blocks.tobytes(),
    }
    directory: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
    head = FRAME.pack(SYNC, 0, len(directory), len(body))
    checksum = crc32(directory, crc32(head[8:], seed))
    return FRAME.pack(SYNC, checksum, len(directory), len(body)) + directory + body


def _read_into(state: RunState, tree: dict[str, Any]) -> None:
    """Let a state be that of a frame, which is the next one."""
    state.seq = tree["seq"]
    state.keys += tree["keys"]
    state.seen, state.lows, state.highs = (np.frombuffer(tree[name], "<i8") for name in ("seen", "lows", "highs"))
    state.opens = [
        Owned(np.frombuffer(one[0], "<i8"), unpack(one[1], width_of(state.shift or 0, level))) if one else Owned.none()
        for level, one in enumerate(tree["opens"])
    ]
    state.rewinds = [(seq, to_seq) for seq, to_seq in tree["rewinds"]]
    state.epochs = [(seq, epoch) for seq, epoch in tree["epochs"]]
    state.began, state.newest = tree["times"]
    state.missed = tree["missed"]
    state.place = Place(*tree["place"]) if tree["place"] else None
    state.end = tuple(tree["end"])
