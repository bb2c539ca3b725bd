"""What a server tells while runs come, go, are many, and clocks jump."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynchub.dashboard.colours import Colours
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.web.source import Source
from asynchub.dashboard.web.steering import Steering
from asynchub.dashboard.web.wanted import CurvesWanted
from asynchub.dashboard.web.wire import decode
from asynchub.events import InfoUpdated
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.servers import Served, serving

WAIT = 20.0


def _write(folder: Path, number: int = 0, end: bool = True, began: float = 1e9) -> Writer:
    writer = Writer(folder, number.to_bytes(16, "big"), name=folder.name)
    writer.event(InfoUpdated(key="lr", value=0.1 * (number + 1)))
    writer.points([Point("loss", step, 1.0 / (step + 1)) for step in range(50)], began)
    if end:
        writer.close()
    return writer


def _until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)
    return found


def _rows(served: Served, **query: Any) -> list[Any]:
    return list(served.get("/api/runs", **query)["rows"])


def test_a_run_that_begins_in_an_empty_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        told = served.get("/api/runs")
        assert (told["rows"], told["more"], told["note"]) == ([], 0, "")
        assert "holds no run yet" in told["problem"]
        assert "no run has" not in served.get("/api/runs", filter="lr<1")["problem"]
        _write(tmp_path / "runs" / "first")
        (row,) = _until(lambda: _rows(served))
        assert served.get("/api/runs")["problem"] == ""
        assert served.get("/api/screen", run=row["id"])["status"]["step"] == 49
        (chart,) = decode(served.curves(runs=[row["id"]], keys=["loss"]))["charts"]
        assert chart["series"][0]["rows"] == 50


def test_a_run_that_is_deleted_while_it_is_looked_at_is_said_to_be_gone(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        _write(tmp_path / "runs" / name, number, end=False)
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        runs = [served.runs[name] for name in "ab"]
        assert served.get("/api/screen", run=runs[0])["status"]["step"] == 49
        before = decode(served.curves(runs=runs, keys=["loss"]))["charts"]
        shutil.rmtree(tmp_path / "runs" / "a")
        _until(lambda: len(_rows(served)) == 1)
        answer = served.ask("GET", "/api/screen", run=runs[0])
        assert (answer.status_code, "it was deleted" in answer.json()["error"]) == (404, True)
        gone, there = decode(served.curves(runs=runs, keys=["loss"]))["charts"][0]["series"]
        assert (gone["rows"], there["rows"]) == (0, before[0]["series"][1]["rows"])
        assert "it was deleted" in gone["note"]
        shutil.rmtree(tmp_path / "runs")
        assert "is no folder" in _until(lambda: served.get("/api/runs")["problem"])


def test_what_is_wrong_with_a_filter_or_with_colours_is_said_beside_the_list(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        _write(tmp_path / "runs" / name, number)
    Colours(tmp_path / "cache").of(["x"])
    with (tmp_path / "cache" / "colours.txt").open("ab") as file:
        file.write(b"nonsense\n")
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        _until(lambda: served.get("/api/runs")["note"] == "")
        told = served.get("/api/runs", filter="momentum=0.9 or lr<0.15")
        assert [row["name"] for row in told["rows"]] == ["a"]
        assert "no run has 'momentum'; they have loss, lr" in told["problem"]
        assert "1 damaged lines were passed over" in told["problem"]
        assert served.get("/api/runs", filter="lr<0.15")["problem"].startswith(str(tmp_path / "cache"))


def test_of_runs_that_are_compared_only_the_curves_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        _write(tmp_path / "runs" / str(number), number)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        source = Source(gallery, Steering([]))
        runs = tuple(row.id for row in gallery.rows())
        monkeypatch.setattr(gallery, "run", None)  # nobody asks for more
        source.fresh(runs, whole=False)
        (chart,) = source.charts(CurvesWanted(runs, ("loss",)))
        assert [(one.run, one.rows) for one in chart.series] == [(run, 50) for run in runs]
        assert "0" in chart.drawing["summary"]


def test_a_clock_that_jumps_is_no_reason_to_fail(tmp_path: Path) -> None:
    now = time.time()
    writers = [
        _write(tmp_path / "runs" / name, number, end=False, began=began)
        for number, (name, began) in enumerate({"ahead": now + 1e6, "behind": 5.0, "back": now}.items())
    ]
    writers[2].points([Point("loss", step, 0.5) for step in range(50, 60)], now - 1e5)
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        rows = {row["name"]: row for row in _rows(served)}
        assert list(rows) == ["ahead", "back", "behind"]
        for row in rows.values():
            screen = served.get("/api/screen", run=row["id"])
            assert screen["status"]["step"] in (49, 59)
            assert (screen["status"]["age"] or 0) >= 0
            for axis in ("time", "relative"):
                wanted = {"runs": [row["id"]], "keys": ["loss"], "axis": axis}
                (chart,) = decode(served.curves(**wanted))["charts"]
                assert chart["series"][0]["rows"] >= 50
                assert (chart["series"][0]["note"] == "the clock goes back") == (row["name"] == "back")


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_runs_are_listed_at_once_and_read_in_a_while(count: int, tmp_path: Path) -> None:
    for number in range(count):
        _write(tmp_path / "runs" / f"{number:04}", number)
    began = time.monotonic()
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        told = served.get("/api/runs", filter="lr>0")
        took = time.monotonic() - began
        assert len(served.runs) == count
        if told["note"]:
            assert "not read yet: the filter knows only their names" in told["note"]
        assert took < 10  # 1 to 2 s on a machine that does nothing else
        _until(lambda: not served.get("/api/runs")["note"])
        assert len(_rows(served, filter="lr>0")) == count
        run = served.runs[f"{count - 1:04}"]
        assert served.get("/api/screen", run=run)["status"]["step"] == 49
