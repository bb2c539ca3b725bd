"""Asking a run through its folder, and what became of that."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asynchub.allowing import refusal
from asynchub.control_folder import (
    EXPIRED,
    FOLDER,
    MANY_BYTES,
    OFFER,
    REQUESTS,
    ControlError,
    Offer,
    Written,
    pack_offer,
    pack_request,
)
from asynchub.dashboard import asking
from asynchub.dashboard.asking import ask, asked, steerable
from asynchub.events import Event
from asynchub.journal.journal import Journal
from asynchub.locking import LOCK, FolderLock
from asynchub.recorded import recorded_events
from asynchub.requests import (
    CheckpointRequested,
    ParameterChangeRequested,
    PauseRequested,
    Request,
    RequestApplied,
    RequestRefused,
    ResumeRequested,
    SkipRequested,
    StopRequested,
)
from tests.steered import Steered, steered
from tests.waiting import until


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Steered]:
    with steered(tmp_path / "run") as one:
        yield one


# --- what can be asked


def test_what_a_run_offers_is_what_it_allows_with_values_and_bounds(run: Steered) -> None:
    offered, why = steerable(run.folder)
    assert why == ""
    assert [(one.word, one.name, one.value, one.low, one.high) for one in offered] == [
        ("stop", "", None, None, None),
        ("checkpoint", "", None, None, None),
        ("pause", "", None, None, None),
        ("set", "lr", 0.1, 1e-5, 1.0),
        ("set", "wd", None, 0.0, 0.1),
    ]
    assert all(one.note for one in offered if one.word != "set")


def test_what_it_does_not_allow_is_said(tmp_path: Path) -> None:
    with steered(tmp_path / "a", allow=("stop", "set/wd")) as run:
        offered, why = steerable(run.folder)
        assert [one.name or one.word for one in offered] == ["stop", "wd"]
        assert why == "the run does not allow checkpoint, pause"
    with steered(tmp_path / "b", allow=()) as run:
        assert steerable(run.folder) == ((), "the run lets nothing be asked for (allow= of its RemoteControl)")


def test_a_run_without_a_remote_control_says_what_to_do(tmp_path: Path) -> None:
    why = "the run does not let itself be steered: attach RemoteControl"
    assert steerable(tmp_path) == ((), why)
    assert steerable(tmp_path / "none") == ((), why)
    with pytest.raises(ControlError, match="attach RemoteControl"):
        ask(tmp_path, StopRequested(), author="ada")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_ended_cannot_be_asked(tmp_path: Path) -> None:
    with steered(tmp_path) as run:
        pass
    assert steerable(run.folder) == ((), "the run has ended")
    with pytest.raises(ControlError, match="the run has ended"):
        ask(run.folder, StopRequested(), author="ada")
    assert not run.requests.read_bytes()


def offer_of(folder: Path, **changed: Any) -> None:
    """Write an offer without a run behind it."""
    control = folder / FOLDER
    control.mkdir()
    for name in (LOCK, REQUESTS):
        (control / name).write_bytes(b"")
    offer = Offer("a" * 32, "b" * 32, socket.gethostname(), 7, 1e9, allow=("stop",))
    (control / OFFER).write_bytes(pack_offer(replace(offer, **changed)))


def test_a_run_whose_process_is_gone_is_told_by_its_lock(tmp_path: Path) -> None:
    offer_of(tmp_path)
    (tmp_path / FOLDER / LOCK).write_text(f"process 7 on {socket.gethostname()}\n")
    assert steerable(tmp_path) == ((), "the run has ended: its process 7 is gone")
    lock = FolderLock(tmp_path / FOLDER, ControlError)
    assert [one.word for one in steerable(tmp_path)[0]] == ["stop"]
    lock.release()
    assert "is gone" in steerable(tmp_path)[1]
    (tmp_path / FOLDER / LOCK).unlink()
    assert "is gone" in steerable(tmp_path)[1]


def test_a_run_on_another_machine_is_asked_though_its_lock_cannot_be_seen(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")
    assert [one.word for one in steerable(tmp_path)[0]] == ["stop"]
    assert ask(tmp_path, StopRequested(), author="ada").state == "requested"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"format": 2}'])
def test_an_offer_that_is_damaged_is_said(tmp_path: Path, data: bytes) -> None:
    offer_of(tmp_path)
    (tmp_path / FOLDER / OFFER).write_bytes(data)
    offered, why = steerable(tmp_path)
    assert offered == ()
    assert "the offer" in why
    with pytest.raises(ControlError, match="the offer"):
        ask(tmp_path, StopRequested(), author="ada")


# --- asking


def test_what_is_refused_at_once_is_not_written(run: Steered) -> None:
    refusals: list[tuple[Request, str]] = [
        (SkipRequested(), "does not allow skip; it allows stop, checkpoint, pause, set/**"),
        (ParameterChangeRequested(name="lr", value=2), "lr takes a number from 1e-05 to 1, got 2"),
        (ParameterChangeRequested(name="lr", value="0.1"), "lr takes a finite number"),
        (ParameterChangeRequested(name="x", value=0.1), "declares no bounds for 'x'"),
        (PauseRequested(seconds=9999.0), "3600 s at most"),
        (Request(), "from afar one can ask"),
        (StopRequested(id="a b"), "id of a request"),
        (StopRequested(reason="x" * 1001), "at most 1000 letters"),
    ]
    for request, words in refusals:
        with pytest.raises(ControlError) as raised:
            ask(run.folder, request, author="ada")
        assert words in str(raised.value)
    for expires in (0.0, -1.0, 3601.0, float("nan")):
        with pytest.raises(ControlError, match="expires"):
            ask(run.folder, StopRequested(), author="ada", expires=expires)
    assert not run.requests.read_bytes()


def test_the_author_is_who_asks_whatever_the_request_says(run: Steered) -> None:
    one = ask(run.folder, CheckpointRequested(author="root", reason="two\nlines \x1b[31m"), author="ada")
    assert (one.who, one.why, one.what, one.state) == ("ada", "two lines [31m", "checkpoint", "requested")
    assert run.settle_until(RequestApplied)[0].author == "ada"


def test_the_same_id_asked_again_counts_once(run: Steered) -> None:
    for _ in range(3):
        ask(run.folder, CheckpointRequested(id="a"), author="ada")
    ask(run.folder, StopRequested(id="b"), author="ada")
    run.settle_until(RequestApplied, 2)
    assert len(run.checkpoints) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "read-only file system here"),
        (errno.EACCES, "only the user that runs it"),
        (errno.ENOSPC, "make room"),
        (errno.EIO, "ask again"),
    ],
)
def test_a_folder_that_cannot_be_written_is_said_with_the_remedy(
    run: Steered, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any) -> int:
        if str(path).endswith(REQUESTS) and flags & os.O_APPEND:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(ControlError, match="cannot be asked") as raised:
            ask(run.folder, StopRequested(), author="ada")
    assert words in str(raised.value)
    assert os.strerror(number) in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_can_neither_ask_nor_look(run: Steered) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from asynchub.dashboard.asking import ask, steerable; from asynchub.requests import StopRequested\n"
        "os.setuid(12345)\n"
        "print(steerable(Path(sys.argv[1])))\n"
        "try: ask(Path(sys.argv[1]), StopRequested(), author='eve')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    for folder in (run.folder, *run.folder.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", script, str(run.folder)], capture_output=True, text=True, timeout=60, check=False
    )
    first, second = done.stdout.splitlines()
    assert "Permission denied; is it another user's run?" in first
    assert second == "ControlError"
    run.folder.parent.chmod(0o700)


def test_a_request_that_the_disk_takes_half_of_is_cut_off_again(run: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(run.folder, CheckpointRequested(id="a"), author="ada")
    before = run.requests.read_bytes()
    write = os.write

    def half(file: int, data: bytes) -> int:
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(ControlError, match="make room"):
            ask(run.folder, StopRequested(id="b"), author="ada")
    assert run.requests.read_bytes() == before


def test_a_run_that_does_not_read_is_not_asked_without_end(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")
    with (tmp_path / FOLDER / REQUESTS).open("wb") as file:
        file.truncate(MANY_BYTES + 1)
    with pytest.raises(ControlError, match="does not read what it is asked"):
        ask(tmp_path, StopRequested(), author="ada")


def test_a_link_in_the_place_of_the_requests_is_not_followed(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("x")
    (tmp_path / FOLDER / REQUESTS).unlink()
    (tmp_path / FOLDER / REQUESTS).symlink_to(elsewhere)
    with pytest.raises(ControlError, match="a link, which is not followed"):
        ask(tmp_path, StopRequested(), author="ada")
    (tmp_path / FOLDER / REQUESTS).unlink()
    with pytest.raises(ControlError, match="ask again in a moment"):
        ask(tmp_path, StopRequested(), author="ada")
    assert elsewhere.read_text() == "x"


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(
    run: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LOCKED", 0.05)
    with run.requests.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        begun = time.monotonic()
        ask(run.folder, StopRequested(), author="ada")
        assert time.monotonic() - begun < 5
    run.settle_until(RequestApplied)


def test_threads_that_ask_at_once_write_whole_lines(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")

    def one(number: int) -> None:
        for index in range(50):
            ask(tmp_path, StopRequested(id=f"{number}-{index}"), author="ada")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.id for each in asked(tmp_path, ())} == {
        f"{number}-{index}" for number in range(4) for index in range(50)
    }


# --- what became of it


def test_a_request_goes_from_requested_to_seen_to_applied(run: Steered) -> None:
    one = ask(run.folder, ParameterChangeRequested(name="lr", value=0.5, reason="why"), author="ada")

    def now() -> Any:
        (state,) = asked(run.folder, run.hear())
        return state

    assert one == replace(now(), state="requested")
    until(lambda: now().state == "seen")
    run.hub.step = 7
    until(lambda: run.hub.settle() or now().state == "applied")  # type: ignore[func-returns-value]
    assert now() == replace(one, state="applied", step=7)
    assert (one.what, one.who, one.why) == ("lr = 0.5", "ada", "why")


def test_one_that_the_loop_refuses_says_why(run: Steered) -> None:
    ask(run.folder, ResumeRequested(), author="ada")
    run.settle_until(RequestRefused)
    (one,) = asked(run.folder, run.told)
    assert (one.state, one.step, one.error) == ("refused", run.hub.step, "LifecycleError: the run is not paused")


def test_one_that_nobody_sees_expires(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")
    one = ask(tmp_path, StopRequested(), author="ada", expires=10.0)
    assert asked(tmp_path, (), one.time + 9.0)[0].state == "requested"
    assert asked(tmp_path, (), one.time + 14.9)[0].state == "requested"  # what the run says may be on its way
    assert asked(tmp_path, (), one.time + 15.1)[0].state == "expired"


def happened(*events: Event) -> list[Event]:
    return [event.stamped(number, 1e9 + number, number) for number, event in enumerate(events, 1)]


def refused(error: str, seq: int = -1) -> RequestRefused:
    return RequestRefused(request="StopRequested", request_seq=seq, error=error, author="ada", id="a")


def test_events_alone_tell_it_too(tmp_path: Path) -> None:
    applied = RequestApplied(request="StopRequested", request_seq=1, author="ada", reason="r", id="a")
    (one,) = asked(tmp_path, happened(StopRequested(id="a", author="ada", reason="r"), applied))
    assert (one.what, one.state, one.step, one.time) == ("stop", "applied", 2, 1e9 + 1)
    (one,) = asked(tmp_path, happened(applied))  # the request itself was before what is looked at
    assert (one.what, one.who, one.why, one.state) == ("stop", "ada", "r", "applied")
    (one,) = asked(tmp_path, happened(refused("no")))
    assert (one.state, one.error) == ("refused", "no")
    (one,) = asked(tmp_path, happened(refused(f"{EXPIRED}: late")))
    assert one.state == "expired"


def test_what_was_to_be_set_is_known_by_its_event_and_else_its_refusal_says_it(tmp_path: Path) -> None:
    asks = ParameterChangeRequested(id="a", name="lr", value=3)
    no = RequestRefused(request="ParameterChangeRequested", request_seq=1, error="no", id="a")
    (one,) = asked(tmp_path, happened(asks, no))
    assert (one.what, one.state, one.error) == ("lr = 3", "refused", "no")
    (one,) = asked(tmp_path, happened(asks, replace(no, id="")))
    assert (one.what, one.state) == ("lr = 3", "seen")
    (one,) = asked(tmp_path, happened(refusal(asks, "it was asked of an earlier start of the run")))
    assert (one.what, one.error) == ("set", "it was asked of an earlier start of the run (lr = 3)")


def test_a_number_of_any_size_is_refused_in_words(run: Steered) -> None:
    for request in (ParameterChangeRequested(name="lr", value=10**5000), PauseRequested(seconds=10**5000)):
        with pytest.raises(ControlError, match="got a huge integer"):
            ask(run.folder, request, author="ada")


def test_a_second_one_with_the_same_id_does_not_change_what_became_of_the_first(tmp_path: Path) -> None:
    applied = RequestApplied(request="StopRequested", request_seq=1, author="ada", id="a")
    events = happened(StopRequested(id="a", author="ada"), applied, refused("its id was that of another request"))
    assert asked(tmp_path, events)[0].state == "applied"


def test_what_rules_ask_of_themselves_is_not_listed(tmp_path: Path) -> None:
    applied = RequestApplied(request="StopRequested", request_seq=1, author="EarlyStopping")
    assert asked(tmp_path, happened(StopRequested(author="EarlyStopping"), applied)) == ()


def test_the_newest_stand_first(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")
    lines = [
        pack_request(Written(StopRequested(id=f"r{number}"), "a", "b", 1e9 + number, 60.0)) for number in (2, 0, 3, 1)
    ]
    (tmp_path / FOLDER / REQUESTS).write_bytes(b"".join(lines))
    assert [one.id for one in asked(tmp_path, (), 1e9)] == ["r3", "r2", "r1", "r0"]


def test_damage_hides_no_other_request(tmp_path: Path) -> None:
    offer_of(tmp_path, host="elsewhere")
    whole = pack_request(Written(StopRequested(id="a"), "a", "b", 1e9, 60.0))
    for damage in (b"", b"\x00" * 100, whole[:30], b"\n\n", b"x" * 300_000):
        (tmp_path / FOLDER / REQUESTS).write_bytes(damage + b"\n" + whole)
        assert [one.id for one in asked(tmp_path, (), 1e9)] == ["a"]


def test_something_else_in_its_place_is_nothing_that_was_asked(tmp_path: Path) -> None:
    assert asked(tmp_path / "none", ()) == ()
    offer_of(tmp_path)
    (tmp_path / FOLDER / REQUESTS).unlink()
    os.mkfifo(tmp_path / FOLDER / REQUESTS)
    assert asked(tmp_path, ()) == ()


def test_texts_are_of_one_line_without_control_characters(tmp_path: Path) -> None:
    events = happened(
        StopRequested(id="a", author="e\x1b[31mve\n", reason="\u202ereversed\r\n"), refused("\x07bell\nline", 1)
    )
    (one,) = asked(tmp_path, events)
    assert all(text.isprintable() for text in (one.what, one.who, one.why, one.error))


def test_the_journal_of_the_run_has_all_of_it(tmp_path: Path) -> None:
    run = Steered(tmp_path)
    run.hub.attach(Journal(tmp_path / "journal"))
    with run.hub:
        run.opened()
        first = ask(tmp_path, CheckpointRequested(reason="now"), author="ada")
        second = ask(tmp_path, StopRequested(reason="enough"), author="bob")
        run.settle_until(RequestApplied, 2)
    (tmp_path / FOLDER / REQUESTS).unlink()
    events = [
        event for event in recorded_events(tmp_path) if isinstance(event, Request | RequestApplied | RequestRefused)
    ]
    assert {(one.id, one.who, one.state) for one in asked(tmp_path, events)} == {
        (first.id, "ada", "applied"),
        (second.id, "bob", "applied"),
    }
