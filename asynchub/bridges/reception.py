"""The parent's side of its children: takes what they send, and publishes it in the parent's hub.

Order: of each child as in its hub; of several, as it came.
Back-pressure: while the hub is slow, children wait with sending, not with publishing; see ``asynchub.bridges.uplink``.
Damage: what a child sent whole counts. What is damaged is left out, and said once for each child by a ``FrameRefused``;
    the others go on.
Threads: one of its own, named ``asynchub children``.
"""

from __future__ import annotations

import functools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from asynchub.batches import events_of
from asynchub.bridges.arrivals import Arrivals
from asynchub.bridges.parcels import Greeting, Parcel, Reader
from asynchub.bridging import FrameRefused
from asynchub.errors import CorruptStateError, LagExceededError, StateError, WaitTimeoutError
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.loops import Latch
from asynchub.requests import Request

__all__ = ("ChildStatistics", "Reception")

logger = logging.getLogger("asynchub")
BYTES = 2**20
"""Bytes read of a child at once: more than wait in a socket, so that reading once catches up with what was sent."""
BACKLOG = 4096
"""Children that may wait to be let in."""
ENDED = 256
"""Children that have ended whose figures are kept."""
PAUSE = 0.1
"""Seconds to wait before children are let in again when the process has too many files open."""


@dataclass(frozen=True, slots=True)
class ChildStatistics:
    """How one child process is doing.

    Attributes:
        pid: its process.
        worker: what it is: the number of a loader's worker, or the name of the process.
        events: events of it that were published.
        lost: events that it has lost, because they came faster than they could be sent.
        refused: parcels of it that were damaged.
        connected: whether it is there.
    """

    pid: int
    worker: str
    events: int
    lost: int
    refused: int
    connected: bool


