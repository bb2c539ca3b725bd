"""The journal: every event of a hub in files, from which a killed run comes back.

Three levels of acknowledgement, from what has been promised when the call returned:

    ``memory``   publish: the event is in this process. ``kill -9`` may take the last ``interval`` of it.
    ``process``  publish: the event survives ``kill -9`` and the out-of-memory killer, on a local file system. A power
        failure may take the last ``interval``; what remains is a beginning without a gap.
    ``disk``     ``hub.commit()``, ``await hub.committed()``: the event survives a power failure, if the device honours
        a flush.

Order: as in the hub's log.
Waiting: a publish waits for no disk; only if the tail is full, which takes more than ``tail`` bytes in ``interval``
    seconds, or one event that is larger, for a ``write``; and with the level ``disk``, in each publish, for the disk.
Failure: a disk that refuses never ends a run. Events are then held in memory, up to ``backlog``, and written when it
    takes them again; ``JournalDegraded`` and ``JournalRestored`` say so, and ``commit`` raises meanwhile.
Threads: one of its own writes; where a publish has to, in the main thread, another one does it: a signal handler cannot
    break into it there.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from asynchub.ancestry import Fork
from asynchub.batches import Batch, events_of, shifted
from asynchub.codec.registry import Registry
from asynchub.errors import ArgumentError, DeadlockError, JournalError
from asynchub.events import Event, InfoRemoved
from asynchub.filing import Run
from asynchub.journal.filling import past_batches
from asynchub.journal.flushing import Flushing, put_nothing
from asynchub.journal.folder import compact, lock_folder
from asynchub.journal.opening import catch_up, open_segments, removed_infos
from asynchub.journal.putting import HALF, Tail
from asynchub.journal.reading import Journaled, segment_files
from asynchub.journal.segments import SegmentReader
from asynchub.journal.tail import NAME
from asynchub.journal.taking import Taking
from asynchub.journal.writing import SegmentWriter, built, opened
from asynchub.locking import FolderLock
from asynchub.taps import Commit

__all__ = ("Journal", "Level")

Level = Literal["memory", "process", "disk"]
"""What has been promised when a publish returned; see the module."""
END_TIMEOUT = 60.0
"""Seconds that ``end`` waits for the thread, which may be waiting for the disk."""


class Journal(Flushing):
    """Write every event of a hub to a folder. ``hub.attach(Journal("run/journal"))``.

    It begins with what the hub has recorded before. In a folder that holds a journal of the same run already it goes
    on; where the hub is at an earlier state than that, a ``Rewound`` says that what came after does not count.

    Args:
        path: the folder; it is created.
        level: what a publish promises; see the module.
        interval: seconds between two writes to a segment and flushes of the disk.
        segment_size: bytes from which on a segment is followed by another one.
        compact: whether segments go when a snapshot beside the folder, ``hub.save(run)``, has made them needless for
            resuming. Readers that come later then see less of the past.
        backlog: events that are held in memory while the disk refuses; those beyond are lost, and counted.
        tail: bytes of the tail, a multiple of 8192.
        registry: the classes that may occur in events beyond the built-in ones; default the hub's.

    Raises:
        ArgumentError: an argument is out of range.
    """

    name = "journal"

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        level: Level = "process",
        interval: float = 0.1,
        segment_size: int = 2**26,
        compact: bool = False,
        backlog: int = 4_000_000,
        tail: int = 2 * HALF,
        registry: Registry | None = None,
    ) -> None:
        if level not in ("memory", "process", "disk"):
            raise ArgumentError(f"level must be 'memory', 'process' or 'disk', got {level!r:.80}")
        if not isinstance(interval, int | float) or not interval > 0:
            raise ArgumentError(f"interval must be seconds, above 0, got {interval!r:.80}")
        for name, number, least in (("segment_size", segment_size, 1), ("backlog", backlog, 1), ("tail", tail, 8192)):
            if type(number) is not int or number < least:
                raise ArgumentError(f"{name} must be an int from {least} on, got {number!r:.80}")
        if tail % 8192:
            raise ArgumentError(f"tail must be a multiple of 8192, got {tail}")
        super().__init__(Path(path), interval, backlog)
        self.level = level
        self.compact = compact
        self._segment_size = segment_size
        self._tail_size = tail
        self._registry = registry

    # --- living

    def begin(self, hub: Any) -> None:
        """Take what ``hub`` publishes from now on; called by ``hub.attach``.

        Raises:
            JournalError: another writer has the folder, or it holds the journal of another run.
            JournalCorruptError: events that the journal had promised are damaged.
            OSError: the folder cannot be written.
        """
        if self._open:
            raise JournalError(f"{self.path} is attached to hub {self._hub.instance_name!r} already; make another one")
        lock = lock_folder(self.path)
        try:
            writer, found = open_segments(self.path, hub, self._segment_size)
            try:
                self._start(hub, lock, writer, found)
            except BaseException:
                writer.abandon()
                raise
        except BaseException:
            lock.release()
            raise

    def _start(self, hub: Any, lock: FolderLock, writer: SegmentWriter, found: Journaled) -> None:
        self._begin(hub, lock, writer, found.last_seq)
        bus = self._bus
        self._pid = os.getpid()
        with bus.drained_still(before=self._io):
            recorded, infos, rewound, shift = catch_up(hub, found.last_seq)
            removed = removed_infos(hub, found)
            self._taking = Taking(self.path, hub, self._registry or hub.registry, put_nothing, put_nothing)
            self._gathered_seq = bus.seq + shift
            events = [(info.seq, self._taking.encode(info)) for info in infos]
            if rewound is not None:
                events.insert(0, (rewound.seq - shift, self._taking.encode(rewound)))
            writer.give(built(shifted(batch, shift)) for batch in past_batches(recorded, events))
            fork = Fork.new(self._gathered_seq, self._gathered_seq)
            writer.opening = (fork.id, fork.at)
            if self._gathered_seq > writer.last_seq or not found.closed:  # e.g. an info that is gone; or a lost end
                writer.give([opened(fork.id, fork.at)])
            writer.write()  # before anything that follows it is in the tail
            self._tail = self._new_tail(bus.seq + shift)
            try:
                self._thread.start()
                bus.seq += shift
                if rewound is not None:
                    hub._log(rewound)
                    hub._replayed = (*hub._replayed, rewound)  # for those attached later
                hub._ancestry.go_on(fork)
                self._taking.begin(bus.seq)
                self.begun_seq = bus.seq
                self._store(self._tail)
                bus.tap_with(self, "patient" if self.level == "disk" else self.level == "process")
                self._open = True
            except BaseException:
                self._ending = True
                bus.tap_with(None)
                if self._tail is not None:
                    self._tail.close()
                raise
        for key in removed:
            hub._change(functools.partial(self._say_removed, key), None)

    def _say_removed(self, key: str) -> None:
        if key not in self._hub.runtime_info:
            self._hub._append(InfoRemoved(key=key))

    def _new_tail(self, last_seq: int) -> Tail | None:
        if self.level == "memory":
            (self.path / NAME).unlink(missing_ok=True)  # all of it is in segments, and on the disk
            return None
        run_id = bytes.fromhex(self._hub.run_id)
        return Tail(self.path, run_id, last_seq, self._tail_size // 2, lambda: self._wake.put(None))

    def end(self) -> None:
        """Take nothing more; bring all to the disk and let go of the folder. Called when the hub is left.

        Raises:
            JournalError: the disk refused, and what it has not got is lost; or it does not answer.
        """
        if not self._open or self._pid != os.getpid():
            return
        self._ending = True
        self._wake.put(None)
        self._thread.join(END_TIMEOUT)
        if self._thread.is_alive():
            raise JournalError(f"{self.path}: the disk has not answered in {END_TIMEOUT:.0f} s")
        if self._failure is not None:
            raise self._failure

    def forked(self) -> None:
        """Let go of everything in a forked child, which may not write here."""
        self._io = threading.RLock()
        if self._open:
            self._open = False
            self._writer.forget()
            self._lock.forget()

    # --- inside of a publish

    def take(self, item: Run | Event) -> bool:
        """Take a run of entries or an event; with the hub's lock."""
        return self._taking.take(item)

    def acknowledge(self) -> None:
        """Wait for the disk, at the level ``disk``."""
        if self.level == "disk" and threading.current_thread() is not self._thread:
            self.commit().latch.wait(None)

    def commit(self) -> Commit:
        """Begin to bring all that was published so far to the disk."""
        bus = self._bus
        with bus.lock:
            bus.number()
            commit = Commit(bus.out)
            is_open = self._open
            if is_open:
                self._commits.append(commit)
        if not is_open:
            commit.end(JournalError(f"{self.path} was ended"))
        elif bus.lock._is_owned():  # type: ignore[attr-defined]
            commit.end(DeadlockError("commit() in a signal handler that broke into a publish would wait for itself"))
        self._wake.put(None)
        return commit

    def counts(self) -> tuple[int, int, int]:
        """Return how many events are not on the disk yet, how many are, and how many were lost."""
        lost = self._lost + self._missing
        return self._bus.seq - self._durable_seq if self._open else 0, self._durable_seq, lost

    # --- reading back

    def read_back(
        self, after: int, upto: int, test: Callable[[str, type[Event]], bool]
    ) -> Iterator[Iterator[Event] | None]:
        """Yield what it has of the events in ``(after, upto]``; see ``Tap.read_back``."""
        reader = SegmentReader(self.path, max(after, self.begun_seq))
        registry = self._registry or self._hub.registry
        while reader.last_seq < upto:
            found = reader.read()
            if not found and self._make_room():
                found = reader.read()
            if not found and self._degraded is None:
                return
            yield (
                None
                if not found
                else chain.from_iterable(
                    events_of(batch.between(after, upto), test=test, registry=registry)
                    for batch in found
                    if isinstance(batch, Batch)
                )
            )

    # --- snapshots

    def snapshot_saved(self, path: Path, seq: int, oldest_seq: int) -> None:
        """Say that a snapshot is on the disk; compact, if that was asked for.

        Args:
            path: the snapshot.
            seq: every event up to this one is in it.
            oldest_seq: the same of the oldest snapshot that is kept beside it.
        """
        self.aside(lambda: self._note_snapshot(path, seq, oldest_seq))

    def _note_snapshot(self, path: Path, seq: int, oldest_seq: int) -> None:
        with self._io:
            if not self._open or path.parent.resolve() != self.path.parent.resolve():
                return
            try:
                self._writer.note_snapshot(path.name, seq)
                if self.compact:
                    patient = [cursor for one in self._bus.patient if (cursor := one()) is not None]
                    owed = [cursor.owed_after for cursor in patient if cursor.owed]
                    upto = min([oldest_seq, self._writer.durable_seq, *owed])
                    compact(self.path, segment_files(self.path), upto)
            except OSError as error:
                self._degrade(error)
