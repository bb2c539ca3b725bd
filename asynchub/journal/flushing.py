"""The thread of a journal: it brings what was taken to the disk, and holds it while the disk refuses."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from asynchub.bus import EventBus
from asynchub.errors import JournalError
from asynchub.events import Event, JournalDegraded, JournalRestored
from asynchub.journal.putting import Tail
from asynchub.journal.taking import Gathered, Taking
from asynchub.journal.writing import SegmentWriter, built, reached
from asynchub.locking import FolderLock
from asynchub.taps import Commit, Tap

__all__ = ("Flushing", "put_nothing")

logger = logging.getLogger("asynchub")
T = TypeVar("T")


def put_nothing(seq: int, what: Sequence[Any]) -> bool:
    """Put nothing anywhere: the level ``memory``, or a disk that refuses."""
    return True


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


class Flushing(Tap):
    """What a journal does with what it has taken.

    Locks: ``_io`` is held while frames are made and written; it is taken before the hub's.

    Args:
        path: folder of the journal.
        interval: seconds between two writes and flushes of the disk.
        backlog: events that are held in memory while the disk refuses.
    """

    def __init__(self, path: Path, interval: float, backlog: int) -> None:
        self.path = path
        self._interval = interval
        self._backlog = backlog
        self._io = threading.RLock()
        self._open = False

    def _begin(self, hub: Any, lock: FolderLock, writer: SegmentWriter, last_seq: int) -> None:
        self._hub, self._lock, self._writer = hub, lock, writer
        self._bus: EventBus = hub._bus
        self._taking: Taking
        self._tail: Tail | None = None
        self._durable_seq = self._gathered_seq = last_seq
        self._lost = self._missing = self._missing_seq = 0
        self._commits: deque[Commit] = deque()
        self._degraded: str | None = None
        self._news: list[Event] = []
        self._ending = self._busy = False
        self._failure: Exception | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()  # whose `put` a signal handler may break into, and call
        self._thread = threading.Thread(target=self._run, name="asynchub journal", daemon=True)

    def _store(self, tail: Tail | None) -> None:
        """Have a publish put what it has into ``tail``, or nowhere. With the hub's lock."""
        self.put = self._taking.put = self._bus.tap_put = put_nothing if tail is None else tail.put
        self._taking.put_event = put_nothing if tail is None else tail.put_event

    def make_room(self) -> bool:
        """Write what was taken to a segment; False amid that very thing."""
        return self.aside(self._make_room)

    def aside(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns; in a thread that no signal handler breaks into."""
        if threading.current_thread() is not threading.main_thread():
            return call()
        future: Future[T] = Future()
        threading.Thread(target=_settle, args=(future, call), name="asynchub journal room", daemon=True).start()
        return future.result()

    def _make_room(self) -> bool:
        with self._io:
            if self._busy or not self._open:
                return False
            try:
                self._write()
            except Exception as error:  # mostly OSError; but whatever it is, the run goes on
                self._degrade(error)
        return True

    # --- in the thread

    def _run(self) -> None:
        while not self._ending:
            with suppress(Empty):
                self._wake.get(timeout=self._interval)
                while True:
                    self._wake.get_nowait()
            self._flush()
        if self._open:
            self._finish()

    def _flush(self) -> None:
        """Bring what was published to the disk; say so to whoever waits for it."""
        with self._io:
            if not self._open:
                return
        degraded, before = self._degraded, self._durable_seq
        with self._bus.lock:
            asked = set(self._commits)  # who asks later is not answered by what this attempt finds
        error: Exception | None = None
        try:
            with self._io:
                upto = self._write()
            self._writer.sync()
            if upto == before and degraded is None:
                with self._io:
                    self._writer.say_durable()
            self._durable_seq = upto
            with self._io:
                self._writer.rotate()
            if degraded is not None:
                error = self._restore()
        except Exception as failure:  # as in `_make_room`
            self._degrade(failure)
        self._end_commits(error, asked)
        self._tell()

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
                if not bus.fill():
                    self._write_past_tail()
                gathered = self._taking.gather(bus.out)
                self._swap()
                if last:
                    bus.tap_with(None)
            self._give(gathered)
            self._writer.write()
            return gathered.upto
        finally:
            self._busy = False

    def _write_past_tail(self) -> None:
        """Write what the tail has no room for: nobody may go on before that is done. With the hub's lock."""
        bus = self._bus
        self._store(None)
        try:
            bus.fill()
            self._give(self._taking.gather(bus.out))
            self._writer.write()
        finally:
            self._store(self._tail)

    def _give(self, gathered: Gathered) -> None:
        """Have what was gathered written next, unless that is too much to hold."""
        self._gathered_seq = gathered.upto
        if self._degraded is not None and self._writer.waiting + gathered.size > self._backlog:
            self._missing += gathered.size
            self._missing_seq = gathered.upto
            return
        if self._missing_seq:  # a frame without events that says where the next ones begin
            self._writer.give([reached(self._missing_seq, self._missing)])
            self._missing_seq = 0
        self._writer.give([built(batch) for batch in gathered.batches()])

    def _swap(self) -> None:
        """Go on in the other half of the tail: what is in it is in a segment. With the hub's lock."""
        bus = self._bus
        if self._tail is not None and self._degraded is None:
            self._tail.swap(bus.out)
            bus.tapped = bus.out  # what has no `seq` yet is to be in this half too, before the other one is used again
            bus.fill()

    def _degrade(self, error: Exception) -> None:
        with self._io:
            self._writer.abandon()
            if self._degraded is None:
                self._degraded = f"{type(error).__name__}: {error}"
                with self._bus.lock:
                    self._store(None)
                logger.error("%s: %s; events are held in memory until the disk takes them", self.path, self._degraded)
                self._news.append(JournalDegraded(path=str(self.path), error=self._degraded))

    def _restore(self) -> Exception | None:
        """Use the tail again, once all that was held is on the disk; return what those are told who wait for it."""
        with self._io, self._bus.lock:
            self._bus.number()
            self._bus.fill()
            self._give(self._taking.gather(self._bus.out))
            self._writer.write()
            self._degraded = None
            self._store(self._tail)
            self._swap()
            missing, self._missing = self._missing, 0
            self._lost += missing
        logger.warning("%s is whole again; %d events are missing", self.path, missing)
        self._news.append(JournalRestored(path=str(self.path), missed=missing))
        return JournalError(f"{self.path} lacks {missing} events, that were too many to hold") if missing else None

    def _tell(self) -> None:
        """Publish what happened to the disk."""
        while self._news:
            try:
                self._hub.publish(self._news.pop(0))
            except Exception:  # e.g. a reader with `overflow="block"` that has no room
                logger.exception("%s: this could not be published", self.path)

    def _end_commits(self, error: Exception | None, asked: Collection[Commit]) -> None:
        """Tell those who wait for the disk; of what is not there yet, if it refuses, the ``asked`` only."""
        if error is None and self._degraded is not None:
            error = JournalError(f"{self.path} is not on the disk: {self._degraded}")
        while self._commits and (
            self._commits[0].seq <= self._durable_seq or (error is not None and self._commits[0] in asked)
        ):
            commit = self._commits.popleft()
            commit.end(error if commit.seq > self._durable_seq or self._degraded is None else None)

    def _finish(self) -> None:
        error: Exception | None = None
        with self._io:
            try:
                self._durable_seq = self._write(last=True)
                self._writer.sync()
                self._writer.close()
                self._degraded = None
                if self._tail is not None:
                    self._tail.clear()
                    self._tail.remove()
                if self._missing:
                    error = JournalError(f"{self.path} lacks {self._missing} events, that were too many to hold")
            except Exception as failure:  # whatever it is, the folder is to be free again
                self._writer.abandon()
                self._durable_seq = self._writer.durable_seq
                lost = self._writer.waiting + self._missing
                error = JournalError(f"the disk refused the last {lost} events of {self.path}: {failure}")
                error.__cause__ = failure
            self._close(error)

    def _close(self, error: Exception | None) -> None:
        bus = self._bus
        with bus.lock:
            bus.tap_with(None)
            self._hub._base_seq = self._gathered_seq if error is None else self._durable_seq
            self._open = False
        self._failure = error
        self._end_commits(error, self._commits)
        if self._tail is not None:
            self._tail.close()
        self._lock.release()
