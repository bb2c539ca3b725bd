"""A journal, followed while another process writes it, is killed, goes on, closes."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asynchub import (
    Event,
    EventsDropped,
    InfoUpdated,
    Journal,
    MessageHub,
    Rewound,
    ScalarUpdated,
    follow,
    recover,
)
from asynchub.codec import Registry
from asynchub.codec.unknown import UnknownValue
from asynchub.errors import ArgumentError, JournalCorruptError, JournalError, PatternError
from asynchub.journal.frames import FRAME_SIZE, SEGMENT_SIZE
from asynchub.journal.reading import segment_files

PROGRAM = """
import json, sys
from pathlib import Path
from asynchub import Journal, MessageHub, recover
run, count, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
try:
    hub = recover(run)
except FileNotFoundError:
    hub = MessageHub("run")
hub.attach(Journal(run / "journal", **options))
begin = len(hub.get_scalar("n").data[0]) if "n" in hub.log_scalars else 0
with hub:
    for number in range(begin, begin + count):
        hundred = {"float": number / 3, "flag": number % 200 == 0, f"key/{number // 5000}": 2**70}
        hub.update_scalars({"n": number, **hundred} if number % 100 == 0 else {"n": number})
        if number % 1000 == 0:
            hub.update_info("text", "x" * (number % 9000))
