"""PrometheusExporter: what is scraped is what was published last."""

from __future__ import annotations

import math
import socket
import urllib.error
import urllib.request
from typing import Any

import anyio
import pytest

pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from asynchub.errors import ArgumentError
from asynchub.events import ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.specimens import every_kind_of_event
from asynchub.subscribers.prometheus import PrometheusExporter
from tests.subscribers.observing import START, observe, observed, scalars, stamped

EVERYTHING = every_kind_of_event()
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Return what Prometheus' own parser reads, each series once."""
    read: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            at = (sample.name, tuple(sorted(sample.labels.items())))
            assert at not in read, f"{at} comes twice"
            read[at] = sample.value
    return read


def exported(exporter: PrometheusExporter) -> Samples:
    return samples(generate_latest(exporter.registry).decode())


def of(read: Samples, name: str, key: str | None = None, **labels: str) -> float:
    return read[name, tuple(sorted((labels if key is None else {"key": key, **labels}).items()))]


def scraped(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return samples(answer.read().decode())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_newest_value_of_every_key_is_what_prometheus_reads(backend: str) -> None:
    exporter = PrometheusExporter()
    events = stamped(
        [
            *scalars((1, "train/loss", 1.0), (2, "train/loss", 0.25), (2, "val/acc", 0.5)),
            ScalarUpdated(key="train/correct", value=48, count=64, step=3),
        ]
    )
    observe(exporter, events, backend=backend)
    read = exported(exporter)
    assert of(read, "train_loss", "train/loss") == 0.25
    assert of(read, "train_val_acc", "val/acc") == 0.5
    assert of(read, "train_correct", "train/correct") == 0.75
    assert of(read, "train_updates_total", "train/loss") == 2
    assert of(read, "train_last_step", "train/loss") == 2
    assert of(read, "train_last_update_timestamp_seconds", "train/loss") == START + 0.5
    assert of(read, "train_step") == 3
    assert of(read, "train_hub_lag_events") == 0
    assert of(read, "train_hub_dropped_events_total") == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_exported_as_they_are(value: float) -> None:
    exporter = PrometheusExporter()
    observe(exporter, stamped(scalars((1, "loss", 1.0), (2, "loss", value))))
    assert of(exported(exporter), "train_loss", "loss") == pytest.approx(value, nan_ok=True)


def test_an_update_over_no_samples_counts_and_leaves_the_value() -> None:
    exporter = PrometheusExporter()
    empty = ScalarUpdated(key="acc", value=0.0, count=0, step=2)
    observe(exporter, stamped([*scalars((1, "acc", 0.5)), empty, ScalarUpdated(key="other", value=0, count=0)]))
    read = exported(exporter)
    assert of(read, "train_acc", "acc") == 0.5
    assert of(read, "train_updates_total", "acc") == 2
    assert "train_other" not in {name for name, _ in read}


def test_keys_of_one_name_are_told_apart_by_their_label() -> None:
    exporter = PrometheusExporter(labels={"run": "a"})
    keys = ["train/loss", "loss", "train_loss", "train.loss"]
    observe(exporter, stamped(scalars(*((1, key, index) for index, key in enumerate(keys)))))
    read = exported(exporter)
    assert [of(read, "train_loss", key, run="a") for key in keys] == [0, 1, 2, 3]


def test_a_key_cannot_pass_for_one_of_the_metrics_that_are_always_there() -> None:
    exporter = PrometheusExporter()
    keys = ["step", "train/updates", "updates_total", "updates_created", "hub/lag_events", "last_step"]
    observe(exporter, stamped(scalars(*((5, key, 0.5) for key in keys))))
    read = exported(exporter)
    assert of(read, "train_step") == 5
    assert of(read, "train_step_value", "step") == 0.5
    assert of(read, "train_updates_total_value", "updates_total") == 0.5


def test_every_kind_of_key_and_value_is_read_by_both_parsers() -> None:
    exporter = PrometheusExporter(prefix="", labels={"run": 'a"\n\\'})
    observe(exporter, [*EVERYTHING, *stamped(scalars((1, "9/lives", 9.0), (1, "x_total", 2.0), (1, "x", 1.0)))])
    newest = {
        event.key: event.value / event.count
        for event in EVERYTHING
        if isinstance(event, ScalarUpdated) and event.count and event.value < 2**70
    }
    read = exported(exporter)
    for key, value in newest.items():
        if key != "val/loss":
            found = [number for (name, labels), number in read.items() if dict(labels).get("key") == key]
            assert value in found, key
    again = {
        (sample.name, sample.labels.get("key")): sample.value
        for family in openmetrics_families(openmetrics(exporter.registry).decode())
        for sample in family.samples
    }
    assert len(again) == len(read)
    assert again["_9_lives", "9/lives"] == 9.0


def test_a_program_scrapes_its_live_run_over_http_and_the_endpoint_ends_with_the_hub() -> None:
    exporter = PrometheusExporter(0)
    hub = MessageHub("scraped")
    hub.attach(exporter, on_error="raise")
    assert exporter.url is None
    for life in range(2):
        with hub:
            for hub.step in range(1, 11):
                hub.update_scalars({"train/loss": 1 / hub.step + life, "val/acc": hub.step / 10})
            hub.flush(timeout=20)
            url = exporter.url
            assert url is not None
            assert url.startswith("http://127.0.0.1:")
            read = scraped(url)
            assert of(read, "train_loss", "train/loss") == 1 / 10 + life
            assert of(read, "train_updates_total", "val/acc") == 10 * (life + 1)
        assert exporter.url is None
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=10)
    assert of(exported(exporter), "train_loss", "train/loss") == 1.1  # for a last push


