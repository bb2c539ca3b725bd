"""Scalars reduced over the ranks of a run: each rank publishes its own, and all get the same results.

Same everywhere: results have the same bits on all ranks, and are published at the same step, so rules that read them
    (early stopping, schedulers) decide the same on every rank. Requests made of a reducer are applied by all ranks at
    one step.
When: at a settle point whose step has passed the next multiple of ``every``, what an interval came to is handed to a
    thread that reduces it, and the result of the interval before is published. Keys that match ``at_once`` are reduced
    and published in the very settle point that sees them. All ranks must settle at the same steps.
Waiting: publishing never waits, and handing over neither. A settle point waits where it needs a result that is not
    there yet: for the interval before, which was handed over ``every`` steps ago, and for what is reduced at once; at
    most ``timeout`` seconds, and not at all while a rank is missing.
Failures: a rank that does not come in time, or a broken connection, is a ``ReductionDegraded`` event. What this rank
    has then is kept, and goes into the next reduction that all ranks take part in; they meet again by themselves
    (``ReductionRestored``). Ranks that cannot be reduced together, because of other keys in strict mode, other steps
    or other declarations, all raise the same ``ReductionError`` from their settle points: a run must not go on with
    rules that see different things.
    Where a connection breaks while a result is on its way, ranks that did not get it publish it when all have met
    again, later than the others: ``ReductionRestored.note`` says which.
The end: leaving the hub, or ``close``, reduces and publishes what is left if all ranks come within 5 s. Observers see
    it; rules do only with ``close``, as they have ended when the hub is left. When an exception leaves the hub, nothing
    is waited for.
Groups: ranks talk through gloo, in a group of the reducer's own, whatever the run's own group uses. With one rank, or
    without ``torch.distributed``, the same comes of it without a group.
Not kept: what an interval has so far is in no saved state.
Threads: the training loop's for all but ``request``, which any may call.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast
from weakref import WeakKeyDictionary

from asynchub.bridges.accumulating import Declarations, ReductionKind, Slots, accumulate
from asynchub.bridges.agreeing import AT_ONCE, END, Job, Reduced
from asynchub.bridges.exchanging import Solo, pack_request, unpack_request
from asynchub.bridges.reducing import Reducing
from asynchub.bridges.refusals import ReductionError
from asynchub.bridging import ScalarsReduced
from asynchub.errors import ArgumentError, ControlAwaitedError
from asynchub.hub import MessageHub
from asynchub.loops import in_event_loop
from asynchub.requests import Request
from asynchub.settled import SettledSubscription
from asynchub.subscription import Subscription

__all__ = ("Reducer",)

R = TypeVar("R", bound=Request)
PROTOCOL = 1
"""What ranks say to each other, and how; ranks of another version are told that they cannot reduce together."""
FIRST = -(2**31)
"""Its order among control subscribers: before all others, so that they see results in the same settle point."""
LAST_WAIT = 5.0
"""Seconds that other ranks are waited for at the end, at most."""
GRACE = 1.0
"""Seconds that a wait goes on after the timeout, within which the thread says what has become of it."""
JOIN = 1.0
"""Seconds that its thread may take to end."""
KNOWN = 4096
"""Requests whose identity is remembered."""


class Reducer:
    """Reduce the scalars of one hub over all ranks; attaches itself to the hub.

    Args:
        hub: whose scalars; each rank has one.
        kinds: of each key pattern what becomes of it: ``"mean"`` (over all samples), ``"sum"``, ``"min"``, ``"max"`` or
            ``"last"`` (of the newest step; of several ranks that have one, of the highest); the first pattern counts.
        every: steps in an interval.
        at_once: patterns of keys that are reduced in the settle point that sees them: all ranks must publish them at
            the same step.
        keys: ``"union"``: what some ranks have is reduced over those; ``"strict"``: all must have the same keys.
        prefix: what the keys of results begin with. The result of a mean is the sum over all samples with their count,
            as every scalar with a count is.
        timeout: seconds that other ranks are waited for.
        capacity: keys that there is room for at the beginning; it doubles when there are more.
        group: which ranks, e.g. ``mesh.get_group("dp")``; default all. It is not used to talk.
        name: of the reducer; the same on all ranks, and of no other reducer at the same time.

    Raises:
        ArgumentError: an argument is none of these.
        PatternError: a pattern is malformed.
    """

    role = "control"

    def __init__(
        self,
        hub: MessageHub,
        kinds: Mapping[str, ReductionKind],
        *,
        every: int = 10,
        at_once: Sequence[str] = ("val/*",),
        keys: Literal["union", "strict"] = "union",
        prefix: str = "all/",
        timeout: float = 30.0,
        capacity: int = 64,
        group: Any = None,
        name: str = "reducer",
    ) -> None:
        if not isinstance(hub, MessageHub):
            raise ArgumentError(f"a Reducer needs a hub first, got {type(hub).__name__}")
        for what, number in (("every", every), ("capacity", capacity)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ArgumentError(f"{what} must be an int of at least 1, got {number!r:.80}")
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < 2**31:
            raise ArgumentError(f"timeout must be seconds above 0, got {timeout!r:.80}")
        if keys not in ("union", "strict"):
            raise ArgumentError(f"keys must be 'union' or 'strict', got {keys!r:.80}")
        self._declarations = Declarations(kinds, at_once, prefix)
        if group is not None:
            _ranks_of(group)
        self.keys = self._declarations.patterns
        self.name = name
        self._hub = hub
        self._every = every
        self._strict = keys == "strict"
        self._timeout = float(timeout)
        self._capacity = capacity
        self._group = group
        self._interval = hub.step // every
        self._slots: Slots = {}
        self._now: Slots = {}
        self._asked: deque[bytes] = deque()  # what there is no thread for yet
        self._known: dict[str, None] = {}
        self._reducing: Reducing | None = None
        self._attachment = hub.attach(self, *self.keys, name=name, order=FIRST)

    # --- from anywhere

    def request(self, request: R) -> R:
        """Ask something of all ranks' training loops; return the request with its identity.

        It travels with the next reduction, and is then given to ``hub.request`` on every rank in the same settle point,
        within two intervals: all apply it at the same step, once for each ``id``. One without an ``id`` gets one. Any
        rank, any thread. While ranks are missing it waits.

        Raises:
            ArgumentError: ``request`` is not a ``Request``.
            UnsupportedTypesError: fields of it cannot be sent.
        """
        packed = pack_request(request)
        if not request.id:
            request = replace(request, id=uuid.uuid4().hex)
            packed = pack_request(request)
        self._asked.append(packed)
        self._pass_on()
        return request

    def _pass_on(self) -> None:
        reducing = self._reducing
        while reducing is not None:
            try:
                reducing.request(self._asked.popleft())
            except IndexError:
                return

    def close(self) -> None:
        """Reduce and publish what is left, if all ranks come within 5 s, and end; settles the hub. Twice is fine.

        Raises:
            ControlFailedError: as ``MessageHub.settle``.
            DeadlockError: called by a subscriber.
        """
        self._attachment.detach()
        if self._reducing is not None:
            self._hub.settle()

    # --- in settle points

    async def __call__(self, events: Subscription) -> None:
        """Take part in every settle point until the hub is left; see ``asynchub.runner.Subscriber``."""
        if not isinstance(events, SettledSubscription):
            raise ArgumentError("a Reducer decides at settle points: attach it with role='control', as it does itself")
        reducing, thread = self._begin()
        self._reducing = reducing
        try:
            async for turn in events.turns():
                accumulate(turn, self._declarations, self._slots, self._now)
                if not events.closed:
                    await self._turn(reducing, events)
            if not events.failing:
                await self._finish(reducing, events)
        finally:
            self._reducing = None
            reducing.close()
            if thread is not None:
                thread.join(JOIN)

    def _begin(self) -> tuple[Reducing, threading.Thread | None]:
        index, numbers = (0, [0]) if not _distributed() else _ranks_of(self._group)
        declarations = self._declarations
        described = [PROTOCOL, declarations.described, self._every, self._strict, self._capacity]
        alone = Solo(numbers[0]) if len(numbers) == 1 else None
        reducing = Reducing(
            declarations, described, self._strict, self._capacity, self._timeout, self._hub.publish, alone
        )
        if alone is not None:
            return reducing, None
        meet = _meeting_of(self.name, index, numbers, lambda: reducing.wanted)
        thread = threading.Thread(target=reducing.run, args=(meet,), name=f"asynchub {self.name}", daemon=True)
        thread.start()
        _RUNNING[reducing] = thread
        return reducing, thread

    async def _turn(self, reducing: Reducing, events: Subscription) -> None:
        """Do what is to be done in a settle point.

        Raises:
            ReductionError: ranks cannot be reduced together.
        """
        self._pass_on()
        step = self._hub.step
        if self._now:
            slots, self._now = self._now, {}
            job = reducing.hand_over(step, slots, AT_ONCE, self._timeout)
            await self._reach(job, job.deadline)
            self._raise_error(reducing)
            if job.reduced is not None and job.reduced.at_once:
                self._publish(events, reducing.take())
        self._raise_error(reducing)
        interval = step // self._every
        if interval < self._interval:  # the run has gone back to an earlier state
            self._interval = interval
        if interval == self._interval:
            return
        self._interval = interval
        slots, self._slots = self._slots, {}
        until = time.monotonic() + self._timeout
        force = False
        while isinstance(offered := reducing.offer(step, slots, force), Job):
            force = not await self._reach(offered, until) or time.monotonic() > until
        self._publish(events, offered)
        self._raise_error(reducing)

    async def _finish(self, reducing: Reducing, events: Subscription) -> None:
        slots, self._slots, self._now = {**self._slots, **self._now}, {}, {}
        self._pass_on()
        job = reducing.hand_over(self._hub.step, slots, END, min(self._timeout, LAST_WAIT))
        await self._reach(job, job.deadline)
        self._publish(events, reducing.take())
        self._raise_error(reducing)

    async def _reach(self, job: Job, until: float) -> bool:
        """Wait until ``job`` was handled, not much longer than ``until`` (monotonic); tell whether it was."""
        deadline = until + GRACE
        if not job.handled.is_set and in_event_loop():
            with suppress(ControlAwaitedError):  # it is `settle()`, called where a loop runs: that blocks
                return await job.handled.waited(_left(deadline))
        return job.handled.wait(_left(deadline))

    def _publish(self, events: Subscription, results: list[Reduced]) -> None:
        prefix = self._declarations.prefix
        for reduced in results:
            for key, (value, count) in reduced.values.items():
                events.update_scalar(prefix + key, value, count, step=reduced.step)
            facts: Any = {"ranks": reduced.ranks, "interval": reduced.interval, "keys": reduced.facts}
            events.publish(ScalarsReduced(**facts), step=reduced.step)
            for packed in reduced.requests:
                self._ask(unpack_request(packed))

    def _ask(self, request: Request) -> None:
        if request.id in self._known:  # it came twice, after a failure
            return
        self._known[request.id] = None
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        self._hub.request(request)

    def _raise_error(self, reducing: Reducing) -> None:
        error = reducing.error
        if error is None:
            return
        if isinstance(error, ReductionError):
            raise error
        raise ReductionError(f"the reducer has failed: {type(error).__name__}: {error}") from error


_RUNNING: WeakKeyDictionary[Reducing, threading.Thread] = WeakKeyDictionary()


def _close_all() -> None:
    """Have the threads leave gloo before the interpreter ends under them, which it does not survive."""
    running = list(_RUNNING.items())
    for reducing, _ in running:
        reducing.close()
    for _, thread in running:
        thread.join(JOIN)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RUNNING.clear)  # it has no such thread


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _distributed() -> bool:
    """Tell whether this process is one of several ranks, without loading torch."""
    distributed = cast("Any", sys.modules.get("torch.distributed"))
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _ranks_of(group: Any) -> tuple[int, list[int]]:
    from asynchub.bridges.gloo import ranks_of  # it loads torch

    return ranks_of(group)


def _meeting_of(name: str, index: int, numbers: Sequence[int], wanted: Callable[[], bool]) -> Callable[[], Any]:
    from asynchub.bridges.gloo import Meeting

    return lambda: Meeting(name, index, numbers, wanted)
