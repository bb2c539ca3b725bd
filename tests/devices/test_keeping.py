"""Whatever waits, saves or ends accounts for values that are on their way, and says so if one never comes."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asynchub
from asynchub import (
    DeviceLostError,
    Event,
    InfoUpdated,
    Journal,
    MessageHub,
    ScalarLost,
    ScalarUpdated,
    StopRequested,
    recover,
    stations,
)
from asynchub.errors import AsyncHubError, WaitTimeoutError
from asynchub.journal.reading import read_journal
from tests.devices.fake_device import FakeTensor, Machine
from tests.devices.test_publishing import read

ROOT = Path(asynchub.__file__).parent.parent


def soon(call: Callable[[], object]) -> threading.Thread:
    """Have ``call`` done by another thread, a little later."""
    timer = threading.Timer(0.05, call)
    timer.start()
    return timer


class Decides:
    """A control subscriber that says what it read."""

    role = "control"

    def __init__(self, *keys: Any) -> None:
        self.keys = keys
        self.seen: list[Any] = []

    async def __call__(self, events: asynchub.Subscription) -> None:
        async for event in events:
            self.seen.append(getattr(event, "value", type(event).__name__))


# --- readers are woken


@pytest.mark.parametrize("level", [None, "memory", "process", "disk"])
async def test_a_sleeping_observer_is_woken_when_a_value_comes(
    machine: Machine, tmp_path: Path, level: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stations, "FALLBACK_POLL", 60.0)
    hub = MessageHub("hub", latency=0.0)
    seen: list[float] = []
    if level is not None:
        hub.attach(Journal(tmp_path / "journal", level=level))
    hub.on("loss")(lambda event: seen.append(event.value))
    async with hub:
        for number in range(10):
            hub.update_scalar("other", machine.tensor(1.0))
            hub.update_scalar("loss", machine.tensor(float(number)))
            hub.update_scalar("other", 2.0)
            await anyio.wait_all_tasks_blocked()
            machine.advance()
            with anyio.fail_after(20):
                while len(seen) <= number:
                    await anyio.sleep(0.001)
            assert seen[-1] == number


# --- settle and flush


def test_settle_waits_for_what_a_control_subscriber_reads_and_for_nothing_else(
    hub: MessageHub, machine: Machine
) -> None:
    decides = Decides("loss")
    hub.attach(decides)
    hub.update_scalar("other", machine.tensor(1.0))
    hub.update_scalar("unread", 2.0)
    hub.settle()
    assert hub.statistics().held == 2
    hub.update_scalar("loss", machine.tensor(3.0))
    with pytest.raises(WaitTimeoutError, match="on their way"):
        hub.settle(0.01)
    timer = soon(machine.run)
    hub.settle()
    timer.join()
    assert decides.seen == [3.0]


def test_settle_waits_for_a_number_that_stands_behind_a_value(hub: MessageHub, machine: Machine) -> None:
    decides = Decides("number", InfoUpdated)
    hub.attach(decides)
    hub.update_scalar("other", machine.tensor(1.0))
    hub.update_scalar("number", 2.0)
    hub.update_info("info", "x")
    timer = soon(machine.run)
    hub.settle()
    timer.join()
    assert decides.seen == [2.0, "x"]


def test_what_a_control_subscriber_answers_reaches_the_others_in_the_same_settle(
    hub: MessageHub, machine: Machine
) -> None:
    class Answers(Decides):
        async def __call__(self, events: asynchub.Subscription) -> None:
            async for event in events:
                hub.update_scalar("unread", machine.tensor(0.0))  # so that its answer is held
                events.update_scalar("answer", event.value * 10)  # type: ignore[attr-defined]  # a scalar

    second = Decides("answer")
    hub.attach(Answers("loss"))
    hub.attach(second)
    hub.update_scalar("loss", 1.0)
    timer = soon(machine.run)
    hub.settle()
    timer.join()
    assert second.seen == [10.0]


async def test_settled_and_flushed_wait_without_blocking_the_loop(machine: Machine) -> None:
    hub = MessageHub("hub")
    decides = Decides("loss")
    seen: list[float] = []
    hub.attach(decides)
    hub.on("loss")(lambda event: seen.append(event.value))
    async with hub:
        for waiting in (hub.settled, hub.flushed):
            hub.update_scalar("loss", machine.tensor(1.0))
            async with anyio.create_task_group() as group:
                group.start_soon(waiting)
                await anyio.wait_all_tasks_blocked()
                machine.advance()
        assert decides.seen == seen == [1.0, 1.0]


def test_flush_waits_for_every_value(hub: MessageHub, machine: Machine) -> None:
    seen: list[float] = []
    hub.on("loss")(lambda event: seen.append(event.value))
    with hub:
        for number in range(100):
            hub.update_scalar("loss", machine.tensor(float(number)))
        with pytest.raises(WaitTimeoutError):
            hub.flush(0.01)
        timer = soon(machine.run)
        hub.flush()
        assert seen == list(range(100))
        timer.join()


def test_requests_take_effect_though_their_events_are_held(hub: MessageHub, machine: Machine) -> None:
    hub.update_scalar("loss", machine.tensor(1.0))
    hub.request_stop("enough")
    hub.settle()
    assert hub.stop_reason == "enough"
    events = hub.subscribe(StopRequested)
    machine.run()
    hub.flush()
    assert [type(event) for event in read(events)] == [StopRequested]


# --- leaving


def test_leaving_brings_the_last_value_to_every_reader(machine: Machine) -> None:
    seen: list[float] = []
    hub = MessageHub("hub")
    hub.on("loss")(lambda event: seen.append(event.value))
    with hub:
        for number in range(300):
            hub.update_scalar("loss", machine.tensor(float(number)))
        timer = soon(machine.run)
    assert seen == list(range(300))
    timer.join()


async def test_leaving_an_async_hub_does_too(machine: Machine) -> None:
    seen: list[float] = []
    hub = MessageHub("hub")
    hub.on("loss")(lambda event: seen.append(event.value))
    async with hub:
        for number in range(300):
            hub.update_scalar("loss", machine.tensor(float(number)))
        timer = soon(machine.run)
    assert seen == list(range(300))
    timer.join()


def test_leaving_gives_up_a_device_that_does_not_answer(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("hub", drain_timeout=0.05)
    with pytest.raises(WaitTimeoutError, match="on their way"), hub:
        hub.update_scalar("loss", machine.tensor(1.0))
    machine.run()
    assert hub.get_scalar("loss").data[0].tolist() == [1.0]


# --- states


SAVING: dict[str, Callable[[MessageHub, Path], dict[str, Any]]] = {
    "state_dict": lambda hub, path: hub.state_dict(),
    "save": lambda hub, path: loaded(hub.save(path / "state.ahs")),
    "async_save": lambda hub, path: loaded(hub.async_save(path / "state.ahs").wait(30)),
    "pickle": lambda hub, path: pickle.loads(pickle.dumps(hub)).state_dict(),  # our own
}


def loaded(path: Path) -> dict[str, Any]:
    hub = MessageHub("loaded")
    hub.load(path)
    return hub.state_dict()


@pytest.mark.parametrize("way", SAVING)
def test_a_state_holds_all_that_was_published_before_it(
    hub: MessageHub, machine: Machine, tmp_path: Path, way: str
) -> None:
    for number in range(10):
        hub.update_scalar("loss", machine.tensor(float(number)))
        hub.update_scalar("number", number)
        hub.update_info("iter", number)
    timer = soon(machine.run)
    state = SAVING[way](hub, tmp_path)
    timer.join()
    assert state["log_scalars"]["loss"].data[0].tolist() == list(range(10))
    assert state["log_scalars"]["number"].data[0].tolist() == list(range(10))
    assert state["runtime_info"]["iter"] == 9


@pytest.mark.parametrize("way", SAVING)
def test_a_state_can_be_taken_while_other_threads_publish_without_end(
    hub: MessageHub, machine: Machine, tmp_path: Path, way: str
) -> None:
    machine.run()
    stop = threading.Event()

    def publish(name: int) -> None:
        number = 0
        while not stop.is_set():
            hub.update_scalar(f"{name}", machine.tensor(float(number)))
            number += 1

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        state = SAVING[way](hub, tmp_path)
        for history in state["log_scalars"].values():
            values = history.data[0].tolist()
            assert values == list(range(len(values)))
    stop.set()
    for thread in threads:
        thread.join()


async def test_saved_waits_without_blocking_the_loop(machine: Machine, tmp_path: Path) -> None:
    hub = MessageHub("hub")
    async with hub:
        hub.update_scalar("loss", machine.tensor(4.0))
        async with anyio.create_task_group() as group:
            group.start_soon(hub.saved, tmp_path / "state.ahs")
            await anyio.wait_all_tasks_blocked()
            machine.advance()
    assert loaded(tmp_path / "state.ahs")["log_scalars"]["loss"].current() == 4.0


def test_a_state_that_is_loaded_replaces_what_was_published_before(hub: MessageHub, machine: Machine) -> None:
    hub.update_scalar("loss", 1.0)
    state = hub.state_dict()
    hub.update_scalar("loss", machine.tensor(2.0))
    timer = soon(machine.run)
    hub.load_state_dict(state)
    timer.join()
    hub.update_scalar("loss", machine.tensor(3.0))
    assert hub.get_scalar("loss").data[0].tolist() == [1.0, 3.0]


# --- the journal


@pytest.mark.parametrize("level", ["memory", "process", "disk"])
def test_a_journal_has_every_value_in_its_place(hub: MessageHub, machine: Machine, tmp_path: Path, level: Any) -> None:
    hub.update_scalar("loss", machine.tensor(-1.0))
    timer = soon(machine.advance)
    journal = Journal(tmp_path / "run" / "journal", level=level)
    hub.attach(journal)  # waits, or it would begin amid what was published
    timer.join()
    for number in range(50):
        hub.update_scalar("loss", machine.tensor(float(number)))
        hub.update_scalar("number", number)
        hub.update_info("info", number)
    timer = soon(machine.run)
    hub.commit()
    timer.join()
    assert read_journal(tmp_path / "run" / "journal").last_seq == 151
    hub.detach(journal)
    back = recover(tmp_path / "run")
    assert back.get_scalar("loss").data[0].tolist() == [-1.0, *range(50)]
    assert back.get_scalar("number").data[0].tolist() == list(range(50))
    assert back.get_info("info") == 49


async def test_committed_waits_for_values(machine: Machine, tmp_path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(Journal(tmp_path / "journal"))
    async with hub:
        hub.update_scalar("loss", machine.tensor(4.0))
        async with anyio.create_task_group() as group:
            group.start_soon(hub.committed)
            await anyio.wait_all_tasks_blocked()
            machine.advance()
        assert read_journal(tmp_path / "journal").last_seq == 1


def test_a_mark_is_in_the_journal_when_it_is_returned(hub: MessageHub, machine: Machine, tmp_path: Path) -> None:
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.update_scalar("loss", machine.tensor(1.0))
    timer = soon(machine.run)
    mark = hub.mark()
    timer.join()
    hub.update_scalar("loss", machine.tensor(2.0))
    hub.close()
    assert recover(tmp_path / "run", mark=mark).get_scalar("loss").data[0].tolist() == [1.0]


KILLED = """
import os, sys, threading
from asynchub import Journal, MessageHub, register_backend
from tests.devices.fake_device import FakeBackend, Machine
machine = Machine()
register_backend(machine.device.type, lambda device: FakeBackend(machine))
hub = MessageHub("hub")
hub.attach(Journal(sys.argv[1]))
hub.update_scalar("loss", 0.5)
for number in range(20):
    hub.update_scalar("loss", machine.tensor(float(number)))