async def test_a_scrape_is_answered_while_observers_run_on_the_programs_own_loop() -> None:
    exporter = PrometheusExporter(0)
    hub = MessageHub("own loop")
    hub.attach(exporter, on_error="raise")
    async with hub:
        hub.update_scalar("loss", 0.5, step=1)
        await hub.flushed(timeout=20)
        assert exporter.url is not None
        read = await anyio.to_thread.run_sync(scraped, exporter.url)
    assert of(read, "train_loss", "loss") == 0.5


async def test_a_cancelled_exporter_closes_its_endpoint() -> None:
    exporter, urls = PrometheusExporter(0), []
    with anyio.CancelScope() as scope:
        await observed(
            exporter, stamped(scalars((1, "a", 1.0))), then=lambda: (urls.append(exporter.url), scope.cancel())
        )
    assert exporter.url is None
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(urls[0].split(":")[2].split("/")[0])))


def test_a_port_that_is_taken_fails_the_exporter_alone_and_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        hub = MessageHub("taken")
        attachment = hub.attach(PrometheusExporter(port))
        with hub:
            hub.update_scalar("loss", 1.0)
        assert isinstance(attachment.error, OSError)
        assert f"no metrics on 127.0.0.1:{port}: Address already in use; choose another port" in str(attachment.error)


def test_what_a_slow_exporter_lost_is_counted() -> None:
    exporter = PrometheusExporter()
    hub = MessageHub("lossy", latency=60)
    hub.attach(exporter, overflow="drop_oldest", max_lag=10, on_error="raise")
    for step in range(100):
        hub.update_scalar("loss", step, step=step)
    with hub:
        hub.flush(timeout=20)
        read = exported(exporter)
    assert of(read, "train_hub_dropped_events_total") == 90
    assert of(read, "train_updates_total", "loss") == 10


def test_one_registry_holds_metrics_of_the_program_and_of_two_runs() -> None:
    registry = CollectorRegistry()
    Gauge("program_info", "of the program itself", registry=registry).set(1)
    first = PrometheusExporter(registry=registry, prefix="d_")
    second = PrometheusExporter(registry=registry, prefix="g_")
    observe(first, stamped(scalars((1, "loss", 1.0))))
    observe(second, stamped(scalars((1, "loss", 2.0))))
    read = samples(generate_latest(registry).decode())
    assert (of(read, "program_info"), of(read, "d_loss", "loss"), of(read, "g_loss", "loss")) == (1, 1, 2)
    before = generate_latest(registry)
    with pytest.raises(ArgumentError, match="a prefix or a registry of its own"):
        PrometheusExporter(registry=registry, prefix="g_")
    assert generate_latest(registry) == before


@pytest.mark.parametrize(
    "options",
    [
        {"port": -1},
        {"port": 65536},
        {"port": True},
        {"port": "9100"},
        {"prefix": "9"},
        {"prefix": "a-b"},
        {"prefix": None},
        {"addr": ""},
        {"registry": object()},
        {"labels": ["run"]},
        {"labels": {"key": "x"}},
        {"labels": {"__x": "x"}},
        {"labels": {"a-b": "x"}},
        {"labels": {"run": 3}},
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        PrometheusExporter(**options)
