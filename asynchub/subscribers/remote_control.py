"""A run that people steer through its folder: stop, pause, checkpoint, parameters, as far as it allows.

Deny by default: what is not allowed is refused, and without this subscriber nothing is read at all.
Asked: by the page and the terminal of ``asynchub``, or by ``asynchub.dashboard.asking.ask``; the files are those of
    ``docs/formats/control.md``.
Seen: what is let in is a ``Request`` event with its ``id``, applied at the next safe point of the training loop; what
    is not is a ``RequestRefused``. Each ``id`` counts once; what was asked of an earlier start of the run does not, nor
    what has expired.
Values: finite numbers within bounds that the run has declared. Nothing is run, opened or looked up.
Waiting: for nothing, in the training loop or on the hub's loop: a thread of its own looks for news, ten times a second
    at most. One whose file system never answers is left behind when the hub is left, and does not keep the process
    alive.
Not promised: a boundary against other programs of the same user, who may write the folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

import anyio

from asynchub.allowing import Allowed, Once, ask_of_all, refusal
from asynchub.bridging import FrameRefused
from asynchub.control_folder import EXPIRED, ControlError, Offer, Written, check_value
from asynchub.declaring import Parameter
from asynchub.errors import ArgumentError
from asynchub.events import Event
from asynchub.loops import Latch
from asynchub.pausing import LONGEST_PAUSE
from asynchub.ranks import rank_and_world
from asynchub.requests import Paused, PauseEnded, Request
from asynchub.subscribers.checks import check_number
from asynchub.subscribers.control_desk import ControlDesk
from asynchub.subscription import Subscription

__all__ = ("RemoteControl",)

logger = logging.getLogger("asynchub")

PATIENCE = 1.0
"""Seconds that leaving the hub waits for an answer of the file system."""
FRESH = 1.0
"""Seconds from one look at the values of parameters to the next."""
APART = 600.0
"""Seconds that the clocks of whoever asks and of the run may be apart."""
REMEMBERED = 2**16
"""Requests whose identity is known."""
SAID = 1000
"""Refusals that are events, in a life: more would be a flood."""


class RemoteControl:
    """Let people ask a run for what it allows: ``hub.attach(RemoteControl("run", allow=("stop", "set/lr")))``.

    Args:
        folder: of the run; what is needed is in the folder ``control`` in it, which only its user can read.
        allow: ``"stop"``, ``"checkpoint"``, ``"pause"`` (and to resume), ``"skip"``, ``"rollback"``, and of parameters
            ``"set/PATTERN"``, e.g. ``"set/lr"`` or ``"set/**"``; default nothing.
        bounds: of parameters by name, the smallest and the largest value that may be asked for. A parameter that no
            subscriber declares, as ``"lr"``, is set by what the program gave ``hub.on_request``.
        parameters: the same with a value to show, or a ``set`` of its own; see ``asynchub.declaring.Parameter``.
        agree: called with each request that is let in. Of several ranks, ``reducer.request`` has all of them apply it
            at the same step; without it requests are refused there. Attach it on all ranks; rank 0 answers.
        every: seconds from one look for requests to the next; at least 0.1.
        longest_pause: seconds that a pause may last.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
        PatternError: a pattern is malformed.

    Attributes:
        parameters: what it declares.
    """

    role = "observer"
    keys: tuple[str | type[Event], ...] = (Paused, PauseEnded)

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        allow: Iterable[str] = (),
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        parameters: Iterable[Parameter] = (),
        agree: Callable[[Request], object] | None = None,
        every: float = 0.1,
        longest_pause: float = 3600.0,
    ) -> None:
        if not isinstance(folder, str | PathLike):
            raise ArgumentError(f"folder must be the path of the run, got {folder!r:.80}")
        if agree is not None and not callable(agree):
            raise ArgumentError(f"agree is called with a request, got {agree!r:.80}")
        self.folder = Path(folder)
        self.parameters = (*_checked(parameters), *_bounded(bounds or {}))
        self._allowed = Allowed(allow)
        self._agree = agree
        self._every = check_number("every", every, 0.1)
        self._longest_pause = check_number("longest_pause", longest_pause, 0.0)
        if not 0 < self._longest_pause <= LONGEST_PAUSE:
            raise ArgumentError(f"longest_pause must be above 0 s and at most {LONGEST_PAUSE:g} s, got {longest_pause}")

    async def __call__(self, events: Subscription) -> None:
        if rank_and_world()[0]:  # rank 0 answers for all; what is declared here is for what they agree on
            async for _ in events:
                pass
            return
        life = _Life(self, events)
        # not a worker thread of anyio: the interpreter would wait for one that hangs
        threading.Thread(target=life.run, name=f"asynchub {events.name}", daemon=True).start()
        try:
            async for event in events:
                if isinstance(event, Paused | PauseEnded):
                    life.paused = isinstance(event, Paused)
        finally:
            life.closing.set()
            with anyio.CancelScope(shield=True):
                if not await life.ended.waited(PATIENCE):
                    logger.warning("%s: no answer about %s yet; a thread waits for it", events.name, self.folder)
        if life.failure is not None:
            raise life.failure


class _Life:
    """A run that may be asked for something, from its start to its end."""

    def __init__(self, control: RemoteControl, events: Subscription) -> None:
        self.closing, self.ended = threading.Event(), Latch()
        self.failure: Exception | None = None
        self.paused = False
        self._control = control
        self._allowed = control._allowed
        self._events = events
        self._desk = ControlDesk(control.folder)
        self._once = Once(REMEMBERED)
        self._said = 0
        self._passed_over = 0
        self._trouble = ""
        self._fresh = 0.0
        self._offer = Offer(
            run_id=events.run_id,
            incarnation=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            begun=time.time(),
            allow=self._allowed.rules,
            longest_pause=control._longest_pause,
        )

    def run(self) -> None:
        """Live, in a thread of its own."""
        opened = False
        try:
            self._offer = self._now()
            self._desk.open(self._offer)
            opened = True
            while not self.closing.wait(self._control._every):
                self._look()
        except Exception as error:  # whatever it is, the hub's loop is to say it
            self.failure = error
            self._events.close()
        finally:
            try:
                if opened:
                    self._desk.close(replace(self._now(), ended=time.time(), paused=False))
            except OSError as error:
                logger.warning("%s could not say that the run has ended: %s", self._events.name, error)
            if self._passed_over > 1:
                logger.warning("%s passed over %d lines that were no requests", self._events.name, self._passed_over)
            self.ended.set()

    def _now(self) -> Offer:
        """Return what may be asked for now."""
        wanted = tuple(
            replace(one, get=None, set=None)
            for name, one in self._events.parameters.items()
            if self._allowed.allows_name(name)
        )
        values = {one.name: value for one in wanted if (value := self._value(one.name)) is not None}
        return replace(self._offer, paused=self.paused, parameters=wanted, values=values)

    def _value(self, name: str) -> float | None:
        try:
            return self._events.parameters[name].value()
        except Exception as error:  # of the program's own function
            self._complain(f"the value of {name} is not to be had: {type(error).__name__}: {error}")
            return None

    def _look(self) -> None:
        try:
            for found in self._desk.look():
                if found.written is None:
                    self._pass_over(found.error)
                else:
                    self._take(found.written, found.unseen)
            due = time.monotonic() >= self._fresh
            if due or self.paused is not self._offer.paused:
                self._fresh = time.monotonic() + FRESH
                now = self._now()
                if now != self._offer:
                    self._desk.write(now)
                    self._offer = now
        except (OSError, ControlError) as error:
            self._complain(str(error))

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning("%s: %s", self._events.name, trouble)

    def _pass_over(self, why: str) -> None:
        self._passed_over += 1
        if self._passed_over == 1:
            logger.warning("%s passed over what is no request: %s", self._events.name, why)
            self._events.publish(FrameRefused(source=str(self._desk.folder), error=why))

    def _take(self, written: Written, unseen: float) -> None:
        request = written.request
        asked = hashlib.sha256(repr(replace(request, reason="", author="")).encode()).digest()
        if (written.run_id, written.incarnation) != (self._offer.run_id, self._offer.incarnation):
            self._refuse(request, "it was asked of an earlier start of the run, or of another run")
            return
        self._once.answer(
            request.id, asked, lambda: self._decide(written, unseen), lambda why: self._refuse(request, why)
        )

    def _decide(self, written: Written, unseen: float) -> str:
        """Let a request in, or not; return why not."""
        request = written.request
        why = _too_late(written, unseen, time.time()) or self._allowed.why_not(request, "RemoteControl")
        if why:
            return self._refuse(request, why)
        try:
            check_value(request, self._events.parameters.get, self._offer.longest_pause)
            marked = replace(request, incarnation=self._offer.incarnation)
            ask_of_all(marked, self._events.request, self._control._agree, rank_and_world()[1], "RemoteControl")
        except Exception as error:  # whatever the program's own code raises
            return self._refuse(request, f"{type(error).__name__}: {error!s:.2000}")
        return ""

    def _refuse(self, request: Request, why: str) -> str:
        self._said += 1
        if self._said <= SAID:
            logger.warning("%s refused %s: %s", self._events.name, type(request).__name__, why)
            self._events.publish(refusal(request, why))
        return why


def _too_late(written: Written, unseen: float, now: float) -> str:
    """Return why a request does not count any more; empty if it does.

    Args:
        written: it.
        unseen: seconds that it may have been there at most, by the run's clock.
        now: the time, in seconds since the epoch.
    """
    since = now - written.time
    if not -APART <= since <= written.expires + APART:
        return f"{EXPIRED}: it was asked {since:.0f} s ago by the clock of whoever asked; if it was not, set the clocks"
    age = min(max(since, 0.0), unseen)
    if age > written.expires:
        return f"{EXPIRED}: it was asked {age:.0f} s ago, and counted for {written.expires:g} s"
    return ""


def _checked(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    found = tuple(parameters)
    for one in found:
        if not isinstance(one, Parameter):
            raise ArgumentError(f"parameters are of asynchub.declaring.Parameter, got {one!r:.80}")
        if one.name.startswith("."):
            raise ArgumentError(
                f"a parameter of the program has a name of its own, without a dot, got {one.name!r:.80}"
            )
    return found


def _bounded(bounds: Mapping[str, tuple[float | None, float | None]]) -> Iterable[Parameter]:
    if not isinstance(bounds, Mapping):
        raise ArgumentError(f"bounds are given by name, such as {{'lr': (1e-5, 1.0)}}, got {bounds!r:.80}")
    for name, pair in bounds.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentError(f"the bounds of {name!r:.80} are the smallest and the largest value, got {pair!r:.80}")
        yield Parameter(name, low=pair[0], high=pair[1])
