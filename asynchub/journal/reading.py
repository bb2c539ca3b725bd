"""Reading the files of a journal that nobody writes, or a copy of what somebody writes at this moment.

Torn or damaged: where the frames of the newest segment end before the file does, nothing after that was promised,
    unless a later frame says that it was on the disk: then what was promised is damaged, and that is an error.
    Every frame carries the newest ``seq`` that was on the disk when it was made, so the two can be told apart.
Threads: any thread may call anything here; nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from asynchub.ancestry import Fork, Forks, fork_of, rewound_id
from asynchub.batches import Batch, decode_batch, decode_event
from asynchub.codec.decoder import loads
from asynchub.errors import ArgumentError, CorruptStateError, JournalCorruptError, StateError
from asynchub.events import Rewound
from asynchub.journal.frames import (
    REWINDS,
    RUN_ID,
    SEGMENT_SIZE,
    Frame,
    Kind,
    SegmentHead,
    frames,
    later_frame,
    read_head,
)
from asynchub.journal.tailing import scan

__all__ = ("Damage", "Journaled", "Mode", "Segment", "name_in", "opening_in", "read_journal", "segment_files")

Mode = Literal["strict", "salvage", "point-in-time"]
"""What damage to what was promised leads to: ``"strict"``, an error; ``"salvage"``, all that can be read is, around
the damage; ``"point-in-time"``, all before it is."""
NAME = re.compile(r"(\d{20})-(\d{6})\.ahj")


@dataclass(frozen=True, slots=True)
class Damage:
    """Events that were promised and cannot be read.

    Attributes:
        path: the segment in which they were, or behind which.
        offset: the byte at which the damage begins.
        first_seq: the first of them.
        last_seq: the last of them; None if that is not known.
    """

    path: Path
    offset: int
    first_seq: int
    last_seq: int | None

    def __str__(self) -> str:
        upto = "what follows" if self.last_seq is None else f"event {self.last_seq}"
        return f"{self.path}: damaged from byte {self.offset} on: events {self.first_seq} to {upto} cannot be read"


@dataclass(slots=True)
class Segment:
    """A segment, and what of it can be read.

    Attributes:
        path: the file.
        head: what it says of itself; None if that is damaged.
        size: bytes of the file.
        whole: bytes of it, from the beginning, that are whole frames.
        frames: its frames.
        index: its number.
        last_seq: ``seq`` of the newest event in it and before it.
    """

    path: Path
    head: SegmentHead | None
    size: int
    whole: int
    frames: list[Frame]
    index: int
    last_seq: int = 0

    @property
    def closed(self) -> bool:
        """Whether nothing is to come after its last frame."""
        return bool(self.frames) and self.frames[-1].kind == Kind.CLOSE

    @property
    def torn(self) -> int:
        """Bytes behind the last whole frame."""
        return self.size - self.whole


@dataclass(slots=True)
class Journaled:
    """What the files of a journal hold.

    Attributes:
        folder: of the journal.
        run_id: identity of the run, 16 bytes; None of an empty one.
        name: of the hub that wrote it, or "".
        segments: its segments, oldest first.
        damages: what was promised and cannot be read.
        tail: batches beyond the segments.
        last_seq: ``seq`` of the newest event, the tail's included.
        durable_seq: every event up to this one was on the disk, as the files say.
    """

    folder: Path
    run_id: bytes | None = None
    name: str = ""
    segments: list[Segment] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    tail: list[Batch] = field(default_factory=list)
    last_seq: int = 0
    durable_seq: int = 0

    @property
    def closed(self) -> bool:
        """Whether whoever wrote it last has ended it; so is an empty one."""
        return not self.last_seq or (not self.tail and bool(self.segments) and self.segments[-1].closed)

    @property
    def first_seq(self) -> int:
        """Events before this ``seq`` are not here: they were compacted away."""
        head = self.segments[0].head if self.segments else None
        return head.first_seq if head is not None else 1

    def batches(self, after: int = 0, upto: float = float("inf")) -> Iterator[Batch]:
        """Yield the events with a ``seq`` above ``after`` and at most ``upto``, each once, in order.

        Raises:
            CorruptStateError: the payload of a frame is not what a frame holds.
        """
        for segment in self.segments:
            for frame in segment.frames:
                if frame.kind == Kind.EVENTS and after < frame.last_seq and frame.first_seq <= upto:
                    batch = decode_batch(frame.payload)
                    if batch.seqs != (frame.first_seq, frame.last_seq):
                        raise CorruptStateError(f"{segment.path}: a frame has other events than it says: {batch.seqs}")
                    yield batch.between(after, upto)
                    after = frame.last_seq
        for batch in self.tail:
            if batch.seqs[1] > after and batch.seqs[0] <= upto:
                yield batch.between(after, upto)
                after = batch.seqs[1]

    def newest_first(self, after: int = 0) -> Iterator[Batch]:
        """Yield the events with a ``seq`` above ``after``, each once; the batches from the newest to the oldest.

        Raises:
            CorruptStateError: the payload of a frame is not what a frame holds.
        """
        upto = float("inf")
        for batch in reversed(self.tail):
            yield batch.between(after, upto)
            upto = min(upto, batch.seqs[0] - 1)
        for segment in reversed(self.segments):
            for frame in reversed(segment.frames):
                if frame.kind == Kind.EVENTS and frame.first_seq <= upto and frame.last_seq > after:
                    yield decode_batch(frame.payload).between(after, upto)
                    upto = frame.first_seq - 1

    def rewinds(self) -> list[tuple[int, int]]:
        """Return, of each ``Rewound``, its ``seq`` and ``to_seq``, oldest first."""
        return [(one.seq, one.to_seq) for one in self._rewinds()]

    def _rewinds(self) -> list[Rewound]:
        found: dict[int, Rewound] = {}
        flagged = [frame for segment in self.segments for frame in segment.frames if frame.flags & REWINDS]
        for batch in [*(decode_batch(frame.payload) for frame in flagged if frame.kind == Kind.EVENTS), *self.tail]:
            for _, data in batch.events:
                event, _ = decode_event(data)
                if isinstance(event, Rewound):
                    found[event.seq] = event
        return [found[seq] for seq in sorted(found)]

    def lineage(self, upto: float = float("inf")) -> list[tuple[int, float]]:
        """Return what counts up to a ``seq``: stretches ``(after, upto]``, oldest first, without what was rewound."""
        stretches: list[tuple[int, float]] = []
        rewinds = self.rewinds()
        while (last := next((one for one in reversed(rewinds) if one[0] <= upto), None)) is not None:
            seq, to_seq = last
            stretches.append((seq - 1, upto))
            rewinds = [one for one in rewinds if one[0] < seq]
            upto = to_seq
        return [(0, upto), *reversed(stretches)]

    def forks(self, upto: float = float("inf")) -> Forks:
        """Return what the record has come by that counts up to a ``seq``, as far as it is here; nothing after damage.

        Raises:
            CorruptStateError: the payload of a frame is not what a frame holds.
        """
        if self.damages:
            return ()
        every = (frame for segment in self.segments for frame in segment.frames)
        frames = [frame for frame in every if frame.kind == Kind.CONTROL and frame.payload]
        openings = {found.id: found for frame in frames if (found := opening_in(frame)) is not None}
        rewinds = {one.seq: one for one in self._rewinds()}
        path: list[Fork] = []
        for after, until in self.lineage(upto):
            back = rewinds.get(after + 1)
            if back is not None:
                path.append(Fork(rewound_id(back.seq, back.time), back.to_seq, after))
            path += [one for one in openings.values() if after < one.at <= until or one.at == after == 0]
        return tuple(path)


def segment_files(folder: Path) -> list[tuple[int, int, Path]]:
    """Return number, first ``seq`` and path of each segment in a folder, oldest first.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    found = []
    for path in folder.iterdir():
        if match := NAME.fullmatch(path.name):
            found.append((int(match[2]), int(match[1]), path))
    return sorted(found)


