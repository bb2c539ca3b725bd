"""Monitors of learning rate, throughput and step time: Lightning is the oracle where it measures the same."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.bus import EventBus
from asynchub.channels import Selection
from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import CheckpointSaved, Event, EventsDropped, InfoUpdated, ScalarUpdated, StateSaved
from asynchub.hub import MessageHub
from asynchub.subscribers.learning_rate import LearningRateMonitor
from asynchub.subscribers.monitoring import PASS_KEY, Alarm
from asynchub.subscribers.monitors import StepTimeMonitor, ThroughputMonitor, timed_batches
from asynchub.subscribers.scheduler_step import SchedulerStep
from asynchub.subscription import Subscription
from asynchub.testing import Drive
from tests.subscribers.observing import START

Value = tuple[int | None, str, float]
"""Step, key and value of a scalar that a monitor has published."""


class Kept:
    """The hub of these tests: it keeps what observers publish."""

    def __init__(self) -> None:
        self.values: list[Value] = []

    def update_scalar(self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: Any = None) -> None:
        self.values.append((step, key, value))

    def publish(self, event: Any, *, step: int | None = None) -> Any:
        raise AssertionError("monitors publish scalars only")

    request = publish


async def published_to(subscriber: Any, *batches: Iterable[Event]) -> list[Value]:
    """Run an observer over stamped events, batch by batch, to its end; return what it has published."""
    bus, kept = EventBus(), Kept()
    selection = Selection.of((*subscriber.keys, EventsDropped))
    with anyio.fail_after(30):
        events = Subscription(bus, kept, "monitor", selection, max_lag=1 << 20, overflow="raise")  # type: ignore[arg-type]
        async with anyio.create_task_group() as group:
            group.start_soon(subscriber, events)
            for batch in batches:
                bus.log.extend(event for event in batch if bus.wants(event.key, type(event)))
                bus.hurry()
                handled = anyio.Event()
                events.when_handled(events.end_position(), handled.set)
                await handled.wait()
            events.close()
    return kept.values


def published(subscriber: Any, *batches: Iterable[Event], backend: str = "asyncio") -> list[Value]:
    return anyio.run(published_to, subscriber, *batches, backend=backend)


def values_of(found: list[Value], key: str) -> list[float]:
    return [value for _, one, value in found if one == key]


def recorded(hub: MessageHub, key: str) -> list[float]:
    values: list[float] = hub.get_scalar(key).data[0].tolist()
    return values


class Run:
    """Writes the events of a run on a clock of its own."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.time = START
        self.step = 0

    def add(self, *events: Event, seconds: float = 0.0) -> None:
        self.time += seconds
        for event in events:
            self.events.append(event.stamped(len(self.events) + 1, self.time, self.step))

    def train(self, seconds: float, count: int = 1, tokens: float | None = None) -> None:
        self.step += 1
        self.add(ScalarUpdated(key="train/loss", value=1.0, count=count), seconds=seconds)
        if tokens is not None:
            self.add(ScalarUpdated(key="train/tokens", value=tokens))

    def timed(self, step: float, data: float | None) -> None:
        self.step += 1
        if data is not None:
            self.add(ScalarUpdated(key="train/data_time", value=data))
        self.add(ScalarUpdated(key="train/time", value=step))


# --- throughput


