"""A run that is steered through its folder: what it lets in, and what it does not."""

from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchub.bridging import FrameRefused
from asynchub.control_folder import (
    EXPIRED,
    FOLDER,
    LONGEST_LINE,
    OFFER,
    ControlError,
    Written,
    pack_request,
)
from asynchub.dashboard.asking import ask, steerable
from asynchub.declaring import Parameter
from asynchub.errors import ArgumentError, PatternError
from asynchub.events import SubscriberFailed
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.locking import LOCK
from asynchub.requests import (
    CheckpointRequested,
    ParameterChanged,
    ParameterChangeRequested,
    Paused,
    PauseEnded,
    PauseRequested,
    Request,
    RequestApplied,
    RequestRefused,
    ResumeRequested,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)
from asynchub.subscribers import control_desk, remote_control
from asynchub.subscribers.control_desk import ControlDesk
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.remote_control import RemoteControl
from tests.steered import Steered, steered
from tests.waiting import WAIT, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have values looked at more often, and a lock tried for less long, than is good in a real run."""
    monkeypatch.setattr(remote_control, "FRESH", 0.05)
    monkeypatch.setattr(control_desk, "PROBED", 0.1)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Steered]:
    with steered(tmp_path / "run") as one:
        yield one


def append(run: Steered, *parts: bytes) -> None:
    with run.requests.open("ab") as file:
        file.write(b"".join(parts))


def written(run: Steered, request: Request, **changed: Any) -> bytes:
    """Return a line that asks for something, of this start of the run."""
    offer = run.offer
    one = Written(request, offer.run_id, offer.incarnation, time.time(), 60.0)
    return pack_request(replace(one, **changed))


# --- what is let in


def test_what_is_asked_is_an_event_with_its_id_and_takes_effect_at_the_next_settle_point(run: Steered) -> None:
    asked = ask(run.folder, StopRequested(reason="enough"), author="ada")
    until(lambda: run.of(StopRequested))
    assert not run.hub.stop_requested
    (request,) = run.of(StopRequested)
    assert (request.id, request.author, request.reason) == (asked.id, "ada", "enough")
    run.hub.step = 12
    until(lambda: run.hub.settle() or run.of(RequestApplied))  # type: ignore[func-returns-value]
    (applied,) = run.of(RequestApplied)
    assert (applied.id, applied.step, applied.request_seq) == (asked.id, 12, request.seq)
    assert run.hub.stop_reason == "enough"


def test_parameters_checkpoints_and_pauses_are_asked_for(run: Steered) -> None:
    ask(run.folder, ParameterChangeRequested(name="lr", value=0.5), author="ada")
    ask(run.folder, ParameterChangeRequested(name="wd", value=0.02, group=0), author="ada")
    ask(run.folder, CheckpointRequested(), author="ada")
    run.settle_until(RequestApplied, 3)
    assert run.rates == {"lr": 0.5, "wd": 0.02}
    assert len(run.checkpoints) == 1
    (changed,) = run.of(ParameterChanged)
    assert (changed.name, changed.old, changed.new, changed.author) == ("lr", 0.1, 0.5, "ada")


def test_a_real_loop_is_paused_changed_and_goes_on(run: Steered) -> None:
    asked: list[str] = []

    def person() -> None:
        ask(run.folder, PauseRequested(reason="look"), author="ada")
        until(lambda: run.hub.paused)
        until(lambda: "resume" in {one.word for one in steerable(run.folder)[0]})
        asked.extend(one.word for one in steerable(run.folder)[0])
        ask(run.folder, ParameterChangeRequested(name="lr", value=0.01), author="ada")
        ask(run.folder, ResumeRequested(), author="ada")

    thread = threading.Thread(target=person)
    thread.start()
    run.settle_until(PauseEnded)
    thread.join(WAIT)
    assert run.rates["lr"] == 0.01
    assert "pause" not in asked
    assert run.of(Paused)[0].author == "ada"
    until(lambda: "pause" in {one.word for one in steerable(run.folder)[0]})


async def test_an_async_program_is_paused_and_goes_on(tmp_path: Path) -> None:
    run = Steered(tmp_path / "run")
    async with run.hub, anyio.create_task_group() as tasks:
        with anyio.fail_after(WAIT):
            while not (run.folder / FOLDER / OFFER).exists():
                await anyio.sleep(0.01)

            async def person() -> None:
                ask(run.folder, PauseRequested(), author="ada")
                while not run.hub.paused:
                    await anyio.sleep(0.01)
                ask(run.folder, ResumeRequested(), author="ada")

            tasks.start_soon(person)
            while not run.of(PauseEnded):
                run.hub.step += 1
                await run.hub.settled()
                await anyio.sleep(0.005)


def test_a_parameter_that_a_subscriber_declares_is_set(run: Steered) -> None:
    stopping = EarlyStopping("loss", patience=3, strict=False)
    run.hub.attach(stopping)
    until(lambda: "EarlyStopping.patience" in {one.name for one in steerable(run.folder)[0]})
    (one,) = [one for one in steerable(run.folder)[0] if one.name == "EarlyStopping.patience"]
    assert (one.value, one.low, one.high) == (3, 1, None)
    ask(run.folder, ParameterChangeRequested(name="EarlyStopping.patience", value=9), author="ada")
    run.settle_until(ParameterChanged)
    assert stopping.patience == 9
    until(lambda: run.offer.values["EarlyStopping.patience"] == 9)


def test_the_offer_shows_what_a_value_has_become(run: Steered) -> None:
    run.rates["lr"] = 0.25
    until(lambda: run.offer.values == {"lr": 0.25})


# --- what is not


def test_by_default_nothing_is_allowed(tmp_path: Path) -> None:
    with steered(tmp_path, allow=()) as run:
        kinds = (StopRequested(id="a"), PauseRequested(id="b"), ParameterChangeRequested(id="c", name="lr", value=0.5))
        append(run, *[written(run, request) for request in kinds])
        refused = run.settle_until(RequestRefused, 3)
        assert all("it allows nothing (allow= of its RemoteControl)" in one.error for one in refused)
        assert not run.hub.stop_requested
        assert run.offer.parameters == ()
        assert run.rates["lr"] == 0.1


def test_without_a_remote_control_nothing_is_read(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    with hub:
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "requests").write_bytes(b"x\n")
        hub.settle()
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["requests"]


@pytest.mark.parametrize("kind", [SkipRequested, RollbackRequested])
def test_what_is_not_allowed_is_refused_with_what_is(run: Steered, kind: type[Request]) -> None:
    append(run, written(run, kind(id="a", author="eve", reason="why")))
    (refused,) = run.settle_until(RequestRefused)
    assert "it allows stop, checkpoint, pause, set/** (allow= of its RemoteControl)" in refused.error
    assert (refused.request, refused.request_seq, refused.id) == (kind.__name__, -1, "a")
    assert (refused.author, refused.reason) == ("eve", "why")


@pytest.mark.parametrize("value", [0.0, 1.5, -1, "0.1", "__import__('os').system('true')", None, True, [0.1], 10**400])
def test_a_value_out_of_bounds_or_of_another_type_is_refused(run: Steered, value: Any) -> None:
    append(run, written(run, ParameterChangeRequested(id="a", name="lr", value=value)))
    (refused,) = run.settle_until(RequestRefused)
    assert "lr takes a" in refused.error
    assert run.rates["lr"] == 0.1
    assert not run.of(ParameterChangeRequested)


def test_a_parameter_without_bounds_is_refused(run: Steered) -> None:
    append(run, written(run, ParameterChangeRequested(id="a", name="momentum", value=0.5)))
    assert "declares no bounds for 'momentum'" in run.settle_until(RequestRefused)[0].error
    assert "momentum" not in run.rates


def test_a_pause_that_is_too_long_is_refused(run: Steered) -> None:
    append(run, written(run, PauseRequested(id="a", seconds=3601.0)))
    assert "3600 s at most" in run.settle_until(RequestRefused)[0].error


def test_a_kind_that_nobody_applies_is_refused_by_the_loop(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(RemoteControl(tmp_path, allow=("checkpoint",)))
    found: list[Any] = []
    with hub, hub.subscribe(RequestRefused) as events:
        until(lambda: steerable(tmp_path)[0])
        asked = ask(tmp_path, CheckpointRequested(), author="ada")
        until(lambda: hub.settle() or found.extend(events._take()) or found)  # type: ignore[func-returns-value]
    (refused,) = found
    assert refused.id == asked.id
    assert "nobody applies CheckpointRequested; say how with hub.on_request" in refused.error


def test_a_request_that_expired_before_the_run_looked_is_refused(tmp_path: Path) -> None:
    now = time.time()
    one = Written(StopRequested(id="a"), "r", "i", now - 61.0, 60.0)
    assert remote_control._too_late(one, 100.0, now).startswith(EXPIRED)
    assert remote_control._too_late(replace(one, expires=62.0), 100.0, now) == ""


@pytest.mark.parametrize("apart", [-590.0, -61.0, 61.0, 590.0])
def test_a_run_that_looks_all_the_time_takes_what_is_asked_though_the_clocks_are_apart(
    run: Steered, apart: float
) -> None:
    append(run, written(run, StopRequested(id="a"), time=time.time() + apart))
    assert run.settle_until(RequestApplied)[0].id == "a"


@pytest.mark.parametrize("apart", [-700.0, 700.0])
def test_clocks_that_are_far_apart_are_said(run: Steered, apart: float) -> None:
    append(run, written(run, StopRequested(id="a"), time=time.time() + apart))
    (refused,) = run.settle_until(RequestRefused)
    assert refused.error.startswith(EXPIRED)
    assert "set the clocks" in refused.error
    assert not run.hub.stop_requested


def test_what_was_asked_while_the_run_could_not_look_expires(run: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    look = ControlDesk.look

    def held(desk: ControlDesk) -> Any:
        stopped.wait(WAIT)
        return look(desk)

    monkeypatch.setattr(ControlDesk, "look", held)
    held_at = time.monotonic()
    append(run, written(run, StopRequested(id="a"), expires=0.05))
    until(lambda: time.monotonic() > held_at + 0.4)
    stopped.set()
    (refused,) = run.settle_until(RequestRefused)
    assert refused.error.startswith(EXPIRED)
    assert not run.hub.stop_requested


# --- once


def test_one_id_is_applied_once_however_often_it_is_asked(run: Steered) -> None:
    line = written(run, ParameterChangeRequested(id="a", name="lr", value=0.5))
    append(run, line, line)
    run.settle_until(RequestApplied)
    append(run, line, written(run, StopRequested(id="z")))
    assert [one.id for one in run.settle_until(RequestApplied, 2)] == ["a", "z"]
    assert not run.of(RequestRefused)


def test_something_else_with_the_same_id_is_refused(run: Steered) -> None:
    append(
        run,
        written(run, ParameterChangeRequested(id="a", name="lr", value=0.5)),
        written(run, ParameterChangeRequested(id="a", name="lr", value=0.6)),
    )
    assert run.settle_until(RequestRefused)[0].error == "its id was that of another request (lr = 0.6)"
    assert run.rates["lr"] == 0.5


def test_a_request_to_a_start_that_is_over_never_stops_the_next_one(tmp_path: Path) -> None:
    run = Steered(tmp_path)
    with run.hub:
        run.opened()
        late, other = written(run, StopRequested(id="late")), written(run, StopRequested(id="x"), run_id="f" * 32)
        append(run, written(run, CheckpointRequested(id="before")))
        run.settle_until(RequestApplied)
    append(run, written(run, StopRequested(id="between")))  # nobody runs
    run.listen()
    with run.hub:
        run.opened()
        append(run, late, other)
        refused = run.settle_until(RequestRefused, 2)
        assert {one.id for one in refused} == {"late", "x"}
        assert all("earlier start of the run" in one.error for one in refused)
        ask(tmp_path, CheckpointRequested(id="now"), author="ada")
        run.settle_until(RequestApplied, 2)
        assert not run.hub.stop_requested
    assert [one.id for one in run.checkpoints] == ["before", "now"]


@pytest.mark.parametrize("kind", [StopRequested, PauseRequested, CheckpointRequested])
def test_what_a_start_had_seen_and_not_applied_when_it_ended_is_refused_by_the_next_one(
    tmp_path: Path, kind: type[Request]
) -> None:
    run = Steered(tmp_path)
    run.hub.attach(Journal(tmp_path / "journal"))
    with run.hub:
        run.opened()
        ask(tmp_path, kind(id="late"), author="ada")
        until(lambda: run.of(kind))
    hub = recover(tmp_path)
    hub.on_request(CheckpointRequested, run.checkpoints.append)
    hub.attach(Journal(tmp_path / "journal"))
    with hub, hub.subscribe(RequestRefused) as events:
        hub.settle(timeout=WAIT)
        (refused,) = events._take()
    assert "earlier start of the run" in refused.error  # type: ignore[attr-defined]
    assert refused.id == "late"  # type: ignore[attr-defined]
    assert (hub.stop_requested, hub.paused, run.checkpoints) == (False, False, [])


def test_each_start_has_an_identity_of_its_own_and_says_when_it_ended(tmp_path: Path) -> None:
    run = Steered(tmp_path)
    seen = []
    for _ in range(2):
        with run.hub:
            run.opened()
            seen.append(run.offer)
        assert run.offer == replace(seen[-1], ended=run.offer.ended)
        assert run.offer.ended is not None
    assert seen[0].incarnation != seen[1].incarnation
    assert seen[0].run_id == seen[1].run_id == run.hub.run_id
    assert seen[0].pid == os.getpid()


# --- damage


def test_a_torn_line_spoils_no_other(run: Steered) -> None:
    torn = written(run, StopRequested(id="torn"))
    append(run, torn[:50])
    ask(run.folder, CheckpointRequested(id="whole"), author="ada")
    run.settle_until(RequestApplied)
    assert [one.id for one in run.checkpoints] == ["whole"]
    (refused,) = run.of(FrameRefused)
    assert "torn or damaged" in refused.error
    assert not run.hub.stop_requested


def test_a_line_cut_anywhere_is_no_request_and_the_next_one_is(run: Steered) -> None:
    torn = written(run, StopRequested(id="torn"))
    for cut in range(1, len(torn) - 1, 5):
        append(run, torn[:cut])
        ask(run.folder, CheckpointRequested(id=f"n{cut}"), author="ada")
    wanted = len(range(1, len(torn) - 1, 5))
    run.settle_until(RequestApplied, wanted)
    assert len(run.checkpoints) == wanted
    assert not run.of(StopRequested)
    assert len(run.of(FrameRefused)) == 1  # said once


def test_a_line_that_comes_in_pieces_is_one(run: Steered) -> None:
    line = written(run, StopRequested(id="a"))
    for index in range(0, len(line), 60):
        append(run, line[index : index + 60])
        threading.Event().wait(0.12)  # so that the run looks at each
    assert run.settle_until(RequestApplied)[0].id == "a"
    assert not run.of(FrameRefused)


def test_garbage_does_not_disturb_the_run_and_is_said_once(run: Steered, rng: Any) -> None:
    append(run, rng.bytes(3 * 2**18), b"\n" * 1000, b"x" * (3 * LONGEST_LINE))
    ask(run.folder, CheckpointRequested(id="a"), author="ada")
    run.settle_until(RequestApplied)
    assert len(run.checkpoints) == 1
    assert len(run.of(FrameRefused)) == 1
    assert not run.of(RequestRefused)
    run.hub.settle()


def test_random_damage_lets_nothing_in_that_was_not_asked(run: Steered, seed: int) -> None:
    chance = random.Random(seed)
    lines = [written(run, CheckpointRequested(id=f"c{number}")) for number in range(30)]
    data = bytearray(b"".join(lines))
    for _ in range(12):
        data[chance.randrange(len(data))] = chance.randrange(256)
    whole = [number for number, line in enumerate(lines) if line.rstrip(b"\n") in bytes(data).split(b"\n")]
    append(run, bytes(data))
    ask(run.folder, StopRequested(id="end"), author="ada")
    run.settle_until(RequestApplied, len(whole) + 1)
    assert [one.id for one in run.checkpoints] == [f"c{number}" for number in whole]


def test_requests_that_were_removed_cut_or_replaced_come_to_an_end_and_new_ones_are_read(run: Steered) -> None:
    ask(run.folder, CheckpointRequested(id="a"), author="ada")
    run.settle_until(RequestApplied)
    run.requests.unlink()
    until(run.requests.exists)
    ask(run.folder, CheckpointRequested(id="b"), author="ada")
    run.settle_until(RequestApplied, 2)
    os.truncate(run.requests, 0)
    ask(run.folder, CheckpointRequested(id="c"), author="ada")
    run.settle_until(RequestApplied, 3)
    copy = run.requests.with_name("copy")
    copy.write_bytes(run.requests.read_bytes() + written(run, CheckpointRequested(id="d")))
    copy.replace(run.requests)
    run.settle_until(RequestApplied, 4)
    assert [one.id for one in run.checkpoints] == ["a", "b", "c", "d"]


def test_a_long_file_is_begun_anew_when_it_was_read(run: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_desk, "OLD_BYTES", 2**17)
    line = written(run, CheckpointRequested(id="a"))
    append(run, line * (2**17 // len(line) + 2))
    until(lambda: not run.requests.stat().st_size)
    ask(run.folder, CheckpointRequested(id="b"), author="ada")
    run.settle_until(RequestApplied, 2)
    assert [one.id for one in run.checkpoints] == ["a", "b"]


def test_a_flood_of_refusals_is_cut_off(run: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_control, "SAID", 5)
    append(run, *[written(run, SkipRequested(id=f"s{number}")) for number in range(20)])
    ask(run.folder, StopRequested(), author="ada")
    run.settle_until(RequestApplied)
    assert len(run.of(RequestRefused)) == 5


def test_something_else_in_the_place_of_the_requests_is_said_and_is_no_end(
    run: Steered, caplog: pytest.LogCaptureFixture
) -> None:
    run.requests.unlink()
    os.mkfifo(run.requests)
    until(lambda: "no plain file" in caplog.text)
    with pytest.raises(ControlError, match=r"no plain file|cannot be asked"):
        ask(run.folder, StopRequested(), author="ada")
    run.requests.unlink()
    until(run.requests.is_file)
    ask(run.folder, StopRequested(), author="ada")
    run.settle_until(RequestApplied)


# --- the folder


def test_only_its_user_can_read_the_folder(run: Steered) -> None:
    ask(run.folder, CheckpointRequested(), author="ada")
    run.settle_until(RequestApplied)
    folder = run.folder / FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        (LOCK, OFFER, "requests"), 0o600
    )


def test_a_folder_that_all_can_write_is_closed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o777)
    (tmp_path / FOLDER).chmod(0o777)
    (tmp_path / FOLDER / "requests").write_bytes(b"")
    (tmp_path / FOLDER / "requests").chmod(0o666)
    with steered(tmp_path) as run:
        assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
        assert run.requests.stat().st_mode & 0o777 == 0o600


def failure(folder: Path) -> str:
    """Return why a remote control has failed."""
    hub = MessageHub("hub")
    hub.attach(RemoteControl(folder, allow=("stop",)))
    found: list[Any] = []
    with hub.subscribe(SubscriberFailed) as events, hub:
        until(lambda: found.extend(events._take()) or found)  # type: ignore[func-returns-value]
    return str(found[0].error)


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / FOLDER).symlink_to(tmp_path / "elsewhere")
    assert "is no folder" in failure(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("")
    assert "is no folder" in failure(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *more: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        why = failure(tmp_path)
    assert "cannot be written, so the run cannot be steered through it: [Errno 30] Read-only file system" in why


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    os.chown(tmp_path / FOLDER, 12345, 12345)
    assert "belongs to another user (number 12345)" in failure(tmp_path)


def test_a_second_one_in_the_same_folder_is_refused_and_the_first_goes_on(run: Steered) -> None:
    assert f"is that of process {os.getpid()}" in failure(run.folder)
    ask(run.folder, StopRequested(), author="ada")
    run.settle_until(RequestApplied)


def test_a_disk_that_refuses_the_offer_is_said_once_and_is_no_end(
    run: Steered, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(desk: ControlDesk, offer: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ControlDesk, "write", full)
        run.rates["lr"] = 0.7
        until(lambda: "No space left" in caplog.text)
        ask(run.folder, StopRequested(), author="ada")
        run.settle_until(RequestApplied)
    until(lambda: run.offer.values == {"lr": 0.7})
    assert caplog.text.count("No space left") == 1


def test_a_value_that_cannot_be_had_is_said_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise RuntimeError("gone")

    with steered(tmp_path, parameters=(Parameter("x", broken, print),)) as run:
        assert run.offer.values == {}
        assert "the value of x is not to be had: RuntimeError: gone" in caplog.text


# --- ranks


def test_other_ranks_than_the_first_have_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    hub = MessageHub("hub")
    hub.attach(RemoteControl(tmp_path, allow=("stop",), bounds={"lr": (0, 1)}))
    with hub:
        hub.flush(WAIT)
        assert hub.parameters["lr"].high == 1
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_apply_what_they_have_agreed_on_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with steered(tmp_path / "none") as run:
        ask(run.folder, StopRequested(), author="ada")
        (refused,) = run.settle_until(RequestRefused)
        assert "2 ranks, which have to apply it at the same step: give its RemoteControl agree=" in refused.error
        assert not run.hub.stop_requested
    agreed: list[Request] = []
    with steered(tmp_path / "agreed", agree=agreed.append) as run:
        ask(run.folder, StopRequested(id="a"), author="ada")
        until(lambda: agreed)
        run.hub.settle()
        assert [one.id for one in agreed] == ["a"]
        assert not run.hub.stop_requested


# --- arguments


@pytest.mark.parametrize(
    "options",
    [
        {"folder": 3},
        {"allow": "stop"},
        {"allow": ("explode",)},
        {"allow": ("set/",)},
        {"bounds": {"lr": 3}},
        {"bounds": {"lr": (1, 0)}},
        {"bounds": [("lr", 1)]},
        {"parameters": (3,)},
        {"parameters": (Parameter(".x"),)},
        {"agree": 3},
        {"every": 0.01},
        {"every": None},
        {"longest_pause": 0},
        {"longest_pause": 1e9},
    ],
    ids=lambda options: "".join(f"{name}={value!s:.12}" for name, value in options.items()),
)
def test_an_argument_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ArgumentError, PatternError)):
        RemoteControl(**{"folder": "run", **options})


# --- by force


CHILD = """
import sys
from pathlib import Path
from tests.steered import Steered
run = Steered(Path(sys.argv[1]))
with run.hub:
    run.opened()
    print("ready", flush=True)
    while not run.hub.stop_requested:
        run.hub.step += 1
        run.hub.settle()
        import time; time.sleep(0.002)