def read_journal(folder: Path, mode: Mode = "strict") -> Journaled:
    """Return what a journal holds; nothing is changed.

    Args:
        folder: of the journal.
        mode: what damage leads to; see ``Mode``.

    Raises:
        FileNotFoundError: there is no such folder.
        JournalCorruptError: what was promised is damaged, and ``mode`` is ``"strict"``.
        CorruptStateError: files of two runs are in the folder.
        UnknownTypeError: a newer version wrote it.
        ArgumentError: ``mode`` is none.
    """
    if mode not in ("strict", "salvage", "point-in-time"):
        raise ArgumentError(f"mode must be 'strict', 'salvage' or 'point-in-time', got {mode!r:.80}")
    journal = Journaled(folder)
    files = segment_files(folder)
    for number, (index, first_seq, path) in enumerate(files):
        _read_segment(journal, index, first_seq, path, files[number + 1 :], mode)
        if journal.damages and mode == "point-in-time":
            break
    if journal.damages and mode == "strict":
        raise JournalCorruptError(journal.damages)
    if not (journal.damages and mode == "point-in-time"):
        after = max([journal.last_seq, *(damage.last_seq or 0 for damage in journal.damages)])
        journal.run_id, journal.tail = scan(folder, journal.run_id, after, mode == "salvage" and bool(journal.damages))
        if journal.tail:
            journal.last_seq = journal.tail[-1].seqs[1]
    return journal


