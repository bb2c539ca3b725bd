"""What really happened, written down beside the monitor by the code that it watches."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline

__all__ = ("TIMED_ON", "SideLog", "Spans", "burn", "meter_of", "pipeline", "switching_often", "together")

TIMED_ON = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
        pytest.param(("trio", {}), id="trio", marks=pytest.mark.slow),
    ],
    indirect=True,
)
"""For tests that are slow because they work, not because of the loop: the other loops have them with `-m slow`."""


class Spans:
    """Begins and ends, in nanoseconds of ``time.perf_counter_ns``, of one thing that is done again and again."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self.times = np.array(sorted(spans), np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def lengths(self) -> np.ndarray:
        """Nanoseconds of each, in the order in which they began."""
        return self.times[:, 1] - self.times[:, 0]

    @property
    def total(self) -> int:
        """Nanoseconds of all together."""
        return int(self.lengths.sum())

    def quantile_ms(self, share: float) -> float:
        """The order statistic, in milliseconds."""
        return float(np.quantile(self.lengths, share, method="inverted_cdf")) / 1e6


class SideLog:
    """Collects spans by name, from any thread."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[int, int]]] = {}

    def list_of(self, name: str) -> list[tuple[int, int]]:
        """The list that spans are appended to; appending is safe from any thread."""
        return self._spans.setdefault(name, [])

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self.list_of(name).append((start, time.perf_counter_ns()))

    def __getitem__(self, name: str) -> Spans:
        return Spans(self._spans.get(name, []))


@contextmanager
def switching_often(interval: float = 1e-6) -> Iterator[None]:
    """Have threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def together(functions: Sequence[Callable[[], object]]) -> None:
    """Run functions in a thread each, all begun at the same moment; raise what one of them raised."""
    barrier = threading.Barrier(len(functions))
    failures: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            barrier.wait(30)
            function()
        except BaseException as error:  # handed on to the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)


def pipeline(hub: MessageHub | None = None, name: str = "data", **options: object) -> Pipeline:
    """A pipeline that reports often, of a hub of its own; nobody has entered it."""
    given = {"interval": 0.2, "window": 600.0, "warmup": 0.3, **options}
    return Pipeline(MessageHub("hub") if hub is None else hub, name, **given)  # type: ignore[arg-type]


def meter_of(monitor: Pipeline, name: str):  # type: ignore[no-untyped-def]
    """The meter of a stage."""
    return monitor.parts.stages[name]


def burn(nanoseconds: int) -> None:
    """Work for so long."""
    end = time.perf_counter_ns() + nanoseconds
    while time.perf_counter_ns() < end:
        pass
