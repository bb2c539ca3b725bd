"""A saved state is the hub, and everybody who reads it, at one ``seq``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asynchub import EventsDropped, Journal, JsonlLogger, MessageHub, ScalarUpdated, Subscription
from asynchub.subscribers.jsonl import read_jsonl


class Noting:
    """A stateful observer that takes its time, and knows the ``seq`` of the newest event it has handled."""

    def __init__(self, batches: bool = False, pause: float = 0.0005) -> None:
        self.batches = batches
        self.pause = pause
        self.newest = 0
        self.handled = 0

    async def __call__(self, events: Subscription) -> None:
        if self.batches:
            async for batch in events.batches():
                await anyio.sleep(self.pause)
                self.newest = batch[-1].seq
                self.handled += len(batch)
        else:
            async for event in events:
                self.newest = event.seq
                self.handled += not isinstance(event, EventsDropped)
                if self.handled % 500 == 0:
                    await anyio.sleep(self.pause)

    def state_dict(self) -> dict[str, Any]:
        return {"newest": self.newest, "handled": self.handled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.newest, self.handled = state["newest"], state["handled"]


@contextmanager
def flooded(publish: Callable[[int], object], most: int = 400_000) -> Iterator[None]:
    """Publish from a thread, without a pause, meanwhile; something has been published already."""
    begun, done = threading.Event(), threading.Event()

    def flood() -> None:
        for number in range(most):
            if done.is_set():
                return
            publish(number)
            begun.set()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        assert begun.wait(30)
        yield
    finally:
        done.set()
        thread.join(30)


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("when", ["state_dict", "async_save"])
def test_an_observer_is_taken_exactly_at_the_seq_of_the_state(tmp_path: Path, batches: bool, when: str) -> None:
    hub = MessageHub("hub", latency=0.0005)
    hub.attach(Noting(batches), "loss", max_lag=1 << 20)
    states = []
    with hub, flooded(lambda number: hub.update_scalar("loss", float(number))):
        for number in range(10):
            if when == "state_dict":
                states.append(hub.state_dict(30))
            else:
                pending = hub.async_save(tmp_path / "state")
                loaded = MessageHub(f"loaded {number}")
                loaded.load(pending.wait(30))
                states.append({"log_scalars": dict(loaded.log_scalars), "asynchub": {"seq": pending.seq}})
                states[-1]["asynchub"]["subscribers"] = loaded._attachments._saved
    for state in states:
        seq, saved = state["asynchub"]["seq"], state["asynchub"]["subscribers"].get("Noting")
        records = state["log_scalars"]["loss"].records()
        newest, handled = saved["state"]["newest"], saved["state"]["handled"]
        assert saved["seq"] == newest == records.seqs[-1] <= seq
        assert handled == len(records.values) >= seq - len(states)  # the others tell of saves


@pytest.mark.parametrize("max_lag", [40, 1 << 20])
@pytest.mark.parametrize("overflow", ["latest", "drop_oldest", "block", "catch_up"])
def test_a_reader_that_falls_behind_is_never_ahead_of_the_state(overflow: Any, max_lag: int, tmp_path: Path) -> None:
    hub = MessageHub("hub", latency=0.0005)
    if overflow == "catch_up":
        hub.attach(Journal(tmp_path / "journal"))
    observer = Noting(batches=True)
    hub.attach(observer, "a", "b", max_lag=max_lag, overflow=overflow)
    ahead = behind = 0
    with hub, flooded(lambda number: hub.update_scalar("ab"[number % 2], float(number)), most=100_000):
        for _ in range(40):
            cut = hub._cut()
            assert cut.ready.wait(30)
            saved = cut.whole()["asynchub"]["subscribers"]["Noting"]
            assert saved["seq"] == saved["state"]["newest"]
            ahead += saved["seq"] > cut.seq
            behind += saved["seq"] < cut.seq
    assert ahead == 0
    if overflow in ("block", "catch_up"):
        assert behind == 0
    assert observer.handled > 0


def test_a_state_asked_for_while_readers_are_closed_is_taken_at_its_seq() -> None:
    hub = MessageHub("hub")
    begun, go_on = threading.Event(), threading.Event()

    class Held(Noting):
        async def __call__(self, events: Subscription) -> None:
            async for event in events:
                begun.set()
                while not go_on.is_set():
                    await anyio.sleep(0.0005)
                self.newest = event.seq

    hub.attach(Held())
    with hub:
        hub.update_scalar("loss", 0.0)
        assert begun.wait(10)
        for number in range(700):
            hub.update_scalar("loss", float(number))
        cut = hub._cut()
        for number in range(700):
            hub.update_scalar("loss", float(number))
        next(iter(hub._attachments)).subscription.close()
        go_on.set()
        assert cut.ready.wait(10)
        assert cut.subscribers["Held"] == {"state": {"newest": 701, "handled": 0}, "seq": 701}


async def test_an_observer_on_the_same_loop_is_taken_at_the_cut() -> None:
    hub = MessageHub("hub")
    observer = Noting()
    with fail_after(30):
        async with hub:
            hub.attach(observer)
            for number in range(1000):
                hub.update_scalar("loss", float(number))
            cut = hub._cut()
            for number in range(1000):
                hub.update_scalar("loss", float(number))
            await hub.flushed()
            assert observer.newest == 2000
            assert cut.subscribers["Noting"]["seq"] == cut.subscribers["Noting"]["state"]["newest"] == cut.seq == 1000


def test_a_state_is_a_copy_that_a_running_observer_does_not_change() -> None:
    hub = MessageHub("hub")
    seen: list[float] = []

    class Sharing(Noting):
        async def __call__(self, events: Subscription) -> None:
            async for event in events:
                seen.append(event.value)  # type: ignore[attr-defined]  # it is a scalar

        def state_dict(self) -> dict[str, Any]:
            return {"seen": seen}

    hub.attach(Sharing())
    with hub:
        hub.update_scalar("loss", 1.0)
        state = hub.state_dict()
        hub.update_scalar("loss", 2.0)
        hub.flush(10)
    assert state["asynchub"]["subscribers"]["Sharing"]["state"] == {"seen": [1.0]}
    assert seen == [1.0, 2.0]


def test_a_state_is_that_of_the_cut_while_a_thread_appends_and_changes_infos() -> None:
    hub = MessageHub("hub")
    hub.update_scalars({"a": -1.0, "b": -1.0})
    hub.update_info("list", [-1])

    def publish(number: int) -> None:
        hub.update_scalars({"a": float(number), "b": float(number)})
        if number % 7 == 0:
            hub.update_info_dict({"list": [number] * 50, "other": {"n": number}})

    with flooded(publish, most=450_000):
        for _ in range(1000):
            state = hub.state_dict()
            a, b = (state["log_scalars"][key].records() for key in "ab")
            infos = state["runtime_info"]
            assert len(a.values) == len(b.values)
            assert a.values[-1] == b.values[-1]
            assert len(set(infos["list"])) == 1
            assert infos.get("other", {"n": -1})["n"] == infos["list"][0]
            assert infos["list"][0] in (b.values[-1] // 7 * 7, b.values[-1] // 7 * 7 - 7)
            assert max(b.seqs[-1], *(stamp[0] for stamp in hub._info_stamps.values())) >= b.seqs[-1]


@pytest.mark.parametrize("number", range(3))
def test_a_log_that_is_cut_back_to_a_state_gets_every_event_once(tmp_path: Path, number: int) -> None:
    hub = MessageHub("hub", latency=0.0005)
    hub.attach(JsonlLogger(tmp_path / "log"), max_lag=1 << 20)
    with hub, flooded(lambda number: hub.update_scalar("loss", float(number)), most=60_000):
        for _ in range(1 + number):
            pending = hub.async_save(tmp_path / "state")
            pending.wait(30)
    resumed = MessageHub("resumed")
    resumed.load(tmp_path / "state")
    resumed.attach(JsonlLogger(tmp_path / "log"), name="JsonlLogger")
    saved = resumed.get_scalar("loss").data[0].tolist()
    with resumed:
        for value in range(5):
            resumed.update_scalar("loss", float(value))
    logged = [event for event in read_jsonl(tmp_path / "log") if isinstance(event, ScalarUpdated)]
    assert [event.value for event in logged] == [*saved, *map(float, range(5))]
    assert [event.seq for event in logged] == sorted({event.seq for event in logged})


def test_a_load_amid_a_save_does_not_save_what_was_loaded(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    begun, go_on = threading.Event(), threading.Event()

    class Held(Noting):
        async def __call__(self, events: Subscription) -> None:
            async for _ in events:
                begun.set()
                while not go_on.is_set():
                    await anyio.sleep(0.0005)

    hub.attach(Held())
    before = hub.state_dict()
    with hub:
        hub.update_scalar("loss", 0.0)
        assert begun.wait(10)
        pending = hub.async_save(tmp_path / "state")
        hub.load_state_dict(before)
        go_on.set()
        with pytest.raises(Exception, match="got a loaded state before its own was taken"):
            pending.wait(10)
    assert not (tmp_path / "state").exists()