GAPS = st.lists(st.tuples(st.floats(1e-3, 10), st.integers(1, 64), st.integers(1, 512)), min_size=8, max_size=40)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning")
@settings(max_examples=30)
@given(GAPS, st.sampled_from([1, 4]), st.integers(2, 7))
def test_rates_are_those_of_lightning(gaps: list[tuple[float, int, int]], world_size: int, window: int) -> None:
    lightning = pytest.importorskip("lightning.fabric.utilities.throughput")
    oracle = lightning.Throughput(available_flops=1e4, world_size=world_size, window_size=window)
    monitor = ThroughputMonitor(
        window - 1,  # Lightning counts the ends of steps
        tokens="train/tokens",
        every=1,
        world_size=world_size,
        flops_per_sample=3.0,
        available_flops=1e4,
    )
    run, samples, tokens, wanted = Run(), 0, 0, []
    for batches, (seconds, size, length) in enumerate(gaps, 1):
        run.train(seconds, size, size * length)
        samples, tokens = samples + size, tokens + size * length
        elapsed = run.time - START  # as the events have it: rounded the same
        oracle.update(time=elapsed, batches=batches, samples=samples, lengths=tokens, flops=3.0 * size)
        wanted.append(oracle.compute())
    found = published(monitor, run.events)
    for step, one in enumerate(wanted, 1):
        rates = {key: value for key, value in one.items() if key.endswith(("per_sec", "mfu"))}
        ours = {key.removeprefix("throughput/"): value for at, key, value in found if at == step}
        if world_size == 1:
            rates = {key.removeprefix("device/"): value for key, value in rates.items()}
        else:
            rates["mfu"] = rates.pop("device/mfu", None)
        named = {key.replace("items", "tokens"): value for key, value in rates.items() if value is not None}
        assert ours == pytest.approx(named, rel=1e-9)
    assert any(at == len(gaps) for at, _, _ in found)


def test_each_batch_is_in_one_value_by_default_and_the_step_is_its_newest() -> None:
    run = Run()
    for number in range(1, 14):
        run.train(0.5 if number <= 5 else 0.25, count=8)
    found = published(ThroughputMonitor(4), run.events)
    assert [(step, value) for step, key, value in found if key == "throughput/samples_per_sec"] == [
        (5, 16.0),
        (9, 32.0),
        (13, 32.0),
    ]
    assert {key for _, key, _ in found} == {"throughput/batches_per_sec", "throughput/samples_per_sec"}


@pytest.mark.parametrize(
    "pause",
    [
        ScalarUpdated(key="val/acc", value=1.0),
        InfoUpdated(key="epoch", value=2),
        InfoUpdated(key=PASS_KEY, value=2),
        CheckpointSaved(),
        StateSaved(path="x", saved_seq=1),
        EventsDropped(missed=3),
    ],
    ids=lambda event: type(event).__name__ + "-" + event.key,
)
def test_a_pause_does_not_lower_the_rate(pause: Event) -> None:
    run = Run()
    for epoch in range(4):
        for _ in range(5):
            run.train(0.5, count=4)
        if epoch < 3:
            run.add(pause, seconds=1000.0)
    found = published(ThroughputMonitor(4), run.events)
    assert values_of(found, "throughput/samples_per_sec") == [8.0] * 4
    assert values_of(found, "throughput/batches_per_sec") == [2.0] * 4


def test_a_clock_that_is_set_back_counts_as_a_pause() -> None:
    run = Run()
    for _ in range(3):
        run.train(0.5)
    run.time -= 3600
    for _ in range(4):
        run.train(0.5)
    assert values_of(published(ThroughputMonitor(5), run.events), "throughput/batches_per_sec") == [2.0]


def test_steps_that_took_no_time_give_no_rate() -> None:
    run = Run()
    for _ in range(9):
        run.train(0.0)
    assert published(ThroughputMonitor(2), run.events) == []


def test_nothing_is_published_of_a_window_that_is_not_full() -> None:
    run = Run()
    for _ in range(100):
        run.train(0.1)
    assert published(ThroughputMonitor(100), run.events) == []


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_batches_of_events_make_no_difference(size: int) -> None:
    run = Run()
    for number in range(30):
        run.train(0.25 * (1 + number % 3), count=2, tokens=float(number))
        if number % 8 == 7:
            run.add(ScalarUpdated(key="val/loss", value=1.0), seconds=5.0)
    whole = published(ThroughputMonitor(4, tokens="train/tokens"), run.events)
    batches = [run.events[start : start + size] for start in range(0, len(run.events), size)]
    parts = published(ThroughputMonitor(4, tokens="train/tokens"), *batches)
    assert [one[:2] for one in parts] == [one[:2] for one in whole]
    if size != 1:  # there, a step's tokens come after its rate
        assert values_of(parts, "throughput/samples_per_sec") == values_of(whole, "throughput/samples_per_sec")


