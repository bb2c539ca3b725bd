"""Rounds of control subscribers: each has its turn, in order, until nobody has anything left to handle.

Order: control subscribers run by their ``order``, then in the order of attachment; after each round the requests made
    so far are applied, oldest first.
Failures: every control subscriber runs even if one fails; the rounds raise them together at their end.
Threads: one thread runs rounds at a time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple

import anyio

from asynchub.answering import Publisher
from asynchub.applying import Applying
from asynchub.bus import EventBus
from asynchub.collecting import collect_few
from asynchub.errors import ControlAwaitedError, ControlFailedError, CycleError, WaitTimeoutError
from asynchub.loops import seconds_until
from asynchub.settled import PARKED, SettledSubscription

__all__ = ("MAX_ROUNDS", "ControlSubscriber", "Left", "Rounds")

MAX_ROUNDS = 100
_clock = time.perf_counter


class ControlSubscriber:
    """A control subscriber between two settle points.

    Attributes:
        run: its coroutine, once it has begun.
        ended: whether it is not to be run again.

    Args:
        name: its name.
        order: control subscribers run by this, smallest first.
        start: begins its coroutine; called at its first settle point.
        subscription: what it reads.
    """

    __slots__ = ("_start", "ended", "name", "order", "run", "subscription")

    def __init__(
        self, name: str, order: int, start: Callable[[], Awaitable[None]], subscription: SettledSubscription
    ) -> None:
        self.name = name
        self.order = order
        self.ended = False
        self._start = start
        self.subscription = subscription
        self.run: Generator[Any, Any, None] | None = None

    def resume(self, answer: Any = None, error: BaseException | None = None) -> Any:
        """Run it until it awaits something; return that, ``PARKED`` if it is an event that is not there, or it ended.

        Args:
            answer: what it awaited last came to.
            error: what to raise where it awaits.

        Raises:
            BaseException: whatever it raised; it has ended then.
        """
        try:
            run = self.run
            if run is None:
                run = self.run = self._start().__await__()
            return run.send(answer) if error is None else run.throw(error)
        except StopIteration:
            self.end()
            return PARKED
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Do not run it again; a coroutine that is still alive runs its ``finally``."""
        self.ended = True
        self.subscription.finish()
        if self.run is not None:
            self.run.close()


class _Begun(NamedTuple):
    """How a turn has begun.

    Attributes:
        asked: what the control subscriber awaits.
        error: what it has raised, or None.
        since: when that was, by the clock of ``busy_seconds``.
    """

    asked: Any
    error: BaseException | None
    since: float


class Left(NamedTuple):
    """What is left to do.

    Attributes:
        done: rounds that are over.
        controls: who is still to have a turn in the one that is under way; None if none is.
        seq: the newest event when that began.
        busy: who had anything to do in it so far.
        begun: how the turn of the first of ``controls`` has begun; None if it has not.
    """

    done: int
    controls: list[ControlSubscriber] | None
    seq: int
    busy: list[ControlSubscriber]
    begun: _Begun | None


