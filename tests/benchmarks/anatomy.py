"""What does one publish spend its time on, and what would the alternatives cost?

Prints ns of CPU time of methods with the signature of ``update_scalar``, each with one part more than the last, up
to the real one, which also folds its entries into the history; and of two alternatives: a ``with`` statement, and no
lock at all. Not shown: cold caches, as after a training step, where each part takes two to four times as long.
"""

from __future__ import annotations

import gc
import threading
import time
import timeit
from collections.abc import Callable
from typing import Any

from asynchub import MessageHub
from tests.benchmarks.common import figures, header, interleave, quick, table

KEY = "train/loss"
CALLS = 2000


class Cell:
    """What is known of a key."""

    __slots__ = ("pending", "resumed", "wanted")

    def __init__(self) -> None:
        self.pending: list[Any] = []
        self.resumed: object = True
        self.wanted = True


class Parts:
    """A publish in parts; each method has one more than the one before."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.cells = {KEY: Cell()}
        self.blocking: list[Any] = []
        self.log: list[Any] = []
        self.seq = self.step = 0

    def nothing(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None: ...

    def floor(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        self.log.append((key, value, count, resumed, step))

    def checks(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError

    def lock_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError
        self.lock.acquire()
        self.lock.release()

    def with_lock(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError
        with self.lock:
            pass

    def cell_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError
        self.lock.acquire()
        cell = self.cells.get(key)
        if cell is None or cell.resumed is not resumed:
            raise KeyError
        self.lock.release()

    def time_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError
        self.lock.acquire()
        cell = self.cells.get(key)
        if cell is None or cell.resumed is not resumed:
            raise KeyError
        time.time()
        self.lock.release()

    def entry_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError
        self.lock.acquire()
        cell = self.cells.get(key)
        if cell is None or cell.resumed is not resumed:
            raise KeyError
        seq = self.seq + 1
        entry = (seq, time.time(), step, key, value, count)
        self.seq = seq
        cell.pending.append(entry)
        if cell.wanted:
            self.log.append(entry)
        self.lock.release()

    def lock_free(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        if self.blocking:
            raise RuntimeError
        cell = self.cells.get(key)
        if cell is None or cell.resumed is not resumed:
            raise KeyError
        self.log.append((cell, time.time(), step, value, count))  # its place in the list is to be its seq


NAMES = {
    "nothing": "a method that does nothing",
    "floor": "the floor: it appends a tuple to a list",
    "checks": "checks of value, count, step",
    "lock_too": "+ the lock, taken and let go",
    "cell_too": "+ what is known of the key",
    "time_too": "+ the time",
    "entry_too": "+ the entry, appended to history and log",
    "with_lock": "instead: checks, and the lock by a with statement",
    "lock_free": "instead: no lock, one list, seq found out by readers",
}


def contender(update: Callable[..., None], clear: Callable[[], object]) -> Callable[[], float]:
    timer = timeit.Timer(
        "update(key, 0.5)", "gc.enable()", time.thread_time_ns, {"gc": gc, "key": KEY, "update": update}
    )

    def run() -> float:
        took = timer.timeit(CALLS)
        clear()
        return took / CALLS

    return run


def parts(name: str) -> Callable[[], float]:
    one = Parts()

    def clear() -> None:
        one.log.clear()
        one.cells[KEY].pending.clear()

    return contender(getattr(one, name), clear)


def main(rough: bool) -> None:
    hub = MessageHub("anatomy")
    contenders = {text: parts(name) for name, text in NAMES.items()}
    contenders["MessageHub.update_scalar, folding included"] = contender(hub.update_scalar, lambda: None)
    took = interleave(contenders, 20 if rough else 400)
    floor = figures(took[NAMES["floor"]]).median
    rows = {}
    for name, sample in took.items():
        one = figures(sample)
        rows[name] = [f"{one.median:.0f}", f"{one.p99:.0f}", f"{one.median / floor:.1f}x"]
    table("ns per call", ["median", "p99", "ratio"], rows)


if __name__ == "__main__":
    header()
    main(quick())