@pytest.mark.parametrize("tokens_first", [False, True])
def test_tokens_belong_to_the_batch_of_their_step_whichever_comes_first(tokens_first: bool) -> None:
    run = Run()
    for number in range(1, 8):
        run.step = number
        events = [ScalarUpdated(key="train/loss", value=1.0), ScalarUpdated(key="train/tokens", value=2.0**number)]
        run.add(*(reversed(events) if tokens_first else events), seconds=1.0)
    found = published(ThroughputMonitor(3, tokens="train/tokens"), run.events)
    assert values_of(found, "throughput/tokens_per_sec") == [(4 + 8 + 16) / 3, (32 + 64 + 128) / 3]


def test_a_batch_size_stands_in_for_counts_and_counts_below_0_are_none() -> None:
    run = Run()
    for count in (1, 1, -5, 0, 1):
        run.train(1.0, count)
    assert values_of(published(ThroughputMonitor(4), run.events), "throughput/samples_per_sec") == [0.5]
    found = published(ThroughputMonitor(4, batch_size=32), run.events)
    assert values_of(found, "throughput/samples_per_sec") == [32.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400])
def test_tokens_that_are_not_finite_are_none(value: float) -> None:
    run = Run()
    for number in range(5):
        run.train(1.0, 1, value if number == 2 else 10.0)
    found = published(ThroughputMonitor(4, tokens="train/tokens"), run.events)
    assert values_of(found, "throughput/tokens_per_sec") == [7.5]


async def test_throughput_is_published_on_every_loop() -> None:
    run = Run()
    for _ in range(9):
        run.train(0.5, 4)
    found = await published_to(ThroughputMonitor(4), run.events)
    assert values_of(found, "throughput/samples_per_sec") == [8.0, 8.0]


# --- step time


def test_step_times_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    times, run = rng.uniform(0.1, 2.0, 41), Run()
    for seconds in times:
        run.timed(seconds, seconds / 10)
    found = published(StepTimeMonitor(40), run.events)
    window = times[1:]
    assert {key: value for step, key, value in found if step == 41} == pytest.approx(
        {
            "step_time/mean_s": window.mean(),
            "step_time/p50_s": np.percentile(window, 50),
            "step_time/p95_s": np.percentile(window, 95),
            "step_time/max_s": window.max(),
            "step_time/data_s": window.mean() / 10,
            "step_time/data_share": 0.1,
        },
        rel=1e-12,
    )
    assert [one for one in found if one[0] != 41] == [
        (1, "step_time/first_s", times[0]),
        (1, "step_time/first_data_s", times[0] / 10),
    ]


def test_the_first_step_after_a_pause_stands_apart() -> None:
    run = Run()
    for epoch in range(3):
        run.add(InfoUpdated(key="epoch", value=epoch))
        run.timed(30.0, 29.0)
        for _ in range(4):
            run.timed(1.0, 0.125)
        run.add(ScalarUpdated(key="val/loss", value=1.0))
    found = published(StepTimeMonitor(4), run.events)
    assert [(step, value) for step, key, value in found if key == "step_time/first_s"] == [
        (1, 30.0),
        (6, 30.0),
        (11, 30.0),
    ]
    assert values_of(found, "step_time/first_data_s") == [29.0] * 3
    assert values_of(found, "step_time/max_s") == [1.0] * 3
    assert values_of(found, "step_time/data_share") == [0.125] * 3


