"""JsonlLogger and read_jsonl: what is in the file is what happened."""

from __future__ import annotations

import json
import logging
import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynchub.errors import CorruptStateError, StateDictError
from asynchub.eventforms import event_to_json
from asynchub.events import Event, EventsDropped, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import StopRequested
from asynchub.subscribers.jsonl import JsonlLogger, read_jsonl
from tests.subscribers.observing import observe, scalars, stamped

EVENTS = stamped(
    [
        *scalars((1, "train/loss", 0.5), (1, "train/acc", 1), (2, "train/loss", math.nan), (2, "flag", True)),
        InfoUpdated(step=2, key="cfg", value={"lr": 0.1, "shape": [1, 2], "inf": math.inf}),
        EventsDropped(step=2, missed=3),
        *scalars((3, 'a "quoted"\nkey, with ünïcode \u2028 \x85', -0.0), (None, "no/step", 1e300)),
        StopRequested(step=3, reason="done", author="me"),
    ]
)
NUMBERS = st.floats() | st.integers() | st.booleans()


def strict(line: str) -> dict[str, Any]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    fields = json.loads(line, parse_constant=refuse)
    assert isinstance(fields, dict)
    return fields


def test_every_line_is_the_strict_json_of_one_event(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "metrics.jsonl"
    observe(JsonlLogger(path), EVENTS)
    text = path.read_text(encoding="utf-8")
    assert text == "".join(f"{event_to_json(event)}\n" for event in EVENTS)
    assert [strict(line)["event"] for line in text.rstrip("\n").split("\n")] == [
        type(event).__name__ for event in EVENTS
    ]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(st.characters()), value=NUMBERS, count=st.integers(), step=st.none() | st.integers(0, 2**40))
