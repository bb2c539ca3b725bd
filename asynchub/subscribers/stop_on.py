"""A stop that comes from outside: a signal, or a file.

Stop: the run ends at a settle point, in the loop's own thread, with its state whole; the reason says who asked.
Signals: the handler publishes a request, which a hub allows amid any publish of the same thread, and does nothing else:
    like any publish it waits for no reader, unless one has ``overflow="block"``. What handled the signal before is put
    back when the hub is left, however it is.
Files: looked for in a thread of its own, so that neither a training step nor the hub's loop waits for a file system. A
    thread whose file system never answers is left behind when the hub is left, and does not keep the process alive.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

from asynchub.errors import ArgumentError, LifecycleError
from asynchub.loops import Latch
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.checks import check_number
from asynchub.subscription import Subscription

__all__ = ("StopOnFile", "StopOnSignal")

logger = logging.getLogger("asynchub")

PATIENCE = 1.0
"""Seconds that leaving the hub waits for an answer of the file system."""
LONGEST_REASON = 1000
"""Characters of a file that become the reason."""


class StopOnSignal:
    """Request a stop when the process gets a signal.

    It listens from the first settle point of the hub's life to the end of it: settle once before the first step if that
    takes long. The first ``SIGINT`` (Ctrl-C) asks for a stop, the second does what it did before, which is to raise
    ``KeyboardInterrupt``; of other signals each one asks. Two hubs that are lived in at once both hear.

    In a process that was forked from this one, as the workers of a ``DataLoader`` may be, ``SIGTERM`` does what it did
    before, as that is how workers are ended, and the other signals do nothing, so that a Ctrl-C or a warning of the
    scheduler, which go to all processes, does not take the workers from a run that is still to end well.

    Args:
        signals: names (``"SIGTERM"``), numbers or members of ``signal.Signals``; one, or several.

    Raises:
        ArgumentError: there is no such signal here, or it is one that cannot be handled.
    """

    role = "control"
    keys = (StopRequested,)

    def __init__(self, signals: str | int | Iterable[str | int] = ("SIGTERM", "SIGINT")) -> None:
        several = signals if isinstance(signals, Iterable) and not isinstance(signals, str) else [signals]
        self._signals = tuple(dict.fromkeys(_signal_of(one) for one in several))
        if not self._signals:
            raise ArgumentError("signals must name at least one, e.g. 'SIGTERM', got none")
        self._listens = False

    async def __call__(self, events: Subscription) -> None:
        self._check(events.name)
        listener = _Listener(events)
        self._listens = True
        try:
            listener.begin(self._signals)
            async for event in events:
                if isinstance(event, StopRequested) and event.author == events.name:
                    events.publish(Decided(author=events.name, verdict="stop", reason=event.reason))
        finally:
            self._listens = False
            listener.end()

    def _check(self, name: str) -> None:
        if self._listens:
            raise LifecycleError(f"{name!r} listens for another hub already: attach a StopOnSignal of its own")
        if threading.current_thread() is not threading.main_thread():
            raise LifecycleError(
                f"{name!r} can only listen where signals arrive, in the main thread, and "
                f"{threading.current_thread().name!r} settles: settle in the main thread, or call hub.request_stop() "
                "in a handler of your own"
            )
        foreign = [number.name for number in self._signals if signal.getsignal(number) is None]
        if foreign:
            raise LifecycleError(
                f"{', '.join(foreign)}: what handles it was not made by Python, and could not be put back; "
                "leave it out of signals="
            )


class _Listener:
    """What handles signals during one life of a hub."""

    def __init__(self, events: Subscription) -> None:
        self._events: Subscription | None = events
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def begin(self, signals: Iterable[signal.Signals]) -> None:
        for number in signals:
            self._previous[number] = signal.getsignal(number)
            signal.signal(number, self.handle)

    def end(self) -> None:
        """Put back what was there. Where that cannot be done, ``handle`` acts as if it had been."""
        self._events = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._previous:
            if signal.getsignal(number) == self.handle:  # else somebody else's stands there now
                signal.signal(number, self._before(number))

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Ask for a stop; called by the interpreter, in the main thread, between any two of its instructions."""
        events = self._events
        forked = os.getpid() != self._process
        if events is None or (forked and number == signal.SIGTERM):
            self._pass_on(number, frame)
            return
        if forked:
            return
        before = self._before(number)
        if number == signal.SIGINT:
            signal.signal(number, before)
        events.request(StopRequested(reason=f"signal {signal.Signals(number).name}"))
        if _owner(before) is not None:
            before(number, frame)

    def _before(self, number: int) -> Any:
        """Return what was there before; if that was a listener that has ended, what was there before that."""
        previous = self._previous[number]
        owner = _owner(previous)
        return owner._before(number) if owner is not None and owner._events is None else previous

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do what would have been done without this."""
        before = self._before(number)
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _owner(handler: object) -> _Listener | None:
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, _Listener) else None


def _signal_of(one: object) -> signal.Signals:
    try:
        number = signal.Signals[one] if isinstance(one, str) else signal.Signals(one)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError) as error:
        raise ArgumentError(
            f"signals must be names such as 'SIGTERM' or numbers of this system, got {one!r}"
        ) from error
    if number.name in ("SIGKILL", "SIGSTOP"):
        raise ArgumentError(f"{number.name} cannot be handled: no process hears of it before it acts")
    return number


class StopOnFile:
    """Request a stop when a file exists; the text in it becomes the reason.

    ``echo enough > run/stop`` stops a run on any machine that sees the folder. A file that is there from the beginning
    counts. An empty one is given one more look, as whoever makes it may still be writing.

    Args:
        path: the file.
        every: seconds between two looks; above 0.
        remove: whether to delete the file once the stop is requested, so that it does not stop the next run too.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    role = "observer"
    keys = (StopRequested,)  # it reads none of them, and these are few

    def __init__(self, path: str | PathLike[str], *, every: float = 1.0, remove: bool = True) -> None:
        if not isinstance(path, str | PathLike):
            raise ArgumentError(f"path must be the path of a file, got {path!r}")
        if not isinstance(remove, bool):
            raise ArgumentError(f"remove must be True or False, got {remove!r}")
        self.path = Path(path)
        self._every = check_number("every", every, 0)
        if not self._every:
            raise ArgumentError("every must be above 0 s, got 0")
        self._remove = remove

    async def __call__(self, events: Subscription) -> None:
        closing, ended = threading.Event(), Latch()
        # not a worker thread of anyio: the interpreter would wait for one that hangs
        thread = threading.Thread(
            target=self._watch, args=(events, closing, ended), name=f"asynchub {events.name}", daemon=True
        )
        thread.start()
        try:
            async for _ in events:
                pass
        finally:
            closing.set()
            with anyio.CancelScope(shield=True):
                if not await ended.waited(PATIENCE):
                    logger.warning("%s: no answer about %s yet; a thread still waits for it", events.name, self.path)

    def _watch(self, events: Subscription, closing: threading.Event, ended: Latch) -> None:
        requested = blank = False
        trouble = ""
        try:
            while True:
                text: str | None = None
                try:
                    text = self._text()
                except OSError as error:
                    if str(error) != trouble:
                        logger.warning("%s cannot look for %s: %s", events.name, self.path, error)
                    trouble = str(error)
                if closing.is_set():
                    return
                if text is None:
                    requested = blank = False
                elif not text and not blank:
                    blank = True
                elif not requested:
                    requested = True
                    events.request(StopRequested(reason=text or f"the file {self.path} exists"))
                    self._tidy(events.name)
                if closing.wait(self._every):
                    return
        finally:
            ended.set()

    def _text(self) -> str | None:
        """Return what is in the file, or None if there is none; wait for the file system as long as it takes."""
        try:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                return file.read(LONGEST_REASON).strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _tidy(self, name: str) -> None:
        if not self._remove:
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not remove %s, which would stop the next run too: %s", name, self.path, error)
