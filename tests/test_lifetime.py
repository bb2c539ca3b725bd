"""Entering and leaving, from everywhere and in every way."""

from __future__ import annotations

import functools
import gc
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint

import asynchub
from asynchub import MessageHub, ScalarUpdated, Subscription
from asynchub.errors import DeadlockError, LifecycleError

ROOT = Path(asynchub.__file__).parent.parent


class Collector:
    role = "observer"

    def __init__(self, role: str = "observer") -> None:
        self.role = role
        self.seen: list[float] = []
        self.begun = 0
        self.cleaned = 0

    async def __call__(self, events: Subscription) -> None:
        self.begun += 1
        try:
            async for event in events:
                if isinstance(event, ScalarUpdated):
                    self.seen.append(event.value)
        finally:
            self.cleaned += 1


def asynchub_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("asynchub")]


def test_a_thread_is_started_only_when_somebody_lives_on_it() -> None:
    hub = MessageHub("hub")
    hub.attach(Collector("control"))
    with hub:
        assert asynchub_threads() == []
        hub.attach(Collector())
        assert asynchub_threads() == ["asynchub hub"]
    assert asynchub_threads() == []


def test_entering_again_where_it_was_entered_nests() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    hub.attach(collector)
    with hub:
        with hub as inner:
            assert inner is hub
            hub.update_scalar("a", 1.0)
        assert hub.entered
        assert collector.cleaned == 0
        hub.update_scalar("a", 2.0)
    assert not hub.entered
    assert collector.seen == [1.0, 2.0]
    assert (collector.begun, collector.cleaned) == (1, 1)


@pytest.mark.parametrize("role", ["observer", "control"])
def test_a_hub_entered_again_hands_over_once_what_was_published_meanwhile(role: str) -> None:
    hub = MessageHub("hub")
    collector = Collector(role)
    hub.attach(collector)
    number = 0
    for _ in range(4):
        with hub:
            for _ in range(5):
                hub.update_scalar("a", float(number := number + 1))
        for _ in range(5):
            hub.update_scalar("a", float(number := number + 1))
    with hub:
        pass
    assert collector.seen == [float(one) for one in range(1, number + 1)]
    assert (collector.begun, collector.cleaned) == (5, 5)


@pytest.mark.parametrize("role", ["observer", "control"])
def test_who_is_attached_between_leaving_and_entering_runs_once(role: str) -> None:
    hub = MessageHub("hub")
    with hub:
        hub.update_scalar("a", 1.0)
    collector = Collector(role)
    hub.attach(collector)
    hub.update_scalar("a", 2.0)
    with hub:
        hub.update_scalar("a", 3.0)
    assert collector.seen == [2.0, 3.0]
    assert collector.begun == 1


def test_every_goes_on_counting_when_a_hub_is_entered_again() -> None:
    hub = MessageHub("hub")
    seen: list[float] = []
    hub.on("a", every=4)(lambda event: seen.append(event.value))
    for start in range(0, 20, 2):
        with hub:
            hub.update_scalar("a", float(start))
            hub.update_scalar("a", float(start + 1))
    assert seen == [3.0, 7.0, 11.0, 15.0, 19.0]


def test_publishing_after_the_hub_was_left_goes_on_recording() -> None:
    hub = MessageHub("hub")
    with hub, hub.subscribe() as events:
        hub.update_scalar("a", 1.0)
    hub.update_scalar("a", 2.0)
    assert hub.get_scalar("a").data[0].tolist() == [1.0, 2.0]
    assert events.closed
    assert hub._bus.channels == ()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_body_passes_through_after_everything_was_handled(error: type[BaseException]) -> None:
    hub = MessageHub("hub")
    collectors = [Collector(), Collector("control")]
    for collector in collectors:
        hub.attach(collector)
    with pytest.raises(error), hub:  # noqa: PT012  # the body is what raises
        hub.update_scalar("a", 1.0)
        raise error
    for collector in collectors:
        assert collector.seen == [1.0]
        assert collector.cleaned == 1
    assert asynchub_threads() == []


async def test_an_exception_in_an_async_body_passes_through_after_everything_was_handled() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    with pytest.raises(ZeroDivisionError), fail_after(5):  # noqa: PT012  # the body is what raises
        async with hub:
            hub.attach(collector)
            hub.update_scalar("a", 1.0)
            raise ZeroDivisionError
    assert (collector.seen, collector.cleaned) == ([1.0], 1)