machine.run()
hub.get_scalar("loss").current()  # they have come
os.kill(os.getpid(), 9)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def test_a_value_that_came_survives_a_kill(tmp_path: Path) -> None:
    done = run(KILLED, tmp_path / "run" / "journal")
    assert done.returncode == -9, done.stderr
    back = recover(tmp_path / "run")
    assert back.get_scalar("loss").data[0].tolist() == [0.5, *range(20)]


# --- a device that fails


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asynchub")


@pytest.mark.usefixtures("quiet")
def test_what_was_on_a_device_that_dies_is_said_in_its_place_and_numbers_go_on(
    hub: MessageHub, machine: Machine
) -> None:
    events = hub.subscribe()
    hub.update_scalar("loss", machine.tensor(1.0))
    machine.advance()
    hub.get_scalar("loss").current()
    hub.update_scalars({"before": 1.0, "loss": {"value": machine.tensor(2.0), "count": 4}, "after": 2.0}, step=3)
    hub.update_info("info", "x")
    begun = time.monotonic()
    machine.die(RuntimeError("an illegal memory access was encountered"))
    with pytest.raises(DeviceLostError, match="illegal memory access") as raised:
        hub.flush(10)
    assert time.monotonic() - begun < 1
    assert raised.value.device == str(machine.device)
    assert isinstance(raised.value.__cause__, RuntimeError)
    hub.flush()  # it was said
    got = read(events)
    kinds = [ScalarUpdated, ScalarUpdated, ScalarLost, ScalarUpdated, InfoUpdated]
    assert [(event.seq, type(event)) for event in got] == list(enumerate(kinds, 1))
    lost: Any = got[2]
    assert (lost.key, lost.scalar, lost.count, lost.step) == ("hub/scalar_lost", "loss", 4, 3)
    assert "illegal memory access" in lost.error
    assert hub.get_scalar("loss").data[0].tolist() == [1.0]
    assert hub.get_scalar("after").data[0].tolist() == [2.0]
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        hub.update_scalar("loss", machine.tensor(3.0))
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        hub.update_scalars({"x": 1.0, "loss": machine.tensor(3.0)})
    hub.update_scalar("loss", 4.0)
    assert hub.get_scalar("loss").data[0].tolist() == [1.0, 4.0]
    assert "x" not in hub.log_scalars
    assert hub.statistics().devices[-1].lost


