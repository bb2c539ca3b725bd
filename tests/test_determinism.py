"""Control decisions do not depend on scheduling: whatever else runs, a training run is bit for bit the same.

The oracle is the same training with the same rules written inline, without a hub.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import torch
from anyio import to_thread

from asynchub import EarlyStopping, Event, MessageHub, ParameterChanged, ReduceLROnPlateau, ScalarUpdated, Subscription

STEPS = 60
EVERY = 2
PATIENCE = {"lr": 1, "stop": 5}


@dataclass
class Run:
    """What a training run came to."""

    weights: bytes = b""
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    stopped_at: int = -1


class Training:
    """A small regression that stops getting better after a while."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(64, 8, generator=generator)
        self.y = torch.sin(3 * self.x[:, :1]) + 0.3 * torch.randn(64, 1, generator=generator)
        torch.manual_seed(3)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.6, momentum=0.5)

    def step(self, number: int) -> float:
        rows = torch.arange(number * 16, number * 16 + 16) % 48
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def validate(self) -> float:
        with torch.no_grad():
            return torch.nn.functional.mse_loss(self.model(self.x[48:]), self.y[48:]).item()

    @property
    def rate(self) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def weights(self) -> bytes:
        return b"".join(one.detach().numpy().tobytes() for one in self.model.parameters())


def inline() -> Run:
    """Train with the rules written into the loop."""
    training, run = Training(), Run()
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(training.optimizer, factor=0.5, patience=PATIENCE["lr"])
    best, waited = float("inf"), 0
    for number in range(STEPS):
        run.losses.append(training.step(number))
        if number % EVERY:
            continue
        loss = training.validate()
        schedule.step(loss)
        run.rates.append(training.rate)
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited >= PATIENCE["stop"]:
            run.stopped_at = number
            break
    run.weights = training.weights()
    return run


class Noise:
    """An observer that takes its time, publishes things of its own, and fails now and then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            if self.chance.random() < 0.3:
                await anyio.sleep(self.chance.random() * 1e-3)
            if self.chance.random() < 0.1:
                await to_thread.run_sync(time.sleep, 1e-4)
            if self.chance.random() < 0.2 and not event.key.startswith("noise"):
                events.update_scalar(f"noise/{event.key}", 1.0)
            if self.chance.random() < 0.05:
                raise ValueError("some observers are like this")


def meddle(hub: MessageHub, seed: int, done: threading.Event) -> None:
    """Publish, subscribe and attach from another thread, at random moments."""
    chance = random.Random(seed)
    while not done.is_set():
        hub.update_scalar(f"other/{chance.randrange(5)}", chance.random())
        with hub.subscribe("train/*", replay="last"):
            time.sleep(chance.random() * 1e-3)
        if chance.random() < 0.1:
            hub.attach(Noise(chance.randrange(99)), "train/*", name=f"passing {chance.random()}").detach()


def prepared(training: Training, run: Run, seed: int) -> MessageHub:
    hub = MessageHub("hub", latency=random.Random(seed).choice([0.0, 1e-3, 0.02]))
    for number in range(3):
        hub.attach(Noise(100 * seed + number), on_error="restart", name=f"noise {number}")
    hub.attach(ReduceLROnPlateau(training.optimizer, "val/loss", factor=0.5, patience=PATIENCE["lr"]))
    hub.attach(EarlyStopping("val/loss", patience=PATIENCE["stop"]))

    @hub.on("val/loss", role="control", order=1)
    def note(event: ScalarUpdated) -> None:
        run.rates.append(training.rate)

    return hub


def report(hub: MessageHub, training: Training, run: Run, number: int) -> bool:
    """Do one step; tell whether there is something to settle."""
    hub.step = number
    run.losses.append(training.step(number))
    hub.update_scalar("train/loss", run.losses[-1])
    if number % EVERY:
        return False
    hub.update_scalar("val/loss", training.validate())
    return True


def with_hub(seed: int) -> Run:
    training, run = Training(), Run()
    hub = prepared(training, run, seed)
    done = threading.Event()
    meddlers = [threading.Thread(target=meddle, args=(hub, seed + index, done)) for index in range(2)]
    with hub:
        for meddler in meddlers:
            meddler.start()
        try:
            for number in range(STEPS):
                if report(hub, training, run, number):
                    hub.settle(10)
                    if hub.stop_requested:
                        run.stopped_at = number
                        break
        finally:
            done.set()
            for meddler in meddlers:
                meddler.join(10)
    run.weights = training.weights()
    return run


async def with_async_hub(seed: int) -> Run:
    training, run = Training(), Run()
    async with prepared(training, run, seed) as hub:
        done = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, meddle, hub, seed, done)
            for number in range(STEPS):
                if report(hub, training, run, number):
                    await hub.settled(10)
                    if hub.stop_requested:
                        run.stopped_at = number
                        break
                await anyio.lowlevel.checkpoint()
            done.set()
    run.weights = training.weights()
    return run


@pytest.fixture(autouse=True)
def _fast_and_quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("asynchub.runner.BACK_OFF", (1e-4, 1e-3))
    caplog.set_level("CRITICAL", "asynchub")
    torch.use_deterministic_algorithms(True)


@pytest.fixture(scope="module")
def expected() -> Run:
    run = inline()
    assert 0 < run.stopped_at < STEPS - 1
    assert len(set(run.rates)) >= 3
    return run


@pytest.mark.parametrize("seed", range(50))
def test_a_run_with_delays_everywhere_is_the_run_with_the_rules_inline(seed: int, expected: Run) -> None:
    assert with_hub(seed) == expected


@pytest.mark.parametrize("seed", range(5))
async def test_so_is_an_async_run(seed: int, expected: Run) -> None:
    assert await with_async_hub(seed) == expected


def test_every_decision_is_an_event_with_the_step_it_took_effect_at(expected: Run) -> None:
    training, run = Training(), Run()
    hub = prepared(training, run, 0)
    decisions: list[Any] = []

    @hub.on(ParameterChanged, "hub/request_applied", role="control", order=9)
    def decide(event: Event) -> None:
        decisions.append(event)

    for number in range(STEPS):
        if report(hub, training, run, number):
            hub.settle(10)
            if hub.stop_requested:
                break
    hub.close()
    *changes, stop = decisions
    drops = [
        index * EVERY for index, (old, new) in enumerate(zip(run.rates, run.rates[1:], strict=False), 1) if new < old
    ]
    assert [change.step for change in changes] == drops
    assert [change.new for change in changes] == sorted(set(run.rates) - {0.6}, reverse=True)
    assert (stop.request, stop.step, stop.author) == ("StopRequested", expected.stopped_at, "EarlyStopping")