"""


@contextmanager
def _writing(run: Path, count: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(run), str(count), json.dumps(options)]) as program:
        try:
            yield program
        finally:
            program.kill()


async def _all(events: AsyncGenerator[Event, None], seconds: float = 120.0) -> list[Event]:
    with fail_after(seconds):
        return [event async for event in events]


def _now(run: Path, *wanted: str | type[Event], **options: Any) -> list[Event]:
    return anyio.run(_all, follow(run, *wanted, until="now", **options))


def _check(events: list[Event], count: int, killed: bool = False) -> None:
    """Fail unless these are the events of ``PROGRAM``, each once, in order, as they were published.

    Args:
        events: all of them.
        count: updates of ``n`` that it made.
        killed: whether it may have been killed between that and the info that belongs to it.
    """
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    numbers = [event.value for event in events if isinstance(event, ScalarUpdated) and event.key == "n"]
    assert numbers == list(range(count))
    assert {type(number) for number in numbers} == {int}
    hundreds = -(-count // 100)
    floats = [event.value for event in events if isinstance(event, ScalarUpdated) and event.key == "float"]
    assert floats == [100 * number / 3 for number in range(hundreds)]
    flags = [event.value for event in events if isinstance(event, ScalarUpdated) and event.key == "flag"]
    assert all(flag is (number % 2 == 0) for number, flag in enumerate(flags))
    large = [event for event in events if isinstance(event, ScalarUpdated) and event.key.startswith("key/")]
    assert [event.value for event in large] == [2**70] * hundreds
    texts = [event.value for event in events if isinstance(event, InfoUpdated)]
    assert killed or texts == ["x" * (number % 9000) for number in range(0, count, 1000)]


OPTIONS = [
    pytest.param({}, id="as-it-is"),
    pytest.param({"tail": 8192, "segment_size": 20_000}, id="tiny-tail"),
    pytest.param({"tail": 65_536, "segment_size": 2000, "interval": 0.005}, id="many-segments"),
    pytest.param({"level": "memory", "interval": 0.01}, id="memory"),
]


@pytest.mark.parametrize("options", OPTIONS)
async def test_each_event_comes_once_from_a_process_that_writes(options: dict[str, Any], tmp_path: Path) -> None:
    with _writing(tmp_path / "run", 30_000, **options):
        events = await _all(follow(tmp_path / "run", until="closed"))
    _check(events, 30_000)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_quarter_of_a_million_events_come_once(tmp_path: Path, anyio_backend: str) -> None:
    with _writing(tmp_path / "run", 250_000):
        _check(await _all(follow(tmp_path / "run", until="closed")), 250_000)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("options", OPTIONS[:3])
async def test_a_run_that_is_killed_and_resumed_is_followed_without_a_gap(
    options: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    events: list[Event] = []
    with fail_after(120):
        async with aclosing(follow(run, until="closed")) as following:
            for wanted in (1, 5000, 12_000):
                with _writing(run, 10**9, **options) as program:
                    async for event in following:
                        events.append(event)
                        if len(events) >= wanted:
                            break
                    program.send_signal(signal.SIGKILL)
            with _writing(run, 1000, **options):
                async for event in following:
                    events.append(event)
    _check(events, len(recover(run).get_scalar("n").data[0]), killed=True)
    assert events == await _all(follow(run, until="now"))


async def test_it_waits_for_a_run_that_is_not_there_yet(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    seen: list[Event] = []

    async def watch() -> None:
        seen.extend([event async for event in follow(run, until="closed")])

    with fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            hub = MessageHub("run")
            hub.attach(Journal(run / "journal"))
            async with hub:
                hub.update_scalar("loss", 1.0)
    assert [(event.seq, event.key) for event in seen] == [(1, "loss")]


def _record(run: Path, **options: Any) -> MessageHub:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", **options))
    return hub


def test_the_folder_of_the_journal_will_do_as_well(tmp_path: Path) -> None:
    with _record(tmp_path) as hub:
        hub.update_scalar("loss", 1.0)
    assert _now(tmp_path) == _now(tmp_path / "journal") != []


def test_what_was_published_is_there_at_once_before_anything_is_in_a_segment(tmp_path: Path) -> None:
    hub = _record(tmp_path, interval=1000.0)
    hub.update_scalar("loss", 1.5)
    hub.update_info("note", {"text": ("a", 1)})
    hub.update_scalar("loss", True, count=2**80)
    with hub:
        first, second, third = _now(tmp_path)
    assert isinstance(first, ScalarUpdated)
    assert isinstance(third, ScalarUpdated)
    assert (first.value, third.value, third.count) == (1.5, True, 2**80)
    assert isinstance(second, InfoUpdated)
    assert second.value == {"text": ("a", 1)}


@pytest.mark.parametrize("level", ["memory", "process"])
def test_patterns_and_kinds_select_as_in_a_subscription(level: Any, tmp_path: Path) -> None:
    hub = _record(tmp_path, level=level)
    events = hub.subscribe("train/*", InfoUpdated)
    with hub:
        for step in range(50):
            hub.update_scalars({"train/loss": step, "val/loss": step, "train/deep/loss": step})
            hub.update_info("iter", step)

    async def taken() -> list[Event]:
        return [event async for event in events]

    assert _now(tmp_path, "train/*", InfoUpdated) == anyio.run(taken)
    assert len(_now(tmp_path, "train/*", InfoUpdated)) == 100
    assert [event.seq for event in _now(tmp_path, InfoUpdated, since=150)] == [152, 156, 160, 164, 168, 172, 176, 180, 184, 188, 192, 196, 200]  # fmt: skip  # noqa: E501


def test_what_was_rewound_comes_and_the_rewinding_behind_it(tmp_path: Path) -> None:
    with _record(tmp_path) as hub:
        hub.update_scalar("loss", 1.0)
        mark = hub.mark()
        hub.update_scalar("loss", 2.0)
    resumed = recover(tmp_path, mark=mark)
    resumed.attach(Journal(tmp_path / "journal"))
    with resumed:
        resumed.update_scalar("loss", 3.0)
    *before, rewound, after = _now(tmp_path)
    assert [event.seq for event in before] == [1, 2, 3]
    assert isinstance(rewound, Rewound)
    assert rewound.to_seq == mark["seq"]
    assert isinstance(after, ScalarUpdated)
    assert after.value == 3.0


def test_where_segments_were_deleted_an_event_says_how_much_is_missing(tmp_path: Path) -> None:
    with _record(tmp_path, segment_size=1) as hub:
        for number in range(3):
            hub.update_scalar("loss", number)
            hub.commit()
    (_, first, oldest), (_, second, _), *_ = segment_files(tmp_path / "journal")
    oldest.unlink()
    assert (first, second) == (1, 2)
    dropped, *rest = _now(tmp_path, "nothing/of/this")
    assert isinstance(dropped, EventsDropped)
    assert (dropped.seq, dropped.missed, rest) == (1, 1, [])


def test_deleting_amid_the_reading_is_said_too(tmp_path: Path) -> None:
    with _record(tmp_path, segment_size=1) as hub:
        for number in range(4):
            hub.update_scalar("loss", number)
            hub.commit()

    async def watch() -> list[Event]:
        seen = []
        async with aclosing(follow(tmp_path, until="closed")) as following:
            async for event in following:
                seen.append(event)
                if len(seen) == 1:
                    for _, _, path in segment_files(tmp_path / "journal")[:3]:
                        path.unlink()
        return seen

    one, dropped, last = anyio.run(watch)
    assert isinstance(dropped, EventsDropped)
    assert (one.seq, dropped.seq, dropped.missed, last.seq) == (1, 3, 2, 4)


def test_a_torn_end_is_no_damage_and_a_damaged_middle_is(tmp_path: Path) -> None:
    with _record(tmp_path) as hub:
        for number in range(3):
            hub.update_scalar("loss", number)
            hub.commit()
    ((_, _, path),) = segment_files(tmp_path / "journal")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[SEGMENT_SIZE : SEGMENT_SIZE + FRAME_SIZE])
    assert [event.seq for event in _now(tmp_path)] == [1, 2, 3]
    path.write_bytes(whole[:-FRAME_SIZE] + b"torn")
    assert [event.seq for event in _now(tmp_path)] == [1, 2, 3]
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(JournalCorruptError, match="damaged from byte"):
        _now(tmp_path)


def test_an_older_segment_that_ends_too_early_is_damage(tmp_path: Path) -> None:
    with _record(tmp_path, segment_size=1) as hub:
        for number in range(3):
            hub.update_scalar("loss", number)
            hub.commit()
    _, (_, _, path), *_ = segment_files(tmp_path / "journal")
    path.write_bytes(path.read_bytes()[:SEGMENT_SIZE])
    with pytest.raises(JournalCorruptError, match="events 2 to event 2"):
        _now(tmp_path)


@pytest.mark.parametrize("level", ["memory", "process"])
def test_another_run_in_the_place_of_this_one_is_an_error(level: Any, tmp_path: Path) -> None:
    with _record(tmp_path) as hub:
        for number in range(10):
            hub.update_scalar("loss", number)

    async def watch() -> None:
        async with aclosing(follow(tmp_path)) as following:
            await anext(following)
            shutil.rmtree(tmp_path / "journal")
            with _record(tmp_path, level=level) as other:
                for number in range(20):
                    other.update_scalar("loss", number)
                other.commit()
                with fail_after(30):
                    async for _ in following:
                        """It ends by an error."""

    with pytest.raises(JournalError, match=r"another run|belongs to run"):
        anyio.run(watch)


@dataclass(frozen=True)
class Shape:
    """A class of a program's own."""

    sides: int


