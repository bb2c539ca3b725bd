"""``StopOnSignal`` and ``StopOnFile``: a stop from outside ends the run at a settle point, with its state whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchub.errors import ArgumentError, ControlFailedError, LifecycleError
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers import stop_on
from asynchub.subscribers.stop_on import StopOnFile, StopOnSignal

ROOT = Path(__file__).parents[2]
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """The handlers before the test, which are to be there again after it."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield before
    after = {number: signal.getsignal(number) for number in HANDLED}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def hub_with(*signals: str, name: str = "hub") -> MessageHub:
    hub = MessageHub(name)
    hub.attach(StopOnSignal(signals or ("SIGTERM", "SIGINT")))
    return hub


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_at_the_next_settle_point_though_nothing_is_published(number: signal.Signals) -> None:
    hub = hub_with()
    with hub:
        hub.settle()
        signal.raise_signal(number)
        assert not hub.stop_requested
        hub.settle()
        assert hub.stop_requested
    assert hub.stop_reason == f"signal {number.name}"


def test_the_decision_is_said_in_the_name_of_the_subscriber() -> None:
    hub = hub_with()
    found: list[Any] = []
    hub.on(Decided, StopRequested, role="control")(found.append)
    with hub:
        hub.settle()
        hub.request_stop("somebody else")
        signal.raise_signal(signal.SIGTERM)
        hub.settle()
    assert [(type(one), one.reason, one.author) for one in found] == [
        (StopRequested, "somebody else", ""),
        (StopRequested, "signal SIGTERM", "StopOnSignal"),
        (Decided, "signal SIGTERM", "StopOnSignal"),
    ]


