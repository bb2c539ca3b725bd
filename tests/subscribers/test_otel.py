"""OTelMetrics: what the SDK's in-memory reader collects is what was published last."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk.metrics")
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from asynchub.errors import ArgumentError, PatternError
from asynchub.events import ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.specimens import every_kind_of_event
from asynchub.subscribers.otel import OTelMetrics
from tests.subscribers.observing import observe, scalars, stamped

EVERYTHING = every_kind_of_event()
ROOT = Path(__file__).parents[2]


class Metrics:
    """A provider of its own, and what it would export."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meter = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False).get_meter("test")

    def collected(self) -> dict[tuple[str, str | None], Any]:
        """Return the points by name and key."""
        data = self._reader.get_metrics_data()
        points = {}
        for metric in [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                at = (metric.name, point.attributes.get("asynchub.key"))
                assert at not in points, f"{at} comes twice"
                points[at] = point
                self.units = {**getattr(self, "units", {}), metric.name: metric.unit}
        return points

    def values(self) -> dict[tuple[str, str | None], float]:
        return {at: point.value for at, point in self.collected().items() if hasattr(point, "value")}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_newest_value_of_every_key_is_what_is_collected(backend: str) -> None:
    metrics = Metrics()
    events = stamped(
        [
            *scalars((1, "train/loss", 1.0), (2, "train/loss", 0.25), (2, "val/acc", 0.5), (2, "data/wait_s", 0.01)),
            ScalarUpdated(key="train/correct", value=48, count=64, step=3),
        ]
    )
    observe(OTelMetrics(metrics.meter), events, backend=backend)
    values = metrics.values()
    assert values["train.loss", "train/loss"] == 0.25
    assert values["train.val.acc", "val/acc"] == 0.5
    assert values["train.correct", "train/correct"] == 0.75
    assert values["train.updates", "train/loss"] == 2
    assert values["train.finite", "train/loss"] == 1
    assert (values["train.step", None], values["train.hub.lag", None], values["train.hub.dropped", None]) == (3, 0, 0)
    assert metrics.units["train.data.wait_s"] == "s"
    assert metrics.units["train.loss"] == "1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_said_to_be_so(value: float, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    subscriber = OTelMetrics(metrics.meter, histograms=("**",))
    observe(subscriber, stamped(scalars((1, "loss", 1.0), (2, "loss", value), (3, "loss", value))))
    points = metrics.collected()
    assert points["train.loss", "loss"].value == 1.0
    assert points["train.finite", "loss"].value == 0
    assert points["train.non_finite", "loss"].value == 2
    assert points["train.loss.distribution", "loss"].sum == 1.0
    assert points["train.left_out", "loss"].value == 2
    observe(subscriber, stamped(scalars((4, "loss", 0.5))))
    assert metrics.values()["train.finite", "loss"] == 1
    assert not caplog.records  # OpenTelemetry says so, through logging, when it is given one


def test_a_histogram_has_every_update_of_the_keys_it_was_asked_for() -> None:
    metrics = Metrics()
    events = stamped(scalars(*((step, key, float(step)) for step in range(1, 101) for key in ("data/wait_s", "loss"))))
    observe(OTelMetrics(metrics.meter, histograms=("data/*",)), events)
    points = metrics.collected()
    point = points["train.data.wait_s.distribution", "data/wait_s"]
    assert (point.count, point.sum, point.min, point.max) == (100, 5050.0, 1.0, 100.0)
    assert ("train.loss.distribution", "loss") not in points


def test_attributes_tell_two_runs_of_one_meter_apart(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    for run, value in (("a", 1.0), ("b", 2.0)):
        observe(OTelMetrics(metrics.meter, attributes={"run": run}), stamped(scalars((1, "loss", value))))
    data = metrics._reader.get_metrics_data()
    assert data is not None
    found = {
        point.attributes["run"]: point.value
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "train.loss"
        for point in metric.data.data_points
        if point.attributes is not None
    }
    assert found == {"a": 1.0, "b": 2.0}
    assert not caplog.records


def test_keys_of_one_name_are_told_apart_by_their_attribute(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    keys = ["train/loss", "loss", "train.loss", "LOSS"]
    observe(OTelMetrics(metrics.meter), stamped(scalars(*((1, key, index) for index, key in enumerate(keys)))))
    values = metrics.values()
    found = [
        number for key in keys for (name, of), number in values.items() if (name.lower(), of) == ("train.loss", key)
    ]
    assert found == [0, 1, 2, 3]
    assert not caplog.records


def test_a_key_cannot_pass_for_one_of_the_metrics_that_are_always_there() -> None:
    metrics = Metrics()
    keys = ("step", "train/updates", "hub/lag", "Finite")
    observe(OTelMetrics(metrics.meter), stamped(scalars(*((5, key, 0.5) for key in keys))))
    values = metrics.values()
    assert (values["train.step", None], values["train.step.value", "step"]) == (5, 0.5)
    assert (values["train.updates", "train/updates"], values["train.updates.value", "train/updates"]) == (1, 0.5)


@pytest.mark.parametrize("prefix", ["train.", ""])
def test_every_kind_of_key_becomes_a_name_that_opentelemetry_takes(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    events = stamped([*EVERYTHING, *scalars((1, "9/lives", 9.0), (1, "x" * 400, 1.0))])
    observe(OTelMetrics(metrics.meter, prefix=prefix, histograms=("**",)), events)
    values = metrics.values()
    newest = {
        event.key: event.value / event.count for event in events if isinstance(event, ScalarUpdated) and event.count
    }
    for key, value in newest.items():
        own = ("finite", "updates", "non_finite", "left_out")
        found = [number for (name, of), number in values.items() if of == key and name.removeprefix(prefix) not in own]
        assert found == [value], key
    assert not caplog.records


async def test_it_lives_on_a_hub_on_every_loop() -> None:
    metrics = Metrics()
    hub = MessageHub("otel")
    hub.attach(OTelMetrics(metrics.meter), on_error="raise")
    for _ in range(2):
        async with hub:
            for hub.step in range(1, 11):
                hub.update_scalar("loss", 1 / hub.step)
            await hub.flushed(timeout=20)
            assert metrics.values()["train.loss", "loss"] == 0.1
    assert metrics.values()["train.updates", "loss"] == 20


async def test_what_was_lost_is_counted() -> None:
    metrics = Metrics()
    hub = MessageHub("lossy")
    hub.attach(OTelMetrics(metrics.meter), overflow="drop_oldest", max_lag=10, on_error="raise")
    for step in range(100):
        hub.update_scalar("loss", step, step=step)
    async with hub:
        await hub.flushed(timeout=20)
    assert metrics.values()["train.hub.dropped", None] == 90


def test_without_a_meter_it_uses_the_programs_provider_and_sets_none() -> None:
    code = """
import opentelemetry.metrics as api
from asynchub.subscribers.otel import OTelMetrics
from asynchub import MessageHub
def train():
    hub = MessageHub("x")
    hub.attach(OTelMetrics(), on_error="raise")
    with hub:
        hub.update_scalar("loss", 0.5, step=1)
train()
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
api.set_meter_provider(MeterProvider(metric_readers=[reader]))  # would warn if there were one
train()
print(sorted(metric.name for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert "'train.loss'" in done.stdout


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"meter": object()}, ArgumentError),
        ({"prefix": "9."}, ArgumentError),
        ({"prefix": None}, ArgumentError),
        ({"histograms": "val/*"}, ArgumentError),
        ({"histograms": ("a//b",)}, PatternError),
        ({"attributes": ["run"]}, ArgumentError),
        ({"attributes": {"asynchub.key": "x"}}, ArgumentError),
        ({"attributes": {"run": [1]}}, ArgumentError),
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        OTelMetrics(**options)
