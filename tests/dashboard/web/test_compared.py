"""What the server tells of runs beside one another: a table, in what they differ, and groups of them as curves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection

from asynchub.dashboard.comparing import figures
from asynchub.dashboard.curves import curve
from asynchub.dashboard.groups import group_curve
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.web.wire import decode
from tests.dashboard.runs import columns_of
from tests.dashboard.web.compared_runs import KEYS, compared_run, compared_runs
from tests.dashboard.web.receiving import Received
from tests.dashboard.web.servers import Served, said, serving

SEEDS = 3
WAIT = 20.0


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with different infos."""
    top = tmp_path_factory.mktemp("runs")
    compared_runs(top, SEEDS)
    return top


@pytest.fixture(scope="module")
def served(top: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of them."""
    with serving([top], tmp_path_factory.mktemp("cache")) as server:
        _whole(server, "/api/differences")
        yield server


def _whole(served: Served, path: str, **query: Any) -> dict[str, Any]:
    """Return what is told once there is no more."""
    deadline = time.monotonic() + WAIT
    while (told := served.get(path, **query))["more"]:
        assert time.monotonic() < deadline
    return dict(told)


def test_a_table_has_the_figures_of_the_core_in_the_order_that_was_asked_for(
    served: Served, top: Path, tmp_path: Path
) -> None:
    told = _whole(served, "/api/table", key="train/loss", by="best", mode="min")
    assert told["total"] == len(told["rows"]) == 3 * SEEDS
    found = {}
    for name, run in served.runs.items():
        with Pyramid(top / name, tmp_path) as pyramid:
            pyramid.update()
            found[run] = figures(pyramid, "train/loss", "min")
    for row in told["rows"]:
        one = found[row["id"]]
        assert (row["last"], row["best"], row["slope"]) == one.texts
        assert (row["count"], row["not_finite"]) == (one.count, one.not_finite)
        assert len(row["spark"]) == len(row["at"]) == len(one.spark)
    best = [found[row["id"]].best for row in told["rows"]]
    assert best == sorted(best)
    for by, mode, figure in (("last", "max", "last"), ("slope", "min", "slope")):
        rows = _whole(served, "/api/table", key="val/acc", by=by, mode=mode)["rows"]
        with_figures = [rows[0]["id"], rows[-1]["id"]]
        ends = []
        for run in with_figures:
            with Pyramid(top / next(name for name, one in served.runs.items() if one == run), tmp_path) as pyramid:
                pyramid.update()
                ends.append(getattr(figures(pyramid, "val/acc", mode), figure))
        assert (ends[0] > ends[1]) == (mode == "max")
    names = [row["name"] for row in _whole(served, "/api/table", key="val/acc", by="name")["rows"]]
    assert names == sorted(names)


def test_a_sparkline_marks_what_reaches_beyond_it(served: Served) -> None:
    told = _whole(served, "/api/table", key="train/loss", filter="name~s1")
    spiked = next(row for row in told["rows"] if row["id"] == served.runs["lr0.1-s1"])
    highs = [high for _, high, _ in spiked["spark"] if high is not None]
    assert highs.count(told["height"] + 1) == 1
    assert spiked["not_finite"] == 40
    assert all(0 <= place <= 1 for place in spiked["at"])
    assert spiked["at"] == sorted(spiked["at"])


def test_a_table_comes_in_pages_and_by_a_filter(served: Served) -> None:
    whole = [row["id"] for row in _whole(served, "/api/table", key="val/acc", by="name")["rows"]]
    assert [row["id"] for row in served.get("/api/table", key="val/acc", start=2, most=3)["rows"]] == whole[2:5]
    told = served.get("/api/table", key="val/acc", filter="lr=0.3")
    assert (told["total"], {row["name"] for row in told["rows"]}) == (3, {f"lr0.3-s{seed}" for seed in range(SEEDS)})
    assert {row["count"] for row in _whole(served, "/api/table", key="nothing")["rows"]} == {0}


def test_differences_are_of_the_infos_that_are_not_the_same(served: Served) -> None:
    told = _whole(served, "/api/differences")
    assert told["names"] == ["batch", "lr", "seed"]
    assert told["same"] == 1
    assert {tuple(row["cells"][:1]) for row in told["rows"]} == {("64",), ("32",)}
    pair = [served.runs["lr0.1-s0"], served.runs["lr0.1-s2"]]
    told = served.get("/api/differences", run=[*pair, "gone"])
    assert (told["names"], [row["id"] for row in told["rows"]]) == (["seed"], pair)
    assert served.get("/api/differences", filter="lr=1")["names"] == ["batch", "seed"]
    assert served.get("/api/runs")["groups"] == ["batch", "lr", "seed"]


WRONG = [
    ("GET", "/api/table", {"by": "size"}, None, 400, "by must be one of last, best, slope, name, newest"),
    ("GET", "/api/table", {"mode": "best"}, None, 400, "mode must be min, max, or empty"),
    ("GET", "/api/table", {"most": "1000"}, None, 400, "most must be a whole number"),
    ("GET", "/api/table", {"start": "-1"}, None, 400, "start must be a whole number"),
    ("GET", "/api/table", {"filter": "name~("}, None, 400, ""),
    ("GET", "/api/table", {"colour": "red"}, None, 400, "a table is wanted with filter"),
    ("POST", "/api/table", {}, b"", 405, "Method Not Allowed"),
    ("GET", "/api/differences", {"run": "gone"}, None, 404, "none of these runs"),
    ("GET", "/api/differences", {"filter": "lr<"}, None, 400, ""),
    ("POST", "/api/curves", {}, {"runs": [], "keys": [], "group": 1}, 400, "group must be the name of an info"),
    ("POST", "/api/curves", {}, {"runs": [], "keys": [], "group": "lr", "axis": "time"}, 400, "axis must be step"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_asked_wrongly_is_answered_in_words(number: int, served: Served) -> None:
    verb, path, query, body, status, words = WRONG[number]
    answer = served.ask(verb, path, body, **query)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize("path", ["/api/table?key=train/loss", "/api/differences"])
def test_nothing_of_it_is_told_without_a_token_or_to_another_page(path: str, served: Served) -> None:
    host = {"Host": f"127.0.0.1:{served.port}"}
    token = {"Authorization": f"Bearer {served.secrets.view}"}
    assert said(served.port, "GET", path, host).status == 401
    assert said(served.port, "GET", path, {**host, "Authorization": "Bearer view-wrong"}).status == 401
    assert said(served.port, "GET", path, {**host, **token, "Origin": "http://evil.test"}).status == 403
    assert said(served.port, "GET", path, {**token, "Host": f"evil.test:{served.port}"}).status == 403
    assert said(served.port, "GET", path, {**host, **token}).status == 200


# --- groups


def test_a_group_is_sent_as_the_curve_that_its_runs_have_in_common(served: Served, top: Path, tmp_path: Path) -> None:
    runs = list(served.runs.values())
    head = decode(served.curves(runs=runs, keys=list(KEYS), group="lr", start=0, stop=2999, buckets=100))
    for chart in head["charts"]:
        assert [one["run"] for one in chart["series"]] == ["=0.1000", "=0.3000", "=1.000"]
        assert [one["group"]["label"] for one in chart["series"]] == ["lr = 0.1000", "lr = 0.3000", "lr = 1.000"]
        for one, rate in zip(chart["series"], ("0.1", "0.3", "1.0"), strict=True):
            assert one["group"]["runs"] == SEEDS
            curves = []
            for seed in range(SEEDS):
                with Pyramid(top / f"lr{rate}-s{seed}", tmp_path) as pyramid:
                    pyramid.update()
                    curves.append(curve(pyramid, chart["key"], 0, 2999, 100))
            wanted = group_curve("", curves)
            columns = one["columns"]
            np.testing.assert_array_equal(columns["x"], wanted.curve.x)
            for name, column in (
                ("low", wanted.curve.buckets.min),
                ("high", wanted.curve.buckets.max),
                ("mean", wanted.curve.buckets.means),
                ("lower", wanted.low),
                ("upper", wanted.high),
            ):
                np.testing.assert_array_equal(columns[name], column.astype(np.float32))
        footer = chart["drawing"]["footer"]
        assert "3 groups by lr, of 3 runs each: line = their mean" in footer
        assert f"of {len(runs)} runs" in footer
        assert chart["drawing"]["points"] == sum(2000 + 100 * number for number in range(len(runs)))


def test_of_an_info_that_nobody_said_there_is_one_group(served: Served) -> None:
    head = decode(served.curves(runs=[*served.runs.values(), "gone"], keys=["train/loss"], group="nothing"))
    (series,) = head["charts"][0]["series"]
    assert (series["group"]["label"], series["group"]["runs"]) == ("nothing not said", 3 * SEEDS)
    head = decode(served.curves(runs=["gone"], keys=["train/loss"], group="lr"))
    assert head["charts"][0]["series"] == []


def test_a_group_keeps_its_colour_when_others_come_and_when_the_server_starts_again(tmp_path: Path) -> None:
    compared_run(tmp_path / "runs" / "a", 0, 50, infos={"lr": 0.1})
    compared_run(tmp_path / "runs" / "b", 1, 50, infos={"lr": 1.0})

    def colours(served: Served) -> dict[str, Any]:
        _whole(served, "/api/differences")
        served.look()
        head = decode(served.curves(runs=list(served.runs.values()), keys=["val/acc"], group="lr"))
        return {one["run"]: one["group"]["colour"] for one in head["charts"][0]["series"]}

    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        first = colours(served)
    assert len({one["hue"] for one in first.values()}) == 2
    for number, rate in enumerate((0.01, 0.05, 0.5, 2.0), 2):
        compared_run(tmp_path / "runs" / f"c{number}", number, 50, infos={"lr": rate})
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        second = colours(served)
    assert len(second) == 6
    assert {run: second[run] for run in first} == first


def test_groups_are_told_as_they_grow_like_any_curve(tmp_path: Path) -> None:
    writers = [
        compared_run(tmp_path / "runs" / str(number), number, 200, infos={"lr": number // 2}, closed=False)
        for number in range(4)
    ]
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        _whole(served, "/api/differences")
        wanted = {"runs": list(served.runs.values()), "keys": list(KEYS), "group": "lr", "start": 0, "stop": 999}
        with served.feed() as feed:
            feed.send(json.dumps({"curves": wanted, "n": 1}))
            told = Received()
            for turn in range(3):
                for number, writer in enumerate(writers):
                    steps = np.arange(20) + 200 + 20 * turn
                    values = np.full((20, 2), turn + number, np.float64)
                    writer.batch(columns_of(KEYS, steps, values, writer.seq))
                _hear(feed, told, 4 * (220 + 20 * turn))
        whole = Received()
        whole.take(served.curves(**wanted))
        assert told.state() == whole.state()
        assert told.rows < 3 * whole.rows  # what had come before did not come again


def _hear(feed: ClientConnection, told: Received, points: int) -> None:
    """Take messages until every chart stands for so many values."""
    deadline = time.monotonic() + WAIT
    while not told.charts or any(drawing["points"] < points for drawing, _ in told.charts.values()):
        message = feed.recv(timeout=max(deadline - time.monotonic(), 0.0))
        if isinstance(message, bytes):
            told.take(message)
