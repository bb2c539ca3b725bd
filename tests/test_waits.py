"""Every wait takes a timeout, and none hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asynchub import Event, MessageHub, Subscription
from asynchub.errors import WaitTimeoutError


class Stuck:
    """A stateful observer that does not come back from its first event until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.let_go = threading.Event()

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            self.inside.set()
            while not self.let_go.is_set():
                await anyio.sleep(0.001)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    one = Stuck()
    yield one
    one.let_go.set()


def test_blocking_waits_for_a_stuck_observer_end_at_their_timeout(stuck: Stuck, tmp_path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(stuck)
    with hub:
        hub.update_scalar("a", 1.0)
        assert stuck.inside.wait(10)
        hub.settle(0.01)  # does not wait for observers
        with pytest.raises(WaitTimeoutError, match="Stuck is"):
            hub.flush(0.01)
        with pytest.raises(WaitTimeoutError, match="Stuck"):
            hub.state_dict(0.01)
        with pytest.raises(WaitTimeoutError, match="Stuck"):
            hub.save(tmp_path / "state", timeout=0.01)
        with pytest.raises(WaitTimeoutError):
            hub.flush(0)
        stuck.let_go.set()
        hub.flush(10)
        hub.save(tmp_path / "state", timeout=10)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


async def test_awaited_waits_for_a_stuck_observer_end_at_their_timeout(stuck: Stuck, tmp_path: Path) -> None:
    hub = MessageHub("hub")
    with fail_after(20):
        async with hub:
            hub.attach(stuck)
            hub.update_scalar("a", 1.0)
            while not stuck.inside.is_set():
                await anyio.lowlevel.checkpoint()
            await hub.settled(0.01)
            with pytest.raises(WaitTimeoutError, match="Stuck is"):
                await hub.flushed(0.01)
            with pytest.raises(WaitTimeoutError, match="Stuck"):
                await hub.saved(tmp_path / "state", timeout=0.01)
            stuck.let_go.set()
            await hub.flushed(10)
            await hub.saved(tmp_path / "state", timeout=10)


async def test_a_cancelled_wait_is_cancelled(stuck: Stuck) -> None:
    hub = MessageHub("hub")
    with fail_after(20):
        async with hub:
            hub.attach(stuck)
            hub.update_scalar("a", 1.0)
            with anyio.move_on_after(0.01) as scope:
                await hub.flushed()
            assert scope.cancelled_caught
            stuck.let_go.set()


def test_a_flush_returns_when_the_subscriber_it_waits_for_is_detached_or_fails() -> None:
    hub = MessageHub("hub")
    inside, fail = threading.Event(), threading.Event()

    async def failing(events: Subscription) -> None:
        async for _ in events:
            inside.set()
            while not fail.is_set():
                await anyio.sleep(0.001)
            raise ValueError

    hub.attach(failing)
    with hub:
        hub.update_scalar("a", 1.0)
        hub.update_scalar("a", 1.0)
        assert inside.wait(10)
        threading.Timer(0.01, fail.set).start()
        hub.flush(10)


def test_flush_waits_for_what_was_published_before_and_not_for_what_comes_after() -> None:
    hub = MessageHub("hub")
    seen: list[int] = []

    @hub.on("a")
    def echo(event: Event) -> None:
        seen.append(event.seq)
        if len(seen) < 100_000:
            hub.update_scalar("a", 1.0)  # never ends by itself

    with hub:
        hub.update_scalar("a", 1.0)
        hub.flush(10)
        assert seen
        hub.detach(echo)
