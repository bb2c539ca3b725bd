"""What a bridge needs of a broker: a log that it keeps for a run, and messages that it passes on.

The log of a run: what was appended has a position, 1, 2, 3, ...; what comes later has a larger one. An append with a
    message id is stored once, however often it is tried, as long as the broker remembers the id: a minute at least.
Messages: ``tell`` reaches who hears at that moment, or nobody; ``ask`` is answered by one who serves, or fails.
Subjects: words joined by dots; in what is read, heard and served, ``*`` stands for one word and a last ``>`` for one or
    more. ``asynchub.bridges.subjects`` makes them.
Loss of the broker: a transport finds it again by itself, for ever. ``read`` goes on where it was, without a gap or a
    repeat; what is served and heard is again; ``append``, ``newest`` and ``ask`` fail meanwhile.
Waiting: everything that waits takes a timeout, and a cancellation ends it at once.
Threads: one asyncio loop makes, uses and closes a transport.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

__all__ = ("Answer", "Heard", "Stored", "Transport")

Answer = Callable[[str, bytes], Awaitable[bytes]]
"""Called with the subject and the data of what is asked; returns the answer."""
Heard = Callable[[str, bytes], object]
"""Called with the subject and the data of what was told; does not wait."""


class Stored(NamedTuple):
    """A message in the log of a run.

    Attributes:
        subject: its subject.
        data: what was appended.
        position: where it is in the log, from 1.
        time: when the broker took it, in seconds since the epoch by the broker's clock.
    """

    subject: str
    data: bytes
    position: int
    time: float


class Transport(ABC):
    """A connection to a broker, for one run.

    Attributes:
        max_bytes: how long the data of one message may be, in bytes; known once connected.
        connected: whether the broker is there.
        on_change: called without arguments on the loop whenever ``connected`` or ``error`` has changed; set it before
            ``connect``.
        error: why it is not connected, or what it was refused last since it is; None if all is well.
    """

    max_bytes: int = 2**20
    connected: bool = False
    error: Exception | None = None
    on_change: Callable[[], object]

    @abstractmethod
    async def connect(self, timeout: float) -> None:
        """Find the broker; go on trying in the background when this raises, until ``close``.

        Args:
            timeout: seconds to wait for it.

        Raises:
            AccessRefusedError: it refuses the credentials.
            BridgeError: it is not to be had in that time.
        """

    @abstractmethod
    async def open_log(self, timeout: float) -> None:
        """Have the broker keep a log for the run, with the subjects that are stored; nothing if it does already.

        Raises:
            AccessRefusedError: the credentials do not allow it.
            BridgeError: the broker does not answer in ``timeout`` seconds, or keeps no logs.
        """

    @abstractmethod
    async def append(self, subject: str, data: bytes, message_id: str, *, alone: bool = False, timeout: float) -> int:
        """Append to the log of the run; return the position, of the first time if the id was used before.

        Args:
            subject: a stored one.
            data: at most ``max_bytes`` bytes.
            message_id: identity of the message: 1 to 512 printable ASCII characters.
            alone: whether it takes the place of everything that the subject had.
            timeout: seconds to wait for the broker.

        Raises:
            ArgumentError: the log does not store the subject, or the data or the identity is too long.
            AccessRefusedError: the credentials do not allow it.
            BridgeError: the broker has not said in that time that it has it; it may have it all the same. Or it keeps
                no log for the run: open it again.
        """

    @abstractmethod
    async def newest(self, subject: str, timeout: float) -> Stored | None:
        """Return the newest message of a subject, without ``*`` or ``>``, in the log; None if there is none.

        Raises:
            AccessRefusedError: the credentials do not allow it.
            BridgeError: the broker does not answer in ``timeout`` seconds.
        """

    @abstractmethod
    async def subjects(self, pattern: str, timeout: float) -> list[str]:
        """Return the subjects in the log that match ``pattern``, sorted.

        Raises:
            AccessRefusedError: the credentials do not allow it.
            BridgeError: the broker does not answer in ``timeout`` seconds.
        """

    @abstractmethod
    async def last_position(self, timeout: float) -> int:
        """Return the position of the newest message of the log, whatever its subject; 0 if it is empty or not there.

        Raises:
            AccessRefusedError: the credentials do not allow it.
            BridgeError: the broker does not answer in ``timeout`` seconds.
        """

    @abstractmethod
    def read(self, patterns: Sequence[str], after: int) -> AsyncIterator[list[Stored]]:
        """Yield what the log has, and will have, behind a position, in order; never ends by itself.

        Waits for the log to be there, and for the broker. Messages that the broker has deleted, by age or size, are
        left out. A position that the log has not reached is of another log, lost with its broker's disk: what there is
        is read from the beginning, with positions from 1 again; so is a log that is made anew meanwhile.

        Args:
            patterns: of the subjects.
            after: the position; 0 for everything.

        Yields:
            One to some hundred messages at a time.

        Raises:
            ArgumentError: the log stores nothing that matches one of the patterns.
            AccessRefusedError: the credentials do not allow it.
            BridgeError: the transport is closed.
        """

    @abstractmethod
    async def tell(self, subject: str, data: bytes) -> None:
        """Pass a message on to those who hear; it is not stored, and lost if the broker is not there."""

    @abstractmethod
    async def hear(self, pattern: str, heard: Heard) -> None:
        """Have ``heard`` called on this loop with each message that is told on a subject that matches ``pattern``.

        The broker knows of it when this returns, if it answers within two seconds; else as soon as it does.

        Raises:
            AccessRefusedError: the credentials do not allow it, as far as the broker says so in that time; later it is
                ``error`` that says so.
            BridgeError: the transport is closed.
        """

    @abstractmethod
    async def ask(self, subject: str, data: bytes, timeout: float) -> bytes:
        """Return the answer of one who serves the subject, the first if several do.

        Raises:
            AccessRefusedError: the credentials do not allow it.
            NobodyError: nobody serves it.
            BridgeError: nobody answers in ``timeout`` seconds, or the broker is not there. Or it could not be
                answered: the text says why.
        """

    @abstractmethod
    async def serve(self, pattern: str, answer: Answer) -> None:
        """Have ``answer`` called, a task each, with what is asked on subjects that match ``pattern``.

        What ``answer`` raises is logged, and told to the one who asked. When it takes effect, and what it raises, is as
        for ``hear``.
        """

    @abstractmethod
    async def close(self, timeout: float) -> None:
        """Let go of the broker, in at most ``timeout`` seconds, whatever state it is in. Closing twice is fine."""
