"""The thread of a reducer: it has all ranks reduce together what their training loops hand over.

Order: what is handed over is reduced in that order, with the same collectives on all ranks.
Branches: what follows is decided by what all ranks have read alike, so all go the same way. Where they cannot go
    together (other keys in strict mode, other steps, other declarations) all get the same ``ReductionError``.
Failures: when ranks do not come in time, or connections break, what this rank had goes into the next reduction, and the
    ranks meet again in a new group, by themselves. One that was completed on some ranks only is told to the others
    then, so nothing is reduced twice, or lost.
Threads: everything but ``run`` may be called from any thread, and none of it waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asynchub.bridges.accumulating import Declarations, Slots, merge
from asynchub.bridges.agreeing import INTERVAL, BehindError, Generation, Job, Reduced, reduce_together
from asynchub.bridges.combining import Layout, Ranks
from asynchub.bridges.exchanging import exchange
from asynchub.bridges.refusals import ReductionError, check_declared, plain_text
from asynchub.bridging import ReductionDegraded, ReductionRestored
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.errors import WaitTimeoutError
from asynchub.events import Event

__all__ = ("Meet", "Reducing")

POLL = 0.01, 0.25
"""Seconds between two looks whether all ranks are there to meet: at first, and at most; doubled each time."""
IDLE = 1.0
"""Seconds between two looks whether others have left."""


class Meet(Protocol):
    """Where ranks find each other; see ``asynchub.bridges.gloo.Meeting``."""

    def join(self) -> Ranks | None: ...
    def leave(self) -> None: ...
    def end(self) -> None: ...
    def left_by_others(self) -> bool: ...
    def missing(self) -> list[int]: ...


class Reducing:
    """All that a reducer does beside the training loop.

    Attributes:
        error: why it has ended for good; None if it has not.

    Args:
        declarations: what is reduced.
        described: what must be the same on all ranks.
        strict: whether all ranks must have the same keys.
        capacity: keys that there is room for at the beginning.
        timeout: seconds that other ranks are waited for.
        publish: called with what it says about itself.
        alone: the only rank; None if there are more.
    """

    def __init__(
        self,
        declarations: Declarations,
        described: Any,
        strict: bool,
        capacity: int,
        timeout: float,
        publish: Callable[[Event], object],
        alone: Ranks | None,
    ) -> None:
        self.error: Exception | None = None
        self._declarations = declarations
        self._described = described
        self._strict = strict
        self._capacity = capacity
        self._timeout = timeout
        self._publish = publish
        self._alone = alone
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        self._queue: deque[Job] = deque()
        self._newest: Job | None = None  # of those handed over
        self._results: deque[Reduced] = deque()
        self._owed: Slots = {}  # what failed reductions left for the next one
        self._owed_at: tuple[int, int] | None = None  # step and number of the newest of them
        self._step, self._number = -1, 0  # of what was handed over last
        self._doubt: Job | None = None  # what failed last: whether others have completed it is not known
        self._degraded: float | None = None
        self._requests: list[bytes] = []
        self._asked = self._sent = 0  # requests of this rank, ever
        self._done = 0
        self._last: Reduced | None = None
        self._generation = None if alone is None else Generation(alone, Layout(capacity))
        self._meeting: Meet | None = None
        self._pause = POLL[0]

    # --- the training loop's side

    @property
    def wanted(self) -> bool:
        """Whether it is to go on."""
        return not self._closing

    def offer(self, step: int, slots: Slots, force: bool = False) -> Job | list[Reduced]:
        """Hand over what an interval came to, if what was handed over before has been handled.

        Args:
            step: up to which it goes.
            slots: what this rank has; the caller's no more.
            force: whether not to wait for what was handed over before.

        Returns:
            What to wait for before this is called again; or, when ``slots`` was taken, the results so far.
        """
        with self._changed:
            newest = self._newest
            if newest is not None and not newest.handled.is_set and not force:
                return newest
            results = self._take()
            self._put(step, slots, INTERVAL, self._timeout)
        self._work_alone()
        return results

    def hand_over(self, step: int, slots: Slots, mode: float, timeout: float) -> Job:
        """Have ``slots`` reduced after all that was handed over before; return what to wait for."""
        with self._changed:
            job = self._put(step, slots, mode, timeout)
        self._work_alone()
        return job

    def _put(self, step: int, slots: Slots, mode: float, timeout: float) -> Job:
        self._number = self._number + 1 if step == self._step else 0
        self._step = step
        job = Job(step, self._number, slots, mode, time.monotonic() + timeout, self._asked)
        if self._degraded is None and self.error is None and not self._closing:
            self._newest = job
            self._queue.append(job)
            self._changed.notify()
        else:
            self._owe(job)
        return job

    def _owe(self, job: Job) -> None:
        merge(self._owed, job.slots, self._declarations)
        self._owed_at = (job.step, job.number) if self._owed_at is None else max(self._owed_at, (job.step, job.number))
        job.handled.set()

    def take(self) -> list[Reduced]:
        """Return the results that nobody has taken yet."""
        with self._changed:
            return self._take()

    def _take(self) -> list[Reduced]:
        results = list(self._results)
        self._results.clear()
        return results

    def request(self, request: bytes) -> None:
        """Have ``request`` travel with what is handed over next."""
        with self._changed:
            self._requests.append(request)
            self._asked += 1

    def close(self) -> None:
        """Have the thread end, wherever it waits."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _work_alone(self) -> None:
        while self._alone is not None and self._generation is not None and self._queue:
            try:
                self._do(self._generation, self._queue.popleft())
            except ReductionError as error:
                self._end(error)

    # --- the thread

    def run(self, meet: Callable[[], Meet]) -> None:
        """Work until it is closed.

        Args:
            meet: returns where the ranks find each other.
        """
        error: Exception | None = None
        try:
            while not self._closing:
                if self._generation is None:
                    self._try_to_meet(meet)
                else:
                    self._work(self._generation)
        except Exception as raised:  # the training loop is to have it, at its next settle point
            error = raised
        finally:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        with self._changed:
            self.error = self.error or error
            for job in [*self._queue, *([] if self._newest is None else [self._newest])]:
                job.handled.set()
            self._queue.clear()
        self._leave(for_good=True)

    def _leave(self, for_good: bool = False) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.ranks.close()
        self._pause = POLL[0]
        if self._meeting is not None:
            with contextlib.suppress(RuntimeError):  # the store is away: when the ranks are to meet, that is said
                (self._meeting.end if for_good else self._meeting.leave)()

    def _left_by_others(self) -> bool:
        try:
            return self._meeting is not None and self._meeting.left_by_others()
        except RuntimeError:  # the store is away: the next reduction shows whether the ranks are, too
            return False

    def _work(self, generation: Generation) -> None:
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(IDLE)
            job = self._queue.popleft() if self._queue else None
        if job is not None:
            self._do(generation, job)
        elif not self._closing and self._left_by_others():
            self._fail(ConnectionError("another rank has left the group"), None)

    def _do(self, generation: Generation, job: Job) -> None:
        """Reduce ``job``, and what is owed, with all ranks.

        Raises:
            ReductionError: they cannot be reduced together.
        """
        with self._changed:
            slots, self._owed, self._owed_at = self._owed, {}, None
            sent = self._requests[: max(job.asked - self._sent, 0)]
        merge(slots, job.slots, self._declarations)
        job.slots = slots
        try:
            reduced = reduce_together(generation, job, self._declarations, self._strict, sent)
        except ReductionError as error:
            self.error = error
            job.handled.set()
            raise
        except BehindError:
            with self._changed:
                self._owe(job)
        except Exception as error:  # whatever the network is up to
            self._fail(error, job)
        else:
            with self._changed:
                del self._requests[: len(sent)]
                self._sent += len(sent)
                self._results.append(reduced)
                self._last = job.reduced = reduced
                self._done = generation.done
            job.handled.set()

    # --- failures

    def _fail(self, error: Exception, job: Job | None) -> None:
        """Leave the group: what was handed over goes into a reduction of the next one."""
        with self._changed:
            if job is not None:
                self._doubt = job
            while self._queue:
                self._owe(self._queue.popleft())
            first = self._degraded is None
            if first:
                self._degraded = time.monotonic()
        if job is not None:
            job.handled.set()
        if first and not self._closing:
            self._publish(ReductionDegraded(error=f"{type(error).__name__}: {plain_text(error)}", interval=self._done))
        self._leave()

    def _try_to_meet(self, meet: Callable[[], Meet]) -> None:
        """Make the next group if all ranks are there; wait a little if not."""
        failure: Exception | None = None
        with self._changed:
            late = bool(self._queue) and time.monotonic() > self._queue[0].deadline
        try:
            if self._meeting is None:
                self._meeting = meet()
            ranks = self._meeting.join()
            if ranks is not None:
                try:
                    self._greet(ranks)
                except BaseException:
                    ranks.close()
                    raise
                return
            if late:
                missing = ", ".join(map(str, self._meeting.missing()))
                failure = WaitTimeoutError(f"these ranks have not come in {self._timeout:g} s: {missing or 'unknown'}")
        except ReductionError:
            raise
        except Exception as error:  # whatever the network is up to
            failure = error
            self._leave()
        if late and failure is not None:
            self._fail(failure, None)
        with self._changed:
            if not self._closing:
                self._changed.wait(self._pause)
        self._pause = min(2 * self._pause, POLL[1])

    def _greet(self, ranks: Ranks) -> None:
        """Begin with a group: have the ranks tell each other what they declare, and how far they have come.

        Raises:
            ReductionError: they declare different things.
        """
        deadline = time.monotonic() + self._timeout
        mine = {"declared": self._described, "done": self._done, "degraded": self._degraded is not None}
        told = exchange(ranks, dumps(mine), deadline)
        greetings = [loads(one) for one in told]
        check_declared(ranks, [one["declared"] for one in greetings])
        done = [int(one["done"]) for one in greetings]
        most = max(done)
        note = ""
        adopted: Reduced | None = None
        if min(done) < most:
            first = done.index(most)
            data = dumps(tuple(self._last)) if ranks.index == first and self._last is not None else b""
            last = Reduced(*loads(exchange(ranks, data, deadline)[first]))
            if self._done < most:
                adopted = last
            behind = [ranks.numbers[at] for at, one in enumerate(done) if one < most]
            note = f"ranks {', '.join(map(str, behind))} come to reduction {most - 1} later than the others"
        regrouped = any(one["degraded"] for one in greetings)
        self._go_on(Generation(ranks, Layout(self._capacity), most, regrouped), adopted, note)

    def _go_on(self, generation: Generation, adopted: Reduced | None, note: str) -> None:
        with self._changed:
            doubt, self._doubt = self._doubt, None
            if adopted is not None:
                self._results.append(adopted)
                self._last = adopted
            elif doubt is not None:
                merge(doubt.slots, self._owed, self._declarations)
                self._owed = doubt.slots
                self._owed_at = max((doubt.step, doubt.number), self._owed_at or (-1, 0))
            self._generation = generation
            self._done = generation.done
            since, self._degraded = self._degraded, None
            if self._owed_at is not None:
                job = Job(*self._owed_at, self._owed, INTERVAL, time.monotonic() + self._timeout, self._asked)
                self._owed, self._owed_at = {}, None
                self._newest = job
                self._queue.append(job)
        if since is not None:
            self._publish(ReductionRestored(seconds=time.monotonic() - since, interval=generation.done, note=note))
