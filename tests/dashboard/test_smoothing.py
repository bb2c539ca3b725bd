"""A smoothed curve is what its definition says, at each zoom, and of the past it never changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from asynchub.dashboard import growth
from asynchub.dashboard.curves import Curve, curve
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.smoothing import REACH
from asynchub.errors import ArgumentError
from asynchub.events import Rewound
from tests.dashboard.runs import Point, Writer

grown_up = pytest.mark.usefixtures("_grown_up")


def one_pass(points: Sequence[Point], end: int, half_life: int, grain: int) -> tuple[float, float]:
    """Return the exponential mean at an end, going through all values once, and the weight of what counts."""
    total = weight = 0.0
    cell = 0
    for point in sorted((one for one in points if (one.step or 0) < end), key=lambda one: one.step or 0):
        now = (point.step or 0) // grain
        decay = 0.5 ** ((now - cell) * grain / half_life)
        total, weight, cell = total * decay, weight * decay, now
        if np.isfinite(point.value):
            total, weight = total + point.value, weight + point.count
    weight_now = weight * 0.5 ** (((end - 1) // grain - cell) * grain / half_life)
    return (total / weight if weight else float("nan")), weight_now


def check(found: Curve, points: Sequence[Point], half_life: int, grain: int) -> None:
    """Fail unless each place of a curve has the mean of one pass over all values."""
    assert found.smooth is not None
    if found.width > 1 and half_life <= found.width:
        np.testing.assert_array_equal(found.smooth, found.buckets.means)
        return
    ends = found.buckets.first + 1 if found.single else found.buckets.steps + found.width
    largest = max((abs(one.value) for one in points if np.isfinite(one.value)), default=0.0)
    some = np.unique(np.linspace(0, len(ends) - 1, 12).astype(int)) if len(ends) else []
    for end, smooth in zip(ends[some].tolist(), found.smooth[some].tolist(), strict=True):
        wanted, weight = one_pass(points, end, half_life, grain if half_life >= grain else 1)
        if weight > 0.5**REACH:  # else it is older than what counts
            assert smooth == pytest.approx(wanted, rel=1e-9, abs=1e-12 * largest)
        elif weight == 0.0:
            assert np.isnan(smooth)


@pytest.mark.parametrize("seed", range(60))
@grown_up
def test_it_is_the_mean_of_one_pass_over_all_values(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.choice([1, 5, 120, 400]))
    steps = np.cumsum(rng.choice([0, 1, 1, 1, 2, 7, 90, 3000], size)).tolist()
    odd = rng.choice([0.0, 1e200, -1e-200, np.nan, np.inf, -np.inf], size)
    values = np.where(rng.random(size) < 0.2, odd, rng.normal(size=size) * 1e3).tolist()
    points = [Point("loss", *one) for one in zip(steps, values, rng.choice([1, 1, 3], size).tolist(), strict=True)]
    half_life = int(rng.choice([1, 2, 10, 63, 64, 65, 100, 1000, 10**6]))
    monkeypatch.setattr(growth, "YOUNG", int(rng.choice([50, 100, 16_384])))
    writer = Writer(tmp_path / "run")
    cut = int(rng.integers(0, size + 1))
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        for part in (points[:cut], points[cut:]):
            writer.points(part)
            run.update()
        middle = steps[-1] // 2
        for buckets in (1, 13, 1000):
            for zoom in ((None, None), (middle, middle + 99)):
                check(
                    curve(run, "loss", *zoom, buckets, window=half_life, smoothing="ema"), points, half_life, run.grain
                )


def points_of(steps: int, seed: int = 1) -> list[Point]:
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(size=steps))
    values[rng.random(steps) < 0.05] = np.nan
    return [Point("loss", step, float(value)) for step, value in enumerate(values)]


@pytest.mark.parametrize("half_life", [5, 64, 100, 700])
@grown_up
def test_the_past_stays_the_same_bit_for_bit_as_the_run_grows(tmp_path: Path, half_life: int) -> None:
    points = points_of(1500)
    writer = Writer(tmp_path / "run")
    seen: dict[tuple[int, bool], dict[int, float]] = {}
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        for start in range(0, len(points), 60):  # it has buckets from 100 values on
            writer.points(points[start : start + 60])
            run.update()
            for low, high in ((0, start + 59), (40, 99), (320, 450)):
                for buckets in (4, 30, 1000):
                    if run.count("loss") <= high:
                        continue
                    found = curve(run, "loss", low, high, buckets, window=half_life, smoothing="ema")
                    assert found.smooth is not None
                    before = seen.setdefault((found.width, found.single), {})
                    now = dict(zip(found.x.tolist()[:-1], found.smooth.tolist()[:-1], strict=True))
                    same = [before[x] for x in now if x in before]
                    np.testing.assert_array_equal([now[x] for x in now if x in before], same)
                    before.update(now)
    assert len(seen) > 3


@pytest.mark.parametrize("half_life", [64, 200, 1000])
@grown_up
def test_it_is_the_same_bit_for_bit_at_each_zoom(tmp_path: Path, half_life: int) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(points_of(3000))
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        run.update()
        assert run.base == 64
        singles = curve(run, "loss", 0, 2999, 3000, window=half_life, smoothing="ema")
        assert singles.single
        assert singles.smooth is not None
        for width in (16, 32, 64, 128, 512):
            if width < half_life:
                found = curve(run, "loss", 0, 2047, 2048 // width, window=half_life, smoothing="ema")
                assert (found.width, found.smooth is None) == (width, False)
                np.testing.assert_array_equal(found.smooth, singles.smooth[width - 1 : 2048 : width])
        zoomed = curve(run, "loss", 1000, 1099, 1000, window=half_life, smoothing="ema")
        np.testing.assert_array_equal(zoomed.smooth, singles.smooth[1000:1100])


@grown_up
def test_a_value_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    clean, dirty = points_of(500), []
    clean = [one for one in clean if np.isfinite(one.value)]
    for one in clean:
        dirty += [one, Point("loss", one.step, float("nan")), Point("loss", one.step, float("inf"))]
    for name, points in (("clean", clean), ("dirty", dirty)):
        Writer(tmp_path / name).points(points)
    with Pyramid(tmp_path / "clean", tmp_path / "a") as one, Pyramid(tmp_path / "dirty", tmp_path / "b") as other:
        one.update()
        other.update()
        found = [curve(run, "loss", buckets=7, window=100, smoothing="ema") for run in (one, other)]
    np.testing.assert_array_equal(found[0].smooth, found[1].smooth)
    assert found[0].smooth is not None
    assert np.isfinite(found[0].smooth).all()


@grown_up
def test_what_was_rewound_is_not_in_it(tmp_path: Path) -> None:
    points = points_of(400)
    writer = Writer(tmp_path / "resumed")
    writer.points(points[:250])
    writer.points([Point("loss", step, 1e9) for step in range(250, 300)])
    writer.event(Rewound(to_seq=250))
    writer.points(points[250:])
    with Pyramid(tmp_path / "resumed", tmp_path / "cache") as run:
        run.update()
        for half_life in (10, 100):
            check(curve(run, "loss", buckets=9, window=half_life, smoothing="ema"), points, half_life, 64)


def test_there_is_no_pull_towards_a_start_at_zero(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 7.0) for step in range(50)])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        run.update()
        found = curve(run, "loss", window=1000, smoothing="ema")
    assert found.smooth is not None
    assert (found.smoothing, found.window) == ("ema", 1000)
    np.testing.assert_allclose(found.smooth, 7.0, rtol=1e-15)


def test_another_word_for_a_mean_is_refused(tmp_path: Path) -> None:
    with Pyramid(tmp_path, tmp_path / "cache") as run, pytest.raises(ArgumentError, match="'mean' or 'ema'"):
        curve(run, "loss", smoothing="median")  # type: ignore[arg-type]