class Rounds:
    """The control subscribers and pending requests of one hub.

    Attributes:
        failed: called with the name of a control subscriber and what it raised.
        requests: the pending requests, and what applies them.
        running: the control subscriber whose code runs right now, in the thread that runs rounds.
        awaiting: the name of the last one that awaited something.
        applied: whether requests were applied since this was set to False.
    """

    def __init__(self, bus: EventBus, publisher: Publisher) -> None:
        self._bus = bus
        self.controls: list[ControlSubscriber] = []
        self.failed: Callable[[str, BaseException], None] = lambda name, error: None
        self.requests = Applying(publisher)
        self.running: ControlSubscriber | None = None
        self.awaiting = ""
        self.applied = False

    def add(self, control: ControlSubscriber) -> None:
        """Have ``control`` run from the next round on."""
        self.controls = sorted([*self.controls, control], key=lambda one: one.order)

    def remove(self, control: ControlSubscriber) -> None:
        """Do not run ``control`` any more."""
        self.controls = [one for one in self.controls if one is not control]

    def run_plainly(self, most: int) -> Left | None:
        """Run rounds as long as nothing is out of the ordinary, in this one function; see ``asynchub.collecting``.

        Args:
            most: how many at most.

        Returns:
            What ``run_rest`` has to do; None if that is nothing.
        """
        bus, requests = self._bus, self.requests
        done = 0
        while not (bus.held or requests.pending):
            if bus.channels:
                collect_few(bus)
            seq, controls = bus.seq, self.controls
            busy: list[ControlSubscriber] = []
            now = 0.0
            for control in controls:
                if bus.entries or bus.log:  # what those before it have answered
                    collect_few(bus)
                subscription, run = control.subscription, control.run
                if run is None or control.ended:
                    return Left(done, controls[controls.index(control) :], seq, busy, None)
                if not subscription.begin_turn():
                    continue
                busy.append(control)
                since = now or _clock()
                self.running = control
                asked, error = None, None
                try:
                    asked = run.send(None)
                except BaseException as raised:
                    error = raised
                if asked is not PARKED or subscription.more:
                    begun = _Begun(asked, error, since)
                    return Left(done, controls[controls.index(control) :], seq, busy, begun)
                now = _clock()
                subscription.busy_seconds += now - since
            self.running = None
            if not requests.pending and (not busy or (bus.seq == seq and not bus.entries)):
                return None
            done += 1
            if done == most or requests.pending:
                return Left(done - 1, [], seq, busy, None)
        return Left(done, None, 0, [], None)

    def run_rest(self, left: Left, deadline: float | None, awaited: bool) -> Generator[Any, Any, None]:
        """Run rounds until all is quiet; yield whatever a control subscriber awaits beside its events.

        Args:
            left: what there is to do.
            deadline: when to give up, by ``time.monotonic``.
            awaited: whether this task may await.

        Raises:
            ControlFailedError: control subscribers raised; the others ran.
            CycleError: they keep answering each other.
            WaitTimeoutError: the deadline passed.
        """
        bus = self._bus
        failures: list[Exception] = []
        done, controls, seq, busy, begun = left
        for _ in range(done, MAX_ROUNDS):
            if controls is None:
                if bus.held:
                    yield from self._arrivals(deadline, awaited)
                if bus.channels:
                    bus.collect()
                controls, seq, busy = self.controls, bus.seq, []
            for control in controls:
                if begun is None:
                    if bus.entries or bus.log:
                        bus.collect()
                    if control.ended or not (control.subscription.begin_turn() or control.run is None):
                        continue
                    busy.append(control)
                yield from self._turn(control, begun, failures)
                begun = None
            controls = None
            if self.requests.pending and self.requests.apply():
                self.applied = True
            elif not busy or (bus.seq == seq and not bus.entries):
                break
            if deadline is not None and time.monotonic() > deadline:
                names = ", ".join(repr(control.name) for control in busy)
                text = f"control subscribers were still busy at the timeout: {names}"
                raise WaitTimeoutError(text) from _together(failures)
        else:
            raise CycleError([control.name for control in busy], MAX_ROUNDS) from _together(failures)
        if failures:
            raise ControlFailedError("control subscribers failed", failures)

    def _turn(
        self, control: ControlSubscriber, begun: _Begun | None, failures: list[Exception]
    ) -> Generator[Any, Any, None]:
        """Run a control subscriber until it has handled what it was offered; yield what else it awaits.

        Args:
            control: it.
            begun: how its turn has begun, if it has.
            failures: where what it raises goes.
        """
        subscription = control.subscription
        asked, error, since = begun or _Begun(None, None, _clock())
        self.running = control
        try:
            if error is not None:
                raise error
            if begun is None:
                asked = control.resume()
            while not control.ended and (asked is not PARKED or (subscription.more and subscription.offer())):
                if asked is PARKED:
                    asked = control.resume()
                    continue
                self.running, self.awaiting = None, control.name
                answer, thrown = None, None
                try:
                    answer = yield asked
                except BaseException as raised:  # a cancellation too is for the coroutine to see
                    thrown = raised
                self.running = control
                asked = control.resume(answer, thrown)
        except StopIteration:  # it has returned
            control.end()
        except Exception as raised:
            control.end()
            reason = _without_a_loop(control.name, raised)
            failures.append(reason)
            self.failed(control.name, reason)
        except BaseException as raised:
            control.end()
            self.remove(control)
            self.failed(control.name, raised)
            raise
        finally:
            self.running = None
        if control.ended:
            self.remove(control)
        subscription.busy_seconds += _clock() - since

    def _arrivals(self, deadline: float | None, awaited: bool) -> Generator[Any, Any, None]:
        """Wait for values from devices, if control subscribers are to have them, or what is held behind them."""
        bus = self._bus
        channels = {channel for one in self.controls if (channel := one.subscription.channel) is not None}
        with bus.lock:
            bus.number()
            wanted = bus.any_wanted_by(bus.held, channels)
        if wanted and awaited:
            yield from bus.drain_awaited(seconds_until(deadline)).__await__()
        elif wanted:
            bus.drain(seconds_until(deadline))


def _together(failures: list[Exception]) -> ControlFailedError | None:
    return ControlFailedError("control subscribers failed", failures) if failures else None


def _without_a_loop(name: str, error: Exception) -> Exception:
    """Return ``error``, or what it means if it came from awaiting something that needs an event loop."""
    missing = isinstance(error, anyio.NoEventLoopError) or (
        isinstance(error, RuntimeError)
        and any(text in str(error) for text in ("no running event loop", "must be called from async context"))
    )
    if not missing:
        return error
    explained = ControlAwaitedError(name, "something that needs an event loop")
    explained.__cause__ = error
    return explained
