"""A run as Prometheus metrics, scraped over HTTP or from a registry of the program's own.

    train_loss{key="train/loss"} 0.4312              the newest value, as the mean per sample
    train_updates_total{key="train/loss"} 1200       how many updates there were
    train_last_step{key="train/loss"} 1200           the step of the newest
    train_step 1200                                  the furthest step of all

Names: what a name may not hold becomes ``_``, and a prefix that the key has already is not repeated. Two keys of one
    name do not collide: each series has its exact key as the label ``key``.
Cost: an update is two look-ups; text is made when somebody asks for it, in the thread of the one who asks.
Not finite: NaN and infinities are values like any other, written ``NaN``, ``+Inf`` and ``-Inf``.
Ends: the endpoint is closed when the hub is left; the values stay readable in ``registry``, for a last push.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from asynchub.errors import ArgumentError
from asynchub.events import ScalarUpdated
from asynchub.subscribers.checks import mean_of
from asynchub.subscription import Subscription

try:
    from prometheus_client import CollectorRegistry, MetricsHandler
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}; install it with: pip install 'asynchub[prometheus]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client.core import Metric

__all__ = ("PrometheusExporter",)

KEY = "key"
"""The label that has the exact key of a series."""
POLL = 0.05
"""Seconds that leaving the hub may wait for the endpoint to close."""

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_:]")
_PREFIX = re.compile(r"(?:[a-zA-Z_:][a-zA-Z0-9_:]*)?")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_HELP = "newest value of the scalar that the label 'key' names, as the mean per sample"
_OWN = {
    "updates": "updates of a key",
    "last_step": "step of the newest update of a key",
    "last_update_timestamp_seconds": "when the newest update of a key was published, in seconds since the epoch",
    "step": "the furthest step that an update belongs to",
    "hub_lag_events": "events that are published and not yet in these metrics",
    "hub_dropped_events": "events that these metrics have lost, because they fell behind",
}
_COUNTERS = ("updates", "hub_dropped_events")


@dataclass(slots=True)
class _Series:
    """What is known of one key; ``value`` is None as long as no update had samples."""

    name: str
    value: float | None = None
    step: int | None = None
    time: float = 0.0
    updates: int = 0


class PrometheusExporter:
    """Export the newest value of every scalar as a Prometheus gauge.

    Args:
        port: TCP port to answer scrapes on, at any path, while the hub is lived in; 0 for one that is free. None: no
            endpoint, for a program that serves or pushes ``registry`` itself.
        registry: where the metrics are to be found; one of its own by default, so that two runs do not collide. A
            registry takes two exporters if their prefixes differ.
        prefix: what every name begins with.
        labels: labels, and their values, that every series gets: the run's name, say.
        addr: address to listen on; the loopback interface by default, because the metrics of a run are nobody else's
            business until its owner says so. ``"0.0.0.0"`` is every interface.

    Attributes:
        registry: as given, or its own.
        url: where it answers; None while it does not.

    Raises:
        ArgumentError: an argument is malformed, or ``registry`` has metrics of these names.
    """

    keys = (ScalarUpdated,)
    role = "observer"

    def __init__(
        self,
        port: int | None = None,
        *,
        registry: CollectorRegistry | None = None,
        prefix: str = "train_",
        labels: Mapping[str, str] | None = None,
        addr: str = "127.0.0.1",
    ) -> None:
        if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65536):
            raise ArgumentError(f"port must be None or a TCP port from 0 (any that is free) to 65535, got {port!r}")
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ArgumentError(f"prefix must be letters, digits and '_', not a digit first, got {prefix!r}")
        if not isinstance(addr, str) or not addr:
            raise ArgumentError(f"addr must be an address such as '127.0.0.1' or '0.0.0.0', got {addr!r}")
        if registry is not None and not isinstance(registry, CollectorRegistry):
            raise ArgumentError(f"registry must be a prometheus_client.CollectorRegistry, got {registry!r:.80}")
        self._labels = _checked_labels({} if labels is None else labels)
        self._port = port
        self._addr = addr
        self._prefix = prefix
        self._series: dict[str, _Series] = {}
        self._step: int | None = None
        self._events: Subscription | None = None
        self.url: str | None = None
        self.registry = CollectorRegistry() if registry is None else registry
        try:
            self.registry.register(self)
        except ValueError as error:
            raise ArgumentError(
                f"the registry has metrics that begin with {prefix!r} already: give each exporter a prefix or a "
                f"registry of its own ({error})"
            ) from error

    async def __call__(self, events: Subscription) -> None:
        self._events = events
        async with self._endpoint():
            async for batch in events.batches():
                for event in batch:
                    if isinstance(event, ScalarUpdated):
                        self._take(event)

    def _take(self, event: ScalarUpdated) -> None:
        series = self._series.get(event.key)
        if series is None:
            series = self._series[event.key] = _Series(self._name(event.key))
        value = mean_of(event)
        if value is not None:
            series.value = value
        series.step, series.time = event.step, event.time
        series.updates += 1
        if event.step is not None and (self._step is None or event.step > self._step):
            self._step = event.step

    def _name(self, key: str) -> str:
        name = _FORBIDDEN.sub("_", key)
        if not name.startswith(self._prefix):
            name = self._prefix + name
        if name[0].isdigit():
            name = f"_{name}"
        own = name.removeprefix(self._prefix)
        return f"{name}_value" if own.removesuffix("_total").removesuffix("_created") in _OWN else name

    # --- what the registry asks for, in any thread

    def describe(self) -> Iterable[Metric]:
        """Return the metrics that are there whatever the keys: a registry refuses another exporter by these."""
        return self._own_families(()).values()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now; called by the registry for each scrape."""
        taken = list(self._series.copy().items())
        own = self._own_families(self._labels)
        gauges: dict[str, GaugeMetricFamily] = {}
        names = (KEY, *self._labels)
        for key, series in taken:
            labels = (key, *self._labels.values())
            if series.value is not None:
                if series.name not in gauges:
                    gauges[series.name] = GaugeMetricFamily(series.name, _HELP, labels=names)
                gauges[series.name].add_metric(labels, series.value)
            own["updates"].add_metric(labels, series.updates)
            own["last_update_timestamp_seconds"].add_metric(labels, series.time)
            if series.step is not None:
                own["last_step"].add_metric(labels, series.step)
        everywhere = tuple(self._labels.values())
        if self._step is not None:
            own["step"].add_metric(everywhere, self._step)
        if self._events is not None:
            statistics = self._events.statistics()
            own["hub_lag_events"].add_metric(everywhere, statistics.lag)
            own["hub_dropped_events"].add_metric(everywhere, statistics.dropped)
        return [*gauges.values(), *own.values()]

    def _own_families(self, labels: Iterable[str]) -> dict[str, Any]:
        families: dict[str, Any] = {}
        for name, text in _OWN.items():
            family: Callable[..., Any] = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
            per_key = name in ("updates", "last_step", "last_update_timestamp_seconds")
            families[name] = family(self._prefix + name, text, labels=([KEY, *labels] if per_key else [*labels]))
        return families

    # --- the endpoint

    @asynccontextmanager
    async def _endpoint(self) -> AsyncIterator[None]:
        if self._port is None:
            yield
            return
        server = await anyio.to_thread.run_sync(self._listen)
        thread = threading.Thread(target=server.serve_forever, args=(POLL,), name="asynchub scrapes", daemon=True)
        thread.start()

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        try:
            host = f"[{self._addr}]" if ":" in self._addr else self._addr
            self.url = f"http://{host}:{server.server_port}/metrics"
            yield
        finally:
            self.url = None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(end)

    def _listen(self) -> _Server:
        try:
            return _Server((self._addr, self._port or 0), MetricsHandler.factory(self.registry))
        except OSError as error:
            raise OSError(
                error.errno,
                f"no metrics on {self._addr}:{self._port}: {error.strerror or error}; choose another port, or port=0 "
                "for one that is free",
            ) from error


class _Server(ThreadingHTTPServer):
    """Answers each scrape in a thread of its own; none of them keeps the program alive."""

    def __init__(self, address: tuple[str, int], handler: type[MetricsHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)


def _checked_labels(labels: object) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise ArgumentError(f"labels must be a dict of names and values, got {type(labels).__name__}")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name == KEY:
            raise ArgumentError(
                f"a label must be letters, digits and '_', not a digit or '__' first, nor {KEY!r}, got {name!r}"
            )
        if not isinstance(value, str):
            raise ArgumentError(f"the label {name} must have a str, got {value!r}; write {name}={str(value)!r}")
    return dict(labels)
