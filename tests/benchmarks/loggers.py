"""What does a logger cost the training loop, beside calling its library there?

First a logger that sleeps 50 ms for each event, ten of which come with each training step in torch: median and p99 of
the step, with the logger behind, and losing what its ``overflow`` says, beside the same hub with nobody reading. Then,
for each logger that is installed, beside its library called in the loop: µs per scalar that the loop is held up, and
µs of CPU in all threads and processes until the tracker has everything. Ten scalars come with a step, which otherwise
waits half a millisecond, as for a device. What is not installed is left out, and said.

Not shown: a tracker that is remote or slow (a server of MLflow's, W&B online), which holds up who calls it and no hub;
what the threads of a logger take from a loop that needs both cores itself.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import logging
import os
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asynchub import MessageHub, Subscription
from asynchub.channels import Overflow
from tests.benchmarks.common import figures, header, interleave, quick, table
from tests.benchmarks.train_step import Training

KEYS = tuple(f"train/metric{number}" for number in range(10))
PAUSE = 0.0005
"""Seconds that a step waits."""
SLEEP = 0.05
"""Seconds that the slow logger sleeps for each event."""
LAG = 1000
"""Events that it may be behind."""


# --- a slow logger


class Sleeper:
    """A logger that blocks the hub's loop for each event."""

    def __init__(self) -> None:
        self.ended = False

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            if self.ended:
                return
            time.sleep(SLEEP)


class Block(NamedTuple):
    """What a block of steps came to.

    Attributes:
        took: seconds of each step.
        lag: events that the logger was behind, at the end.
        lost: events that it has lost.
    """

    took: list[float]
    lag: int
    lost: int


def slow(training: Training, steps: int, overflow: Overflow | None) -> Callable[[], Block]:
    """Return a contender: some steps, with the slow logger or, without ``overflow``, with nobody who reads."""

    def run() -> Block:
        hub, sleeper = MessageHub("slow"), Sleeper()
        if overflow is not None:
            hub.attach(sleeper, "train/*", max_lag=LAG, overflow=overflow)
        took = []
        with hub:
            for hub.step in range(steps):
                start = time.perf_counter()
                hub.update_scalars(dict.fromkeys(KEYS, training.step()))
                took.append(time.perf_counter() - start)
            found = hub.statistics().subscriptions
            sleeper.ended = True
        return Block(took, found[0].lag if found else 0, found[0].dropped if found else 0)

    return run


def slow_logger(rough: bool) -> None:
    torch.set_num_threads(1)
    training, steps, rounds = Training(), 200 if rough else 500, 3 if rough else 61
    contenders: dict[str, Overflow | None] = {
        "nobody reads": None,
        "sleeps 50 ms per event, drop_oldest": "drop_oldest",
        "sleeps 50 ms per event, latest": "latest",
    }
    blocks = interleave({name: slow(training, steps, how) for name, how in contenders.items()}, rounds)
    took = {name: figures(one for block in sample for one in block.took) for name, sample in blocks.items()}
    rows = {}
    for name, sample in blocks.items():
        cells = []
        for mine, other in zip(took[name], took["nobody reads"], strict=True):
            cells += [f"{mine * 1e3:.3f}", f"{mine / other:.3f}"]
        rows[name] = [*cells, f"{max(one.lag for one in sample):,}", f"{max(one.lost for one in sample):,}"]
    columns = ["median, ms", "ratio", "p99, ms", "ratio", "lag", "lost"]
    table(f"a step with ten scalars, {steps * rounds:,} of them", columns, rows)


# --- each logger beside its library


class Cost(NamedTuple):
    """Seconds for each scalar: those that the loop is held up, and those of CPU in all."""

    held_up: float
    cpu: float


def cpu_seconds() -> float:
    """Return the CPU time of this process, and of those that it has started, in s."""
    total = time.process_time()
    with contextlib.suppress(ModuleNotFoundError):
        psutil = importlib.import_module("psutil")
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
    return float(total)


def contender(steps: int, record: Callable[[int], object], end: Callable[[], object]) -> Callable[[], Cost]:
    """Return a contender that calls ``record`` after each of some steps, and ``end`` after the last."""
    step = 0

    def run() -> Cost:
        nonlocal step
        held_up = 0.0
        before = cpu_seconds()
        for step in range(step + 1, step + steps + 1):  # noqa: B020  # it counts on in the next round
            time.sleep(PAUSE)
            start = time.perf_counter()
            record(step)
            held_up += time.perf_counter() - start
        end()
        count = steps * len(KEYS)
        return Cost(held_up / count, (cpu_seconds() - before) / count)

    return run


def ours(stack: ExitStack, subscriber: Any, steps: int) -> Callable[[], Cost]:
    """Return a contender that publishes to a hub with this logger."""
    hub = MessageHub(type(subscriber).__name__)
    if subscriber is not None:
        hub.attach(subscriber, on_error="raise")
    stack.enter_context(hub)

    def record(step: int) -> None:
        hub.step = step
        for key in KEYS:
            hub.update_scalar(key, 0.1 * step)

    return contender(steps, record, lambda: hub.flush(timeout=120))