@pytest.mark.usefixtures("quiet")
def test_a_device_that_fails_at_the_call_raises_there(hub: MessageHub, machine: Machine) -> None:
    hub.update_scalar("loss", machine.tensor(1.0))
    machine.die(RuntimeError("gone"))
    with pytest.raises(DeviceLostError, match="gone"):
        hub.update_scalar("loss", machine.tensor(1.0))
    with pytest.raises(DeviceLostError, match="gone"):
        hub.flush()
    assert hub.get_scalar("loss").data[0].tolist() == []


@pytest.mark.usefixtures("quiet")
def test_leaving_says_that_a_device_was_lost(machine: Machine) -> None:
    hub = MessageHub("hub")
    hub.__enter__()
    hub.update_scalar("loss", machine.tensor(1.0))
    machine.die(RuntimeError("gone"))
    with pytest.raises(DeviceLostError, match="gone"):
        hub.__exit__(None, None, None)


def test_an_error_that_is_not_the_devices_is_the_callers(hub: MessageHub, machine: Machine) -> None:
    class Odd(FakeTensor):
        def reshape(self, shape: tuple[int, ...]) -> FakeTensor:
            raise ValueError("odd")

        def dim(self) -> int:
            return 1

    with pytest.raises(ValueError, match="odd"):
        hub.update_scalar("loss", Odd(machine, machine.tensor(1.0).data))
    machine.run()
    hub.update_scalar("loss", machine.tensor(2.0))
    assert hub.get_scalar("loss").data[0].tolist() == [2.0]


