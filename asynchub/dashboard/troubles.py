"""What went wrong in a run, and whether it is over again.

One subject, one trouble: a tracker, a subscriber, a pipeline; the newest says how it is, and all are counted.
Threads: one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from asynchub.bridging import (
    BridgeDegraded,
    BridgeRestored,
    ClocksApart,
    FrameRefused,
    ReductionDegraded,
    ReductionRestored,
)
from asynchub.dashboard.marks import shown
from asynchub.dashboard.screen import Level
from asynchub.dataflow import PipelineRecovered, PipelineStalled
from asynchub.events import (
    Event,
    EventsDropped,
    JournalDegraded,
    JournalRestored,
    SaveFailed,
    ScalarLost,
    StateDamaged,
    StateSaved,
    SubscriberFailed,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.requests import RequestRefused
from asynchub.subscribers.display import described

__all__ = ("Trouble", "Troubles")

PASSING = ("refused", "frame ", "lost ", "subscriber ", "dropped", "unreadable")
"""Subjects that are never said to be well again."""
LONG_AGO = 600.0
"""Seconds after which they are."""
MOST = 1_000
"""Subjects that are kept."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with one subject.

    Attributes:
        text: in words.
        level: how much it asks for attention: ``"quiet"`` when it is over.
        count: how often it was said.
        step: of the newest time; None if it has none.
        time: when that was, in seconds since the epoch.
    """

    text: str
    level: Level
    count: int = 1
    step: int | None = None
    time: float = float("nan")


class Troubles:
    """The troubles of a run, by subject, the newest last."""

    def __init__(self) -> None:
        self._known: dict[str, Trouble] = {}

    def known(self, now: float | None = None) -> list[Trouble]:
        """Return them, the newest first.

        Args:
            now: when the newest event was published: what comes and goes, and was long ago by then, is quiet; None for
                all as they were said.
        """
        found = []
        for subject, one in reversed(self._known.items()):
            passing = subject.startswith(PASSING) and one.level == "warn"
            is_old = passing and now is not None and now - one.time > LONG_AGO
            found.append(replace(one, level="quiet") if is_old else one)
        return found

    def of(self, subject: str) -> Trouble | None:
        """Return the trouble of one subject; None if there was none."""
        return self._known.get(subject)

    def unreadable(self, error: str) -> None:
        """Say that an event could not be read."""
        self._say("unreadable", f"an event cannot be read: {error}", "warn", None)

    def take(self, event: Event) -> None:
        """Take account of one event."""
        text, at = described(event) or "", "" if event.step is None else f" at step {event.step:,}"
        match event:
            case SubscriberFailed():
                self._say(f"subscriber {event.subscriber}", text, "warn" if event.action == "restart" else "bad", event)
            case RequestRefused():
                self._say("refused", text, "warn", event)
            case TrackerDegraded():
                self._say(f"tracker {event.tracker}", text, "warn", event)
            case TrackerRestored():
                self._over(f"tracker {event.tracker}", text, event, event.missed)
            case PipelineStalled():
                self._say(f"pipeline {event.pipeline}", text, "bad", event)
            case PipelineRecovered():
                self._over(f"pipeline {event.pipeline}", text, event)
            case BridgeDegraded():
                self._say(f"bridge {event.bridge}", text, "warn", event)
            case BridgeRestored():
                self._over(f"bridge {event.bridge}", text, event)
            case ReductionDegraded():
                self._say("reduction", text, "warn", event)
            case ReductionRestored():
                self._over("reduction", text, event)
            case JournalDegraded():
                self._say("journal", f"the disk refuses the journal{at}: {event.error} (kept in memory)", "bad", event)
            case JournalRestored():
                lost = f"; {event.missed:,} events are missing in it" if event.missed else ""
                self._over("journal", f"the journal is whole again{at}{lost}", event, event.missed)
            case SaveFailed():
                self._say("save", f"a save to {event.path} failed{at}: {event.error}", "bad", event)
            case StateSaved():
                self._over("save", f"saved again{at}: {event.path}", event)
            case StateDamaged():
                self._say(
                    "state", f"{event.path} is damaged, an older one was loaded{at}: {event.error}", "warn", event
                )
            case ScalarLost():
                self._say(
                    f"lost {event.scalar}", f"a value of {event.scalar} was lost{at}: {event.error}", "warn", event
                )
            case ClocksApart():
                self._say(f"clock {event.rank}", text, "warn", event)
            case FrameRefused():
                self._say(f"frame {event.source}", text, "warn", event)
            case EventsDropped():
                self._say("dropped", f"{event.missed:,} events were dropped{at}", "warn", event)

    def _say(self, subject: str, text: str, level: Level, event: Event | None) -> None:
        was = self._known.pop(subject, None)
        if was is None and len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        count = 1 if was is None else was.count + 1
        step, time = (None, float("nan")) if event is None else (event.step, event.time)
        self._known[subject] = Trouble(shown(text), level, count, step, time)

    def _over(self, subject: str, text: str, event: Event, missed: int = 0) -> None:
        """Say that a trouble is over, if there was one; what was lost by it is lost still."""
        was = self._known.get(subject)
        if was is None or (was.level == "quiet" and not isinstance(event, TrackerRestored)):
            return
        self._known[subject] = Trouble(shown(text), "warn" if missed else "quiet", was.count, event.step, event.time)