def scalars(step: int) -> dict[str, float]:
    return dict.fromkeys(KEYS, 0.1 * step)


Group = dict[str, Callable[[], Cost]]
"""A logger, and then what its library offers."""


def logger_of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"asynchub.subscribers.{module}"), name)


def tensorboard(stack: ExitStack, folder: Path, steps: int) -> Group:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "peer"))  # type: ignore[no-untyped-call]  # torch gives it no types
    stack.callback(writer.close)  # type: ignore[no-untyped-call]

    def record(step: int) -> None:
        for key, value in scalars(step).items():
            writer.add_scalar(key, value, step)  # type: ignore[no-untyped-call]

    mine = ours(stack, logger_of("tensorboard", "TensorBoardLogger")(folder / "ours"), steps)
    return {"TensorBoardLogger": mine, "SummaryWriter.add_scalar": contender(steps, record, writer.flush)}


def wandb(stack: ExitStack, folder: Path, steps: int) -> Group:
    library = importlib.import_module("wandb")
    mine = ours(stack, logger_of("wandb", "WandbLogger")(project="bench", dir=folder, mode="offline"), steps)
    settings = library.Settings(silent=True, x_disable_stats=True)
    run = library.init(mode="offline", dir=str(folder), project="bench", settings=settings, reinit="create_new")
    stack.callback(run.finish)
    return {
        "WandbLogger": mine,
        "wandb: run.log, ten a call": contender(steps, lambda step: run.log(scalars(step)), int),
    }


