"""The reducer of a run with one rank; its arguments; how it waits in async programs, and how it ends."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from typing import Any, cast

import anyio
import pytest

from asynchub import ConsoleLogger, EarlyStopping, HistoryBuffer
from asynchub.bridges.exchanging import pack_request, unpack_request
from asynchub.bridges.reducer import Reducer
from asynchub.bridging import ScalarsReduced
from asynchub.errors import ArgumentError, CorruptStateError, PatternError, UnsupportedTypesError
from asynchub.hub import MessageHub
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, Request, StopRequested
from tests.bridges.ranks import Rank, run_ranks


def results(hub: MessageHub, key: str) -> list[tuple[float, int]]:
    history = hub.get_scalar(f"all/{key}")
    assert isinstance(history, HistoryBuffer)
    values, counts = history.data
    return list(zip(values.tolist(), counts.tolist(), strict=True))


# --- one rank


def test_one_rank_gets_its_own_scalars_interval_by_interval() -> None:
    hub = MessageHub("one")
    Reducer(hub, {"train/loss": "mean", "train/tokens": "sum", "train/norm": "max", "lr": "last"}, every=3)
    with hub:
        for hub.step in range(1, 8):
            hub.update_scalar("train/loss", 2.0 * hub.step, count=2)
            hub.update_scalar("train/tokens", 100)
            hub.update_scalar("train/norm", math.nan if hub.step == 5 else 1.0 / hub.step)
            hub.update_scalar("lr", 1.0 / hub.step)
            hub.settle()
    assert results(hub, "train/loss") == [(12.0, 6), (30.0, 6), (14.0, 2)]
    assert results(hub, "train/tokens") == [(300.0, 1), (300.0, 1), (100.0, 1)]
    first, second, third = results(hub, "train/norm")
    assert (first, third) == ((1.0, 1), (1.0 / 7, 1))
    assert math.isnan(second[0])
    assert results(hub, "lr") == [(1 / 3, 1), (1 / 6, 1), (1 / 7, 1)]


def test_what_was_reduced_is_said_with_the_step_it_goes_up_to() -> None:
    hub = MessageHub("said")
    Reducer(hub, {"train/loss": "mean"}, every=2)
    said: list[Any] = []
    hub.on(ScalarsReduced, role="control")(said.append)
    with hub:
        for hub.step in range(1, 5):
            hub.update_scalar("train/loss", math.inf)
            hub.settle()
    (event,) = said
    assert (event.ranks, event.interval, event.step) == (1, 0, 2)
    assert event.keys == {"train/loss": {"lowest": 0, "highest": 0, "non_finite": 2}}


def test_rules_and_loggers_read_results_as_any_other_scalar(capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("rules")
    Reducer(hub, {"val/*": "mean"})
    hub.attach(EarlyStopping("all/val/loss", patience=2))
    hub.attach(ConsoleLogger("all/**"))
    with hub:
        for hub.step in range(1, 20):
            hub.update_scalar("val/loss", 12.0 / min(hub.step, 3), count=4)
            hub.settle()
            if hub.stop_requested:
                break
    assert hub.step == 5  # 3, 1.5, 1, 1, 1
    assert "all/val/loss" in hub.stop_reason
    shown = capsys.readouterr().out
    assert "all/val/loss" in shown
    assert "3.000" in shown


def test_a_reducer_needs_neither_torch_nor_a_thread_with_one_rank() -> None:
    code = (
        "import sys, threading\n"
        "from asynchub.hub import MessageHub\n"
        "from asynchub.bridges.reducer import Reducer\n"
        "hub = MessageHub('alone')\n"
        "Reducer(hub, {'loss': 'mean'}, every=1)\n"
        "with hub:\n"
        "    for hub.step in (1, 2):\n"
        "        hub.update_scalar('loss', 1.0)\n"
        "        hub.settle()\n"
        "        assert threading.active_count() == 1\n"
        "assert hub.get_scalar('all/loss').data[0].tolist() == [1.0, 1.0]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_request_is_applied_within_two_intervals_once_for_each_id() -> None:
    hub = MessageHub("asked")
    reducer = Reducer(hub, {"train/*": "mean"}, every=2)
    saved: list[tuple[int, str]] = []
    hub.on_request(CheckpointRequested, lambda request: saved.append((hub.step, request.reason)))
    reducer.request(CheckpointRequested(reason="before the first settle point"))
    with hub:
        for hub.step in range(1, 9):
            if hub.step in (3, 4):
                reducer.request(CheckpointRequested(reason="asked twice", id="one"))
            hub.settle()
    assert saved == [(4, "before the first settle point"), (6, "asked twice")]


def test_a_request_may_come_from_any_thread() -> None:
    hub = MessageHub("threads")
    reducer = Reducer(hub, {"train/*": "mean"}, every=1)
    with hub:
        hub.settle()
        threads = [threading.Thread(target=reducer.request, args=(StopRequested(reason="stop"),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for hub.step in (1, 2):
            hub.settle()
        assert hub.stop_reason == "stop"


def test_a_request_comes_back_from_its_bytes_as_it_was() -> None:
    request = ParameterChangeRequested(name="lr", value=[1, None, "x"], group=3, reason="why", author="ada", id="7")
    assert unpack_request(pack_request(request)) == request


def test_what_is_no_request_or_cannot_be_sent_is_refused_at_once() -> None:
    reducer = Reducer(MessageHub("refused"), {"train/*": "mean"})
    with pytest.raises(ArgumentError):
        reducer.request(cast("Request", "stop"))
    with pytest.raises(UnsupportedTypesError):
        reducer.request(ParameterChangeRequested(name="f", value=lambda: None))


def test_a_request_of_an_unknown_kind_is_said_to_be_one() -> None:
    class Odd(Request):
        key = "odd"

    packed = pack_request(Odd())
    Odd.__qualname__ = "Renamed"
    with pytest.raises(CorruptStateError, match="has not loaded"):
        unpack_request(packed)


def test_a_run_that_goes_back_reduces_again_from_there() -> None:
    hub = MessageHub("back")
    Reducer(hub, {"n": "sum"}, every=5)
    with hub:
        for steps in (range(1, 12), range(3, 12)):
            for hub.step in steps:
                hub.update_scalar("n", 1)
                hub.settle()
    assert [value for value, _ in results(hub, "n")] == [5.0, 5.0, 4.0, 5.0, 1.0]


def test_steps_may_be_left_out_between_settle_points() -> None:
    hub = MessageHub("rare")
    Reducer(hub, {"n": "sum"}, every=10)
    with hub:
        for hub.step in range(1, 100):
            hub.update_scalar("n", 1)
            if hub.step % 33 == 0:
                hub.settle()
    assert [value for value, _ in results(hub, "n")] == [33.0, 33.0, 33.0]


def test_a_closed_reducer_has_published_what_was_left_and_reads_no_more() -> None:
    hub = MessageHub("closed")
    reducer = Reducer(hub, {"n": "sum"}, every=10)
    reducer.close()
    reducer = Reducer(hub, {"n": "sum"}, every=10)
    with hub:
        hub.update_scalar("n", 1)
        hub.settle()
        hub.update_scalar("n", 2)
        reducer.close()
        assert results(hub, "n") == [(3.0, 1)]
        reducer.close()
        hub.update_scalar("n", 4)
        hub.step = 20
        hub.settle()
    assert results(hub, "n") == [(3.0, 1)]


async def test_an_async_program_has_the_same_results() -> None:
    hub = MessageHub("async")
    Reducer(hub, {"n": "sum"}, every=2)
    with anyio.fail_after(10):
        async with hub:
            for hub.step in range(1, 5):
                hub.update_scalar("n", hub.step)
                await hub.settled()
    assert results(hub, "n") == [(3.0, 1), (7.0, 1)]


# --- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"every": 0},
        {"every": 2.5},
        {"every": True},
        {"capacity": 0},
        {"timeout": 0},
        {"timeout": math.nan},
        {"timeout": "30"},
        {"keys": "any"},
        {"prefix": ""},
        {"name": ""},
        {"group": "dp"},
    ],
    ids=lambda arguments: "-".join(f"{name}={value}" for name, value in arguments.items()),
)
def test_an_argument_out_of_range_is_refused_and_leaves_no_trace(arguments: dict[str, Any]) -> None:
    hub = MessageHub("bad")
    with pytest.raises(ArgumentError):
        Reducer(hub, {"train/*": "mean"}, **arguments)
    assert hub.statistics().subscriptions == ()


def test_a_malformed_pattern_is_refused() -> None:
    with pytest.raises(PatternError):
        Reducer(MessageHub("bad"), {"train/**x": "mean"})


def test_a_reducer_wants_a_hub() -> None:
    with pytest.raises(ArgumentError, match="hub"):
        Reducer(cast("MessageHub", {"train/*": "mean"}), {"train/*": "mean"})


# --- several ranks


def awaited(rank: Rank) -> list[Any]:
    """Wait for a rank that is late, on each kind of loop, and count what else the loop does meanwhile."""
    return [anyio.run(wait_for_the_late, rank, backend, backend=backend) for backend in ("asyncio", "trio")]


async def wait_for_the_late(rank: Rank, backend: str) -> Any:
    hub = MessageHub(backend)
    Reducer(hub, {"val/loss": "mean", "train/n": "sum"}, every=2, name=backend)
    ticks, ended = 0, False

    async def tick() -> None:
        nonlocal ticks
        while not ended:
            await anyio.sleep(0.01)
            ticks += 1

    async with anyio.create_task_group() as tasks, hub:
        for hub.step in range(1, 5):
            hub.update_scalar("train/n", 1)
            await hub.settled()
        hub.update_scalar("val/loss", float(rank.index))
        if rank.index == 1:
            time.sleep(0.3)  # as a rank that is slower
        tasks.start_soon(tick)
        await hub.settled()
        waited = ticks
        hub.update_scalar("val/loss", float(rank.index))
        hub.settle()  # it blocks the loop, as it always does
        ended = True
    return waited, results(hub, "val/loss"), results(hub, "train/n")


def failing(rank: Rank) -> Any:
    """Leave with an exception on one rank, while the others go on for a while."""
    hub = MessageHub("failing")
    Reducer(hub, {"train/n": "sum"}, every=2, name="failing")
    begun = time.monotonic()
    try:
        with hub:
            for hub.step in range(1, 20):
                hub.update_scalar("train/n", 1)
                hub.settle()
                if rank.index == 1 and hub.step == 5:
                    begun = time.monotonic()
                    raise ZeroDivisionError
            begun = time.monotonic()
    except ZeroDivisionError:
        return time.monotonic() - begun, "raised"
    return time.monotonic() - begun, ""


def stays_away(rank: Rank) -> Any:
    """Have one rank never come to its end."""
    hub = MessageHub("away")
    Reducer(hub, {"train/n": "sum"}, every=2, timeout=0.5, name="away")
    with hub:
        for hub.step in range(1, 4):
            hub.update_scalar("train/n", 1)
            hub.settle()
        if rank.index == 1:
            rank.together()
        begun = time.monotonic()
    took = time.monotonic() - begun
    if rank.index == 0:
        rank.together()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("asynchub")]
    return took, left


def several(rank: Rank) -> Any:
    found = []
    for scenario in (awaited, failing, stays_away):
        rank.together()
        found.append(scenario(rank))
    return found


def test_ranks_await_each_other_leave_with_an_exception_and_end_alone_without_hanging() -> None:
    zero, one = run_ranks(2, several)
    for kind in range(2):
        ticks, losses, counts = zero[0][kind]
        assert ticks >= 5  # the loop went on
        assert losses == [(1.0, 2), (1.0, 2)]
        assert counts == [(4.0, 1), (4.0, 1)]
        assert one[0][kind][1:] == (losses, counts)
    assert zero[1][1] == ""
    assert one[1][1] == "raised"
    assert one[1][0] < 3
    assert zero[1][0] < 8
    assert zero[2][0] < 3
    assert zero[2][1] == []
