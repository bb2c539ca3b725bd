"""What is shown of a run that goes on is made of what was shown before, and is the same as if it were made anew."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from asynchub.dashboard import curves as curves_module
from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.remembering import Memo
from asynchub.dashboard.view import RunView
from asynchub.events import InfoUpdated, Rewound
from tests.dashboard.runs import Point, Writer, columns_of

pytestmark = pytest.mark.usefixtures("_grown_up")

KEYS = ("loss", "lr")
QUESTIONS = ((None, None, 10), (None, None, 60), (0, 4095, 30), (200, None, 20), (100, 700, 5))


def _same(one: Curve, other: Curve) -> None:
    assert (one.start, one.stop, one.width, one.single) == (other.start, other.stop, other.width, other.single)
    assert (one.monotone, one.note, one.seq) == (other.monotone, other.note, other.seq)
    columns = (*one.buckets.columns, one.x, one.smooth), (*other.buckets.columns, other.x, other.smooth)
    for column, wanted in zip(*columns, strict=True):
        assert (column is None) == (wanted is None)
        assert column is None or wanted is None or column.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_a_curve_that_has_grown_is_the_same_bit_for_bit_as_one_made_anew(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    writer = Writer(tmp_path / "run")
    step = 0
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        for _ in range(35):
            what = rng.random()
            if what < 0.05 and seed > 1:
                writer.event(Rewound(to_seq=int(rng.integers(0, writer.seq + 1))))
            elif what < 0.2 and seed > 0:  # values come late, or again
                step = max(step - int(rng.integers(1, 40)), 0)
            count = int(rng.integers(1, 40))
            values = rng.normal(size=count)
            values[rng.random(count) < 0.05] = rng.choice([math.nan, math.inf, 1e300])
            keys = KEYS if rng.random() < 0.8 else KEYS[:1]
            writer.points([Point(key, step + number, float(values[number])) for number in range(count) for key in keys])
            step += count
            run.update()
            asked = [(*one, window) for one in QUESTIONS for window in (0, 50)]
            found = [curves(run, KEYS, start, stop, buckets, window=window) for start, stop, buckets, window in asked]
            run.memo = Memo()
            for (start, stop, buckets, window), some in zip(asked, found, strict=True):
                for one, other in zip(some, curves(run, KEYS, start, stop, buckets, window=window), strict=True):
                    _same(one, other)
            run.memo = Memo()
            for start, stop, buckets, window in asked:
                curves(run, KEYS, start, stop, buckets, window=window)


def test_of_a_run_that_goes_on_only_the_end_of_a_curve_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    plan = curves_module._plan

    def counted(run: Pyramid, key: str, *rest: int) -> object:
        planned.append(key)
        return plan(run, key, *rest)

    monkeypatch.setattr(curves_module, "_plan", counted)
    writer = Writer(tmp_path / "run")
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:

        def grow(start: int, stop: int) -> Curve:
            steps = np.arange(start, stop)
            writer.batch(columns_of(KEYS, steps, np.ones((len(steps), 2)), writer.seq))
            run.update()
            planned.clear()
            return curves(run, KEYS, None, None, 20)[0]

        grow(0, 3000)
        assert planned == [*KEYS]
        for start in range(3000, 3500, 10):
            assert grow(start, start + 10).points == start + 10
            assert planned == []
        assert grow(100, 101).points == 3501  # late
        assert planned == [*KEYS]


def test_a_row_of_a_run_whose_curves_are_looked_at_says_what_one_read_anew_would(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "runs" / "one")
    writer.event(InfoUpdated(key="seed", value=3))
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        (row,) = gallery.rows()
        gallery.pyramid(row.id)
        (entry,) = gallery._entries.values()
        for number in range(40):
            writer.points([Point("loss", 9 * number + step, number + step / 9) for step in range(9)])
            if number == 20:
                writer.event(Rewound(to_seq=50))
            if number == 30:
                writer.begin_segment()
            if number == 39:
                writer.close()
            gallery._read_row(entry)
            with RunView(entry.folder, tmp_path / "cache", row_id=row.id, title=row.name) as view:
                anew = view.row()
            assert entry.row is not None
            assert entry.row.metrics == anew.metrics == {"loss": entry.row.metrics["loss"]}
            assert (entry.row.config, entry.row.state, entry.row.step) == (anew.config, anew.state, anew.step)
            assert (entry.row.run_id, entry.row.problem) == (anew.run_id, anew.problem)
        assert anew.metrics["loss"].startswith("39.8")
