"""Settle points: who runs when, where, and what cannot work."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread

from asynchub import Event, MessageHub, ScalarUpdated, StopRequested, SubscriberFailed, Subscription
from asynchub.collecting import collect_few
from asynchub.control import SettlePoint
from asynchub.errors import (
    ControlAwaitedError,
    ControlFailedError,
    CycleError,
    DeadlockError,
    LifecycleError,
    WaitTimeoutError,
)
from asynchub.rounds import Rounds
from asynchub.settled import SettledSubscription
from tests.interrupting import interrupted


class Rule:
    """A control subscriber that notes what it gets, and where."""

    role = "control"

    def __init__(self, name: str = "rule", notes: list[Any] | None = None) -> None:
        self.name = name
        self.notes: list[Any] = [] if notes is None else notes
        self.threads: set[int] = set()
        self.cleaned = 0

    async def __call__(self, events: Subscription) -> None:
        try:
            async for event in events:
                self.threads.add(threading.get_ident())
                self.notes.append((self.name, event.key))
        finally:
            self.cleaned += 1


def test_control_subscribers_run_in_the_settling_thread_and_only_when_it_settles() -> None:
    hub = MessageHub("hub")
    rule = Rule()
    hub.attach(rule)
    with hub:
        hub.update_scalar("a", 1.0)
        hub.flush(10)
        assert rule.notes == [("rule", "a")]
        hub.update_scalar("b", 1.0)
        assert rule.notes == [("rule", "a")]
        hub.settle()
        assert rule.notes == [("rule", "a"), ("rule", "b")]
    assert rule.threads == {threading.get_ident()}
    assert rule.cleaned == 1


def test_a_hub_that_nobody_entered_settles_too() -> None:
    hub = MessageHub("hub")
    rule = Rule()
    attachment = hub.attach(rule)
    hub.update_scalar("a", 1.0)
    hub.settle()
    assert rule.notes == [("rule", "a")]
    attachment.detach()
    hub.update_scalar("b", 1.0)
    hub.settle()
    assert rule.notes == [("rule", "a")]
    assert rule.cleaned == 1


def test_control_subscribers_run_by_order_then_by_registration() -> None:
    hub = MessageHub("hub")
    notes: list[Any] = []
    for name, order in [("third", 0), ("fourth", 0), ("first", -2), ("last", 7), ("second", -1)]:
        hub.attach(Rule(name, notes), order=order)
    for _ in range(2):
        hub.update_scalar("a", 1.0)
        hub.settle()
        assert [name for name, _ in notes] == ["first", "second", "third", "fourth", "last"]
        notes.clear()
    hub.close()


def test_settling_goes_on_until_nobody_has_anything_left() -> None:
    hub = MessageHub("hub")

    @hub.on("n/*", role="control")
    def count_down(event: ScalarUpdated) -> None:
        if event.value > 0:
            hub.update_scalar(f"n/{int(event.value) - 1}", event.value - 1)

    hub.update_scalar("n/50", 50.0)
    hub.settle()
    assert hub.get_scalar("n/0").current() == 0
    hub.close()


def test_an_endless_answer_is_an_error_that_names_who_goes_on() -> None:
    hub = MessageHub("hub")

    @hub.on("a", role="control", name="echo")
    def echo(event: ScalarUpdated) -> None:
        hub.update_scalar("a", event.value + 1)

    hub.attach(Rule("bystander"), "b")
    hub.update_scalar("a", 1.0)
    with pytest.raises(CycleError, match="echo") as caught:
        hub.settle()
    assert caught.value.names == ("echo",)
    hub.detach("echo")


def test_an_endless_answer_does_not_hide_that_another_failed() -> None:
    hub = MessageHub("hub")

    @hub.on("a", role="control", name="echo")
    def echo(event: ScalarUpdated) -> None:
        hub.update_scalar("a", event.value + 1)

    @hub.on("a", role="control", name="broken")
    def broken(event: ScalarUpdated) -> None:
        raise ValueError("broken")

    hub.update_scalar("a", 1.0)
    with pytest.raises(CycleError) as caught:
        hub.settle()
    assert isinstance(caught.value.__cause__, ControlFailedError)
    assert [str(error) for error in caught.value.__cause__.exceptions] == ["broken"]
    hub.detach("echo")


def test_every_control_subscriber_runs_even_if_others_fail_and_all_errors_are_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = MessageHub("hub")
    failures = hub.subscribe(SubscriberFailed)
    before, after = Rule("before"), Rule("after")
    hub.attach(before)

    @hub.on("a", role="control", name="broken")
    def broken(event: Event) -> None:
        raise ValueError("one")

    @hub.on("a", role="control", name="wrong")
    def wrong(event: Event) -> None:
        raise KeyError("two")

    hub.attach(after)
    hub.update_scalar("a", 1.0)
    with pytest.raises(ControlFailedError) as caught:
        hub.settle()
    assert [type(error) for error in caught.value.exceptions] == [ValueError, KeyError]
    assert ("before", "a") in before.notes
    assert ("after", "a") in after.notes
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "control subscriber 'broken' failed",
        "control subscriber 'wrong' failed",
    ]
    assert failures.statistics().lag == 2
    hub.update_scalar("a", 2.0)
    hub.settle()  # those that failed are gone
    assert {one.name for one in hub.statistics().subscriptions} >= {"before", "after"}
    assert "broken" not in {one.name for one in hub.statistics().subscriptions}
    failures.close()
    hub.close()


@pytest.mark.parametrize("sleep", [asyncio.sleep, anyio.sleep])
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_a_control_subscriber_that_awaits_without_a_loop_is_told_what_to_become(sleep: Any, seconds: float) -> None:
    hub = MessageHub("hub")

    async def sleepy(events: Subscription) -> None:
        async for _ in events:
            await sleep(seconds)

    rule = Rule()
    hub.attach(sleepy, role="control")
    hub.attach(rule)
    hub.update_scalar("a", 1.0)
    with pytest.raises(ControlFailedError) as caught:
        hub.settle()
    (error,) = caught.value.exceptions
    assert isinstance(error, ControlAwaitedError)
    assert "'sleepy'" in str(error)
    assert "observer" in str(error)
    assert ("rule", "a") in rule.notes
    hub.close()


async def test_a_control_subscriber_may_await_in_an_async_program() -> None:
    hub = MessageHub("hub")
    notes: list[str] = []

    async def sleepy(events: Subscription) -> None:
        async for event in events:
            await anyio.sleep(0.001)
            with fail_after(5):
                await to_thread.run_sync(notes.append, event.key)

    async with hub:
        hub.attach(sleepy, role="control")
        for key in "abc":
            hub.update_scalar(key, 1.0)
            await hub.settled(5)
        assert notes == ["a", "b", "c"]


async def test_sync_settle_in_an_async_program_refuses_a_control_subscriber_that_awaits() -> None:
    hub = MessageHub("hub")

    async def sleepy(events: Subscription) -> None:
        async for _ in events:
            await anyio.sleep(0.001)

    hub.attach(sleepy, role="control")
    hub.update_scalar("a", 1.0)
    with pytest.raises(ControlFailedError) as caught:
        hub.settle()
    assert isinstance(caught.value.exceptions[0], ControlAwaitedError)


@pytest.mark.parametrize("verb", ["settle", "flush", "close", "save", "state_dict"])
def test_what_waits_for_a_control_subscriber_cannot_be_called_by_it(verb: str, tmp_path: Any) -> None:
    hub = MessageHub("hub")

    class Saved(Rule):
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

        async def __call__(self, events: Subscription) -> None:
            async for _ in events:
                getattr(hub, verb)(*([tmp_path / "state"] if verb == "save" else []))

    hub.attach(Saved())
    hub.update_scalar("a", 1.0)
    with pytest.raises(ControlFailedError) as caught:
        hub.settle()
    assert isinstance(caught.value.exceptions[0], DeadlockError)


@pytest.mark.parametrize("verb", ["settle", "flush", "settled", "flushed"])
async def test_the_same_holds_in_an_async_program(verb: str) -> None:
    hub = MessageHub("hub")

    async def rule(events: Subscription) -> None:
        async for _ in events:
            result = getattr(hub, verb)()
            if result is not None:
                await result

    hub.attach(rule, role="control")
    hub.update_scalar("a", 1.0)
    with pytest.raises(ControlFailedError) as caught, fail_after(5):
        await hub.settled()
    assert isinstance(caught.value.exceptions[0], DeadlockError)


def test_settling_while_a_request_is_applied_is_refused() -> None:
    hub = MessageHub("hub")
    errors: list[Exception] = []

    @hub.on_request(StopRequested)  # type: ignore[untyped-decorator]
    def apply(request: StopRequested) -> None:
        try:
            hub.settle()
        except DeadlockError as error:
            errors.append(error)
            raise

    hub.request_stop()
    hub.settle()
    assert len(errors) == 1


@pytest.mark.parametrize("verb", ["settle", "flush", "close"])
def test_what_waits_for_observers_cannot_be_called_by_one(verb: str) -> None:
    hub = MessageHub("hub")
    errors: list[BaseException] = []
    told = threading.Event()

    @hub.on("a")
    def observer(event: Event) -> None:
        try:
            getattr(hub, verb)()
        except DeadlockError as error:
            errors.append(error)
        told.set()

    with hub:
        hub.update_scalar("a", 1.0)
        assert told.wait(10)
    assert len(errors) == 1


def test_an_observer_may_settle_another_hub() -> None:
    hub, other = MessageHub("hub"), MessageHub("other")
    rule = Rule()
    other.attach(rule)

    @hub.on("a")
    def observer(event: Event) -> None:
        other.update_scalar("b", 1.0)
        other.settle()

    with hub:
        hub.update_scalar("a", 1.0)
        hub.flush(10)
    assert rule.notes == [("rule", "b")]
    other.close()


async def test_flush_and_save_on_the_observers_own_loop_are_refused(tmp_path: Any) -> None:
    hub = MessageHub("hub")

    class Stateful(Rule):
        role = "observer"

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

        async def __call__(self, events: Subscription) -> None:
            async for _ in events:
                busy.set()
                await go_on.wait()

    busy, go_on = anyio.Event(), anyio.Event()
    async with hub:
        hub.attach(Stateful())
        hub.update_scalar("a", 1.0)
        await busy.wait()
        with pytest.raises(DeadlockError, match="flushed"):
            hub.flush(5)
        with pytest.raises(DeadlockError, match="saved"):
            hub.save(tmp_path / "state", timeout=5)
        with pytest.raises(DeadlockError, match="leave"):
            hub.close()
        go_on.set()
        await hub.flushed(5)


def test_flushing_a_hub_that_is_not_entered_is_refused_if_somebody_would_never_run() -> None:
    hub = MessageHub("hub")
    hub.flush(1)
    hub.attach(Rule("observer"), role="observer")
    with pytest.raises(LifecycleError, match="with hub"):
        hub.flush(1)


def test_settle_gives_up_at_its_timeout() -> None:
    hub = MessageHub("hub")

    @hub.on("a", role="control")
    def slow_echo(event: ScalarUpdated) -> None:
        time.sleep(0.01)
        hub.update_scalar("a", 1.0)

    hub.update_scalar("a", 1.0)
    with pytest.raises(WaitTimeoutError, match="slow_echo"):
        hub.settle(0.03)
    hub.detach(slow_echo)


def test_one_thread_settles_at_a_time_and_the_other_waits_or_gives_up() -> None:
    hub = MessageHub("hub")
    inside, go_on = threading.Event(), threading.Event()

    @hub.on("a", role="control")
    def slow(event: Event) -> None:
        inside.set()
        assert go_on.wait(10)

    hub.update_scalar("a", 1.0)
    thread = threading.Thread(target=hub.settle)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(WaitTimeoutError, match="another thread has been settling"):
        hub.settle(0.01)
    other = threading.Thread(target=hub.settle, args=(10,))
    other.start()
    go_on.set()
    thread.join(10)
    other.join(10)
    assert not thread.is_alive()
    assert not other.is_alive()
    hub.settle(1)
    hub.close()


async def test_settling_twice_at_once_in_an_async_program_is_refused() -> None:
    hub = MessageHub("hub")
    inside, go_on = anyio.Event(), anyio.Event()

    async def slow(events: Subscription) -> None:
        async for _ in events:
            inside.set()
            await go_on.wait()

    hub.attach(slow, role="control")
    hub.update_scalar("a", 1.0)
    with fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(hub.settled)
            await inside.wait()
            with pytest.raises(LifecycleError, match="another settle point"):
                await hub.settled()
            with pytest.raises(DeadlockError):
                hub.settle()
            go_on.set()
    await hub.settled()


async def test_a_control_subscriber_is_cancelled_with_its_settle_point_and_that_is_said() -> None:
    hub = MessageHub("hub")
    cleaned: list[bool] = []

    async def stuck(events: Subscription) -> None:
        try:
            async for _ in events:
                await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    hub.attach(stuck, role="control")
    hub.update_scalar("a", 1.0)
    failures = hub.subscribe(SubscriberFailed)
    with pytest.raises(WaitTimeoutError):
        await hub.settled(0.01)
    assert cleaned == [True]
    assert failures.statistics().lag == 1
    await hub.settled(1)
    failures.close()


def test_a_keyboard_interrupt_in_a_control_subscriber_reaches_the_program() -> None:
    hub = MessageHub("hub")
    rule = Rule()

    @hub.on("a", role="control")
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    hub.attach(rule)
    hub.update_scalar("a", 1.0)
    with pytest.raises(KeyboardInterrupt):
        hub.settle()
    hub.settle()  # the lock is free again, and the others run
    assert rule.notes[0] == ("rule", "a")
    hub.close()


def test_a_control_subscriber_that_returns_is_done() -> None:
    hub = MessageHub("hub")
    notes: list[str] = []

    async def once(events: Subscription) -> None:
        async for event in events:
            notes.append(event.key)
            return

    hub.attach(once, role="control")
    for key in "ab":
        hub.update_scalar(key, 1.0)
        hub.settle()
    assert notes == ["a"]


def test_it_may_return_amid_more_events_than_it_is_handed_at_once() -> None:
    hub = MessageHub("hub")
    notes: list[float] = []

    async def once(events: Subscription) -> None:
        async for event in events:
            notes.append(event.value)  # type: ignore[attr-defined]  # it reads scalars only
            return

    hub.attach(once, role="control")
    for number in range(600):
        hub.update_scalar("a", float(number))
    hub.settle()
    assert notes == [0.0]


def test_control_subscribers_are_handed_the_same_batches_which_nobody_can_change() -> None:
    hub = MessageHub("hub")
    batches: list[Any] = []

    async def rule(events: Subscription) -> None:
        async for batch in events.batches():
            batches.append(batch)

    for name in ("one", "other"):
        hub.attach(rule, role="control", name=name)
    hub.settle()
    hub.update_scalars({"a": 1.0, "b": 2.0})
    hub.settle()
    first, second = batches
    assert first == second
    assert [event.key for event in first] == ["a", "b"]
    assert not hasattr(first, "append")
    hub.update_scalar("a", 3.0)
    hub.settle()
    assert [len(batch) for batch in batches] == [2, 2, 1, 1]
    hub.close()


async def test_it_may_read_single_events_of_a_batch_and_then_the_rest_of_it() -> None:
    hub = MessageHub("hub")
    notes: list[Any] = []

    async def rule(events: Subscription) -> None:
        batches = events.batches()
        while True:
            notes.append((await anext(events)).key)
            notes.append([event.key for event in await anext(batches)])

    hub.attach(rule, role="control")
    for _ in range(2):
        hub.update_scalars({"a": 1.0, "b": 2.0, "c": 3.0})
        hub.settle()
    assert notes == ["a", ["b", "c"]] * 2
    await hub.settled()


LEFT_OUT = r"\s*(asked = run\.send|with |try:|bus\.(busy|_sorting) = False)"
"""What is raised in the first of these lines counts as raised by the rule; in the others no signal comes."""
INSIDE = {SettlePoint.settle, Rounds.run_plainly, SettledSubscription.begin_turn, collect_few}


@pytest.mark.parametrize("answers", [False, True])
def test_an_interrupt_in_any_line_of_a_settle_point_costs_nobody_an_event(answers: bool) -> None:
    hub = MessageHub("hub")
    seen: dict[str, list[float]] = {}

    def attach(name: str) -> None:
        @hub.on("a", role="control", name=name)
        def rule(event: ScalarUpdated) -> None:
            seen.setdefault(name, []).append(event.value)
            if answers:
                hub.update_scalar("answer", event.value)

    for name in ("one", "two", "three"):
        attach(name)
    hub.on("answer", role="control", name="last")(lambda event: None)
    hub.settle()
    codes = {function.__code__ for function in INSIDE}
    for line in range(1, 500):
        hub.update_scalar("a", float(line))
        if not interrupted(hub.settle, line, codes, but=LEFT_OUT):
            break
    else:
        pytest.fail("it has more lines than were tried")
    hub.settle(1)
    assert seen == {name: [float(number) for number in range(1, line + 1)] for name in ("one", "two", "three")}
    thread = threading.Thread(target=hub.settle, args=(10,))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    hub.close()


async def test_a_control_subscriber_may_have_a_timeout_of_its_own_amid_that_of_the_settle_point() -> None:
    hub = MessageHub("hub")
    notes: list[str] = []

    async def rule(events: Subscription) -> None:
        async for event in events:
            with fail_after(5):
                await anyio.sleep(0.001)
                notes.append(event.key)

    hub.attach(rule, role="control")
    await hub.settled(5)
    for _ in range(2):
        hub.update_scalar("a", 1.0)
        await hub.settled(5)
    assert notes == ["a", "a"]


def test_a_control_subscriber_can_be_detached_by_another_one() -> None:
    hub = MessageHub("hub")
    second = Rule("second")

    @hub.on("a", role="control")
    def first(event: Event) -> None:
        attachment.detach()

    attachment = hub.attach(second)
    hub.update_scalar("a", 1.0)
    hub.settle()
    hub.update_scalar("a", 2.0)
    hub.settle()
    assert second.notes == [("second", "a")]
    assert second.cleaned == 1
    hub.close()


@pytest.mark.parametrize("terms", [{}, {"every": 1}, {"overflow": "latest"}])
def test_an_interrupt_before_its_turn_costs_a_control_subscriber_nothing(terms: dict[str, Any]) -> None:
    hub = MessageHub("hub")
    seen: list[float] = []

    async def rule(events: Subscription) -> None:
        async for event in events:
            seen.append(event.value)  # type: ignore[attr-defined]  # it reads scalars only

    attachment = hub.attach(rule, "a", role="control", **terms)
    hub.settle()
    for number in range(3):
        hub.update_scalar("a", float(number))
        hub._bus.collect()
        attachment.subscription.begin_turn()  # type: ignore[attr-defined]  # and there an interrupt came
    hub.settle()
    assert seen == ([0.0, 2.0] if "overflow" in terms else [0.0, 1.0, 2.0])
    assert attachment.statistics().lag == 0


class Slow(Rule):
    """A rule that takes 20 ms for each event."""

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            threading.Event().wait(0.02)


def test_the_hub_knows_what_its_settle_points_took() -> None:
    hub = MessageHub("hub")
    hub.attach(Slow())
    for number in range(1, 4):
        hub.update_scalar("a", 1.0)
        hub.settle()
        statistics = hub.statistics()
        assert statistics.settled_count == number
        assert 0.02 * number <= statistics.settled_seconds < 5


async def test_it_knows_of_those_that_are_awaited_too() -> None:
    hub = MessageHub("hub")
    hub.attach(Slow())
    hub.update_scalar("a", 1.0)
    await hub.settled()
    assert hub.statistics().settled_count == 1
    assert 0.02 <= hub.statistics().settled_seconds < 5
