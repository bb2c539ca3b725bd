"""What is worth telling of a pipeline beyond its newest report: how its waiting went, and what changed when.

Time: that of the events, so a recorded run is told as it went.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from asynchub.dataflow import PipelineRecovered, PipelineReported, PipelineStalled
from asynchub.events import Event
from asynchub.pipeline.cells import Line, Span, clean, count, duration, known, percent, time_of_day
from asynchub.pipeline.layout import bottleneck_in_words, running_time
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import Verdict

__all__ = ("LEVELS", "Happened", "News", "Waits")

LEVELS = "_.-:=+*#"
"""Letters of a sparkline, from none of the time to all of it; unlike those of bars they may stand for one another."""
SECONDS = 600
"""What a sparkline covers."""
REMEMBERED = 5
"""How many changes are remembered."""
LITTLE, MUCH = 0.05, 0.20
"""Shares of waiting from which it is worth a colour."""


class Happened(NamedTuple):
    """Something that happened: when, in seconds since the epoch, what, and its role as a piece of a line."""

    time: float
    text: str
    role: str = ""

    def line(self) -> Line:
        """Return it as a line, with the time of day."""
        return (Span(f"{time_of_day(self.time)}  ", "dim"), Span(self.text, self.role))

    def told(self, name: str) -> str:
        """Return it as a line that says of which pipeline it is."""
        return f"{time_of_day(self.time)}  {clean(name)}: {self.text}"


class Waits:
    """What share of the time the consumer has waited, over the last ten minutes: the mean of each ten seconds."""

    WIDTH = 60

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, int]] = {}
        self._newest = 0

    def add(self, time: float, share: float | None) -> None:
        """Add what a report says; None if it does not know."""
        share, time = known(share), known(time) or 0.0
        if share is None or not 0 <= share <= 1 or not 0 < time < 1e11:
            return
        slot = int(time / (SECONDS / self.WIDTH))
        total, number = self._sums.get(slot, (0.0, 0))
        self._sums[slot] = (total + share, number + 1)
        self._newest = max(self._newest, slot)
        for old in [one for one in self._sums if one <= self._newest - self.WIDTH]:
            del self._sums[old]

    def shares(self) -> list[float | None]:
        """Return the means, oldest first, the newest last; None where nothing is known."""
        slots = range(self._newest - self.WIDTH + 1, self._newest + 1)
        return [self._sums[slot][0] / self._sums[slot][1] if slot in self._sums else None for slot in slots]

    def line(self, width: int) -> Line:
        """Return the newest of it as a line that is at most so wide, from 60 columns on; empty if nothing is known."""
        means = [share for share in self.shares() if share is not None]
        if not means:
            return ()
        head, tail = "waits ", f"  {SECONDS // 60} min, mean {percent(sum(means) / len(means))}"
        tail += f", most {percent(max(means))}" if width >= 100 else ""
        room = min(self.WIDTH, width - len(head) - len(tail))
        shares = self.shares()
        if room < self.WIDTH:  # two in one
            shares = _halved(shares)[-max(room, 1) :]
        spans = [Span(" " if share is None else _level(share), _role(share)) for share in shares]
        return (Span(head, "dim"), *spans, Span(tail, "dim"))


def _halved(shares: list[float | None]) -> list[float | None]:
    halves: list[float | None] = []
    for first, second in zip(shares[::2], shares[1::2], strict=True):
        means = [share for share in (first, second) if share is not None]
        halves.append(sum(means) / len(means) if means else None)
    return halves


def _level(share: float) -> str:
    return LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]


def _role(share: float | None) -> str:
    return "spark" if share is None or share < LITTLE else "spark warn" if share < MUCH else "spark alarm"


class News:
    """What happened to one pipeline.

    Args:
        name: of the pipeline; None for the first that reports.

    Attributes:
        name: of the pipeline; empty if it is not known yet.
        newest: its newest report; None if there is none yet.
        waits: how its consumer has waited.
        log: what changed last, oldest first.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or ""
        self.newest: PipelineReport | None = None
        self.waits = Waits()
        self.log: deque[Happened] = deque(maxlen=REMEMBERED)

    @property
    def ended(self) -> bool:
        """Whether its newest report is its last."""
        return self.newest is not None and self.newest.state == "done"

    def take(self, event: Event) -> Happened | None:
        """Take an event in; return what is worth a line of it, which is remembered.

        Raises:
            CorruptStateError: it is not the report of a pipeline.
        """
        if not isinstance(event, PipelineReported | PipelineStalled | PipelineRecovered):
            return None
        if not self.name and isinstance(event, PipelineReported):
            self.name = event.pipeline
        if event.pipeline != self.name:
            return None
        if isinstance(event, PipelineReported):
            happened = self._reported(PipelineReport.from_dict(event.report))
        elif isinstance(event, PipelineStalled):
            happened = Happened(event.time, f"stalled for {duration(event.seconds)}: {clean(event.reason)}", "alarm")
        else:
            happened = Happened(event.time, f"goes on after {duration(event.seconds)}", "good")
        if happened is not None:
            self.log.append(happened)
        return happened

    def _reported(self, report: PipelineReport) -> Happened | None:
        before, self.newest = self.newest, report
        if report.consumer is not None:
            self.waits.add(report.time, report.consumer.wait_fraction)
        if report.state == "done":
            items = "" if report.consumer is None else f"{count(report.consumer.items)} items in "
            return Happened(report.time, f"done: {items}{running_time(report.elapsed)}")
        verdict = report.verdict or Verdict()
        told = Verdict() if before is None else before.verdict or Verdict()
        if verdict.same_as(told):
            return None
        words, reason = bottleneck_in_words(verdict), clean(verdict.reason)
        was = "" if told.kind == "unknown" else f" (was: {bottleneck_in_words(told)})"
        if reason.startswith(words):
            text = f"{reason}{was}"
        else:
            text = f"{words}{was}: {reason}" if reason else f"{words}{was}"
        role = "culprit" if verdict.kind in ("stage", "loop") else ""
        return Happened(verdict.since or report.time, f"bottleneck: {text}", role)
