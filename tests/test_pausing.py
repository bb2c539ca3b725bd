"""A pause: the training loop waits at a safe point, and everything else goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.requests import (
    CheckpointRequested,
    ParameterChangeRequested,
    Paused,
    PauseEnded,
    PauseRequested,
    Request,
    RequestApplied,
    RequestRefused,
    ResumeRequested,
    StopRequested,
)
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscription import Subscription
from tests.waiting import WAIT, until

KINDS = (Request, RequestApplied, RequestRefused, Paused, PauseEnded)


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub("hub")


def heard(events: Subscription) -> list[Any]:
    """Return what a subscription has now."""
    return events._take()


def names(events: Subscription) -> list[str]:
    return [type(event).__name__ for event in heard(events)]


class Person:
    """Somebody who asks from another thread, once the run is paused."""

    def __init__(self, hub: MessageHub, *requests: Request, then: Callable[[], object] = lambda: None) -> None:
        self._hub, self._requests, self._then = hub, requests, then
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        until(lambda: self._hub.paused)
        for request in self._requests:
            self._hub.request(request)
        self._then()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("verb", ["settle", "apply_requests", "flush"])
def test_a_plain_script_waits_until_it_is_asked_to_go_on(hub: MessageHub, verb: str) -> None:
    with hub, hub.subscribe(*KINDS) as events:
        hub.step = 7
        hub.request(PauseRequested(reason="look at it", author="ada"))
        with Person(hub, ResumeRequested(author="bob")):
            getattr(hub, verb)()
        assert not hub.paused
        seen = heard(events)
    assert [type(event).__name__ for event in seen] == [
        "PauseRequested",
        "RequestApplied",
        "Paused",
        "ResumeRequested",
        "RequestApplied",
        "PauseEnded",
    ]
    paused, ended = seen[2], seen[5]
    assert (paused.reason, paused.author, paused.step) == ("look at it", "ada", 7)
    assert (ended.reason, ended.author, ended.step) == ("resumed", "bob", 7)
    assert 0 < ended.seconds < WAIT


async def test_an_async_program_waits_and_its_loop_goes_on(hub: MessageHub) -> None:
    ticks = 0
    async with hub, anyio.create_task_group() as tasks:

        async def elsewhere() -> None:
            nonlocal ticks
            while not hub.paused:
                await anyio.sleep(0.001)
            for _ in range(10):
                await anyio.sleep(0)
                ticks += 1
            hub.request(ResumeRequested())

        with hub.subscribe(Paused, PauseEnded) as events, anyio.fail_after(WAIT):
            tasks.start_soon(elsewhere)
            hub.request(PauseRequested())
            await hub.settled()
            assert ticks == 10
            assert names(events) == ["Paused", "PauseEnded"]


async def test_a_cancelled_pause_ends_and_says_so(hub: MessageHub) -> None:
    async with hub:
        with hub.subscribe(PauseEnded) as events:
            hub.request(PauseRequested())
            with anyio.move_on_after(0.05):
                await hub.settled()
            assert not hub.paused
            (ended,) = heard(events)
            assert "ancelled" in ended.reason
            await hub.settled(timeout=WAIT)


async def test_what_would_block_the_loop_of_observers_does_not_pause(hub: MessageHub) -> None:
    async with hub:
        with hub.subscribe(RequestRefused) as events:
            hub.request(PauseRequested())
            hub.settle(timeout=WAIT)
            (refused,) = heard(events)
    assert "await hub.settled()" in refused.error


def test_a_stop_ends_a_pause(hub: MessageHub) -> None:
    with hub, hub.subscribe(PauseEnded) as events:
        hub.request(PauseRequested())
        with Person(hub, StopRequested(reason="enough", author="ada")):
            hub.settle()
        assert hub.stop_requested
        (ended,) = heard(events)
    assert (ended.reason, ended.author) == ("a stop was asked for", "ada")


def test_a_stop_in_the_same_batch_leaves_no_pause(hub: MessageHub) -> None:
    with hub, hub.subscribe(*KINDS) as events:
        hub.request(PauseRequested())
        hub.request(StopRequested())
        hub.settle(timeout=WAIT)
        assert "Paused" not in names(events)
        hub.request(PauseRequested())
        hub.settle(timeout=WAIT)
        assert heard(events)[-1].error == "LifecycleError: the run is stopping"


def test_a_pause_ends_when_its_longest_time_is_over(hub: MessageHub) -> None:
    with hub, hub.subscribe(PauseEnded) as events:
        hub.request(PauseRequested(seconds=0.05))
        begun = time.monotonic()
        hub.settle()
        assert 0.04 < time.monotonic() - begun < WAIT
        (ended,) = heard(events)
    assert "0.05 s are over" in ended.reason
    assert ended.author == ""
    assert ended.seconds >= 0.05


def test_other_requests_are_applied_amid_a_pause(hub: MessageHub) -> None:
    seen: list[tuple[Any, bool]] = []
    hub.on_request(ParameterChangeRequested, lambda request: seen.append((request.value, hub.paused)))
    hub.on_request(CheckpointRequested, lambda request: seen.append(("checkpoint", hub.paused)))
    with hub:
        hub.request(PauseRequested())
        with Person(hub, ParameterChangeRequested(name="lr", value=0.1), CheckpointRequested(), ResumeRequested()):
            hub.settle()
    assert seen == [(0.1, True), ("checkpoint", True)]


def test_a_request_that_is_refused_amid_a_pause_does_not_end_it(hub: MessageHub) -> None:
    with hub, hub.subscribe(RequestRefused) as events:
        hub.request(PauseRequested())
        with Person(hub, CheckpointRequested(), PauseRequested(), ResumeRequested()):
            hub.settle()
        first, second = heard(events)
    assert "nobody applies CheckpointRequested" in first.error
    assert "it has been paused already" in second.error


def test_observers_are_served_amid_a_pause(hub: MessageHub) -> None:
    seen: list[float] = []

    async def watcher(events: Subscription) -> None:
        async for event in events:
            seen.append(event.value)  # type: ignore[attr-defined]  # it reads scalars only
            hub.request(ResumeRequested())

    hub.attach(watcher, "a")
    with hub:
        hub.request(PauseRequested())
        with Person(hub, then=lambda: hub.update_scalar("a", 4.0)):
            hub.settle()
    assert seen == [4.0]


def test_rules_have_decided_before_the_pause_and_see_what_came_amid_it_after_it(hub: MessageHub) -> None:
    seen: list[tuple[float, bool]] = []

    async def rule(events: Subscription) -> None:
        async for event in events:
            seen.append((event.value, hub.paused))  # type: ignore[attr-defined]

    hub.attach(rule, "a", role="control")
    with hub:
        hub.update_scalar("a", 1.0)
        hub.request(PauseRequested())
        with Person(hub, ResumeRequested(), then=lambda: None):
            hub.settle()
        hub.update_scalar("a", 2.0)
        hub.settle()
    assert seen == [(1.0, False), (2.0, False)]


def test_the_timeout_of_a_settle_point_does_not_count_a_pause(hub: MessageHub) -> None:
    with hub:
        hub.request(PauseRequested(seconds=0.3))
        hub.settle(timeout=0.1)
        before = hub.statistics().settled_seconds
    assert before < 0.3


def test_resuming_what_is_not_paused_is_refused(hub: MessageHub) -> None:
    with hub, hub.subscribe(RequestRefused) as events:
        hub.request(ResumeRequested())
        hub.settle()
        assert heard(events)[0].error == "LifecycleError: the run is not paused"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 8 * 86400.0, "long", None, True, 10**400])
def test_a_pause_of_no_length_or_too_long_is_refused(hub: MessageHub, seconds: Any) -> None:
    with hub, hub.subscribe(RequestRefused) as events:
        hub.request(PauseRequested(seconds=seconds))
        hub.settle(timeout=WAIT)
        assert "a pause lasts" in heard(events)[0].error


def test_a_hub_that_is_left_does_not_pause(hub: MessageHub) -> None:
    hub.attach(EarlyStopping("a", strict=False))
    with hub:
        hub.request(PauseRequested())
    with hub:
        assert not hub.paused
        hub.request(PauseRequested(seconds=0.01))
        hub.settle(timeout=WAIT)


def test_the_code_that_applies_a_request_may_apply_others_and_the_pause_is_one(hub: MessageHub) -> None:
    hub.on_request(CheckpointRequested, lambda request: hub.apply_requests())
    with hub, hub.subscribe(Paused) as events:
        hub.request(PauseRequested())
        with Person(hub, CheckpointRequested(), ResumeRequested()):
            hub.apply_requests()
        assert names(events) == ["Paused"]


def test_a_run_of_several_ranks_does_not_pause(hub: MessageHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with hub, hub.subscribe(RequestRefused) as events:
        hub.request(PauseRequested())
        hub.settle(timeout=WAIT)
        assert "a run of 2 ranks cannot pause" in heard(events)[0].error


def test_two_runs_that_were_paused_elsewhere_decide_the_same() -> None:
    def decided(pause_at: int) -> list[Any]:
        hub = MessageHub(f"hub {pause_at}")
        hub.attach(EarlyStopping("loss", patience=3))
        found: list[Event] = []
        hub.on("hub/decided", role="control")(found.append)
        with hub:
            for hub.step, value in enumerate([3.0, 2.0, 2.5, 2.5, 2.5, 1.0]):
                hub.update_scalar("loss", value)
                if hub.step == pause_at:
                    hub.request(PauseRequested(seconds=0.01))
                hub.settle()
                if hub.stop_requested:
                    break
        return [(event.step, event.verdict, event.wait) for event in found]  # type: ignore[attr-defined]

    assert decided(1) == decided(3) == decided(99)


SCRIPT = """
import signal, sys
from asynchub import MessageHub, PauseRequested, StopOnSignal
hub = MessageHub("hub")
if sys.argv[1] == "asked":
    hub.attach(StopOnSignal())
with hub:
    hub.settle()
    hub.request(PauseRequested())
    hub.on("hub/paused")(lambda event: print("paused", flush=True))
    try:
        hub.settle()
        print("stopped", hub.stop_reason, flush=True)
    except KeyboardInterrupt:
        print("interrupted", hub.paused, flush=True)
"""


@pytest.mark.parametrize(("how", "end"), [("plain", "interrupted False"), ("asked", "stopped signal SIGINT")])
def test_ctrl_c_ends_a_pause(how: str, end: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "paused\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT)
    assert out.strip() == end
    assert process.returncode == 0
