"""A run followed from elsewhere: as a hub of this process, with what it says and what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asynchub.bridges.bridge import Bridge
from asynchub.bridges.failures import BridgeError
from asynchub.bridges.opening import open_transport
from asynchub.bridges.remote import RemoteHub, attach
from asynchub.bridges.subjects import Subjects
from asynchub.bridging import BridgeDegraded, BridgeRestored, FrameRefused, RankLeft
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.events import EventsDropped, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import (
    ParameterChangeRequested,
    Request,
    RequestApplied,
    RequestRefused,
    StopRequested,
)
from asynchub.subscribers.console import ConsoleLogger
from asynchub.subscribers.csv import CsvLogger
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.jsonl import JsonlLogger
from tests.bridges.places import WAIT, Place, a_place, bridged, history
from tests.waiting import until_awaited

EVERYWHERE = pytest.mark.parametrize(
    ("anyio_backend", "any_place"),
    [
        ("asyncio", "memory"),
        pytest.param(("asyncio", {"use_uvloop": True}), "memory", id="uvloop-memory"),
        ("trio", "memory"),
        ("asyncio", "nats"),
    ],
    indirect=["any_place"],
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The loops that a test runs on which is not for every one; uvloop is one of asyncio's."""
    return request.param


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with a_place(request.param, tmp_path) as place:
        yield place


def joined(place: Place, **terms: Any) -> RemoteHub:
    return attach(place.url, run=place.run, **{"timeout": WAIT, **terms})


class Loop:
    """A training loop in a thread, at full speed, that settles and ends when it is asked to.

    Attributes:
        hub: its hub.
        bridge: of that.
        steps: how many steps it has made.
    """

    def __init__(self, place: Place, pause: float = 0.0, **terms: Any) -> None:
        self.bridge: Bridge = bridged(place, **terms)
        self.hub = self.bridge._hub
        self.steps = 0
        self._pause = pause
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended and not self.hub.stop_requested:
            self.hub.step = self.steps
            self.hub.update_scalars({"train/loss": 1 / (1 + self.steps), "train/step": float(self.steps)})
            self.hub.settle()
            self.steps += 1
            time.sleep(self._pause)

    def __enter__(self) -> Loop:
        self.hub.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        self._thread.join()
        self.hub.__exit__(None, None, None)


@contextlib.contextmanager
def settling(hub: MessageHub) -> Iterator[None]:
    """Have a hub settle in a thread, again and again."""
    ended = threading.Event()

    def settle() -> None:
        while not ended.wait(0.002):
            hub.settle()

    thread = threading.Thread(target=settle)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@asynccontextmanager
async def run_of(place: Place, **terms: Any) -> AsyncIterator[tuple[MessageHub, Bridge]]:
    """Give an entered hub with a bridge, on this loop."""
    bridge = bridged(place, **terms)
    async with bridge._hub as hub:
        yield hub, bridge


# --- joining


@EVERYWHERE
async def test_who_joins_has_the_newest_of_each_key_and_then_what_comes(any_place: Place) -> None:
    async with run_of(any_place) as (hub, bridge):
        for step in range(20):
            hub.step = step
            hub.update_scalar("train/loss", step / 2)
            hub.update_scalar(f"once/{step}", step, count=3)
        hub.update_info("cfg", {"lr": 0.1})
        await bridge.delivered(WAIT)
        async with joined(any_place) as remote:
            assert history(remote, "train/loss")[-1] == history(hub, "train/loss")[-1]
            assert set(remote.log_scalars) == set(hub.log_scalars)
            assert all(history(remote, f"once/{step}") == history(hub, f"once/{step}") for step in range(20))
            assert (remote.runtime_info, remote.step) == ({"cfg": {"lr": 0.1}}, 19)
            with remote.subscribe("train/*") as events, anyio.fail_after(WAIT):
                hub.update_scalar("train/loss", 7.0, step=20)
                event = await anext(events)
            assert (type(event), getattr(event, "value", None), event.step) == (ScalarUpdated, 7.0, 20)
            assert event.time == history(hub, "train/loss")[-1][0]


