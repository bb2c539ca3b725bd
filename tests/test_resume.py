"""A run stopped anywhere and resumed is the run that was not stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asynchub import EarlyStopping, MessageHub, ScalarUpdated, Subscription
from asynchub.errors import StateDictError

STEPS = 24


class Averaging:
    """A stateful subscriber whose output depends on all that it ever saw."""

    def __init__(self, role: str, batches: bool = False) -> None:
        self.role = role
        self.keys = ("loss", "epoch")
        self.batches = batches
        self.total = 0.0
        self.seen: list[float] = []

    async def __call__(self, events: Subscription) -> None:
        if self.batches:
            async for batch in events.batches():
                for event in batch:
                    self.take(event, events)
        else:
            async for event in events:
                self.take(event, events)

    def take(self, event: Any, events: Subscription) -> None:
        self.total = self.total * 0.9 + float(event.value)
        self.seen.append(self.total)
        if self.role == "control":
            events.update_scalar("average", self.total)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]
        self.seen = list(state["seen"])


def prepared() -> tuple[MessageHub, list[Averaging]]:
    hub = MessageHub("hub", latency=0.0005)
    subscribers = [Averaging("control"), Averaging("observer"), Averaging("observer", batches=True)]
    for number, subscriber in enumerate(subscribers):
        hub.attach(subscriber, name=f"averaging {number}")
    hub.attach(EarlyStopping("loss", patience=15))
    return hub, subscribers


def train(hub: MessageHub, steps: range) -> None:
    for step in steps:
        hub.update_info("iter", step)
        hub.update_scalar("loss", (step * 37 % 23) / 7, count=1 + step % 3)
        if step % 4 == 0:
            hub.update_info("epoch", step // 4)
        hub.settle()
        if step % 5 == 0:
            hub.flush(10)


def outcome(hub: MessageHub, subscribers: list[Averaging]) -> dict[str, Any]:
    return {
        "outputs": [subscriber.seen for subscriber in subscribers],
        "scalars": {
            key: [column.tolist() for column in (*history.data, history.steps)]
            for key, history in hub.log_scalars.items()
        },
        "infos": dict(hub.runtime_info),
        "step": hub.step,
        "stop": (hub.stop_requested, hub.stop_reason),
    }


def uninterrupted() -> dict[str, Any]:
    hub, subscribers = prepared()
    with hub:
        train(hub, range(STEPS))
    return outcome(hub, subscribers)


@pytest.mark.parametrize("order", ["attach, load", "load, attach", "enter, load"])
@pytest.mark.parametrize("stop", range(0, STEPS, 1))
def test_a_run_stopped_at_any_step_goes_on_as_if_it_had_not(stop: int, order: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    hub, _ = prepared()
    with hub:
        train(hub, range(stop))
        hub.save(path, timeout=10)
        train(hub, range(stop, min(stop + 2, STEPS)))  # lost
    if order == "load, attach":
        hub = MessageHub("hub", latency=0.0005)
        hub.load(path)
        subscribers = [Averaging("control"), Averaging("observer"), Averaging("observer", batches=True)]
        for number, subscriber in enumerate(subscribers):
            hub.attach(subscriber, name=f"averaging {number}")
        hub.attach(EarlyStopping("loss", patience=15))
    else:
        hub, subscribers = prepared()
        if order == "attach, load":
            hub.load(path)
    with hub:
        if order == "enter, load":
            hub.load(path)
        train(hub, range(stop, STEPS))
    assert outcome(hub, subscribers) == uninterrupted()


def test_a_state_saved_amid_a_flood_resumes_exactly(tmp_path: Path) -> None:
    hub = MessageHub("hub", latency=0.0005)
    subscriber = Averaging("observer")
    hub.attach(subscriber, max_lag=1 << 20)
    done = threading.Event()

    def flood() -> None:
        number = 0
        while not done.is_set() and number < 900_000:  # a history keeps a million
            hub.update_scalar("loss", float(number := number + 1))

    states: list[dict[str, Any]] = []
    with hub:
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            states += [hub.state_dict(timeout=10) for _ in range(10)]
        finally:
            done.set()
            thread.join(10)
    for state in states:
        saved = state["asynchub"]["subscribers"]["Averaging"]
        resumed, again = MessageHub("hub"), Averaging("observer")
        resumed.load_state_dict(state)
        resumed.attach(again, max_lag=1 << 20)
        assert again.seen == saved["state"]["seen"]
        with resumed:
            pass
        values = state["log_scalars"]["loss"].data[0]
        total, expected = 0.0, []
        for value in values:
            total = total * 0.9 + float(value)
            expected.append(total)
        assert again.seen == expected


def test_a_state_is_taken_between_two_events_with_all_that_was_published_before() -> None:
    hub = MessageHub("hub")
    first, go_on = threading.Event(), threading.Event()

    class Slow(Averaging):
        busy = False

        async def __call__(self, events: Subscription) -> None:
            async for event in events:
                self.busy = True
                first.set()
                while not go_on.is_set():
                    await anyio.sleep(0.0005)
                self.take(event, events)
                self.busy = False

        def state_dict(self) -> dict[str, Any]:
            assert not self.busy
            return super().state_dict()

    hub.attach(Slow("observer"))
    for number in range(20):
        hub.update_scalar("loss", float(number))
    with hub:
        assert first.wait(10)
        threading.Timer(0.01, go_on.set).start()
        saved = hub.state_dict(10)["asynchub"]["subscribers"]["Slow"]
    assert saved["seq"] == len(saved["state"]["seen"]) == 20


@pytest.mark.parametrize("every", [7, "10ba"])
def test_every_goes_on_where_the_saved_run_was(every: int | str) -> None:
    def prepare() -> tuple[MessageHub, list[int]]:
        hub, seen = MessageHub("hub"), []

        class Thinned(Averaging):
            def take(self, event: Any, events: Subscription) -> None:
                seen.append(event.step)

        hub.attach(Thinned("control"), "loss", every=every)
        return hub, seen

    def train(hub: MessageHub, steps: range) -> None:
        for hub.step in steps:
            hub.update_scalar("loss", 1.0)
            hub.settle()

    hub, expected = prepare()
    train(hub, range(1, 61))
    for stop in range(1, 61):
        first, seen = prepare()
        train(first, range(1, stop))
        second, more = prepare()
        second.load_state_dict(first.state_dict())
        train(second, range(stop, 61))
        assert seen + more == expected


async def test_a_state_is_saved_and_loaded_in_an_async_program(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    subscriber = Averaging("observer")
    with fail_after(20):
        async with hub:
            hub.attach(subscriber)
            for number in range(50):
                hub.update_scalar("loss", float(number))
            await hub.saved(tmp_path / "state", timeout=10)
            for number in range(50, 60):
                hub.update_scalar("loss", float(number))
            await hub.flushed(10)
            assert len(subscriber.seen) == 60
            hub.load(tmp_path / "state")
            assert len(hub.get_scalar("loss").data[0]) == 50
            hub.update_scalar("loss", 50.0)
            await hub.flushed(10)
    assert len(subscriber.seen) == 51


@pytest.mark.parametrize("when", ["before entering", "while entered", "async"])
def test_a_subscriber_that_refuses_its_state_is_said(when: str, caplog: pytest.LogCaptureFixture) -> None:
    class Picky(Averaging):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise ValueError("not mine")

    hub, other = MessageHub("hub"), MessageHub("other")
    other.attach(Averaging("observer"), name="one")
    state = other.state_dict()
    hub.attach(Picky("observer"), name="one")
    if when == "before entering":
        with pytest.raises(ValueError, match="not mine"):
            hub.load_state_dict(state)
        return
    with hub:
        hub.load_state_dict(state)
        for _ in range(1000):
            if "one" not in {one.name for one in hub.statistics().subscriptions}:
                break
            hub.flush(10)
    assert "subscriber 'one' failed" in caplog.text


def test_a_state_dict_that_cannot_be_taken_is_raised_where_it_is_asked_for() -> None:
    class Broken(Averaging):
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("gone")

    hub = MessageHub("hub")
    hub.attach(Broken("observer"))
    with hub:
        with pytest.raises(RuntimeError, match="gone"):
            hub.state_dict(10)
        hub.update_scalar("loss", 1.0)


Malform = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "malform",
    [
        lambda state: state.pop("log_scalars"),
        lambda state: state.update(log_scalars=[1]),
        lambda state: state.update(asynchub=3),
        lambda state: state["asynchub"].update(step="x"),
        lambda state: state["asynchub"].update(seq=None),
        lambda state: state["asynchub"].update(subscribers=[1]),
        lambda state: state["asynchub"].update(subscribers={"a": {"state": 1}}),
        lambda state: state["asynchub"].update(subscribers={"a": {"state": 1, "seq": "x"}}),
        lambda state: state["asynchub"].update(stop={"what": 1}),
        lambda state: state["asynchub"].update(stop=7),
        lambda state: state["asynchub"].update(info_stamps={"a": 3}),
    ],
)
def test_a_malformed_state_dict_is_refused_and_nothing_changes(malform: Malform) -> None:
    hub, subscribers = prepared()
    with hub:
        train(hub, range(5))
        hub.flush(10)
        state = hub.state_dict()
        before = outcome(hub, subscribers)
        seq = hub.statistics().seq
        malform(state)
        with pytest.raises(StateDictError):
            hub.load_state_dict(state)
        assert outcome(hub, subscribers) == before
        assert hub.statistics().seq == seq
        train(hub, range(5, STEPS))
    assert outcome(hub, subscribers) == uninterrupted()


def test_new_events_come_after_loaded_ones_even_from_a_state_of_the_record_alone() -> None:
    first = MessageHub("first")
    for number in range(5):
        first.update_scalar("a", float(number))
    state = first.state_dict()
    assert set(state) == {"log_scalars", "runtime_info", "resumed_keys"}
    hub = MessageHub("hub")
    hub.load_state_dict(state)
    hub.update_scalar("a", 5.0)
    with hub.subscribe("a", replay="all") as events:
        pass

    async def read() -> list[float]:
        return [event.value async for event in events if isinstance(event, ScalarUpdated)]

    assert anyio.run(read) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


async def test_loaded_infos_are_of_the_past(tmp_path: Path) -> None:
    first = MessageHub("first")
    first.update_info("epoch", 3)
    hub = MessageHub("hub")
    hub.load_state_dict(first.state_dict())
    event = await hub.wait_for("epoch", timeout=1)
    assert event.key == "epoch"
