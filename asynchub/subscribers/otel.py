"""A run as OpenTelemetry metrics, through a meter that the program has set up.

    ``train.loss``           gauge, the newest value of ``train/loss``, as the mean per sample
    ``train.updates``        counter of updates
    ``train.non_finite``     counter of updates that were NaN or infinite
    ``train.finite``         gauge, 1 if the newest update was finite, 0 if not
    ``train.step``           gauge, the furthest step of all
    ``train.hub.lag``        gauge, events that are published and not yet in these metrics
    ``train.hub.dropped``    counter of events that these metrics have lost, because they fell behind

Names: ``/`` becomes ``.``, what a name may not hold becomes ``_``, and a prefix that the key has already is not
    repeated. Two keys of one name do not collide: each point has its exact key as the attribute ``asynchub.key``.
Units: seconds (``s``) for keys that end in ``_s`` or ``_seconds``, bytes (``By``) for ``_bytes``, else ``1``.
Not finite: OpenTelemetry's instruments refuse NaN and infinities, so a gauge keeps the newest finite value. That it is
    not the newest is what ``train.finite`` says, and ``train.non_finite`` counts. Histograms also refuse what is below
    0: ``train.left_out`` counts what they did not get.
No provider is set and nothing is exported from here: where metrics go is the program's business.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.events import ScalarUpdated
from asynchub.patterns import matcher
from asynchub.subscribers.checks import mean_of
from asynchub.subscription import Subscription

try:
    from opentelemetry.metrics import Meter, get_meter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[otel]'", name=error.name) from error

__all__ = ("OTelMetrics",)

KEY = "asynchub.key"
"""The attribute that has the exact key of a point."""

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_.\-]")
_PREFIX = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9_.\-]*)?")
_LONGEST = 255 - len(".distribution")
_OWN = {"updates", "non_finite", "left_out", "finite", "step", "hub.lag", "hub.dropped"}
_Value = str | bool | int | float


class OTelMetrics:
    """Record the newest finite value of every scalar in an OpenTelemetry gauge, and whole distributions if asked.

    A gauge is set once for each batch of events, to the newest value in it: an export reads one value anyway.

    Args:
        meter: what makes the instruments; by default that of the program's provider, when the hub is first entered.
        prefix: what every name begins with.
        attributes: attributes that every point gets: the run's name, say.
        histograms: patterns of keys each of whose updates is also recorded in a histogram, ``<name>.distribution``.

    Raises:
        PatternError: a pattern is malformed.
        ArgumentError: another argument is.
    """

    keys = (ScalarUpdated,)
    role = "observer"

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        prefix: str = "train.",
        attributes: Mapping[str, _Value] | None = None,
        histograms: Iterable[str] = (),
    ) -> None:
        if meter is not None and not isinstance(meter, Meter):
            raise ArgumentError(f"meter must be an opentelemetry.metrics.Meter, got {meter!r:.80}")
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ArgumentError(f"prefix must be letters, digits, '_', '.' and '-', a letter first, got {prefix!r}")
        if isinstance(histograms, str):
            raise ArgumentError(f"histograms must be several patterns, got the str {histograms!r}")
        self._has_histogram = matcher(tuple(histograms))
        self._attributes = _checked_attributes({} if attributes is None else attributes)
        self._meter = meter
        self._prefix = prefix
        self._instruments: dict[tuple[str, str], Any] = {}
        self._of_key: dict[str, tuple[Any, Any, dict[str, _Value]]] = {}
        self._step: int | None = None

    async def __call__(self, events: Subscription) -> None:
        meter = self._meter = self._meter or get_meter("asynchub")
        step = self._instrument(meter, "gauge", "step", "1", "the furthest step that an update belongs to")
        lag = self._instrument(meter, "gauge", "hub.lag", "1", "events published and not yet in these metrics")
        text = "events that these metrics have lost, because they fell behind"
        lost = self._instrument(meter, "counter", "hub.dropped", "1", text)
        dropped = 0
        async for batch in events.batches():
            self._take(meter, [event for event in batch if isinstance(event, ScalarUpdated)])
            if self._step is not None:
                step.set(self._step, self._attributes)
            statistics = events.statistics()
            lag.set(statistics.lag, self._attributes)
            lost.add(statistics.dropped - dropped, self._attributes)
            dropped = statistics.dropped

    def _take(self, meter: Meter, batch: list[ScalarUpdated]) -> None:
        newest: dict[str, float] = {}
        finite: dict[str, bool] = {}
        updated: Counter[str] = Counter()
        spoiled: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for event in batch:
            key, value = event.key, mean_of(event)
            updated[key] += 1
            if event.step is not None and (self._step is None or event.step > self._step):
                self._step = event.step
            if value is None:
                continue
            finite[key] = math.isfinite(value)
            if finite[key]:
                newest[key] = value
            else:
                spoiled[key] += 1
            if (histogram := self._of(meter, key)[1]) is not None:
                if finite[key] and value >= 0:
                    histogram.record(value, self._of_key[key][2])
                else:
                    left_out[key] += 1
        for key, value in newest.items():
            self._of(meter, key)[0].set(value, self._of_key[key][2])
        text = "1 if the newest update of a scalar was finite, 0 if not"
        whether = self._instrument(meter, "gauge", "finite", "1", text)
        for key, is_finite in finite.items():
            whether.set(int(is_finite), self._of(meter, key)[2])
        for name, counts, text in (
            ("updates", updated, "updates of a scalar"),
            ("non_finite", spoiled, "updates of a scalar that were NaN or infinite"),
            ("left_out", left_out, "updates of a scalar that a histogram cannot hold: below 0, NaN or infinite"),
        ):
            counter = self._instrument(meter, "counter", name, "1", text)
            for key, number in counts.items():
                counter.add(number, self._of(meter, key)[2])

    def _of(self, meter: Meter, key: str) -> tuple[Any, Any, dict[str, _Value]]:
        """Return the gauge of ``key``, its histogram if it has one, and its attributes."""
        if key not in self._of_key:
            name, unit = self._name(key), _unit(key)
            text = "newest finite value of the scalar that asynchub.key names, as the mean per sample"
            gauge = self._instrument(meter, "gauge", name, unit, text)
            histogram = None
            if self._has_histogram(key):
                text = "all finite values of the scalar that asynchub.key names"
                histogram = self._instrument(meter, "histogram", f"{name}.distribution", unit, text)
            self._of_key[key] = (gauge, histogram, {KEY: key, **self._attributes})
        return self._of_key[key]

    def _instrument(self, meter: Meter, kind: str, name: str, unit: str, text: str) -> Any:
        """Return the instrument of a name, made once: to OpenTelemetry, names that differ in case are the same."""
        at = (kind, name.lower())
        if at not in self._instruments:
            make = getattr(meter, f"create_{kind}")
            self._instruments[at] = make(self._prefix + name, unit=unit, description=text)
        return self._instruments[at]

    def _name(self, key: str) -> str:
        name = _FORBIDDEN.sub("_", key.replace("/", "."))
        name = name.removeprefix(self._prefix)
        if not self._prefix and not name[0].isalpha():
            name = f"key{name}"
        if name.lower() in _OWN:
            name += ".value"
        return name[: _LONGEST - len(self._prefix)]


def _unit(key: str) -> str:
    if key.endswith(("_s", "_seconds")):
        return "s"
    return "By" if key.endswith("_bytes") else "1"


def _checked_attributes(attributes: object) -> dict[str, _Value]:
    if not isinstance(attributes, Mapping):
        raise ArgumentError(f"attributes must be a dict of names and values, got {type(attributes).__name__}")
    for name, value in attributes.items():
        if not isinstance(name, str) or not name or name == KEY:
            raise ArgumentError(f"an attribute must be a non-empty str other than {KEY!r}, got {name!r}")
        if not isinstance(value, str | bool | int | float):
            raise ArgumentError(f"the attribute {name} must be a str, bool, int or float, got {value!r:.80}")
    return dict(attributes)