def test_a_program_that_does_not_time_its_data_gets_no_share() -> None:
    run = Run()
    for _ in range(9):
        run.timed(1.0, None)
    found = published(StepTimeMonitor(4), run.events)
    names = {key.removeprefix("step_time/") for _, key, _ in found}
    assert names == {"first_s", "mean_s", "p50_s", "p95_s", "max_s"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_time_that_cannot_be_is_left_out_with_its_data(value: float) -> None:
    run = Run()
    for number in range(6):
        run.timed(value if number == 2 else 1.0, 9.0 if number == 2 else 0.25)
    found = published(StepTimeMonitor(4), run.events)
    assert values_of(found, "step_time/data_share") == [0.25]
    assert [step for step, key, _ in found if key == "step_time/mean_s"] == [6]


def test_a_time_over_several_steps_is_their_mean() -> None:
    run = Run()
    for _ in range(3):
        run.step += 10
        run.add(
            ScalarUpdated(key="train/data_time", value=1.0, count=10),
            ScalarUpdated(key="train/time", value=20, count=10),
        )
    assert values_of(published(StepTimeMonitor(2), run.events), "step_time/data_share") == [0.05]


def warned(shares: list[float], caplog: pytest.LogCaptureFixture, **arguments: Any) -> list[str]:
    run = Run()
    run.timed(1.0, 0.0)
    for share in shares:
        for _ in range(2):
            run.timed(1.0, share)
    with caplog.at_level(logging.WARNING, "asynchub"):
        published(StepTimeMonitor(2, **arguments), run.events)
    return caplog.messages


def test_much_waiting_is_warned_of_once_until_it_was_well_below(caplog: pytest.LogCaptureFixture) -> None:
    shares = [0.1, 0.2, 0.25, 0.3, 0.19, 0.25, 0.15, 0.3]
    text = (
        "waiting for data took {} % of the time of the last 2 steps, above 20 %; more workers, prefetching or a faster "
        "store would make them shorter"
    )
    assert warned(shares, caplog) == [
        text.format(25),
        text.format(30),
    ]


def test_no_limit_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert warned([0.9] * 4, caplog, warn_fraction=None) == []


@given(st.lists(st.floats(0, 1), max_size=30))
def test_an_alarm_is_raised_again_only_after_it_was_well_below(shares: list[float]) -> None:
    alarm, limit, armed = Alarm(0.5), 0.5, True
    for share in shares:
        assert alarm(share) == (armed and share > limit)
        armed = share < 0.4 if not armed else not share > limit


async def test_step_times_are_published_on_every_loop() -> None:
    run = Run()
    for _ in range(9):
        run.timed(0.5, 0.25)
    found = await published_to(StepTimeMonitor(4, warn_fraction=None), run.events)
    assert values_of(found, "step_time/data_share") == [0.5, 0.5]


# --- timed batches


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_timed_batches_times_waiting_and_step_at_the_step_of_the_body() -> None:
    hub, clock = MessageHub("timed"), Clock()

    def loader() -> Iterable[str]:
        for batch in "abc":
            clock.now += 2.0
            yield batch

    seen = []
    for _ in range(2):
        for hub.step, batch in enumerate(timed_batches(hub, loader(), clock=clock), hub.step + 1):  # noqa: B020
            clock.now += 6.0
            seen.append(batch)
    assert seen == list("abcabc")
    with hub.subscribe(replay="all") as events:
        past = [event for event in events._past or () if isinstance(event, ScalarUpdated)]
    assert [(event.step, event.key, event.value) for event in past] == [
        (step, key, value) for step in range(1, 7) for key, value in (("train/data_time", 2.0), ("train/time", 8.0))
    ]
    assert hub.get_info(PASS_KEY) == 2


def test_a_step_that_a_break_ends_is_left_out() -> None:
    hub, clock = MessageHub("timed"), Clock()
    for number in timed_batches(hub, range(10), clock=clock):
        clock.now += 1.0
        if number == 3:
            break
    assert recorded(hub, "train/time") == [1.0, 1.0, 1.0]


def test_timed_batches_and_its_monitor_agree_on_what_is_first() -> None:
    hub, clock = MessageHub("timed"), Clock()
    hub.attach(StepTimeMonitor(2, warn_fraction=None), on_error="raise")

    def loader() -> Iterable[int]:
        clock.now += 100.0
        for number in range(3):
            clock.now += 1.0
            yield number

    with hub:
        for _ in range(3):
            for hub.step, _batch in enumerate(timed_batches(hub, loader(), clock=clock), hub.step + 1):  # noqa: B020
                clock.now += 3.0
        hub.flush(timeout=20)
    assert recorded(hub, "step_time/first_data_s") == [101.0] * 3
    assert recorded(hub, "step_time/data_share") == [0.25] * 3


# --- on a hub


@pytest.mark.parametrize("make", [lambda: ThroughputMonitor(5), lambda: StepTimeMonitor(5)])
def test_a_monitor_lives_on_a_hub_that_is_entered_again_and_never_hears_itself(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    hub = MessageHub("monitored")
    monitor = hub.attach(make(), on_error="raise")
    with hub.subscribe("throughput/*", "step_time/*"):
        for _ in range(2):
            with hub:
                for step in range(hub.step + 1, hub.step + 21):
                    hub.step = step
                    hub.update_scalar("train/loss", 8.0, 8)
                    hub.update_scalars({"train/data_time": 0.25, "train/time": 1.0})
                hub.flush(timeout=20)
                hub.save(tmp_path / "state")
    published = [key for key in hub.log_scalars if key.startswith(("throughput/", "step_time/"))]
    assert published
    handed = monitor.statistics().delivered
    assert handed <= 40 * 2 + 4  # its own scalars, and saves
    for key in published:
        assert 0 < len(recorded(hub, key)) <= 8


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ThroughputMonitor(0), "window_size"),
        (lambda: ThroughputMonitor(every=0), "every"),
        (lambda: ThroughputMonitor(batch_size=0), "batch_size"),
        (lambda: ThroughputMonitor(world_size=0), "world_size"),
        (lambda: ThroughputMonitor(available_flops=1e12), "flops_per_sample"),
        (lambda: ThroughputMonitor(flops_per_sample=1, available_flops=0), "available_flops"),
        (lambda: ThroughputMonitor(samples="train/*"), "one key"),
        (lambda: ThroughputMonitor(tokens="train/**"), "one key"),
        (lambda: ThroughputMonitor(pauses="val/*"), "several patterns"),
        (lambda: ThroughputMonitor(pauses=("**",)), "would hear 'throughput/batches_per_sec'"),
        (lambda: ThroughputMonitor(prefix="val/"), "would hear"),
        (lambda: ThroughputMonitor(prefix=None), "prefix"),  # type: ignore[arg-type]
        (lambda: StepTimeMonitor(warn_fraction=0), "warn_fraction"),
        (lambda: StepTimeMonitor(warn_fraction=1), "warn_fraction"),
        (lambda: StepTimeMonitor(step="*"), "one key"),
        (lambda: StepTimeMonitor(step="step_time/mean_s"), "would hear"),
    ],
)
def test_arguments_that_cannot_be_are_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        make()


