"""Run an observer over events of one's own: their times are the test's, and nothing is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio

from asynchub.bus import EventBus
from asynchub.channels import Selection
from asynchub.events import Event, EventsDropped, ScalarUpdated
from asynchub.subscription import Subscription

START = 1_700_000_000.0


class _Silence:
    """The hub of these tests: observers are not to publish."""

    def publish(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("an observer of these tests publishes nothing")

    update_scalar = update_info = request = publish


def stamped(events: Iterable[Event], seconds: float = 0.5) -> list[Event]:
    """Return ``events`` as a hub would publish them, ``seconds`` from one to the next."""
    return [event.stamped(seq, START + seconds * (seq - 1), event.step) for seq, event in enumerate(events, 1)]


def scalars(*values: tuple[int | None, str, float]) -> list[ScalarUpdated]:
    """Return a ``ScalarUpdated`` for each ``(step, key, value)``."""
    return [ScalarUpdated(step=step, key=key, value=value) for step, key, value in values]


async def observed(subscriber: Any, *batches: Sequence[Event], then: Callable[[], object] = lambda: None) -> None:
    """Run ``subscriber`` over stamped events, batch by batch; when all are handled call ``then``; let it end."""
    bus = EventBus()
    selection = Selection.of((*(getattr(subscriber, "keys", ()) or ("**",)), EventsDropped))  # which any reader gets
    with anyio.fail_after(30):
        events = Subscription(bus, _Silence(), "observed", selection, max_lag=1 << 20, overflow="raise")
        async with anyio.create_task_group() as group:
            group.start_soon(subscriber, events)
            for batch in batches:
                bus.log.extend(event for event in batch if bus.wants(event.key, type(event)))
                bus.hurry()
                handled = anyio.Event()
                events.when_handled(events.end_position(), handled.set)
                await handled.wait()
            then()
            events.close()


def observe(
    subscriber: Any, *batches: Sequence[Event], then: Callable[[], object] = lambda: None, backend: str = "asyncio"
) -> None:
    """``observed``, from a synchronous test."""

    async def main() -> None:
        await observed(subscriber, *batches, then=then)

    anyio.run(main, backend=backend)
