"""A DataLoader is watched in its workers, and is what it was without."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import asynchub
from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.tally import Counters
from tests.pipeline.loaders import (
    Batches,
    Broken,
    Bumpy,
    Delegating,
    Inspected,
    Numbers,
    Retrying,
    Slotted,
    SlowCollate,
    Stream,
    broken_collate,
    failing_init,
    marked_init,
)
from tests.pipeline.side_log import pipeline

ROOT = Path(asynchub.__file__).parent.parent
pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork\\(\\):DeprecationWarning"),  # of Python 3.12, with threads
]


@pytest.fixture
def mon() -> Pipeline:
    return pipeline()


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    if multiprocessing.active_children():
        gc.collect()
    assert not multiprocessing.active_children()


def counted(mon: Pipeline, name: str) -> Counters:
    return mon.parts.stages[f"loader.{name}"].counters(clock())


def items(mon: Pipeline) -> tuple[int, int]:
    """Return how many samples and batches are counted."""
    return counted(mon, "dataset").items, counted(mon, "collate").items


def drawn(loader: Any) -> list[Any]:
    """Return the batches of a loader, with the same seed every time."""
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    return list(loader)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


LOADERS: dict[str, Callable[..., DataLoader[Any]]] = {
    "samples": lambda **how: DataLoader(Numbers(), batch_size=3, **how),
    "shuffled": lambda **how: DataLoader(Numbers(), batch_size=3, shuffle=True, **how),
    "last dropped": lambda **how: DataLoader(Numbers(), batch_size=3, drop_last=True, **how),
    "whole batches": lambda **how: DataLoader(Batches(), batch_size=3, shuffle=True, **how),
    "delegated batches": lambda **how: DataLoader(Delegating(Batches()), batch_size=3, **how),
    "one by one": lambda **how: DataLoader(Numbers(), batch_size=None, shuffle=True, **how),
    "with retries": lambda **how: DataLoader(Retrying(), batch_size=None, **how),
    "stream": lambda **how: DataLoader(Stream(), batch_size=3, **how),
    "stream, last dropped": lambda **how: DataLoader(Stream(), batch_size=3, drop_last=True, **how),
    "stream, one by one": lambda **how: DataLoader(Stream(), batch_size=None, **how),
    "with slots": lambda **how: DataLoader(Slotted(), batch_size=3, **how),
    "list": lambda **how: DataLoader(list(range(40)), batch_size=3, **how),
    "as they are": lambda **how: DataLoader(Numbers(), batch_size=3, collate_fn=list, **how),
}

RARER = ("last dropped", "delegated batches", "with retries", "stream, last dropped", "with slots", "as they are")


def check_batches(mon: Pipeline, kind: str, workers: int) -> None:
    alone = LOADERS[kind](num_workers=workers)
    watched = mon.dataloader(LOADERS[kind](num_workers=workers))
    wanted, found = drawn(alone), drawn(watched)
    assert same(found, wanted)
    samples, batches = items(mon)
    assert batches == len(found)
    if not (kind == "list" and workers):  # a class that is built in cannot be changed
        assert samples == 39 if kind == "last dropped" else samples == 40
    assert int(counted(mon, "collate").latencies.sum()) == batches
    assert int(counted(mon, "dataset").latencies.sum()) == samples


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_are_those_of_the_loader_by_itself(mon: Pipeline, kind: str) -> None:
    check_batches(mon, kind, 0)


@pytest.mark.parametrize("kind", [kind for kind in LOADERS if kind not in RARER])
def test_batches_of_workers_are_those_of_the_loader_by_itself(mon: Pipeline, kind: str) -> None:
    check_batches(mon, kind, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RARER)
def test_batches_of_workers_with_rarer_datasets_are_too(mon: Pipeline, kind: str) -> None:
    check_batches(mon, kind, 2)


def test_batches_in_any_order_are_the_same_ones(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(), batch_size=3, num_workers=2, in_order=False))
    found = sorted(index for batch in loader for index in batch[0].tolist())
    assert found == list(range(40))
    assert items(mon) == (40, 14)


def check_epochs(mon: Pipeline, start: str, persistent: bool, workers: int = 2) -> None:
    loader = mon.dataloader(
        DataLoader(
            Numbers(30),
            batch_size=3,
            num_workers=workers,
            multiprocessing_context=start,
            persistent_workers=persistent,
            worker_init_fn=marked_init,
        )
    )
    for epoch in (1, 2):
        for number, batch in enumerate(loader, 1):
            assert set(batch[1].tolist()) <= {1, 2}  # the loader's own worker_init_fn was called
            samples, batches = items(mon)
            assert 0 <= batches - number - 10 * (epoch - 1) <= 2 * workers  # as many as are prefetched
            assert 0 <= samples - 3 * number - 30 * (epoch - 1) <= 6 * workers
        assert items(mon) == (30 * epoch, 10 * epoch)
        assert int(counted(mon, "dataset").latencies.sum()) == 30 * epoch
    pids = {int(report.pid) for report in mon.parts.workers[0].reports(clock())}
    assert len(pids) == workers if persistent else len(pids) <= workers


@pytest.mark.parametrize(("start", "persistent"), [("fork", False), ("fork", True), ("spawn", True)])
def test_workers_have_counted_what_the_consumer_got(mon: Pipeline, start: str, persistent: bool) -> None:
    check_epochs(mon, start, persistent, workers=1 if start == "spawn" else 2)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "persistent"), [("spawn", False), ("forkserver", False), ("forkserver", True)])
def test_workers_that_are_started_in_other_ways_count_the_same(mon: Pipeline, start: str, persistent: bool) -> None:
    check_epochs(mon, start, persistent, workers=1 if start == "spawn" else 2)


def test_counts_and_times_never_go_back(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(24, 0.001), batch_size=3, num_workers=2))
    before = Counters(starved=0, blocked=0)
    for _ in range(3):
        for batch in (*loader, None):
            for _ in range(3):
                new = counted(mon, "dataset")
                for name in ("items", "busy", "total", "last"):
                    assert getattr(new, name) >= getattr(before, name), (name, batch)
                assert (new.blocked or 0) >= (before.blocked or 0)
                assert (new.latencies >= before.latencies).all()
                before = new


def test_two_iterations_at_once_are_counted_together(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(12), batch_size=3, num_workers=1))
    assert sum(1 for _ in zip(loader, loader, strict=True)) == 4
    assert items(mon) == (24, 8)


@pytest.mark.parametrize("batch_size", [4, None])
def test_a_dataset_is_in_a_worker_of_the_class_that_it_is_of(mon: Pipeline, batch_size: int | None) -> None:
    loader = mon.dataloader(DataLoader(Inspected(8), batch_size=batch_size, num_workers=1, collate_fn=list))
    rows = list(loader) if batch_size is None else [row for batch in loader for row in batch]
    assert [list(row) for row in rows] == 8 * [[True, "Inspected", [True, True, True]]]


def test_a_list_is_not_timed_and_its_collate_function_is(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(list(range(12)), batch_size=3, num_workers=1, persistent_workers=True))
    assert len(list(loader)) == 4
    assert items(mon) == (0, 4)
    found = counted(mon, "dataset")
    assert found.starved is None
    assert found.blocked is None
    (report,) = mon.parts.workers[0].reports(clock())
    assert (report.items, report.state) == (4, "not measured")


# --- the loader


def test_a_watched_loader_has_the_attributes_it_had() -> None:
    loader = DataLoader(Numbers(), batch_size=3, num_workers=1, collate_fn=list, worker_init_fn=marked_init)
    before = dict(vars(loader))
    mon = pipeline()
    assert mon.dataloader(loader) is loader
    list(loader)
    after = {name: value for name, value in vars(loader).items() if name != "_get_iterator"}
    assert type(loader) is DataLoader
    assert after == before
    assert loader.collate_fn is list
    assert "__getitems__" not in dir(loader.dataset)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_a_copy_of_a_watched_loader_is_not_watched(mon: Pipeline, copied: Callable[[Any], Any]) -> None:
    loader = mon.dataloader(DataLoader(Numbers(), batch_size=3, num_workers=1))
    one = copied(loader)
    one.num_workers, one.prefetch_factor = 0, None
    assert same(drawn(one), drawn(DataLoader(Numbers(), batch_size=3)))
    assert items(mon) == (0, 0)
    assert len(list(loader)) == 14
    assert items(mon) == (40, 14)


def test_a_loader_is_watched_once_however_often_that_is_asked_for(mon: Pipeline) -> None:
    loader = mon.dataloader(mon.dataloader(DataLoader(Numbers(), batch_size=4, num_workers=1)))
    assert len(list(mon.dataloader(loader))) == 10
    assert items(mon) == (40, 10)
    assert len(mon.parts.workers) == 1


def test_the_pipeline_that_came_last_watches(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(), batch_size=4, num_workers=1))
    other = Pipeline(MessageHub("other"))
    list(other.dataloader(loader))
    assert items(mon) == (0, 0)
    assert items(other) == (40, 10)


def test_a_loader_whose_persistent_workers_run_is_left_alone_with_a_warning(mon: Pipeline) -> None:
    loader = DataLoader(Numbers(8), batch_size=4, num_workers=1, persistent_workers=True)
    list(loader)
    with pytest.warns(UserWarning, match="'loader' is not watched: its persistent workers run already"):
        assert mon.dataloader(loader) is loader
    assert "_get_iterator" not in vars(loader)
    assert not mon.parts.stages


def test_a_persistent_loader_that_is_watched_may_be_watched_again(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(8), batch_size=4, num_workers=1, persistent_workers=True))
    list(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mon.dataloader(loader)
    list(loader)
    assert items(mon) == (16, 4)


def test_what_is_not_a_loader_is_refused(mon: Pipeline) -> None:
    with pytest.raises(ArgumentError, match=r"must be a torch\.utils\.data\.DataLoader, got list"):
        mon.dataloader([1, 2])


def test_a_pipeline_that_is_switched_off_leaves_a_loader_as_it_is() -> None:
    loader = DataLoader(Numbers())
    assert Pipeline(MessageHub("off"), enabled=False).dataloader(loader) is loader
    assert "_get_iterator" not in vars(loader)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_as_without(mon: Pipeline, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def halves(watched: bool) -> list[Any]:
        loaders = [stateful.StatefulDataLoader(Numbers(24), batch_size=3, num_workers=workers) for _ in range(2)]
        if watched:
            loaders = [mon.dataloader(loader) for loader in loaders]
        first, second = loaders
        torch.manual_seed(7)
        found = [batch[0] for batch, _ in zip(first, range(3), strict=False)]
        second.load_state_dict(first.state_dict())
        return [*found, *(batch[0] for batch in second)]

    assert same(halves(watched=True), halves(watched=False))


# --- faults


def raised(loader: Any) -> tuple[type[BaseException], str, int]:
    """Return what iterating raises first, the first line of it, and how many batches come in all."""
    iterator, number, found = iter(loader), 0, []
    while True:  # to the end: torch takes ten seconds to stop workers before that, once one has raised
        try:
            next(iterator)
            number += 1
        except StopIteration:
            return *found[0], number
        except Exception as error:
            found.append((type(error), str(error).partition("\n")[0]))


FAULTS: dict[str, Callable[..., DataLoader[Any]]] = {
    "dataset": lambda **how: DataLoader(Broken(24, 13), batch_size=4, **how),
    "item by item": lambda **how: DataLoader(Broken(24, 13), batch_size=None, **how),
    "stream": lambda **how: DataLoader(Bumpy(13), batch_size=2, **how),
    "collate": lambda **how: DataLoader(Numbers(24), batch_size=4, collate_fn=broken_collate, **how),
    "init": lambda **how: DataLoader(Numbers(24), batch_size=4, worker_init_fn=failing_init, **how),
}


@pytest.mark.parametrize(
    ("name", "workers"), [(name, workers) for name in FAULTS for workers in (0, 2) if workers or name != "init"]
)
def test_what_is_raised_is_what_is_raised_without(mon: Pipeline, name: str, workers: int) -> None:
    fault = FAULTS[name]
    alone = raised(fault(num_workers=workers))
    assert raised(mon.dataloader(fault(num_workers=workers))) == alone
    errors = counted(mon, "dataset").errors, counted(mon, "collate").errors
    streams = 2 if name == "stream" and workers else 1  # each worker has one of its own
    assert errors == {LookupError: (streams, 0), ArithmeticError: (0, 6), OSError: (0, 0)}[alone[0]]


KILLED = """
import gc, os, re, sys
from torch.utils.data import DataLoader
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from tests.pipeline.loaders import Broken
from tests.pipeline.test_loader import shared_memory

