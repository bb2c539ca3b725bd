"""Saves in the background: one thread writes one state of a hub at a time, the newest that was asked for.

Order: a path never gets an older state after a newer one. Of several saves of one target that wait, the newest is
    written, and the others are done with it.
Failure: a save that fails leaves the old file. It is published and logged, ends nothing, and is not hidden: whoever
    waits for it gets the error; if nobody has by then, the next save says it.
Threads: the one that writes is started when there is something to write, and ends when there is not. At interpreter
    exit what was asked for is waited for, ``EXIT_TIMEOUT`` seconds at most. A forked child has none of it.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

from asynchub.errors import LifecycleError, WaitTimeoutError
from asynchub.events import Event, SaveFailed, StateSaved
from asynchub.generations import Target
from asynchub.loops import Latch, seconds_until

__all__ = ("EXIT_TIMEOUT", "PendingSave", "Save", "Saver")

logger = logging.getLogger("asynchub")
EXIT_TIMEOUT = 30.0
"""Seconds that the end of the interpreter waits for saves."""


class Save:
    """A state on its way to a file.

    Attributes:
        target: where it goes.
        number: grows from cut to cut.
        seq: of the newest event that it holds.
        ready: set when it is whole.
        write: writes it; called once it is whole, by one thread.
        deadline: when it has to be whole; None for never.
        late: says who keeps it from that.
        handles: of those who asked for it.
        instead: a newer one of the same target that was written, or will be; else None.
        error: what it failed with.
        done: whether it was written, or has failed.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.number = self.seq = -1
        self.ready = Latch()
        self.write: Callable[[], object] = _nothing
        self.deadline: float | None = None
        self.late: Callable[[], str] = str
        self.handles: list[PendingSave] = []
        self.instead: Save | None = None
        self.error: BaseException | None = None
        self.done = False

    @property
    def path(self) -> Path:
        """The file it goes to."""
        return self.target.file(self.seq)


def _nothing() -> None: ...


class PendingSave:
    """A save in the background, as ``MessageHub.async_save`` returns it. Any thread, any number of tasks may wait.

    Attributes:
        previous_error: what an earlier save in the background failed with, if nobody had been told; else None.
    """

    def __init__(self, save: Save, saver: Saver, previous_error: BaseException | None) -> None:
        self.previous_error = previous_error
        self._save = save
        self._saver = saver
        self._finished = Latch()

    @property
    def path(self) -> Path:
        """The file; another one, should a newer state be written to the same folder in this one's place."""
        return self._save.path

    @property
    def seq(self) -> int:
        """``seq`` of the newest event that the state holds; higher, should a newer state take its place."""
        return self._save.seq

    @property
    def done(self) -> bool:
        """Whether it was written, or has failed."""
        return self._finished.wait(0)

    @property
    def error(self) -> BaseException | None:
        """What it failed with; None while it has not."""
        return self._save.error

    def wait(self, timeout: float | None = None) -> Path:
        """Block until the disk has the state; return the path of the file.

        Args:
            timeout: seconds; None for ever.

        Raises:
            WaitTimeoutError: the timeout passed; or an observer had not handled all that was published before the save.
            DeadlockError: called by a subscriber, or on the observers' own loop, while that is waited for.
            UnsupportedTypesError: a runtime info cannot be stored; each is named.
            OSError: the disk said no.
            Exception: what a subscriber's ``state_dict`` raised.
        """
        if not self.done:
            self._saver.refuse_deadlock(blocking=True)
        return self._outcome(self._finished.wait(timeout), timeout)

    async def waited(self, timeout: float | None = None) -> Path:
        """Do what ``wait`` does without blocking the loop."""
        if not self.done:
            self._saver.refuse_deadlock(blocking=False)
        return self._outcome(await self._finished.waited(timeout), timeout)

    def _outcome(self, finished: bool, timeout: float | None) -> Path:
        if not finished:
            raise WaitTimeoutError(f"{self.path} was not written after {timeout} s; it still may be")
        if self._save.error is not None:
            self._saver.told(self._save)
            raise self._save.error
        return self._save.path

    def __repr__(self) -> str:
        how = "failed" if self.error else "done" if self.done else "under way"
        return f"<PendingSave of seq {self.seq} to {str(self.path)!r}, {how}>"