async def test_who_joins_late_knows_that_the_run_was_stopped(place: Place) -> None:
    async with run_of(place) as (hub, bridge):
        hub.request_stop("enough")
        await hub.settled()
        for value in range(100):  # so many frames that there is a snapshot beyond it
            hub.update_scalar("train/loss", value)
            await bridge.delivered(WAIT)
        async with joined(place) as remote:
            assert (remote.stop_requested, remote.stop_reason) == (True, "enough")
            assert len(history(remote, "train/loss")) < 100


async def test_who_wants_all_of_the_past_has_all_of_it(place: Place) -> None:
    async with run_of(place) as (hub, bridge):
        for value in range(3000):
            hub.update_scalar("loss", value)
        await bridge.delivered(WAIT)
        async with joined(place, past="all") as remote:
            assert history(remote, "loss") == history(hub, "loss")
            assert remote.statistics().seq == 3000


async def test_who_wants_nothing_of_the_past_has_what_comes_only(place: Place) -> None:
    async with run_of(place) as (hub, bridge):
        hub.update_scalar("loss", 1.0)
        await bridge.delivered(WAIT)
        async with joined(place, past="none") as remote:
            await remote.caught_up(WAIT)
            assert list(remote.log_scalars) == []
            hub.update_scalar("loss", 2.0)
            await bridge.delivered(WAIT)
            await remote.caught_up(WAIT)
            assert [value for _, _, value, _ in history(remote, "loss")] == [2.0]
            assert remote.ranks()[0].missed == 0


@pytest.mark.parametrize(
    ("anyio_backend", "any_place", "past"),
    [
        ("asyncio", "memory", "newest"),
        ("trio", "memory", "all"),
        pytest.param(("asyncio", {"use_uvloop": True}), "memory", "newest", id="uvloop-memory-newest"),
        ("asyncio", "nats", "newest"),
        ("asyncio", "nats", "all"),
    ],
    indirect=["any_place"],
)
async def test_who_joins_amid_full_speed_misses_and_repeats_nothing(any_place: Place, past: Any) -> None:
    with Loop(any_place, interval=0.005) as loop:
        await until_awaited(lambda: loop.steps > 500)
        await anyio.to_thread.run_sync(loop.bridge.deliver, WAIT)
        async with joined(any_place, past=past) as remote:
            first = [event[2] for event in history(remote, "train/step")]
            await until_awaited(lambda: loop.steps > first[-1] + 1500)
            await anyio.to_thread.run_sync(loop.bridge.deliver, WAIT)
            await remote.caught_up(WAIT)
            steps = [int(event[2]) for event in history(remote, "train/step")]
            assert steps == list(range(int(first[0]), int(first[0]) + len(steps)))
            assert len(steps) > 1500
            assert past == "newest" or steps[0] == 0
            losses = history(remote, "train/loss")
            assert losses == history(loop.hub, "train/loss")[int(first[0]) :][: len(losses)]
            assert remote.ranks()[0].missed == 0


async def test_a_run_that_has_no_bridge_yet_is_followed_from_when_it_has(place: Place) -> None:
    async with joined(place, past="all") as remote:
        assert remote.ranks() == {}
        async with run_of(place) as (hub, bridge):
            hub.update_scalar("loss", 1.0)
            await bridge.delivered(WAIT)
            await until_awaited(lambda: "loss" in remote.log_scalars)
        await until_awaited(lambda: remote.ranks()[0].ended)


async def test_of_another_run_nothing_comes(place: Place) -> None:
    async with run_of(place) as (hub, bridge):
        hub.update_scalar("loss", 1.0)
        await bridge.delivered(WAIT)
        async with attach(place.url, run="another", past="all", timeout=WAIT) as remote:
            await remote.caught_up(WAIT)
            assert list(remote.log_scalars) == []


async def test_a_broker_that_is_absent_is_said_in_time(place: Place) -> None:
    place.cut()
    begun = time.monotonic()
    remote = joined(place, timeout=0.2)
    with pytest.raises(BridgeError):
        async with remote:
            pytest.fail("it is not there")
    assert time.monotonic() - begun < 3.0
    assert not remote.entered
    place.restore()
    async with remote:  # the same, once it is there
        assert remote.entered


