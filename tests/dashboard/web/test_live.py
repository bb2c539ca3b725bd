"""What viewers are told while a run goes on: all of it, nothing twice, the newest to whoever is slow or comes back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from asynchub.dashboard.web.tokens import new_secrets
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.receiving import Received
from tests.dashboard.web.servers import Served, serving

WAIT = 20.0
KEYS = ["loss", "lr"]


class Told:
    """What came to one viewer."""

    def __init__(self, feed: ClientConnection) -> None:
        self.feed = feed
        self.received = Received()
        self.numbers: list[int | None] = []
        self.texts: dict[str, list[dict[str, Any]]] = {"rows": [], "screen": [], "error": []}

    def hear(self, seconds: float) -> bool:
        """Take one message in; return whether one came."""
        try:
            message = self.feed.recv(seconds)
        except TimeoutError:
            return False
        if isinstance(message, bytes):
            self.numbers.append(self.received.take(message))
        else:
            told = json.loads(message)
            self.texts[told["type"]].append(told)
        return True

    def until(self, condition: Any) -> None:
        """Take messages in until something is so."""
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline
            self.hear(0.1)


def _quiet(seconds: float, *viewers: Told) -> None:
    """Take messages in until none of curves comes to anybody for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = [viewer.received.messages for viewer in viewers]
        for viewer in viewers:
            viewer.hear(0.05 / len(viewers))
        if [viewer.received.messages for viewer in viewers] != before:
            until = time.monotonic() + seconds


PROGRAM = """
import sys
import threading
from asynchub import Journal, MessageHub
hub = MessageHub("run")
hub.attach(Journal(sys.argv[1] + "/journal"))
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
with hub:
    for hub.step in range(1, int(sys.argv[2])):
        hub.update_scalar("loss", 1 / hub.step if hub.step % 97 else float("nan"))
        if hub.step % 50 == 0:
            hub.update_scalar("lr", 0.1)
            hub.update_info("epoch", hub.step // 50)
            if over.wait(0.04):
                break
"""


