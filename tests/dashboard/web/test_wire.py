"""What goes to the page is what ``curves`` says, and what changed is enough to have it all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.web.wanted import CurvesWanted, Look, as_json, curves_wanted, look_of
from asynchub.dashboard.web.wire import ChartNow, changes, chart_now, decode, empty_series, encode, series_now, to_json
from asynchub.errors import ArgumentError, CorruptStateError
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.receiving import Received

NAN, INF = float("nan"), float("inf")


def _curve(tmp_path: Path, values: list[float], **options: Any) -> Curve:
    writer = Writer(tmp_path / "run")
    writer.points(Point("loss", step, value) for step, value in enumerate(values))
    writer.close()
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        run.update()
        return curves(run, ["loss"], **options)[0]


def _chart(curve: Curve) -> ChartNow:
    return chart_now(curve.key, [series_now("r1", curve)], draw({"r1": curve}))


@pytest.mark.parametrize("axis", ["step", "time", "relative", "epoch"])
@pytest.mark.parametrize("buckets", [7, 5000])
def test_what_arrives_is_what_curves_says(axis: Any, buckets: int, tmp_path: Path) -> None:
    values = [math.sin(step / 9) for step in range(1000)]
    values[100:105] = [NAN, INF, -INF, 13.0, NAN]
    curve = _curve(tmp_path, values, buckets=buckets, axis=axis, window=50)
    message = encode(changes({}, [_chart(curve)]), 7)
    assert message[:4] == b"AHC1"
    assert int.from_bytes(message[4:8], "little") % 8 == 0
    head = decode(message)
    assert head["n"] == 7
    (chart,) = head["charts"]
    (series,) = chart["series"]
    assert (chart["key"], series["run"], series["from"]) == ("loss", "r1", 0)
    for name in ("width", "single", "axis", "monotone", "note", "window", "seq", "start", "stop"):
        assert series[name] == getattr(curve, name)
    columns = series["columns"]
    assert set(columns) == {"x", "low", "high", "mean", "smooth", "bad"} | ({"step"} if axis != "step" else set())
    assert curve.smooth is not None
    buckets_now = curve.buckets
    means = buckets_now.min if curve.single else buckets_now.means
    wanted = {"low": buckets_now.min, "high": buckets_now.max, "mean": means, "smooth": curve.smooth}
    for name, column in wanted.items():
        np.testing.assert_array_equal(columns[name], column.astype(np.float32))
    np.testing.assert_array_equal(columns["x"], curve.x)
    np.testing.assert_array_equal(columns["bad"], buckets_now.not_finite)
    if axis != "step":
        np.testing.assert_array_equal(columns["step"], buckets_now.first if curve.single else buckets_now.steps)
    assert int(columns["bad"].sum()) == 4
    assert float(np.nanmax(columns["high"])) == 13.0
    assert chart["drawing"]["not_finite"] == 4
    assert series["rows"] == len(columns["x"])


@pytest.mark.parametrize(
    ("values", "wide"),
    [
        ([1.0, 1.5, 13.0], False),
        ([1e9, 1e9 + 1, 1e9 + 2], True),  # float32 would show steps of 64
        ([1e300, 1e-300], True),
        ([1e300] * 3, True),
        ([1e-40, 3e-40], True),
        ([0.0, 0.0], False),
        ([NAN, NAN], False),
        ([INF, 5.0], False),
    ],
)
def test_values_come_in_as_many_bits_as_it_takes_to_draw_them(values: list[float], wide: bool, tmp_path: Path) -> None:
    curve = _curve(tmp_path, values)
    (series,) = decode(encode(changes({}, [_chart(curve)])))["charts"][0]["series"]
    assert series["columns"]["low"].dtype == (np.float64 if wide else np.float32)
    if wide:
        np.testing.assert_array_equal(series["columns"]["high"], curve.buckets.max)


NUMBERS = st.floats(width=16) | st.sampled_from([NAN, INF, -INF, 1e30, 0.0])


@given(st.lists(st.tuples(st.lists(NUMBERS, max_size=6), st.integers(0, 3), st.booleans()), max_size=8))
def test_whoever_has_had_all_changes_has_what_a_whole_message_brings(
    states: list[tuple[list[float], int, bool]],
) -> None:
    """A series is made anew, longer, shorter, other in the middle, or with other columns; it is told in pieces."""
    received, sent = Received(), {}
    for values, note, smooth in states:
        column = np.array(values, np.float32)
        columns = {"x": np.arange(len(values), dtype="<f8"), "low": column, "high": column, "mean": column}
        columns |= {"smooth": column} if smooth else {}
        empty = empty_series("r1", str(note), "step")
        series = [empty._replace(columns={**columns, "bad": np.zeros(len(values), "<u4")})]
        series += [empty_series("r2", "nothing", "step")] if note == 2 else []
        chart = chart_now("loss", series, draw({}))
        found = changes(sent, [chart])
        received.take(encode(found))
        sent |= {change.chart.key: change.chart for change in found}
        whole = Received()
        whole.take(encode(changes({}, [chart])))
        assert received.state() == whole.state()
        assert changes(sent, [chart]) == []


def test_of_what_is_appended_only_that_is_sent(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(Point(key, step, step / 7) for step in range(500) for key in ("loss", "norm"))
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        run.update()
        before = {curve.key: _chart(curve) for curve in curves(run, ["loss", "norm"], buckets=2000)}
        writer.points([Point("loss", 500, 3.0), Point("loss", 501, NAN)])
        run.update()
        found = changes(before, [_chart(curve) for curve in curves(run, ["loss", "norm"], buckets=2000)])
    loss, norm = found
    assert (loss.first, loss.only_words) == ((500,), False)
    assert (norm.first, norm.only_words) == ((500,), True)  # only up to which event it was read
    head = decode(encode([loss]))
    (series,) = head["charts"][0]["series"]
    assert (series["from"], series["rows"]) == (500, 502)
    assert series["columns"]["x"].tolist() == [500, 501]
    assert len(encode([loss])) < 3000


@pytest.mark.parametrize(
    "damage", [b"", b"AHC", b"AHC2\x08\x00\x00\x00{}      ", b"AHC1\xff\xff\x00\x00{}", b"AHC1" * 9]
)
def test_what_is_no_message_is_said(damage: bytes) -> None:
    with pytest.raises(CorruptStateError, match="no message of curves"):
        decode(damage)


def test_a_message_that_is_cut_is_said(tmp_path: Path) -> None:
    whole = encode(changes({}, [_chart(_curve(tmp_path, [1.0, 2.0, NAN]))]))
    for length in range(len(whole) - 8):
        with pytest.raises(CorruptStateError):
            decode(whole[:length])


def test_json_has_null_for_what_is_not_finite_and_takes_every_string() -> None:
    odd = "<script>\u202e\x00\x1b[31m\ud800 é"
    text = to_json({"a": [NAN, 1.5, INF, (2, None)], odd: np.float64(NAN), "ok": np.int64(3)})
    assert text.isascii()
    assert json.loads(text) == {"a": [None, 1.5, None, [2, None]], odd: None, "ok": 3}


GOOD = {"runs": ["a"], "keys": ["loss"]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"runs": "a"}, "runs must be a list of strings"),
        ({"runs": [1]}, "runs must be a list of strings"),
        ({"runs": [["a"]]}, "runs must be a list of strings"),
        ({"runs": {"a": 1}}, "runs must be a list of strings"),
        ({"runs": ["a" * 101]}, "at most 100 letters"),
        ({"runs": [str(n) for n in range(201)]}, "at most 200 runs"),
        ({"keys": None}, "keys must be a list of strings"),
        ({"keys": [str(n) for n in range(65)]}, "at most 64 keys"),
        ({"runs": [str(n) for n in range(100)], "keys": [str(n) for n in range(21)]}, "at most 2,000 curves"),
        ({"buckets": 0}, "buckets must be a whole number from 1 to 8000"),
        ({"buckets": 8001}, "buckets must be a whole number"),
        ({"buckets": 1.5}, "buckets must be a whole number"),
        ({"buckets": True}, "buckets must be a whole number"),
        ({"buckets": NAN}, "buckets must be a whole number"),
        ({"buckets": "1e3"}, "buckets must be a whole number"),
        ({"axis": "y"}, "axis must be one of step, time, relative, epoch"),
        ({"axis": ["step"]}, "axis must be one of"),
        ({"smoothing": {}}, "smoothing must be one of mean, ema"),
        ({"window": -1}, "window must be a whole number"),
        ({"log": 1}, "log must be true or false, or a list of keys"),
        ({"log": "loss"}, "log must be true or false, or a list of keys"),
        ({"log": [1]}, "log must be a list of strings"),
        ({"fit_all": ["loss"]}, "fit_all must be true or false"),
        ({"start": 5, "stop": 4}, "stop must not be before start"),
        ({"start": 2**63}, "start must be a whole number"),
        ({"start": "x"}, "start must be a whole number"),
        ({"colour": 1}, "curves are wanted with runs, keys"),
        ({"pixels": 0}, "pixels must be a whole number"),
    ],
    ids=range(28),
)
def test_what_is_asked_wrongly_is_said(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        curves_wanted(GOOD | fields)
    with pytest.raises(ArgumentError, match=words):
        look_of({"curves": GOOD | fields})


def test_what_is_asked_rightly_is_understood() -> None:
    wanted = curves_wanted(
        {**GOOD, "start": None, "stop": 9.0, "buckets": 800, "axis": "time", "window": 5, "log": True}
    )
    assert wanted == CurvesWanted(("a",), ("loss",), None, 9, 800, "time", 5, log=True)
    assert wanted.is_log("loss")
    some = curves_wanted({**GOOD, "log": ["loss", "acc"]})
    assert [some.is_log(key) for key in ("loss", "acc", "lr")] == [True, True, False]
    assert not curves_wanted({**GOOD, "log": []}).is_log("loss")
    assert curves_wanted({"runs": [], "keys": []}) == CurvesWanted((), ())
    assert look_of({"rows": True, "screen": None, "curves": None, "n": 3}) == Look("", "", None, 3)
    assert look_of({"rows": "lr<1", "screen": "a", "curves": GOOD}) == Look("lr<1", "a", curves_wanted(GOOD))
    assert look_of({"rows": True, "filter": "x"}).rows == "x"
    assert look_of({}) == look_of({"rows": False}) == Look()
    for wrong in ({"rows": 1.5}, {"screen": 5}, {"curves": []}, {"n": -1}, {"rows": ["x"]}):
        with pytest.raises(ArgumentError):
            look_of(wrong)


@given(st.binary(max_size=50) | st.text(max_size=50))
def test_json_of_any_kind_is_a_dict_or_an_error_in_words(data: bytes | str) -> None:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if isinstance(value, dict):
        assert as_json(data) == value
    else:
        with pytest.raises(ArgumentError, match="JSON"):
            as_json(data)


def test_json_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(ArgumentError, match="JSON"):
        as_json(b'{"a":' + b"[" * 60_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*CurvesWanted.__dataclass_fields__, "n", "screen", "rows", "curves"]), JSON))
def test_whatever_is_asked_is_understood_or_refused(fields: dict[str, Any]) -> None:
    for parse in (curves_wanted, look_of, lambda f: look_of({"curves": f})):
        try:
            parse(GOOD | fields)
        except ArgumentError:
            continue
