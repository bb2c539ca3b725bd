"""What the hub itself costs: how far its readers are behind, what they lost, and how much time they take.

Own time: a look at ``hub.statistics()`` at once and then every ``interval`` seconds; nothing is measured in the
    training thread, and no event is read.
Itself: it leaves its own subscription out, and reads none of what it publishes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.events import Event, StateLoaded
from asynchub.feed import HubStatistics
from asynchub.subscribers.checks import check_number
from asynchub.subscribers.monitoring import Alarm, sample_every
from asynchub.subscription import Subscription

__all__ = ("HubMonitor", "Overhead")

logger = logging.getLogger("asynchub")
_UNFIT = re.compile(r"[^\w.#-]+")


class HubMonitor:
    """Publish how a hub and its subscribers are doing; warn when settle points take much of the run's time.

    ============================  ======================================================================
    key                           is
    ============================  ======================================================================
    ``hub/lag/<name>``            events that a subscriber has not been handed yet
    ``hub/dropped/<name>``        events that it lost so far
    ``hub/busy/<name>``           the share of the interval in which it was handling events
    ``hub/overhead``              the share that settle points took of the training loop's time
    ``hub/settle_s``              the mean time of a settle point, in seconds
    ``hub/held``                  events that wait for a value from a device, their own or one before them
    ``hub/under_way/<device>``    values that have not come from a device yet, of all hubs
    ``hub/stalls/<device>``       how often publishing had to wait for a device so far, of all hubs
    ``hub/events_per_sec``        events published a second
    ============================  ======================================================================

    A subscriber is busy from being handed an event to asking for the next, so what it awaits meanwhile counts, and a
    long handling counts when it ends. Observers that wait for a disk are busy without holding anybody up; control
    subscribers run in the training loop's thread, inside of settle points, and all that they take is taken from it.
    What a settle point takes is the rules, what applies requests, waiting for values from a device, and what the hub
    does around them.

    Args:
        hub: the hub; usually the one it is attached to.
        interval: seconds from one look to the next; above 0.
        warn_overhead: warn, through ``logging``, when ``hub/overhead`` is above this; once, and again when it was below
            four fifths of it meanwhile. None for never.
        clock: the time that shares are of, in seconds.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    role = "observer"
    keys: tuple[str | type[Event], ...] = (StateLoaded,)  # it goes by time; something has to be named

    def __init__(
        self,
        hub: Any,
        interval: float = 10.0,
        *,
        warn_overhead: float | None = 0.05,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not callable(getattr(hub, "statistics", None)):
            raise ArgumentError(f"hub must be a MessageHub, got {hub!r:.80}")
        if not check_number("interval", interval, 0):
            raise ArgumentError(f"interval must be above 0 s, got {interval!r}")
        if warn_overhead is not None and not check_number("warn_overhead", warn_overhead, 0):
            raise ArgumentError("warn_overhead must be a share above 0, or None for no warning, got 0")
        self._hub = hub
        self._interval = float(interval)
        self._alarm = Alarm(warn_overhead)
        self._clock = clock

    async def __call__(self, events: Subscription) -> None:
        overhead = Overhead()

        async def sample() -> None:
            statistics, now = self._hub.statistics(), self._clock()
            values = overhead.look(statistics, now, leave_out=events.name)
            for key, value in values.items():
                events.update_scalar(key, value)
            share = values.get("hub/overhead")
            if share is not None and self._alarm(share):
                logger.warning(
                    "settle points took %.0f %% of the last %.3g s, above %.3g %%%s; settle less often, or make "
                    "observers of rules that decide nothing",
                    100 * share,
                    overhead.seconds,
                    100 * (self._alarm.limit or 0.0),
                    "".join(f", {name} {100 * busy:.0f} %" for name, busy in overhead.busiest()),
                )

        await sample_every(self._interval, events, sample)


class Overhead:
    """What has changed from one look at a hub to the next.

    Attributes:
        seconds: from the last look but one to the last; 0 before the second.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._time: float | None = None
        self._seq = 0
        self._settled = 0, 0.0  # settle points, and seconds that they took
        self._busy: dict[str, float] = {}
        self._shares: dict[str, float] = {}  # of control subscribers

    def look(self, statistics: HubStatistics, now: float, leave_out: str = "") -> dict[str, float]:
        """Return key and value of what is to be published; shares and rates from the second look on.

        Args:
            statistics: of the hub, now.
            now: the time, in seconds.
            leave_out: name of the subscription that is not looked at.
        """
        self.seconds, before = (0.0 if self._time is None else now - self._time), self._busy
        values: dict[str, float] = {"hub/held": statistics.held}
        busy: dict[str, float] = {}
        for one in statistics.subscriptions:
            if one.name != leave_out:
                name = _UNFIT.sub("_", one.name)
                busy[one.name] = busy.get(one.name, 0.0) + one.busy_seconds
                for kind, count in (("lag", one.lag), ("dropped", one.dropped)):
                    key = f"hub/{kind}/{name}"
                    values[key] = values.get(key, 0) + count
        for device in statistics.devices:
            name = _UNFIT.sub("_", device.device)
            values[f"hub/under_way/{name}"] = device.taken - device.landed
            values[f"hub/stalls/{name}"] = device.stalls
        if self.seconds > 0:
            values["hub/events_per_sec"] = max(statistics.seq - self._seq, 0) / self.seconds
            shares = {name: _gone(total, before.get(name, 0.0)) / self.seconds for name, total in busy.items()}
            for name, share in shares.items():
                key = f"hub/busy/{_UNFIT.sub('_', name)}"
                values[key] = values.get(key, 0.0) + share
            controls = [one.name for one in statistics.subscriptions if one.role == "control"]
            self._shares = {name: shares[name] for name in controls if name in shares}
            points, settling = (
                statistics.settled_count - self._settled[0],
                statistics.settled_seconds - self._settled[1],
            )
            values["hub/overhead"] = settling / self.seconds
            if points:
                values["hub/settle_s"] = settling / points
        self._time, self._seq, self._busy = now, statistics.seq, busy
        self._settled = statistics.settled_count, statistics.settled_seconds
        return values

    def busiest(self) -> list[tuple[str, float]]:
        """Return the three control subscribers that took most, with their shares."""
        return sorted(self._shares.items(), key=lambda one: -one[1])[:3]


def _gone(now: float, before: float) -> float:
    """Return what was added to a sum since; one that is smaller now has begun anew, as after a resume."""
    return now - before if now >= before else now