def raised(watched):
    loader = DataLoader(Broken(24, 13, "kill"), batch_size=4, num_workers=2, persistent_workers=persistent)
    loader = mon.dataloader(loader) if watched else loader
    try:
        list(loader)
    except RuntimeError as error:
        return re.sub("[0-9]+", "N", str(error)).partition(". It is possible")[0]

persistent = sys.argv[1] == "True"
mon = Pipeline(MessageHub("killed"), dump_workers=True)
before = shared_memory()
alone, watched = raised(False), raised(True)
for _ in range(2):
    gc.collect()
    counted = mon.parts.stages["loader.dataset"].counters(clock())
again = mon.parts.stages["loader.dataset"].counters(clock())
print(alone)
print(watched)
print(counted.items <= 20, counted.in_flight, again.busy - counted.busy, len(shared_memory() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_that_is_killed_is_told_of_by_torch_as_without_and_leaves_nothing(persistent: bool) -> None:
    done = subprocess.run(  # a process of its own: torch raises in whatever the main thread does at that moment
        [sys.executable, "-c", KILLED, str(persistent)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    alone, watched, rest = done.stdout.splitlines()
    ways = ("DataLoader worker (pid N) is killed by signal", "DataLoader worker (pid(s) N")  # whichever sees it first
    assert alone.startswith(ways)
    assert watched.startswith(ways)
    assert rest == "True 0 0 0", done.stderr


def test_a_consumer_that_stops_early_leaves_nobody_at_work(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(40, 0.001), batch_size=4, num_workers=2))
    for _ in zip(loader, range(2), strict=False):
        break
    gc.collect()
    assert not multiprocessing.active_children()
    one, other = counted(mon, "dataset"), counted(mon, "dataset")
    assert one.in_flight == 0
    assert (one.busy, one.blocked) == (other.busy, other.blocked)
    assert len(list(loader)) == 10
    assert items(mon)[1] >= 11


def shared_memory() -> set[str]:
    """Return the mappings of shared memory of this process, and files that are open without a name."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found = {line.split(maxsplit=5)[5].strip() + line.split()[0] for line in maps if "/dev/shm" in line}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing
            continue
        if "deleted" in target or "/dev/shm" in target:
            found.add(target)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_shared_memory_and_no_file_is_left() -> None:
    gc.collect()
    before, names = shared_memory(), set(os.listdir("/dev/shm"))
    mon = Pipeline(MessageHub("memory"), dump_workers=True)
    loader = mon.dataloader(DataLoader(Numbers(24), batch_size=4, num_workers=2))
    list(loader)
    gc.collect()
    counted(mon, "dataset")  # what is over is given back when it is looked at
    gc.collect()
    assert shared_memory() - before == set()
    assert set(os.listdir("/dev/shm")) - names == set()


# --- without workers


def test_without_workers_a_loader_works_in_the_task_of_its_consumer(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(12, 0.01), batch_size=3, collate_fn=SlowCollate(0.01)))
    for _ in mon.consume(loader):
        pass
    assert mon.parts.consumer is not None
    for name, least in (("dataset", 0.12), ("collate", 0.04)):
        meter = mon.parts.stages[f"loader.{name}"]
        assert meter.parent is mon.parts.consumer.meter
        assert meter.group == ""
        assert least <= counted(mon, name).busy / 1e9 < 3 * least
    assert items(mon) == (12, 4)


def test_a_loader_may_be_given_workers_between_two_epochs(mon: Pipeline) -> None:
    loader = mon.dataloader(DataLoader(Numbers(12), batch_size=3))
    list(mon.consume(loader))
    loader.num_workers, loader.prefetch_factor = 2, 2
    list(mon.consume(loader))
    meter = mon.parts.stages["loader.dataset"]
    assert (meter.concurrency, meter.group, meter.parent) == (2, "loader workers", None)
    assert items(mon) == (24, 8)
