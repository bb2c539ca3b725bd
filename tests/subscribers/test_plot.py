"""MatplotlibPlot: what the picture shows, read from the picture itself and from what is drawn in it."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("matplotlib")
import matplotlib
from matplotlib.figure import Figure
from matplotlib.image import imread

from asynchub.bridges.remote import attach
from asynchub.errors import ArgumentError, PatternError, ScheduleError
from asynchub.events import CheckpointSaved, Event, EventsDropped, InfoUpdated, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import ParameterChanged, StopRequested
from asynchub.specimens import every_kind_of_event
from asynchub.subscribers.curves import LIMIT, Curve
from asynchub.subscribers.plot import MatplotlibPlot
from tests.bridges.places import WAIT, Place, bridged
from tests.subscribers.lives import Life, Program, counted, lives
from tests.subscribers.observing import observe, observed, scalars, stamped

EVERYTHING = every_kind_of_event()
ROOT = Path(__file__).parents[2]


class Seen:
    """What was drawn last: the figure that was saved."""

    figure: Figure
    count = 0

    def lines(self, panel: int = 0) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Return the curves of a panel."""
        found = [line for line in self.figure.axes[panel].lines if line.get_linestyle() == "-"]
        return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in found]

    def texts(self) -> list[str]:
        legends = [*self.figure.legends, *(legend for axes in self.figure.axes if (legend := axes.get_legend()))]
        labels = [text for axes in self.figure.axes for text in axes.texts]
        texts = [*self.figure.texts, *labels, *(text for legend in legends for text in legend.get_texts())]
        return [text.get_text() for text in texts]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    save = Figure.savefig

    def saving(figure: Figure, *args: Any, **options: Any) -> None:
        seen.figure, seen.count = figure, seen.count + 1
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saving)
    return seen


def drawn(path: Path, events: list[Any], *keys: str, **options: Any) -> None:
    observe(MatplotlibPlot(path, *keys, **{"every": None, "dpi": 50, **options}), stamped(events))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_becomes_a_picture_with_its_curves_and_decisions(tmp_path: Path, seen: Seen, backend: str) -> None:
    events: list[Event] = [InfoUpdated(key="epoch", value=3, step=0)]
    for step in range(1, 101):
        events += scalars((step, "train/loss", 1 / step), (step, "lr", 0.1))
        if step % 10 == 0:
            events += scalars((step, "val/loss", 2 / step))
    events += [ParameterChanged(step=50, name="lr", group=0, old=0.1, new=0.05), StopRequested(step=100, author="me")]
    path = tmp_path / "digits" / "run.png"
    observe(MatplotlibPlot(path, every=None, dpi=50), stamped(events), backend=backend)
    assert imread(path).shape[:2] == (375, 666)
    assert len(seen.figure.axes) == 2
    (x, y), (val_x, val_y) = seen.lines(0)
    assert x.tolist() == list(range(1, 101))
    assert y.tolist() == [1 / step for step in range(1, 101)]
    assert (val_x.tolist(), val_y.tolist()) == (list(range(10, 101, 10)), [2 / step for step in range(10, 101, 10)])
    texts = seen.texts()
    assert texts[0] == "digits"
    assert texts[1].startswith("step 100  ·  epoch 3  ·  2023-11-1")
    assert "train/loss  last 0.01000, best 0.01000 at 100" in texts
    assert "lr  last 0.1000" in texts
    assert {"lr 0.1 → 0.05", "stop (me)", "stop", "parameter changed"} <= set(texts)
    assert list((tmp_path / "digits").iterdir()) == [path]