@contextmanager
def _training(folder: Path, steps: int = 10**9) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process train: 1,000 values a second, until its time or the block is over."""
    arguments = [sys.executable, "-c", PROGRAM, str(folder), str(steps)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE) as program:
        try:
            yield program
            assert program.stdin is not None
            program.stdin.close()
            assert program.wait(WAIT) == 0
        finally:
            program.kill()


def _first_run(served: Served) -> str:
    deadline = time.monotonic() + WAIT
    while not served.runs:
        assert time.monotonic() < deadline
        served.look()
    return next(iter(served.runs.values()))


def _wanted(run: str, **options: Any) -> dict[str, Any]:
    return {"runs": [run], "keys": KEYS, "buckets": 300, "window": 40, **options}


def _whole(served: Served, wanted: dict[str, Any]) -> dict[str, Any]:
    whole = Received()
    whole.take(served.curves(**wanted))
    return whole.state()


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["step", "relative"])
def test_what_came_while_a_run_went_on_is_what_a_fresh_answer_brings(axis: str, tmp_path: Path) -> None:
    with serving([tmp_path], tmp_path / "cache") as served:
        with _training(tmp_path / "run"):
            run = _first_run(served)
            wanted = _wanted(run, axis=axis)
            with served.feed() as feed:
                told = Told(feed)
                feed.send(json.dumps({"rows": True, "screen": run, "curves": wanted, "n": 5}))
                told.until(lambda: told.received.messages > 12 and len(told.texts["screen"]) > 3)
                feed.send(json.dumps({"rows": True, "screen": run, "curves": wanted, "n": 6}))
                told.until(lambda: told.numbers.count(6) > 5)
        with served.feed() as feed:  # it is over: nothing comes any more
            told_after = Told(feed)
            feed.send(json.dumps({"curves": wanted, "n": 7}))
            told_after.until(lambda: told_after.received.messages)
            _quiet(0.5, told_after)
            assert told_after.received.state() == _whole(served, wanted)
    assert set(told.numbers) == {5, 6}
    assert told.numbers == sorted(told.numbers)
    whole = sum(len(columns["x"]) for _, series in told.received.charts.values() for _, columns in series.values())
    assert told.received.rows < (told.received.messages + 10) * whole
    assert told.texts["rows"][0]["rows"][0]["id"] == run
    assert told.texts["error"] == []


def test_a_viewer_that_follows_to_the_end_has_every_bit_of_it(tmp_path: Path) -> None:
    with serving([tmp_path], tmp_path / "cache") as served, ExitStack() as stack:
        with _training(tmp_path / "run"):
            wanted = _wanted(_first_run(served))
            told = Told(stack.enter_context(served.feed()))
            told.feed.send(json.dumps({"curves": wanted}))
            told.until(lambda: told.received.messages > 5)
        _quiet(1.1, told)
        assert told.received.state() == _whole(served, wanted)
        assert told.received.charts["loss"][0]["points"] % 50 == 0  # of all that was said


@pytest.mark.slow
def test_twelve_viewers_are_told_the_same_at_once(tmp_path: Path) -> None:
    with serving([tmp_path], tmp_path / "cache") as served, ExitStack() as stack:
        with _training(tmp_path / "run"):
            run = _first_run(served)
            wanted = _wanted(run)
            viewers = [Told(stack.enter_context(served.feed())) for _ in range(12)]
            for viewer in viewers:
                viewer.feed.send(json.dumps({"rows": True, "screen": run, "curves": wanted, "n": 1}))
            deadline = time.monotonic() + WAIT
            while min(viewer.received.messages for viewer in viewers) < 6:
                assert time.monotonic() < deadline
                for viewer in viewers:
                    viewer.hear(0.01)
        _quiet(1.5, *viewers)
        assert all(viewer.texts["screen"] for viewer in viewers)
        whole = _whole(served, wanted)
        assert all(viewer.received.state() == whole for viewer in viewers)


@pytest.mark.slow
def test_nothing_comes_twice_and_of_what_does_not_change_nothing_comes(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(Point("loss", step, float(step)) for step in range(100))
    writer.close()
    with serving([tmp_path], tmp_path / "cache") as served, served.feed() as feed:
        run = served.runs["run"]
        told = Told(feed)
        feed.send(json.dumps({"rows": True, "screen": run, "curves": _wanted(run)}))
        told.until(lambda: told.received.messages and told.texts["screen"])
        _quiet(1.5, told)  # what is read of it first is not all
        before, screens, lists = told.received.messages, len(told.texts["screen"]), len(told.texts["rows"])
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            told.hear(0.05)
        assert told.received.messages == before
        assert 2 <= len(told.texts["screen"]) - screens <= 3  # ages grow
        assert len(told.texts["rows"]) - lists <= 1


def test_a_viewer_sees_what_he_asked_for_last(tmp_path: Path) -> None:
    for name in ("one", "two"):
        writer = Writer(tmp_path / name, name.encode() * 5 + b"x")
        writer.points(Point("loss", step, 1.0) for step in range(50))
        writer.close()
    with serving([tmp_path], tmp_path / "cache") as served, served.feed() as feed:
        told = Told(feed)
        for number in range(20):
            run = served.runs["one" if number % 2 else "two"]
            look = {"rows": "name~one" if number % 2 else True, "screen": run, "curves": _wanted(run), "n": number}
            feed.send(json.dumps(look))
        told.until(lambda: told.numbers and told.numbers[-1] == 19 and told.texts["screen"])
        assert told.texts["screen"][-1]["screen"]["row"]["id"] == served.runs["one"]
        assert [row["id"] for row in told.texts["rows"][-1]["rows"]] == [served.runs["one"]]
        assert list(told.received.charts["loss"][1]) == [served.runs["one"]]


def test_what_a_viewer_says_wrongly_is_answered_and_the_rest_goes_on(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", 1, 1.0)])
    writer.close()
    with serving([tmp_path], tmp_path / "cache") as served, served.feed() as feed:
        told = Told(feed)
        for wrong in ("", "[]", "{", '{"rows": 5}', '{"curves": {"runs": "a"}}', b"\x00"):
            feed.send(wrong)
        told.until(lambda: len(told.texts["error"]) >= 6)
        feed.send(json.dumps({"screen": "gone", "rows": "name~(", "curves": _wanted("gone")}))
        told.until(lambda: told.received.messages and len(told.texts["error"]) >= 8)
        assert {"rows", "screen"} <= {error["what"] for error in told.texts["error"]}
        assert "no run 'gone'" in told.received.charts["loss"][1]["gone"][0]["note"]
        feed.send(json.dumps({"screen": served.runs["run"]}))
        told.until(lambda: told.texts["screen"])
        feed.send("x" * 70_000)
        with pytest.raises(ConnectionClosed):
            told.until(lambda: False)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """The folder of a run of three scalars with 5,000 values each, which are 400 kB together."""
    writer = Writer(tmp_path / "run")
    writer.points(Point(key, step, step / 7) for step in range(5000) for key in LONG_KEYS)
    writer.close()
    return tmp_path


LONG_KEYS = ["a", "b", "c"]


def test_who_does_not_listen_holds_up_nobody_and_gets_the_newest_when_he_does(long: Path) -> None:
    with serving([long], long / "cache") as served, ExitStack() as stack:
        wanted = {"runs": list(served.runs.values()), "keys": LONG_KEYS, "buckets": 8000}
        slow, told = (Told(stack.enter_context(served.feed())) for _ in range(2))
        for number in range(1, 61):  # each is answered with the whole: 25 MB in all, which no socket holds
            slow.feed.send(json.dumps({"curves": wanted, "n": number}))
            told.feed.send(json.dumps({"curves": {**wanted, "buckets": 50}, "n": number}))
            told.until(lambda number=number: number in told.numbers)
        slow.until(lambda: 60 in slow.numbers)
        assert slow.numbers == sorted(set(slow.numbers))
        assert len(slow.numbers) < 60
        assert slow.received.state() == _whole(served, wanted)


@pytest.mark.slow
def test_who_takes_nothing_for_long_is_let_go(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.dashboard.web.feeding.SEND_SECONDS", 0.5)
    monkeypatch.setattr("asynchub.dashboard.web.guard.MOST_SOCKETS", 1)
    with serving([long], long / "cache") as served, served.feed() as slow:
        wanted = {"runs": list(served.runs.values()), "keys": LONG_KEYS, "buckets": 8000}
        deadline = time.monotonic() + WAIT
        with pytest.raises(ConnectionClosed):
            _ask_for_ever(slow, wanted, deadline)
        while True:
            with contextlib.suppress(InvalidStatus), served.feed() as other:  # there is room for one
                other.send(json.dumps({"rows": True}))
                assert other.recv(WAIT)
                break
            assert time.monotonic() < deadline


def _ask_for_ever(feed: ClientConnection, wanted: dict[str, Any], deadline: float) -> None:
    number = 0
    while time.monotonic() < deadline:
        number += 1
        feed.send(json.dumps({"curves": wanted, "n": number}))
        time.sleep(0.02)  # or only the last is answered


@pytest.mark.slow
def test_after_a_restart_the_same_token_lets_in_and_all_is_there(tmp_path: Path) -> None:
    secrets = new_secrets()
    with _training(tmp_path / "run"):
        port = 0
        for _ in range(3):
            with serving([tmp_path], tmp_path / "cache", secrets=secrets, port=port) as served:
                port = served.port
                wanted = _wanted(_first_run(served))
                with served.feed() as feed:
                    told = Told(feed)
                    feed.send(json.dumps({"curves": wanted}))
                    told.until(lambda told=told: told.received.messages > 4)
        steps = told.received.charts["lr"][1][wanted["runs"][0]][1]["x"].tolist()
        assert steps == list(range(50, 50 * len(steps) + 1, 50))


@pytest.mark.slow
def test_a_server_that_ends_lets_its_viewers_go_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack, _training(tmp_path / "run"):
        with serving([tmp_path], tmp_path / "cache") as served:
            run = _first_run(served)
            told = Told(stack.enter_context(served.feed()))
            told.feed.send(json.dumps({"screen": run, "curves": _wanted(run)}))
            told.until(lambda: told.received.messages)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        with pytest.raises(ConnectionClosed):
            told.until(lambda: False)


@pytest.mark.slow
def test_without_a_viewer_nothing_is_done(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", 1, 1.0)])
    with serving([tmp_path], tmp_path / "cache") as served:
        with served.feed() as feed:
            feed.send(json.dumps({"rows": True}))
            Told(feed).until(lambda: True)
            feed.recv(WAIT)
        updates: list[float] = []
        real = served.source.runs.update
        deadline = time.monotonic() + WAIT
        while True:  # the loop has seen that nobody looks any more
            updates.clear()
            served.source.runs.update = lambda seconds=0.0: (updates.append(seconds), real(seconds))[1]  # type: ignore
            time.sleep(0.4)
            if not updates:
                break
            assert time.monotonic() < deadline
