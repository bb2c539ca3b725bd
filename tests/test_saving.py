"""Saving in the background: it returns at once, writes the newest, hides no failure, and ends with the hub."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asynchub import MessageHub, PendingSave, SaveFailed, StateSaved, Subscription
from asynchub.errors import DeadlockError, SaveFailedError, StateDictError, UnsupportedTypesError, WaitTimeoutError
from asynchub.snapshot import read_head

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals")


class Held:
    """A stateful observer that stays at its first event until it is let go."""

    def __init__(self) -> None:
        self.inside, self.let_go = threading.Event(), threading.Event()
        self.total = 0.0

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            self.inside.set()
            while not self.let_go.is_set():
                await anyio.sleep(0.0005)
            self.total += getattr(event, "value", 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


@pytest.fixture
def held() -> Iterator[Held]:
    one = Held()
    yield one
    one.let_go.set()


class Gate:
    """Holds up every flush of a file to the disk, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.flushes = 0
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.flushes += 1
            self.reached.set()
            assert self.open.wait(30)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    one = Gate(monkeypatch)
    yield one
    one.open.set()


def broken_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fsync)


def current(path: Path) -> float:
    hub = MessageHub("reader")
    hub.load(path)
    return float(hub.get_scalar("loss").current())


def told(hub: MessageHub) -> list[Any]:
    """Return a list that grows, at settle points, by what is published about saves."""
    events: list[Any] = []
    hub.on(StateSaved, SaveFailed, role="control")(events.append)
    return events


def test_it_returns_before_the_observers_and_the_disk_are_done(tmp_path: Path, held: Held, gate: Gate) -> None:
    hub = MessageHub("hub")
    hub.attach(held)
    with hub:
        hub.update_scalar("loss", 1.0)
        assert held.inside.wait(10)
        pending = hub.async_save(tmp_path / "state")
        hub.update_scalar("loss", 2.0)
        assert isinstance(pending, PendingSave)
        assert (pending.done, pending.error, pending.seq) == (False, None, 1)
        assert "under way" in repr(pending)
        with pytest.raises(WaitTimeoutError, match="not written after"):
            pending.wait(0.01)
        assert not gate.reached.is_set()
        held.let_go.set()
        assert gate.reached.wait(10)
        assert not (tmp_path / "state").exists()
        gate.open.set()
        assert pending.wait(10) == pending.path == tmp_path / "state"
        assert pending.done
        assert current(tmp_path / "state") == 1.0
    assert os.listdir(tmp_path) == ["state"]


async def test_a_save_is_awaited(tmp_path: Path, held: Held) -> None:
    hub = MessageHub("hub")
    with fail_after(30):
        async with hub:
            hub.attach(held)
            hub.update_scalar("loss", 1.0)
            pending = hub.async_save(f"{tmp_path}/")
            with pytest.raises(WaitTimeoutError):
                await pending.waited(0.001)
            held.let_go.set()
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(pending.waited, 20)
            assert await pending.waited() == tmp_path / f"{1:020d}.ahs"
    assert current(tmp_path) == 1.0


def test_of_several_that_wait_only_the_newest_is_written(tmp_path: Path, gate: Gate) -> None:
    hub = MessageHub("hub")
    events = told(hub)
    saves = []
    for number in range(6):
        hub.update_scalar("loss", float(number))
        saves.append(hub.async_save(f"{tmp_path}/run/", keep=9))
        if number == 0:
            assert gate.reached.wait(10)
    gate.open.set()
    assert [save.wait(10) for save in saves] == [saves[0].path] + 5 * [saves[5].path]
    assert [save.seq for save in saves] == [1, 6, 6, 6, 6, 6]
    assert sorted(os.listdir(tmp_path / "run")) == [f"{seq:020d}.ahs" for seq in (1, 6)]
    hub.settle()
    assert [(type(event), event.saved_seq) for event in events] == [(StateSaved, 1), (StateSaved, 6)]