def mlflow(stack: ExitStack, folder: Path, steps: int) -> Group:
    uri = f"sqlite:///{folder}/mlflow.db"
    mine = ours(stack, logger_of("mlflow", "MLflowLogger")(tracking_uri=uri, grace=60.0), steps)
    library = importlib.import_module("mlflow")
    client = library.MlflowClient(f"sqlite:///{folder}/peer.db")
    run_id = client.create_run("0").info.run_id

    def one_by_one(step: int) -> None:
        for key, value in scalars(step).items():
            client.log_metric(run_id, key, value, step=step)

    def batch(step: int) -> None:
        now = int(time.time() * 1000)
        client.log_batch(
            run_id, [library.entities.Metric(key, value, now, step) for key, value in scalars(step).items()]
        )

    few = max(steps // 50, 2)
    return {
        "MLflowLogger": mine,
        "MlflowClient.log_batch, ten a call": contender(few * 5, batch, int),
        "MlflowClient.log_metric": contender(few, one_by_one, int),
    }


def trackio(stack: ExitStack, folder: Path, steps: int) -> Group:
    os.environ.update(TRACKIO_DIR=str(folder), HF_HUB_OFFLINE="1")  # before it is imported
    mine = ours(stack, logger_of("trackio", "TrackioLogger")("bench", name="ours"), steps)
    library = importlib.import_module("trackio")
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # it says what it does
    run = library.init("peer", name="peer", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    stack.callback(library.finish)

    def written() -> None:  # its thread looks for more twice a second
        while run._queued_logs or run._sending_batch:
            time.sleep(0.01)

    return {
        "TrackioLogger": mine,
        "trackio: run.log, ten a call": contender(steps, lambda step: run.log(scalars(step), step=step), written),
    }


def lines(stack: ExitStack, folder: Path, steps: int) -> Group:
    file = stack.enter_context((folder / "peer.jsonl").open("w"))

    def record(step: int) -> None:
        for key, value in scalars(step).items():
            file.write(json.dumps({"key": key, "step": step, "value": value, "time": time.time()}) + "\n")
            file.flush()

    mine = ours(stack, logger_of("jsonl", "JsonlLogger")(folder / "ours.jsonl"), steps)
    return {"JsonlLogger": mine, "json, a line each, flushed": contender(steps, record, int)}


def rows_of_csv(stack: ExitStack, folder: Path, steps: int) -> Group:
    file = stack.enter_context((folder / "peer.csv").open("w", newline=""))
    writer = csv.writer(file)

    def record(step: int) -> None:
        writer.writerow([step, time.time(), *scalars(step).values()])
        file.flush()

    mine = ours(stack, logger_of("csv", "CsvLogger")(folder / "ours.csv", columns=KEYS), steps)
    return {"CsvLogger": mine, "csv, a row a step, flushed": contender(steps, record, int)}


def sqlite(stack: ExitStack, folder: Path, steps: int) -> Group:
    database = sqlite3.connect(folder / "peer.sqlite", isolation_level=None)
    stack.callback(database.close)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("PRAGMA synchronous = normal")
    database.execute("CREATE TABLE scalars (id INTEGER PRIMARY KEY, time REAL, step INTEGER, key TEXT, value REAL)")
    insert = "INSERT INTO scalars (time, step, key, value) VALUES (?, ?, ?, ?)"

    def record(step: int) -> None:
        for key, value in scalars(step).items():
            database.execute(insert, (time.time(), step, key, value))

    mine = ours(stack, logger_of("sqlite", "SQLiteLogger")(folder / "ours.sqlite"), steps)
    return {"SQLiteLogger": mine, "sqlite3, a commit each": contender(steps, record, int)}


def prometheus(stack: ExitStack, folder: Path, steps: int) -> Group:
    library = importlib.import_module("prometheus_client")
    registry = library.CollectorRegistry()
    gauges = {key: library.Gauge(key.replace("/", "_"), "a scalar", registry=registry) for key in KEYS}

    def record(step: int) -> None:
        for key, value in scalars(step).items():
            gauges[key].set(value)

    mine = ours(stack, logger_of("prometheus", "PrometheusExporter")(), steps)
    return {"PrometheusExporter": mine, "prometheus_client: Gauge.set": contender(steps, record, int)}


def otel(stack: ExitStack, folder: Path, steps: int) -> Group:
    metrics = importlib.import_module("opentelemetry.sdk.metrics")
    reader = importlib.import_module("opentelemetry.sdk.metrics.export").InMemoryMetricReader
    mine, peer = (metrics.MeterProvider([reader()]) for _ in range(2))
    stack.callback(mine.shutdown)
    stack.callback(peer.shutdown)
    meter = peer.get_meter("peer")
    gauges = {key: meter.create_gauge(key.replace("/", ".")) for key in KEYS}

    def record(step: int) -> None:
        for key, value in scalars(step).items():
            gauges[key].set(value)

    logger = logger_of("otel", "OTelMetrics")(mine.get_meter("ours"))
    return {"OTelMetrics": ours(stack, logger, steps), "opentelemetry: Gauge.set": contender(steps, record, int)}


class Screen(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        return True


def tqdm(stack: ExitStack, folder: Path, steps: int) -> Group:
    bar = stack.enter_context(importlib.import_module("tqdm").tqdm(file=Screen(), ncols=120))

    def record(step: int) -> None:
        bar.set_postfix(scalars(step), refresh=False)
        bar.update()

    mine = ours(stack, logger_of("tqdm_progress", "TqdmProgress")(file=Screen()), steps)
    return {"TqdmProgress": mine, "tqdm: set_postfix, update": contender(steps, record, bar.refresh)}


def rich(stack: ExitStack, folder: Path, steps: int) -> Group:
    progress = importlib.import_module("rich.progress")
    first, second = (importlib.import_module("rich.console").Console(file=Screen(), width=120) for _ in range(2))
    mine = ours(stack, logger_of("rich_progress", "RichProgress")(console=first), steps)
    columns = [progress.BarColumn(), *(progress.TextColumn("{task.fields[" + key + "]:.4g}") for key in KEYS)]
    live = stack.enter_context(
        progress.Progress(*columns, console=second, redirect_stdout=False, redirect_stderr=False)
    )
    task = live.add_task("train", **scalars(0))

    def record(step: int) -> None:
        live.update(task, advance=1, **scalars(step))

    return {"RichProgress": mine, "rich: Progress.update": contender(steps, record, live.refresh)}


GROUPS: dict[str, Callable[[ExitStack, Path, int], Group]] = {
    "jsonl": lines,
    "csv": rows_of_csv,
    "sqlite": sqlite,
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
    "prometheus": prometheus,
    "otel": otel,
    "tqdm": tqdm,
    "rich": rich,
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep libraries from telling what they do."""
    logging.disable(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def beside_libraries(rough: bool) -> None:
    steps = 20 if rough else 200
    with quietly(), tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        groups: list[Group] = []
        for title, make in GROUPS.items():
            folder = Path(name) / title
            folder.mkdir()
            try:
                groups.append(make(stack, folder, steps))
            except ImportError as error:
                print(f"left out: {title} ({error})")
        nothing, unread = contender(steps, lambda step: None, int), ours(stack, None, steps)
        calls: Group = {"nothing": nothing, "a hub that nobody reads": unread}
        for group in groups:
            calls |= group
        took = interleave(calls, 2 if rough else 11)
        idle = figures(one.cpu for one in took["nothing"]).median
        found = {
            name: Cost(figures(one.held_up for one in sample).median, figures(one.cpu for one in sample).median - idle)
            for name, sample in took.items()
        }
    rows = {"a hub that nobody reads": cells(found["a hub that nobody reads"])}
    for group in groups:
        mine, *library = group
        rows[mine] = cells(found[mine])
        for one in library:
            rows[f"  {one}"] = cells(found[one], found[mine])
    table("µs for each scalar", ["held up", "beside ours", "CPU in all", "beside ours"], rows)


def cells(cost: Cost, beside: Cost | None = None) -> list[str]:
    """Return the cells of a row: both costs, and as multiples of what ours are."""
    texts = []
    for part in (0, 1):
        ratio = "" if beside is None else f"{cost[part] / beside[part]:.1f}"
        texts += [f"{cost[part] * 1e6:,.2f}", ratio]
    return texts


if __name__ == "__main__":
    rough = quick()
    header("torch")
    slow_logger(rough)
    beside_libraries(rough)