def test_a_malformed_key_is_refused() -> None:
    with pytest.raises(PatternError):
        ThroughputMonitor(samples="train//loss")
    with pytest.raises(PatternError):
        LearningRateMonitor(sgd(), on="")


# --- learning rates


def parameters(count: int = 1) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]


def sgd(lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters(), lr=lr, **options)


def groups(**names: float) -> list[dict[str, Any]]:
    return [{"params": parameters(), "lr": lr, "name": name} for name, lr in names.items()]


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "one": lambda: [torch.optim.Adam(parameters(), lr=0.1)],
    "groups": lambda: [torch.optim.Adam([{"params": parameters(), "lr": lr} for lr in (0.1, 0.2)])],
    "two of a class": lambda: [torch.optim.Adam(parameters(), lr=lr) for lr in (0.1, 0.2, 0.3)],
    "two classes": lambda: [sgd(0.1, momentum=0.9, weight_decay=0.01), torch.optim.AdamW(parameters(), lr=0.2)],
    "a named group": lambda: [torch.optim.SGD(groups(head=0.1), lr=0.1, momentum=0.8)],
    "named groups": lambda: [torch.optim.SGD(groups(head=0.1, body=0.2), lr=0.1, momentum=0.8)],
    "mixed": lambda: [
        torch.optim.Adam([{"params": parameters(), "lr": 0.1}, {"params": parameters(), "lr": 0.2, "name": "body"}]),
        sgd(0.3, momentum=0.7),
        torch.optim.Adam(parameters(), lr=0.4),
    ],
}


