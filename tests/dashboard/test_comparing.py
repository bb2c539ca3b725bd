"""Runs beside one another: groups of runs that were not written alike, sparklines, and a table that takes its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from asynchub.dashboard.colours import colour
from asynchub.dashboard.comparing import figures
from asynchub.dashboard.curves import Curve, curve
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.groups import group_curve, groups_in_words
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import RunRow
from asynchub.dashboard.table import Table
from tests.dashboard.runs import Point, Writer

Write = Callable[[str, list[Point]], Pyramid]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """What writes a run, and reads it."""
    opened = []

    def write(name: str, points: list[Point]) -> Pyramid:
        Writer(tmp_path / name, bytes([len(opened) + 1] * 16)).points(points)
        opened.append(Pyramid(tmp_path / name, tmp_path / "cache"))
        opened[-1].update()
        return opened[-1]

    yield write
    for one in opened:
        one.close()


def test_runs_that_say_their_values_at_other_steps_share_buckets(write: Write) -> None:
    runs = [
        write(str(number), [Point("acc", step + 7 * number, number) for step in range(0, 4000, 40)])
        for number in range(3)
    ]
    found = group_curve("all", [curve(run, "acc") for run in runs])
    assert found.curve.width == 64
    share = float((found.runs == 3).mean())
    assert share > 0.9
    np.testing.assert_array_equal(found.curve.buckets.means[found.runs == 3], 1.0)
    assert set(found.low.tolist()) <= {0.0, 1.0, 2.0}
    assert found.curve.points == 300


def test_runs_that_say_their_values_at_the_same_steps_keep_each(write: Write) -> None:
    runs = [write(str(number), [Point("acc", step, number) for step in range(0, 4000, 40)]) for number in range(3)]
    short = write("short", [Point("acc", step, 9.0) for step in range(0, 400, 40)])
    found = group_curve("all", [curve(run, "acc") for run in (*runs, short)])
    assert found.curve.width == 1
    assert found.curve.x.tolist() == list(range(0, 4000, 40))
    assert found.runs.tolist() == [4] * 10 + [3] * 90
    assert "from step 400 on" in found.note


@pytest.mark.parametrize("smoothing", ["mean", "ema"])
def test_the_smoothed_line_of_a_group_is_the_mean_of_those_of_its_runs(smoothing: str, write: Write) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 500))
    runs = [
        write(str(number), [Point("loss", *point) for point in enumerate(one.tolist())])
        for number, one in enumerate(values)
    ]

    def of(run: Pyramid) -> Curve:
        return curve(run, "loss", 0, 499, 1000, window=20, smoothing=smoothing)  # type: ignore[arg-type]

    curves = [of(run) for run in runs]
    found = group_curve("all", curves).curve
    assert found.smooth is not None
    assert (found.window, found.smoothing, found.runs) == (20, smoothing, 3)
    np.testing.assert_allclose(found.smooth, np.mean([one.smooth for one in curves], axis=0))
    assert group_curve("all", [curve(run, "loss") for run in runs]).curve.smooth is None


def test_a_chart_of_groups_says_of_how_many_runs_they_are(write: Write) -> None:
    runs = [write(str(number), [Point("loss", step, 1.0) for step in range(100 - 10 * number)]) for number in range(3)]
    curves = [curve(run, "loss") for run in runs]
    pair, one = group_curve("a", curves[:2]), group_curve("b", curves[2:])
    both = groups_in_words("lr", [pair, one])
    assert both.startswith("2 groups by lr, of 2 and 1 runs: line = their mean, dark = lowest to highest")
    assert both.endswith("; from step 90 on not all have values")
    assert groups_in_words("lr", [one]) == "1 group by lr, of 1 run: line = their mean, dark = lowest to highest"
    assert groups_in_words("lr", [pair] * 8).startswith("8 groups by lr, of 2 runs each: ")
    assert groups_in_words("lr", [pair, one] * 4).startswith("8 groups by lr, of 1 to 2 runs: ")
    assert groups_in_words("lr", []) == "no group by lr has a value"


def test_a_sparkline_shows_most_and_says_where_each_part_begins(write: Write) -> None:
    loss = [1.0 + 0.001 * (step % 7) for step in range(600)]
    loss[300] = 50.0
    found = figures(write("run", [Point("loss", 100 + step, value) for step, value in enumerate(loss)]), "loss", "min")
    assert 0.9 < found.low < 1.0
    assert found.high < 2
    assert max(high for _, high, _ in found.spark) == 50.0
    assert len(found.places) == len(found.spark)
    assert (found.places[0], found.places[-1] < 1) == (0.0, True)
    assert list(found.places) == sorted(found.places)


def test_a_table_that_is_asked_in_slices_comes_to_every_run(tmp_path: Path) -> None:
    for number in range(6):
        points = [Point("loss", step, step * number) for step in range(2000)]
        Writer(tmp_path / "runs" / str(number), bytes([number + 1] * 16)).points(points)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        table = Table(gallery)
        rows = gallery.rows()
        for _ in range(100):
            found = table.rows(rows, "loss", by="last", mode="max", seconds=0.002)
            if not found.more:
                break
        assert not found.more
        assert [one.count for one in found.figures] == [2000] * 6
        assert [one.name for one in found.rows] == ["5", "4", "3", "2", "1", "0"]


def test_a_table_says_of_a_run_that_is_gone_that_it_is() -> None:
    class NoRuns:
        def pyramid(self, row_id: str) -> Pyramid:
            raise LookupError(f"there is no run {row_id!r}")

    row = RunRow("a", "a", "a", "", colour(0), "running", "Running")
    found = Table(NoRuns()).rows([row], "loss")
    assert (found.figures[0].problem, found.more) == ("there is no run 'a'", False)


def test_a_slope_is_said_per_thousand_steps(write: Write) -> None:
    points = [Point("loss", step, 5 - 0.002 * step) for step in range(400)]
    found = figures(write("run", points), "loss", "min")
    assert found.slope == pytest.approx(-0.002)
    assert found.texts == ("4.202", "4.202", "-2.000")
