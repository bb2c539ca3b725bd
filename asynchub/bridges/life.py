"""What a bridge does while its hub is entered: one life of it, in a thread with a loop of its own.

Threads: ``start``, ``give``, ``hurry``, ``wait`` and ``end`` are for the hub's loop; ``emptied`` and ``statistics`` for
    any thread; all else happens in the bridge's own.
Fork: a forked child lets go of the spool, which its parent keeps.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import anyio

from asynchub.allowing import ask_of_all
from asynchub.ancestry import goes_on
from asynchub.bridges.commands import Commands
from asynchub.bridges.cutting import Cutter, Identity
from asynchub.bridges.failures import AccessRefusedError, BridgeError
from asynchub.bridges.frames import Frame
from asynchub.bridges.lineage import Lineage
from asynchub.bridges.loop_thread import LoopThread
from asynchub.bridges.packing import Packer
from asynchub.bridges.plan import BridgeStatistics, Plan
from asynchub.bridges.sender import Sender
from asynchub.bridges.signs import Signs, in_words
from asynchub.bridges.spool import Spool
from asynchub.bridges.spool_folder import segment_files
from asynchub.bridges.transport import Transport
from asynchub.events import Event, Rewound
from asynchub.loops import Latch
from asynchub.requests import Request
from asynchub.subscription import Subscription

__all__ = ("Delivery", "Life")

logger = logging.getLogger("asynchub")
CONNECT = 5.0
"""Seconds from one look for a broker that never was there to the next."""
RETRY = 0.5
"""Seconds from a look that fails at once to the next."""
CLOSE = 1.0
"""Seconds that letting go of a broker may take."""
ABSENT = 1.0
"""Seconds that the end waits for a broker that never was there."""


class Delivery:
    """A wait for the broker.

    Attributes:
        over: set when it has all, or the life of the bridge has ended.
        done: whether it has all.
    """

    def __init__(self, *, over: bool = False) -> None:
        self.over = Latch()
        self.done = False
        if over:
            self.over.set()


class Life:
    """What a bridge has while its hub is entered.

    Args:
        plan: what it was told.
        events: what it reads.
        begun_seq: what comes is what the hub published after this ``seq``.
        before: the life before this one, of the same bridge, or None.
        anew: whether the state of the hub was replaced since then.

    Attributes:
        epoch: which life of the rank it is; see ``Frame``.
        lineage: what it and those before it went on from.
    """

    _cutter: Cutter

    def __init__(self, plan: Plan, events: Subscription, begun_seq: int, before: Life | None, *, anew: bool) -> None:
        self._plan = plan
        self._hub = plan.hub
        self._events = events
        self._begun_seq = begun_seq
        self._forks = plan.hub._ancestry.as_of(max(begun_seq, events.opened_seq))
        self.epoch = time.time_ns()
        self._anew = anew
        self.lineage: Lineage = _lineage(plan.spool) if before is None else before.lineage
        self._before = None if before is None else before.newest
        self._before_epoch = 0 if before is None else before.epoch
        self._ready = Latch()
        self._failure: BaseException | None = None
        self._drains = True
        self._cut_off = False
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._transport: Transport | None = None
        self._signs = Signs(plan)
        self._held_said = False
        self._refusal: OSError | None = None
        self._waits: dict[asyncio.Future[Any], Delivery] = {}
        self._thread = LoopThread(f"asynchub {plan.name}", self._main)
        _LIVES.add(self)

    # --- the hub's side

    async def start(self) -> None:
        """Begin; raise what went wrong with that."""
        self._thread.start()
        try:
            await self._ready.waited(None)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._thread.stopped(2 * CLOSE)
            raise
        if self._failure is not None:
            raise self._failure

    def give(self, batch: Sequence[Event]) -> Latch | None:
        """Send events; return what to wait for before more is given, or None. Raises what has ended the thread."""
        self._cutter.step = self._hub.step
        if any(type(one) is Rewound for one in batch):  # of a journal: what this life brings counts, all of it
            batch = [one for one in batch if type(one) is not Rewound]
        if batch:
            self._go_on(batch[-1].seq)
        room = self._cutter.give(batch)
        self.check()  # only now: what was given and is not sent is in `left`
        return room

    def _go_on(self, seq: int) -> None:
        """Note what the hub had come by when it published an event, e.g. that a journal was opened."""
        if self._hub._ancestry.path is not self._forks:
            forks = self._hub._ancestry.as_of(seq)
            if forks is not self._forks and goes_on(forks, self._forks):  # else another life is about to begin
                self._forks = forks
                self._thread.call(functools.partial(self.lineage.note, self.epoch, forks))

    def left(self) -> list[Event]:
        """Return what was given and did not come into the spool; once the thread has ended."""
        return self._cutter.left() if self._thread.ended.is_set else []

    def hurry(self) -> Latch:
        """Have all that was given in the spool soon; return a latch that is set when it is."""
        return self._cutter.hurry()

    async def wait(self, latch: Latch) -> None:
        """Wait for the thread, as long as it lives."""
        while not await latch.waited(1.0):
            self.check()

    def check(self) -> None:
        """Raise what has ended the thread."""
        if self._thread.ended.is_set:
            raise self._thread.error or BridgeError("the bridge has ended")

    def emptied(self) -> Delivery:
        """Return what is over when the broker has all that was given so far."""
        delivery = Delivery()

        async def wait(latch: Latch) -> None:
            await latch.waited(None)
            delivery.done = True

        def begin() -> None:
            sender = self._sender
            if sender is None or self._cut_off:
                delivery.over.set()
                return
            self._cutter.cut()
            task = asyncio.ensure_future(wait(sender.emptied(self._cutter.number)))
            self._waits[task] = delivery
            task.add_done_callback(over)

        def over(task: asyncio.Future[Any]) -> None:
            self._waits.pop(task, None)
            delivery.over.set()

        if not self._thread.call(begin):
            delivery.over.set()
        return delivery

    async def end(self, *, drain: bool = True) -> None:
        """End the thread.

        Args:
            drain: whether to bring what is left to the broker before, as far as that can be done in time, and to say
                that the rank has left.
        """
        self._cutter.step = self._hub.step
        self._drains = drain
        self._thread.call(self._ending.set)
        try:
            await self._thread.ended.waited(CLOSE + (self._plan.drain_timeout + ABSENT if drain else 0.0))
        finally:
            if not self._thread.ended.is_set:
                with anyio.CancelScope(shield=True):
                    await self._thread.stopped(2 * CLOSE)
        if self._thread.error is not None:
            raise self._thread.error

    @property
    def newest(self) -> Frame | None:
        """The newest frame that the broker has of this life, without its events."""
        return None if self._sender is None else self._sender.newest

    def statistics(self) -> BridgeStatistics:
        """Return how it is doing."""
        transport, spool, sender = self._transport, self._spool, self._sender
        error = self._signs.error or self._thread.error
        if transport is None or spool is None or sender is None:
            return BridgeStatistics(error=in_words(error))
        return BridgeStatistics(
            connected=transport.connected,
            error=in_words(error or spool.degraded or self._refusal),
            waiting=spool.waiting,
            size=spool.size,
            delivered=sender.delivered,
            left_out=spool.left_out + sender.left_out,
            clock_ahead=sender.clock_ahead,
        )

    def forked(self) -> None:
        """Let go of the spool, in a forked child."""
        if self._spool is not None:
            self._spool.forget()

    # --- the thread's side

    async def _main(self) -> None:
        self._ending = asyncio.Event()
        try:
            transport, spool, sender = self._begin()
        except BaseException as error:
            self._failure = error
            if self._spool is not None:
                self._spool.close()
            raise
        finally:
            self._ready.set()
        transport.on_change = sender.wake
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(work)
            for work in (self._cutter.run(), self._connect(transport, spool, sender), sender.run())
        ]
        try:
            await self._ended_or_failed(tasks)
            if self._drains:
                await self._drain(transport, sender)
        finally:
            try:
                self._cut_rest()
                tasks += self._waits
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await transport.close(CLOSE)
            finally:
                spool.close()

    def _begin(self) -> tuple[Transport, Spool, Sender]:
        """Find out from where this life goes on, and what of the hub's past is not in the spool."""
        plan, hub = self._plan, self._hub
        self.epoch = max(self.epoch, 1 + max(self._before_epoch, _newest_epoch(plan.spool)))  # clocks are set back
        identity = Identity(plan.subjects.run, hub.run_id, plan.rank, plan.world, self.epoch)
        transport = self._transport = plan.open()
        spool = self._spool = self._open_spool(plan.spool)
        packer = Packer(plan.name, hub.registry)
        cutter = self._cutter = Cutter(identity, packer, plan.interval, self._put, self._thread.call)
        lasts = [last for last in (spool.last, self._before) if last is not None and last.run_id == identity.run_id]
        last = max(lasts, key=lambda frame: (frame.epoch, frame.number), default=None)
        after = 0
        if last is not None:
            after = self.lineage.common(last, self._forks, self._begun_seq)
        self.lineage.add(self.epoch, identity.run_id, after, self._forks)
        with hub._bus.drained_still():
            past = hub.past(plan.selection, "last", None)
        base = [event for event in past if event.seq <= after]
        cutter.step = hub.step
        sender = self._sender = Sender(identity, plan.subjects, transport, spool, self._signs.told)
        cutter.begin(after, base, self._since(after))
        return transport, spool, sender

    def _open_spool(self, folder: Path | None) -> Spool:
        try:
            return Spool(folder, self.epoch, max_bytes=self._plan.max_spool, refused=self._signs.refused)
        except BridgeError:  # it is somebody else's
            raise
        except OSError as error:
            logger.error("%s: the disk refuses the spool, which is in memory: %s", self._plan.name, error)
            self._refusal = error
            return Spool(None, self.epoch, max_bytes=self._plan.max_spool, refused=self._signs.refused)

    def _since(self, after: int) -> Iterator[Event]:
        """Yield what was published after ``after``, and will not be given."""
        hub, upto = self._hub, self._begun_seq
        if self._anew or any(one.goes_back and one.at > after for one in self._forks):
            # a journal has what does not count any more
            with hub._bus.drained_still():
                since = hub.past(self._plan.selection, "none", after)
        else:
            since = self._events.again(after, upto)
        for event in since:
            if event.seq <= upto and type(event) is not Rewound:  # as in `give`
                yield event

    async def _ended_or_failed(self, tasks: list[asyncio.Future[Any]]) -> None:
        """Wait until the hub is left; raise what ends one of the tasks before that."""
        ending: asyncio.Future[Any] = asyncio.ensure_future(self._ending.wait())
        try:
            done, _ = await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
        for task in done - {ending}:
            task.result()

    def _put(self, frame: Frame) -> None:
        spool, sender = self._spool, self._sender
        if spool is None or sender is None:
            return
        spool.append(frame)
        sender.wake()
        self._signs.waiting = spool.waiting
        degraded = spool.degraded is not None
        if degraded and not self._held_said:
            logger.error("%s: the disk refuses the spool, which is in memory: %s", self._plan.name, spool.degraded)
        self._held_said = degraded

    async def _connect(self, transport: Transport, spool: Spool, sender: Sender) -> None:
        """Find the broker, then answer what is asked, and give signs of life."""
        served = self._plan.rank != 0
        while not (transport.connected and served):
            try:
                await transport.connect(CONNECT)
                sender.wake()
                if not served:
                    commands = Commands(self._plan.subjects, self._plan.allowed, self._request, self._hub.publish)
                    await transport.serve(self._plan.subjects.command(), commands.answer)
                    served = True
            except AccessRefusedError as error:
                self._signs.told(error)
                await asyncio.sleep(CONNECT)
            except BridgeError as error:
                self._signs.told(error)
                await asyncio.sleep(RETRY)
        await self._signs.live(self.epoch, transport, spool, sender)

    def _request(self, request: Request) -> None:
        ask_of_all(request, self._hub.request, self._plan.agree, self._plan.world, "Bridge")

    async def _drain(self, transport: Transport, sender: Sender) -> None:
        """Bring what is left to the broker, as far as that can be done in time."""
        self._cut_rest()
        limit = self._plan.drain_timeout
        emptied = sender.emptied(self._cutter.number)
        was_there = transport.connected or sender.delivered  # it comes back at once, or a little later
        if await emptied.waited(limit if was_there else min(limit, ABSENT)):
            with suppress(BridgeError):  # who comes late reads the frames themselves
                await sender.snapshot()

    def _cut_rest(self) -> None:
        if not self._cut_off:
            self._cut_off = True
            self._cutter.end() if self._drains else self._cutter.cut()


def _lineage(folder: Path | None) -> Lineage:
    return Lineage(None if folder is None else folder.with_name(f"{folder.name}.lives"))


def _newest_epoch(folder: Path | None) -> int:
    """Return the newest epoch that there is in the folder of a spool; 0 if there is none."""
    try:
        return max((epoch for epoch, _, _ in segment_files(folder)), default=0) if folder is not None else 0
    except OSError:  # it is not there yet, or the spool will say so
        return 0


_LIVES: WeakSet[Life] = WeakSet()


def _after_fork() -> None:
    for life in list(_LIVES):
        life.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
