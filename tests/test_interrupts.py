"""An exception amid an update leaves it whole or undone, and the lock free."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from asynchub import MessageHub, StopRequested
from asynchub.bus import EventBus
from asynchub.live import LiveDict
from asynchub.record import Record
from asynchub.recording import Recording
from tests.interrupting import Interrupt, codes_of, interrupted

CODE = codes_of(Record, Recording, LiveDict, EventBus)
OUTSIDE = {Record._let_go.__code__, EventBus.attend.__code__}  # clean-up itself, and what comes after the update


def picture(hub: MessageHub) -> dict[str, Any]:
    """Return all that the record holds."""
    return {
        "scalars": {key: [column.tolist() for column in history.records()] for key, history in hub.log_scalars.items()},
        "infos": dict(hub.runtime_info),
        "flags": dict(hub._resumed_keys),
        "stamps": dict(hub._info_stamps),
        "step": hub.step,
    }


def logged(hub: MessageHub) -> dict[str, list[int]]:
    """Return the seqs of what was published, by key."""
    hub._bus.collect()
    found: dict[str, list[int]] = {}
    for event in hub._bus.channels[0].between(hub._bus.channels[0].base, hub._bus.channels[0].end):
        found.setdefault(event.key, []).append(event.seq)
    return found


UPDATES: dict[str, Callable[[MessageHub, int], object]] = {
    "update_scalar": lambda hub, n: hub.update_scalar("a", float(n)),
    "update_scalar of a new key": lambda hub, n: hub.update_scalar(f"new/{n}", n, 2),
    "update_scalars": lambda hub, n: hub.update_scalars({"a": 1.0, "b": {"value": n, "count": 3}, "c": 0.5}),
    "update_scalars with new keys": lambda hub, n: hub.update_scalars({"a": 1.0, f"new/{n}": 2.0, f"newer/{n}": 3.0}),
    "update_info": lambda hub, n: hub.update_info("epoch", n),
    "update_info_dict": lambda hub, n: hub.update_info_dict({"epoch": n, "iter": n, f"new/{n}": "x"}),
}


@pytest.mark.parametrize("name", UPDATES)
def test_an_interrupt_in_any_line_of_an_update_leaves_all_of_it_or_nothing(name: str) -> None:
    hub = MessageHub("hub")
    hub.update_scalars({"a": 0.0, "b": 0.0})
    hub.update_info("epoch", 0)
    events = hub.subscribe()
    whole = undone = 0
    for line in range(1, 200):
        before, log_before, seq = picture(hub), logged(hub), hub.statistics().seq
        came = interrupted(lambda n=line: UPDATES[name](hub, n), line, CODE - OUTSIDE)  # type: ignore[misc]
        assert_free(hub)
        if picture(hub) == before:
            assert logged(hub) == log_before
            assert hub.statistics().seq == seq
            undone += 1
        else:
            new = {key: column[0] for key, column in picture(hub)["scalars"].items()}
            for key, (seqs, *columns) in picture(hub)["scalars"].items():
                assert {len(column) for column in columns} == {len(seqs)}, key
            published = logged(hub)
            for key, seqs in new.items():
                assert [seq for seq in seqs if seq in published.get(key, [])] == published.get(key, [])
            lengths = [len(published.get(key, [])) - len(log_before.get(key, [])) for key in published]
            assert sum(lengths) == hub.statistics().seq - seq == expected_size(name)
            whole += 1
        if not came:
            break
    else:
        pytest.fail("the update has more lines than were tried")
    assert undone
    assert whole
    events.close()


def expected_size(name: str) -> int:
    return 3 if name.startswith(("update_scalars", "update_info_dict")) else 1


def assert_free(hub: MessageHub) -> None:
    """Check that another thread can publish; it would hang where the lock was not let go."""
    lock = hub._bus.lock
    free: list[bool] = []

    def take() -> None:
        free.append(lock.acquire(timeout=5))
        if free[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert free == [True]
    assert not hub._bus.busy


@pytest.fixture
def alarms() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarms")
def test_interrupts_at_random_moments_leave_log_and_histories_the_same() -> None:
    armed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        if armed:
            raise Interrupt

    signal.signal(signal.SIGALRM, interrupt)
    hub = MessageHub("hub")
    events = hub.subscribe(max_lag=1 << 30)
    calls = interrupts = 0
    gc.collect()
    gc.disable()  # an interrupt that falls in a finalizer is swallowed
    while interrupts < 300:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + (interrupts % 37) * 1e-6, 1e-2)  # again, if it was swallowed
            while True:
                calls += 1
                hub.update_scalar("a", 1.0)
                hub.update_scalars({"b": 1.0, "c": 2.0})
        except Interrupt:
            armed = False
            interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.enable()
    assert_free(hub)
    seqs = logged(hub)
    for key, history in hub.log_scalars.items():
        assert history.records().seqs.tolist() == seqs[key]
    everything = sorted(seq for of_key in seqs.values() for seq in of_key)
    assert everything == list(range(1, hub.statistics().seq + 1))
    assert len(seqs["b"]) == len(seqs["c"])
    assert calls - interrupts <= len(seqs["a"]) <= calls
    events.close()


@pytest.mark.usefixtures("alarms")
def test_a_signal_handler_may_publish_amid_a_publish_of_its_thread() -> None:
    hub = MessageHub("hub")
    events = hub.subscribe(max_lag=1 << 30)
    handled = 0

    def publish(number: int, frame: FrameType | None) -> None:
        nonlocal handled
        handled += 1
        hub.update_scalar("from/handler", handled)
        hub.update_scalars({"from/handlers": handled})
        hub.update_info("info", handled)
        hub.request(StopRequested(reason="signal"))

    signal.signal(signal.SIGALRM, publish)
    signal.setitimer(signal.ITIMER_REAL, 5e-4, 5e-4)
    calls = 0
    while handled < 300:
        calls += 1
        hub.update_scalar("a", 1.0)
        hub.update_info("b", 1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    hub.update_scalar("a", 1.0)
    calls += 1
    seqs = logged(hub)
    assert sum(map(len, seqs.values())) == hub.statistics().seq
    assert [
        event.seq for event in hub._bus.channels[0].between(hub._bus.channels[0].base, hub._bus.channels[0].end)
    ] == list(range(1, hub.statistics().seq + 1))
    assert len(seqs["a"]) == calls
    for key in ("from/handler", "from/handlers", "info", "hub/stop_requested"):
        assert len(seqs[key]) == handled
    # in whatever order: the next signal may break into a handler that has counted and not yet published
    assert sorted(hub.get_scalar("from/handler").data[0].tolist()) == list(range(1, handled + 1))
    assert hub.apply_requests() == handled
    events.close()


def test_a_finalizer_may_publish_amid_a_publish_of_its_thread() -> None:
    hub = MessageHub("hub")
    events = hub.subscribe(max_lag=1 << 30)
    published = 0

    class Dying:
        def __init__(self) -> None:
            self.me = self  # only the cyclic collector can end it, wherever it happens to run

        def __del__(self) -> None:
            nonlocal published
            published += 1
            hub.update_scalar("a", -1.0)

    before = gc.get_threshold()
    gc.set_threshold(7)
    try:
        for number in range(3000):
            Dying()
            hub.update_scalar("a", float(number))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    hub.update_scalar("a", 3000.0)
    assert published == 3000
    values = hub.get_scalar("a").data[0]
    assert values[values >= 0].tolist() == list(range(3001))
    assert hub.get_scalar("a").records().seqs.tolist() == logged(hub)["a"] == list(range(1, 6002))
    events.close()


def test_an_update_that_fails_in_a_signal_handler_is_said_and_the_other_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = MessageHub("hub")
    hub.update_scalar("a", 1.0)
    with hub._bus.lock:
        hub._bus.busy = True  # as amid an update
        hub.update_scalar("a", 2.0, resumed=False)
        hub._bus.busy = False
    hub.update_scalar("a", 3.0)
    assert hub.get_scalar("a").data[0].tolist() == [1.0, 3.0]
    assert [record.exc_info[0].__name__ for record in caplog.records if record.exc_info and record.exc_info[0]] == [
        "ResumedFlagError"
    ]
