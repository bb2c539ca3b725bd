"""TensorBoardLogger: what TensorBoard's own readers have is what was published, once."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.util.tensor_util import make_ndarray

from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, SubscriberFailed
from asynchub.requests import ParameterChanged, StopRequested
from asynchub.specimens import every_kind_of_event
from asynchub.subscribers.tensorboard import TensorBoardLogger
from tests.subscribers.observing import START, observe, scalars, stamped

BACKENDS = ["tensorboard", "tensorboardX"]
Series = dict[str, list[tuple[int, float, float]]]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def accumulated(folder: Path | str) -> EventAccumulator:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return reader


def read(reader: Any) -> Series:
    """Return step, time and value of each point, by tag, as a reader has them."""
    if not isinstance(reader, EventAccumulator):
        reader = accumulated(reader)
    tags = reader.Tags()["scalars"]
    return {tag: [(one.step, one.wall_time, one.value) for one in reader.Scalars(tag)] for tag in tags}


def texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    return [(one.step, one.tensor_proto.string_val[0].decode()) for one in accumulated(folder).Tensors(tag)]


def wanted(events: list[Event]) -> Series:
    """Return what is to be read of ``events``."""
    series: Series = {}
    for event in events:
        if isinstance(event, ScalarUpdated):
            points = series.setdefault(event.key, [])
            mean = event.value if event.count in (0, 1) else event.value / event.count
            points.append((len(points) if event.step is None else event.step, event.time, float(np.float32(mean))))
    return series


def as_sets(series: Series) -> dict[str, list[tuple[int, float, float]]]:
    return {tag: sorted(points) for tag, points in series.items() if points}


# --- what is written


def test_what_is_read_is_what_was_published(tmp_path: Path, backend: str) -> None:
    rng = random.Random(0)
    events = stamped(
        [
            ScalarUpdated(key=key, value=rng.gauss(0, 1), step=step)
            for step in range(5000)
            for key in ("train/loss", "train/lr", "val/acc")
        ],
        0.001,
    )
    observe(TensorBoardLogger(tmp_path, backend=backend), events)  # type: ignore[arg-type]
    assert read(tmp_path) == wanted(events)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_point_is_the_mean_of_its_samples_and_has_the_step_and_time_of_the_event(tmp_path: Path, loop: str) -> None:
    events = stamped(
        [
            ScalarUpdated(key="acc", value=48, count=64, step=3),
            *scalars((None, "free", 1.0), (None, "free", 2.0), (7, "free", 3.0), (None, "free", 4.0)),
            ScalarUpdated(key="huge", value=10**400, step=2**70),
            ScalarUpdated(key="\udc80", value=True, step=-5),
        ]
    )
    observe(TensorBoardLogger(tmp_path), events, backend=loop)
    series = read(tmp_path)
    assert series["acc"] == [(3, START, 0.75)]
    assert [(step, value) for step, _, value in series["free"]] == [(0, 1.0), (1, 2.0), (7, 3.0), (3, 4.0)]
    assert series["huge"] == [(2**63 - 1, START + 2.5, math.inf)]
    assert series["\\udc80"] == [(-5, START + 3.0, 1.0)]


def test_values_that_are_not_finite_are_read_as_they_are(tmp_path: Path, backend: str) -> None:
    values = (math.nan, math.inf, -math.inf, 1e308)
    events = stamped(scalars(*((step, "loss", value) for step, value in enumerate(values))))
    observe(TensorBoardLogger(tmp_path, backend=backend), events)  # type: ignore[arg-type]
    got = [value for _, _, value in read(tmp_path)["loss"]]
    assert got == pytest.approx([math.nan, math.inf, -math.inf, math.inf], nan_ok=True)


def test_double_precision_keeps_every_bit_in_a_tensor_that_is_a_scalar_to_tensorboard(tmp_path: Path) -> None:
    values = [0.1, 1e308, math.pi, math.nan]
    observe(
        TensorBoardLogger(tmp_path, double_precision=True),
        stamped(scalars(*((step, "loss", value) for step, value in enumerate(values)))),
    )
    reader = PluginAccumulator(str(tmp_path), tensor_size_guidance={"scalars": 0})
    reader.Reload()
    assert list(reader.PluginTagToContent("scalars")) == ["loss"]
    got = [make_ndarray(one.tensor_proto) for one in reader.Tensors("loss")]
    assert [array.dtype for array in got] == [np.float64] * len(values)
    assert [float(array) for array in got] == pytest.approx(values, rel=0, abs=0, nan_ok=True)
    assert accumulated(tmp_path).Tags()["scalars"] == []


def test_decisions_are_text_and_those_of_one_step_stand_together(tmp_path: Path) -> None:
    events = stamped(
        [
            ParameterChanged(name="lr", group=0, old=0.1, new=0.05, author="plateau", step=3),
            SubscriberFailed(subscriber="x", error="ValueError: no", action="detach", step=3),
            StopRequested(reason="enough", author="me", step=4),
        ]
    )
    logger = TensorBoardLogger(tmp_path / "a")
    observe(logger, events[:1], events[1:])
    got = texts(tmp_path / "a", "hub/decisions")
    lr, failed, stop = "* lr 0.1 -> 0.05 at step 3 by plateau", "* **x failed at step 3", "* stop requested at step 4"
    assert (got[0][0], got[0][1]) == (3, lr)
    assert (got[1][0], got[1][1].split("\n")[0], got[1][1].split("\n")[1].startswith(failed)) == (3, lr, True)
    assert (got[2][0], got[2][1].startswith(stop)) == (4, True)
    assert PluginAccumulator(str(tmp_path / "a")).Reload().PluginTagToContent("text").keys() == {"hub/decisions"}
    observe(TensorBoardLogger(tmp_path / "b", decisions=False), events)
    assert accumulated(tmp_path / "b").Tags()["tensors"] == []


def test_settings_are_text_of_a_bounded_length(tmp_path: Path) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    events = stamped(
        [
            InfoUpdated(key="cfg", value="model = 'small'\nlr = 0.1", step=0),
            InfoUpdated(key="hparams", value={"lr": math.inf, 3: [Odd(), np.arange(3), {"deep": "x" * 100_000}]}),
            InfoUpdated(key="other", value="not asked for", step=0),
        ]
    )
    observe(TensorBoardLogger(tmp_path), events)
    assert accumulated(tmp_path).Tags()["tensors"] == ["hub/cfg", "hub/hparams"]
    assert texts(tmp_path, "hub/cfg") == [(0, "    model = 'small'\n    lr = 0.1")]
    ((step, text),) = texts(tmp_path, "hub/hparams")
    assert step == 0
    assert '"lr": "Infinity"' in text
    assert "<Odd that cannot be shown: RuntimeError>" in text
    assert len(text) < 70_000


def test_every_kind_of_event_is_taken_and_every_scalar_is_there(tmp_path: Path, backend: str) -> None:
    logger = TensorBoardLogger(tmp_path, backend=backend)  # type: ignore[arg-type]
    logger.keys = ("**",)
    events = every_kind_of_event()
    observe(logger, events)
    assert sum(map(len, read(tmp_path).values())) == sum(isinstance(event, ScalarUpdated) for event in events)


def test_updates_are_gathered_if_that_is_asked_for(tmp_path: Path) -> None:
    events = stamped(scalars(*((step, "loss", float(step)) for step in range(1, 13))))
    observe(TensorBoardLogger(tmp_path, every=5, aggregate="mean"), events)
    points = [(step, value) for step, _, value in read(tmp_path)["loss"]]
    assert points[-1] == (12, 11.5)
    assert sum(value for _, value in points[:-1]) / len(points[:-1]) > 0
    assert len(points) == 3


# --- arguments


@pytest.mark.parametrize(
    "options",
    [
        {"log_dir": ""},
        {"log_dir": b"bytes"},
        {"purge_step": "always"},
        {"purge_step": 1.5},
        {"purge_step": True},
        {"backend": "torch"},
        {"double_precision": 1},
        {"decisions": None},
        {"config": "cfg"},
        {"config": ("cfg/*",)},
        {"interval": -1},
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        TensorBoardLogger(**{"log_dir": "run", **options})


def test_a_missing_package_is_named_when_the_logger_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = r"install it with: pip install 'asynchub\[tensorboard\]' or pip install 'asynchub\[tensorboardx\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        TensorBoardLogger("run")


def test_the_module_loads_neither_torch_nor_tensorboard() -> None:
    program = (
        "import sys, asynchub.subscribers.tensorboard;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'tensorboard', 'tensorboardX')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