@pytest.fixture
def _as_in_the_foreground() -> Iterator[None]:
    """Have Ctrl-C raise, which a job in the background ignores from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_as_in_the_foreground")
def test_a_second_ctrl_c_does_what_it_always_did() -> None:
    hub = hub_with()
    with pytest.raises(KeyboardInterrupt), hub:  # noqa: PT012  # what comes before must not raise either, and is asserted
        hub.settle()
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.raise_signal(signal.SIGINT)
    assert not hub.entered


def test_other_signals_ask_each_time() -> None:
    hub = hub_with("SIGUSR1")
    requests: list[Event] = []
    hub.on(StopRequested, role="control")(requests.append)
    with hub:
        hub.settle()
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
            hub.settle()
            assert hub.stop_requested
            hub.stop_requested = False  # the program trains on
    assert len(requests) == 3


def test_what_was_there_before_is_back_after_an_exception(handlers: dict[int, Any]) -> None:
    hub = hub_with()
    with pytest.raises(ZeroDivisionError), hub:  # noqa: PT012
        hub.settle()
        assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def test_it_listens_again_when_the_hub_is_entered_again() -> None:
    hub = hub_with("SIGUSR1")
    for _ in range(3):
        with hub:
            hub.settle()
            signal.raise_signal(signal.SIGUSR1)
            hub.settle()
            assert hub.stop_requested
            hub.stop_requested = False


def test_what_somebody_else_has_installed_meanwhile_stays() -> None:
    def theirs(number: int, frame: object) -> None: ...

    hub = hub_with("SIGUSR1")
    before = signal.getsignal(signal.SIGUSR1)
    with hub:
        hub.settle()
        signal.signal(signal.SIGUSR1, theirs)
    assert signal.getsignal(signal.SIGUSR1) is theirs
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_hubs_both_hear_and_may_be_left_in_any_order(first_out: int) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    hubs = [hub_with("SIGUSR1", name=name) for name in ("outer", "inner")]
    for hub in hubs:
        hub.__enter__()
        hub.settle()
    signal.raise_signal(signal.SIGUSR1)
    for hub in hubs:
        hub.settle()
        assert hub.stop_reason == "signal SIGUSR1"
    assert heard == []
    hubs[first_out].__exit__(None, None, None)
    left = hubs[1 - first_out]
    left.stop_requested = False
    signal.raise_signal(signal.SIGUSR1)
    left.settle()
    assert left.stop_requested
    left.__exit__(None, None, None)
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]
    signal.signal(signal.SIGUSR1, before)


def test_a_hub_that_is_entered_again_amid_the_life_of_another_hears_once() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    first, second = hub_with("SIGUSR1", name="first"), hub_with("SIGUSR1", name="second")
    requests: list[Event] = []
    first.on(StopRequested, role="control")(requests.append)
    first.__enter__()
    first.settle()
    with second:
        second.settle()
        first.close()
        with first:
            first.settle()
            signal.raise_signal(signal.SIGUSR1)
            first.settle()
            second.settle()
            assert second.stop_requested
    first.__exit__(None, None, None)  # of the beginning, which closing it has ended
    assert len(requests) == 1
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_IGN


def test_one_object_cannot_listen_for_two_hubs_at_once() -> None:
    stopping = StopOnSignal("SIGUSR1")
    first, second = MessageHub("first"), MessageHub("second")
    first.attach(stopping)
    second.attach(stopping)
    with first:
        first.settle()
        with pytest.raises(ControlFailedError) as raised:
            second.settle()
        assert raised.group_contains(LifecycleError, match="listens for another hub")
        signal.raise_signal(signal.SIGUSR1)
        first.settle()
        assert first.stop_requested


def test_it_says_so_when_it_is_settled_in_another_thread() -> None:
    hub = hub_with()
    errors: list[BaseException] = []

    def settle() -> None:
        try:
            hub.settle()
        except ControlFailedError as error:
            errors.extend(error.exceptions)

    thread = threading.Thread(target=settle)
    thread.start()
    thread.join()
    (error,) = errors
    assert isinstance(error, LifecycleError)
    assert "settle in the main thread" in str(error)


def test_a_state_loaded_in_another_thread_leaves_the_signals_as_they_were() -> None:
    hub = hub_with("SIGUSR1")
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with hub:
        hub.settle()
        thread = threading.Thread(target=hub._settle_point._end_all)  # as whoever ends a control subscriber does
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGUSR1)  # its handler is there, and does what was done before
        hub.settle()
        assert not hub.stop_requested
    signal.signal(signal.SIGUSR1, before)


async def test_an_async_hub_stops_too() -> None:
    hub = hub_with("SIGUSR1", "SIGINT")
    async with hub:
        await hub.settled()
        signal.raise_signal(signal.SIGUSR1)
        await hub.settled()
        assert hub.stop_reason == "signal SIGUSR1"
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_a_forked_worker_sigterm_still_ends_it_and_others_do_nothing() -> None:
    hub = hub_with("SIGTERM", "SIGINT", "SIGUSR1")
    with hub:
        hub.settle()
        child = os.fork()
        if not child:  # as a worker of a DataLoader
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        hub.settle()
        assert not hub.stop_requested


@pytest.mark.parametrize("signals", ["SIGKILL", "SIGSTOP", "TERM", "", 0, 4096, (), ("SIGTERM", None), 1.5])
def test_what_is_no_signal_that_can_be_handled_is_refused(signals: Any) -> None:
    with pytest.raises(ArgumentError):
        StopOnSignal(signals)


def test_signals_have_names_and_numbers() -> None:
    assert StopOnSignal(["SIGTERM", signal.SIGTERM, int(signal.SIGINT)])._signals == (signal.SIGTERM, signal.SIGINT)


SCRIPT = """
import json, signal, sys
from pathlib import Path
from asynchub import Journal, JsonlLogger, MessageHub, recover
from asynchub.subscribers.checkpoint_policy import CheckpointPolicy
from asynchub.subscribers.stop_on import StopOnSignal

