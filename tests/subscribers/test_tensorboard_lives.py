"""TensorBoardLogger, left and entered, resumed, killed, or without its disk: each value is there once."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asynchub.events import Event, ScalarUpdated, TrackerDegraded, TrackerRestored
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.subscribers.tensorboard import TensorBoardLogger
from tests.subscribers.lives import Life, Points, Program, counted, lives, logging_with
from tests.subscribers.news import News
from tests.subscribers.observing import observe, scalars, stamped
from tests.subscribers.test_tensorboard import accumulated, as_sets, read, wanted


class QuickLogger(TensorBoardLogger):
    retry = (0.01, 0.05)


# --- lives


def test_a_file_of_a_later_life_is_read_later_whatever_the_clock_says(tmp_path: Path) -> None:
    ahead = int(time.time()) + 1000
    (tmp_path / f"events.out.tfevents.{ahead}.host.1.0").touch()
    logger = TensorBoardLogger(tmp_path)
    for step in range(12):
        observe(logger, stamped(scalars((step, "loss", step))))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0].endswith("host.1.0")
    assert [name.split(".")[3] for name in names[1:]] == [str(ahead + number) for number in range(1, 13)]
    assert [step for step, _, _ in read(tmp_path)["loss"]] == list(range(12))


def killed_and_resumed(folder: Path, before: list[Any], stale: list[Any], after: list[Any]) -> list[Event]:
    """Return the events that count of a run that is saved after ``before``, killed after ``stale`` and resumed."""
    counts: list[Event] = []
    hub = MessageHub("first")
    hub.attach(QuickLogger(folder / "tb", interval=0.0), on_error="raise")
    hub.on(ScalarUpdated)(counts.append)
    with hub:
        for step, key, value in before:
            hub.update_scalar(key, value, step=step)
        hub.flush(20)
        hub.save(folder / "state")
        kept = len(counts)
        for step, key, value in stale:
            hub.update_scalar(key, value, step=step)
            hub.flush(20)
    resumed = MessageHub("second")
    resumed.load(folder / "state")
    resumed.attach(QuickLogger(folder / "tb", interval=0.0), on_error="raise", name="QuickLogger")
    del counts[kept:]
    resumed.on(ScalarUpdated)(counts.append)
    with resumed:
        for step, key, value in after:
            resumed.update_scalar(key, value, step=step)
    return counts


def test_after_a_resume_nothing_stale_is_left_and_nothing_else_is_lost(tmp_path: Path) -> None:
    before = [(step, key, step) for step in range(10) for key in ("loss", "lr")] + [(9, "val", 0.5)]
    stale = [(9, "val/late", 1.0), *((step, "loss", -1.0) for step in range(10, 14)), (12, "only/stale", 2.0)]
    after = [(11, "lr", 1.0), *((step, "loss", step) for step in range(10, 12)), (4, "late", 4.0)]
    counts = killed_and_resumed(tmp_path, before, stale, after)
    assert as_sets(read(tmp_path / "tb")) == as_sets(wanted(counts))
    assert "only/stale" not in accumulated(tmp_path / "tb").Tags()["scalars"]
    aside = list((tmp_path / "tb").glob("events.out.rewound.*"))
    assert len(aside) == 1


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_saved_and_killed_each_value_is_there_once(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def some() -> list[Any]:
        return [
            (rng.choice((None, rng.randrange(40))), rng.choice("abcd"), rng.random()) for _ in range(rng.randrange(30))
        ]

    counts = killed_and_resumed(tmp_path, some(), some(), some())
    assert as_sets(read(tmp_path / "tb")) == as_sets(wanted(counts))


def test_a_reader_that_had_seen_it_forgets_it_too(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    events = stamped(scalars(*((step, "loss", step) for step in range(10)), (9, "acc", 0.5), (20, "far", 1.0)))
    stale = stamped(scalars(*((step, "loss", -1.0) for step in range(5, 15)), (8, "stale", 1.0)))
    reader = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    observe(logger, events)
    state = logger.state_dict()
    observe(logger, [*events, *stale][len(events) :])
    assert len(read(reader.Reload())["loss"]) == 20
    resumed = TensorBoardLogger(tmp_path)
    resumed.load_state_dict(state)
    after = stamped(scalars((10, "loss", 10.0), (11, "acc", 1.0)))
    observe(resumed, after)
    reader.Reload()
    assert as_sets(read(reader)) == as_sets(read(tmp_path)) == as_sets(wanted([*events, *after]))


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # its own server, which ends alone
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_what_tensorboards_own_server_shows_after_a_resume_is_the_run(tmp_path: Path) -> None:
    server = pytest.importorskip("tensorboard.data.server_ingester")
    grpc_util = pytest.importorskip("tensorboard.util.grpc_util")
    context = pytest.importorskip("tensorboard.context")
    before = [(step, key, step) for step in range(10) for key in ("loss", "lr")]
    stale = [(9, "lr/stale", 1.0), *((step, "loss", -1.0) for step in range(10, 14)), (9, "loss", -2.0)]
    after = [(11, "lr", 1.0), *((step, "loss", step) for step in range(10, 12))]
    counts = killed_and_resumed(tmp_path, before, stale, after)
    try:
        binary = server.get_server_binary()
    except server.NoDataServerError:
        pytest.skip("TensorBoard has no fast loader for this machine")
    ingester = server.SubprocessServerDataIngester(
        server_binary=binary,
        logdir=str(tmp_path / "tb"),
        reload_interval=0,
        channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
    )
    ingester.start()
    shown: Any = {}
    deadline = time.monotonic() + 20
    while "loss" not in shown and time.monotonic() < deadline:
        runs = ingester.data_provider.read_scalars(
            context.RequestContext(), experiment_id="", plugin_name="scalars", downsample=1000
        )
        shown = next(iter(runs.values()), {})
    got = {tag: [(one.step, one.wall_time, one.value) for one in points] for tag, points in shown.items()}
    assert got == wanted(counts)
    ingester._stdin_handle.close()  # which the server ends with
    gc.collect()


# --- going back to what was left


def shown(reader: Any) -> Points:
    """Return step and value of each point that a reader has, in the order of steps."""
    return {tag: sorted((step, value) for step, _, value in points) for tag, points in read(reader).items() if points}


def in_order(hub: MessageHub) -> Points:
    return {key: sorted(points) for key, points in counted(hub).items() if points}


def logged_to(folder: Path) -> Program:
    return Program(logging_with(lambda: TensorBoardLogger(folder, interval=0.0)))


def test_a_run_that_goes_back_to_a_state_it_had_left_has_its_values_again(tmp_path: Path) -> None:
    program, folder = logged_to(tmp_path / "tb"), tmp_path / "tb"
    hub = program.live(Life(0, [9, 9], 5))
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for life in (Life(1, [7], 3), Life(1, [], 4), Life(0, [], 2)):
        assert shown(reader.Reload()) == shown(folder) == in_order(hub)
        hub = program.live(life)
    assert shown(reader.Reload()) == shown(folder) == in_order(hub)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_values_that_cannot_come_back_are_told(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    program, folder = logged_to(tmp_path / "tb"), tmp_path / "tb"
    program.live(Life(0, [9, 9], 5))
    program.live(Life(1, [7], 3))
    (aside,) = folder.glob("events.out.rewound.*")
    aside.unlink() if damage == "gone" else aside.write_bytes(aside.read_bytes().replace(b"loss", b"gain"))
    program.live(Life(1, [], 0))
    assert f"{aside.name}, which has bytes" in caplog.text
    assert "is not what it was: values are lost to it" in caplog.text
    assert sum(map(len, shown(folder).values())) == 9


def test_a_list_of_cuts_that_is_damaged_is_added_to(tmp_path: Path) -> None:
    program, folder = logged_to(tmp_path / "tb"), tmp_path / "tb"
    program.live(Life(0, [9, 9], 5))
    program.live(Life(1, [7], 3))
    (listed,) = folder.glob("asynchub.cuts.*")
    listed.write_bytes(b'\xff\n[]\n{"number":1}\n' + listed.read_bytes() + b'{"numb')
    for life in (Life(1, [], 4), Life(0, [], 2)):
        hub = program.live(life)
        assert shown(folder) == in_order(hub)


def test_a_cut_that_was_broken_off_brings_nothing_back_twice(tmp_path: Path) -> None:
    program, folder = logged_to(tmp_path / "tb"), tmp_path / "tb"
    program.live(Life(0, [9, 9], 5))
    (events,) = folder.glob("events.out.tfevents.*")
    whole = events.read_bytes()
    program.live(Life(1, [7], 3))
    events.write_bytes(whole)  # as if it had been killed before the file became shorter
    for life in (Life(2, [4], 1), Life(2, [], 0), Life(1, [], 4)):
        hub = program.live(life)
        assert shown(folder) == in_order(hub)


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("journaled", [False, True])
def test_whatever_a_run_goes_back_to_every_reader_has_what_counts(rounds: int, journaled: bool) -> None:
    @settings(max_examples=rounds)
    @given(lives())
    def check(story: list[Life]) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name) / "tb"
            program = Program(
                logging_with(lambda: TensorBoardLogger(folder, interval=0.0)), Path(name) if journaled else None
            )
            reader = None
            for life in story:
                hub = program.live(life)
                assert shown(folder) == in_order(hub)
                reader = (reader or EventAccumulator(str(folder), size_guidance={"scalars": 0})).Reload()
                assert shown(reader) == in_order(hub)

    check()


def test_a_state_that_was_saved_before_the_first_value_brings_all_back(tmp_path: Path) -> None:
    hub = MessageHub("beginning")
    hub.attach(TensorBoardLogger(tmp_path / "tb"), on_error="raise")
    hub.save(tmp_path / "state")
    with hub:
        hub.update_scalar("loss", 1.0, step=1)
    again = MessageHub("again")
    again.load(tmp_path / "state")
    again.attach(TensorBoardLogger(tmp_path / "tb"), on_error="raise")
    with again:
        again.update_scalar("loss", 2.0, step=1)
    assert [(step, value) for step, _, value in read(tmp_path / "tb")["loss"]] == [(1, 2.0)]


def test_an_int_is_a_purge_step_as_summary_writers_and_none_takes_nothing_back(tmp_path: Path) -> None:
    for purge_step, steps in ((3, [0, 1, 2, 3]), (None, [0, 1, 2, 3, 4, 3])):
        folder = tmp_path / str(purge_step)
        first = TensorBoardLogger(folder)
        state = first.state_dict()
        observe(first, stamped(scalars(*((step, "loss", 0.0) for step in range(5)))))
        second = TensorBoardLogger(folder, purge_step=purge_step)
        second.load_state_dict(state)
        observe(second, stamped(scalars((3, "loss", 1.0))))
        assert [step for step, _, _ in read(folder)["loss"]] == steps


def test_a_url_is_opened_by_the_package_and_purged_behind_the_furthest_step(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"memory://{tmp_path.name}/run"
    logger = TensorBoardLogger(url)
    observe(logger, stamped(scalars(*((step, "loss", step) for step in range(4)))))
    state = logger.state_dict()
    assert read(url)["loss"] == wanted(stamped(scalars(*((step, "loss", step) for step in range(4)))))["loss"]
    resumed = TensorBoardLogger(url)
    resumed.load_state_dict(state)
    observe(resumed, stamped(scalars((4, "loss", 4.0))))
    assert [step for step, _, _ in read(url)["loss"]] == [0, 1, 2, 3, 4]
    observe(logger, stamped(scalars((4, "loss", -1.0), (5, "loss", -1.0))))
    third = TensorBoardLogger(url)
    third.load_state_dict(state)
    observe(third, stamped(scalars((5, "loss", 5.0))))
    assert [step for step, _, _ in read(url)["loss"]] == [0, 1, 2, 3, 5]


# --- a process that is killed

PROGRAM = """
import sys
from asynchub import Journal, MessageHub
from asynchub.specimens import every_kind_of_event
from asynchub.subscribers.tensorboard import TensorBoardLogger
hub = MessageHub("killed")
hub.attach(Journal(sys.argv[1] + "/journal"))
hub.attach(TensorBoardLogger(sys.argv[1] + "/tb", interval=0.05))
with hub:
    hub.save(sys.argv[1] + "/")
    for hub.step in range(1, 10**9):
        hub.update_scalar("loss", hub.step)
        if hub.step % 500 == 0:
            hub.flush(20)
            print(hub.step, flush=True)
