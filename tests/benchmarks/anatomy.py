"""What does one publish spend its time on, and what would the alternatives cost?

Prints ns of CPU time of methods with the signature of ``update_scalar``, each with one part more than the last, up
to the real one, whose entries also get to their history; and of what was there before: a lock around the update, taken
and let go by hand or by a ``with`` statement. Then the making of an event, 256 at a time as readers have them made,
letting go of them included, and other ways to make one. Not shown: cold caches, as after a training step, where each
part takes two to four times as long.
"""

from __future__ import annotations

import gc
import threading
import time
import timeit
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat, starmap
from typing import Any

from asynchub import MessageHub, ScalarUpdated
from asynchub.events import ENTRY, scalar_updated, scalars_updated
from asynchub.stretches import LONGEST
from tests.benchmarks.common import figures, header, interleave, quick, table

KEY = "train/loss"
CALLS = 2000


class Cell:
    """What is known of a key."""

    __slots__ = ("resumed", "wanted")

    def __init__(self) -> None:
        self.resumed: object = True
        self.wanted = True


class Parts:
    """A publish in parts; each method has one more than the one before."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.cells = {KEY: Cell()}
        self.entries: list[Any] = []
        self.step = 0
        self.alarm = 1 << 30

    def nothing(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None: ...

    def floor(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        self.entries.append((key, value, count, resumed, step))

    def checks(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step

    def cell_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        cell = self.cells[key]
        if cell.resumed is not resumed:
            raise KeyError

    def time_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        cell = self.cells[key]
        if cell.resumed is not resumed:
            raise KeyError
        time.time()

    def entry_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        cell = self.cells[key]
        if cell.resumed is not resumed:
            raise KeyError
        entries = self.entries
        entries += (cell, time.time(), step, value, count)

    def look_too(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        cell = self.cells[key]
        if cell.resumed is not resumed:
            raise KeyError
        entries = self.entries
        entries += (cell, time.time(), step, value, count)
        if len(entries) >= self.alarm:
            raise RuntimeError

    def locked(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        self.lock.acquire()
        cell = self.cells[key]
        if cell.resumed is not resumed:
            raise KeyError
        entries = self.entries
        entries += (cell, time.time(), step, value, count)
        self.lock.release()
        if len(entries) >= self.alarm:
            raise RuntimeError

    def with_lock(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None) -> None:
        if type(value) is not float or type(count) is not int:
            raise TypeError
        if step is None:
            step = self.step
        with self.lock:
            cell = self.cells[key]
            if cell.resumed is not resumed:
                raise KeyError
            entries = self.entries
            entries += (cell, time.time(), step, value, count)
        if len(entries) >= self.alarm:
            raise RuntimeError


NAMES = {
    "nothing": "a method that does nothing",
    "floor": "the floor: it appends a tuple to a list",
    "checks": "checks of value, count, step",
    "cell_too": "+ what is known of the key",
    "time_too": "+ the time",
    "entry_too": "+ the entry, left in one list",
    "look_too": "+ a look at whether anything is due",
    "locked": "all of this under a lock",
    "with_lock": "all of this under a lock, by a with statement",
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
        one.entries.clear()

    return contender(getattr(one, name), clear)


class Draft(ScalarUpdated):
    """Of the layout of an event, but with plain assignment."""

    __slots__ = ()
    __init__ = object.__init__
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__


class Known:
    """Has a key."""

    __slots__ = ("key",)

    def __init__(self) -> None:
        self.key = KEY


SEQS = range(5000, 5000 + LONGEST)
ITEMS = [item for seq in SEQS for item in (Known(), float(seq), seq, 0.5, 1)]
FIELDS = tuple(getattr(ScalarUpdated, name) for name in ("seq", "time", "step", "key", "value", "count"))


def entries() -> Any:
    fields = iter(ITEMS)
    return zip(SEQS, *[fields] * ENTRY, strict=False)


def objects() -> Any:
    return list(starmap(Draft, repeat((), LONGEST)))


def walked() -> None:
    for _seq, _cell, _time, _step, _value, _count in entries():
        pass


def filled() -> Any:
    drafts: list[Any] = objects()
    fields = iter(ITEMS)
    for draft, draft.seq, cell, draft.time, draft.step, draft.value, draft.count in zip(
        drafts, SEQS, *[fields] * ENTRY, strict=False
    ):
        draft.key = cell.key
    return drafts


def by_descriptors() -> Any:
    drafts = objects()
    seqs, cells, times, steps, values, counts = zip(*entries(), strict=False)
    for field, column in zip(FIELDS, (seqs, times, steps, [cell.key for cell in cells], values, counts), strict=True):
        deque(map(field.__set__, drafts, column), 0)
    return drafts


def by_constructor() -> Any:
    return [
        ScalarUpdated(seq=seq, time=time, step=step, key=cell.key, value=value, count=count)
        for seq, cell, time, step, value, count in entries()
    ]


def one_by_one() -> Any:
    return [
        scalar_updated(seq, time, step, cell.key, value, count) for seq, cell, time, step, value, count in entries()
    ]


def by_replace() -> Any:
    first = scalar_updated(0, 0.0, 0, KEY, 0.0, 1)
    return [
        replace(first, seq=seq, time=time, step=step, value=value, count=count)
        for seq, _, time, step, value, count in entries()
    ]


WAYS: dict[str, Callable[[], object]] = {
    "the entries, walked through": walked,
    "objects without fields": objects,
    "objects with fields, not yet frozen": filled,
    "events, as readers have them made": lambda: scalars_updated(SEQS, ITEMS),
    "one at a time": one_by_one,
    "fields set by their descriptors, from C": by_descriptors,
    "by the constructor of the dataclass": by_constructor,
    "by dataclasses.replace": by_replace,
}


def making(way: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        start = time.thread_time_ns()
        for _ in range(10):
            way()
        return (time.thread_time_ns() - start) / 10 / LONGEST

    return run


def main(rough: bool) -> None:
    hub = MessageHub("anatomy")
    contenders = {text: parts(name) for name, text in NAMES.items()}
    contenders["MessageHub.update_scalar, its history included"] = contender(hub.update_scalar, lambda: None)
    took = interleave(contenders, 20 if rough else 400)
    floor = figures(took[NAMES["floor"]]).median
    rows = {}
    for name, sample in took.items():
        one = figures(sample)
        rows[name] = [f"{one.median:.0f}", f"{one.p99:.0f}", f"{one.median / floor:.1f}x"]
    table("ns per call", ["median", "p99", "ratio"], rows)
    made = interleave({name: making(way) for name, way in WAYS.items()}, 10 if rough else 200)
    events = {}
    for name, sample in made.items():
        one = figures(sample)
        events[name] = [f"{one.median:.0f}", f"{one.p99:.0f}"]
    table("ns per event", ["median", "p99"], events)


if __name__ == "__main__":
    header()
    main(quick())
