"""A feed whose state is saved and loaded.

One cut: a saved state is the hub as it was at one ``seq``, with the values that were still on their way from a device.
    Histories, infos and flags are frozen there, which takes microseconds whatever their length; each running observer's
    state is taken when it has handled all up to there and nothing newer; control subscribers are taken where they are.
    What observers publish in answer comes after the cut: ``save``, ``saved`` and ``state_dict`` let them handle what
    was published so far before they make it.
Threads: any thread may save; it waits for observers, so none of them may, except with ``async_save``.
"""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from asynchub.ancestry import Fork, forks_in
from asynchub.codec.decoder import OnUnknown
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.errors import DeadlockError, SaveFailedError, WaitTimeoutError
from asynchub.events import Marked, StateDamaged, StateLoaded
from asynchub.feed import Feed
from asynchub.generations import Target, list_generations
from asynchub.going_back import go_back, goes_back
from asynchub.hubfile import read_newest, write_hub
from asynchub.loops import Latch, deadline_in, seconds_until
from asynchub.requests import StopRequested
from asynchub.runner import CURRENT_SUBSCRIBER
from asynchub.saving import PendingSave, Save, Saver
from asynchub.standing import handled
from asynchub.state import hub_part, loadable, resumable, thawed

__all__ = ("Late", "Resuming")

logger = logging.getLogger("asynchub")

Late = Literal["raise", "leave out"]
"""What to do about a subscriber whose state is not to be had in time."""


@dataclass(eq=False)
class _Cut:
    """A hub at one moment: histories frozen, and its subscribers' states as soon as ``ready`` is set."""

    seq: int
    state: dict[str, Any]
    extra: dict[str, Any]
    subscribers: dict[str, Any]
    ready: Latch

    def whole(self) -> dict[str, Any]:
        """Return the state dict, with histories frozen; raise what the ``state_dict`` of a subscriber raised."""
        for state in self.subscribers.values():
            if isinstance(state, Exception):
                raise state
        extra = {**self.extra, "subscribers": self.subscribers} if self.subscribers else self.extra
        says_something = extra["step"] or not extra.keys() <= {"step", "seq", "forks", "info_stamps"}
        return {**self.state, "asynchub": extra} if says_something else self.state


