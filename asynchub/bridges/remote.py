"""A run on another machine, as a hub of this process: read it, watch it, ask something of it.

What the run publishes is published here, with its time and step; ``seq`` is that of this hub. It begins with the newest
value of each key, or with everything, and goes on without a gap or a repeat. Subscribers of any kind read it as they
would in the run itself; what they answer (scalars, decisions) stays here, and what they request is asked of the run.

Waiting: entering waits for the broker and for the past, at most ``timeout`` seconds; from then on nothing waits. A
    broker that goes away is said by a ``BridgeDegraded``; when it is there again, what came meanwhile follows.
Threads: one of its own, with a loop of its own, named ``asynchub remote``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio

from asynchub.bridges.following import Following
from asynchub.bridges.opening import open_transport
from asynchub.bridges.rank_status import RankStatus
from asynchub.bridges.subjects import Subjects
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.hub import MessageHub
from asynchub.loops import deadline_in, seconds_until
from asynchub.requests import Request, RequestApplied, RequestRefused
from asynchub.watch import first_event

__all__ = ("Beginning", "RemoteHub", "attach")

Beginning = Literal["newest", "all", "none"]
"""What of the past comes first: the newest value of each key, all that the broker has, or nothing."""
R = TypeVar("R", bound=Request)
CLOSE = 2.0
"""Seconds that leaving takes at most for the connection."""


class RemoteHub(MessageHub):
    """A hub that follows a run elsewhere; made by ``asynchub.attach``.

    Args:
        subjects: of the run.
        following: brings what the run publishes.
        author: who requests are from, if they do not say so.
        timeout: seconds that entering waits.
        name: of the hub.
    """

    def __init__(
        self, subjects: Subjects, following: Callable[[RemoteHub], Following], author: str, timeout: float, name: str
    ) -> None:
        super().__init__(name)
        self.run = subjects.run
        self._author = author
        self._timeout = timeout
        self._new_following = following
        self._following: Following | None = None
        self._depth = 0

    # --- living

    def __enter__(self) -> Self:
        super().__enter__()
        self._depth += 1
        try:
            if self._following is None:
                self._following = self._new_following(self)
                self._following.begin(self._timeout)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._end_following()
        super().__exit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._depth += 1
        try:
            if self._following is None:
                self._following = self._new_following(self)
                await self._following.begun(self._timeout)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth and self._following is not None:
            following, self._following = self._following, None
            with anyio.CancelScope(shield=True):
                await following.ended(CLOSE)
        await super().__aexit__(kind, error, trace)

    def close(self) -> None:
        """End every subscription, as leaving does, and follow the run no more; see ``MessageHub.close``."""
        self._end_following()
        super().close()

    def _end_following(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.end(CLOSE)

    # --- reading

    def ranks(self) -> Mapping[int, RankStatus]:
        """Return how each rank is doing that has been heard of."""
        return self._now().statuses()

    def catch_up(self, timeout: float | None = 30.0) -> None:
        """Wait until all that the broker had at the time of the call is published here.

        Args:
            timeout: seconds; None for ever.

        Raises:
            LifecycleError: the hub is not entered.
            WaitTimeoutError: the timeout passed.
        """
        following = self._now()
        self._check(following, following.caught_up().wait(timeout), timeout)

    async def caught_up(self, timeout: float | None = 30.0) -> None:
        """Do what ``catch_up`` does without blocking the loop."""
        following = self._now()
        self._check(following, await following.caught_up().waited(timeout), timeout)

    def _check(self, following: Following, caught_up: bool, timeout: float | None) -> None:
        if following.over:
            raise LifecycleError(f"run {self.run!r} is not followed any more: the hub was left")
        if not caught_up:
            raise WaitTimeoutError(f"not all of run {self.run!r} has come in {timeout} s")

    def _now(self) -> Following:
        if self._following is None:
            raise LifecycleError("a remote hub follows its run while it is entered: `async with asynchub.attach(...)`")
        return self._following

    # --- asking

    def request(self, request: R) -> R:
        """Ask something of the run's training loop; return the request, with its ``id``. Any thread; does not wait.

        What becomes of it comes as an event: the request itself, as the run publishes it, then a ``RequestApplied`` or
        a ``RequestRefused`` with the same ``id``; the latter also if the run cannot be reached, or does not allow it.

        Raises:
            ArgumentError: ``request`` is not of a kind that can be asked from afar.
            UnsupportedTypeError: the value that it asks for cannot be sent.
            LifecycleError: the hub is not entered.
        """
        if not isinstance(request, Request):
            raise ArgumentError(f"request takes a Request, got {type(request).__name__}; see asynchub.requests")
        asked = replace(
            request,
            id=request.id or uuid.uuid4().hex,
            author=request.author or self._author,
            time=time.time(),
            step=self.step if request.step is None else request.step,
        )
        self._now().ask(asked)
        return asked

    async def requested(self, request: Request, timeout: float | None = 30.0) -> RequestApplied | RequestRefused:
        """Ask something of the run's training loop, and wait for what becomes of it.

        Args:
            request: the request.
            timeout: seconds; None for ever.

        Raises:
            WaitTimeoutError: nothing came of it in that time; it may be applied yet.
            AsyncHubError: as ``request``.
        """
        deadline = deadline_in(timeout)
        with self.subscribe(RequestApplied, RequestRefused, name="requested") as outcomes:
            asked = self.request(request)
            outcome: Any = await first_event(outcomes, lambda event: event.id == asked.id, seconds_until(deadline))
            return outcome  # type: ignore[no-any-return]  # one of the two kinds that were subscribed to


def attach(
    url: str,
    *,
    run: str,
    ranks: int | Iterable[int] | Literal["all"] = 0,
    past: Beginning = "newest",
    timeout: float = 10.0,
    author: str = "",
    name: str | None = None,
    **options: Any,
) -> RemoteHub:
    """Return a hub that follows a run through a broker: ``async with asynchub.attach("nats://host", run="r1") as hub``.

    Args:
        url: of the broker; see ``Bridge``.
        run: name of the run.
        ranks: whose events are wanted. Those of the first one named, or of rank 0, have their own keys; those of
            another rank 3 have ``ranks/3/`` before them.
        past: what comes first.
        timeout: seconds that entering waits for the broker and the past.
        author: who requests are from; default the user and the machine.
        name: of the hub; default the name of the run.
        **options: how to connect; see ``asynchub.bridges.opening.open_transport``.

    Raises:
        ArgumentError: an argument is out of range.
        ImportError: the client of the broker is not installed.
    """
    if past not in ("newest", "all", "none"):
        raise ArgumentError(f"past must be 'newest', 'all' or 'none', got {past!r:.80}")
    if not isinstance(timeout, int | float) or not timeout >= 0:
        raise ArgumentError(f"timeout must be seconds, 0 or more, got {timeout!r:.80}")
    wanted = _wanted(ranks)
    subjects = Subjects(run)
    open_transport(url, run, **options)  # what is wrong with the arguments is to be said here; nothing is connected

    def following(hub: RemoteHub) -> Following:
        return Following(hub, lambda: open_transport(url, run, **options), subjects, wanted, past)

    return RemoteHub(subjects, following, author or _somebody(), timeout, name or run)


def _wanted(ranks: int | Iterable[int] | Literal["all"]) -> tuple[int, ...] | None:
    """Return the ranks that are wanted, in order; None for all."""
    if ranks == "all":
        return None
    if isinstance(ranks, int):
        ranks = (ranks,)
    wanted = tuple(ranks) if isinstance(ranks, Iterable) and not isinstance(ranks, str) else ()
    if not wanted or any(type(rank) is not int or rank < 0 for rank in wanted):
        raise ArgumentError(f"ranks must be a rank, several, or 'all', got {ranks!r:.80}")
    return wanted


def _somebody() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without such a user
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
