"""A logger and its tracker, which takes everything, or fails, or hangs, or dies."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import EventsDropped, InfoUpdated, TrackerDegraded, TrackerRestored
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.subscribers.aggregation import Point
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.testing import observed
from tests.subscribers.observing import observe, scalars, stamped


class Tracker:
    """Where a run goes to; outlives the loggers that write to it.

    Attributes:
        got: what it has, in the order of arrival.
        said: what was asked of it.
        broken: called before each write; raises if that is to fail, or waits if it is to hang.
    """

    def __init__(self) -> None:
        self.got: list[Item] = []
        self.said: list[str] = []
        self.broken: Callable[[], object] = lambda: None

    @property
    def values(self) -> list[float]:
        return [item.value for item in self.got if isinstance(item, Point)]


class Logger(TrackerLogger):
    retry = (0.01, 0.05)

    def __init__(self, tracker: Tracker, **options: Any) -> None:
        super().__init__(**options)
        self.tracker = tracker
        self.run = "?"

    def open(self) -> None:
        self.tracker.said.append("resumed" if self.resumed else "open")

    def write(self, items: Sequence[Item]) -> None:
        self.tracker.broken()
        self.tracker.got += items
        self.tracker.said.append(f"write {len(items)}")

    def sync(self) -> None:
        self.tracker.said.append("sync")

    def close(self) -> None:
        self.tracker.said.append("close")

    def tracker_state(self) -> dict[str, Any]:
        return {"run": self.run}

    def load_tracker_state(self, state: Any) -> None:
        if not isinstance(state.get("run"), str):
            raise StateDictError(f"wanted a run, got {state!r}")
        self.run = state["run"]


def gone() -> None:
    raise ConnectionError("gone")


def publish(hub: MessageHub, first: int, last: int) -> None:
    for hub.step in range(first, last + 1):
        hub.update_scalar("loss", hub.step)


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


# --- a tracker that works


async def test_a_flush_means_that_the_tracker_has_everything(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker, interval=100.0), on_error="raise")
    async with hub:
        for upto in (3, 4, 5000):
            publish(hub, len(tracker.got) + 1, upto)
            await hub.flushed(10)
            assert tracker.values == list(range(1, upto + 1))
            assert tracker.said[-1] == "sync"
    assert tracker.said[0] == "open"
    assert tracker.said[-1] == "close"


def test_what_is_published_before_the_end_is_delivered_before_the_hub_is_left(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker, interval=100.0), on_error="raise")
    with hub:
        publish(hub, 1, 3000)
    assert tracker.values == list(range(1, 3001))
    assert tracker.said[-1] == "close"


def test_events_that_are_no_scalars_come_as_they_are_in_their_place(tracker: Tracker) -> None:
    events = stamped([*scalars((1, "a", 1.0)), InfoUpdated(key="cfg", value=3), *scalars((2, "a", 2.0))])
    logger = Logger(tracker)
    logger.keys = ("**",)
    observe(logger, events)
    assert [type(item) for item in tracker.got] == [Point, InfoUpdated, Point]
    assert [item.seq for item in tracker.got] == [1, 2, 3]


def test_a_write_holds_at_most_a_batch(tracker: Tracker) -> None:
    observe(Logger(tracker, batch=100), stamped(scalars(*[(step, "a", step) for step in range(250)])))
    assert [one for one in tracker.said if one.startswith("write")] == ["write 100", "write 100", "write 50"]


def test_while_nobody_waits_writes_are_an_interval_apart(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker, interval=3600.0), on_error="raise")
    with hub:
        publish(hub, 1, 999)
    writes = [one for one in tracker.said if one.startswith("write")]
    assert writes == ["write 999"]


async def test_what_comes_while_it_waits_for_the_interval_is_in_the_write(tracker: Tracker) -> None:
    hub, logger = MessageHub("delivery"), Logger(tracker, interval=0.3)
    hub.attach(logger, on_error="raise")
    with anyio.fail_after(20):
        async with hub:
            publish(hub, 1, 10)
            while logger.state_dict()["taken"] < 10:
                await anyio.sleep(0.001)
            publish(hub, 11, 20)
            while not tracker.got:
                await anyio.sleep(0.001)
            assert tracker.values == list(range(1, 21))


def test_gathered_updates_come_as_one_point_and_the_rest_at_the_end(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker, every="10ba", aggregate="mean"), on_error="raise")
    with hub:
        publish(hub, 1, 25)
    assert [(point.step, point.value, point.samples) for point in tracker.got if isinstance(point, Point)] == [
        (10, 5.5, 10),
        (20, 15.5, 10),
        (25, 23.0, 5),
    ]


def test_epochs_are_counted_though_only_scalars_are_wanted(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker, every="1ep", aggregate="max"), on_error="raise")
    with hub:
        for epoch in range(3):
            publish(hub, 10 * epoch + 1, 10 * epoch + 10)
            hub.update_info("epoch", epoch + 1)
    assert tracker.values == [11.0, 21.0, 30.0]


def test_it_runs_again_when_the_hub_is_entered_again(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker), on_error="raise")
    for first in (1, 11, 21):
        with hub:
            publish(hub, first, first + 9)
    assert tracker.values == list(range(1, 31))
    assert [one for one in tracker.said if one in ("open", "close")] == ["open", "close"] * 3


def test_lost_events_are_said(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    observe(Logger(tracker), stamped([EventsDropped(missed=7), *scalars((1, "a", 1.0))]))
    assert "lost 7 events" in caplog.text
    assert tracker.values == [1.0]


# --- a tracker that fails


async def restored(events: Any) -> TrackerRestored:
    with anyio.fail_after(10):
        return next(event for event in [await anext(events)] if isinstance(event, TrackerRestored))


@pytest.mark.parametrize("backlog", [100_000, 300])
@pytest.mark.parametrize("journal", [True, False])
async def test_what_a_dead_tracker_misses_it_gets_when_it_is_back(
    tracker: Tracker, tmp_path: Path, backlog: int, journal: bool
) -> None:
    hub = MessageHub("delivery")
    if journal:
        hub.attach(Journal(tmp_path / "journal"))
    attached = hub.attach(Logger(tracker, backlog=backlog), name="tracker")
    with hub.subscribe(TrackerDegraded, TrackerRestored) as news:
        async with hub:
            publish(hub, 1, 100)
            await hub.flushed(10)
            tracker.broken = gone
            for first in range(101, 1001, 100):
                publish(hub, first, first + 99)
                await hub.flushed(10)  # which does not wait for it
            assert tracker.values == list(range(1, 101))
            degraded = await anext(news)
            assert isinstance(degraded, TrackerDegraded)
            assert (degraded.tracker, degraded.error) == ("tracker", "ConnectionError: gone")
            tracker.broken = lambda: None
            back = await restored(news)
            assert (back.tracker, back.delivered, back.missed) == ("tracker", 900, 0)
            publish(hub, 1001, 1100)
            await hub.flushed(10)
            assert tracker.values == list(range(1, 1101))
    assert attached.error is None
    assert attached.statistics().errors == 0


async def test_what_is_not_to_be_had_again_is_counted(tracker: Tracker) -> None:
    hub = MessageHub("delivery")
    hub.attach(Logger(tracker, backlog=10), every=1, name="tracker")  # a rate: nothing can be read again
    with hub.subscribe(TrackerRestored) as news:
        async with hub:
            tracker.broken = gone
            publish(hub, 1, 500)
            await hub.flushed(10)
            tracker.broken = lambda: None
            back = await restored(news)
            assert back.delivered + back.missed == 500
            assert back.missed > 400


async def test_a_tracker_that_hangs_holds_up_nobody(tracker: Tracker) -> None:
    hub, go = MessageHub("delivery"), threading.Event()
    hub.attach(Logger(tracker, grace=0.05), name="tracker")
    with hub.subscribe(TrackerDegraded, TrackerRestored) as news:
        async with hub:
            tracker.broken = go.wait
            publish(hub, 1, 100)
            await hub.flushed(10)
            publish(hub, 101, 200)
            await hub.flushed(10)
            assert tracker.values == []
            degraded = await anext(news)
            assert isinstance(degraded, TrackerDegraded)
            assert "no answer in 0.05 s" in degraded.error
            go.set()
            await restored(news)
            await hub.flushed(10)
            assert tracker.values == list(range(1, 201))


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_tracker_that_is_dead_to_the_end_does_not_keep_the_hub(
    tracker: Tracker, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    hub, go = MessageHub("delivery"), threading.Event()
    tracker.broken = gone if how == "fails" else go.wait
    hub.attach(Logger(tracker, grace=0.01, close_timeout=0.05), on_error="raise")
    with hub:
        publish(hub, 1, 100)
    assert "its tracker lacks 100 values of this run" in caplog.text
    go.set()


async def test_a_tracker_that_cannot_be_opened_is_opened_later(tracker: Tracker) -> None:
    class Late(Logger):
        attempts = 0

        def open(self) -> None:
            self.attempts += 1
            if self.attempts < 5:
                raise OSError("not yet")
            super().open()

    hub = MessageHub("delivery")
    hub.attach(Late(tracker), on_error="raise")
    with hub.subscribe(TrackerRestored) as news:
        async with hub:
            publish(hub, 1, 100)
            await restored(news)
            await hub.flushed(10)
            assert tracker.values == list(range(1, 101))
            assert tracker.said.count("open") == 1


async def test_one_that_was_asked_wrongly_is_not_tried_again(tracker: Tracker) -> None:
    class Wrong(Logger):
        def open(self) -> None:
            raise ArgumentError("that is no database")

    hub = MessageHub("delivery")
    attached = hub.attach(Wrong(tracker))
    async with hub:
        publish(hub, 1, 10)
        await hub.flushed(10)
    assert isinstance(attached.error, ArgumentError)


async def test_what_could_not_come_to_rest_is_written_again(tracker: Tracker, tmp_path: Path) -> None:
    class Forgetful(Logger):
        syncs = 0

        def sync(self) -> None:
            self.syncs += 1
            if self.syncs % 3:
                tracker.got = tracker.got[: self.safe]
                raise OSError("the server has lost it")
            self.safe = len(tracker.got)

        safe = 0

    hub = MessageHub("delivery")
    hub.attach(Journal(tmp_path / "journal"))
    hub.attach(Forgetful(tracker, batch=20, backlog=60, interval=0.0), name="tracker")
    async with hub:
        for first in range(1, 2001, 100):
            publish(hub, first, first + 99)
            await hub.flushed(10)
    assert tracker.values == list(range(1, 2001))


async def test_a_life_that_was_cancelled_amid_a_call_is_closed_before_the_next_is_opened(tracker: Tracker) -> None:
    logger, go = Logger(tracker, grace=0.01), threading.Event()
    tracker.broken = go.wait
    with anyio.CancelScope() as scope:
        await observed(logger, stamped(scalars((1, "a", 1.0))), then=scope.cancel)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(observed, logger, stamped(scalars((1, "a", 1.0), (2, "a", 2.0)))[1:])
            await anyio.sleep(0.02)
            assert tracker.said == ["open", "sync"]
            go.set()
    assert [one for one in tracker.said if one in ("open", "close")] == ["open", "close", "open", "close"]
    assert tracker.values[0] == 1.0
    assert 2.0 in tracker.values


@pytest.mark.parametrize("aggregate", [{}, {"every": 7, "aggregate": "mean"}])
@pytest.mark.parametrize("backlog", [100_000, 60])
async def test_whatever_fails_nothing_is_missing_and_nothing_is_out_of_order(
    tmp_path: Path, tracker: Tracker, aggregate: dict[str, Any], backlog: int, seed: int
) -> None:
    chance = random.Random(seed)
    whole, hub = Tracker(), MessageHub("delivery")

    def sometimes() -> None:
        if chance.random() < 0.5:
            raise ConnectionError("sometimes")

    hub.attach(Journal(tmp_path / "journal"))
    hub.attach(Logger(whole, **aggregate), name="whole")
    hub.attach(Logger(tracker, batch=20, backlog=backlog, interval=0.0, **aggregate), name="tracker")
    tracker.broken = sometimes
    async with hub:
        for first in range(1, 3001, 100):
            publish(hub, first, first + 99)
            await hub.flushed(10)
        tracker.broken = lambda: None
    assert len(whole.got) == (3000 if not aggregate else 429)
    assert tracker.got == whole.got


# --- state


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("backlog", [100_000, 50])
@pytest.mark.parametrize("aggregate", [{}, {"every": "15ba", "aggregate": "max"}])
def test_a_resumed_run_goes_on_where_the_tracker_was(
    tmp_path: Path, tracker: Tracker, dead: bool, backlog: int, aggregate: dict[str, Any]
) -> None:
    def logger() -> Logger:
        return Logger(tracker, backlog=backlog, close_timeout=0.1, **aggregate)

    hub = MessageHub("delivery")
    hub.attach(Journal(tmp_path / "journal"))
    first = hub.attach(logger(), name="tracker").subscriber
    assert isinstance(first, Logger)
    first.run = "run 7"
    with hub:
        publish(hub, 1, 95)
        hub.flush(10)
        if dead:
            tracker.broken = gone
        publish(hub, 96, 298)
        hub.save(tmp_path)
    tracker.broken = lambda: None
    tracker.got = [item for item in tracker.got if not aggregate or item.step != 298]  # of a stretch that goes on

    resumed = recover(tmp_path)
    second = resumed.attach(logger(), name="tracker").subscriber
    resumed.attach(Journal(tmp_path / "journal"))
    with resumed:
        publish(resumed, 299, 400)
    assert isinstance(second, Logger)
    assert second.run == "run 7"
    assert "resumed" in tracker.said
    assert tracker.values == (list(range(1, 401)) if not aggregate else [*range(15, 391, 15), 400])


def test_a_foreign_state_is_refused_and_changes_nothing(tracker: Tracker) -> None:
    logger = Logger(tracker)
    observe(logger, stamped(scalars((1, "a", 1.0))))
    before = logger.state_dict()
    good = msgpack.unpackb(msgpack.packb(before))
    for wrong in (None, {}, {**good, "tracker": {"run": 3}}, {**good, "taken": -1}, {**good, "windows": 3}):
        with pytest.raises(StateDictError):
            logger.load_state_dict(wrong)  # type: ignore[arg-type]
        assert logger.state_dict() == before
    logger.load_state_dict(good)
    assert logger.state_dict() == before


def test_arguments_out_of_range_are_refused(tracker: Tracker) -> None:
    for wrong in ({"interval": -1}, {"grace": "5"}, {"batch": 0}, {"backlog": 1.5}, {"close_timeout": float("nan")}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be"):
            Logger(tracker, **wrong)


def test_a_subclass_without_write_cannot_be_made() -> None:
    class Silent(TrackerLogger): ...

    with pytest.raises(TypeError, match="write"):
        Silent()  # type: ignore[abstract]