def test_every_target_is_written(tmp_path: Path, gate: Gate) -> None:
    hub = MessageHub("hub")
    hub.update_scalar("loss", 1.0)
    saves = [hub.async_save(tmp_path / name) for name in "abc"]
    gate.open.set()
    assert [save.wait(10).name for save in saves] == ["a", "b", "c"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_an_older_state_never_replaces_a_newer_one(tmp_path: Path, held: Held) -> None:
    hub = MessageHub("hub")
    attachment = hub.attach(held)
    with hub:
        hub.update_scalar("loss", 1.0)
        assert held.inside.wait(10)
        pending = hub.async_save(tmp_path / "state")
        attachment.detach()  # so that the next save does not wait for it
        hub.update_scalar("loss", 2.0)
        hub.save(tmp_path / "state")
        assert pending.wait(10) == tmp_path / "state"
        assert pending.seq == 2
        held.let_go.set()
        hub.flush(10)
    assert current(tmp_path / "state") == 2.0


@pytest.mark.parametrize("number", range(3))
def test_saves_of_every_kind_from_many_threads_leave_the_newest_state(tmp_path: Path, number: int) -> None:
    hub = MessageHub("hub")
    saves: list[PendingSave] = []

    def save(offset: int) -> None:
        for turn in range(12):
            hub.update_scalar("loss", float(turn))
            if (turn + offset) % 3:
                saves.append(hub.async_save(tmp_path / "state"))
            else:
                hub.save(tmp_path / "state")

    threads = [threading.Thread(target=save, args=(offset,)) for offset in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for pending in saves:
        pending.wait(30)
    hub.update_scalar("loss", -1.0)
    newest = hub.async_save(tmp_path / "state")
    newest.wait(30)
    assert read_head(tmp_path / "state").seq == newest.seq
    assert current(tmp_path / "state") == -1.0
    assert os.listdir(tmp_path) == ["state"]


# --- failures


def test_a_failed_save_is_said_ends_nothing_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MessageHub("hub")
    events = told(hub)
    hub.update_scalar("loss", 1.0)
    hub.save(tmp_path / "state")
    hub.update_scalar("loss", 2.0)
    with monkeypatch.context() as patch:
        broken_disk(patch)
        pending = hub.async_save(tmp_path / "state")
        with pytest.raises(OSError, match="the disk is broken"):
            pending.wait(10)
    assert (pending.done, isinstance(pending.error, OSError)) == (True, True)
    assert current(tmp_path / "state") == 1.0
    assert os.listdir(tmp_path) == ["state"]
    hub.settle()
    assert [type(event) for event in events] == [StateSaved, SaveFailed]
    assert events[1].path == str(tmp_path / "state")
    assert events[1].key == "hub/save_failed"
    assert "the disk is broken" in events[1].error
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    hub.save(tmp_path / "state")  # somebody was told
    assert current(tmp_path / "state") == 2.0


@pytest.mark.parametrize("how", ["save", "saved"])
def test_a_failure_that_nobody_was_told_of_is_raised_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    hub = MessageHub("hub")
    hub.update_scalar("loss", 1.0)
    with monkeypatch.context() as patch:
        broken_disk(patch)
        hub.async_save(tmp_path / "first")
        assert hub._saver.idle().wait(10)

    def save() -> Path:
        return hub.save(tmp_path / "second") if how == "save" else anyio.run(hub.saved, tmp_path / "second")

    with pytest.raises(SaveFailedError, match=r"second.*first.*the disk is broken") as caught:
        save()
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, OSError)
    assert current(caught.value.path) == 1.0  # type: ignore[arg-type]  # a path
    assert save() == tmp_path / "second"


def test_a_failure_that_nobody_was_told_of_is_handed_to_the_next_one_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MessageHub("hub")
    with monkeypatch.context() as patch:
        broken_disk(patch)
        failed = hub.async_save(tmp_path / "state")
        assert hub._saver.idle().wait(10)
    second = hub.async_save(tmp_path / "state")
    assert second.previous_error is failed.error is not None
    assert "nobody had been told" in caplog.text
    second.wait(10)
    third = hub.async_save(tmp_path / "state")
    assert third.previous_error is None
    third.wait(10)


def test_an_observer_that_never_gets_there_fails_the_save(tmp_path: Path, held: Held) -> None:
    hub = MessageHub("hub")
    hub.attach(held)
    with hub:
        hub.update_scalar("loss", 1.0)
        assert held.inside.wait(10)
        pending = hub.async_save(tmp_path / "state", timeout=0.01)
        with pytest.raises(WaitTimeoutError, match="Held is"):
            pending.wait(10)
        held.let_go.set()
        hub.save(tmp_path / "state")


def test_what_cannot_be_stored_or_taken_fails_the_save(tmp_path: Path) -> None:
    class Broken(Held):
        def state_dict(self) -> dict[str, Any]:
            raise StateDictError("gone")

    hub = MessageHub("hub")
    hub.update_info("hook", print)
    with pytest.raises(UnsupportedTypesError, match="cannot store"):
        hub.async_save(tmp_path / "state").wait(10)
    hub.pop_info("hook")
    hub.attach(Broken())
    with pytest.raises(StateDictError, match="gone"):
        hub.async_save(tmp_path / "state").wait(10)
    assert os.listdir(tmp_path) == []


def test_a_thread_that_cannot_be_started_fails_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MessageHub("hub")

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        pending = hub.async_save(tmp_path / "state")
    with pytest.raises(RuntimeError, match="can't start"):
        pending.wait(10)
    assert hub.async_save(tmp_path / "state").wait(10) == tmp_path / "state"


def test_a_subscriber_may_save_but_not_wait_for_what_waits_for_it(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    saves: list[PendingSave] = []
    errors: list[BaseException] = []

    class Saving(Held):
        async def __call__(self, events: Subscription) -> None:
            async for _ in events:
                if saves:
                    return
                saves.append(hub.async_save(tmp_path / "state"))
                for wait in (lambda: saves[0].wait(10), None):
                    try:
                        if wait is None:
                            await saves[0].waited(10)
                        else:
                            wait()
                    except DeadlockError as error:
                        errors.append(error)

    hub.attach(Saving())
    with hub:
        hub.update_scalar("loss", 1.0)
        hub.flush(10)
        assert saves[0].wait(10) == tmp_path / "state"
    assert len(errors) == 2


async def test_waiting_on_the_observers_own_loop_is_refused(tmp_path: Path, held: Held) -> None:
    hub = MessageHub("hub")
    with fail_after(30):
        async with hub:
            hub.attach(held)
            hub.update_scalar("loss", 1.0)
            pending = hub.async_save(tmp_path / "state")
            with pytest.raises(DeadlockError, match="await waited"):
                pending.wait(10)
            held.let_go.set()
            await pending.waited(20)
            pending.wait(0)


# --- the end


@pytest.mark.parametrize("how", ["with", "close", "async"])
def test_leaving_waits_for_what_is_being_saved(tmp_path: Path, how: str) -> None:
    hub = MessageHub("hub", drain_timeout=20)
    observer = Held()
    hub.attach(observer)

    def record() -> PendingSave:
        for number in range(1000):
            hub.update_scalar("loss", float(number))
        threading.Timer(0.02, observer.let_go.set).start()
        return hub.async_save(tmp_path / "state")

    async def main() -> PendingSave:
        async with hub:
            return record()

    if how == "async":
        pending = anyio.run(main)
    else:
        with hub:
            pending = record()
            if how == "close":
                hub.close()
                assert pending.done
    assert (pending.done, pending.error) == (True, None)
    twin, twins = MessageHub("twin"), Held()
    twin.load(tmp_path / "state")
    twin.attach(twins, name="Held")
    assert twins.total == sum(range(1000))


def test_leaving_does_not_wait_longer_than_its_timeout(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MessageHub("hub", drain_timeout=0.01)
    with hub:
        pending = hub.async_save(tmp_path / "state")
        assert gate.reached.wait(10)
    assert "a save is still under way" in caplog.text
    gate.open.set()
    assert pending.wait(10) == tmp_path / "state"


def run(script: str, *arguments: object, code: int = 0) -> list[str]:
    head = "import sys; from asynchub import MessageHub; hub = MessageHub('hub'); path = sys.argv[1]\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("entered", [False, True])
def test_the_end_of_the_interpreter_waits_for_what_is_being_saved(tmp_path: Path, entered: bool) -> None:
    run(
        """
for number in range(200_000):
    hub.update_scalar("loss", number / 3)
if sys.argv[2] == "True":
    hub.__enter__()
hub.async_save(path)
""",
        tmp_path / "state",
        entered,
    )
    assert current(tmp_path / "state") == 199_999 / 3
    assert os.listdir(tmp_path) == ["state"]


@posix
def test_a_forked_child_saves_nothing_of_its_parent(tmp_path: Path) -> None:
    lines = run(
        """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
real, go_on = os.fsync, threading.Event()
os.fsync = lambda descriptor: (go_on.wait(), real(descriptor))
hub.update_scalar("loss", 1.0)
pending = hub.async_save(path)
child = os.fork()
if not child:
    os.fsync = real
    try:
        pending.wait(10)
    except Exception as error:
        fine = "its parent writes it" in str(error)
    fine = fine and threading.active_count() == 1 and hub._saver.idle().wait(0)
    hub.update_scalar("loss", 2.0)
    fine = fine and os.path.exists(hub.async_save(path + ".child").wait(10))
    os._exit(0 if fine else 1)
assert os.waitpid(child, 0)[1] == 0
assert not os.path.exists(path)
go_on.set()
print(pending.wait(10))
""",
        tmp_path / "state",
    )
    assert lines == [str(tmp_path / "state")]
    assert (current(tmp_path / "state"), current(tmp_path / "state.child")) == (1.0, 2.0)


FULL_DISK = """
import logging, resource, signal
logging.disable()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hub.update_scalar("loss", 0.5)
hub.save(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for number in range(100_000):
    hub.update_scalar("loss", number / 3)
pending = hub.async_save(path)
try:
    pending.wait(30)
except OSError as error:
    print(error.errno)
hub.update_scalar("loss", 1.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
reader = MessageHub("reader")
reader.load(path)
print(reader.get_scalar("loss").current())
hub.async_save(path).wait(30)
"""


@posix
def test_a_full_disk_leaves_the_old_file_and_the_next_save_is_written(tmp_path: Path) -> None:
    assert run(FULL_DISK, tmp_path / "state") == [str(errno.EFBIG), "0.5"]
    assert current(tmp_path / "state") == 1.0
    assert os.listdir(tmp_path) == ["state"]


KILLED = """
import os, threading
for number in range(60_000):
    hub.update_scalars({"loss": number / 3, "other": number / 7})
number = 0
while True:
    number += 1
    hub.update_scalar("loss", float(number))
    pending = hub.async_save(path, keep=3)
    if number % 5 == 0:
        print(pending.wait(30).name, flush=True)
"""


@posix
@pytest.mark.parametrize("generations", [True, False])
def test_a_process_killed_while_it_saves_leaves_whole_states(tmp_path: Path, generations: bool) -> None:
    folder = tmp_path / "run"
    target = f"{folder}/" if generations else folder / "state"
    head = "import sys; from asynchub import MessageHub; hub = MessageHub('hub'); path = sys.argv[1]\n"
    for kill in range(6):
        if generations:
            target = f"{tmp_path / str(kill)}/"
        command = [sys.executable, "-c", head + KILLED, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            said = [process.stdout.readline().strip() for _ in range(1 + kill)]
            process.send_signal(signal.SIGKILL)
        hub = MessageHub("reader")
        hub.load(target)
        values = hub.get_scalar("loss").data[0]
        assert values[:60_000].tolist() == [number / 3 for number in range(60_000)]
        assert values[60_000:].tolist() == [float(number) for number in range(1, len(values) - 59_999)]
        where = Path(target) if generations else Path(target).parent
        if generations:
            assert sorted(path.name for path in where.glob("*.ahs"))[-1] >= said[-1]  # what was acknowledged is there
        for left in where.glob(".*.tmp"):
            os.utime(left, (0, 0))  # as if a while had passed
        hub.save(target)
        assert list(where.glob(".*.tmp")) == []


# --- the run


def test_the_run_is_known_from_the_first_save_on_by_all_that_resume_it(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    assert "asynchub" not in hub.state_dict()
    hub.save(tmp_path / "state")
    assert read_head(tmp_path / "state").run_id == hub.run_id
    assert len(bytes.fromhex(hub.run_id)) == 16
    twin, third, other = (MessageHub(name) for name in ("twin", "third", "other"))
    twin.load(tmp_path / "state")
    third.load_state_dict(hub.state_dict())
    assert hub.run_id == twin.run_id == third.run_id != other.run_id
    own = other.run_id
    other.load_state_dict({"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}})
    assert other.run_id == own
    state = hub.state_dict()
    state["asynchub"]["run_id"] = "x"
    with pytest.raises(StateDictError, match="32 hexadecimal"):
        other.load_state_dict(state)


def test_threads_that_ask_for_the_run_at_once_get_one() -> None:
    hub = MessageHub("hub")
    found: list[str] = []
    ask: Callable[[], None] = lambda: found.append(hub.run_id)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(found)) == 1
