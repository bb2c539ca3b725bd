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
Threads: one of its own writes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from asynchub.codec.registry import Registry
from asynchub.errors import ArgumentError, JournalError
from asynchub.events import Event, JournalDegraded, JournalRestored
from asynchub.filing import Run
from asynchub.journal.batches import shifted
from asynchub.journal.filling import past_batches
from asynchub.journal.folder import FolderLock, compact
from asynchub.journal.opening import catch_up, open_segments
from asynchub.journal.reading import segment_files
from asynchub.journal.tail import HALF, Tail
from asynchub.journal.taking import Gathered, Taking
from asynchub.journal.writing import SegmentWriter, built, built_between
from asynchub.taps import Commit, Tap

__all__ = ("Journal", "Level")

logger = logging.getLogger("asynchub")
Level = Literal["memory", "process", "disk"]
"""What has been promised when a publish returned; see the module."""
END_TIMEOUT = 60.0
"""Seconds that ``end`` waits for the thread, which may be waiting for the disk."""


class Journal(Tap):
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
        self.path = Path(path)
        self.level = level
        self.compact = compact
        self._interval = interval
        self._segment_size = segment_size
        self._backlog = backlog
        self._tail_size = tail
        self._registry = registry
        self._io = threading.RLock()  # held while frames are made and written; taken before the hub's lock
        self._open = False

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
        lock = FolderLock(self.path)
        try:
            writer, last_seq = open_segments(self.path, hub, self._segment_size)
            self._start(hub, lock, writer, last_seq)
        except BaseException:
            lock.release()
            raise

    def _start(self, hub: Any, lock: FolderLock, writer: SegmentWriter, last_seq: int) -> None:
        bus = hub._bus
        self._hub, self._bus, self._lock, self._writer = hub, bus, lock, writer
        self._missed = 0
        self._durable_seq = last_seq
        self._commits: deque[Commit] = deque()
        self._degraded: str | None = None
        self._told = False  # that it is degraded
        self._past_tail = False  # what is taken goes to a segment at once
        self._ending = self._busy = False
        self._wake = threading.Event()
        self._tail: Tail | None = None
        with self._io, bus.still():
            registry = self._registry or hub.registry
            recorded, infos, events, shift = catch_up(hub, last_seq, registry)
            self.put = _put_nothing
            put_event = _put_nothing_event
            if self.level != "memory":
                half = self._tail_size // 2
                self._tail = Tail(self.path, bytes.fromhex(hub.run_id), bus.seq, half, self._wake.set)
                self.put, put_event = self._put, self._put_event
            self._taking = Taking(self.path, hub, registry, self.put, put_event)
            events += [(info.seq, self._taking.encode(info)) for info in infos]
            past = [shifted(batch, shift) for batch in past_batches(recorded, events)]
            writer.give(built_between(writer.written_seq, past, bus.seq))
            writer.write()  # the tail holds only what comes after it
            self._gathered_seq = bus.seq
            self._pid = os.getpid()
            self._open = True
            bus.tap_with(self, "patient" if self.level == "disk" else self.level == "process")
        self._thread = threading.Thread(target=self._run, name="asynchub journal", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take nothing more; bring all to the disk and let go of the folder. Called when the hub is left.

        Raises:
            JournalError: the disk refused; what it has not got is lost.
        """
        if not self._open or self._pid != os.getpid():
            return
        self._ending = True
        self._wake.set()
        self._thread.join(END_TIMEOUT)
        error: Exception | None = None
        with self._io:
            try:
                self._write(last=True)
                self._writer.sync()
                self._writer.close()
            except Exception as failure:  # whatever it is, the folder is to be free again
                self._writer.abandon()
                error = failure
            self._close(error)
        if error is not None:
            lost = self._writer.waiting
            raise JournalError(f"the disk refused the last {lost} events of {self.path}: {error}") from error

    def _close(self, error: Exception | None) -> None:
        bus = self._bus
        with bus.lock:
            bus.tap_with(None)
            self._hub._base_seq = self._gathered_seq if error is None else self._durable_seq
            self._open = False
        self._end_commits(error)
        if self._tail is not None:
            self._tail.close(remove=error is None)
        self._lock.release()

    def forked(self) -> None:
        """Let go of everything in a forked child, which may not write here."""
        if self._open:
            self._open = False
            self._writer.forget()
            self._lock.forget()

    # --- inside of a publish

    def _put(self, first: int, items: list[Any]) -> bool:
        return self._past_tail or self._degraded is not None or self._tail is None or self._tail.put(first, items)

    def _put_event(self, seq: int, data: bytes) -> bool:
        return self._past_tail or self._degraded is not None or self._tail is None or self._tail.put_event(seq, data)

    def take(self, item: Run | Event) -> bool:
        """Take a run of entries or an event; with the hub's lock."""
        return self._taking.take(item)

    def make_room(self) -> bool:
        """Write what was taken to a segment, in the publisher's thread; False amid that very thing."""
        with self._io:
            if self._busy or not self._open:
                return False
            try:
                self._write()
            except OSError as error:
                self._degrade(error)
        return True

    def acknowledge(self) -> None:
        """Wait for the disk, at the level ``disk``."""
        if self.level == "disk" and threading.current_thread() is not self._thread:
            self.commit().latch.wait(None)

    # --- writing

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(self._interval)
            self._wake.clear()
            self._flush()

    def _flush(self) -> None:
        """Bring what was published to the disk; say so to whoever waits for it."""
        failed, before = self._degraded, self._durable_seq
        try:
            with self._io:
                upto = self._write()
            self._writer.sync()
            if upto == before and failed is None:
                with self._io:
                    self._writer.say_durable()
            self._durable_seq = upto
            with self._io:
                self._writer.rotate()
            if failed is not None:
                self._restore()
        except Exception as error:  # mostly OSError; but whatever it is, the run goes on
            self._degrade(error)
        self._end_commits(None)
        if self._degraded is not None and not self._told:
            self._told = True
            logger.error("%s: %s; events are held in memory until the disk takes them again", self.path, self._degraded)
            self._hub.publish(JournalDegraded(path=str(self.path), error=self._degraded))
        elif self._degraded is None and (self._told or self._missed):
            self._told = False
            logger.warning("%s is whole again; %d events are missing", self.path, self._missed)
            missed, self._missed = self._missed, 0
            self._hub.publish(JournalRestored(path=str(self.path), missed=missed))

    def _write(self, last: bool = False) -> int:
        """Hand all that was published to the operating system; return up to which ``seq``. With ``_io`` held.

        Args:
            last: whether nothing more is to be taken.

        Raises:
            OSError: the disk said no; everything is held.
        """
        bus = self._bus
        self._busy = True
        try:
            with bus.lock:
                bus.number()
                if bus.fill():
                    gathered = self._taking.gather(bus.seq)
                    self._swap()
                else:
                    gathered = self._write_past_tail()
                if last:
                    bus.tap_with(None)
            self._give(gathered)
            self._writer.write()
            return gathered.upto
        finally:
            self._busy = False

    def _write_past_tail(self) -> Gathered:
        """Write what the tail has no room for: nobody may go on before that is done. With the hub's lock."""
        self._past_tail = True
        try:
            self._bus.fill()
            self._give(self._taking.gather(self._bus.seq))
            self._writer.write()
        except BaseException as error:  # the tail lacks this, and must not go on behind it
            self._degrade(error)
            raise
        finally:
            self._past_tail = False
        self._swap()
        return self._taking.gather(self._bus.seq)

    def _give(self, gathered: Gathered) -> None:
        """Have what was gathered written next, unless that is too much to hold."""
        self._gathered_seq = gathered.upto
        if self._degraded is not None and self._writer.waiting + gathered.size > self._backlog:
            self._missed += gathered.size
        else:
            self._writer.give([built(batch) for batch in gathered.batches()])

    def _swap(self) -> None:
        """Go on in the other half of the tail: what is in it is in a segment. With the hub's lock."""
        if self._tail is not None and self._degraded is None:
            self._tail.swap()
            self._tail.last_seq = self._bus.seq

    def _degrade(self, error: BaseException) -> None:
        with self._io:
            self._writer.abandon()
            self._degraded = self._degraded or f"{type(error).__name__}: {error}"

    def _restore(self) -> None:
        """Use the tail again, once all that was held is in segments; raises as ``_write``."""
        with self._io, self._bus.lock:
            self._bus.number()
            self._bus.fill()
            self._give(self._taking.gather(self._bus.seq))
            self._writer.write()
            self._degraded = None
            self._swap()

    def _end_commits(self, error: Exception | None) -> None:
        """Tell those who wait for the disk."""
        if self._degraded is not None and error is None:
            error = OSError(self._degraded)
        while self._commits and (error is not None or self._commits[0].seq <= self._durable_seq):
            commit = self._commits.popleft()
            failed = error is not None and commit.seq > self._durable_seq
            commit.end(JournalError(f"{self.path} is not on the disk: {error}") if failed else None)

    def commit(self) -> Commit:
        """Begin to bring all that was published so far to the disk."""
        bus = self._bus
        with bus.lock:
            bus.number()
            commit = Commit(bus.seq)
            if self._open:
                self._commits.append(commit)
        if not self._open:
            commit.end(JournalError(f"{self.path} was ended"))
        self._wake.set()
        return commit

    def counts(self) -> tuple[int, int, int]:
        """Return how many events are not on the disk yet, how many are, and how many were lost."""
        if not self._open:
            return 0, self._durable_seq, self._missed
        return self._bus.seq - self._durable_seq, self._durable_seq, self._missed

    # --- snapshots

    def snapshot_saved(self, path: Path, seq: int, oldest_seq: int) -> None:
        """Say that a snapshot is on the disk; compact, if that was asked for.

        Args:
            path: the snapshot.
            seq: every event up to this one is in it.
            oldest_seq: the same of the oldest snapshot that is kept beside it.
        """
        with self._io:
            if not self._open or path.parent.resolve() != self.path.parent.resolve():
                return
            try:
                self._writer.note_snapshot(path.name, seq)
                if self.compact:
                    compact(self.path, segment_files(self.path), min(oldest_seq, self._writer.durable_seq))
            except OSError as error:
                self._degrade(error)


def _put_nothing(first: int, items: list[Any]) -> bool:
    return True


def _put_nothing_event(seq: int, data: bytes) -> bool:
    return True
