"""The bridge from a run to a broker: everything that a hub publishes goes there, and requests come back.

Waiting: a publish waits for nothing; the training loop neither for the broker, nor at the start, nor, beyond
    ``drain_timeout``, at the end. What the broker has not taken waits in the spool, on the disk; the next process of
    the same run and rank brings it there, or ``asynchub spool push`` does.
Loss: a killed process loses what was published in its last ``interval`` seconds, and with a journal attached, nothing:
    the process that resumes the run sends what the journal has and the spool has not. A full spool is thinned, and what
    is left out is counted, and said where it was.
Order: as in the hub's log.
Going back: where the hub is at an earlier state than what was sent, since it was resumed, or a state was loaded,
    readers take back what came after that; see ``asynchub.bridges.lineage``.
Failures: a thread that dies is begun anew, and what was not in the spool is sent then. Without a disk for the spool,
    that is in memory.
Threads: one of its own, with a loop of its own, named ``asynchub bridge``.
"""

from __future__ import annotations

import functools
import operator
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import anyio

from asynchub.allowing import Allowed
from asynchub.bridges.life import Delivery, Life
from asynchub.bridges.opening import open_transport
from asynchub.bridges.plan import BridgeStatistics, Plan
from asynchub.bridges.signs import in_words
from asynchub.bridges.subjects import Subjects, encode_word
from asynchub.channels import Selection
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.events import Event, Rewound, ScalarUpdated, StateLoaded
from asynchub.hub import MessageHub
from asynchub.loops import Latch, deadline_in, seconds_until
from asynchub.requests import Request, RequestApplied, RequestRefused
from asynchub.subscription import Subscription

__all__ = ("Bridge",)

RUN = "TORCHELASTIC_RUN_ID"
UNNAMED = "none"
"""What torchrun calls a run that was given no id."""
URGENT = (Request, RequestApplied, RequestRefused)
"""Kinds of events that somebody far away may be waiting for."""
LOOK = 1.0
"""Seconds from one look whether the thread is alive to the next, while nothing is published."""
AGAIN = 0.01
"""Seconds from one look at a bridge that begins anew to the next."""
ALWAYS = (RequestApplied, RequestRefused, StateLoaded)
"""Kinds of events that go there, whatever is wanted."""


