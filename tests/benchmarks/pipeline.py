"""What does watching an input pipeline cost, item by item, batch by batch, and once per interval?

CPU time of the process, each contender beside the same work unwatched: chains of generators, channels, functions of
stages, with SPDL's own task hook and a histogram of OpenTelemetry for comparison; batches of a ``DataLoader``, without
and with workers, of small tensors and of decoded JPEGs; a sample in a worker process; a whole pipeline of SPDL; and
what the pipeline's thread takes per interval for eight stages. Prints medians, what is added to the bare work, and what
was aimed at. Not shown: what a colder cache costs a real training loop, and how long a step waits for the pipeline's
thread to let go of the interpreter.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import io
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from asynchub import Journal, MessageHub
from asynchub.pipeline.monitor import Pipeline
from tests.benchmarks.common import figures, header, interleave, interleave_async, quick, table

STAGES = 8
INTERVAL = 0.05
"""Seconds between the reports whose cost is measured; their cost does not depend on it."""

Found = Mapping[str, Sequence[float]]


def monitor(name: str, **options: Any) -> Pipeline:
    """Return a pipeline that reports once a second, as it does by default."""
    return Pipeline(MessageHub(name), "data", **options)


def show(title: str, found: Found, aims: Mapping[str, str], scale: float, unit: str) -> None:
    """Print what each contender takes; the first of them is the bare work."""
    medians = {name: figures(sample).median * scale for name, sample in found.items()}
    bare = next(iter(medians.values()))
    rows = {
        name: [f"{one:,.2f}", "" if one is bare else f"{one - bare:+,.2f}", f"{one / bare:.3f}", aims.get(name, "")]
        for name, one in medians.items()
    }
    table(title, [unit, "more", "ratio", "aim"], rows)


def per_item(run: Callable[[int], object], items: int) -> Callable[[], float]:
    """Return a contender: seconds of CPU per item."""

    def contender() -> float:
        start = time.process_time()
        run(items)
        return (time.process_time() - start) / items

    return contender


def per_item_async(run: Callable[[int], Awaitable[object]], items: int) -> Callable[[], Awaitable[float]]:
    """Return a contender that is a coroutine function."""

    async def contender() -> float:
        start = time.process_time()
        await run(items)
        return (time.process_time() - start) / items

    return contender


# --- chains


def numbers(items: int) -> Iterator[int]:
    yield from range(items)


async def numbers_async(items: int) -> AsyncIterator[int]:
    for number in range(items):
        yield number


def drained(iterable: Iterator[object]) -> None:
    for _ in iterable:
        pass


async def drained_async(iterable: AsyncIterator[object]) -> None:
    async for _ in iterable:
        pass


def chains(mon: Pipeline, rough: bool) -> None:
    items, rounds = (2_000, 3) if rough else (50_000, 31)
    runs = {
        "a generator": lambda count: drained(numbers(count)),
        "monitored": lambda count: drained(iter(mon.monitor(numbers(count), "one"))),
    }
    found = interleave({name: per_item(run, items) for name, run in runs.items()}, rounds)
    show("a generator, per item", found, {"monitored": "+0.6"}, 1e6, "µs")


async def async_chains(mon: Pipeline, rough: bool) -> None:
    items, rounds = (2_000, 3) if rough else (50_000, 31)
    runs = {
        "an async generator": lambda count: drained_async(numbers_async(count)),
        "monitored": lambda count: drained_async(aiter(mon.monitor(numbers_async(count), "one_async"))),
    }
    found = await interleave_async({name: per_item_async(run, items) for name, run in runs.items()}, rounds)
    show("an async generator, per item", found, {"monitored": "+0.8"}, 1e6, "µs")


# --- channels


async def passed(ends: tuple[Any, Any], items: int) -> None:
    """Send items from one task to another."""
    send, receive = ends

    async def produce() -> None:
        async with send:
            for number in range(items):
                await send.send(number)

    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(produce)
        async for _ in receive:
            pass


async def channels(mon: Pipeline, rough: bool) -> None:
    items, rounds = (1_000, 3) if rough else (10_000, 31)
    runs = {
        "a memory object stream": lambda count: passed(anyio.create_memory_object_stream[int](64), count),
        "mon.channel": lambda count: passed(mon.channel("items", 64), count),
    }
    found = await interleave_async({name: per_item_async(run, items) for name, run in runs.items()}, rounds)
    show("both ends of a channel, per item", found, {"mon.channel": "+2.5"}, 1e6, "µs")


# --- functions


def work(number: int) -> int:
    return number


async def work_async(number: int) -> int:
    await asyncio.sleep(0)
    return number


def calls(function: Callable[[int], object], items: int) -> None:
    for number in range(items):
        function(number)


async def calls_async(function: Callable[[int], Awaitable[object]], items: int) -> None:
    for number in range(items):
        await function(number)


def recorded() -> Callable[[int], int]:
    """Return the function, with a histogram of OpenTelemetry that is told how long each call takes."""
    metrics = importlib.import_module("opentelemetry.sdk.metrics")
    reader = importlib.import_module("opentelemetry.sdk.metrics.export").InMemoryMetricReader()
    histogram = metrics.MeterProvider(metric_readers=[reader]).get_meter("peer").create_histogram("duration", unit="s")

    def call(number: int) -> int:
        start = time.perf_counter()
        result = work(number)
        histogram.record(time.perf_counter() - start)
        return result

    return call


def hooked() -> Callable[[int], Awaitable[int]]:
    """Return the async function under the task hook that SPDL installs by default."""
    hooks = importlib.import_module("spdl.pipeline._components._hook")  # where SPDL itself makes the call
    info = importlib.import_module("spdl.pipeline").StageInfo("0", "0", "work", 1)
    hook = hooks.TaskStatsHook(info)

    async def call(number: int) -> int:
        async with hooks._task_hooks([hook], number):
            return await work_async(number)

    return call


def optional(contenders: dict[str, Any], name: str, make: Callable[[], Any]) -> None:
    """Add a contender whose library may not be there, or may have changed inside."""
    try:
        contenders[name] = make()
    except (ImportError, AttributeError, TypeError) as error:
        print(f"left out: {name} ({error})")


def functions(mon: Pipeline, rough: bool) -> None:
    items, rounds = (2_000, 3) if rough else (20_000, 31)
    contenders: dict[str, Any] = {"a function": work, "a stage": mon.stage("call")(work)}
    optional(contenders, "OpenTelemetry, record", recorded)
    runs = {name: per_item(functools.partial(calls, one), items) for name, one in contenders.items()}
    show("a function, per call", interleave(runs, rounds), {"a stage": "+0.6"}, 1e6, "µs")


async def async_functions(mon: Pipeline, rough: bool) -> None:
    items, rounds = (1_000, 3) if rough else (10_000, 31)
    contenders: dict[str, Any] = {"an async function": work_async, "a stage": mon.stage("call_async")(work_async)}
    optional(contenders, "SPDL, TaskStatsHook", hooked)
    runs = {name: per_item_async(functools.partial(calls_async, one), items) for name, one in contenders.items()}
    show("an async function that waits once, per call", await interleave_async(runs, rounds), {}, 1e6, "µs")


# --- loaders


class Tiny(Dataset[torch.Tensor]):
    """Samples of a few µs: a batch of eight takes some 50 µs."""

    def __init__(self, samples: int) -> None:
        self._rows = torch.zeros(samples, 16)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._rows[index].mul(2.0)


class Photographs(Dataset[np.ndarray]):
    """JPEGs in memory: a photograph of scikit-learn's, decoded and made small."""

    def __init__(self, samples: int) -> None:
        self._image = importlib.import_module("PIL.Image")
        pictures = importlib.import_module("sklearn.datasets").load_sample_images().images
        self._files = []
        for picture in pictures:
            with io.BytesIO() as file:
                self._image.fromarray(picture).save(file, "JPEG", quality=90)
                self._files.append(file.getvalue())
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> np.ndarray:
        with self._image.open(io.BytesIO(self._files[index % len(self._files)])) as picture:
            return np.array(picture.resize((96, 96)))


