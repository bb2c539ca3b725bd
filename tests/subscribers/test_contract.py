"""What every subscriber does, whatever else it does."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest

from asynchub.channels import Selection
from asynchub.errors import StateDictError
from asynchub.events import Event, EventsDropped, InfoRemoved, InfoUpdated, ScalarUpdated, StateLoaded, SubscriberFailed
from asynchub.hub import MessageHub
from asynchub.requests import (
    CheckpointRequested,
    ParameterChanged,
    ParameterChangeRequested,
    RequestApplied,
    RequestRefused,
    SkipRequested,
    StopRequested,
)
from asynchub.subscribers.console import ConsoleLogger
from asynchub.subscribers.csv import CsvLogger
from asynchub.subscribers.jsonl import JsonlLogger
from asynchub.testing import drive
from tests.subscribers.observing import observe, observed, stamped


@dataclass(frozen=True, kw_only=True)
class ModelExported(Event):
    """A kind of event that this package does not know."""

    path: str


EVERYTHING: list[Event] = stamped(
    [
        InfoUpdated(key="max_iters", value=100, step=0),
        InfoUpdated(key="max_epochs", value="many", step=0),
        InfoUpdated(key="epoch", value=None, step=0),
        *[ScalarUpdated(key="train/loss", value=value, step=1) for value in (1.0, 2, True, 2**80, -0.0, 1e308)],
        *[ScalarUpdated(key="val/loss", value=value, step=2) for value in (math.nan, math.inf, -math.inf, 0.5)],
        *[ScalarUpdated(key="val/acc", value=7.0, count=count, step=2) for count in (0, -1, 10)],
        *[ScalarUpdated(key=key, value=1.0, step=None) for key in (" ", "\n", '"', "é\u2028/漢", "step", "a,b", "/")],
        ScalarUpdated(key="train/loss", value=0.25, step=1),  # of an earlier step
        InfoUpdated(key="cfg", value={"deep": [object(), {1, 2}, (3.0,)]}, step=2),
        InfoRemoved(key="cfg", step=2),
        StopRequested(reason="two\nlines", author="me", step=2),
        SkipRequested(step=2),
        CheckpointRequested(step=2),
        ParameterChangeRequested(name="lr", value="high", step=2),
        RequestApplied(request="StopRequested", request_seq=3, step=2),
        RequestRefused(request="SkipRequested", request_seq=4, error="no", step=2),
        ParameterChanged(name="lr", group=1, old=0.1, new=math.nan, step=2),
        SubscriberFailed(subscriber="x", error="ValueError: \x1b[31m", action="detach", step=2),
        StateLoaded(step=2),
        EventsDropped(missed=5, step=2),
        ModelExported(path="a.pt", step=3),
    ]
)


def early_stopping(folder: Path) -> Any:
    return pytest.importorskip("asynchub.subscribers.early_stopping").EarlyStopping("val/acc", patience=2)


def plateau(folder: Path) -> Any:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return pytest.importorskip("asynchub.subscribers.plateau").ReduceLROnPlateau(optimizer, "val/acc", patience=2)


def scheduler_step(folder: Path) -> Any:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return pytest.importorskip("asynchub.subscribers.scheduler_step").SchedulerStep(scheduler)


def rich_progress(folder: Path) -> Any:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), force_terminal=True, width=80)
    return pytest.importorskip("asynchub.subscribers.rich_progress").RichProgress(console=console)


OBSERVERS: dict[str, Callable[[Path], Any]] = {
    "ConsoleLogger": lambda folder: ConsoleLogger(file=io.StringIO()),
    "CsvLogger": lambda folder: CsvLogger(folder / "metrics.csv"),
    "JsonlLogger": lambda folder: JsonlLogger(folder / "metrics.jsonl"),
    "RichProgress": rich_progress,
}
CONTROLS: dict[str, Callable[[Path], Any]] = {
    "EarlyStopping": early_stopping,
    "ReduceLROnPlateau": plateau,
    "SchedulerStep": scheduler_step,
}
MAKERS = OBSERVERS | CONTROLS


def go(subscriber: Any, events: list[Event]) -> None:
    if getattr(subscriber, "role", "observer") == "control":
        drive(subscriber, events)
    else:
        observe(subscriber, events)


def finite(events: list[Event]) -> list[Event]:
    """Return the events without numbers that a control subscriber may be told to refuse."""
    return [event for event in events if not isinstance(event, ScalarUpdated) or math.isfinite(event.value)]


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    return lambda: MAKERS[request.param](tmp_path)


@pytest.fixture(params=OBSERVERS)
def make_observer(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    return lambda: OBSERVERS[request.param](tmp_path)


def test_it_is_a_subscriber(make: Callable[[], Any]) -> None:
    subscriber = make()
    assert inspect.iscoroutinefunction(type(subscriber).__call__)
    assert getattr(subscriber, "role", "observer") in ("control", "observer")
    Selection.of(subscriber.keys).test()
    assert hasattr(subscriber, "state_dict") == hasattr(subscriber, "load_state_dict")


def test_it_ends_when_there_is_nothing_to_read(make: Callable[[], Any]) -> None:
    go(make(), [])


def test_it_takes_every_kind_of_event_and_value(make: Callable[[], Any]) -> None:
    go(make(), finite(EVERYTHING))


async def test_an_observer_takes_everything_on_every_loop(make_observer: Callable[[], Any]) -> None:
    await observed(make_observer(), EVERYTHING)


def test_it_can_run_again(make: Callable[[], Any]) -> None:
    subscriber = make()
    for _ in range(3):
        go(subscriber, finite(EVERYTHING))


async def test_a_cancelled_observer_ends_and_can_run_again(make_observer: Callable[[], Any]) -> None:
    subscriber = make_observer()
    with anyio.CancelScope() as scope:
        await observed(subscriber, EVERYTHING[:9], then=scope.cancel)
    await observed(subscriber, EVERYTHING[9:])


def test_its_state_is_plain_data_that_it_takes_back(make: Callable[[], Any]) -> None:
    subscriber = make()
    if not hasattr(subscriber, "state_dict"):
        pytest.skip("it has no state")
    for events in ([], finite(EVERYTHING)):
        go(subscriber, events)
        state = subscriber.state_dict()
        packed = msgpack.packb(state, strict_types=True)
        other = make()
        other.load_state_dict(msgpack.unpackb(packed, strict_map_key=False))
        assert msgpack.packb(other.state_dict(), strict_types=True) == packed


@pytest.mark.parametrize("state", [None, [], {}, {"unknown": 1}, "text"])
def test_it_refuses_a_state_that_is_not_its_own_and_keeps_what_it_had(make: Callable[[], Any], state: Any) -> None:
    subscriber = make()
    if not hasattr(subscriber, "state_dict"):
        pytest.skip("it has no state")
    go(subscriber, finite(EVERYTHING))
    before = subscriber.state_dict()
    with pytest.raises(StateDictError):
        subscriber.load_state_dict(state)
    assert subscriber.state_dict() == before


def test_it_lives_on_a_hub_that_is_entered_saved_and_entered_again(make: Callable[[], Any], tmp_path: Path) -> None:
    hub = MessageHub("contract", drain_timeout=20)
    hub.attach(make(), on_error="raise")
    for _ in range(2):
        with hub:
            for step in range(hub.step + 1, hub.step + 51):
                hub.step = step
                hub.update_scalars({"train/loss": 1 / step, "val/acc": step / 7})
                if step % 10 == 0:
                    hub.settle(timeout=20)
            hub.flush(timeout=20)
            hub.save(tmp_path / "state")
    (statistics,) = hub.statistics().subscriptions
    assert (statistics.lag, statistics.dropped, statistics.errors) == (0, 0, 0)