def test_a_plain_program_follows_a_run_too(place: Place) -> None:
    bridge = bridged(place)
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
        with joined(place, past="all") as remote:
            assert [value for _, _, value, _ in history(remote, "loss")] == [1.0]
            hub.update_scalar("loss", 2.0)
            bridge.deliver(WAIT)
            remote.catch_up(WAIT)
            assert history(remote, "loss") == history(hub, "loss")
    with pytest.raises(LifecycleError):
        remote.catch_up(1.0)
    place.cut()
    with pytest.raises(BridgeError), joined(place, timeout=0.1):
        pytest.fail("it is not there")


def test_a_hub_that_is_entered_twice_is_followed_until_it_was_left_twice(place: Place) -> None:
    bridge = bridged(place)
    with bridge._hub as hub, joined(place) as remote:
        with remote:
            hub.update_scalar("loss", 1.0)
        hub.update_scalar("loss", 2.0)
        bridge.deliver(WAIT)
        remote.catch_up(WAIT)
        assert len(history(remote, "loss")) == 2
        remote.close()
        with pytest.raises(LifecycleError):
            remote.catch_up(1.0)


# --- reading


async def test_watch_wait_for_and_get_scalar_are_as_in_the_run(place: Place) -> None:
    async with run_of(place) as (hub, bridge):
        hub.update_scalar("val/loss", 3.0)
        await bridge.delivered(WAIT)
        async with joined(place) as remote:
            with remote.watch("val/loss") as watch:
                assert watch.value == 3.0
                hub.update_scalar("val/loss", 2.0)
                await watch.changed(WAIT)
                assert watch.value == 2.0
            hub.update_scalar("val/loss", 1.0)
            event = await remote.wait_for("val/loss", lambda event: event.value < 1.5, WAIT)
            assert getattr(event, "value", None) == 1.0
            assert remote.get_scalar("val/loss").current() == 1.0


async def test_a_rule_on_the_remote_side_stops_the_run(place: Place) -> None:
    loop = Loop(place, pause=0.001, allow=("stop",))
    for step in range(5):
        loop.hub.update_scalar("val/loss", 1.0, step=step)
    async with joined(place) as remote:
        remote.attach(EarlyStopping("val/loss", patience=3))
        with loop, anyio.fail_after(WAIT), remote.subscribe("hub/request_applied") as applied:
            while not loop.hub.stop_requested:
                loop.hub.update_scalar("val/loss", 1.0)
                await remote.settled()
                await anyio.sleep(0.005)
            await anext(applied)  # which may have come already
            assert remote.stop_requested
            assert remote.stop_reason == loop.hub.stop_reason != ""


async def test_a_slow_subscriber_holds_up_nobody_and_is_told_what_it_missed(place: Place) -> None:
    quick: list[Any] = []
    slow: list[Any] = []
    release = anyio.Event()

    async def follow(events: Any) -> None:
        async for event in events:
            quick.append(event.value)

    async def dawdle(events: Any) -> None:
        async for event in events:
            slow.append(event)
            await release.wait()

    async with run_of(place) as (hub, bridge), joined(place) as remote:
        remote.attach(follow, "loss")
        remote.attach(dawdle, "loss", max_lag=10)
        for value in range(2000):
            hub.update_scalar("loss", value)
        await bridge.delivered(WAIT)
        await until_awaited(lambda: len(quick) == 2000)
        release.set()
        await until_awaited(lambda: slow and getattr(slow[-1], "value", None) == 1999)
    assert quick == list(range(2000))
    dropped = sum(event.missed for event in slow if isinstance(event, EventsDropped))
    assert len([event for event in slow if isinstance(event, ScalarUpdated)]) + dropped == 2000
    assert dropped > 0


async def test_two_remotes_follow_the_same_run_each_on_its_own(place: Place) -> None:
    async with run_of(place) as (hub, bridge), joined(place) as one, joined(place, past="all") as two:
        for value in range(100):
            hub.update_scalar("loss", value)
        await bridge.delivered(WAIT)
        for remote in (one, two):
            await remote.caught_up(WAIT)
            assert history(remote, "loss") == history(hub, "loss")


