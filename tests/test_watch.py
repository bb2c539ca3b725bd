"""Watches, and waits for one event."""

from __future__ import annotations

import functools

import anyio
import pytest
from anyio import fail_after, to_thread

from asynchub import InfoUpdated, MessageHub, ScalarUpdated
from asynchub.errors import SubscriptionClosedError, WaitTimeoutError


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub("hub", latency=0.001)


def test_a_watch_has_the_newest_value_at_once_with_and_without_a_loop(hub: MessageHub) -> None:
    with hub.watch("a") as watch:
        assert watch.value is None
        hub.update_info("a", "x")
        assert watch.value == "x"
        hub.update_scalar("a", 1)
        assert watch.value == 1
        hub.update_scalar("a", 2.5)
        assert watch.value == 2.5
        assert watch.value is not None
        assert type(watch.value) is float


async def test_a_watch_tells_of_the_newest_change_since_it_was_asked(hub: MessageHub) -> None:
    hub.update_scalar("a", 0.0)
    with fail_after(5), hub.watch("a") as watch:
        with pytest.raises(WaitTimeoutError):
            await watch.changed(timeout=0.001)
        for number in range(10):
            hub.update_scalar("a", float(number))
        event = await watch.changed()
        assert isinstance(event, ScalarUpdated)
        assert event.value == 9.0
        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, functools.partial(hub.update_scalar, "a", 10.0))
            event = await watch.changed()
        assert isinstance(event, ScalarUpdated)
        assert event.value == 10.0


async def test_a_watch_does_not_hold_up_anybody(hub: MessageHub) -> None:
    with hub.watch("a") as watch:
        for number in range(100_000):
            hub.update_scalar("a", float(number))
        assert sum(channel.end - channel.base for channel in hub._bus.channels) <= hub._bus.capacity
        assert watch.value == 99_999.0
    assert hub._bus.channels == ()


@pytest.mark.parametrize("call", ["changed", "wait_for"])
async def test_waiting_ends_with_an_error_when_the_hub_is_left(hub: MessageHub, call: str) -> None:
    errors: list[Exception] = []
    watch = hub.watch("a")

    async def wait() -> None:
        try:
            await (watch.changed() if call == "changed" else hub.wait_for("a"))
        except SubscriptionClosedError as error:
            errors.append(error)

    with fail_after(5):
        async with anyio.create_task_group() as group, hub:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_wait_for_returns_the_newest_event_or_the_next_that_fits(hub: MessageHub) -> None:
    hub.update_scalar("acc", 0.5)
    with fail_after(5):
        event = await hub.wait_for("acc")
        assert isinstance(event, ScalarUpdated)
        assert event.value == 0.5

        def train() -> None:
            for number in range(10):
                hub.update_scalar("acc", number / 10)

        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, train)
            event = await hub.wait_for("acc", lambda event: event.value > 0.6)
        assert isinstance(event, ScalarUpdated)
        assert event.value == 0.7
    hub.update_info("epoch", 3)
    info = await hub.wait_for("epoch", timeout=5)
    assert isinstance(info, InfoUpdated)
    assert info.value == 3


async def test_wait_for_gives_up_at_its_timeout_and_leaves_nothing(hub: MessageHub) -> None:
    hub.update_scalar("acc", 0.5)
    with pytest.raises(WaitTimeoutError, match="acc"):
        await hub.wait_for("acc", lambda event: event.value > 0.6, timeout=0.01)
    with pytest.raises(WaitTimeoutError):
        await hub.wait_for("nothing", timeout=0)
    assert hub._bus.channels == ()