folder, runs = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)  # what comes after a run has ended
for run in range(runs):
    hub = MessageHub(f"run-{run}")
    written = []
    hub.attach(Journal(folder / f"journal-{run}"))
    hub.attach(JsonlLogger(folder / f"{run}.jsonl"), "train/*")
    hub.attach(CheckpointPolicy(lambda context: written.append(context.step), every=50))
    hub.attach(StopOnSignal(("SIGTERM", "SIGINT", "SIGUSR1")))
    with hub:
        hub.settle()
        print("begun", flush=True)
        while not hub.stop_requested:
            hub.step += 1
            hub.update_scalars({"train/loss": 1 / hub.step, "train/accuracy": 0.5})
            hub.update_info("epoch", hub.step // 100)
            hub.settle()
        hub.save(folder / "state")
    back = MessageHub(f"back-{run}")
    back.load(folder / "state")
    recovered = recover(folder / f"journal-{run}")
    print(json.dumps({
        "step": hub.step,
        "recovered": [len(recovered.get_scalar("train/loss").data[0]), recovered.stop_reason],
        "reason": hub.stop_reason,
        "values": len(back.get_scalar("train/loss").data[0]),
        "reason_saved": back.stop_reason,
        "lines": len((folder / f"{run}.jsonl").read_text().splitlines()),
        "checkpoint": written[-1],
        "handler": str(signal.getsignal(signal.SIGTERM)),
    }), flush=True)
"""


def signalled(folder: Path, runs: int, rng: random.Random) -> list[dict[str, Any]]:
    """Let a process begin run after run, and send it signals at random moments; return what it says of each end."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(runs)]
    ends = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line != "begun\n":
                ends.append(json.loads(line))
                continue
            time.sleep(rng.random() * 0.02)  # for no reason but to hit another moment
            child.send_signal(rng.choice(HANDLED))
            for _ in range(rng.randrange(4)):
                child.send_signal(rng.choice((signal.SIGTERM, signal.SIGUSR1)))
    assert child.returncode == 0
    return ends


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(60, id="60 runs"),
        pytest.param(2000, id="2000 runs", marks=[pytest.mark.slow, pytest.mark.lengthy]),
    ],
)
def test_a_process_that_gets_signals_at_random_moments_always_stops_with_its_state_saved(
    tmp_path: Path, seed: int, runs: int
) -> None:
    ends = signalled(tmp_path, runs, random.Random(seed))
    assert len(ends) == runs
    for end in ends:
        assert end["reason"] in {f"signal {number.name}" for number in HANDLED}
        assert end["reason_saved"] == end["reason"]
        assert end["recovered"] == [end["step"], end["reason"]]
        assert end["values"] == end["step"] == end["lines"] / 2 == (end["checkpoint"] or 0)
        assert end["handler"] == "1"  # SIG_IGN, as before
    assert len({end["step"] for end in ends}) > 3


# --- files