def test_a_scalar_is_written_as_event_to_json_writes_it_and_reads_back(
    tmp_path: Path, key: str, value: float, count: int, step: int | None
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    event = ScalarUpdated(key=key or "k", value=value, count=count, step=step).stamped(1, 1.5, step)
    observe(JsonlLogger(path), [event])
    assert path.read_bytes() == (event_to_json(event) + "\n").encode("utf-8", "backslashreplace")
    (back,) = read_jsonl(path)
    assert repr(back) == repr(event)


def test_events_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    observe(JsonlLogger(path), EVENTS)
    back = list(read_jsonl(path))
    assert [repr(event) for event in back[:4] + back[5:]] == [repr(event) for event in EVENTS[:4] + EVENTS[5:]]
    assert isinstance(back[4], InfoUpdated)
    assert back[4].value == {"lr": 0.1, "shape": [1, 2], "inf": "Infinity"}


def test_an_event_kind_of_others_is_written_with_its_fields(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class ModelExported(Event):
        path: str

    path = tmp_path / "metrics.jsonl"
    observe(JsonlLogger(path), stamped([ModelExported(path="a.pt", step=4)]))
    assert strict(path.read_text())["path"] == "a.pt"
    (back,) = read_jsonl(path)
    assert (type(back), back.key, back.step) == (Event, "ModelExported", 4)


def test_a_value_that_cannot_be_shown_does_not_end_the_log(tmp_path: Path) -> None:
    class Sulking:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    path = tmp_path / "metrics.jsonl"
    observe(JsonlLogger(path), stamped([InfoUpdated(key="cfg", value=Sulking()), *scalars((1, "loss", 1.0))]))
    info, scalar = read_jsonl(path)
    assert isinstance(info, InfoUpdated)
    assert info.value == "<Sulking that cannot be shown: RuntimeError>"
    assert scalar.key == "loss"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("saved_at", range(len(EVENTS) + 1))
def test_a_resumed_file_is_the_file_of_an_uninterrupted_run(tmp_path: Path, saved_at: int, backend: str) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    observe(JsonlLogger(whole), EVENTS)
    dying, states = JsonlLogger(path), []
    observe(dying, EVENTS[:saved_at], then=lambda: states.append(dying.state_dict()), backend=backend)
    observe(dying, EVENTS[saved_at : saved_at + 2], backend=backend)  # lost with the process, but for the file
    resumed = JsonlLogger(path)
    resumed.load_state_dict(states[0])
    observe(resumed, EVENTS[saved_at:], backend=backend)
    assert path.read_bytes() == whole.read_bytes()
    lost = "".join(f"{event_to_json(event)}\n" for event in EVENTS[saved_at : saved_at + 2])
    kept = tmp_path / "resumed.jsonl.rewound-1"
    assert (kept.read_text(encoding="utf-8") if kept.exists() else "") == lost


def test_what_a_rewind_cuts_off_is_kept_every_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.jsonl"
    for _ in range(3):
        logger = JsonlLogger(path)
        logger.load_state_dict({"offset": 0})
        observe(logger, EVENTS[:1])
    line = event_to_json(EVENTS[0]) + "\n"
    names = ["m.jsonl", "m.jsonl.rewound", "m.jsonl.rewound-1", "m.jsonl.rewound-2"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert all((tmp_path / name).read_text() == line for name in names if name != "m.jsonl.rewound")
    assert "m.jsonl was cut to 0 bytes; what came after is in" in caplog.text


def test_a_torn_last_line_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(event_to_json(EVENTS[0]) + '\n{"event":"Scal')
    observe(JsonlLogger(path), EVENTS[1:2])
    assert [event.seq for event in read_jsonl(path)] == [1, 2]
    assert (tmp_path / "m.jsonl.rewound-1").read_text() == '{"event":"Scal'


@pytest.mark.parametrize("found", [None, "", event_to_json(EVENTS[0]) + "\n"])
def test_a_file_shorter_than_its_state_is_gone_on_with_and_said(
    tmp_path: Path, found: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.jsonl"
    if found is not None:
        path.write_text(found)
    logger = JsonlLogger(path)
    logger.load_state_dict({"offset": 10_000})
    with caplog.at_level(logging.WARNING):
        observe(logger, EVENTS[1:2])
    assert path.read_text() == (found or "") + event_to_json(EVENTS[1]) + "\n"
    assert "10000 when its state was saved" in caplog.text


def test_a_logger_run_twice_appends(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "m.jsonl")
    observe(logger, EVENTS[:3])
    observe(logger, EVENTS[3:])
    assert len(list(read_jsonl(tmp_path / "m.jsonl"))) == len(EVENTS)


def test_what_a_full_disk_refused_is_written_first_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    events = stamped(scalars(*((step, "train/loss", step / 7) for step in range(3000))))
    logger = JsonlLogger(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_001, hard))  # the next byte is refused, as by a full disk
    try:
        with pytest.raises(ExceptionGroup) as caught:
            observe(logger, events)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.group_contains(OSError, match="File too large")
    before = path.read_bytes()
    assert before.endswith(b"\n")  # no half record
    observe(logger)
    written = [event.seq for event in read_jsonl(path)]
    assert path.read_bytes().startswith(before)
    assert len(before) < 200_001 < path.stat().st_size
    assert written == list(range(1, len(written) + 1))


@pytest.mark.parametrize(
    "state",
    [
        *({}, {"offset": -1}, {"offset": "3"}, {"offset": True}, None, []),
        *({"offset": 3, "tail": "4"}, {"offset": 3, "tail": -1}, {"offset": 3, "tail": 4, "rewound": None}),
    ],
)
def test_a_malformed_state_is_refused(tmp_path: Path, state: Any) -> None:
    logger = JsonlLogger(tmp_path / "m.jsonl")
    with pytest.raises(StateDictError):
        logger.load_state_dict(state)
    assert logger.state_dict() == {"offset": 0, "tail": 0, "rewound": 0}


def test_reading_leaves_out_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    text = "".join(event_to_json(event) + "\n" for event in EVENTS)
    for cut in range(len(text.encode()) - 60, len(text.encode())):
        path.write_bytes(text.encode()[:cut])
        assert len(list(read_jsonl(path))) in (len(EVENTS) - 1, len(EVENTS))


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"event":"ScalarUpdated"}', "\udcff"])
def test_reading_names_the_file_and_the_line_that_is_no_event(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    good = event_to_json(EVENTS[0])
    path.write_bytes(f"{good}\n{line}\n{good}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptStateError, match=r"m\.jsonl, line 2: "):
        list(read_jsonl(path))


def test_everything_is_in_the_file_after_a_flush_of_the_hub(tmp_path: Path) -> None:
    hub = MessageHub("jsonl")
    hub.attach(JsonlLogger(tmp_path / "m.jsonl"))
    with hub:
        for step in range(1000):
            hub.update_scalar("loss", step / 7, step=step)
        hub.flush(timeout=20)
        assert [event.step for event in read_jsonl(tmp_path / "m.jsonl")] == list(range(1000))


def test_a_logger_that_fell_behind_says_how_much_is_missing(tmp_path: Path) -> None:
    hub = MessageHub("jsonl")
    hub.attach(JsonlLogger(tmp_path / "m.jsonl"), max_lag=10)
    for step in range(100):
        hub.update_scalar("loss", step)
    with hub:
        hub.flush(timeout=20)
    dropped, *rest = read_jsonl(tmp_path / "m.jsonl")
    assert isinstance(dropped, EventsDropped)
    assert dropped.missed + len(rest) == 100
