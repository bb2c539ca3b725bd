"""Child processes publish through their parent, whatever they publish and however they were started."""

from __future__ import annotations

import functools
import logging
import math
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from anyio import fail_after, to_thread

from asynchub.batches import events_of
from asynchub.bridges.children import Children
from asynchub.bridges.linking import connect
from asynchub.bridges.parcels import MAX_BODY
from asynchub.bridges.uplink import Address
from asynchub.bridging import FrameRefused
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.events import CheckpointSaved, InfoRemoved, InfoUpdated, ScalarUpdated, SubscriberFailed
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.reading import read_journal
from asynchub.requests import RequestApplied, StopRequested
from tests.bridges.child_work import (
    OwnHub,
    beget,
    publish,
    publish_in_both,
    publish_many,
    put_step,
)
from tests.bridges.families import FORKING, ROOT, TIMEOUT, ended, forked, heard, in_child, values

pytestmark = FORKING
METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub.get_instance("run")


@pytest.mark.parametrize("method", METHODS)
def test_a_process_publishes_through_its_parent(method: str, hub: MessageHub) -> None:
    hub.step = 5
    with hub, Children(hub) as children:
        in_child(children.link(publish), "work/value", 200, method=method)
        children.flush()
        (child,) = children.statistics().children
    assert child.events == 200
    assert "Process-" in child.worker
    assert values(hub, "work/value") == [number / 3 for number in range(200)]
    assert hub.get_scalar("work/value").snapshot().steps.tolist() == list(range(200))
    assert hub.step == 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_begins_at_the_step_of_its_parent_and_leaves_that_alone(method: str, hub: MessageHub) -> None:
    hub.step = 7
    before = time.time()
    with hub, Children(hub) as children:
        in_child(children.link(put_step), None, method=method)
        after = time.time()
        in_child(children.link(put_step), 90, method=method)
    snapshot = hub.get_scalar("work/step").snapshot()
    assert snapshot.steps.tolist() == [7, 90]
    assert before <= snapshot.times[0] <= after
    assert hub.step == 7


