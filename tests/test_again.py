"""What a subscription was handed can be read again: from the journal, or from the histories."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from asynchub.errors import SubscriptionError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.subscription import Subscription


def publish(hub: MessageHub, count: int = 300) -> None:
    for hub.step in range(1, count + 1):
        hub.update_scalar("train/loss", 1 / hub.step)
        hub.update_scalar("val/loss", 2.0, count=hub.step)
        if hub.step % 10 == 0:
            hub.update_info("epoch", hub.step // 10)


async def taken(events: Subscription) -> list[Event]:
    """Return all that a subscription holds."""
    batches, seen = events.batches(), list[Event]()
    while events.statistics().lag:
        seen += await anext(batches)
    return seen


async def handed(hub: MessageHub, *wanted: str | type[Event], **terms: object) -> None:
    async with hub:
        with hub.subscribe(*wanted, **terms) as events:  # type: ignore[arg-type]
            publish(hub)
            seen = await taken(events)
            assert list(events.again(0, seen[-1].seq)) == seen
            for after, upto in ((0, 0), (5, 6), (100, 400), (seen[-1].seq - 1, seen[-1].seq)):
                assert list(events.again(after, upto)) == [event for event in seen if after < event.seq <= upto]


@pytest.mark.parametrize("wanted", [("train/*",), (ScalarUpdated,), ("**",)])
async def test_with_a_journal_everything_comes_again(tmp_path: Path, wanted: tuple[str | type[Event], ...]) -> None:
    hub = MessageHub("again")
    hub.attach(Journal(tmp_path / "journal"))
    await handed(hub, *wanted)


async def test_without_one_scalars_come_again_and_of_infos_the_newest() -> None:
    await handed(MessageHub("again"), ScalarUpdated)
    hub = MessageHub("infos")
    with hub.subscribe(InfoUpdated) as events:
        publish(hub)
        seen = await taken(events)
        assert list(events.again(0, seen[-1].seq)) == seen[-1:]


async def test_a_predicate_holds_the_second_time_too(tmp_path: Path) -> None:
    for journal in (True, False):
        hub = MessageHub(f"again {journal}")
        if journal:
            hub.attach(Journal(tmp_path / "journal"))
        await handed(hub, ScalarUpdated, when=lambda event: event.step % 7 == 0)


async def test_one_with_a_rate_cannot_read_again() -> None:
    hub = MessageHub("again")
    with hub.subscribe("train/*", every=10) as events, pytest.raises(SubscriptionError, match="every="):
        events.again(0, 10)


@pytest.mark.parametrize("wait", ["flush", "save", ""])
async def test_it_knows_whether_somebody_waits(tmp_path: Path, wait: str) -> None:
    hub, seen = MessageHub("again"), list[bool]()

    class Reader:
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: dict[str, int]) -> None: ...

        async def __call__(self, events: Subscription) -> None:
            async for event in events:
                if event.step == 1:
                    begun.set()
                    with anyio.fail_after(10):
                        while wait and not events.awaited:
                            await anyio.sleep(0.001)
                    seen.append(events.awaited)

    begun = anyio.Event()
    hub.attach(Reader(), ScalarUpdated, on_error="raise")
    async with hub, anyio.create_task_group() as group:
        hub.update_scalar("a", 1, step=1)
        await begun.wait()
        if wait == "flush":
            group.start_soon(hub.flushed, 10)
        elif wait == "save":
            group.start_soon(hub.saved, tmp_path / "hub.state")
    assert seen == [bool(wait)]
