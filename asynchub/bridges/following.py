"""Following a run through a broker: what it publishes is brought into a hub, and what is requested there asked of it.

Threads: ``begin``, ``begun``, ``end``, ``ended``, ``ask``, ``caught_up`` and ``statuses`` may be called from any; the
    hub's events are published from the one thread of this.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgpack

from asynchub.allowing import command_of, refusal
from asynchub.bridges.commands import decode_answer, encode_request
from asynchub.bridges.failures import AccessRefusedError, BridgeError, NobodyError
from asynchub.bridges.frames import Frame
from asynchub.bridges.loop_thread import LoopThread
from asynchub.bridges.rank_status import RankStatus
from asynchub.bridges.receiver import Receiver
from asynchub.bridges.snapshots import read_snapshot
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Stored, Transport
from asynchub.bridging import BridgeDegraded, BridgeRestored, FrameRefused
from asynchub.errors import ArgumentError, StateError
from asynchub.hub import MessageHub
from asynchub.loops import Latch, deadline_in, seconds_until
from asynchub.requests import Request

__all__ = ("Following",)

logger = logging.getLogger("asynchub")
ANSWER = 5.0
"""Seconds in which a broker, or a run, has to answer."""
NOBODY = 3.0
"""Seconds in which somebody has to be there who answers for a run."""
GRACE = 2.0
"""Seconds that a broker may be away before that is said."""
LOOK = 0.25
"""Seconds from one look for a broker to the next."""
CLOSE = 1.0
AT_ONCE = 32
"""Subjects that a broker is asked of at once."""
DIGITS = 10
"""Of the number of a rank, at most."""
CLOSED = "BridgeError: the connection was closed before the run had answered"
FACTS = ("rank", "world", "step", "waiting", "left_out")
"""What a sign of life says, beside the time and the epoch."""


class Following:
    """Brings a run to a hub.

    Args:
        hub: the hub.
        open_transport: makes the connection.
        subjects: of the run.
        ranks: whose events are wanted, the first of them with its own keys; None for all, with rank 0 as the first.
        past: what comes first; see ``asynchub.bridges.remote.Beginning``.

    Attributes:
        over: whether it has ended.
    """

    def __init__(
        self,
        hub: MessageHub,
        open_transport: Callable[[], Transport],
        subjects: Subjects,
        ranks: Sequence[int] | None,
        past: str,
    ) -> None:
        self._hub = hub
        self._open = open_transport
        self._subjects = subjects
        self._ranks = ranks
        self._past = past
        self._ready = Latch()
        self._failure: BaseException | None = None
        self._receivers: dict[int, Receiver] = {}
        self._signs: dict[int, tuple[float, dict[str, Any]]] = {}
        self._position = 0
        self._waiting: list[Latch] = []
        self._awaited: list[tuple[int, Latch]] = []
        self._asked: dict[int, Request] = {}
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.over = False
        self._transport: Transport | None = None
        self._down_since: float | None = None
        self._said = False
        self._thread = LoopThread("asynchub remote", self._main)

    # --- living

    def begin(self, timeout: float) -> None:
        """Begin, and wait for the past.

        Raises:
            BridgeError: the broker is not to be had in ``timeout`` seconds, or refuses.
        """
        deadline = deadline_in(timeout)
        self._deadline = deadline
        self._thread.start()
        self._check(self._ready.wait(seconds_until(deadline)), timeout)

    async def begun(self, timeout: float) -> None:
        """Do what ``begin`` does in this task."""
        deadline = deadline_in(timeout)
        self._deadline = deadline
        self._thread.start()
        self._check(await self._ready.waited(seconds_until(deadline)), timeout)

    def _check(self, ready: bool, timeout: float) -> None:
        if self._failure is not None:
            raise self._failure
        if not ready:
            why = None if self._transport is None else self._transport.error
            raise BridgeError(f"the past of run {self._subjects.run!r} has not come in {timeout} s") from why

    def end(self, timeout: float) -> None:
        """End the thread, in about ``timeout`` seconds at most."""
        self._thread.stop(timeout)

    async def ended(self, timeout: float) -> None:
        """Do what ``end`` does in this task."""
        await self._thread.stopped(timeout)

    # --- asking

    def ask(self, request: Request) -> None:
        """Ask a request, with an id, of the run; if it does not let it in, publish a ``RequestRefused``.

        Raises:
            ArgumentError: it is of a kind that cannot be asked from afar.
            UnsupportedTypeError: it cannot be sent.
        """
        subject, data = self._subjects.command(*command_of(request)), encode_request(request)
        number = next(self._numbers)
        self._asked[number] = request
        self._thread.call(lambda: self._start(self._ask(number, subject, data)))
        if self.over:
            self._answered(number, CLOSED)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, number: int, subject: str, data: bytes) -> None:
        deadline = time.monotonic() + NOBODY
        while True:
            try:
                why = decode_answer(await self._there().ask(subject, data, ANSWER))
                if self._ranks is None or 0 in self._ranks:
                    why = ""  # the run has published what becomes of it
            except NobodyError:
                if time.monotonic() < deadline:  # it may be finding the broker again
                    await asyncio.sleep(LOOK)
                    continue
                why = f"NobodyError: rank 0 of {self._subjects.run!r} is not there to answer: it has left, or not begun"
            except (BridgeError, StateError) as error:
                why = f"{type(error).__name__}: {error}"
            self._answered(number, why)
            return

    def _answered(self, number: int, why: str) -> None:
        request = self._asked.pop(number, None)
        if why and request is not None:
            self._refuse(request, why)

    def _refuse(self, request: Request, why: str) -> None:
        self._hub.publish(refusal(request, why))

    # --- reading

    def caught_up(self) -> Latch:
        """Return a latch that is set when all that the broker has now was published, or when it is ``over``."""
        latch = Latch()
        self._waiting.append(latch)
        self._thread.call(lambda: self._start(self._await_position(latch)))
        if self.over:
            latch.set()
        return latch

    async def _await_position(self, latch: Latch) -> None:
        while (position := await self._try_last_position()) is None:
            await asyncio.sleep(LOOK)  # until the broker is there again, or whoever waits gives up
        self._waiting.remove(latch)
        self._awaited.append((position, latch))
        self._reached(self._position)

    async def _try_last_position(self) -> int | None:
        try:
            return await self._last_position()
        except BridgeError:
            return None

    async def _last_position(self) -> int:
        """Return where, in the broker's log, the newest frame is that is wanted."""
        there, newest = self._there(), 0
        for pattern in self._patterns():
            subjects = await there.subjects(pattern, ANSWER)
            for start in range(0, len(subjects), AT_ONCE):
                some = subjects[start : start + AT_ONCE]
                found = await asyncio.gather(*(there.newest(subject, ANSWER) for subject in some))
                newest = max([newest, *(stored.position for stored in found if stored is not None)])
        return newest

    def _there(self) -> Transport:
        if self._transport is None:
            raise BridgeError("the connection was not made yet")
        return self._transport

    def statuses(self) -> dict[int, RankStatus]:
        """Return how each rank is doing."""
        now = time.monotonic()
        found: dict[int, RankStatus] = {}
        for rank in sorted({*list(self._receivers), *list(self._signs)}):
            heard, facts = self._signs.get(rank, (None, {}))
            receiver = self._receivers.get(rank)
            frame = None if receiver is None else receiver.frame
            world = facts.get("world") or (0 if frame is None else frame.world)
            found[rank] = RankStatus(
                rank=rank,
                world=world,
                step=facts.get("step", None if frame is None else frame.step),
                heard=None if heard is None else now - heard,
                waiting=facts.get("waiting"),
                left_out=facts.get("left_out"),
                frames=0 if receiver is None else receiver.frames,
                missed=0 if receiver is None else receiver.missed,
                ended=receiver is not None and receiver.ended,
            )
        return found

    def _patterns(self) -> list[str]:
        if self._ranks is None:
            return [self._subjects.events()]
        return [self._subjects.events(rank) for rank in self._ranks]

    def _receiver(self, rank: int) -> Receiver:
        receiver = self._receivers.get(rank)
        if receiver is None:
            first = rank == (0 if self._ranks is None else self._ranks[0])
            prefix = "" if first else f"ranks/{rank}/"
            receiver = self._receivers[rank] = Receiver(
                self._hub, self._subjects.run, rank, prefix.__add__, steps=first, whole=self._past == "all"
            )
        return receiver

    # --- the thread

    async def _main(self) -> None:
        try:
            await self._follow()
        except BridgeError as error:
            self._failure = error  # whoever waits is told
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self.over = True
            self._failure = self._failure or BridgeError("the connection was closed")
            for latch in (self._ready, *self._waiting, *(latch for _, latch in self._awaited)):
                latch.set()
            for number in list(self._asked):
                self._answered(number, CLOSED)

    async def _follow(self) -> None:
        transport = self._transport = self._open()
        transport.on_change = self._changed
        try:
            await transport.connect(seconds_until(self._deadline) or 0.0)
            await transport.hear(self._subjects.heartbeat(), self._hear)
            self._position = await self._begin(transport)
            there = self._position if self._past == "none" else await self._last_position()
            self._awaited.append((there, self._ready))
            self._reached(self._position)
            await self._read(transport)
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await transport.close(CLOSE)

    async def _read(self, transport: Transport) -> None:
        while True:
            try:
                async with aclosing(transport.read(self._patterns(), self._position)) as batches:  # type: ignore[type-var]
                    async for messages in batches:
                        self._restored()
                        for stored in messages:
                            self._take(stored)
                        self._reached(messages[-1].position)
            except AccessRefusedError as error:
                self._say(error)
            except Exception as error:  # a defect, of ours or of a client: what comes later is worth having
                logger.exception("reading run %r failed", self._subjects.run)
                self._say(error)
            await asyncio.sleep(ANSWER)

    def _take(self, stored: Stored) -> None:
        word = stored.subject.split(".")[-2]
        if word.isdecimal() and len(word) <= DIGITS:
            self._receiver(int(word)).take(stored)
        else:
            self._refuse_frame(stored.subject, ArgumentError("the subject names no rank"))

    def _begin_with(self, rank: int, parts: Sequence[Frame]) -> bool:
        """Begin with a snapshot; False if it is damaged."""
        try:
            self._receiver(rank).begin_with(parts)
        except StateError as error:
            self._refuse_frame(self._subjects.snapshot(rank, 0), error)
            return False
        return True

    def _refuse_frame(self, source: str, error: Exception) -> None:
        self._hub.publish(FrameRefused(source=source, error=f"{type(error).__name__}: {error}"))

    def _reached(self, position: int) -> None:
        self._position = position
        for one in [one for one in self._awaited if one[0] <= position]:
            self._awaited.remove(one)
            one[1].set()

    async def _begin(self, transport: Transport) -> int:
        """Publish the past that is wanted; return the position in the log from which to go on."""
        if self._past == "all":
            return 0
        if self._past == "none":
            return await transport.last_position(ANSWER)
        positions = []
        for rank in await self._ranks_there(transport):
            parts = await read_snapshot(transport, self._subjects, rank, self._refuse_frame, ANSWER)
            positions.append(parts[0].position if parts and self._begin_with(rank, parts) else 0)
        return min(positions, default=0)

    async def _ranks_there(self, transport: Transport) -> list[int]:
        """Return the ranks that are wanted, and have frames in the log."""
        found: set[int] = set()
        for pattern in self._patterns():
            words = [subject.split(".")[-2] for subject in await transport.subjects(pattern, ANSWER)]
            found |= {int(word) for word in words if word.isdecimal() and len(word) <= DIGITS}
        return sorted(found)

    def _hear(self, subject: str, data: bytes) -> None:
        """Take in a sign of life."""
        try:
            facts = msgpack.unpackb(data, strict_map_key=True)
            rank = facts["rank"]
            if any(type(facts[name]) is not int for name in FACTS) or subject != self._subjects.heartbeat(rank):
                raise ValueError("its fields are numbers, and its subject that of its rank")
        except Exception as error:  # no list of what foreign data can raise is ever complete
            self._refuse_frame(subject, error)
            return
        self._signs[rank] = (time.monotonic(), facts)

    # --- the broker

    def _changed(self) -> None:
        if self._transport is None or not self._ready.is_set:
            return
        if self._transport.connected:
            self._restored()
        elif self._down_since is None:
            self._down_since = time.monotonic()
            asyncio.get_running_loop().call_later(GRACE, self._say_down, self._down_since)

    def _restored(self) -> None:
        since, self._down_since = self._down_since, None
        if since is not None and self._said:
            self._said = False
            self._hub.publish(BridgeRestored(bridge="remote", seconds=time.monotonic() - since))

    def _say_down(self, since: float) -> None:
        if self._down_since == since:
            self._say((self._transport and self._transport.error) or BridgeError("the broker is not there"))

    def _say(self, error: Exception) -> None:
        self._down_since = self._down_since or time.monotonic()
        if not self._said:
            self._said = True
            self._hub.publish(BridgeDegraded(bridge="remote", error=f"{type(error).__name__}: {error}"))
