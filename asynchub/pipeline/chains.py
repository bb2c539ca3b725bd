"""``monitor``: one line for one stage of a chain of generators.

The stages of a hub share a pipeline: the one that watches it when the first item is asked for; else one named
``"data"``, which begins then and ends with the last of the chains.
"""

from __future__ import annotations

import os
import threading
from typing import Any, TypeVar, cast

from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline, running_pipeline
from asynchub.pipeline.pulling import AsyncPull, Pull
from asynchub.pipeline.standins import AsyncStandin, Standin
from asynchub.pipeline.watching import checked_name, is_async_iterable

__all__ = ("monitor",)

T = TypeVar("T")

_lock = threading.RLock()  # a chain may be collected, and leave, while another one enters
KEPT_AS = "_pipeline_of_chains"
"""The attribute of a hub that has its shared pipeline: a table of hubs would keep those that it has ever seen."""


def monitor(iterable: T, hub: MessageHub, name: str) -> T:
    """Return an iterable, plain or async, whose items are timed as those of a stage; else it is what it was.

    In a chain of generators each has its own time: what it asks another for is the other's::

        async for batch in monitor(decode(monitor(fetch(urls), hub, "fetch")), hub, "decode"):

    Args:
        iterable: what is iterated over.
        hub: where figures and events go; see ``Pipeline``.
        name: of the stage; no slash in it.

    Raises:
        ArgumentError: it cannot be iterated over, or the name is malformed.
    """
    checked_name("name", name)
    chain = _AsyncChain if is_async_iterable(iterable, "monitor") else _Chain
    return cast("T", chain(hub, iterable, name))


class _Shared:
    """A pipeline that is watched while anybody uses it."""

    def __init__(self, hub: MessageHub) -> None:
        self.pipeline = Pipeline(hub)
        self.users = 0


class _Use:
    """Has a pipeline watched as long as this object lives."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        with _lock:
            shared.users += 1
            if shared.users == 1:
                shared.pipeline.start()

    def __del__(self) -> None:
        with _lock:
            self._shared.users -= 1
            if not self._shared.users:
                self._shared.pipeline.stop()


def _pipeline_of(hub: MessageHub) -> tuple[Pipeline, _Use | None]:
    """Return the pipeline of a hub, and what keeps it going."""
    with _lock:
        shared: _Shared | None = vars(hub).get(KEPT_AS)  # with the hub, and gone with it
        if shared is None or not shared.users:
            running = running_pipeline(hub)
            if running is not None:
                return running, None
            if shared is None:
                shared = vars(hub)[KEPT_AS] = _Shared(hub)
        return shared.pipeline, _Use(shared)


class _Chain(Standin):
    def __init__(self, hub: MessageHub, iterable: Any, name: str) -> None:
        super().__init__(iterable)
        self._hub = hub
        self._name = name

    def __iter__(self) -> Pull:
        pipeline, use = _pipeline_of(self._hub)
        return Pull(pipeline.stage(self._name).meter, iter(self._iterable), use)


class _AsyncChain(AsyncStandin):
    def __init__(self, hub: MessageHub, iterable: Any, name: str) -> None:
        super().__init__(iterable)
        self._hub = hub
        self._name = name

    def __aiter__(self) -> AsyncPull:
        pipeline, use = _pipeline_of(self._hub)
        return AsyncPull(pipeline.stage(self._name).meter, aiter(self._iterable), use)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that is not here may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
