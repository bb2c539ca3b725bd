"""A pause of the training loop: it waits at a safe point, until somebody asks to go on or to stop.

Where: in ``settle``, ``await settled`` or ``apply_requests``, once all that was asked before has been applied and every
    rule has decided. In an async program only ``await settled`` pauses, which leaves the loop free.
Meanwhile: requests are applied as they come, observers are served, Ctrl-C and cancellation end the pause and go on as
    ever. The time does not count for the ``timeout`` of the settle point.
How long: as the request says, at most; the end is a ``PauseEnded``, whatever it came from.
Ranks: a run of several does not pause: ranks that wait could not tell each other to go on.
Threads: one waits; any may ask.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator

from asynchub.answering import Publisher
from asynchub.errors import ArgumentError, LifecycleError
from asynchub.loops import Latch
from asynchub.ranks import rank_and_world
from asynchub.requests import Paused, PauseEnded, PauseRequested, Request, ResumeRequested, StopRequested

__all__ = ("LONGEST_PAUSE", "Pausing")

LONGEST_PAUSE = 7 * 86400.0
"""Seconds that may be asked for."""
LOOK = 1.0
"""Seconds from one look to the next: where a lock cannot be interrupted, Ctrl-C is heard then."""


class Pausing:
    """The pauses of one hub.

    Args:
        publisher: the hub.

    Attributes:
        awaited: whether the safe point that is under way can await.
        closed: whether the hub is being left, which nothing holds up.
        obstacle: given ``awaited``, returns why the program cannot pause now, in words; empty if it can.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.awaited = False
        self.closed = False
        self.obstacle: Callable[[bool], str] = lambda awaited: ""
        self._publisher = publisher
        self._request: PauseRequested | None = None
        self._holding = False
        self._news: Latch | None = None
        self._end = ("", "")

    @property
    def due(self) -> bool:
        """Whether a pause was asked for that has not begun."""
        return self._request is not None and not self._holding and not self.closed

    @property
    def holds(self) -> bool:
        """Whether the training loop waits."""
        return self._holding

    # --- what applies requests

    def begin(self, request: PauseRequested) -> None:
        """Have the safe point that is under way end in a pause.

        Raises:
            ArgumentError: its time is no number of seconds above 0, or too long.
            LifecycleError: the run cannot pause now, for the reason given.
        """
        seconds = request.seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_PAUSE:
            raise ArgumentError(f"a pause lasts from 0 to {LONGEST_PAUSE:g} s at most, got {seconds!r:.80}")
        world = rank_and_world()[1]
        obstacle = "it has been paused already" if self._request is not None else self.obstacle(self.awaited)
        if self.closed:
            obstacle = "the run is ending"
        if world > 1:
            obstacle = f"a run of {world} ranks cannot pause: ranks that wait could not be told to go on together"
        if obstacle:
            raise LifecycleError(obstacle)
        self._request = request

    def resume(self, request: ResumeRequested) -> None:
        """End the pause.

        Raises:
            LifecycleError: there is none.
        """
        if self._request is None:
            raise LifecycleError("the run is not paused")
        self._over("resumed" if not request.reason else request.reason, request.author)

    def see(self, request: Request) -> None:
        """Take account of any request that was applied: one to stop ends a pause."""
        if self._request is not None and isinstance(request, StopRequested):
            self._over("a stop was asked for", request.author)

    def wake(self) -> None:
        """Have whoever waits look for requests; any thread, and signal handlers."""
        news = self._news
        if news is not None:
            news.set()

    def forked(self) -> None:
        """Forget the pause, in a forked child."""
        self._request = self._news = None
        self._holding = False

    def _over(self, reason: str, author: str) -> None:
        self._request, self._end = None, (reason, author)
        self.wake()

    # --- waiting

    def hold(self, apply: Callable[[], object]) -> float:
        """Wait in this thread until the pause is over; return the seconds that it took.

        Args:
            apply: applies pending requests.
        """
        with self._held() as begun:
            while (left := self._left(begun, apply)) > 0 and self._news is not None:
                self._news.wait(min(left, LOOK))
        return time.perf_counter() - begun

    async def held(self, apply: Callable[[], object]) -> float:
        """Do the same in this task."""
        with self._held() as begun:
            while (left := self._left(begun, apply)) > 0 and self._news is not None:
                await self._news.waited(min(left, LOOK))
        return time.perf_counter() - begun

    @contextlib.contextmanager
    def _held(self) -> Generator[float, None, None]:
        request, begun = self._request, time.perf_counter()
        if request is None:
            yield begun
            return
        self._holding = True
        try:
            self._publisher.publish(Paused(seconds=request.seconds, reason=request.reason, author=request.author))
            yield begun
        except BaseException as error:
            self._end = (type(error).__name__, "")
            raise
        finally:
            self._request, self._news, self._holding = None, None, False
            reason, author = self._end
            took = time.perf_counter() - begun
            self._publisher.publish(PauseEnded(seconds=took, reason=reason, author=author))

    def _left(self, begun: float, apply: Callable[[], object]) -> float:
        """Apply what was asked meanwhile; return the seconds that the pause may still last."""
        self._news = Latch()  # before the look: what comes after that wakes
        apply()
        request = self._request
        if request is None:
            return 0.0
        left = request.seconds - (time.perf_counter() - begun)
        if left <= 0:
            self._end = (f"{request.seconds:g} s are over, the longest time that was asked for", "")
        return left
