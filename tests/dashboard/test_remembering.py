"""What was worked out is kept for as long as a run has no more, and no longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asynchub.dashboard.curves import curve, curves, sparkline
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.remembering import Memo
from asynchub.events import InfoUpdated, Rewound
from tests.dashboard.runs import Point, Writer


def test_what_was_not_asked_for_longest_goes_first() -> None:
    memo = Memo(100)
    for name in "abc":
        memo.put(1, name, name.upper(), 40)
    assert [memo.get(1, name) for name in "abc"] == [None, "B", "C"]
    memo.get(1, "b")
    memo.put(1, "d", "D", 40)
    assert [memo.get(1, name) for name in "bcd"] == ["B", None, "D"]
    memo.put(1, "huge", "H", 101)
    assert [memo.get(1, name) for name in ("b", "d", "huge")] == [None, None, None]
    memo.put(1, "e", "E", 100)
    memo.put(1, "e", "F", 100)
    assert memo.get(1, "e") == "F"


def test_of_another_version_nothing_is_known() -> None:
    memo = Memo()
    memo.put(1, "a", "A", 1)
    assert memo.get(2, "a") is None
    assert memo.get(1, "a") is None


@pytest.mark.usefixtures("_grown_up")
def test_a_curve_is_kept_until_there_is_something_new(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        written = 0

        def points(number: int) -> None:
            nonlocal written
            writer.points([Point(key, written + step, 1.0) for step in range(number) for key in ("loss", "lr")])
            written += number
            run.update()

        points(90)
        for more in (5, 200, 1000):  # young, then with buckets
            found = curve(run, "loss", buckets=50)
            assert curve(run, "loss", buckets=50) is found
            assert curves(run, ["lr", "loss"], buckets=50)[1] is found
            assert curve(run, "loss", buckets=49) is not found
            assert curve(run, "loss", buckets=50, window=7) is not curve(run, "loss", buckets=50, window=8)
            ema = curve(run, "loss", buckets=50, window=7, smoothing="ema")
            assert ema is not curve(run, "loss", buckets=50, window=7)
            assert sparkline(run, "loss") is sparkline(run, "loss")
            points(more)
            assert curve(run, "loss", buckets=50).points == written
            assert int(sparkline(run, "loss").points.sum()) == written
        writer.event(InfoUpdated(key="epoch", value=3))
        before = curve(run, "loss", axis="epoch")
        run.update()
        assert curve(run, "loss", axis="epoch") is not before
        writer.event(Rewound(to_seq=20))
        run.update()
        assert curve(run, "loss", buckets=50).points == 10


def test_nobody_can_change_what_others_are_shown(tmp_path: Path) -> None:
    Writer(tmp_path / "run").points([Point("loss", step, 1.0) for step in range(9)])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        run.update()
        found = curve(run, "loss", window=3)
        assert found.smooth is not None
        for column in (*found.buckets.columns, found.x, found.smooth):
            with pytest.raises(ValueError, match="read-only"):
                column[0] = 0
        np.testing.assert_array_equal(found.smooth, np.ones(9))