def test_no_spike_is_lost_among_a_million_values(tmp_path: Path, seen: Seen) -> None:
    count = 1_000_000
    values = np.random.default_rng(1).normal(size=count)
    spikes = {17: 60.0, 500_003: -70.0, 999_998: 80.0}
    for at, value in spikes.items():
        values[at] = value
    values[250_000] = math.nan
    plot = MatplotlibPlot(tmp_path / "run.png", every=None, dpi=100)
    for step, value in enumerate(values.tolist()):
        plot._curves.setdefault("x", Curve()).add(step, value)
    plot._undrawn = True
    start = time.process_time()
    observe(plot, [])
    assert time.process_time() - start < 10  # about 1 s
    ((x, y),) = seen.lines()
    assert len(x) <= 4 * LIMIT
    for at, value in spikes.items():
        assert y[x == at].tolist().count(value) >= 1
    assert "x  last " in seen.texts()[-1]
    assert seen.texts()[-1].endswith("NaN once")
    image = imread(tmp_path / "run.png")[..., :3]
    height = image.shape[0]
    blue = np.abs(image - np.array([0, 0x72, 0xB2]) / 255).sum(axis=2) < 0.2
    rows = np.flatnonzero(blue.any(axis=1))
    assert rows[-1] - rows[0] > 0.6 * height  # from 80 to -70: the spikes are in the pixels


@pytest.mark.parametrize("seed", range(30))
def test_a_curve_has_the_extremes_ends_and_counts_of_its_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.choice([1, 2, 5, LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT + 1, 10_000, 33_333]))
    values = rng.normal(size=count)
    for bad in (math.nan, math.inf, -math.inf):
        values[rng.random(count) < rng.choice([0, 0.01, 0.3])] = bad
    curve = Curve()
    for step, value in enumerate(values.tolist()):
        curve.add(step, value)
        if rng.random() < 0.001:
            curve.points()
    finite = np.flatnonzero(np.isfinite(values))
    x, y = curve.points()
    assert len(curve) == count
    assert len(x) <= 4 * LIMIT
    assert np.all(np.diff(x) >= 0)
    if len(finite):
        largest, smallest = (finite[pick(values[finite])] for pick in (np.argmax, np.argmin))
        assert curve.extreme(largest=True) == (largest, values[largest])
        assert curve.extreme(largest=False) == (smallest, values[smallest])
        shown = np.isfinite(y)
        assert (x[shown][0], x[shown][-1]) == (finite[0], finite[-1])
        assert np.array_equal(values[x[shown].astype(int)], y[shown])  # every point drawn is a value that came
    for what, test in (("NaN", np.isnan(values)), ("+inf", values == math.inf), ("-inf", values == -math.inf)):
        assert curve.not_finite(what)[1] == test.sum()


def test_an_average_of_one_value_a_bucket_is_that_of_the_formula() -> None:
    values = np.random.default_rng(0).normal(size=100)
    curve = Curve()
    for step, value in enumerate(values.tolist()):
        curve.add(step, value)
    x, averages = curve.smoothed(7.0)
    weights = 0.5 ** (np.arange(100)[::-1] / 7.0)
    assert averages[-1] == pytest.approx(weights @ values / weights.sum())
    assert x.tolist() == list(range(100))


