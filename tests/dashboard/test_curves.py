"""A curve between two steps is on the grid, has every value, and says what it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from asynchub import Journal, MessageHub
from asynchub.dashboard import pyramid as pyramid_module
from asynchub.dashboard.curves import curve, sparkline
from asynchub.dashboard.pyramid import Pyramid
from asynchub.errors import ArgumentError
from asynchub.events import InfoUpdated, Rewound
from tests.dashboard.runs import Point, Writer, brute_force, check_same, columns_of

pytestmark = pytest.mark.usefixtures("_grown_up")

STEPS = 20_000


@pytest.fixture(scope="module")
def values() -> NDArray[np.float64]:
    """The values of ``loss``: noise, with one spike, and 50 that are NaN."""
    values = np.random.default_rng(20).normal(size=STEPS)
    values[12_345] = 13.0
    values[7000:7050] = math.nan
    values[100], values[101] = math.inf, -math.inf
    return values


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, values: NDArray[np.float64]) -> Iterator[Pyramid]:
    """A run with that, and another key."""
    folder = tmp_path_factory.mktemp("curves")
    writer = Writer(folder / "run")
    both = np.stack([values, np.arange(STEPS) / 2], axis=1)
    for start in range(0, STEPS, 1000):
        writer.batch(columns_of(("loss", "lr"), np.arange(start, start + 1000), both[start : start + 1000], writer.seq))
    writer.close()
    with Pyramid(folder / "run", folder / "cache") as pyramid:
        while pyramid.update():
            pass
        yield pyramid


def _points(values: NDArray[np.float64], start: int, stop: int) -> list[Point]:
    return [Point("loss", step, float(values[step])) for step in range(max(start, 0), min(stop, STEPS))]


@pytest.mark.parametrize("buckets", [1, 7, 100, 490, 3000])
@pytest.mark.parametrize(
    "zoom", [(None, None), (0, STEPS - 1), (3000, 9000), (6990, 7060), (12_340, 12_350), (-500, 40_000)]
)
def test_a_curve_has_every_value_on_the_grid(
    run: Pyramid, values: NDArray[np.float64], zoom: tuple[int | None, int | None], buckets: int
) -> None:
    found = curve(run, "loss", *zoom, buckets)
    start, stop = found.start, found.stop
    if found.single:
        assert found.buckets.first.tolist() == [*range(max(start, 0), min(stop + 1, STEPS))]
        assert found.points <= buckets
        np.testing.assert_array_equal(
            np.isfinite(values[found.buckets.first]),
            found.buckets.nan + found.buckets.plus_inf + found.buckets.minus_inf == 0,
        )
    else:
        width = found.width
        assert width & (width - 1) == 0
        assert (stop - start + 1) / width >= min(buckets, stop - start + 1)
        first, last = start // width * width, stop // width * width + width
        check_same(found.buckets, brute_force(_points(values, first, last), width)["loss"])
        assert width == 1 or (stop - start + 1) / (2 * width) < buckets
        assert found.points > buckets
    assert found.monotone
    assert found.seq == 2 * STEPS


@pytest.mark.parametrize("buckets", [10, 200, 1500, 15_000])
def test_a_spike_and_values_that_are_not_finite_are_in_it_at_each_zoom(run: Pyramid, buckets: int) -> None:
    for half in (8000, 900, 30):
        found = curve(run, "loss", 12_345 - half, 12_345 + half, buckets)
        assert np.nanmax(found.buckets.max) == 13.0
        around = curve(run, "loss", max(7025 - half, 0), 7025 + half, buckets)
        assert int(around.buckets.nan.sum()) == 50
    assert curve(run, "loss", buckets=buckets).not_finite == 52


def test_zooms_share_their_buckets(run: Pyramid) -> None:
    whole = curve(run, "loss", 0, STEPS - 1, 300)
    part = curve(run, "loss", 4000, 4000 + STEPS // 2, 150)
    assert whole.width == part.width
    steps = {int(step): index for index, step in enumerate(whole.buckets.steps)}
    which = np.array([steps[int(step)] for step in part.buckets.steps])
    for one, other in zip(whole.buckets.take(which).columns, part.buckets.columns, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_key_without_values_makes_an_empty_curve(run: Pyramid) -> None:
    found = curve(run, "none", axis="time", window=10)
    assert (found.points, len(found.x), found.monotone) == (0, 0, True)
    assert sparkline(run, "none").size == 0


def test_where_the_journal_would_be_read_for_too_much_it_comes_in_wider_buckets(
    run: Pyramid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid_module, "MOST_EVENTS", 1000)
    found = curve(run, "loss", 0, 5000, 2000)
    assert (found.single, found.width) == (False, 64)
    assert found.points == 5056
    assert curve(run, "loss", 0, 300, 1000).single


def test_a_sparse_key_is_shown_value_by_value_without_reading_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "run")
    points = []
    for step in range(3000):
        points += [Point("loss", step, 1.0)] + ([Point("accuracy", step, step / 3000)] if step % 100 == 37 else [])
    writer.points(points)
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        monkeypatch.setattr(pyramid_module, "MOST_EVENTS", 0)
        found = curve(pyramid, "accuracy", buckets=100)
        assert found.single
        assert found.x.tolist() == list(range(37, 3000, 100))
        assert found.buckets.sum.tolist() == [step / 3000 for step in range(37, 3000, 100)]


def test_axes_are_steps_times_and_epochs(tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    for hub.step in range(600):
        if hub.step % 100 == 0:
            hub.update_info("epoch", hub.step // 100)
        hub.update_scalar("loss", 0.5)
    hub.close()
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert curve(pyramid, "loss").x.tolist() == list(range(600))
        assert curve(pyramid, "loss", axis="epoch").x.tolist() == [step // 100 for step in range(600)]
        buckets = curve(pyramid, "loss", buckets=4)
        assert buckets.x.tolist() == [0, 128, 256, 384, 512]
        assert curve(pyramid, "loss", buckets=4, axis="epoch").x.tolist() == [0, 1, 2, 3, 5]
        times = curve(pyramid, "loss", axis="time")
        relative = curve(pyramid, "loss", axis="relative")
        assert relative.x[0] == 0
        np.testing.assert_allclose(times.x - relative.x, pyramid.began)
        assert times.monotone
        assert pyramid.newest == pytest.approx(times.x[-1], abs=0.002)


def test_an_axis_that_is_missing_or_goes_back_is_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(50)])
    writer.points([Point("loss", step, 2.0) for step in range(20, 50)], time=0.0)
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert "no epoch was recorded" in curve(pyramid, "loss", axis="epoch").note
        assert "clock goes back" in curve(pyramid, "loss", axis="time").note
        found = curve(pyramid, "loss")
        assert not found.monotone
        assert "steps go back" in found.note
        assert found.points == 80


def test_a_run_that_never_said_its_step_is_said(tmp_path: Path) -> None:
    Writer(tmp_path / "run").points([Point("loss", 0, float(number)) for number in range(300)])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        found = curve(pyramid, "loss", buckets=100)
        assert (found.points, found.buckets.max.tolist()) == (300, [299.0])
        assert found.note == "all 300 values are of step 0: hub.step says which one it is"


@pytest.mark.parametrize("window", [1, 10, 64, 100, 1000, 5_000])
@pytest.mark.parametrize("zoom", [(0, STEPS - 1, 300), (0, 2 * STEPS // 3, 2000), (6900, 7400, 490), (6900, 7100, 490)])
def test_a_window_mean_is_that_of_the_values(
    run: Pyramid, values: NDArray[np.float64], window: int, zoom: tuple[int, int, int]
) -> None:
    found = curve(run, "loss", *zoom, window=window)
    assert found.smooth is not None
    base = run.rows("loss").width
    if found.width > 1 and window <= found.width:
        np.testing.assert_array_equal(found.smooth, found.buckets.means)
        return
    window += -window % base if window >= base else 0
    ends = found.buckets.first + 1 if found.single else found.buckets.steps + found.width
    for end, mean in zip(ends.tolist(), found.smooth.tolist(), strict=True):
        some = values[max(end - window, 0) : end]
        some = some[np.isfinite(some)]
        wanted = math.fsum(some) / len(some) if len(some) else math.nan
        assert mean == pytest.approx(wanted, rel=1e-12, abs=1e-13, nan_ok=True)


def test_smoothing_does_not_change_the_past(tmp_path: Path, rng: np.random.Generator) -> None:
    writer = Writer(tmp_path / "run")
    before: dict[int, float] = {}
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        for start in range(0, 6000, 250):
            writer.batch(columns_of("k", np.arange(start, start + 250), rng.normal(size=(250, 1)), writer.seq))
            pyramid.update()
            if start:
                found = curve(pyramid, "k", 0, 8191, 128, window=500)
                assert found.smooth is not None
                now = dict(zip(found.buckets.steps.tolist(), found.smooth.tolist(), strict=True))
                for step in sorted(before)[:-1]:
                    assert now[step] == before[step]
                before = now


def test_a_sparkline_is_short_and_has_every_value(run: Pyramid) -> None:
    found = sparkline(run, "loss", 60)
    assert 60 <= found.size <= 160
    assert int(found.points.sum()) == STEPS


def test_a_resumed_run_shows_what_counts(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(500)])
    writer.event(Rewound(to_seq=300))
    writer.event(InfoUpdated(key="epoch", value=3))
    writer.points([Point("loss", step, 2.0) for step in range(300, 400)])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        found = curve(pyramid, "loss", buckets=1000)
        assert found.x.tolist() == list(range(400))
        assert found.buckets.sum.tolist() == [1.0] * 300 + [2.0] * 100
        assert pyramid.rewinds == [(501, 300)]
        (rewound,) = pyramid.rewound("loss")
        assert rewound is not None
        assert rewound.first.tolist() == list(range(300, 500))
        assert rewound.sum.tolist() == [1.0] * 200
        assert curve(pyramid, "loss", axis="epoch", buckets=1000).x[[0, 299, 300]].tolist() == pytest.approx(
            [math.nan, math.nan, 3.0], nan_ok=True
        )


@pytest.mark.parametrize(
    "wrong",
    [{"buckets": 0}, {"buckets": 1.5}, {"axis": "days"}, {"window": -1}, {"window": 0.5}, {"start": 5, "stop": 4}],
    ids=str,
)
def test_a_wrong_argument_is_refused(run: Pyramid, wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        curve(run, "loss", **wrong)  # type: ignore[arg-type]
