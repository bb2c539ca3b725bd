"""What the hub of a child process publishes, sent to the hub of its parent.

Waiting: a publish leaves its event and goes on. A thread named ``asynchub uplink``, which the first publish starts,
    sends what has come, every tenth of a second. When the parent takes it more slowly, that thread waits; beyond
    ``MAX_LAG`` events the oldest are lost, counted, and said in the parent.
Order: as in the child's hub.
End: when the process ends by itself, what is left is sent, unless the parent takes nothing for ``END_TIMEOUT`` seconds.
    ``os._exit`` and a signal that kills end it at once: what was sent counts. Where the parent is gone nothing is
    waited for, and that is said.
What stays: what the hub says about its own files and requests: states and checkpoints saved and loaded, its journal.
Threads: any may publish, flush and close.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.process import current_process
from multiprocessing.util import Finalize
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from asynchub.batches import Batch
from asynchub.bridges.failures import BridgeError
from asynchub.bridges.packing import Packer
from asynchub.bridges.parcels import Greeting, Parcel, encode_greeting, encode_parcel
from asynchub.channels import Selection
from asynchub.errors import ArgumentError, WaitTimeoutError
from asynchub.events import (
    CheckpointRemoved,
    CheckpointSaved,
    Event,
    EventsDropped,
    JournalDegraded,
    JournalRestored,
    Marked,
    Rewound,
    SaveFailed,
    StateDamaged,
    StateLoaded,
    StateSaved,
)
from asynchub.hub import MessageHub, _current
from asynchub.loops import Latch, deadline_in, seconds_until
from asynchub.requests import RequestApplied, RequestRefused
from asynchub.subscription import Subscription

__all__ = ("Address", "Uplink", "make_current")

logger = logging.getLogger("asynchub")
INTERVAL = 0.1
"""Seconds that an event waits for others to travel with."""
PIECE = 1024
"""Events in a parcel, about: the parent's publishers wait while one is published."""
MAX_LAG = 2**18
"""Events that may wait to be sent."""
CONNECT = 5.0
"""Seconds that finding the parent may take."""
END_TIMEOUT = 2.0
"""Seconds that the end of the process waits for a parent that takes nothing."""
LONGEST_END = 10.0
"""Seconds that it waits for one that takes something all the while, about."""
KEPT: tuple[type[Event], ...] = (
    CheckpointRemoved,
    CheckpointSaved,
    JournalDegraded,
    JournalRestored,
    Marked,
    RequestApplied,
    RequestRefused,
    Rewound,
    SaveFailed,
    StateDamaged,
    StateLoaded,
    StateSaved,
)
"""What is of the child's hub alone."""


class Address(NamedTuple):
    """Where a parent takes what its children publish; as text ``PATH#NAME``.

    Attributes:
        path: of its socket.
        hub: name of its hub.
    """

    path: str
    hub: str

    def __str__(self) -> str:
        return f"{self.path}#{quote(self.hub, safe='')}"

    @classmethod
    def of(cls, text: str) -> Address:
        """Return the address that a text is.

        Raises:
            ArgumentError: it is none.
        """
        path, found, name = text.rpartition("#") if isinstance(text, str) else ("", "", "")
        if not found or not path or not name:
            raise ArgumentError(f"an address is children.address of the parent process, got {text!r:.200}")
        return cls(path, unquote(name))


class _Outgoing(Subscription):
    """All that a hub publishes, read by a thread without an event loop."""

    def __init__(self, hub: MessageHub) -> None:
        super().__init__(
            hub._bus, hub, "asynchub uplink", Selection.of(("**",)), max_lag=MAX_LAG, overflow="drop_oldest"
        )

    def pieces(self) -> Iterator[list[Event]]:
        """Yield what was published before the call, in lists of about ``PIECE`` events."""
        end = self.end_position()
        while self._cursor.position < end:
            piece: list[Event] = []
            while len(piece) < PIECE and self._cursor.position < end and (events := self._take()):
                piece += events
            if not piece:
                return
            yield piece

    def forget(self) -> None:
        """End it; what is left goes, without being made events first."""
        with self._bus.collecting:
            self._cursor.position = max(self._cursor.position, self.end_position())
            self._cursor.missed = None
            self.finish()