def test_a_scalar_is_smoothed_only_if_asked_and_if_it_moves(tmp_path: Path, seen: Seen) -> None:
    rng = np.random.default_rng(0)
    events = scalars(
        *((step, key, value) for step in range(100) for key, value in (("loss", rng.normal()), ("lr", 0.1)))
    )
    drawn(tmp_path / "run.png", events)
    assert [len(seen.lines(panel)) for panel in (0, 1)] == [1, 1]
    drawn(tmp_path / "run.png", events, smooth=10)
    assert [len(seen.lines(panel)) for panel in (0, 1)] == [2, 1]
    drawn(tmp_path / "run.png", events, smooth=30)  # too long for a hundred values
    assert len(seen.lines(0)) == 1


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([3 * 0.95**step for step in range(200)], "log"),  # a loss
        ([1 - 0.9 * 0.95**step for step in range(200)], "linear"),  # an accuracy
        ([0.001 + step / 100 for step in range(100)], "linear"),  # rises steadily, over three decades
        ([1.0] * 50 + [500.0] + [1.0] * 50, "log"),  # a spike
        ([0.0, *[3 * 0.95**step for step in range(200)]], "linear"),  # has a zero
        ([1000.0, 1.0], "linear"),
        ([], "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_that_helps(tmp_path: Path, seen: Seen, values: list[float], scale: str) -> None:
    events: list[Any] = scalars(*((step, "x", value) for step, value in enumerate(values)))
    drawn(tmp_path / "run.png", [*events, StopRequested(step=1)])
    assert seen.figure.axes[0].get_yscale() == scale


def test_values_that_are_not_finite_are_marked_and_break_the_line(tmp_path: Path, seen: Seen) -> None:
    values = [1.0, math.nan, 2.0, math.inf, 3.0, -math.inf, math.nan]
    drawn(tmp_path / "run.png", scalars(*((step, "loss", value) for step, value in enumerate(values))))
    marks = {
        line.get_marker(): line.get_xdata().tolist()
        for line in seen.figure.axes[0].lines
        if line.get_linestyle() != "-"
    }
    assert marks == {"x": [1.0, 6.0], "^": [3.0], "v": [5.0]}
    assert "loss  last NaN, best 1.000 at 0, NaN 2 times, +inf once, -inf once" in seen.texts()
    assert np.isnan(seen.lines()[0][1]).tolist() == [False, True, False, True, False, True, True]


@pytest.mark.parametrize("count", [0, 1, 30, 300])
def test_any_number_of_keys_has_its_panels(tmp_path: Path, seen: Seen, count: int) -> None:
    events = [ScalarUpdated(key=f"group{n % 2}/key{n}", value=n, step=step) for n in range(count) for step in (1, 2)]
    drawn(tmp_path / "run.png", [*events, StopRequested(step=1)])
    assert len(seen.figure.axes) == min(max(count, 1), 36)
    assert any("264 more keys are not drawn" in text for text in seen.texts()) == (count == 300)


def test_ten_layers_of_one_name_share_panels_of_seven(tmp_path: Path, seen: Seen) -> None:
    drawn(tmp_path / "run.png", scalars(*((step, f"layer{n}/norm", n) for step in (1, 2) for n in range(10))))
    assert [len(axes.get_legend().get_texts()) for axes in seen.figure.axes] == [7, 3]  # type: ignore[union-attr]
    for axes in seen.figure.axes:
        colours = [line.get_color() for line in axes.lines if line.get_linestyle() == "-"]
        assert len(set(colours)) == len(colours)


def test_more_decisions_of_a_kind_than_there_is_room_for_become_ticks(tmp_path: Path, seen: Seen) -> None:
    events: list[Any] = [CheckpointSaved(step=step) for step in range(1000)]
    drawn(
        tmp_path / "run.png",
        [*scalars((0, "a", 1.0), (999, "a", 2.0)), *events, EventsDropped(step=500, missed=70_000)],
    )
    assert "checkpoint, 1,000 times" in seen.texts()
    assert "70,000 events lost here" in seen.texts()
    assert "checkpoint" not in seen.texts()


def test_odd_names_are_shown_as_they_are(tmp_path: Path, seen: Seen) -> None:
    keys = ["_hidden/$x^2$", "a$b", "漢字/e\u0301\n", "\\frac{"]
    drawn(tmp_path / "run.png", scalars(*((1, key, 1.0) for key in keys)), title="a $title")
    assert {"a $title", " _hidden/$x^2$  last 1.000", "a$b  last 1.000"} <= set(seen.texts())


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("size", ["slide", "paper", (3, 2)])
def test_every_kind_of_event_and_value_is_drawn_in_every_form(tmp_path: Path, suffix: str, size: Any) -> None:
    observe(MatplotlibPlot(tmp_path / f"run{suffix}", every=None, size=size, dpi=40, smooth=1), EVERYTHING)
    assert (tmp_path / f"run{suffix}").stat().st_size > 1000


def test_keys_without_steps_are_drawn_by_their_number(tmp_path: Path, seen: Seen) -> None:
    drawn(tmp_path / "run.png", scalars(*((None, "loss", float(n)) for n in range(5)), (9, "other", 1.0)))
    assert seen.lines(0)[0][0].tolist() == [1, 2, 3, 4, 5]
    assert [axes.get_xlabel() for axes in seen.figure.axes] == ["update", "step"]


def test_what_was_rewound_is_not_drawn(tmp_path: Path, seen: Seen) -> None:
    before = scalars(*((step, "loss", float(step)) for step in range(1, 11)))
    after = scalars(*((step, "loss", -1.0) for step in range(7, 9)))
    drawn(tmp_path / "run.png", [*before, Rewound(to_seq=6, step=6), *after])
    x, y = seen.lines()[0]
    assert x.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert y.tolist() == [1, 2, 3, 4, 5, 6, -1, -1]
    assert "rewound" in seen.texts()


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives(4))
def test_whatever_state_a_hub_goes_back_to_its_curves_are_what_it_has_recorded(
    tmp_path: Path, seen: Seen, story: list[Life]
) -> None:
    hub = MessageHub("run")
    hub.attach(MatplotlibPlot(tmp_path / "run.png", every=None, dpi=20), on_error="raise")
    program = Program(lambda hub: None)
    with hub:
        for life in story:
            if program.states:
                hub.load_state_dict(program.states[-1 - life.goes_on_from % len(program.states)])
            program.publish(hub, life)
        hub.update_scalar("lr", 0.0)
    lines = [line for panel in range(len(seen.figure.axes)) for line in seen.lines(panel)]
    drawn = [list(zip(x.tolist(), y.tolist(), strict=True)) for x, y in lines]
    assert sorted(drawn) == sorted(sorted(own, key=itemgetter(0)) for own in counted(hub).values())


