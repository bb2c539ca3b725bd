"""A page has all of its curves in it, bit for bit, and is small; it shows the charts that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asynchub.dashboard.curves import curves
from asynchub.dashboard.picture.export import export
from asynchub.dashboard.picture.page import BUCKETS
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.web.wire import series_now
from tests.dashboard.picture.pictures import charts_in, data_in, write_run

KEYS = ["train/loss", "train/lr", "train/grad_norm", "val/acc"]


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of noise, which cannot be made smaller than it is, with a spike and with NaN."""
    rng, steps = np.random.default_rng(0), np.arange(100_000)
    loss = 0.3 + 2 / (1 + steps / 2000) + rng.normal(0, 0.05, len(steps))
    loss[50_000], loss[70_000:70_050] = 13.0, np.nan
    norm, accuracy = np.exp(rng.normal(0, 1, len(steps))), 0.9 + rng.normal(0, 0.01, len(steps))
    values = dict(zip(KEYS, (loss, 0.1 * 0.5 ** (steps // 20_000), norm, accuracy), strict=True))
    return write_run(tmp_path_factory.mktemp("run") / "run", values)


@pytest.fixture(name="cache", scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_page_of_a_run_with_four_noisy_charts_is_smaller_than_400_kilobytes(
    run: Path, cache: Path, tmp_path: Path
) -> None:
    path = export([run], tmp_path / "run.html", keys=KEYS, cache=cache)
    assert path.stat().st_size < 400_000


def test_the_curves_in_a_page_are_those_of_the_run_bit_for_bit(run: Path, cache: Path, tmp_path: Path) -> None:
    data = data_in(export([run], tmp_path / "run.html", keys=KEYS, cache=cache).read_text())
    with Pyramid(run, cache) as pyramid:
        pyramid.update()
        wanted = {curve.key: series_now("", curve) for curve in curves(pyramid, KEYS, buckets=BUCKETS)}
    charts = charts_in(data)
    assert [chart["key"] for chart in charts] == [row["key"] for row in data["screens"][0]["charts"]] == KEYS
    for chart in charts:
        (series,) = chart["series"]
        assert series["rows"] >= BUCKETS
        assert set(series["columns"]) == set(wanted[chart["key"]].columns)
        for name, column in wanted[chart["key"]].columns.items():
            assert series["columns"][name].tobytes() == column.tobytes()


def test_each_chart_of_a_page_is_there_in_each_scale_that_its_values_allow(cache: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"positive": np.linspace(1, 2, 90), "negative": np.linspace(-2, 0, 90)})
    data = data_in(export([run], tmp_path / "run.html", keys=["**"], log=True, cache=cache).read_text())
    (curves_in_page,) = data["curves"]
    scales: dict[str, list[tuple[bool, bool]]] = {"positive": [], "negative": []}
    for view in curves_in_page["views"]:
        scales[view["key"]].append((view["drawing"]["log"], view["fit_all"]))
    assert sorted(scales["positive"]) == [(False, False), (False, True), (True, False), (True, True)]
    assert sorted(scales["negative"]) == [(False, False), (False, True)]


@pytest.mark.parametrize(
    ("how", "look"),
    [
        ({}, ""),
        ({"axis": "time", "log": True}, "#x=time&y=log"),
        ({"window": 100, "smoothing": "ema", "fit_all": True}, "#fit=all&smooth=ema:100"),
    ],
)
def test_a_page_shows_at_first_what_was_asked_for(
    run: Path, cache: Path, tmp_path: Path, how: dict[str, object], look: str
) -> None:
    path = export([run], tmp_path / "run.html", keys=["val/*"], cache=cache, **how)  # type: ignore[arg-type]
    data = data_in(path.read_text())
    assert data["look"] == look
    assert [chart["key"] for chart in data["screens"][0]["charts"]] == ["val/acc"]


def test_of_many_runs_a_page_has_fewer_buckets_of_each(cache: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=8192)
    for number in range(20):
        write_run(tmp_path / "runs" / f"run-{number:02}", {"loss": noise}, bytes([number]) * 16)
    data = data_in(export([tmp_path / "runs"], tmp_path / "runs.html", cache=cache).read_text())
    (chart,) = charts_in(data)
    assert [series["rows"] for series in chart["series"]] == [1024] * 20