def test_a_pool_publishes(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        with multiprocessing.get_context("fork").Pool(2, children.worker_init) as pool:
            pool.starmap(publish, [("pool/value", 10)] * 6)
            pool.close()
            pool.join()
        children.flush()
        assert children.statistics().events == 60
    assert sorted(values(hub, "pool/value")) == sorted(6 * [number / 3 for number in range(10)])


def test_a_forked_child_that_flushes_may_end_at_once(hub: MessageHub) -> None:
    hub.update_scalar("work/value", -1.0)
    hub.update_info("before", 1)
    with heard(hub) as events, Children(hub) as children:

        def work() -> None:
            publish("work/value", 100)
            children.flush()

        with forked(work):
            pass
        hub.update_scalar("work/value", -2.0)
    # what was there before the fork is not sent
    assert values(hub, "work/value") == [-1.0, *(number / 3 for number in range(100)), -2.0]
    assert [type(event) for event in events] == [ScalarUpdated] * 101


def test_a_forked_child_that_leaves_the_context_has_sent_all(hub: MessageHub) -> None:
    pid = -1
    try:
        with hub, Children(hub) as children:
            folder = Path(Address.of(children.address).path).parent
            pid = os.fork()
            if pid:
                assert ended(pid) == 0
                children.flush()
                assert folder.exists()
            else:
                publish("work/value", 100)
    finally:
        if pid == 0:
            os._exit(0)
    assert values(hub, "work/value") == [number / 3 for number in range(100)]
    assert not folder.exists()


def test_forked_children_that_end_by_themselves_have_sent_all(hub: MessageHub) -> None:
    with hub, Children(hub):
        for _ in range(3):
            in_child(publish_many, "run", 500)
    assert values(hub, "many/float") == 3 * [number / 3 for number in range(500)]
    assert values(hub, "many/int") == 3 * list(range(500))
    assert values(hub, "many/bool") == 3 * [number % 2 == 0 for number in range(500)]


def test_a_child_that_publishes_nothing_has_no_thread_and_no_connection(hub: MessageHub) -> None:
    def work() -> None:
        assert threading.active_count() == 1
        assert not psutil.Process().net_connections("all")

    with hub, Children(hub) as children:
        with forked(work):
            pass
        children.flush()
        assert children.statistics().children == ()


def test_a_child_has_one_connection_and_that_to_its_parent(hub: MessageHub) -> None:
    def work() -> None:
        publish("work/value", 1)
        children.flush()
        assert not psutil.Process().net_connections("inet")
        assert len(psutil.Process().net_connections("unix")) == 1
        assert {thread.name for thread in threading.enumerate()} == {"MainThread", "asynchub uplink"}

    with hub, Children(hub) as children, forked(lambda: publish("work/value", 1)), forked(work):
        pass


def test_readers_of_the_parent_do_not_run_in_the_child(hub: MessageHub) -> None:
    processes = []
    hub.on("**")(lambda event: processes.append((os.getpid(), event.value)))

    def work() -> None:
        publish("work/value", 3)
        hub.settle()
        children.flush()
        assert processes == []

    with hub, Children(hub) as children:
        with forked(work):
            pass
        children.flush()
        hub.flush(TIMEOUT)
    assert processes == [(os.getpid(), 0.0), (os.getpid(), 1 / 3), (os.getpid(), 2 / 3)]


def test_a_child_may_enter_its_hub_and_read_it(hub: MessageHub) -> None:
    def work() -> None:
        mine = []
        hub.on("**")(lambda event: mine.append(event.value))
        with hub:
            publish("work/value", 3)
            hub.flush(TIMEOUT)
        assert mine == [0.0, 1 / 3, 2 / 3]
        publish("work/later", 3)  # its own readers are closed, but not the way to the parent
        children.flush()

    with hub, Children(hub) as children, forked(work):
        pass
    assert values(hub, "work/value") == values(hub, "work/later") == [0.0, 1 / 3, 2 / 3]


def test_hubs_of_one_process_have_each_their_children(hub: MessageHub) -> None:
    other = MessageHub.get_instance("other")
    alone = MessageHub.get_instance("alone")
    said = []
    with Children(hub) as first, Children(other) as second:

        def work() -> None:
            for one in (hub, other, alone):
                one.update_scalar(f"in/{one.instance_name}", 1.0)
            first.flush()
            second.flush()
            said.append(alone)

        with forked(work):
            pass
        assert first.address != second.address
    assert list(hub.log_scalars) == ["in/run"]
    assert list(other.log_scalars) == ["in/other"]
    assert not alone.log_scalars


def test_a_process_publishes_in_two_hubs_and_in_a_class_of_the_programs_own() -> None:
    run, other = OwnHub.get_instance("run"), MessageHub.get_instance("other")
    with run, other, Children(run) as first, Children(other) as second:
        in_child(first.link(second.link(publish_in_both)), "run", "other", 30, method="spawn")
        first.flush()
        second.flush()
        assert (first.statistics().events, second.statistics().events) == (30, 30)
    assert values(run, "of/run") == values(other, "of/other") == list(range(30))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_a_child_publishes_through_the_same_parent(method: str, hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        work = children.link(publish)
        in_child(children.link(beget), method, work, "family/child", 50, method=method)
        children.flush()
        assert len({one.pid for one in children.statistics().children}) == 2
    assert values(hub, "family/child") == [number / 3 for number in range(50)]
    assert values(hub, "family/parent") == [1.0]
    assert values(hub, "family/exitcode") == [0.0]


def test_a_process_that_is_neither_forked_nor_linked_connects(hub: MessageHub) -> None:
    script = """
import sys
from asynchub import MessageHub
from asynchub.bridges.linking import connect
with connect(sys.argv[1]) as hub:
    assert MessageHub.get_current_instance() is hub is MessageHub.get_instance("a run # 1/2 é")
    hub.update_scalar("work/value", 1.0)
uplink = connect(sys.argv[1])
assert connect(sys.argv[1]) is uplink
uplink.hub.update_scalar("work/value", 2.0)
uplink.flush()
uplink.hub.update_scalar("work/value", 3.0)
"""
    hub = MessageHub("a run # 1/2 é")
    with hub, Children(hub) as children:
        subprocess.run([sys.executable, "-c", script, children.address], cwd=ROOT, timeout=TIMEOUT, check=True)
    assert values(hub, "work/value") == [1.0, 2.0, 3.0]


def test_a_forked_child_that_exits_has_sent_all_and_the_parent_keeps_its_folder() -> None:
    script = """
import os, sys
from asynchub import MessageHub
from asynchub.bridges.children import Children
hub = MessageHub.get_instance("run")
children = Children(hub)
children.__enter__()
for _ in range(3):
    child = os.fork()
    if not child:
        for number in range(100):
            hub.update_scalar("work/value", number)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
children.flush()
children.__exit__(None, None, None)
assert hub.get_scalar("work/value").data[0].tolist() == 3 * list(range(100))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        timeout=TIMEOUT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_children_forked_amid_the_parents_work_lose_nothing_and_disturb_nothing(
    hub: MessageHub, tmp_path: Path
) -> None:
    stop = threading.Event()
    mine = 0

    def work() -> None:
        nonlocal mine
        while not stop.is_set():
            hub.update_scalars({"parent/a": mine, "parent/b": mine / 3})
            hub.update_info("parent/info", mine)
            mine += 1

    hub.attach(Journal(tmp_path / "journal"))
    with heard(hub) as events, Children(hub) as children:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            processes = [
                multiprocessing.get_context("fork").Process(target=publish, args=(f"child/{number}", 600))
                for number in range(24)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join(TIMEOUT)
        finally:
            stop.set()
            thread.join()
        children.flush()
        assert [process.exitcode for process in processes] == [0] * 24
        assert children.statistics().events == 24 * 600
    for number in range(24):
        assert values(hub, f"child/{number}") == [index / 3 for index in range(600)]
    assert values(hub, "parent/a") == list(range(mine))
    assert [event.seq for event in events] == list(range(1, 24 * 600 + 3 * mine + 1))
    journaled = [event.seq for batch in read_journal(tmp_path / "journal").batches() for event in events_of(batch)]
    assert journaled == [event.seq for event in events]


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_children_wait_to_be_let_in_while_the_parent_has_too_many_files_open() -> None:
    script = """
import logging, os, resource, time
from asynchub import Children, MessageHub
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("asynchub").addHandler(handler)
hub = MessageHub.get_instance("run")
release = os.pipe()
def fork():
    if child := os.fork():
        return child
    hub.update_scalar("work/value", 1)
    children.flush()
    os.read(release[0], 1)
    os._exit(0)
with Children(hub) as children:
    os.write(release[1], b"0")
    assert os.waitpid(fork(), 0)[1] == 0  # nothing is imported for the first time after this
    children.flush()
    files = {int(number) for number in os.listdir("/proc/self/fd")}
    limit = next(number for number in range(1000) if len(set(range(number)) - files) == 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    forked = [fork() for _ in range(4)]
    while not said:  # that it cannot let one in yet
        time.sleep(0.005)
    os.write(release[1], b"1234")
    assert [os.waitpid(child, 0)[1] for child in forked] == [0] * 4
    children.flush()
assert hub.get_scalar("work/value").data[0].tolist() == [1] * 5
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        timeout=TIMEOUT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- what is sent


def test_infos_other_events_and_numbers_of_any_kind_come_as_they_were(hub: MessageHub) -> None:
    numbers = [1, True, 2**80, 0.1, math.nan, -math.inf, np.float32(0.1), torch.tensor(3)]

    def work() -> None:
        for number in numbers:
            hub.update_scalar("of/kinds", number)
        hub.update_scalar("of/samples", 6.0, count=3, step=12)
        hub.update_info("config", {"lr": [0.1, 0.2], "bytes": b"\0\1"})
        hub.update_info("gone", 1)
        assert hub.pop_info("gone") == 1
        hub.update_scalar("surrogate\ud800", 1.0)
        hub.publish(SubscriberFailed(subscriber="one", error="ValueError: no", action="detach"))
        hub.publish(CheckpointSaved(path="child.pt"))  # of the child's own files
        children.flush()

    with heard(hub) as events, Children(hub) as children:
        with forked(work):
            pass
        children.flush()
    came = [event.value for event in events if event.key == "of/kinds"]
    assert [type(one) for one in came[:4]] == [int, bool, int, float]
    assert came[:4] == numbers[:4]
    assert math.isnan(came[4])
    assert came[5:] == [-math.inf, float(np.float32(0.1)), 3]
    (samples,) = (event for event in events if event.key == "of/samples")
    assert (samples.value, samples.count, samples.step) == (6.0, 3, 12)
    assert hub.get_info("config") == {"lr": [0.1, 0.2], "bytes": b"\0\1"}
    assert hub.get_info("gone") is None
    kinds = [type(event) for event in events if type(event) is not ScalarUpdated]
    assert kinds == [InfoUpdated, InfoUpdated, InfoRemoved, SubscriberFailed]
    assert values(hub, "surrogate\ud800") == [1.0]


def test_a_child_may_ask_the_training_loop_to_stop(hub: MessageHub) -> None:
    def work() -> None:
        hub.update_scalar("work/value", 1.0)
        hub.request_stop("a file is broken")
        hub.settle()
        hub.update_scalar("work/value", 2.0)
        children.flush()

    with heard(hub) as events, Children(hub) as children:
        with forked(work) as pid:
            pass
        children.flush()
        assert not hub.stop_requested
        hub.settle()
        assert hub.stop_requested
        assert hub.stop_reason == "a file is broken"
    assert {event.author for event in events if isinstance(event, StopRequested)} == {f"child process {pid}"}
    assert [type(event) for event in events] == [ScalarUpdated, StopRequested, ScalarUpdated, RequestApplied]


def test_keys_may_say_which_child_they_are_of(hub: MessageHub) -> None:
    with hub, Children(hub, rename="{pid}/{key}/{{}}"):
        pid = in_child(publish, "value", 1)
    assert list(hub.log_scalars) == [f"{pid}/value/{{}}"]


def test_a_very_long_event_is_left_out_and_counted(hub: MessageHub, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        logging.basicConfig(force=True)
        publish("work/before", 10)
        hub.update_scalar("long" * (MAX_BODY // 4), 1.0)
        publish("work/after", 10)
        children.flush()

    with heard(hub) as events, Children(hub) as children:
        with forked(work):
            pass
        children.flush()
        assert (children.statistics().events, children.statistics().lost) == (20, 1)
    assert len(values(hub, "work/before")) == len(values(hub, "work/after")) == 10
    (refused,) = (event for event in events if isinstance(event, FrameRefused))
    assert "1 events of it were lost" in refused.error
    assert "cannot be sent" in capfd.readouterr().err


# --- use


def test_the_folder_is_of_this_user_alone_and_goes_away(hub: MessageHub) -> None:
    with Children(hub) as children:
        folder = Path(Address.of(children.address).path).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    with children:  # once more
        in_child(publish, "work/value", 5)
    assert len(values(hub, "work/value")) == 5


def test_a_folder_with_a_short_path_is_found_and_if_there_is_none_that_is_said(
    hub: MessageHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with Children(hub) as children:
        assert len(Address.of(children.address).path) < 100
        in_child(publish, "work/value", 1)
    monkeypatch.setattr("asynchub.bridges.children.MAX_PATH", 10)
    with pytest.raises(ConnectionError, match="TMPDIR"), Children(hub):
        pass
    assert hub._heir is None
    assert not list(long.iterdir())
    assert values(hub, "work/value") == [0.0]


@pytest.mark.parametrize(
    ("use", "error", "match"),
    [
        (lambda hub: Children("run"), ArgumentError, "hub must be"),
        (lambda hub: Children(hub, rename="no key"), ArgumentError, "{key}"),
        (lambda hub: Children(hub, rename="{key}{other}"), ArgumentError, "{worker}"),
        (lambda hub: Children(hub, rename="{key"), ArgumentError, "{key"),
        (lambda hub: Children(hub, rename=None), ArgumentError, "None"),
        (lambda hub: Children(hub).worker_init, LifecycleError, "with Children"),
        (lambda hub: Children(hub).link(publish), LifecycleError, "with Children"),
        (lambda hub: Children(hub).link(5), ArgumentError, "function"),
        (lambda hub: Children(hub).flush(), LifecycleError, "with Children"),
        (lambda hub: connect("somewhere"), ArgumentError, "children.address"),
        (lambda hub: connect(5), ArgumentError, "children.address"),
        (lambda hub: connect("/nowhere/hub#run"), ConnectionError, "no hub takes"),
        (lambda hub: connect("/nowhere/hub#other"), ConnectionError, "no hub takes"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_no_trace(
    use: Callable[[Any], object], error: type[Exception], match: str, hub: MessageHub
) -> None:
    with pytest.raises(error, match=match):
        use(hub)
    assert hub._heir is None
    assert list(MessageHub._instance_dict) == ["run"]
    with Children(hub):
        in_child(publish, "work/value", 1)
    assert values(hub, "work/value") == [0.0]


def test_a_hub_has_one_context_at_a_time_and_one_parent(hub: MessageHub) -> None:
    with Children(hub) as children:
        with pytest.raises(LifecycleError, match="already"), Children(hub):
            pass
        with pytest.raises(LifecycleError, match="in a child process"):
            connect(children.address)

        def work() -> None:
            with pytest.raises(LifecycleError, match="already"), Children(hub):
                pass
            with pytest.raises(LifecycleError, match="as well"):
                connect("/nowhere/hub#run")
            publish("work/value", 2)
            children.flush()

        with forked(work):
            pass
    assert values(hub, "work/value") == [0.0, 1 / 3]


def test_a_linked_function_is_itself_in_the_process_of_the_parent(hub: MessageHub) -> None:
    MessageHub.get_instance("latest")
    with Children(hub) as children:
        assert children.link(functools.partial(int, "12"))() == 12
        assert children.worker_init(0) is None
        assert MessageHub.get_current_instance().instance_name == "latest"
        assert isinstance(hub._heir, Children)


async def test_an_async_program_has_children_too(hub: MessageHub) -> None:
    with fail_after(TIMEOUT):
        async with hub, Children(hub) as children:
            with hub.subscribe("work/*") as events:
                await to_thread.run_sync(in_child, publish, "work/value", 50)
                came = [await anext(events) for _ in range(50)]
            assert children.statistics().events == 50
    assert [event.value for event in came] == [number / 3 for number in range(50)]


def test_flush_waits_no_longer_than_it_is_told(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        with hub._bus.lock:  # the hub takes nothing
            in_child(publish, "work/value", 3)
            with pytest.raises(WaitTimeoutError, match="did not take all"):
                children.flush(0.05)
        children.flush()
        assert len(values(hub, "work/value")) == 3