@pytest.mark.usefixtures("quiet")
def test_a_lost_scalar_is_in_the_journal(hub: MessageHub, machine: Machine, tmp_path: Path) -> None:
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.update_scalar("loss", 1.0)
    hub.update_scalar("loss", machine.tensor(2.0))
    hub.update_scalar("loss", 3.0)
    machine.die(RuntimeError("gone"))
    with pytest.raises(DeviceLostError):
        hub.close()
    back = recover(tmp_path / "run")
    assert back.get_scalar("loss").data[0].tolist() == [1.0, 3.0]


# --- the end of a process


PROGRAM = """
import os, sys, time, logging
logging.disable(logging.CRITICAL)
import asynchub.devices.ending as ending
from asynchub import MessageHub, register_backend
from tests.devices.fake_device import FakeBackend, Machine
machine = Machine()
register_backend(machine.device.type, lambda device: FakeBackend(machine))
hub = MessageHub("hub")
seen = []
hub.on("loss")(lambda event: seen.append(event.value))
"""


def test_the_end_of_a_program_waits_for_values_and_readers_get_them() -> None:
    first = "import atexit, os\natexit.register(lambda: os.write(1, str(len(seen)).encode()))\n"
    script = """
import threading
hub.__enter__()
for number in range(100):
    hub.update_scalar("loss", machine.tensor(float(number)))
timer = threading.Thread(target=lambda: (time.sleep(0.3), machine.run()), daemon=True)
timer.start()
"""
    done = run(first + PROGRAM + script)
    assert (done.returncode, done.stdout) == (0, "100"), done.stderr


def test_the_end_of_a_program_gives_up_a_device_that_does_not_answer() -> None:
    done = run(PROGRAM + "ending.EXIT = 0.3\nhub.update_scalar('loss', machine.tensor(1.0))\n")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_publishes_numbers_refuses_tensors_and_ends() -> None:
    script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
from asynchub import DeviceLostError
hub.update_scalar("loss", 1.0)
hub.update_scalar("loss", machine.tensor(2.0))
hub.update_scalar("loss", 3.0)
child = os.fork()
if not child:
    try:
        hub.update_scalar("loss", machine.tensor(4.0))
    except DeviceLostError as error:
        print("fork" in str(error))
    hub.update_scalar("loss", 5.0)
    print(hub.get_scalar("loss").data[0].tolist())
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
machine.run()
print(hub.get_scalar("loss").data[0].tolist())
"""
    done = run(PROGRAM + script)
    assert done.stdout.splitlines() == ["True", "[1.0, 3.0, 5.0]", "0", "[1.0, 2.0, 3.0]"], done.stderr


def test_errors_of_devices_are_errors_of_the_package() -> None:
    assert issubclass(DeviceLostError, AsyncHubError)
    assert issubclass(DeviceLostError, RuntimeError)
    assert issubclass(ScalarLost, Event)
