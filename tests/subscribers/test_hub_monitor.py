"""``HubMonitor``: its sums against statistics made by hand, and on hubs whose subscribers are slow, lossy or many."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asynchub.channels import SubscriptionStatistics
from asynchub.errors import ArgumentError
from asynchub.feed import HubStatistics
from asynchub.hub import MessageHub
from asynchub.pending import DeviceStatistics
from asynchub.subscribers.hub_monitor import HubMonitor, Overhead
from asynchub.subscription import Subscription


def of(name: str, busy: float = 0.0, lag: int = 0, dropped: int = 0, role: str = "control") -> SubscriptionStatistics:
    return SubscriptionStatistics(
        name=name,
        lag=lag,
        delivered=0,
        dropped=dropped,
        errors=0,
        busy_seconds=busy,
        max_lag=10,
        overflow="drop_oldest",
        closed=False,
        role=role,
    )


def statistics(*subscriptions: SubscriptionStatistics, seq: int = 0, **more: Any) -> HubStatistics:
    return HubStatistics(seq=seq, step=0, scalars=0, infos=0, subscriptions=subscriptions, **more)


class Burn:
    """Takes ``seconds`` of processor time for each event."""

    keys = ("train/*",)

    def __init__(self, seconds: float, role: str = "control") -> None:
        self.role = role
        self._seconds = seconds

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            until = time.perf_counter() + self._seconds
            while time.perf_counter() < until:
                pass


def ticking(seconds: float) -> Callable[[], float]:
    """Return a clock that goes ``seconds`` on each time it is looked at."""
    ticks = itertools.count()
    return lambda: seconds * next(ticks)


# --- the sums


def test_shares_and_rates_are_of_the_time_since_the_look_before() -> None:
    overhead = Overhead()
    view = of("b", 5.0, lag=3, dropped=2, role="observer")
    first = overhead.look(statistics(of("a", 1.0), view, seq=100, held=4, settled_count=5, settled_seconds=2.0), 10.0)
    assert first == {"hub/held": 4, "hub/lag/a": 0, "hub/dropped/a": 0, "hub/lag/b": 3, "hub/dropped/b": 2}
    now = statistics(
        of("a", 1.5), of("b", 9.0, role="observer"), of("c", 0.25), seq=300, settled_count=25, settled_seconds=3.0
    )
    second = overhead.look(now, 14.0)
    assert overhead.seconds == 4.0
    assert {key: value for key, value in second.items() if "lag" not in key and "dropped" not in key} == {
        "hub/held": 0,
        "hub/events_per_sec": 50.0,
        "hub/busy/a": 0.125,
        "hub/busy/b": 1.0,
        "hub/busy/c": 0.0625,
        "hub/overhead": 0.25,
        "hub/settle_s": 0.05,
    }
    assert overhead.busiest() == [("a", 0.125), ("c", 0.0625)]


def test_the_monitor_itself_is_left_out() -> None:
    overhead = Overhead()
    for now in (0.0, 1.0):
        values = overhead.look(statistics(of("HubMonitor", now)), now, leave_out="HubMonitor")
    assert values == {"hub/held": 0, "hub/events_per_sec": 0.0, "hub/overhead": 0}


def test_sums_that_begin_anew_after_a_resume_are_not_negative() -> None:
    overhead = Overhead()
    overhead.look(statistics(of("a", 60.0), seq=1000), 0.0)
    values = overhead.look(statistics(of("a", 0.5), seq=10), 10.0)
    assert values["hub/busy/a"] == 0.05
    assert values["hub/events_per_sec"] == 0.0


def test_names_that_are_no_level_of_a_key_are_made_one_and_equal_ones_are_summed() -> None:
    overhead = Overhead()
    for now in (0.0, 2.0):
        same = [of("watch val/loss", now, lag=1), of("watch val/loss", now, lag=2), of("Rich Progress#2", now)]
        values = overhead.look(statistics(*same), now)
    assert values["hub/lag/watch_val_loss"] == 3
    assert values["hub/busy/watch_val_loss"] == 2.0
    assert values["hub/busy/Rich_Progress#2"] == 1.0


def test_devices_are_told_of() -> None:
    device = DeviceStatistics(device="cuda:0", taken=9, landed=7, flights=1, rows=2, stalls=3, lost=False)
    values = Overhead().look(statistics(devices=(device,)), 0.0)
    assert (values["hub/under_way/cuda_0"], values["hub/stalls/cuda_0"]) == (2, 3)


def test_a_clock_that_stands_still_gives_no_shares() -> None:
    overhead = Overhead()
    for _ in range(2):
        assert "hub/overhead" not in overhead.look(statistics(of("a")), 1.0)


# --- on a hub


async def next_of(hub: MessageHub, key: str, count: int) -> list[float]:
    with anyio.fail_after(30), hub.subscribe(key) as events:
        return [(await anext(events)).value for _ in range(count)]  # type: ignore[attr-defined]


async def test_what_control_subscribers_take_is_the_overhead_on_every_loop() -> None:
    hub = MessageHub("overhead")
    hub.attach(Burn(0.01), name="slow rule")
    hub.attach(Burn(0.02, "observer"), name="slow view")
    hub.attach(HubMonitor(hub, interval=0.01, warn_overhead=None, clock=ticking(1.0)), on_error="raise")
    async with hub:
        await next_of(hub, "hub/held", 1)  # what shares are counted from
        for hub.step in range(5):
            hub.update_scalar("train/loss", 1.0)
            await hub.settled()
        await hub.flushed()
        await next_of(hub, "hub/overhead", 2)
    overhead, rule, view = (
        hub.get_scalar(key).data[0].sum() for key in ("hub/overhead", "hub/busy/slow_rule", "hub/busy/slow_view")
    )
    assert overhead >= rule
    assert 0.04 <= rule < 5  # the last turn counts when the next begins
    assert view >= 0.08


class Told:
    """Stands for a hub: tells that a rule was busy for these shares of a second, one after the other."""

    def __init__(self, shares: list[float]) -> None:
        self._busy = itertools.chain(itertools.accumulate(shares), itertools.repeat(sum(shares)))

    def statistics(self) -> HubStatistics:
        busy = next(self._busy)
        return statistics(of("rule", busy), of("view", time.perf_counter(), role="observer"), settled_seconds=busy)


async def test_much_overhead_is_warned_of_once_until_it_was_well_below(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("overhead")
    told = Told([0.0, 0.125, 0.25, 0.09, 0.5, 0.0625, 0.5])
    hub.attach(HubMonitor(told, interval=0.001, warn_overhead=0.1, clock=ticking(1.0)), on_error="raise")
    with caplog.at_level(logging.WARNING, "asynchub"):
        async with hub:
            await next_of(hub, "hub/overhead", 8)
    assert caplog.messages == [
        f"settle points took {share} % of the last 1 s, above 10 %, rule {share} %; settle less often, or make "
        "observers of rules that decide nothing"
        for share in (12, 50)
    ]


def test_a_rule_that_takes_much_of_a_run_is_named(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("overhead")
    hub.attach(Burn(0.002), name="slow rule")
    hub.attach(HubMonitor(hub, interval=0.005, warn_overhead=0.1), on_error="raise")
    with caplog.at_level(logging.WARNING, "asynchub"), hub:
        while not caplog.messages and hub.step < 5000:
            hub.step += 1
            hub.update_scalar("train/loss", 1.0)
            hub.settle()
    assert "above 10 %, slow rule " in caplog.messages[0]


async def test_a_view_that_falls_behind_and_loses_events_is_seen() -> None:
    hub = MessageHub("behind")
    hub.attach(HubMonitor(hub, interval=0.01), on_error="raise")
    with hub.subscribe("train/*", max_lag=10, name="lazy"):
        for value in range(100):
            hub.update_scalar("train/loss", value)
        async with hub:
            await next_of(hub, "hub/lag/lazy", 1)
        (lag, *_), (dropped, *_) = (hub.get_scalar(f"hub/{kind}/lazy").data[0] for kind in ("lag", "dropped"))
    assert lag + dropped >= 100
    assert lag <= 100


async def test_it_does_not_feed_on_itself() -> None:
    """A look at the hub leads to as many events as there are keys, though somebody reads them; and to no other look."""
    hub = MessageHub("itself")
    attached = hub.attach(HubMonitor(hub, interval=0.01), on_error="raise")
    read = []

    @hub.on("**")
    def view(event: Any) -> None:
        read.append(event)

    async with hub:
        await next_of(hub, "hub/held", 4)
    looks = len(hub.get_scalar("hub/held").data[0])
    assert attached.statistics().delivered == 0
    devices = {key for key in hub.log_scalars if key.startswith(("hub/stalls/", "hub/under_way/"))}  # of other tests
    assert set(hub.log_scalars) - devices == {
        "hub/held",
        "hub/lag/view",
        "hub/dropped/view",
        "hub/busy/view",
        "hub/events_per_sec",
        "hub/overhead",
        "hub/lag/subscription_hub_held",
        "hub/dropped/subscription_hub_held",
        "hub/busy/subscription_hub_held",
    }
    assert hub.statistics().seq <= looks * len(hub.log_scalars)


def test_another_hub_can_be_watched_from_one_s_own() -> None:
    watched, own = MessageHub("watched"), MessageHub("own")
    watched.attach(Burn(0.0), name="rule")
    own.attach(HubMonitor(watched, interval=3600.0), on_error="raise")
    with own, own.subscribe("hub/held", replay="last") as events:
        anyio.run(anext, events)
    assert "hub/lag/rule" in own.log_scalars
    assert not watched.log_scalars
    watched.close()


def test_it_can_run_again_and_ends_at_once() -> None:
    hub = MessageHub("again")
    hub.attach(HubMonitor(hub, interval=3600.0), on_error="raise")
    for _ in range(3):
        with hub.subscribe("hub/held") as events, hub:
            anyio.run(anext, events)
    assert len(hub.get_scalar("hub/held").data[0]) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((None,), "hub must be a MessageHub"),
        ((MessageHub("x"), 0), "interval"),
        ((MessageHub("x"), -1.0), "interval"),
        ((MessageHub("x"), "10s"), "interval"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        HubMonitor(*arguments)


@pytest.mark.parametrize("share", [0, -0.1, "5 %"])
def test_a_limit_is_a_share_above_0(share: Any) -> None:
    with pytest.raises(ArgumentError, match="warn_overhead"):
        HubMonitor(MessageHub("x"), warn_overhead=share)