class Nothing(Dataset[int]):
    """Samples that cost nothing: numbers."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> int:
        return index


def batches(dataset: Dataset[Any], workers: int, watch: Callable[[Any], Any]) -> Callable[[], float]:
    """Return a contender: seconds of CPU of the main process per batch of eight, but for the workers' start and end."""

    def contender() -> float:
        loader = watch(DataLoader(dataset, batch_size=8, num_workers=workers))
        count, made = len(loader) - 2, iter(loader)
        next(made)
        start = time.process_time()
        drained(itertools.islice(made, count))
        took = time.process_time() - start
        drained(made)
        return took / count

    return contender


def loaders(mon: Pipeline, rough: bool) -> None:
    rounds = 1 if rough else 41
    sizes = (400, 48) if rough else (8_000, 112)
    sets: dict[str, Dataset[Any]] = {"eight small tensors": Tiny(sizes[0])}
    optional(sets, "eight decoded JPEGs", lambda: Photographs(sizes[1]))
    for number, (name, dataset) in enumerate(sets.items()):
        for workers in (0, 2):
            watch = functools.partial(mon.dataloader, name=f"loader{number}{workers}")
            contenders = {
                "bare": batches(dataset, workers, lambda loader: loader),
                "watched": batches(dataset, workers, watch),
            }
            found = interleave(contenders, rounds)
            title = f"DataLoader, {workers} workers, a batch of {name}"
            show(title, found, {"watched": ("1.03", "1.01")[number]}, 1e6, "µs")


def cpu(samples: list[int]) -> tuple[float, int]:
    """Stand in for the collating of a batch: the worker's CPU time so far, and how many samples it has."""
    return time.process_time(), len(samples)


