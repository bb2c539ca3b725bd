"""A data pipeline, watched through a hub: where its time goes, and who is to blame.

    with Pipeline(hub, "data") as mon:
        decode = mon.stage("decode", concurrency=4)(decode)
        for batch in mon.consume(loader):
            train_step(batch)
        print(mon.report())

Published once per ``interval``, from a thread of its own: every figure as a scalar (``data/decode/throughput``, ...),
the whole as a ``PipelineReported``; and when it happens ``BottleneckChanged``, ``PipelineStalled``,
``PipelineRecovered``, ``SlowItems``, ``ConcurrencyChanged``. Nothing is published per item.

Cost: 0.6 to 1.9 us per item and stage, by its kind; see docs/explanation/performance.md.
Threads: any thread may call anything here.
Ends: leaving it ends its thread, after a last report whose state is ``"done"``. What was decorated goes on working.
Switched off: with ``enabled=False`` functions, iterables and loaders come back as they are.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import anyio
import anyio.to_thread

from asynchub.errors import LifecycleError
from asynchub.hub import MessageHub
from asynchub.loops import in_event_loop
from asynchub.pipeline.clock import clock
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import Verdict
from asynchub.pipeline.stalls import Stalls
from asynchub.pipeline.ticking import Reporter, Ticker
from asynchub.pipeline.tracks import thread_track
from asynchub.pipeline.watching import Watching, checked_name, checked_seconds

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ("Pipeline", "running_pipeline")

T = TypeVar("T")
L = TypeVar("L")

logger = logging.getLogger("asynchub")

_RUNNING: weakref.WeakSet[Pipeline] = weakref.WeakSet()


class Pipeline(Watching):
    """Watches a data pipeline; a context manager, plain or async.

    Args:
        hub: where figures and events go.
        name: of the pipeline, with which its keys begin.
        interval: seconds between two reports; 0.05 or more.
        window: seconds that the figures of a report are of; at least ``interval``.
        enabled: False to watch nothing, and hand everything back as it is.
        warmup: seconds after the first item that are not judged.
        stall_after: seconds that the consumer must wait, at least, before that is a stall; and ten times the 99th
            percentile of its waits, of which ten must be known.
        scalars: whether every figure is published as a scalar too, not only the whole as an event.
        dump_workers: whether a worker process that stalls is asked for its stack, by a signal (``SIGUSR1``).

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    def __init__(
        self,
        hub: MessageHub,
        name: str = "data",
        *,
        interval: float = 1.0,
        window: float = 10.0,
        enabled: bool = True,
        warmup: float = 2.0,
        stall_after: float = 10.0,
        scalars: bool = True,
        dump_workers: bool = False,
    ) -> None:
        super().__init__(hub, name, enabled=enabled, scalars=scalars, dump_workers=dump_workers)
        self.interval = checked_seconds("interval", interval, 0.05)
        self.window = checked_seconds("window", window, self.interval)
        self._stalls = Stalls(self.parts, checked_seconds("stall_after", stall_after, 0.0))
        self._reporter = Reporter(
            self.name, self.parts, self.interval, self.window, checked_seconds("warmup", warmup, 0.0)
        )
        self._on_change: list[Callable[[Verdict], object]] = []
        self._each_report: list[Callable[[PipelineReport], object]] = []
        self._ticker: Ticker | None = None
        self._told = Verdict()
        self._said: set[str] = set()

    # --- living

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ticker = self.stop()
        if ticker is not None:
            ticker.thread.join()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ticker = self.stop()
        if ticker is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(ticker.thread.join)

    def start(self) -> None:
        """Begin to report; entering does it. On an event loop, that is watched too.

        Raises:
            LifecycleError: it reports already.
        """
        if not self.enabled:
            return
        with self._lock:
            if self._ticker is not None:
                raise LifecycleError(f"pipeline {self.name!r} is watched already; leave it first")
            self._ticker = Ticker(self.name, self.interval, self._look, self._tick)
        if in_event_loop():
            self.parts.see_loop(thread_track().see_loop())
        _RUNNING.add(self)
        self._reporter.begin()
        self._ticker.start()

    def stop(self) -> Ticker | None:
        """Have it end with a last report; does not wait for that. Return its thread's owner; None if it did not run."""
        with self._lock:
            ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.stop()
        _RUNNING.discard(self)
        return ticker

    @property
    def running(self) -> bool:
        """Whether it reports."""
        return self._ticker is not None

    # --- libraries

    def dataloader(self, loader: L, name: str = "loader") -> L:
        """Watch a ``torch.utils.data.DataLoader``, its worker processes included; return it.

        Call it before the first iteration, and after whoever wraps or rebuilds the loader (Lightning, accelerate).

        Args:
            loader: the loader. While it makes an iterator, its ``collate_fn`` and ``worker_init_fn`` are ones that call
                its own. If its persistent workers run already, it is left alone, and a warning says so.
            name: of the stages: ``loader`` gives ``loader.dataset`` and ``loader.collate``. A loader that is made anew
                for each epoch keeps its name; others have names of their own.

        Raises:
            ArgumentError: it is not a ``DataLoader``.
        """
        if not self.enabled:
            return loader
        from asynchub.pipeline.loader import watch_loader

        return cast("L", watch_loader(self, cast("DataLoader[Any]", loader), checked_name("name", name)))

    def spdl(self) -> dict[str, Any]:
        """Return what ``spdl.pipeline.PipelineBuilder.build`` needs: ``builder.build(num_threads=8, **mon.spdl())``."""
        if not self.enabled:
            return {}
        from asynchub.pipeline.spdl import build_arguments

        return build_arguments(self)

    def node(self, node: T, name: str) -> T:
        """Return a node of ``torchdata.nodes`` that is timed as a stage.

        Args:
            node: the node.
            name: of the stage.

        Raises:
            ArgumentError: it is not a node, or the name is malformed.
        """
        checked_name("name", name)
        if not self.enabled:
            return node
        from asynchub.pipeline.nodes import watched_node

        return cast("T", watched_node(self, node, name))

    # --- what is known

    def report(self) -> PipelineReport:
        """Return the newest report; ``str`` of it is a table."""
        return self._reporter.newest

    @property
    def bottleneck(self) -> Verdict:
        """What limits the pipeline."""
        return self._reporter.newest.verdict

    def on_change(self, function: Callable[[Verdict], object]) -> Callable[[Verdict], object]:
        """Have ``function`` called with each new verdict, in the pipeline's thread; also a decorator."""
        self._on_change.append(function)
        return function

    def on_report(self, function: Callable[[PipelineReport], object]) -> Callable[[PipelineReport], object]:
        """Have ``function`` called with each report, in the pipeline's thread; also a decorator."""
        self._each_report.append(function)
        return function

    # --- the thread

    def _look(self) -> None:
        self.parts.look()
        found = self._stalls.check(clock())
        if found is not None:
            seconds, blame = found
            if blame is None:
                self._outlet.recovered(seconds)
            else:
                queues = self.parts.queues.copy()
                self._outlet.stalled(seconds, blame, {name: queue.depth() for name, queue in queues.items()})

    def _tick(self, last: bool) -> None:
        blame = self._stalls.blame
        before = self._reporter.newest
        report = self._reporter.report("" if blame is None else f"waiting for {blame.reason}", done=last)
        if report is before:
            return
        self._outlet.reported(report, self._reporter)
        if not report.verdict.same_as(self._told):
            previous, self._told = self._told, report.verdict
            self._outlet.judged(report.verdict, previous)
            self._call(self._on_change, report.verdict)
        self._call(self._each_report, report)

    def _call(self, functions: list[Callable[[Any], object]], found: Any) -> None:
        """Call each of the functions; what one raises is logged once, and keeps no other from being called."""
        for function in functions.copy():
            try:
                function(found)
            except Exception as error:  # of the program's own
                said = f"{type(error).__name__}: {error}"
                if said not in self._said:
                    self._said.add(said)
                    logger.exception("pipeline %r: a function that is told of reports failed", self.name)

    def forked(self) -> None:
        """Go on in a child process, where nothing is reported."""
        self._lock = threading.RLock()
        self._ticker = None
        self.parts.forked()
        self._reporter.forked()


def running_pipeline(hub: MessageHub) -> Pipeline | None:
    """Return the pipeline that watches for a hub; None if none does, or several do."""
    found = [pipeline for pipeline in list(_RUNNING) if pipeline.hub is hub]
    return found[0] if len(found) == 1 else None


def _after_fork() -> None:
    for pipeline in list(_RUNNING):
        pipeline.forked()
    _RUNNING.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