class Saver:
    """Writes the states of one hub.

    Args:
        name: of the hub.
        publish: publishes an event.
        refuse: raises if the calling code would wait for itself; called with whether it is going to block.
    """

    def __init__(self, name: str, publish: Callable[[Event], object], refuse: Callable[[bool], None]) -> None:
        self._name = name
        self._publish = publish
        self._refuse = refuse
        self._under_way: list[Save] = []
        self._count = 0
        self._begin()
        _SAVERS.add(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._flight = threading.RLock()  # held while a file is written
        self._waiting: list[Save] = []
        self._idle: list[Latch] = []
        self._thread: threading.Thread | None = None
        self._untold: Save | None = None

    def forked(self) -> None:
        """Forget everything, as a forked child must: the parent process writes it."""
        left, self._under_way = self._under_way, []
        self._begin()
        for save in left:
            save.error = LifecycleError("this process was forked while the state was saved; its parent writes it")
            for handle in save.handles:
                handle._finished = Latch()  # whoever held the old one's lock may not exist here
                handle._finished.set()

    # --- asking for it

    def begin(self, save: Save) -> None:
        """Number a save, at its cut, so that no older state is written over it; it ends in ``write`` or ``end``."""
        with self._lock:
            self._count += 1
            save.number = self._count
            self._under_way.append(save)

    def end(self, save: Save) -> None:
        """Forget a save."""
        with self._lock:
            if save in self._under_way:
                self._under_way.remove(save)

    def enqueue(self, save: Save) -> PendingSave:
        """Have ``save``, begun, written in the background."""
        previous = self.take_untold()
        if previous is not None:
            logger.warning("nobody had been told yet that saving %s failed: %s", previous.path, previous.error)
        handle = PendingSave(save, self, None if previous is None else previous.error)
        with self._lock:
            save.handles.append(handle)
            for other in self._waiting[:]:
                if other.target == save.target:
                    self._give_way(*((other, save) if other.number < save.number else (save, other)))
            if save.instead is not None:  # a newer state was faster
                self._give_way(save, save.instead)
                return handle
            self._waiting.append(save)
            start = self._thread is None
            if start:
                self._thread = threading.Thread(target=self._run, name=f"asynchub saves {self._name}", daemon=True)
        if start:
            self._start()
        return handle

    def _give_way(self, older: Save, newer: Save) -> None:
        """Have ``older`` done when ``newer`` is; call with the lock held."""
        while newer.instead is not None:
            newer = newer.instead
        older.instead = newer
        for handle in older.handles:
            handle._save = newer
        newer.handles += older.handles
        older.handles = []
        older.ready.set()  # nobody need wait for it to become whole
        older.write = _nothing
        for saves in (self._under_way, self._waiting):
            if older in saves:
                saves.remove(older)
        if newer.done:
            self._finish(newer)

    def _finish(self, save: Save) -> None:
        """Tell everybody that a save was written, or has failed, and let go of the state."""
        with self._lock:
            save.done = True
            save.write = _nothing
            self.end(save)
            for handle in save.handles:
                handle._finished.set()

    def _start(self) -> None:
        thread = self._thread
        try:
            if thread is not None:
                thread.start()
        except RuntimeError as error:  # there are too many, or the interpreter is ending
            with self._lock:
                left, self._waiting = self._waiting, []
            for save in left:
                self._fail(save, error)
            self._end_thread()

    def idle(self) -> Latch:
        """Return a latch that is set when nothing is left to write in the background."""
        latch = Latch()
        with self._lock:
            if self._thread is not None:
                self._idle.append(latch)
                return latch
        latch.set()
        return latch

    def refuse_deadlock(self, blocking: bool) -> None:
        """Raise if the calling code is what a state that is not whole yet waits for.

        Raises:
            DeadlockError: it is.
        """
        if any(save.handles and not save.ready.wait(0) for save in self._under_way[:]):
            self._refuse(blocking)

    # --- writing

    def _run(self) -> None:
        while (save := self._next()) is not None:
            try:
                if not save.ready.wait(seconds_until(save.deadline)):
                    raise WaitTimeoutError(save.late())
                self.write(save)
            except Exception as error:  # training goes on; whoever waits is to have it
                self._fail(save, error)

    def _next(self) -> Save | None:
        """Return what the thread is to write next, or None when it is to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.pop(0)
            self._end_thread()
            return None

    def _end_thread(self) -> None:
        with self._lock:
            idle, self._idle, self._thread = self._idle, [], None
        for latch in idle:
            latch.set()

    def write(self, save: Save) -> Path:
        """Write a state that is whole, in this thread; return the file. Waits for another one under way.

        Raises:
            Exception: what writing it raised; the old file is untouched.
        """
        try:
            with self._flight:
                if save.instead is not None:  # a newer one was written meanwhile
                    return save.instead.path
                save.write()
                with self._lock:
                    for older in self._under_way[:]:
                        if older.target == save.target and older.number < save.number:
                            self._give_way(older, save)
        finally:
            self.end(save)
        self._say(StateSaved(path=str(save.path), saved_seq=save.seq))
        self._finish(save)
        return save.path

    def _fail(self, save: Save, error: Exception) -> None:
        save.error = error
        logger.error("saving %s failed; the old file, if there is one, is untouched", save.path, exc_info=error)
        self._say(SaveFailed(path=str(save.path), error=f"{type(error).__name__}: {error}"))
        with self._lock:
            self._untold = save
            self._finish(save)

    def _say(self, event: Event) -> None:
        try:
            self._publish(event)
        except Exception:  # a reader with overflow="block", say, that made no room
            logger.exception("%s could not be published", type(event).__name__)

    # --- whether somebody was told of a failure

    def told(self, save: Save) -> None:
        """Say that somebody got the error of ``save``."""
        with self._lock:
            if self._untold is save:
                self._untold = None

    def take_untold(self) -> Save | None:
        """Return a save whose failure nobody was told, and take it as told; None if there is none."""
        with self._lock:
            save, self._untold = self._untold, None
        return save


_SAVERS: WeakSet[Saver] = WeakSet()


def _wait_for_all() -> None:
    for saver in list(_SAVERS):
        if not saver.idle().wait(EXIT_TIMEOUT):
            logger.error("the interpreter ends while a state is being saved: the old file stays")


atexit.register(_wait_for_all)