def by_lightning(optimizers: list[Any]) -> dict[str, float]:
    """Return what the callback of Lightning logs in a real run of one step with ``optimizers``."""
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers.logger import Logger

    class Keep(Logger):  # type: ignore[misc]
        values: dict[str, float] = {}  # noqa: RUF012  # of one run
        name = version = "keep"

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.values.update(metrics)

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.all = torch.nn.ParameterList(
                parameter for one in optimizers for group in one.param_groups for parameter in group["params"]
            )

        def training_step(self, batch: Any, index: int) -> None: ...

        def configure_optimizers(self) -> Any:
            return optimizers

    logger = Keep()
    logger.values = {}
    callback = lightning.callbacks.LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
    trainer = lightning.Trainer(
        max_steps=-1,
        max_epochs=1,
        limit_train_batches=1,
        log_every_n_steps=1,
        logger=logger,
        callbacks=[callback],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader([torch.zeros(1)]))
    return {key: value for key, value in logger.values.items() if key != "epoch"}


def driven(monitor: Any, *events: Event) -> list[Value]:
    drive = Drive(monitor)
    for event in events:
        drive.send(event)
    drive.close()
    return answers(drive)


def answers(drive: Drive) -> list[Value]:
    return [(one.step, one.key, one.value) for one in drive.answers if isinstance(one, ScalarUpdated)]


def loss(step: int) -> ScalarUpdated:
    return ScalarUpdated(key="train/loss", value=1.0, step=step)


