"""A state that is wanted at once, while a subscriber is behind."""

from __future__ import annotations

import threading
from typing import Any

import anyio.to_thread
import pytest

from asynchub import MessageHub, Subscription
from asynchub.errors import WaitTimeoutError


class Slow:
    """Handles nothing until it is let go."""

    keys = ("**",)

    def __init__(self) -> None:
        self.go = threading.Event()

    async def __call__(self, events: Subscription) -> None:

        async for _ in events:
            await anyio.to_thread.run_sync(self.go.wait)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": True}

    def load_state_dict(self, state: Any) -> None: ...


def test_a_state_leaves_out_who_is_late_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    hub, slow = MessageHub("late"), Slow()
    hub.attach(slow, name="slow")
    with hub:
        hub.update_scalar("loss", 1.0)
        with pytest.raises(WaitTimeoutError):
            hub.state_dict(timeout=0.05)
        state = hub.state_dict(timeout=0.05, late="leave out")
        slow.go.set()
        whole = hub.state_dict(late="leave out")
    assert "slow" not in state.get("asynchub", {}).get("subscribers", {})
    assert state["log_scalars"]["loss"].current() == 1.0
    assert "lacks that of subscribers: slow" in caplog.text
    assert whole["asynchub"]["subscribers"]["slow"]["state"] == {"slow": True}