class Bridge:
    """Send what a hub publishes to a broker, and let requests in: ``Bridge(hub, "nats://localhost", run="r1")``.

    It attaches itself to the hub, and works while that is entered.

    Args:
        hub: the hub of this process.
        url: of the broker: ``nats://``, ``tls://``, or ``memory://NAME`` for one inside of this process.
        wanted: key patterns and event classes that go there; default everything. What becomes of requests, and that a
            state was loaded, goes there in any case.
        run: name of the run, the same for all of its ranks; default ``TORCHELASTIC_RUN_ID``.
        rank: of this process; default ``RANK``, else 0.
        world: how many ranks there are; default ``WORLD_SIZE``, else 1.
        spool: folder in which what the broker has not taken is kept, for each run and rank; None: in memory.
        max_spool: bytes that it may take.
        allow: what may be asked from afar: ``"stop"``, ``"checkpoint"``, ``"pause"``, ``"skip"``, ``"rollback"``, and
            of parameters ``"set/PATTERN"``, e.g. ``"set/lr"``; default nothing. Rank 0 answers.
        agree: called with each request that is let in; default ``hub.request`` where there is one rank. Of several,
            ``reducer.request`` has all of them apply it at the same step; without it requests are refused.
        interval: seconds that an event waits for others to travel with.
        drain_timeout: seconds that leaving the hub waits for the broker to take what is left.
        name: for events and statistics.
        **options: how to connect; see ``asynchub.bridges.opening.open_transport``.

    Raises:
        ArgumentError: an argument is out of range, or no run is named.
        ImportError: the client of the broker is not installed.
    """

    def __init__(
        self,
        hub: MessageHub,
        url: str,
        *wanted: str | type[Event],
        run: str | None = None,
        rank: int | None = None,
        world: int | None = None,
        spool: str | PathLike[str] | None = "asynchub-spool",
        max_spool: int = 2**28,
        allow: Iterable[str] = (),
        agree: Callable[[Request], object] | None = None,
        interval: float = 0.5,
        drain_timeout: float = 5.0,
        name: str = "bridge",
        **options: Any,
    ) -> None:
        if not isinstance(hub, MessageHub):
            raise ArgumentError(f"hub must be asynchub's MessageHub, got {type(hub).__name__}")
        if run is None:
            run = os.environ.get(RUN, UNNAMED)
            if run == UNNAMED:
                raise ArgumentError("run must name the run, the same for all of its ranks and readers; got none")
        for label, number in (("interval", interval), ("drain_timeout", drain_timeout)):
            if not isinstance(number, int | float) or not number >= 0:
                raise ArgumentError(f"{label} must be seconds, 0 or more, got {number!r:.80}")
        if type(max_spool) is not int or max_spool < 2**20:
            raise ArgumentError(f"max_spool must be bytes, an int from {2**20} on, got {max_spool!r:.80}")
        if agree is not None and not callable(agree):
            raise ArgumentError(f"agree is called with a request, got {agree!r:.80}")
        self._hub = hub
        rank, world = _whole("rank", rank, "RANK", 0), _whole("world", world, "WORLD_SIZE", 1)
        if not 0 <= rank < world:
            raise ArgumentError(f"rank must be from 0 to {world - 1}, as there are {world}, got {rank}")
        subjects = Subjects(run)
        folder = None if spool is None else Path(spool) / encode_word(run).replace("/", "%2F") / str(rank)
        connect = functools.partial(open_transport, url, run, **options)
        connect()  # what is wrong with the arguments is to be said here; nothing is connected by it
        wanted = (*wanted, *ALWAYS) if wanted else ("**",)
        self._plan = Plan(
            hub=hub,
            open=connect,
            subjects=subjects,
            rank=rank,
            world=world,
            selection=Selection.of(wanted),
            spool=folder,
            max_spool=max_spool,
            allowed=Allowed(allow),
            agree=agree,
            interval=interval,
            drain_timeout=drain_timeout,
            name=name,
        )
        self._life: Life | None = None
        self._failure: Exception | None = None
        self._begun = Latch()
        self.attachment = hub.attach(self._send, *wanted, name=name, on_error="restart", overflow="catch_up")

    def statistics(self) -> BridgeStatistics:
        """Return how it is doing now; of a hub that was left, how it was doing then."""
        life = self._life
        now = BridgeStatistics() if life is None else life.statistics()
        return now if self._failure is None else replace(now, error=in_words(self._failure))

    def deliver(self, timeout: float | None = 30.0) -> None:
        """Wait until the broker has all that was published before the call.

        Args:
            timeout: seconds; None for ever.

        Raises:
            LifecycleError: the hub is not entered, or was left meanwhile.
            WaitTimeoutError: the timeout passed.
        """
        self._check_entered()
        deadline = deadline_in(timeout)
        self._hub.flush(timeout)
        while self._begun.wait(seconds_until(deadline)):
            delivery = self._delivery()
            delivery.over.wait(seconds_until(deadline))
            if delivery.done:
                return
            if not delivery.over.is_set:
                break
            time.sleep(AGAIN)  # it begins anew
            self._check_entered()
        raise self._late(timeout)

    async def delivered(self, timeout: float | None = 30.0) -> None:
        """Do what ``deliver`` does without blocking the loop."""
        self._check_entered()
        deadline = deadline_in(timeout)
        await self._hub.flushed(timeout)
        while await self._begun.waited(seconds_until(deadline)):
            delivery = self._delivery()
            await delivery.over.waited(seconds_until(deadline))
            if delivery.done:
                return
            if not delivery.over.is_set:
                break
            await anyio.sleep(AGAIN)
            self._check_entered()
        raise self._late(timeout)

    def _check_entered(self) -> None:
        if not self._hub.entered:
            raise LifecycleError("a bridge works while its hub is entered: use `with hub:` or `async with hub:`")

    def _delivery(self) -> Delivery:
        life = self._life
        return Delivery(over=True) if life is None else life.emptied()

    def _late(self, timeout: float | None) -> WaitTimeoutError:
        now = self.statistics()
        return WaitTimeoutError(f"the broker has not taken {now.waiting} frames in {timeout} s: {now.error or 'slow'}")

    async def _send(self, events: Subscription) -> None:
        """Read the hub; the subscriber that is attached."""
        life: Life | None = None
        batch: Sequence[Event] | None = None
        try:
            begun, batches = events.last_seq, events.batches()
            with anyio.move_on_after(0):
                batch = await anext(batches, None)
            if not batch:  # nothing was published before
                life = await self._begin(events, begun)
                batch = await self._next(batches, life)
            while batch:
                loaded = [index for index, event in enumerate(batch) if type(event) is StateLoaded]
                if loaded:  # what came before it does not count any more
                    self._pause()
                    if life is not None:
                        await life.end(drain=False)
                    batch = batch[loaded[-1] :]
                    life = await self._begin(events, batch[0].seq - 1, batch, anew=True)
                elif life is None:
                    # the `Rewound` of a journal that was attached late has a lower `seq` than what was published before
                    seqs = (one.seq for one in batch if type(one) is not Rewound)
                    life = await self._begin(events, min(begun, next(seqs, begun + 1) - 1), batch)
                room = life.give(batch)
                if events.awaited:  # `flush`, or `save`
                    room = life.hurry()
                elif any(type(one) is not ScalarUpdated and isinstance(one, URGENT) for one in batch):
                    life.hurry()
                if room is not None:
                    await life.wait(room)
                batch = await self._next(batches, life)
        except Exception:
            if life is not None and (left := life.left()):  # for the life to come
                events.unread(left)
            raise
        finally:
            self._pause()
            if life is not None:
                await life.end()

    async def _next(self, batches: AsyncIterator[Sequence[Event]], life: Life) -> Sequence[Event] | None:
        """Return what was published next, or None at the end; raise what has ended the life meanwhile."""
        while True:
            with anyio.move_on_after(LOOK):
                return await anext(batches, None)
            life.check()

    def _pause(self) -> None:
        if self._begun.is_set:
            self._begun = Latch()

    async def _begin(
        self, events: Subscription, begun_seq: int, batch: Sequence[Event] = (), *, anew: bool = False
    ) -> Life:
        """Begin a life, which is to be given a batch first."""
        life = Life(self._plan, events, begun_seq, self._life, anew=anew)
        try:
            await life.start()
        except Exception as error:
            self._failure = error
            events.unread(list(batch))
            raise
        self._life, self._failure = life, None
        self._begun.set()
        return life


def _whole(name: str, given: int | None, variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default)) if given is None else given
    try:
        return operator.index(text) if given is not None else int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ArgumentError(f"{name} must be an int, got {text!r:.80}") from None