def test_a_mirror_of_a_run_draws_what_counts_of_it_whatever_it_goes_back_to(tmp_path: Path, seen: Seen) -> None:
    place = Place()
    program = Program(lambda hub: bridged(place, tmp_path / "spool", hub=hub))
    with attach(place.url, run=place.run, timeout=WAIT) as mirror:
        mirror.attach(MatplotlibPlot(tmp_path / "run.png", "lr", every=None, dpi=20), on_error="raise")
        for life in (Life(0, [9, 9], 9), Life(1, [9], 9), Life(1, [], 5)):
            hub = program.live(life)
            mirror.catch_up(WAIT)
    ((x, y),) = seen.lines()
    assert list(zip(x.tolist(), y.tolist(), strict=True)) == counted(hub)["lr"]


def test_best_values_go_by_the_name_of_a_key_or_by_what_is_said(tmp_path: Path, seen: Seen) -> None:
    events = scalars(
        *((step, key, float(step)) for step in (1, 2, 3) for key in ("a/top1_acc", "a/loss", "a/x", "val/x"))
    )
    drawn(tmp_path / "run.png", events, best={"val/*": "max"})
    texts = set(seen.texts())
    assert "a/top1_acc  last 3.000, best 3.000 at 3" in texts
    assert "a/loss  last 3.000, best 1.000 at 1" in texts
    assert {"a/x  last 3.000", "val/x  last 3.000, best 3.000 at 3"} <= texts