class Resuming(Feed):
    """A feed whose state is saved and loaded; arguments as of ``Record``.

    Attributes:
        registry: classes of the program's own that its state, and its journal, may hold; used where none is passed.
    """

    def _begin(self, latency: float, capacity: int) -> None:
        super()._begin(latency, capacity)
        self.registry = Registry()
        self._stop: StopRequested | None = None
        self._run_id = ""
        self._saver = Saver(self.instance_name, self.publish, self._refuse_waiting)

    @property
    def run_id(self) -> str:
        """Identity of this run and of all that resume it: 32 hexadecimal digits, made when first asked for or saved."""
        with self._bus.lock:
            self._run_id = self._run_id or uuid.uuid4().hex
        return self._run_id

    def mark(self) -> dict[str, Any]:
        """Give the state of the run as it is now a name, to be stored in the checkpoint of the model.

        Publishes a ``Marked`` with the states of control subscribers, and waits for values that are on their way from a
        device, so that a journal has it when this returns. ``asynchub.recover(run, mark=...)`` returns a hub as it is
        now, whatever was published later: that was abandoned, and is not counted twice.

        Returns:
            ``run_id`` (32 hexadecimal digits), ``seq`` of the ``Marked`` and ``step``: a str and two ints.
        """
        marked = self.publish(Marked(states=self._attachments.control_states()))
        self._bus.drain()  # or a journal has not got it yet, should the run be killed when the model is saved
        return {"run_id": self.run_id, "seq": marked.seq, "step": self._step}

    # --- the cut

    def _cut(self, begin: Callable[[], None] | None = None) -> _Cut:
        """Freeze the state; call ``begin``, if it is given, while all is still."""
        found: dict[str, Any] = {}

        def freeze() -> None:
            state = resumable(self._log_scalars, self._runtime_info, self._resumed_keys)
            forks = [list(fork) for fork in self._ancestry.path]
            extra: dict[str, Any] = {"step": self._step, "seq": self._bus.seq, "forks": forks}
            stamps = {key: list(stamp) for key, stamp in self._info_stamps.items() if key in state["runtime_info"]}
            if stamps:
                extra["info_stamps"] = stamps
            if self._stop is not None:
                extra["stop"] = {"reason": self._stop.reason, "author": self._stop.author, "step": self._stop.step}
            if self._run_id:
                extra["run_id"] = self._run_id
            found.update(seq=self._bus.seq, state=state, extra=extra)
            if begin is not None:
                begin()

        latch, subscribers = self._attachments.capture(freeze)
        if not latch.wait(0):
            self._bus.hurry()
        return _Cut(**found, subscribers=subscribers, ready=latch)

    def _catching_up(self) -> Latch:
        """Return a latch that is set when those whose state is saved have handled all that was published so far."""
        latch = handled(self._attachments.awaited)
        if not latch.wait(0):
            self._bus.hurry()
        return latch

    def _wait_here(self, latch: Latch, deadline: float | None) -> None:
        if not latch.wait(0):
            self._refuse_nested("save")
            if self._on_observers_loop():
                raise DeadlockError(
                    "state_dict() and save() would block the observers' own loop, and they are not done: "
                    "`await hub.saved()`, or `await hub.flushed()` first"
                )
        if not latch.wait(seconds_until(deadline)):
            raise WaitTimeoutError(self._late())

    async def _wait_awaited(self, latch: Latch, deadline: float | None) -> None:
        if not await latch.waited(seconds_until(deadline)):
            raise WaitTimeoutError(self._late())

    def _late(self) -> str:
        return f"no state of the subscribers before the timeout: {self._laggards()}"

    def _laggards(self) -> str:
        return ", ".join(f"{one.name} is {one.statistics().lag} behind" for one in self._attachments.observers)

    def _on_observers_loop(self) -> bool:
        runner = self._attachments.runner
        return runner is not None and runner.here

    def _refuse_nested(self, verb: str) -> None:
        subscriber = CURRENT_SUBSCRIBER.get()
        if subscriber is not None and any(subscriber is one for one in self._attachments):
            raise DeadlockError(f"{verb}() waits for subscribers, and was called by one: {subscriber.name!r}")
        self._settle_point.refuse_nested()

    def _refuse_waiting(self, blocking: bool) -> None:
        """Raise if the calling code is what a save in the background waits for."""
        self._refuse_nested("wait" if blocking else "waited")
        if blocking and self._on_observers_loop():
            raise DeadlockError("wait() would block the observers' own loop, and they are not done: `await waited()`")

    # --- state dicts

    def state_dict(self, timeout: float | None = 30.0, *, late: Late = "raise") -> dict[str, Any]:
        """Return the resumable state: deep copies of the keys whose ``resumed`` is true, and subscribers' states.

        Args:
            timeout: seconds to wait for observers to have handled what was published so far.
            late: what to do about those that have not by then: raise, or leave their states out, and log a warning.

        Raises:
            DeadlockError: called by a subscriber, or on the observers' own loop, while one has not handled all that was
                published; ``await hub.flushed()`` first.
            WaitTimeoutError: one had not, in time.
        """
        deadline = deadline_in(timeout)
        self._bus.drain(timeout)
        if late == "leave out":
            return self._state_without_late(deadline)
        self._wait_here(self._catching_up(), deadline)
        cut = self._cut()
        self._wait_here(cut.ready, deadline)
        return thawed(cut.whole())

    def _state_without_late(self, deadline: float | None) -> dict[str, Any]:
        if not self._on_observers_loop():
            self._catching_up().wait(seconds_until(deadline))
        cut = self._cut()
        if not cut.ready.wait(0 if self._on_observers_loop() else seconds_until(deadline)):
            logger.warning("a state of hub %r lacks that of subscribers: %s", self.instance_name, self._laggards())
        cut.subscribers = dict(cut.subscribers)  # those that come later are not in it
        return thawed(cut.whole())

    def load_state_dict(self, state_dict: Any) -> None:
        """Take in a state dict: what is in it replaces what is here, the rest stays. A hub replaces everything.

        Subscribers get their saved state, now or when they are attached, and whatever events it had not handled. A
        ``Journal`` goes back with the hub: a ``Rewound`` says what does not count.

        Raises:
            StateDictError: it is not a state dict; nothing has changed then.
        """
        self._load(state_dict, "dict")

    def _load(self, state: Any, source: str | None) -> None:
        """Take in a state; ``source`` is what ``StateLoaded`` names, None to publish none."""
        self._bus.drain()
        present, fresh = {*self._log_scalars, *self._runtime_info}, source != "dict"
        scalars, infos, flags, extra, replacing = loadable(state, present, fresh)
        stop, stamps, newest, run_id = hub_part(scalars, extra)
        is_back = goes_back(self, newest, run_id)

        def take_in() -> None:
            self._replace(scalars, infos, flags, everything=replacing)
            self._step = extra.get("step", self._step)
            self._bus.seq = max(self._bus.seq, newest)
            unknown = (self._bus.seq, time.time(), self._step)
            self._info_stamps.update((key, stamps.get(key, unknown)) for key in infos)
            self._stop, self._run_id, self._base_seq = stop or self._stop, run_id or self._run_id, newest
            fork = go_back(self, newest, infos, stop) if is_back else Fork.new(newest, self._bus.seq)
            self._ancestry.go_by(forks_in(extra), fork)
            if source is not None:
                self._append(StateLoaded(source=source))

        self._change(take_in, None)
        self._attachments.load_states(extra.get("subscribers", {}))

    # --- files

    def save(
        self,
        path: str | PathLike[str],
        timeout: float | None = 30.0,
        *,
        keep: int = 2,
        registry: Registry | None = None,
    ) -> Path:
        """Write the resumable state to a file, atomically: the path holds the old state or the new one, whole.

        Publishes a ``StateSaved``.

        Args:
            path: the file; its folder is created. Or a folder of generations: one that exists, or ends in a separator.
                Then the file is named after the ``seq`` of the newest event, and older ones are removed.
            timeout: seconds to wait for observers to have handled what was published so far.
            keep: how many generations stay, the new one included.
            registry: classes of the program's own, for runtime infos; default ``self.registry``.

        Returns:
            The path of the file.

        Raises:
            DeadlockError: as ``state_dict``.
            UnsupportedTypesError: a runtime info cannot be stored; each is named.
            WaitTimeoutError: a subscriber was never between two events.
            OSError: the disk said no; the old file is untouched.
            SaveFailedError: the state was written, but an earlier ``async_save`` failed and nobody had been told.
        """
        target = Target.of(path, keep)
        deadline = deadline_in(timeout)
        self._bus.drain(timeout)
        self._wait_here(self._catching_up(), deadline)
        save = self._begin_save(target, registry)
        try:
            self._wait_here(save.ready, deadline)
            written = self._saver.write(save)
        finally:
            self._saver.end(save)
        self._say_untold(written)
        return written

    async def saved(
        self,
        path: str | PathLike[str],
        timeout: float | None = 30.0,
        *,
        keep: int = 2,
        registry: Registry | None = None,
    ) -> Path:
        """Do what ``save`` does without blocking the loop."""
        target = Target.of(path, keep)
        deadline = deadline_in(timeout)
        await self._bus.drain_awaited(timeout)
        await self._wait_awaited(self._catching_up(), deadline)
        save = self._begin_save(target, registry)
        try:
            await self._wait_awaited(save.ready, deadline)
            written = await anyio.to_thread.run_sync(self._saver.write, save)
        finally:
            self._saver.end(save)
        self._say_untold(written)
        return written

    def async_save(
        self,
        path: str | PathLike[str],
        timeout: float | None = 30.0,
        *,
        keep: int = 2,
        registry: Registry | None = None,
    ) -> PendingSave:
        """Freeze the state as it is now, have it written in the background, and return at once. Any thread.

        Waits for nothing but values that are on their way from a device, which the state is to hold. Freezing copies
        runtime infos, and takes microseconds for histories of any length. A save that fails leaves the
        old file, is logged and published as ``SaveFailed``, and does not end the run. If a save waits for another one
        when a newer state is to go to the same place, only the newer one is written. Leaving the hub waits for it.

        Args:
            path: as for ``save``.
            timeout: seconds in which observers must have handled what was published before the call.
            keep: as for ``save``.
            registry: as for ``save``.
        """
        save = self._begin_save(Target.of(path, keep), registry)
        save.deadline = deadline_in(timeout)
        save.late = self._late
        return self._saver.enqueue(save)

    def _begin_save(self, target: Target, registry: Registry | None) -> Save:
        run_id, save, registry = self.run_id, Save(target), registry or self.registry
        try:
            cut = self._cut(functools.partial(self._saver.begin, save))
        except BaseException:
            self._saver.end(save)
            raise

        def write() -> None:
            write_hub(target, cut.whole(), self.instance_name, registry, run_id, cut.seq)
            if target.is_folder:
                file = target.file(cut.seq)
                oldest = int(list_generations(file.parent)[-1].stem)
                self._attachments.tapping.snapshot_saved(file, cut.seq, oldest)

        save.seq, save.ready, save.write = cut.seq, cut.ready, write
        return save

    def _say_untold(self, written: Path) -> None:
        failed = self._saver.take_untold()
        if failed is not None and failed.error is not None:
            raise SaveFailedError(written, failed.path, failed.error) from failed.error

    def load(
        self,
        path: str | PathLike[str],
        *,
        registry: Registry | None = None,
        limits: Limits | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> None:
        """Take in the state that ``save`` wrote; see ``load_state_dict``.

        Of a folder, the newest generation that is whole. Those newer than it are damaged: that is logged as an error,
        and a ``StateDamaged`` is published for each.

        Args:
            path: the file, or a folder of generations.
            registry: classes of the program's own, for runtime infos; default ``self.registry``.
            limits: what the file may ask for; see ``asynchub.codec.Limits``.
            on_unknown: what to do with a value of a type that is not known here: ``"raise"``, or ``"keep"`` it as an
                ``UnknownValue``, which is saved again as it was.

        Raises:
            StateError: the file, or every generation, is damaged, truncated or foreign; nothing has changed then.
            FileNotFoundError: there is none.
        """
        file, state, damaged = read_newest(path, limits, registry or self.registry, on_unknown)
        self._load(state, str(file))
        for newer, error in damaged:
            logger.error("%s is damaged, and %s was loaded in its place: %s", newer, file, error)
            self.publish(StateDamaged(path=str(newer), error=f"{type(error).__name__}: {error}"))

    def __getstate__(self) -> dict[str, Any]:
        names = ("_instance_name", "_log_scalars", "_runtime_info", "_resumed_keys")
        with self._bus.drained_still():
            return {**{name: getattr(self, name) for name in names}, "_step": self._step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_instance_name"])  # type: ignore[misc]  # a copy is a new hub with the record of the old
        for name in ("_log_scalars", "_runtime_info", "_resumed_keys"):
            getattr(self, name).update(state[name])
        self._step = state.get("_step", 0)

    def _forked(self) -> None:
        super()._forked()
        self._ancestry.go_on(Fork.new(self._bus.seq, self._bus.seq))
        self._saver.forked()