print("stopped", run.hub.stop_reason, flush=True)
"""


@contextmanager
def child(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_run_in_another_process_is_stopped_and_one_that_was_killed_cannot_be_asked(tmp_path: Path) -> None:
    with child(tmp_path) as process:
        first = read_incarnation(tmp_path)
        process.kill()
        process.wait(WAIT)
    offered, why = steerable(tmp_path)
    assert offered == ()
    assert why == f"the run has ended: its process {process.pid} is gone"
    with pytest.raises(ControlError, match="is gone"):
        ask(tmp_path, StopRequested(), author="ada")
    with child(tmp_path) as process:
        assert read_incarnation(tmp_path) != first
        asked = time.monotonic()
        ask(tmp_path, StopRequested(reason="seen enough"), author="ada")
        out, _ = process.communicate(timeout=WAIT)
        assert time.monotonic() - asked < WAIT
    assert out == "stopped seen enough\n"
    assert steerable(tmp_path) == ((), "the run has ended")


def read_incarnation(folder: Path) -> str:
    from asynchub.control_folder import read_offer

    offer = read_offer(folder / FOLDER)
    assert offer is not None
    return offer.incarnation


ASKER = """
import sys
from pathlib import Path
from asynchub.dashboard.asking import ask
from asynchub.requests import CheckpointRequested
for number in range(int(sys.argv[3])):
    ask(Path(sys.argv[1]), CheckpointRequested(id=f"{sys.argv[2]}-{number}"), author=sys.argv[2])
