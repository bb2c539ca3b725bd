"""Run an observer over events of one's own: their times are the test's, and nothing is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio

from asynchub import testing
from asynchub.events import Event, ScalarUpdated

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
    """``asynchub.testing.observed``, of one that publishes nothing."""
    await testing.observed(subscriber, *batches, then=then, hub=_Silence())


def observe(
    subscriber: Any, *batches: Sequence[Event], then: Callable[[], object] = lambda: None, backend: str = "asyncio"
) -> None:
    """``observed``, from a synchronous test."""

    async def main() -> None:
        await observed(subscriber, *batches, then=then)

    anyio.run(main, backend=backend)
