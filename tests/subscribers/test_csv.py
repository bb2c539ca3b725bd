"""CsvLogger: tables that pandas opens, that only ever grow."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, CorruptStateError, StateDictError
from asynchub.events import EventsDropped, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.subscribers.csv import CsvLogger
from tests.subscribers.observing import START, observe, scalars, stamped

ODD = 'a "quoted", key\r\nwith ünïcode'
EVENTS = stamped(
    [
        *scalars((1, "loss", 0.5), (1, ODD, 1)),
        *scalars((2, "loss", 0.1 + 0.2), (2, ODD, math.nan), (2, "late", 7)),
        *scalars((3, "loss", -math.inf)),
        EventsDropped(step=3, missed=3),
        *scalars((4, "loss", 1e-300), (4, "loss", True), (4, "time", 3.5), (4, 'late "too"\n', 2**70)),
        ScalarUpdated(step=5, key="loss", value=6.0, count=4),
    ]
)


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def clock(seq: int) -> str:
    return repr(START + 0.5 * (seq - 1))


def test_a_step_is_a_row_and_a_key_of_the_first_row_a_column(tmp_path: Path) -> None:
    observe(CsvLogger(tmp_path / "new" / "metrics.csv"), EVENTS)
    assert rows(tmp_path / "new" / "metrics.csv") == [
        ["step", "time", "loss", ODD],
        ["1", clock(1), "0.5", "1"],
        ["2", clock(3), "0.30000000000000004", "nan"],
        ["3", clock(6), "-inf", ""],
        ["4", clock(8), "1e-300", ""],
        ["4", clock(9), "1", ""],  # the key came twice: both values are kept
        ["5", clock(12), "1.5", ""],  # the mean of its four samples
    ]


def test_a_late_key_goes_to_a_long_table_of_its_own(tmp_path: Path) -> None:
    observe(CsvLogger(tmp_path / "metrics.csv"), EVENTS)
    assert rows(tmp_path / "metrics.late.csv") == [
        ["step", "time", "key", "value", "count"],
        ["2", clock(5), "late", "7", "1"],
        ["3", clock(7), "hub/events_dropped", "3", "1"],
        ["4", clock(10), "time", "3.5", "1"],  # would hide the table's own column
        ["4", clock(11), 'late "too"\n', str(2**70), "1"],
    ]


def test_named_columns_are_there_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    observe(
        CsvLogger(path, columns=("val/accuracy", "loss")), stamped(scalars((1, "loss", 1), (2, "val/accuracy", 0.9)))
    )
    assert [row[2:] for row in rows(path)] == [["val/accuracy", "loss"], ["", "1"], ["0.9", ""]]
    assert not (tmp_path / "metrics.late.csv").exists()


def test_nothing_that_was_written_is_ever_written_again(tmp_path: Path) -> None:
    paths = (tmp_path / "metrics.csv", tmp_path / "metrics.late.csv")
    seen = dict.fromkeys(paths, b"")
    logger = CsvLogger(paths[0])

    def grown() -> None:
        for path in paths:
            now = path.read_bytes() if path.exists() else b""
            assert now.startswith(seen[path])
            seen[path] = now

    for event in EVENTS:
        observe(logger, [event], then=grown)
    grown()


def test_a_program_that_counts_no_steps_gets_a_row_each_round(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    observe(CsvLogger(path), stamped(scalars(*((None, key, value) for value in range(3) for key in ("a", "b")))))
    assert rows(path)[1:] == [["", clock(2 * value + 1), str(value), str(value)] for value in range(3)]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.tuples(st.integers(0, 4), st.text(min_size=1), st.floats() | st.integers()), min_size=1, max_size=20
    ),
    saved_at=st.integers(0, 20),
)
def test_every_value_is_in_one_of_the_files_whatever_its_key(
    tmp_path: Path, values: list[tuple[int, str, float]], saved_at: int
) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    path, late = tmp_path / "m.csv", tmp_path / "m.late.csv"
    events = stamped(scalars(*sorted(values, key=lambda one: one[0])))
    logger = CsvLogger(path)
    observe(logger, events[:saved_at])
    observe(logger, events[saved_at:])
    table = rows(path) if path.exists() else [[], []]
    found = [
        (int(row[0]), key, cell) for row in table[1:] for key, cell in zip(table[0][2:], row[2:], strict=True) if cell
    ]
    found += [(int(row[0]), row[2], row[3]) for row in (rows(late)[1:] if late.exists() else [])]
    assert sorted(found) == sorted(
        (event.step, event.key, repr(event.value)) for event in events if isinstance(event, ScalarUpdated)
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("saved_at", range(len(EVENTS) + 1))
def test_resumed_files_are_the_files_of_an_uninterrupted_run(tmp_path: Path, saved_at: int, backend: str) -> None:
    observe(CsvLogger(tmp_path / "whole.csv"), EVENTS)
    path = tmp_path / "resumed.csv"
    dying, states = CsvLogger(path), []
    lost = EVENTS[saved_at : saved_at + 3]
    observe(dying, EVENTS[:saved_at], then=lambda: states.append(dying.state_dict()), backend=backend)
    observe(dying, lost, backend=backend)
    resumed = CsvLogger(path)
    resumed.load_state_dict(states[0])
    observe(resumed, EVENTS[saved_at:], backend=backend)
    for kind in (".csv", ".late.csv"):
        assert (tmp_path / f"resumed{kind}").read_bytes() == (tmp_path / f"whole{kind}").read_bytes()


def test_a_new_logger_on_an_old_table_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    observe(CsvLogger(path), stamped(scalars((1, "b", 1), (1, "a", 2))))
    observe(CsvLogger(path), stamped(scalars((2, "a", 3), (2, "c", 4), (2, "b", 5))))
    assert [row[2:] for row in rows(path)] == [["b", "a"], ["1", "2"], ["5", "3"]]
    assert [row[2:4] for row in rows(tmp_path / "metrics.late.csv")] == [["key", "value"], ["c", "4"]]


@pytest.mark.parametrize("torn", ["3,17", '3,17,"half a\nkey'])
def test_a_torn_last_row_is_moved_aside(tmp_path: Path, torn: str) -> None:
    late = tmp_path / "metrics.late.csv"
    late.write_text('step,time,key,value,count\n1,1.5,"a\nb",2,1\n' + torn)
    observe(CsvLogger(tmp_path / "metrics.csv"))
    assert rows(late)[1:] == [["1", "1.5", "a\nb", "2", "1"]]
    assert (tmp_path / "metrics.late.csv.rewound-1").read_text() == torn


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(b"date,price\n\xff,3\n")
    with pytest.raises(ExceptionGroup) as caught:
        observe(CsvLogger(path), EVENTS)
    assert caught.group_contains(CorruptStateError, match=r"prices\.csv begins with \['date', 'price'\]")
    assert path.read_bytes() == b"date,price\n\xff,3\n"


def test_columns_given_as_one_string_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"write \('val/loss',\)"):
        CsvLogger(tmp_path / "metrics.csv", columns="val/loss")


@pytest.mark.parametrize(
    "state", [None, {}, {"table": {"offset": 3}, "late": {}, "row": {"step": 1, "time": 2.0, "values": {}}}]
)
def test_a_malformed_state_is_refused_and_changes_nothing(tmp_path: Path, state: Any) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    before = logger.state_dict()
    with pytest.raises(StateDictError):
        logger.load_state_dict(state)
    assert logger.state_dict() == before


def test_pandas_opens_both_tables(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    observe(CsvLogger(tmp_path / "metrics.csv"), EVENTS)
    table = pandas.read_csv(tmp_path / "metrics.csv")
    assert table["loss"].tolist() == pytest.approx([0.5, 0.3, -math.inf, 1e-300, 1.0, 1.5])
    late = pandas.read_csv(tmp_path / "metrics.late.csv")
    assert late["key"].tolist()[:2] == ["late", "hub/events_dropped"]


def test_infos_are_not_in_the_table(tmp_path: Path) -> None:
    observe(CsvLogger(tmp_path / "metrics.csv"), stamped([InfoUpdated(key="epoch", value=3)]))
    assert list(tmp_path.iterdir()) == []


def test_the_last_row_is_written_when_the_hub_is_left(tmp_path: Path) -> None:
    hub = MessageHub("csv")
    hub.attach(CsvLogger(tmp_path / "metrics.csv"))
    with hub:
        for step in range(500):
            hub.update_scalars({"loss": step / 7, "acc": step / 9}, step=step)
    table = rows(tmp_path / "metrics.csv")
    assert table[0] == ["step", "time", "loss", "acc"]
    assert [(int(row[0]), float(row[2])) for row in table[1:]] == [(step, step / 7) for step in range(500)]