"""


def askers(run: Steered, count: int, each: int) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen([sys.executable, "-c", ASKER, str(run.folder), f"v{one}", str(each)], cwd=ROOT)
        for one in range(count)
    ]


def test_what_several_processes_ask_at_once_is_applied_once_each(run: Steered) -> None:
    processes = askers(run, 2, 60)
    run.settle_until(RequestApplied, 120)
    assert [process.wait(WAIT) for process in processes] == [0] * 2
    assert sorted(one.id for one in run.checkpoints) == sorted(
        f"v{one}-{number}" for one in range(2) for number in range(60)
    )
    for one in range(2):
        own = [request.id for request in run.checkpoints if request.id.startswith(f"v{one}-")]
        assert own == [f"v{one}-{number}" for number in range(60)]
    assert not run.of(RequestRefused)
    assert not run.of(FrameRefused)


@pytest.mark.slow
def test_viewers_that_are_killed_at_any_moment_spoil_nothing(run: Steered, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(12):
        processes = askers(run, 2, 100_000)
        before = len(run.checkpoints)
        run.settle_until(RequestApplied, before + 5)
        threading.Event().wait(chance.random() * 0.3)
        for process in processes:
            process.kill()
            process.wait(WAIT)
        run.requests.write_bytes(b"") if chance.random() < 0.2 else None
    ask(run.folder, StopRequested(id="end"), author="ada")
    until(lambda: run.hub.settle() or run.hub.stop_requested, 60)  # type: ignore[func-returns-value]
    assert not run.of(FrameRefused)
    assert len(run.checkpoints) == len({one.id for one in run.checkpoints})


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("nothing forks here")
    reading, writing = os.pipe()
    with steered(tmp_path) as run:
        child_pid = os.fork()
        if not child_pid:  # pragma: no cover
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        assert run.offer.ended is None
    try:
        with steered(tmp_path) as other:
            assert other.offer.ended is None
    finally:
        os.close(writing)
        os.waitpid(child_pid, 0)


def test_leaving_does_not_wait_for_a_file_system_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_control, "PATIENCE", 0.05)
    hangs = threading.Event()
    monkeypatch.setattr(ControlDesk, "open", lambda desk, offer: hangs.wait(WAIT))
    hub = MessageHub("hub")
    hub.attach(RemoteControl(tmp_path))
    begun = time.monotonic()
    with hub, caplog.at_level(logging.WARNING):
        hub.settle()
    assert time.monotonic() - begun < WAIT / 2
    assert "a thread waits for it" in caplog.text
    hangs.set()