def epoch(number: int, step: int) -> InfoUpdated:
    return InfoUpdated(key="epoch", value=number, step=step)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_names_and_values_are_those_of_lightning(case: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    optimizers = OPTIMIZERS[case]()
    monitor = LearningRateMonitor(optimizers, log_momentum=True, log_weight_decay=True, names="lightning")
    found = {key: value for _, key, value in driven(monitor, loss(1))}
    assert found == by_lightning(optimizers)


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_names_of_the_hub_say_the_same_with_the_quantity_first(case: str) -> None:
    optimizers = OPTIMIZERS[case]()

    def keys(names: Any) -> list[str]:
        monitor = LearningRateMonitor(optimizers, log_momentum=True, log_weight_decay=True, names=names)
        return [key for _, key, _ in driven(monitor, loss(1))]

    def of_the_hub(key: str) -> str:
        for quantity in ("momentum", "weight_decay"):
            if key.endswith(f"-{quantity}"):
                return f"{quantity}/{key.removeprefix('lr-').removesuffix(f'-{quantity}')}"
        return f"lr/{key.removeprefix('lr-')}"

    assert keys("hub") == [of_the_hub(key) for key in keys("lightning")]


def test_an_optimizer_of_one_group_and_one_of_two_have_these_keys() -> None:
    optimizers = [sgd(), torch.optim.Adam([{"params": parameters()}, {"params": parameters()}])]
    assert [key for _, key, _ in driven(LearningRateMonitor(optimizers), loss(1))] == [
        "lr/SGD",
        "lr/Adam/pg1",
        "lr/Adam/pg2",
    ]


def test_a_prefix_stands_before_each_key() -> None:
    monitor = LearningRateMonitor(sgd(), log_weight_decay=True, log_key_prefix="optim/")
    assert [key for _, key, _ in driven(monitor, loss(1))] == ["optim/lr/SGD", "optim/weight_decay/SGD"]


def test_a_wrapped_optimizer_is_named_after_what_it_wraps() -> None:
    class Wrapped:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer
            self.param_groups = optimizer.param_groups

    assert driven(LearningRateMonitor(Wrapped(sgd())), loss(1)) == [(1, "lr/SGD", 0.1)]


def changed(monitor: Any, optimizer: Any, *steps: tuple[float, Event]) -> list[Value]:
    """Return what is published when the learning rate is set before each event."""
    drive = Drive(monitor)
    for lr, event in steps:
        optimizer.param_groups[0]["lr"] = lr
        drive.send(event)
    drive.close()
    return answers(drive)


def test_by_default_a_value_comes_when_it_has_changed_after_the_last_of_the_old_ones() -> None:
    optimizer = sgd()
    found = changed(
        LearningRateMonitor(optimizer),
        optimizer,
        *[(0.1, loss(step)) for step in (1, 2, 3)],
        *[(0.01, loss(step)) for step in (4, 5)],
        (0.02, loss(6)),
        (0.03, loss(7)),
    )
    assert found == [
        (step, "lr/SGD", lr) for step, lr in ((1, 0.1), (3, 0.1), (4, 0.01), (5, 0.01), (6, 0.02), (7, 0.03))
    ]


def test_by_default_an_epoch_brings_a_value_too() -> None:
    optimizer = sgd()
    events = [loss(1), epoch(1, 1), loss(2), loss(3), epoch(1, 3), epoch(2, 3)]
    found = changed(LearningRateMonitor(optimizer), optimizer, *[(0.1, event) for event in events])
    assert [step for step, _, _ in found] == [1, 1, 3]


def test_each_step_or_each_epoch_brings_a_value_if_asked_for() -> None:
    events = [loss(1), epoch(1, 1), loss(2), loss(2), loss(5), epoch(1, 5), epoch(2, 5), loss(3)]
    by_step = driven(LearningRateMonitor(sgd(), logging_interval="step"), *events)
    assert [step for step, _, _ in by_step] == [1, 2, 5, 3]
    by_epoch = driven(LearningRateMonitor(sgd(), logging_interval="epoch"), *events)
    assert [step for step, _, _ in by_epoch] == [1, 5]


def test_a_settle_point_of_many_steps_brings_the_value_of_the_last() -> None:
    hub, optimizer = MessageHub("lr"), sgd()
    hub.attach(LearningRateMonitor(optimizer, logging_interval="step"))
    with hub:
        for hub.step in range(1, 1001):
            optimizer.param_groups[0]["lr"] = 1 / hub.step
            hub.update_scalar("train/loss", 1.0)
            if hub.step % 500 == 0:
                hub.settle()
    assert recorded(hub, "lr/SGD") == [1 / 500, 1 / 1000]


def test_attached_before_a_scheduler_it_sees_what_the_step_was_made_with() -> None:
    for order, wanted in ((-1, [0.1, 0.05, 0.025]), (1, [0.05, 0.025, 0.0125])):
        hub, optimizer = MessageHub("lr"), sgd()
        hub.attach(SchedulerStep(torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), interval="step"))
        hub.attach(LearningRateMonitor(optimizer), order=order)
        with hub:
            for hub.step in (1, 2, 3):
                optimizer.step()
                hub.update_scalar("train/loss", 1.0)
                hub.settle()
        assert recorded(hub, "lr/SGD") == wanted


def test_it_never_hears_itself() -> None:
    hub = MessageHub("lr")
    attached = hub.attach(LearningRateMonitor(sgd(), logging_interval="step"))
    with hub:
        for hub.step in range(1, 51):
            hub.update_scalar("train/loss", 1.0)
            hub.settle()
    assert attached.statistics().delivered == 50


