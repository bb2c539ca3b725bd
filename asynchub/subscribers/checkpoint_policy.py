"""When to write a checkpoint of the model, and which ones to keep.

Written: at a settle point, in the thread of the training loop, in the round after that in which it was decided: by then
    the other control subscribers have handled what it was decided on, whatever their order, and a ``hub.mark()`` in the
    checkpoint names exactly this state.
Order: an older checkpoint is deleted after the new one is whole, never before, and only if it was written by this.
Failures: what the function raises comes out of the settle point. Then nothing is deleted.
Resume: the state holds which checkpoints there are, their values, and how far the rates have come, never the arguments.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from typing import Any, NamedTuple

from asynchub.errors import ArgumentError, LifecycleError
from asynchub.events import CheckpointRemoved, CheckpointSaved, Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.requests import CheckpointRequested, Decided, Paused, PauseEnded, RequestRefused
from asynchub.subscribers.checkpoint_cadence import CheckpointCadence
from asynchub.subscribers.checkpoint_files import KeptCheckpoint, KeptCheckpoints, path_of
from asynchub.subscribers.checks import Better, Mode, check_count, check_key, epoch_of, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("CheckpointContext", "CheckpointPolicy")

logger = logging.getLogger("asynchub")


@dataclass(frozen=True, slots=True)
class CheckpointContext:
    """What whoever writes a checkpoint is told.

    Attributes:
        step: the hub's step.
        epoch: the newest runtime info ``epoch``; None if there was none.
        value: of the monitored scalar, if it was updated since the last settle point and is finite; else None.
        verdict: why in a word: ``"improved"``, ``"due"``, ``"requested"``, ``"end"`` or ``"exception"``.
        reason: why, for people.
    """

    step: int | None
    epoch: int | None
    value: float | None
    verdict: str
    reason: str


class _Pending(NamedTuple):
    """A checkpoint that was decided on, by the ``Decided`` of this ``seq``."""

    verdict: str
    reason: str
    value: float | None
    step: int | None
    seq: int


_NONE = type(None)
_STATE: Mapping[str, tuple[type, ...]] = {
    "epoch": (int, _NONE),
    "seen": (bool,),
    "check": (int, float, _NONE),
    "changed": (bool,),
    "pending": (dict, _NONE),
    "cadence": (dict,),
    "files": (dict,),
}
_PENDING: Mapping[str, tuple[type, ...]] = {
    "verdict": (str,),
    "reason": (str,),
    "value": (int, float, _NONE),
    "step": (int, _NONE),
    "seq": (int,),
}


class CheckpointPolicy:
    """Call ``fn`` when it is time for a checkpoint, and delete those that are not kept.

    ``fn`` gets a ``CheckpointContext``, writes the checkpoint, and returns its path, or None if nothing is ever to be
    deleted. It should write under another name first and rename that, so that the path never holds half a file.

    ===============  ===============================================================================================
    verdict          it is called when
    ===============  ===============================================================================================
    ``"improved"``   ``monitor`` got a value that is among the ``save_top_k`` best
    ``"due"``        a boundary of ``every`` was crossed; without it, when ``max_overhead`` and ``mtbf`` allow
    ``"requested"``  a ``CheckpointRequested`` is applied; see ``request``
    ``"end"``        the hub is left, or this is detached, with ``save_last``
    ``"exception"``  the hub is left by an exception, with ``save_on_exception``
    ===============  ===============================================================================================

    Of several updates of ``monitor`` between two settle points the newest counts: settle after each evaluation. At the
    end nothing is written if nothing came since the newest checkpoint. For one that is written on an exception nothing
    is deleted: it may have been made amid a step. ``max_overhead`` holds back those that are ``"due"`` only; what the
    others cost is counted.

    Args:
        fn: as above; a plain function.
        every: how often: an int or ``"100ba"`` (steps), ``"1ep"`` (epochs, as the runtime info ``epoch`` counts),
            ``"600s"`` or a ``timedelta`` (by ``Event.time``, without pauses); None for no rate. A boundary is crossed
            however far steps and epochs jump, as in ``asynchub.every``.
        monitor: key of the scalar whose mean ``value / count`` says how good a checkpoint is.
        mode: ``"min"`` or ``"max"``: which values are better.
        save_top_k: how many of the best are kept, or of the newest without ``monitor``; -1 for all, and then each
            finite value of ``monitor`` is worth a checkpoint.
        save_last: whether the newest is kept whatever its value, and one is written at the end.
        save_on_exception: whether one is written when an exception leaves the hub.
        max_overhead: share of the time, above 0 and below 1, that checkpoints may take: after one that took ``c``
            seconds the next is due ``c / max_overhead`` seconds after it began at the earliest. With no ``every``, that
            is when it is due, and the first is at the first settle point: what it costs must be learnt, and a run that
            cannot write should fail at once.
        mtbf: mean time between failures (s, ``timedelta`` or ``"DD:HH:MM:SS"``): the next is due ``c + sqrt(2 * c *
            mtbf)`` seconds after one that took ``c`` began; the longer of both if ``max_overhead`` is given, too.
        remove: called with the path of a checkpoint to delete it; default: a file or folder that ``fn`` wrote is
            deleted, as ``asynchub.subscribers.checkpoint_files`` says. An ``OSError`` of it is logged, another error is
            raised.
        resumed_from: path of the checkpoint that this run was resumed from: it is then one of those kept.

    Attributes:
        kept: the checkpoints that are kept, oldest first.
        best: that with the best value; None if none has one.

    Raises:
        PatternError: ``monitor`` is not a key.
        ScheduleError: ``every`` is malformed.
        ArgumentError: another argument is of a wrong type or out of range.

    Source:
        J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974, which
        J. T. Daly refines (FGCS 22(3), 2006): ``mtbf``. Mohan et al., "CheckFreq", FAST 2021: an overhead as target.
    """

    role = "control"

    def __init__(
        self,
        fn: Callable[[CheckpointContext], str | PathLike[str] | None],
        *,
        every: int | str | timedelta | None = None,
        monitor: str | None = None,
        mode: Mode = "min",
        save_top_k: int = 1,
        save_last: bool = True,
        save_on_exception: bool = True,
        max_overhead: float | None = None,
        mtbf: float | str | timedelta | None = None,
        remove: Callable[[str], object] | None = None,
        resumed_from: str | PathLike[str] | None = None,
    ) -> None:
        functions: tuple[tuple[str, Any], ...] = (("fn", fn), ("remove", str if remove is None else remove))
        for name, function in functions:
            if not callable(function) or any(map(inspect.iscoroutinefunction, (function, function.__call__))):
                raise ArgumentError(f"{name} must be a plain function: a settle point calls it; got {function!r:.80}")
        for name, flag in (("save_last", save_last), ("save_on_exception", save_on_exception)):
            if not isinstance(flag, bool):
                raise ArgumentError(f"{name} must be True or False, got {flag!r}")
        check_count("save_top_k", save_top_k, -1)
        if not save_top_k and not save_last:
            raise ArgumentError("save_top_k=0 and save_last=False keep nothing: give one of them")
        better = Better(mode, 0.0, "abs")
        self.monitor = None if monitor is None else check_key("monitor", monitor)
        self._fn = fn
        self._save_last = save_last
        self._save_on_exception = save_on_exception
        self._cadence = CheckpointCadence(every, max_overhead, mtbf)
        if not isinstance(resumed_from, str | PathLike | None):
            raise ArgumentError(f"resumed_from must be the path of a checkpoint, or None, got {resumed_from!r:.80}")
        came_from = None if resumed_from is None else os.fspath(resumed_from)
        self._files = KeptCheckpoints(None if monitor is None else better, save_top_k, save_last, remove, came_from)
        self.keys: tuple[str | type[Event], ...]
        if self._cadence.by_steps_or_time:
            self.keys = (ScalarUpdated, InfoUpdated, Paused, PauseEnded, Decided, RequestRefused)
        else:  # few events, so that a program may settle once in a long epoch
            self.keys = (EPOCH_KEY, *([] if self.monitor is None else [self.monitor]), Decided, RequestRefused)
        self._epoch: int | None = None
        self._seen = False  # whether the monitored scalar ever came
        self._check: float | None = None  # its newest value since the last turn
        self._changed = True  # whether anything came since the newest checkpoint
        self._pending: _Pending | None = None  # what was decided, until the next round,
        self._came_back = False  # which is here when the decision itself is
        self._events: Subscription | None = None
        self._failure: Exception | None = None

    @property
    def kept(self) -> tuple[KeptCheckpoint, ...]:
        """The checkpoints that are kept, oldest first."""
        return tuple(self._files.kept)

    @property
    def best(self) -> KeptCheckpoint | None:
        """The one with the best value of ``monitor``; None if none has a value."""
        return self._files.best

    @property
    def interval(self) -> float | None:
        """Seconds that ``max_overhead`` and ``mtbf`` want between the beginnings of two; None before the first."""
        return self._cadence.interval

    async def __call__(self, events: Subscription) -> None:
        if self._events is not None:
            raise LifecycleError(f"{events.name!r} is attached twice, and runs already: attach one for each hub")
        self._events = events
        before = sys.exception()  # the program may be handling one, and yet leave the hub as it should
        try:
            async for batch in events.batches():
                for event in batch:
                    self._see(event)
                if not events.ready():  # all that the settle point has for it: a state saved now has lost nothing
                    self._turn(events)
            error = sys.exception()
            if error is None or error is before:
                self._end(events)
            elif self._save_on_exception:
                self._finally(events, "exception", f"{type(error).__name__}: {error}"[:200])
        finally:
            self._events = self._failure = self._pending = self._check = None
            self._cadence.time.rest()

    def request(self, request: CheckpointRequested) -> None:
        """Write a checkpoint now, because of ``request``: ``hub.on_request(CheckpointRequested, policy.request)``.

        Raises:
            LifecycleError: it does not run: it is not attached, or nothing was settled yet.
            Exception: what ``fn`` raised. The request is refused then, and the next settle point raises the same.
        """
        if self._events is None:
            raise LifecycleError("the checkpoint policy does not run: attach it, and settle once before the first step")
        by = f" by {request.author}" if request.author else ""
        reason = f"requested{by}" + (f": {request.reason}" if request.reason else "")
        pending, self._pending = self._pending, None
        value = None if pending is None else pending.value  # one checkpoint is enough for both
        decided = self._say(self._events, "requested", reason, value)
        try:
            self._write(self._events, _Pending("requested", reason, value, decided.step, decided.seq))
        except Exception as error:
            self._failure = error
            raise

    # --- deciding

    def _see(self, event: Event) -> None:
        if isinstance(event, RequestRefused):
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
        if isinstance(event, RequestRefused | Decided):
            self._came_back = self._came_back or (self._pending is not None and event.seq == self._pending.seq)
            return
        self._changed = self._changed or not isinstance(event, Paused | PauseEnded)  # which change nothing of the model
        epoch = epoch_of(event)
        self._epoch = self._epoch if epoch is None else epoch
        self._cadence.see(event)
        if isinstance(event, ScalarUpdated) and event.key == self.monitor:
            value = mean_of(event)
            self._check = self._check if value is None else value

    def _turn(self, events: Subscription) -> None:
        pending, self._pending = self._pending, None
        came_back, self._came_back = self._came_back, False
        if pending is not None:
            if not came_back:  # its settle point is over: the run may have gone on, or have been resumed
                step = self._say(events, pending.verdict, pending.reason, pending.value).step
                pending = pending._replace(step=step)
            self._write(events, pending)
        wanted = self._wanted(events)
        if wanted is None:
            return
        if events.statistics().lag:  # what was decided comes back in the next round
            self._pending = wanted
        else:
            self._write(events, wanted)

    def _wanted(self, events: Subscription) -> _Pending | None:
        """Look at what came since the last turn; say what it leads to, and return it if it is a checkpoint."""
        value, self._check = self._check, None
        reasons: list[str] = []
        verdict = ""
        if value is not None:
            self._seen = True
            reason = f"{self.monitor} is {value:.6g}, {self._compared()}"
            if self._files.admits(value):
                verdict = "improved"
                reasons.append(reason)
            else:
                self._say(events, "not_improved", reason, value)
        due, why = self._cadence.due() if self._changed else (False, "")  # one that costs nothing is not due for ever
        if due:
            verdict = verdict or "due"
            reasons.append(why)
        elif why:
            self._say(events, "stretched", why, None)
        if not verdict:
            return None
        finite = value if value is not None and math.isfinite(value) else None
        decided = self._say(events, verdict, "; ".join(reasons), finite)
        return _Pending(verdict, decided.reason, finite, decided.step, decided.seq)

    def _compared(self) -> str:
        best = self._files.best
        return "the first" if best is None or best.value is None else f"the best so far is {best.value:.6g}"

    def _end(self, events: Subscription) -> None:
        self._turn(events)
        pending, self._pending = self._pending, None
        if pending is not None:
            self._write(events, pending)
        if self.monitor is not None and not self._seen:
            logger.warning("%s never saw its scalar %r: no checkpoint has a value", events.name, self.monitor)
        if self._save_last:
            self._finally(events, "end", "the run ends")

    def _finally(self, events: Subscription, verdict: str, reason: str) -> None:
        """Write the last one, unless nothing came since the newest, as far as this can know."""
        decided = self._say(events, verdict, reason, None)
        newest = self._files.kept[-1] if self._files.kept else None
        all_seen = self._cadence.by_steps_or_time or (decided.step and newest and decided.step == newest.step)
        if newest is None or self._changed or not all_seen:
            self._write(events, _Pending(verdict, reason, None, decided.step, decided.seq))

    def _say(self, events: Subscription, verdict: str, reason: str, value: float | None) -> Decided:
        best = self._files.best
        return events.publish(
            Decided(
                author=events.name,
                verdict=verdict,
                reason=reason,
                monitor=self.monitor or "",
                value=value,
                best=None if best is None else best.value,
            )
        )

    # --- writing

    def _write(self, events: Subscription, wanted: _Pending) -> None:
        verdict, reason, value, step, _ = wanted
        new = KeptCheckpoint(None, step, self._epoch, value, reason, time.time(), math.inf)
        kept, leaving = self._files.kept, self._files.leaving
        self._changed = False  # before it is written, so that a state in the checkpoint is as if it were there
        self._cadence.begin()
        self._files.begin(new, rotate=verdict != "exception")
        start = time.perf_counter()
        try:
            path = path_of(self._fn(CheckpointContext(step, self._epoch, value, verdict, reason)))
        except BaseException:
            self._files.abandon(kept, leaving)
            self._cadence.abandon()
            self._changed = True
            raise
        seconds = time.perf_counter() - start
        self._cadence.finish(seconds)
        self._files.finish(path)
        events.publish(CheckpointSaved(path=path or "", seconds=seconds, reason=reason, value=value))
        for removed in self._files.tidy():
            events.publish(CheckpointRemoved(path=removed, reason=self._files.rule))

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoints there are and how far the rates have come; no arguments."""
        return {
            "epoch": self._epoch,
            "seen": self._seen,
            "check": self._check,
            "changed": self._changed,
            "pending": None if self._pending is None else self._pending._asdict(),
            "cadence": self._cadence.state_dict(),
            "files": self._files.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Checkpoints that are gone by now are dropped, which is said through ``logging``.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        taken = take_state(state, _STATE, "CheckpointPolicy")
        pending = taken["pending"] and _Pending(**take_state(taken["pending"], _PENDING, "a checkpoint to be written"))
        take_in = self._files.loader(taken["files"])
        self._cadence.load_state_dict(taken["cadence"])
        take_in()
        self._epoch, self._seen = taken["epoch"], taken["seen"]
        self._check, self._changed, self._pending = taken["check"], taken["changed"], pending
