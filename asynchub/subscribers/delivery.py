"""Loggers that hand a run to a tracker: a library, a server, a database that may be slow, gone for a while, or dead.

A subclass says how: ``open``, ``write``, ``write_last``, ``sync`` and ``close``, called in a thread of the logger's
own, one at a time.

Handled: an event counts as handled when the tracker has it, so ``hub.flush()`` waits for that, as long as the tracker
    takes what it is given. If it raises, or takes longer than ``grace``, the logger goes on without it: events count as
    handled when the logger has them, and nobody waits.
Failure: a tracker that fails never ends a run. What it has not got is kept and tried again, less and less often;
    ``TrackerDegraded`` and ``TrackerRestored`` say so. Up to ``backlog`` items are kept in memory; if there are more,
    they are read again when the tracker is back, from the journal or, without one, from the histories.
Resume: the state knows what the tracker has got and what is owed to it, so a run that is resumed goes on from there.
Twice: a tracker may get something a second time if it failed after it had taken it, or the run is resumed from before
    that; each logger says what its tracker makes of it.
Threads: the logger's own is a daemon: a call that never returns does not hold up the end of the program.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic as _now
from typing import Any

import anyio

from asynchub.errors import ArgumentError, AsyncHubError, StateDictError
from asynchub.events import Event, EventsDropped, ScalarUpdated, TrackerDegraded, TrackerRestored
from asynchub.every import EPOCH_KEY
from asynchub.subscribers.aggregation import Aggregate, Aggregation
from asynchub.subscribers.backlog import Attempt, Backlog, Item
from asynchub.subscribers.worker import Call, Worker
from asynchub.subscription import Subscription

__all__ = ("TrackerLogger",)

logger = logging.getLogger("asynchub")
LOOK = 0.02
"""Seconds between two looks whether more has come, or somebody waits."""


class TrackerLogger(ABC):
    """Base of loggers that hand a run to a tracker.

    Attributes:
        resumed: in ``open``: whether a state was loaded since the last time.
        retry: seconds from a failure to the next attempt, and at most; each is twice the one before.
        resend: whether what was written is written again if ``sync`` raises; not, if a subclass sees to that itself.

    Args:
        every: gather the updates of each key, and hand over one point for ``100`` of them, ``"100ba"``, ``"1ep"`` or
            ``"30s"``; None: each update is a point.
        aggregate: what gathered updates become: ``"last"``, ``"mean"`` (over all samples), ``"min"`` or ``"max"``.
        interval: seconds between two writes while nobody waits; what comes meanwhile is written together.
        batch: items in a write at most.
        grace: seconds that events wait for a tracker that does not answer, before the logger goes on without it.
        backlog: items that are kept in memory for such a tracker.
        close_timeout: seconds that the end of a run waits for it.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
        ScheduleError: ``every`` is malformed.
    """

    keys: tuple[str | type[Event], ...] = (ScalarUpdated,)
    role = "observer"
    retry = (1.0, 60.0)
    resend = True

    def __init__(
        self,
        *,
        every: int | str | None = None,
        aggregate: Aggregate = "last",
        interval: float = 1.0,
        batch: int = 1000,
        grace: float = 5.0,
        backlog: int = 100_000,
        close_timeout: float = 10.0,
    ) -> None:
        aggregation = Aggregation(aggregate, every)
        if aggregation.unit == "ep":
            self.keys = (*self.keys, EPOCH_KEY)
        for name, seconds in (("interval", interval), ("grace", grace), ("close_timeout", close_timeout)):
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
                raise ArgumentError(f"{name} must be seconds, at least 0, got {seconds!r:.80}")
        for name, number in (("batch", batch), ("backlog", backlog)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ArgumentError(f"{name} must be an int above 0, got {number!r:.80}")
        self.resumed = False
        self._backlog = Backlog(aggregation, backlog)
        self._interval = interval
        self._batch = batch
        self._grace = grace
        self._close_timeout = close_timeout
        self._worker = Worker("asynchub tracker")
        self._opened = False
        self._failing = False
        self._under_way: tuple[Attempt, Call] | None = None
        self._next_attempt = 0.0
        self._delay = self.retry[0]
        self._wrote = -float("inf")
        self._late = self._missed = 0  # items that the tracker got after a failure, or will not get

    # --- what a subclass does, in the logger's own thread

    def open(self) -> None:  # noqa: B027  # a subclass may leave it so
        """Begin, once in each life of the hub; called again, later, if it raises."""

    @abstractmethod
    def write(self, items: Sequence[Item]) -> None:
        """Hand over ``items``, at least one; called again with them, later, if it raises."""

    def write_last(self, items: Sequence[Item]) -> None:
        """Hand over points of stretches that the end of a life has cut short; called again, later, if it raises.

        A run that is resumed from a state before that goes on with those stretches, and comes to other points.
        """
        self.write(items)

    def sync(self) -> None:  # noqa: B027  # a subclass may leave it so
        """Have what was written come to rest: in the file, at the server. Called after each row of writes.

        If it raises, all of the row is written again, later.
        """

    def close(self) -> None:  # noqa: B027  # a subclass may leave it so
        """End, once after each ``open`` that has returned."""

    # --- living

    async def __call__(self, events: Subscription) -> None:
        worker = self._worker
        worker.name = f"asynchub {events.name}"
        self._failing = False  # it is opened when the end of its last life, if that was cancelled, is over
        self._under_way, self._delay = None, self.retry[0]
        self._backlog.begin_at(events.last_seq)
        try:
            await self._hand_over(worker, events)
            batches = events.batches()
            while (batch := await self._next(batches, worker, events)) is not None:
                if type(batch[0]) is EventsDropped:
                    logger.warning("%s lost %d events: it fell behind", events.name, batch[0].missed)
                self._backlog.take(batch)
                await self._when_due(worker, events)
            self._backlog.end_stretches()
            await self._finish(worker, events)
            await self._close(worker, events)
        finally:
            worker.begin(self._closed)  # if it was cancelled; nobody waits for it then
            worker.end()

    async def _next(
        self, batches: AsyncIterator[Sequence[Event]], worker: Worker, events: Subscription
    ) -> Sequence[Event] | None:
        """Return the next events, or None at the end; meanwhile try again to hand over what is owed."""
        while self._failing:
            busy = self._under_way is not None
            with anyio.move_on_after(LOOK if busy else max(self._next_attempt - _now(), LOOK)):
                return await anext(batches, None)
            self._try_again(worker, events)
        return await anext(batches, None)

    async def _when_due(self, worker: Worker, events: Subscription) -> None:
        """Hand over what there is if it is time to."""
        if self._failing:
            self._backlog.forget()
            self._try_again(worker, events)
            return
        while not (events.awaited or len(self._backlog.items) >= self._batch or _now() - self._wrote >= self._interval):
            if events.closed or events.statistics().lag:  # there is more to write together
                return
            await anyio.sleep(LOOK)
        if self._backlog:
            await self._hand_over(worker, events)

    async def _hand_over(self, worker: Worker, events: Subscription) -> None:
        """Make an attempt, and wait for it at most the time of grace."""
        self._attempt(worker, events)
        if not await self._done(self._grace):
            self._fail(TimeoutError(f"no answer in {self._grace:g} s"), events)
            return
        self._take_result(events)

    def _try_again(self, worker: Worker, events: Subscription) -> None:
        """Take the result of an attempt that is over; make another one if it is time to. Does not wait."""
        if self._under_way is not None and self._under_way[1].done.is_set:
            self._take_result(events)
        if self._under_way is None and self._failing and _now() >= self._next_attempt:
            self._attempt(worker, events)

    async def _finish(self, worker: Worker, events: Subscription) -> None:
        """Hand over the rest, at the end; give up after a while."""
        deadline = _now() + self._close_timeout
        while (self._backlog or self._under_way is not None) and _now() < deadline:
            if self._under_way is None:
                self._attempt(worker, events)
            if await self._done(deadline - _now()):
                self._take_result(events)
            if self._failing and self._under_way is None:
                await anyio.sleep(min(self._delay, 1.0, max(deadline - _now(), 0)))
        if owed := self._backlog.owed:
            logger.warning("%s ends, and its tracker lacks %d values of this run", events.name, owed)

    async def _close(self, worker: Worker, events: Subscription) -> None:
        call = worker.begin(self._closed)
        if not await call.done.waited(self._close_timeout):
            logger.warning("%s does not end: no answer in %g s", events.name, self._close_timeout)
        elif call.error is not None:
            logger.warning("%s did not end well", events.name, exc_info=call.error)

    def _closed(self) -> None:
        opened, self._opened = self._opened, False
        if opened:
            self.close()

    # --- attempts

    def _attempt(self, worker: Worker, events: Subscription) -> None:
        """Begin to hand over all that is owed; does not wait."""
        attempt = self._backlog.attempt(self._batch)
        self._wrote = _now()
        self._under_way = attempt, worker.begin(self._deliver, attempt, events)

    def _deliver(self, attempt: Attempt, events: Subscription) -> None:
        """Do it, in the logger's own thread."""
        if not self._opened:
            self.open()
            self._opened, self.resumed = True, False
        attempt.run(self.write, self.write_last, events.again, self._backlog.aggregation.fresh())
        try:
            self.sync()
        except BaseException:
            if self.resend:
                attempt.undo()
            raise

    async def _done(self, timeout: float) -> bool:
        """Wait for the attempt that is under way; tell whether it is over."""
        return self._under_way is None or await self._under_way[1].done.waited(timeout)

    def _take_result(self, events: Subscription) -> None:
        if self._under_way is None:
            return
        (attempt, call), self._under_way = self._under_way, None
        self._backlog.take_back(attempt, failed=call.error is not None)
        if attempt.missed:
            logger.warning("%s could not read again %d values: its tracker lacks them", events.name, attempt.missed)
        if self._failing:
            self._late += attempt.delivered
            self._missed += attempt.missed
        if call.error is not None:
            if isinstance(call.error, AsyncHubError) and not self._opened:
                raise call.error  # it was asked wrongly, and would be again
            self._next_attempt = _now() + self._delay
            self._delay = min(2 * self._delay, self.retry[1])
            self._fail(call.error, events)
        elif self._failing and self._backlog:  # what came while it failed
            self._next_attempt, self._delay = 0.0, self.retry[0]
        elif self._failing:
            self._failing, self._delay = False, self.retry[0]
            restored = TrackerRestored(tracker=events.name, delivered=self._late, missed=self._missed)
            self._late = self._missed = 0
            events.publish(restored)

    def _fail(self, error: BaseException, events: Subscription) -> None:
        if self._failing:
            return
        self._failing = True
        text = f"{type(error).__name__}: {error}"
        logger.warning("%s does not take anything (%s): it is kept, and tried again", events.name, text)
        events.publish(TrackerDegraded(tracker=events.name, error=text))

    # --- state

    def tracker_state(self) -> dict[str, Any]:
        """Return what a subclass wants to be saved, as builtins: which run of the tracker it is, say."""
        return {}

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # a subclass may leave it so
        """Take what ``tracker_state`` returned.

        Raises:
            StateDictError: it is not of that form; nothing has changed then.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the tracker has got, and what is owed to it."""
        return {**self._backlog.state_dict(), "tracker": self.tracker_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        if not isinstance(state, Mapping) or not isinstance(state.get("tracker"), Mapping):
            raise StateDictError(f"wanted the state of a logger, got {state!r:.200}")
        before = self._backlog.state_dict()
        self._backlog.load_state_dict(state)
        try:
            self.load_tracker_state(state["tracker"])
        except StateDictError:
            self._backlog.load_state_dict(before)
            raise
        self.resumed = True