def test_groups_that_are_added_get_names_of_their_own() -> None:
    optimizer = sgd()
    drive = Drive(LearningRateMonitor(optimizer))
    drive.send(loss(1))
    optimizer.add_param_group({"params": parameters(), "lr": 0.5})
    drive.send(loss(2))
    drive.close()
    assert answers(drive) == [(1, "lr/SGD", 0.1), (2, "lr/SGD/pg1", 0.1), (2, "lr/SGD/pg2", 0.5)]


def test_a_tensor_is_a_number_too() -> None:
    optimizer = torch.optim.Adam(parameters(), lr=torch.tensor(0.25))
    assert driven(LearningRateMonitor(optimizer, log_momentum=True), loss(1)) == [
        (1, "lr/Adam", 0.25),
        (1, "momentum/Adam", 0.9),
    ]


@pytest.mark.parametrize("interval", [None, "step", "epoch"])
def test_a_monitor_saved_after_any_event_publishes_as_if_it_had_not_been(interval: Any) -> None:
    rates = [0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3]
    events = [loss(1), loss(2), epoch(1, 2), loss(3), loss(4), loss(4), epoch(2, 5), loss(6)]
    optimizer = sgd()
    whole = changed(
        LearningRateMonitor(optimizer, logging_interval=interval), optimizer, *zip(rates, events, strict=True)
    )
    for index in range(len(events)):
        first = LearningRateMonitor(optimizer, logging_interval=interval)
        drive = Drive(first)
        for lr, event in list(zip(rates, events, strict=True))[:index]:
            optimizer.param_groups[0]["lr"] = lr
            drive.send(event)
        rest = LearningRateMonitor(optimizer, logging_interval=interval)
        rest.load_state_dict(msgpack.unpackb(msgpack.packb(first.state_dict(), strict_types=True)))
        pairs = list(zip(rates, events, strict=True))[index:]
        assert answers(drive) + changed(rest, optimizer, *pairs) == whole
        drive.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "a"), ("epoch", 1.5), ("last", []), ("last", {"lr": [1]}), ("last", {"lr": [1, 2, "a"]})],
)
def test_a_state_that_is_not_its_own_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    monitor = LearningRateMonitor(sgd())
    driven(monitor, loss(1))
    before = monitor.state_dict()
    with pytest.raises(StateDictError, match=name):
        monitor.load_state_dict({**before, name: value})
    assert monitor.state_dict() == before


def test_a_run_without_what_it_goes_by_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asynchub"):
        driven(LearningRateMonitor(sgd()), ScalarUpdated(key="loss", value=1.0, step=1))
    assert caplog.messages == ["LearningRateMonitor published nothing: 'train/**' and 'epoch' never came"]


@pytest.mark.parametrize(
    ("optimizer", "arguments", "text"),
    [
        (None, {}, "param_groups"),
        ([], {}, "got none"),
        ("sgd", {"logging_interval": "batch"}, "'step', 'epoch' or None"),
        ("sgd", {"names": "keras"}, "'hub' or 'lightning'"),
        ("sgd", {"log_key_prefix": 1}, "log_key_prefix"),
        ("sgd", {"log_key_prefix": "train/"}, "would hear 'train/lr/SGD'"),
        ("sgd", {"on": "**"}, "would hear"),
        ("twins", {}, "names of their own"),
    ],
)
def test_optimizers_and_arguments_that_cannot_be_are_refused(optimizer: Any, arguments: Any, text: str) -> None:
    twins = [{"params": parameters(), "name": "a"}, {"params": parameters(), "name": "a"}]
    made = {"sgd": sgd, "twins": lambda: torch.optim.SGD(twins, lr=0.1)}
    with pytest.raises(ArgumentError, match=text):
        LearningRateMonitor(made[optimizer]() if isinstance(optimizer, str) else optimizer, **arguments)
