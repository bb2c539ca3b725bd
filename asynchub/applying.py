"""Requests to a training loop: who applies which, those that wait, and what becomes of them.

Applied: oldest first, in the thread that calls ``apply``. Each ends in a ``RequestApplied`` or, when nobody applies it
    or applying raised, in a ``RequestRefused``.
Threads: any may ``push``; one applies.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from asynchub.answering import Publisher
from asynchub.declaring import Parameter, applying
from asynchub.errors import ArgumentError, LifecycleError
from asynchub.pausing import Pausing
from asynchub.requests import PauseRequested, Request, RequestApplied, RequestRefused, ResumeRequested

__all__ = ("Apply", "Applying")

logger = logging.getLogger("asynchub")
Apply = Callable[[Any], object]
"""What applies a request: called with it, in the training loop's thread; raising refuses it."""


class Applying:
    """The requests to one hub.

    Args:
        publisher: the hub.

    Attributes:
        pending: requests that wait.
        pausing: the pauses of the hub.
        parameters: returns what can be set, by name.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.pending: deque[Request] = deque()
        self.pausing = Pausing(publisher)
        self.parameters: Callable[[], Mapping[str, Parameter]] = dict
        self._publisher = publisher
        self._stale: set[int] = set()
        self._apply: dict[type[Request], Apply] = {
            PauseRequested: self.pausing.begin,
            ResumeRequested: self.pausing.resume,
        }

    def forked(self) -> None:
        """Forget what waits, in a forked child."""
        self.pending.clear()
        self.pausing.forked()

    def applied_by(self, kind: type[Request]) -> Apply | None:
        """Return what applies requests of this very kind; None if nothing does."""
        return self._apply.get(kind)

    def on_request(self, kind: type[Request], apply: Apply) -> None:
        """Have ``apply`` called with each request of ``kind``, or of a subclass that has none of its own.

        Raises:
            ArgumentError: ``kind`` is not a class of requests, or ``apply`` is not callable.
        """
        if not (isinstance(kind, type) and issubclass(kind, Request)):
            raise ArgumentError(f"a request kind must be a subclass of Request, got {kind!r}")
        if not callable(apply):
            raise ArgumentError(f"{kind.__name__} needs a function that applies it, got {apply!r}")
        self._apply[kind] = apply

    def push(self, request: Request, *, earlier: bool = False) -> None:
        """Have ``request``, as stamped, applied at the next safe point, or amid a pause.

        Args:
            request: it.
            earlier: whether it was asked of an earlier start of the run, which has ended before it was applied.
        """
        if earlier and (request.incarnation or isinstance(request, PauseRequested | ResumeRequested)):
            self._stale.add(request.seq)
        self.pending.append(request)
        self.pausing.wake()

    def say_again(self, after: int, say: Callable[[Request], Request]) -> None:
        """Have those that wait, and are newer than ``after`` (a ``seq``), wait on as what ``say`` returns for them."""
        for _ in range(len(self.pending)):
            request = self.pending.popleft()
            if (old := request.seq) > after:
                request = say(request)
                if old in self._stale:
                    self._stale.discard(old)
                    self._stale.add(request.seq)
            self.pending.append(request)

    def apply(self) -> int:
        """Apply every pending request in this thread; return how many there were."""
        applied = 0
        while True:
            try:
                request = self.pending.popleft()
            except IndexError:
                return applied
            applied += 1
            kind = type(request).__name__
            facts: dict[str, Any] = {
                "request": kind,
                "request_seq": request.seq,
                "reason": request.reason,
                "author": request.author,
                "id": request.id,
            }
            try:
                apply = self._chosen(request)
                if apply is None:
                    raise LookupError(f"nobody applies {kind}; say how with hub.on_request({kind})")
                apply(request)
            except Exception as error:
                logger.warning("%s was refused: %s", kind, error)
                self._publisher.publish(RequestRefused(error=f"{type(error).__name__}: {error}", **facts))
            else:
                self._publisher.publish(RequestApplied(**facts))
                self.pausing.see(request)

    def _chosen(self, request: Request) -> Apply | None:
        if request.seq in self._stale:
            self._stale.discard(request.seq)
            raise LifecycleError("it was asked of an earlier start of the run, which ended before it was applied")
        own = next((self._apply[one] for one in type(request).__mro__ if one in self._apply), None)
        return applying(request, own, self.parameters, self._publisher.publish)