def _read_segment(
    journal: Journaled, index: int, first_seq: int, path: Path, later: Sequence[tuple[int, int, Path]], mode: Mode
) -> None:
    data = path.read_bytes()
    known = len(journal.damages)
    try:
        head: SegmentHead | None = read_head(data[:SEGMENT_SIZE])
    except CorruptStateError:
        head = None
    if head is not None:
        _check_head(journal, head, index, first_seq, path)
        seed = head.seed
    else:  # its frames can be read still: what the head says is known from its name and those before it
        seed = SegmentHead(journal.run_id or data[RUN_ID], index, first_seq, 0).seed
    found = list(frames(data, seed)) if head is not None else []
    segment = Segment(path, head, len(data), found[-1].end if found else (SEGMENT_SIZE if head else 0), found, index)
    journal.segments.append(segment)
    _count(journal, found)
    promised = later[0][1] - 1 if later else 0
    if segment.torn:
        _look_behind(journal, segment, data, seed, mode, promised)
    if promised > journal.last_seq and len(journal.damages) == known:
        journal.damages.append(Damage(path, segment.whole, journal.last_seq + 1, promised))
    segment.last_seq = journal.last_seq


def _check_head(journal: Journaled, head: SegmentHead, index: int, first_seq: int, path: Path) -> None:
    if journal.run_id not in (None, head.run_id):
        raise CorruptStateError(f"{path} belongs to run {head.run_id.hex()}, those before it do not")
    if (head.number, head.first_seq) != (index, first_seq):
        raise CorruptStateError(f"{path} says that it is segment {head.number}, from event {head.first_seq} on")
    journal.run_id = head.run_id


def _count(journal: Journaled, found: Sequence[Frame]) -> None:
    for frame in found:
        journal.durable_seq = max(journal.durable_seq, frame.durable_seq)
        journal.last_seq = max(journal.last_seq, frame.last_seq)
        if frame.kind == Kind.CONTROL and not journal.name:
            journal.name = name_in(frame)


def name_in(frame: Frame) -> str:
    """Return the name of the hub that a frame of the kind ``CONTROL`` says; "" if it says none."""
    try:
        tree = loads(frame.payload)
    except StateError:
        return ""
    name = tree.get("hub") if isinstance(tree, dict) else None
    return name if isinstance(name, str) else ""


def opening_in(frame: Frame) -> Fork | None:
    """Return what a frame of the kind ``CONTROL`` says of an opening, as of ``writing.opened``; None if nothing."""
    try:
        tree = loads(frame.payload)
    except StateError:
        return None
    found = tree.get("opened") if isinstance(tree, dict) else None
    return fork_of([*found, *found[1:]]) if isinstance(found, list) else None


def _look_behind(journal: Journaled, segment: Segment, data: bytes, seed: int, mode: Mode, promised: int) -> None:
    """Find out whether what is behind the last whole frame of a segment had been promised."""
    first, place = journal.last_seq + 1, max(segment.whole, SEGMENT_SIZE - 1)
    following: list[Frame] = []
    while (frame := later_frame(data, seed, place)) is not None:
        following += [frame, *frames(data, seed, frame.end)]
        place = following[-1].end - 1
    acknowledged = max([promised, *(frame.durable_seq for frame in following)])
    headless = segment.head is None and segment.size > SEGMENT_SIZE  # the head was on the disk before anything else
    if acknowledged < first and not headless:
        return
    after = [frame.first_seq - 1 for frame in following if frame.kind == Kind.EVENTS]
    last = min([*after[:1], *([acknowledged] if acknowledged >= first else [])], default=None)
    journal.damages.append(Damage(segment.path, segment.whole, first, last and max(last, first)))
    if mode == "salvage":
        segment.frames += following
        _count(journal, following)