def sampled(dataset: Dataset[Any], watch: Callable[[Any], Any]) -> Callable[[], float]:
    """Return a contender: seconds of CPU of a worker process per sample, of batches of a thousand."""

    def contender() -> float:
        loader = watch(DataLoader(dataset, batch_size=1000, num_workers=1, collate_fn=cpu))
        marks = list(loader)
        times = np.diff([mark for mark, _ in marks])
        return float(np.median(times)) / marks[0][1]

    return contender


def workers(mon: Pipeline, rough: bool) -> None:
    samples, rounds = (5_000, 1) if rough else (50_000, 15)
    for name, dataset in {"of nothing": Nothing(samples), "of a few µs": Tiny(samples)}.items():
        contenders = {
            "bare": sampled(dataset, lambda loader: loader),
            "watched": sampled(dataset, functools.partial(mon.dataloader, name=f"worker {name}")),
        }
        show(f"a sample {name}, in its worker", interleave(contenders, rounds), {"watched": "+0.5"}, 1e6, "µs")


# --- SPDL


def spdl(mon: Pipeline, rough: bool) -> None:
    library = importlib.import_module("spdl.pipeline")

    def run(items: int, arguments: Callable[[], dict[str, Any]]) -> None:
        builder = library.PipelineBuilder().add_source(range(items))
        for name in ("fetch", "decode", "copy"):
            builder = builder.pipe(work_async, concurrency=2, name=name)
        pipeline = builder.add_sink(8).build(num_threads=2, **arguments())
        with pipeline.auto_stop():
            for _ in pipeline:
                pass

    def none(info: Any) -> list[Any]:
        return []

    contenders = {
        "no statistics": lambda: {"queue_class": library.AsyncQueue, "task_hook_factory": none},
        "ours": mon.spdl,
        "StatsQueue": lambda: {"queue_class": library.StatsQueue, "task_hook_factory": none},
        "StatsQueue, TaskStatsHook": dict,  # what it does if not asked otherwise
    }
    items, rounds = (200, 1) if rough else (5_000, 15)
    runs = {name: per_item(functools.partial(run, arguments=one), items) for name, one in contenders.items()}
    show("SPDL, three stages that do nothing, per item", interleave(runs, rounds), {}, 1e6, "µs")


# --- the pipeline's thread


def publishing(rough: bool, scalars: bool) -> list[float]:
    """Return the seconds of CPU that the pipeline's thread takes per interval, for eight busy stages and a consumer."""
    reports = 8 if rough else 200
    mon = monitor(f"publishing {scalars}", interval=INTERVAL, window=10 * INTERVAL, scalars=scalars)
    stages = [mon.stage(f"stage{number}")(work) for number in range(STAGES)]
    marks: list[float] = []
    mon.on_report(lambda report: marks.append(time.thread_time()))  # called in the pipeline's thread
    with mon:
        for number in mon.consume(numbers(10**9)):
            for stage in stages:
                stage(number)
            if len(marks) > reports:
                break
            time.sleep(0.001)
    return list(np.diff(marks))


def journaled(rough: bool, scalars: bool) -> float:
    """Return the bytes that an interval takes in a journal, for eight stages."""
    mon = monitor(f"journaled {scalars}", interval=INTERVAL, window=10 * INTERVAL, scalars=scalars)
    stages = [mon.stage(f"stage{number}")(work) for number in range(STAGES)]
    reports: list[int] = []
    mon.on_report(lambda report: reports.append(1))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "journal"))
        mon.hub.attach(journal)
        with mon:
            while len(reports) < (4 if rough else 100):
                for stage in stages:
                    stage(1)
                time.sleep(0.001)
        mon.hub.detach(journal)
        return sum(file.stat().st_size for file in Path(folder).rglob("*.ahj")) / len(reports)


def intervals(rough: bool) -> None:
    rows = {}
    for name, scalars in {"figures as scalars, too": True, "one event": False}.items():
        took = figures(publishing(rough, scalars))
        size = f"{journaled(rough, scalars):,.0f}"
        rows[name] = [f"{took.median * 1e6:,.0f}", f"{took.p99 * 1e6:,.0f}", f"{took.median * 100:.3f}", "0.1", size]
    table(f"{STAGES} stages, per interval", ["µs", "p99", "% of a core at 1 Hz", "aim", "bytes in a journal"], rows)


async def on_a_loop(rough: bool) -> None:
    async with monitor("a loop") as mon:
        await async_chains(mon, rough)
        await channels(mon, rough)
        await async_functions(mon, rough)


if __name__ == "__main__":
    rough = quick()
    torch.set_num_threads(1)
    header("torch")
    with monitor("threads") as mon:
        chains(mon, rough)
        functions(mon, rough)
    anyio.run(on_a_loop, rough)
    intervals(rough)
    for part in (loaders, workers, spdl):
        try:
            with monitor(part.__name__) as mon:
                part(mon, rough)
        except ModuleNotFoundError as error:
            print(f"left out: {part.__name__} ({error})")