async def test_what_a_remote_hub_records_itself_stays_there(place: Place) -> None:
    async with run_of(place) as (hub, bridge), joined(place) as remote:
        remote.update_scalar("own", 1.0)
        hub.update_scalar("loss", 1.0)
        await bridge.delivered(WAIT)
        await remote.caught_up(WAIT)
        assert set(remote.log_scalars) == {"own", "loss"}
        assert set(hub.log_scalars) == {"loss"}


async def test_ranks_have_their_own_keys_and_are_told_apart(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.bridges.signs.HEARTBEAT", 0.1)
    first = bridged(place, hub=MessageHub("first"), rank=0, world=2)
    second = bridged(place, hub=MessageHub("second"), rank=1, world=2)
    async with first._hub, second._hub:
        for rank, bridge in enumerate((first, second)):
            bridge._hub.step = 10 * (rank + 1)
            bridge._hub.update_scalar("loss", float(rank))
            bridge._hub.update_info("host", rank)
            await bridge.delivered(WAIT)
        async with (
            joined(place, ranks="all") as everything,
            joined(place, ranks=1) as one,
            joined(place, ranks=[1, 0]) as turned,
        ):
            assert set(everything.log_scalars) == {"loss", "ranks/1/loss"}
            assert everything.runtime_info == {"host": 0, "ranks/1/host": 1}
            assert everything.step == 10
            assert list(one.log_scalars) == ["loss"]
            assert (one.get_scalar("loss").current(), one.step) == (1.0, 20)
            assert turned.get_scalar("ranks/0/loss").current() == 0.0
            assert turned.get_scalar("loss").current() == 1.0
            ranks = everything.ranks()
            assert [(rank.rank, rank.world, rank.step, rank.missed) for rank in ranks.values()] == [
                (0, 2, 10, 0),
                (1, 2, 20, 0),
            ]
            await until_awaited(lambda: all(rank.heard is not None for rank in everything.ranks().values()))
            first._hub.update_scalar("loss", 5.0)
            await first.delivered(WAIT)
            await everything.caught_up(WAIT)
            assert everything.get_scalar("loss").current() == 5.0


async def test_a_resumed_run_is_followed_back_and_on(place: Place, tmp_path: Path) -> None:
    bridge = bridged(place, tmp_path / "spool")
    async with joined(place) as remote:
        async with bridge._hub as hub:
            hub.update_scalar("loss", 1.0)
            await hub.saved(tmp_path / "state")
            hub.update_scalar("loss", 2.0)
            await bridge.delivered(WAIT)
            await remote.caught_up(WAIT)
            assert len(history(remote, "loss")) == 2
        await until_awaited(lambda: remote.ranks()[0].ended)
        resumed = MessageHub("run")
        resumed.load(tmp_path / "state")
        again = bridged(place, tmp_path / "spool", hub=resumed)
        with remote.subscribe(Rewound) as rewound:
            async with resumed:
                resumed.update_scalar("loss", 3.0)
                await again.delivered(WAIT)
                await remote.caught_up(WAIT)
                assert history(remote, "loss") == history(resumed, "loss")
                assert not remote.ranks()[0].ended
            with anyio.fail_after(WAIT):
                assert isinstance(await anext(rewound), Rewound)


# --- asking


@EVERYWHERE
async def test_what_is_requested_is_applied_and_comes_back(any_place: Place) -> None:
    async with run_of(any_place, allow=("set/lr",)) as (hub, bridge):
        changed: list[Any] = []
        hub.on_request(ParameterChangeRequested, changed.append)
        await bridge.delivered(WAIT)
        async with joined(any_place, author="me") as remote:
            hub.step = 5
            with settling(hub):
                outcome = await remote.requested(ParameterChangeRequested(name="lr", value=0.25), WAIT)
            assert isinstance(outcome, RequestApplied)
            assert (outcome.request, outcome.author, outcome.step) == ("ParameterChangeRequested", "me", 5)
            assert [(one.name, one.value) for one in changed] == [("lr", 0.25)]
            refused = await remote.requested(StopRequested(), WAIT)
            assert isinstance(refused, RequestRefused)
            assert "does not allow stop" in refused.error


async def test_a_request_that_the_run_cannot_apply_comes_back_refused(place: Place) -> None:
    async with run_of(place, allow=("checkpoint", "set/lr")) as (hub, bridge):
        await bridge.delivered(WAIT)
        async with joined(place) as remote:
            with settling(hub):
                outcome = await remote.requested(ParameterChangeRequested(name="lr", value=1.0), WAIT)
            assert isinstance(outcome, RequestRefused)
            assert "nobody applies" in outcome.error


async def test_a_request_of_a_run_that_sends_some_keys_only_is_answered_all_the_same(place: Place) -> None:
    hub = MessageHub("run")
    bridge = Bridge(hub, place.url, "train/*", run=place.run, spool=None, allow=("stop",), interval=0.02)
    async with hub:
        await bridge.delivered(WAIT)
        async with joined(place) as remote:
            with settling(hub):
                assert isinstance(await remote.requested(StopRequested(), WAIT), RequestApplied)


async def test_who_follows_another_rank_is_told_what_was_not_let_in(place: Place) -> None:
    first = bridged(place, hub=MessageHub("first"), rank=0, world=2)
    async with first._hub:
        await first.delivered(WAIT)
        async with joined(place, ranks=1) as remote:
            outcome = await remote.requested(StopRequested(), WAIT)
            assert isinstance(outcome, RequestRefused)


async def test_a_request_that_nobody_takes_is_refused(place: Place) -> None:
    async with joined(place) as remote:
        outcome = await remote.requested(StopRequested(), WAIT)
        assert isinstance(outcome, RequestRefused)
        assert "is not there to answer" in outcome.error


async def test_a_request_without_a_broker_is_refused(place: Place) -> None:
    async with joined(place) as remote:
        place.cut()
        outcome = await remote.requested(StopRequested(), WAIT)
        assert isinstance(outcome, RequestRefused)
        assert "is not there" in outcome.error


async def test_a_request_whose_outcome_does_not_come_times_out(place: Place) -> None:
    async with run_of(place, allow=("stop",)) as (hub, bridge):
        await bridge.delivered(WAIT)
        async with joined(place) as remote:
            with pytest.raises(WaitTimeoutError):
                await remote.requested(StopRequested(), 0.1)  # the run does not settle
            assert not hub.stop_requested
            hub.settle()
            assert hub.stop_requested  # it was let in, and is applied when the run settles


async def test_a_request_with_the_same_id_is_applied_once(place: Place) -> None:
    async with run_of(place, allow=("set/lr",)) as (hub, bridge):
        changed: list[Any] = []
        hub.on_request(ParameterChangeRequested, changed.append)
        await bridge.delivered(WAIT)
        async with joined(place) as remote:
            with settling(hub):
                for _ in range(3):
                    remote.request(ParameterChangeRequested(name="lr", value=1.0, id="once"))
                await remote.requested(ParameterChangeRequested(name="lr", value=2.0), WAIT)
            assert [one.value for one in changed] == [1.0, 2.0]


def test_what_cannot_be_asked_is_refused_at_once(place: Place) -> None:
    remote = joined(place)
    with pytest.raises(LifecycleError, match="while it is entered"):
        remote.request(StopRequested())
    with remote:
        with pytest.raises(ArgumentError, match="from afar one can ask"):
            remote.request(Request())
        with pytest.raises(ArgumentError, match="takes a Request"):
            remote.request("stop")  # type: ignore[type-var]
        with pytest.raises(Exception, match="stored"):
            remote.request(ParameterChangeRequested(name="lr", value=object()))


# --- a broker that goes and comes


@EVERYWHERE
async def test_what_comes_while_the_broker_is_away_comes_later(
    any_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynchub.bridges.following.GRACE", 0.05)
    async with run_of(any_place) as (hub, bridge), joined(any_place) as remote:
        with remote.subscribe(BridgeDegraded, BridgeRestored) as said, anyio.fail_after(WAIT):
            hub.update_scalar("loss", 1.0)
            await bridge.delivered(WAIT)
            any_place.cut()
            degraded = await anext(said)
            hub.update_scalar("loss", 2.0)
            any_place.restore()
            restored = await anext(said)
            await bridge.delivered(WAIT)
            await remote.caught_up(WAIT)
        assert (type(degraded), type(restored)) == (BridgeDegraded, BridgeRestored)
        assert history(remote, "loss") == history(hub, "loss")


CALLS: list[tuple[str, Callable[[RemoteHub], Any]]] = [
    ("caught_up", lambda remote: remote.caught_up(None)),
    ("requested", lambda remote: remote.requested(StopRequested(), None)),
    ("wait_for", lambda remote: remote.wait_for("nothing")),
    ("changed", lambda remote: remote.watch("nothing").changed()),
]


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[name for name, _ in CALLS])
async def test_every_wait_ends_when_it_is_cancelled(place: Place, is_cut: bool, call: Any) -> None:
    async with run_of(place, allow=("stop",)) as (hub, bridge):
        await bridge.delivered(WAIT)
        async with joined(place) as remote:
            if is_cut:
                place.cut()
                hub.update_scalar("loss", 1.0)
            begun = time.monotonic()
            with anyio.move_on_after(0.05):
                await call(remote)
            assert time.monotonic() - begun < 1.0
            place.restore()


@pytest.mark.parametrize(
    ("anyio_backend", "any_place"),
    [("asyncio", "nats"), pytest.param("trio", "nats", marks=pytest.mark.slow)],
    indirect=["any_place"],
)
async def test_with_a_frozen_broker_every_wait_and_leaving_end_in_time(any_place: Place) -> None:
    bridge = bridged(any_place, drain_timeout=0.5)
    async with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        await bridge.delivered(WAIT)
        async with joined(any_place) as remote:
            any_place.freeze()
            try:
                for call in [bridge.delivered, *[call for _, call in CALLS]]:
                    hub.update_scalar("loss", 1.0)
                    begun = time.monotonic()
                    with anyio.move_on_after(0.2):
                        await (call(None) if call == bridge.delivered else call(remote))
                    assert time.monotonic() - begun < 1.5
                begun = time.monotonic()
                with anyio.move_on_after(0.2):
                    async with joined(any_place):
                        pytest.fail("it does not answer")
                assert time.monotonic() - begun < 3.5
                begun = time.monotonic()
            except BaseException:
                any_place.thaw()
                raise
        assert time.monotonic() - begun < 3.5
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0
    any_place.thaw()


async def test_entering_ends_when_it_is_cancelled_and_leaves_nothing_behind(place: Place) -> None:
    place.cut()
    remote = joined(place)
    with anyio.move_on_after(0.1) as scope:
        async with remote:
            pytest.fail("it is not there")
    assert scope.cancelled_caught
    assert not remote.entered


async def test_leaving_amid_a_wait_ends_it(place: Place) -> None:
    failures: list[Exception] = []

    async def wait(remote: RemoteHub) -> None:
        try:
            await remote.caught_up(None)
        except LifecycleError as error:
            failures.append(error)

    async with run_of(place) as (hub, bridge):
        hub.update_scalar("loss", 1.0)
        await bridge.delivered(WAIT)
        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as tasks, joined(place) as remote:
                place.cut()
                tasks.start_soon(wait, remote)
                await anyio.wait_all_tasks_blocked()
        place.restore()
    assert len(failures) == 1


async def test_leaving_while_events_are_read_ends_the_reading(place: Place) -> None:
    got: list[float] = []

    async def read(remote: RemoteHub, ready: anyio.Event) -> None:
        with remote.subscribe("loss") as events:
            ready.set()
            async for event in events:
                got.append(event.value)  # type: ignore[attr-defined]

    async with run_of(place) as (hub, bridge):
        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as tasks, joined(place) as remote:
                ready = anyio.Event()
                tasks.start_soon(read, remote, ready)
                await ready.wait()
                hub.update_scalar("loss", 1.0)
                await bridge.delivered(WAIT)
                await remote.caught_up(WAIT)
    assert got == [1.0]


# --- what writes


@pytest.mark.parametrize("kind", [JsonlLogger, CsvLogger, ConsoleLogger])
async def test_a_logger_writes_of_a_remote_run_what_it_writes_of_a_local_one(
    place: Place, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(name: str) -> Any:
        return kind(file=(tmp_path / name).open("w")) if kind is ConsoleLogger else kind(tmp_path / name)

    bridge = bridged(place)
    hub = bridge._hub
    there, here = made("there"), made("here")
    hub.attach(there, "train/*")
    async with joined(place, past="all") as remote:
        remote.attach(here, "train/*")
        async with hub:
            for step in range(50):
                hub.step = step
                hub.update_scalar("train/loss", step / 3)
                hub.update_scalar("train/acc", step, count=2)
            await bridge.delivered(WAIT)
        await until_awaited(lambda: remote.ranks()[0].ended)
        await remote.flushed(WAIT)
    for one in (there, here):
        if kind is ConsoleLogger:
            one._file.close()
    written = [(tmp_path / name).read_text() for name in ("there", "here")]
    assert written[0] == written[1]
    assert len(written[0].splitlines()) >= 50 or kind is ConsoleLogger


async def test_a_remote_hub_with_a_journal_of_its_own_can_be_recovered(place: Place, tmp_path: Path) -> None:
    async with run_of(place) as (hub, bridge), joined(place, past="all") as remote:
        remote.attach(Journal(tmp_path / "journal"))
        for step in range(100):
            hub.update_scalar("loss", step / 7, step=step)
        hub.update_info("cfg", [1, 2])
        await bridge.delivered(WAIT)
        await remote.caught_up(WAIT)
        await remote.committed(WAIT)
        recorded = history(hub, "loss")
    recovered = recover(tmp_path)
    assert history(recovered, "loss") == recorded
    assert recovered.runtime_info == {"cfg": [1, 2]}


async def test_a_rank_that_leaves_is_said(place: Place) -> None:
    async with joined(place) as remote:
        with remote.subscribe(RankLeft) as left:
            async with run_of(place) as (hub, _):
                hub.update_scalar("loss", 1.0)
            with anyio.fail_after(WAIT):
                event = await anext(left)
    assert getattr(event, "rank", None) == 0


# --- arguments


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"past": "some"}, "past must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"ranks": []}, "ranks must be"),
        ({"ranks": -1}, "ranks must be"),
        ({"ranks": "some"}, "ranks must be"),
        ({"ranks": [0, "1"]}, "ranks must be"),
        ({"ranks": None}, "ranks must be"),
        ({"run": ""}, "name of a run"),
        ({"url": "http://x"}, "begins with"),
    ],
    ids=lambda one: "" if isinstance(one, str) else next(iter(one)),
)
def test_arguments_that_cannot_be_are_refused_at_once(terms: dict[str, Any], said: str) -> None:
    terms = {"url": "memory://x", "run": "r", **terms}
    with pytest.raises(ArgumentError, match=said):
        attach(terms.pop("url"), **terms)