@pytest.mark.parametrize("role", ["observer", "control"])
def test_a_subscriber_can_tell_whether_an_exception_ends_the_run(role: str) -> None:
    hub, ended = MessageHub("hub"), list[bool]()

    async def reader(events: Subscription) -> None:
        async for _ in events:
            pass
        ended.append(events.failing)

    def live(fail: bool) -> None:
        with hub:
            hub.settle()
            if fail:
                raise ZeroDivisionError

    hub.attach(reader, role=role, on_error="raise")
    live(fail=False)
    with pytest.raises(ZeroDivisionError):
        live(fail=True)
    live(fail=False)
    assert ended == [False, True, False]


async def test_a_cancelled_async_body_still_lets_observers_finish() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    with anyio.CancelScope() as scope:
        async with hub:
            hub.attach(collector)
            hub.update_scalar("a", 1.0)
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    assert (collector.seen, collector.cleaned) == ([1.0], 1)


def test_an_interrupt_while_draining_ends_the_thread_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MessageHub("hub", drain_timeout=3600.0)
    cleaned = threading.Event()

    async def stuck(events: Subscription) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()

    join = threading.Thread.join
    interrupts = iter([True])

    def impatient(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name.startswith("asynchub") and next(interrupts, False):
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", impatient)
    hub.attach(stuck)
    with pytest.raises(KeyboardInterrupt), hub:
        pass
    assert cleaned.wait(10)
    assert not hub.entered


def test_draining_ends_at_its_timeout_and_names_who_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("hub", drain_timeout=0.05)
    cleaned: list[bool] = []

    async def stuck(events: Subscription) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    collector = Collector()
    hub.attach(stuck)
    hub.attach(collector)
    with hub:
        hub.update_scalar("a", 1.0)
    assert cleaned == [True]
    assert collector.seen == [1.0]
    assert "cancelled after 0.05 s: stuck" in caplog.text


def test_a_subscriber_that_ignores_its_cancellation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.runner.CANCEL_TIMEOUT", 0.1)
    hub = MessageHub("hub", drain_timeout=0.05)
    release = threading.Event()

    async def deaf(events: Subscription) -> None:
        release.wait(20)  # blocks the loop itself

    hub.attach(deaf)
    try:
        with pytest.raises(LifecycleError, match="ignore their cancellation: deaf"), hub:
            pass
    finally:
        release.set()


def test_another_thread_may_not_enter_but_may_publish_subscribe_and_attach() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    errors: list[Exception] = []

    def elsewhere() -> None:
        try:
            with hub:
                pass
        except LifecycleError as error:
            errors.append(error)
        hub.attach(collector)
        hub.update_scalar("a", 1.0)
        hub.subscribe().close()

    with hub:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(10)
    assert len(errors) == 1
    assert "any thread may publish" in str(errors[0])
    assert collector.seen == [1.0]


async def test_another_loop_may_not_enter() -> None:
    hub = MessageHub("hub")

    async def enter() -> None:
        async with hub:
            pass

    async with hub:
        with pytest.raises(LifecycleError):
            await to_thread.run_sync(functools.partial(anyio.run, enter))
        with pytest.raises(LifecycleError):
            hub.__enter__()
        assert hub.entered


async def test_plain_with_works_in_async_code_and_blocks_while_it_leaves() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    hub.attach(collector)
    with hub:
        hub.update_scalar("a", 1.0)
        await hub.flushed(10)
        assert collector.seen == [1.0]
        with pytest.raises(LifecycleError):
            await hub.__aenter__()
    assert collector.cleaned == 1


async def test_tasks_that_enter_what_another_task_has_entered_leave_it_open() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    hub.attach(collector)

    async def inside(number: float) -> None:
        async with hub:
            await checkpoint()
            assert MessageHub.get_current_instance() is hub
            hub.update_scalar("a", number)

    with fail_after(10):
        async with hub:
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(inside, float(number))
            assert hub.entered
            await hub.flushed(5)
            assert sorted(collector.seen) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not hub.entered


def test_the_innermost_hub_entered_is_the_current_one() -> None:
    outer, inner = MessageHub.get_instance("outer"), MessageHub.get_instance("inner")
    with outer:
        assert MessageHub.get_current_instance() is outer
        with inner:
            assert MessageHub.get_current_instance() is inner
            with outer:
                assert MessageHub.get_current_instance() is outer
        assert MessageHub.get_current_instance() is outer
    assert MessageHub.get_current_instance() is inner


def test_hubs_may_be_left_in_another_order_than_they_were_entered() -> None:
    first, second = MessageHub("first"), MessageHub("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert MessageHub.get_current_instance() is second
    second.__exit__(None, None, None)
    assert MessageHub.get_current_instance().instance_name == "mmengine"


def test_closing_from_elsewhere_ends_everybody_and_leaving_is_fine_after_it() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    hub.attach(collector)
    with hub:
        hub.update_scalar("a", 1.0)
        thread = threading.Thread(target=hub.close)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert (collector.seen, collector.cleaned) == ([1.0], 1)
        hub.update_scalar("a", 2.0)
    with hub:
        pass
    assert collector.seen == [1.0, 2.0]


async def test_closing_an_async_hub_from_a_thread_ends_everybody_and_leaving_is_fine_after_it() -> None:
    hub = MessageHub("hub")
    collector = Collector()
    with fail_after(10):
        async with hub:
            hub.attach(collector)
            hub.update_scalar("a", 1.0)
            with pytest.raises(DeadlockError):
                hub.close()
            await to_thread.run_sync(hub.close)
            while not collector.cleaned:
                await checkpoint()
    assert collector.seen == [1.0]


async def test_attaching_and_detaching_while_running() -> None:
    hub = MessageHub("hub")
    first, second = Collector(), Collector()
    async with hub:
        attachment = await to_thread.run_sync(hub.attach, first)
        hub.update_scalar("a", 1.0)
        await hub.flushed(5)
        hub.attach(second)
        hub.update_scalar("a", 2.0)
        await to_thread.run_sync(attachment.detach)
        attachment.detach()
        hub.update_scalar("a", 3.0)
        await hub.flushed(5)
        assert second.seen == [2.0, 3.0]
        with fail_after(5):
            while not first.cleaned:
                await checkpoint()
        assert first.seen == [1.0, 2.0]
        assert [one.name for one in hub.statistics().subscriptions] == ["Collector#2"]


@pytest.mark.parametrize("use", ["nothing", "subscribed", "entered", "settled", "watched"])
def test_a_hub_that_nobody_holds_is_collected(use: str) -> None:
    hub = MessageHub("hub")
    hub.update_scalar("a", 1.0)
    if use == "subscribed":
        with hub.subscribe():
            pass
    elif use == "entered":
        hub.attach(Collector())
        with hub:
            hub.update_scalar("a", 1.0)
    elif use == "settled":
        hub.attach(Collector("control"))
        hub.update_scalar("a", 1.0)
        hub.settle()
    elif use == "watched":
        assert hub.watch("a").value == 1.0
    gone = weakref.ref(hub)
    del hub
    gc.collect()
    assert gone() is None


SCRIPTS = {
    "a hub that is never left": """
        hub.__enter__()
        hub.update_scalar("a", 1.0)
    """,
    "sys.exit inside": """
        with hub:
            hub.update_scalar("a", 1.0)
            sys.exit(0)
    """,
    "the end of an async program inside": """
        async def main():
            await hub.__aenter__()
            hub.update_scalar("a", 1.0)
            await hub.flushed(5)
        try:
            asyncio.run(main())
        except RuntimeError:
            pass
    """,
    "a thread that never ends": """
        hub.__enter__()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        hub.update_scalar("a", 1.0)
    """,
}


@pytest.mark.parametrize("ending", SCRIPTS)
def test_the_interpreter_exits_in_time_and_observers_clean_up(ending: str) -> None:
    script = f"""
import asyncio, sys, textwrap, threading
from asynchub import MessageHub
hub = MessageHub("hub")
async def observer(events):
    try:
        async for event in events:
            print("saw", event.key, flush=True)
    finally:
        print("cleaned", flush=True)
hub.attach(observer)
exec(textwrap.dedent({SCRIPTS[ending]!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, cwd=ROOT, check=False
    )
    assert done.stdout.split("\n")[:2] == ["saw a", "cleaned"], done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    "options",
    [
        {"latency": -1},
        {"latency": "x"},
        {"latency": float("nan")},
        {"capacity": 0},
        {"capacity": 1.5},
        {"backend": "curio"},
        {"drain_timeout": -1},
        {"drain_timeout": "x"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(asynchub.AsyncHubError, match=next(iter(options))):
        MessageHub("hub", **options)


def test_a_thread_that_cannot_start_is_said_and_nothing_stays_entered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("no more files")

    hub = MessageHub("hub")
    collector = Collector()
    hub.attach(collector)
    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr("asynchub.runner.anyio.run", broken)
        with pytest.raises(LifecycleError, match="no more files"):
            hub.__enter__()
    assert not hub.entered
    hub.update_scalar("a", 1.0)
    with hub:
        pass
    assert collector.seen == [1.0]