class Uplink:
    """The way from a hub of this process to the one of its parent; see ``asynchub.bridges.linking.connect``.

    Args:
        hub: the hub, from now on.
        address: where the parent takes it.

    Attributes:
        address: the same.
        hub: the hub.
    """

    def __init__(self, hub: MessageHub, address: str) -> None:
        self.address = address
        self.hub = hub
        self._path = Address.of(address).path
        self._packer = Packer("asynchub uplink", hub.registry)
        self._outgoing = _Outgoing(hub)
        self._lost = self._parcels = 0
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._wake = threading.Event()
        self._requests: deque[Latch] = deque()
        self._closing = self._given_up = False
        self._ended = Latch()
        self._error: Exception | None = None
        hub._heir = self
        with hub._bus.lock:
            hub._bus.once = self.start  # also in the place of what says that nobody reads a forked hub
            hub._bus.look_again()

    def forked(self) -> Callable[[], None]:
        """Begin anew in a forked child of this process, with the same parent; return what starts it."""
        if self._socket is not None:
            self._socket.close()  # else the parent would take this process for the other one
        return Uplink(self.hub, self.address).start

    # --- living

    def open(self) -> Self:
        """Find the parent now, and not at the first publish.

        Raises:
            BridgeError: it is not there.
        """
        try:
            if self._socket is None and self._thread is None:
                self._connect()
        except OSError as error:
            self.close(0.0)
            raise BridgeError(f"no hub takes anything at {self.address}: {error}; is `with Children` left?") from error
        return self

    def start(self) -> None:
        """Begin to send, in a thread; the first publish calls this."""
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="asynchub uplink", daemon=True)
            Finalize(None, self.close, exitpriority=0)
            try:
                self._thread.start()
            except RuntimeError as error:  # no more threads are to be had, which is no reason to end a publisher
                self._lose(error)
                self._finish()

    def flush(self, timeout: float | None = 30.0) -> None:
        """Wait until all that was published before is sent: the parent has it then, even if this process is killed.

        Args:
            timeout: seconds; None for ever.

        Raises:
            WaitTimeoutError: the timeout passed: the parent does not read, or not enough.
            BridgeError: the parent is gone.
        """
        deadline = deadline_in(timeout)
        self.hub._bus.drain(timeout)
        if not self._asked().wait(seconds_until(deadline)):
            raise WaitTimeoutError(f"the parent of hub {self.hub.instance_name!r} did not take all in {timeout} s")
        if self._error is not None:
            raise BridgeError(f"the parent of hub {self.hub.instance_name!r} is gone: {self._error}") from self._error

    def _asked(self) -> Latch:
        """Return a latch that is set when all that was published before is sent, or never will be."""
        latch = Latch()
        if self._thread is not None:
            self._requests.append(latch)
            self._wake.set()
        if self._thread is None or self._ended.is_set:
            latch.set()
        return latch

    def sent(self) -> None:
        """Wait as ``close`` does until all is sent; if that fails, end, so that nobody waits once more."""
        if not self._awaited(self._asked(), END_TIMEOUT):
            self.close(0.0)

    def _awaited(self, latch: Latch, timeout: float) -> bool:
        """Wait for a latch, as long as the parent takes something; tell whether it is set."""
        begun = taken = time.monotonic()
        parcels = self._parcels
        while not latch.wait(min(timeout, INTERVAL)):
            now = time.monotonic()
            if parcels != self._parcels:
                parcels, taken = self._parcels, now
            if now - taken >= timeout or now - begun >= LONGEST_END:
                return False
        return True

    def close(self, timeout: float = END_TIMEOUT) -> bool:
        """Send what is left, and end; tell whether all was sent. Does not raise.

        Args:
            timeout: seconds after which a parent that takes nothing is given up; one that takes little, after
                ``LONGEST_END``.
        """
        if not self._closing:
            self.hub._bus.drained().wait(timeout)
            self._closing = True
            if self._thread is None:
                self._finish()
            self._wake.set()
            if not self._awaited(self._ended, timeout):
                self._given_up = True
                logger.warning(
                    "hub %r: its parent does not read; the last events of this process are lost", self.hub.instance_name
                )
            if self._socket is not None:
                _shut(self._socket)  # which ends a send that nobody reads
            if self.hub._heir is self:
                self.hub._heir = None
        return self._ended.is_set and self._error is None

    def __enter__(self) -> MessageHub:
        make_current(self.hub)
        return self.hub

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hub._be_current_no_more()
        self.close()

    # --- the thread

    def _run(self) -> None:
        try:
            if self._socket is None:
                self._connect()
            self._send(encode_greeting(Greeting(os.getpid(), _worker())))
            while True:
                self._wake.wait(INTERVAL)
                self._wake.clear()
                closing = self._closing
                asked = len(self._requests)
                self._send_all()
                for _ in range(asked):
                    self._requests.popleft().set()
                if closing:
                    return
        except Exception as error:  # the parent is gone, as a rule; whatever it is, who publishes goes on
            self._lose(error)
        finally:
            self._finish()

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT)
        self._socket.connect(self._path)
        self._socket.settimeout(None)

    def _finish(self) -> None:
        self._outgoing.forget()
        if self._socket is not None:
            self._socket.close()
        self._ended.set()
        for latch in list(self._requests):
            latch.set()

    def _lose(self, error: Exception) -> None:
        self._error = error
        if not self._given_up:
            logger.warning(
                "hub %r: its parent takes nothing any more (%s); what this process records stays in its own copy",
                self.hub.instance_name,
                error,
            )

    def _send(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.sendall(data)
            self._parcels += 1

    def _send_all(self) -> None:
        for piece in self._outgoing.pieces():
            events = [event for event in piece if not isinstance(event, (EventsDropped, *KEPT))]
            self._lost += sum(event.missed for event in piece if isinstance(event, EventsDropped))
            for data in self._packed(events):
                self._send(data)
        if self._lost:
            self._send(encode_parcel(self._parcel([])))

    def _parcel(self, events: list[Event]) -> Parcel:
        lost, self._lost = self._lost, 0
        return Parcel(self._packer.pack(events) if events else Batch([], [], []), lost)

    def _packed(self, events: list[Event]) -> Iterator[bytes]:
        """Yield events as parcels, in halves if they do not fit into one."""
        lost = self._lost
        try:
            if events:
                yield encode_parcel(self._parcel(events))
        except Exception as error:  # it is too long, or an object in it raises: of a thousand events one is to blame
            self._lost = lost
            if len(events) == 1:
                self._lost += 1
                logger.warning("an event of %.80r cannot be sent: %s: %s", events[0].key, type(error).__name__, error)
                return
            for half in (events[: len(events) // 2], events[len(events) // 2 :]):
                yield from self._packed(half)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        sock.close()  # it was not connected, or the other side was faster


def _worker() -> str:
    """Return what this process is: the number of a loader's worker, or the name of a process."""
    ask = getattr(sys.modules.get("torch.utils.data"), "get_worker_info", None)
    info = None if ask is None else ask()
    if info is not None:
        return str(info.id)
    name = current_process().name
    return name if name != "MainProcess" else str(os.getpid())


def make_current(hub: MessageHub) -> None:
    """Have ``get_current_instance`` return a hub to the code that goes on here."""
    if _current.get()[-1:] != (hub,):
        _current.set((*_current.get(), hub))