def test_a_foreign_snapshot_is_left_out_and_the_run_is_read_all_the_same(place: Place) -> None:
    async def spoil() -> None:
        transport = open_transport(place.url, place.run)
        await transport.connect(WAIT)
        await transport.append(Subjects(place.run).snapshot(0, 0), b"foreign", "foreign", alone=True, timeout=WAIT)
        await transport.close(1.0)

    bridge = bridged(place)
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
        asyncio.run(spoil())
        remote = joined(place)
        with remote.subscribe(FrameRefused) as refused, remote:
            assert history(remote, "loss") == history(hub, "loss")
            (event,) = refused._take()
            assert "a frame begins with" in event.error  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("any_place", ["memory", "nats"], indirect=True)
async def test_who_comes_late_to_a_run_of_a_thousand_keys_is_there_soon(any_place: Place) -> None:
    async with run_of(any_place, interval=0.0) as (hub, bridge):
        for step in range(300):
            hub.step = step
            hub.update_scalars({f"train/{key}": step + key / 1000 for key in range(1000)})
            if not step % 10:
                await bridge.delivered(WAIT)
        await bridge.delivered(WAIT)
        begun = time.monotonic()
        async with joined(any_place) as remote:
            took = time.monotonic() - begun
            for key in range(1000):
                assert remote.get_scalar(f"train/{key}").current() == 299 + key / 1000
    assert took < 2.0  # 0.1 s on a quiet machine