class Watched:
    """A hub that stops on a file, and the file."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        self.path = folder / "stop"
        self.hub = MessageHub("hub")
        self.hub.attach(StopOnFile(self.path, **{"every": 0.005, **arguments}))

    async def requested(self) -> Any:
        return await self.hub.wait_for("hub/stop_requested", timeout=20)


async def test_a_file_stops_the_run_and_its_text_is_the_reason(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    async with watched.hub as hub:
        await hub.settled()
        assert not hub.stop_requested
        watched.path.write_text("  enough\n")
        assert (await watched.requested()).author == "StopOnFile"
        with anyio.fail_after(20):
            while not hub.stop_requested:  # the request is heard of a moment before it is pending
                await hub.settled()
                await anyio.sleep(0)
        assert hub.stop_reason == "enough"
    assert not watched.path.exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_plain_script_is_stopped_too(tmp_path: Path, backend: str) -> None:
    hub = MessageHub("hub", backend=backend)
    hub.attach(StopOnFile(tmp_path / "stop", every=0.005))
    with hub:
        (tmp_path / "stop").touch()
        deadline = time.monotonic() + 20
        while not hub.stop_requested and time.monotonic() < deadline:
            hub.step += 1
            hub.update_scalar("train/loss", 1.0)
            hub.settle()
    assert hub.stop_reason == f"the file {tmp_path / 'stop'} exists"
    assert not (tmp_path / "stop").exists()


async def test_a_file_that_is_there_from_the_beginning_counts(tmp_path: Path) -> None:
    watched = Watched(tmp_path, every=3600)
    watched.path.write_text("left by somebody")
    async with watched.hub:
        assert (await watched.requested()).reason == "left by somebody"


async def test_a_file_that_stays_stops_once_and_one_that_comes_again_once_more(tmp_path: Path) -> None:
    watched = Watched(tmp_path, remove=False)
    looks: list[str | None] = []
    subscriber: Any = next(iter(watched.hub._attachments)).subscriber
    text = subscriber._text
    subscriber._text = lambda: looks.append(text()) or looks[-1]
    with watched.hub.subscribe(StopRequested) as requests, anyio.fail_after(20):
        async with watched.hub:
            for word in ("one", "two"):
                watched.path.write_text(word)
                assert (await anext(requests)).reason == word  # type: ignore[attr-defined]
                seen = len(looks)
                while len(looks) < seen + 5:
                    await anyio.sleep(0.001)
                assert not requests.ready()
                watched.path.unlink()
                while looks[-1] is not None:
                    await anyio.sleep(0.001)


async def test_a_long_text_is_cut_and_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    (tmp_path / "new").write_bytes(b"\xff" + b"x" * 5000)
    (tmp_path / "new").rename(watched.path)
    async with watched.hub:
        reason = (await watched.requested()).reason
    assert reason == "\ufffd" + "x" * 999


async def test_a_file_that_cannot_be_read_is_said_once_and_looked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(tmp_path)
    watched.path.mkdir()
    async with watched.hub:
        with anyio.fail_after(20):
            while "cannot look for" not in caplog.text:
                await anyio.sleep(0.001)
        watched.path.rmdir()
        watched.path.write_text("now")
        assert (await watched.requested()).reason == "now"
    assert len([record for record in caplog.records if "cannot look for" in record.getMessage()]) == 1


async def test_a_file_that_cannot_be_removed_is_said_and_stops_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "read-only file system")

    watched = Watched(tmp_path)
    watched.path.write_text("stop")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        async with watched.hub:
            await watched.requested()
            with anyio.fail_after(20):
                while "would stop the next run" not in caplog.text:
                    await anyio.sleep(0.001)
    assert watched.hub.apply_requests() == 1


async def test_a_file_system_that_hangs_holds_up_neither_steps_nor_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe without a writer blocks, as a network file system does whose server is gone."""
    monkeypatch.setattr(stop_on, "PATIENCE", 0.05)
    os.mkfifo(tmp_path / "stop")
    hub = MessageHub("hub")
    hub.attach(StopOnFile(tmp_path / "stop", every=0.001))
    with anyio.fail_after(20):
        async with hub:
            for hub.step in range(100):
                hub.update_scalar("train/loss", 1.0)
                await hub.settled()
    assert "no answer about" in caplog.text
    (thread,) = [one for one in threading.enumerate() if one.name == "asynchub StopOnFile"]
    assert thread.daemon  # so that the process can end
    with (tmp_path / "stop").open("w") as pipe:  # the server is back
        pipe.write("too late")
    thread.join(20)
    assert not thread.is_alive()
    assert hub.apply_requests() == 0


@pytest.mark.parametrize(
    "arguments", [{"path": None}, {"path": 3}, {"every": 0}, {"every": -1}, {"every": "1s"}, {"remove": 1}]
)
def test_a_wrong_argument_is_refused_at_once(arguments: Any) -> None:
    with pytest.raises(ArgumentError):
        StopOnFile(**{"path": "stop", **arguments})