@pytest.mark.parametrize(("every", "count"), [("10s", 2), ("1ep", 3), ("5ba", 3), (None, 1)])
def test_it_is_drawn_as_often_as_asked_and_at_the_end(
    tmp_path: Path, seen: Seen, every: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynchub.subscribers.plot.SHARE", 1.0)
    events: list[Any] = []
    for step in range(1, 12):
        if step in (4, 8):
            events.append(InfoUpdated(key="epoch", value=step // 4, step=step))
        events += scalars((step, "loss", 1.0))
    batches = [[event] for event in stamped(events)]
    observe(MatplotlibPlot(tmp_path / "run.png", every=every, dpi=30), *batches)
    assert seen.count == count


def test_drawing_takes_a_tenth_of_the_time_at_most(tmp_path: Path, seen: Seen) -> None:
    events = stamped(scalars(*((step, "loss", 1.0) for step in range(300))), seconds=100.0)
    observe(MatplotlibPlot(tmp_path / "run.png", every="60s", dpi=30), *[[event] for event in events])
    assert 2 <= seen.count < 30  # the run took eight hours, the replay no time
    assert seen.lines()[0][0].tolist() == list(range(300))


async def test_a_cancelled_plot_leaves_no_half_picture(tmp_path: Path) -> None:
    plot = MatplotlibPlot(tmp_path / "run.png", every=None)
    with anyio.CancelScope() as scope:
        await observed(plot, stamped(scalars((1, "a", 1.0))), then=scope.cancel)
    assert list(tmp_path.iterdir()) == []
    await observed(plot, [])
    assert [path.name for path in tmp_path.iterdir()] == ["run.png"]


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.png"
    drawn(path, scalars((1, "a", 1.0)))
    before = path.read_bytes()

    def full(figure: Figure, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    hub = MessageHub("full")
    attachment = hub.attach(MatplotlibPlot(path, every=None))
    with hub:
        hub.update_scalar("a", 2.0, step=2)
    assert isinstance(attachment.error, OSError)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_attached_late_it_has_what_was_there_before(tmp_path: Path, seen: Seen) -> None:
    hub = MessageHub("late")
    for step in range(1, 6):
        hub.update_scalar("loss", step, step=step)
    hub.attach(MatplotlibPlot(tmp_path / "run.png", dpi=30), replay="all", on_error="raise")
    async with hub:
        hub.update_scalar("loss", 6, step=6)
    assert seen.lines()[0][0].tolist() == [1, 2, 3, 4, 5, 6]


def test_no_global_state_of_matplotlib_is_touched(tmp_path: Path) -> None:
    code = f"""
import sys
import matplotlib
before = list(dict.items(matplotlib.rcParams))
from asynchub import MessageHub
from asynchub.subscribers.plot import MatplotlibPlot
hub = MessageHub("x")
hub.attach(MatplotlibPlot({str(tmp_path / "run.png")!r}, dpi=30), on_error="raise")
with hub:
    hub.update_scalar("loss", 1.0, step=1)
assert "matplotlib.pyplot" not in sys.modules
assert list(dict.items(matplotlib.rcParams)) == before
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    assert (tmp_path / "run.png").exists()


def test_what_the_program_has_set_for_its_own_figures_does_not_show(tmp_path: Path) -> None:
    events = scalars((1, "a", 1.0), (2, "a", 2.0))
    drawn(tmp_path / "plain.png", events, title="t")
    with matplotlib.rc_context():
        matplotlib.rcParams.update(
            {"axes.facecolor": "black", "text.color": "white", "font.size": 30, "axes.grid": True}
        )
        drawn(tmp_path / "dark.png", events, title="t")
    assert np.array_equal(imread(tmp_path / "plain.png"), imread(tmp_path / "dark.png"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"path": "run.gif"}, ArgumentError),
        ({"every": 10}, ArgumentError),
        ({"every": "soon"}, ScheduleError),
        ({"smooth": 0}, ArgumentError),
        ({"smooth": math.nan}, ArgumentError),
        ({"best": {"val/*": "most"}}, ArgumentError),
        ({"best": {"a//b": "max"}}, PatternError),
        ({"best": "max"}, ArgumentError),
        ({"title": 3}, ArgumentError),
        ({"size": "poster"}, ArgumentError),
        ({"size": (1, 2, 3)}, ArgumentError),
        ({"size": (0, 2)}, ArgumentError),
        ({"dpi": 0}, ArgumentError),
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        MatplotlibPlot(**{"path": "run.png", **options})


def test_a_malformed_pattern_is_refused() -> None:
    with pytest.raises(PatternError):
        MatplotlibPlot("run.png", "a//b")