class _Child:
    """A child and its connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader = Reader()
        self.greeting: Greeting | None = None
        self.arrivals: Arrivals | None = None
        self.events = self.lost = self.refused = 0
        self.connected = True

    @property
    def name(self) -> str:
        if self.greeting is None:
            return "a child process"
        pid, worker = self.greeting
        return f"child process {pid}" if worker == str(pid) else f"child process {pid} ({worker})"

    def statistics(self) -> ChildStatistics:
        pid, worker = self.greeting or Greeting(0, "")
        return ChildStatistics(pid, worker, self.events, self.lost, self.refused, self.connected)


class Reception:
    """Takes what children send.

    Args:
        hub: where it is published.
        path: of the socket that children connect to; made here.
        rename: gives the key in the hub, of a child and the key there.
    """

    def __init__(self, hub: MessageHub, path: str, rename: Callable[[Greeting, str], str]) -> None:
        self._hub = hub
        self._rename = rename
        self._children: dict[socket.socket, _Child] = {}
        self._ended: deque[_Child] = deque(maxlen=ENDED)
        self._flushes: deque[Latch] = deque()
        self._ending = self._full = False
        self._events = self._lost = self._refused = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(path)
            self._listener.listen(BACKLOG)
            self._listener.setblocking(False)
            self._wake, self._woken = socket.socketpair()
        except BaseException:
            self._listener.close()
            raise
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._wake_up)
        self._thread = threading.Thread(target=self._run, name="asynchub children", daemon=True)
        self._thread.start()

    def flush(self) -> Latch:
        """Return a latch that is set when all that children have sent by now is published."""
        latch = Latch()
        self._flushes.append(latch)
        self._hurry()
        if not self._thread.is_alive():
            latch.set()
        return latch

    def end(self, timeout: float) -> bool:
        """Take what is there, and end, in at most ``timeout`` seconds; tell whether that is done."""
        self._ending = True
        self._hurry()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def forked(self) -> None:
        """Let go, in a forked child, of what belongs to this process."""
        for one in (self._listener, self._wake, self._woken, *list(self._children)):
            one.close()
        self._selector.close()

    def totals(self) -> tuple[int, int, int]:
        """Return how many events were published, how many were lost, and how many parcels were refused."""
        return self._events, self._lost, self._refused

    def statistics(self) -> tuple[ChildStatistics, ...]:
        """Return how each child is doing that is there, or is one of the last that have ended."""
        children = [*list(self._ended), *list(self._children.values())]
        return tuple(child.statistics() for child in children if child.greeting is not None)

    def _hurry(self) -> None:
        try:
            self._wake.send(b"\0")
        except OSError:
            return  # it is full, so that the thread wakes up anyway; or closed, and the thread has ended

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._ending:
                self._look(None)
                if self._flushes:
                    self._catch_up()
            self._catch_up()
        finally:
            self._close()

    def _look(self, timeout: float | None) -> bool:
        """Do what there is to do, once; tell whether there was anything."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            key.data(key.fileobj)
        return any(key.fileobj is not self._woken for key, _ in ready)

    def _wake_up(self, woken: socket.socket) -> None:
        woken.recv(BYTES)

    def _catch_up(self) -> None:
        """Take all that was sent by now: of those who are there, and of those who are still to be let in."""
        flushes = len(self._flushes)
        for _ in range(2):
            if not self._look(0):
                break
        for _ in range(flushes):
            self._flushes.popleft().set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not self._full:
                    logger.error("hub %r cannot let a child process in yet: %s", self._hub.instance_name, error)
                self._full = True
                time.sleep(PAUSE)
                return
            self._full = False
            connection.setblocking(False)
            self._children[connection] = _Child(connection)
            self._selector.register(connection, selectors.EVENT_READ, self._read)

    def _read(self, connection: socket.socket) -> None:
        child = self._children[connection]
        try:
            data = connection.recv(BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # it was killed, with bytes of ours unread
        try:
            for parcel in child.reader.feed(data):
                self._take(child, parcel)
            if not data and child.reader.amid:
                raise CorruptStateError(f"it ended amid a parcel, {child.reader.amid} bytes of which are here")
        except StateError as error:
            self._refuse(child, error)
            data = b""
        if not data:
            self._part_with(child)

    def _take(self, child: _Child, parcel: Greeting | Parcel | StateError) -> None:
        if isinstance(parcel, StateError):
            self._refuse(child, parcel)
        elif isinstance(parcel, Greeting):
            child.greeting = parcel
            child.arrivals = Arrivals(self._hub, functools.partial(self._rename, parcel), steps=False)
        elif child.arrivals is None:
            raise CorruptStateError("it sends events before it says who it is")
        else:
            if parcel.lost:
                child.lost += parcel.lost
                self._lost += parcel.lost
                text = f"{parcel.lost} events of it were lost: they came faster than they could be sent"
                self._say(child, LagExceededError.__name__, text)
            try:
                events = list(events_of(parcel.batch, registry=self._hub.registry))
                self._publish(child, child.arrivals, events)
                child.events += len(events)
                self._events += len(events)
            except Exception as error:  # readers with `overflow="block"` may have it fail, and the thread must go on
                self._refuse(child, error)

    def _publish(self, child: _Child, arrivals: Arrivals, events: Iterable[Event]) -> None:
        for group in _apart(events):
            if isinstance(group, Request):
                self._hub.request(replace(group, author=group.author or child.name))
            else:
                arrivals.add_events(group)

    def _refuse(self, child: _Child, error: Exception) -> None:
        child.refused += 1
        self._refused += 1
        if child.refused == 1:
            self._say(child, type(error).__name__, str(error))

    def _say(self, child: _Child, kind: str, text: str) -> None:
        logger.warning("hub %r, %s: %s: %s", self._hub.instance_name, child.name, kind, text)
        try:
            self._hub.publish(FrameRefused(source=child.name, error=f"{kind}: {text}"))
        except WaitTimeoutError as error:  # of a reader with `overflow="block"`
            logger.error("hub %r could not publish that: %s", self._hub.instance_name, error)

    def _part_with(self, child: _Child) -> None:
        self._selector.unregister(child.connection)
        child.connected = False
        if child.greeting is not None:
            self._ended.append(child)
        del self._children[child.connection]
        child.connection.close()

    def _close(self) -> None:
        for child in list(self._children.values()):
            self._part_with(child)
        self._selector.close()
        for one in (self._listener, self._wake, self._woken):
            one.close()
        for latch in list(self._flushes):
            latch.set()


def _apart(events: Iterable[Event]) -> Iterator[list[Event] | Request]:
    """Yield events in order, requests one by one and the others together."""
    group: list[Event] = []
    for event in events:
        if isinstance(event, Request):
            if group:
                yield group
            yield event
            group = []
        else:
            group.append(event)
    if group:
        yield group