def test_classes_of_a_program_come_through_its_registry_and_stay_opaque_without(tmp_path: Path) -> None:
    registry = Registry()
    registry.register(Shape, name="shape")
    with _record(tmp_path, registry=registry) as hub:
        hub.update_info("shape", Shape(3))
    (known,) = _now(tmp_path, registry=registry)
    (opaque,) = _now(tmp_path)
    assert isinstance(known, InfoUpdated)
    assert isinstance(opaque, InfoUpdated)
    assert known.value == Shape(3)
    assert isinstance(opaque.value, UnknownValue)


def test_special_numbers_come_as_they_are(tmp_path: Path) -> None:
    values = [math.nan, math.inf, -0.0, 5e-324, 2**63, -(2**64), True, 0]
    with _record(tmp_path) as hub:
        for value in values:
            hub.update_scalar("odd", value)
    shown = [repr(event.value) for event in _now(tmp_path) if isinstance(event, ScalarUpdated)]
    assert shown == [repr(value) for value in values]


def test_now_needs_a_journal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no journal"):
        _now(tmp_path)


@pytest.mark.parametrize("options", [{"since": -1}, {"since": 1.5}, {"until": "later"}])
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        follow(tmp_path, **options)


def test_a_malformed_pattern_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(PatternError):
        follow(tmp_path, "a//b")


def test_who_begins_anywhere_gets_all_that_comes_after(tmp_path: Path) -> None:
    with _record(tmp_path, segment_size=500) as hub:
        for number, _ in itertools.product(range(20), range(7)):
            hub.update_scalar("loss", number)
            if number % 3 == 0:
                hub.commit()
    for since in range(0, 141, 10):
        assert [event.seq for event in _now(tmp_path, since=since)] == list(range(since + 1, 141))