"""


def test_a_killed_process_leaves_all_that_was_handled_and_the_journal_brings_the_rest(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 2000:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    steps = [step for step, _, _ in read(tmp_path / "tb")["loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 2000
    hub = recover(tmp_path)
    last = hub.step
    assert last >= len(steps)
    hub.attach(Journal(tmp_path / "journal"))
    hub.attach(TensorBoardLogger(tmp_path / "tb"), on_error="raise")
    with hub:
        hub.update_scalar("loss", 0.5, step=last + 1)
    points = [(step, value) for step, _, value in read(tmp_path / "tb")["loss"]]
    assert points == [*((step, step) for step in range(1, last + 1)), (last + 1, 0.5)]


# --- a disk that says no


def point(link: Path, target: Path) -> None:
    """Have ``link`` lead to ``target``, from one moment to the next."""
    new = link.with_name("new")
    new.symlink_to(target)
    new.replace(link)


def test_a_folder_that_is_gone_ends_no_run_and_gets_everything_once_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "tb"
    (tmp_path / "real").mkdir()
    (tmp_path / "file").write_text("in place of the folder")
    point(folder, tmp_path / "real")
    hub = MessageHub("gone")
    counts: list[Event] = []
    hub.attach(QuickLogger(folder, interval=0.0, decisions=False), on_error="raise")
    news = News(hub)
    hub.on(ScalarUpdated)(counts.append)
    with hub:
        for step in range(100):
            hub.update_scalar("loss", step, step=step)
        hub.flush(20)
        point(folder, tmp_path / "file")
        for step in range(100, 300):
            hub.update_scalar("loss", step, step=step)
        news.wait_for(TrackerDegraded)
        for step in range(300, 400):
            hub.update_scalar("loss", step, step=step)
        point(folder, tmp_path / "real")
        news.wait_for(TrackerRestored)
        hub.update_scalar("loss", 400, step=400)
    assert read(folder) == wanted(counts)
    assert len(counts) == 401
    assert not list(folder.glob("*rewound*"))
    assert news.kinds == [TrackerDegraded, TrackerRestored]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_ends_no_run_and_gets_everything_once_when_there_is_room(small_disk: Path) -> None:
    hub = MessageHub("full")
    counts: list[Event] = []
    hub.attach(QuickLogger(small_disk / "tb", interval=0.0, decisions=False, batch=97), on_error="raise")
    news = News(hub)
    hub.on(ScalarUpdated)(counts.append)
    (small_disk / "other").write_bytes(bytes(200 * 1024))
    with hub:
        for step in range(3000):
            hub.update_scalar("loss", step, step=step)
        news.wait_for(TrackerDegraded)
        (small_disk / "other").unlink()
        news.wait_for(TrackerRestored)
    assert read(small_disk / "tb") == wanted(counts)
    assert len(counts) == 3000
