"""Is a run alive? From who holds its journal, how the journal ends, and how long nothing has come; in words.

Never from a flag alone: "running" needs events that come, "crashed" a writer that is gone, "finished" a journal that
    was closed.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from asynchub.dashboard.fact_reader import Source
from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.marks import shown
from asynchub.dashboard.screen import Level, Line, RunState, Status
from asynchub.dashboard.stops import stop_in_words
from asynchub.dashboard.writers import Writer
from asynchub.subscribers.display import format_duration, format_number

__all__ = ("Seen", "ago", "clock_text", "ended_of", "status_of")

SILENT = 10.0
"""Seconds without an event, at least, from which a run is silent."""
USUAL = 5.0
"""Usual intervals without an event, at least, from which it is."""
DAYS = 86_400.0
"""Seconds from which a moment is said, not how long ago it was."""
LONGER = 1.2
"""By how much longer than a silence that it came back from, at least."""


class Seen(NamedTuple):
    """What tells how a run is.

    Attributes:
        facts: of its events.
        source: where they come from.
        writer: how its writer is.
        closed: whether its journal ends as one does that was closed.
        age: seconds since the newest event; None if there is none.
        read: how much of its past is read, as a share, if that takes so long that it is worth a word; else None.
        problem: what is wrong with its folder, in words.
        stop: why it was to stop, as a snapshot says that is all there is; None if it was not.
        waited: seconds without an event that were seen to end.
    """

    facts: RunFacts
    source: Source
    writer: Writer
    closed: bool
    age: float | None
    read: float | None = None
    problem: str = ""
    stop: str | None = None
    waited: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come, unless somebody goes on with it."""
        return self.state in ("finished", "stopped", "crashed")

    @property
    def patience(self) -> float:
        """Seconds without an event from which it is silent."""
        return max(SILENT, USUAL * self.facts.usual, LONGER * self.facts.longest_silence, LONGER * self.waited)

    @property
    def was_stopped(self) -> bool:
        """Whether somebody has ended it early."""
        facts = self.facts
        return (facts.stop is not None or facts.stopped is not None) and not self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether it has come as far as it was to go."""
        pace, epochs = self.facts.pace, self.facts.infos.get("max_epochs")
        iters = self.facts.infos.get("max_iters")
        steps_done = type(iters) is int and pace.step is not None and pace.step + 1 >= iters
        epochs_done = type(epochs) is int and pace.epoch is not None and pace.epoch >= epochs
        return steps_done or epochs_done

    @property
    def state(self) -> RunState:
        """See ``RunState``."""
        if self.source != "journal":
            return self._state_without_journal
        if self.writer == "gone" or (self.writer == "released" and not self.closed):
            return "crashed" if self.age is not None or self.writer == "gone" else "unknown"
        if self.closed and self.writer != "alive":
            return "stopped" if self.was_stopped else "finished"
        if self.age is None or self.writer == "none":
            return "unknown"
        if self.age > self.patience and self.facts.paused is None:
            return "silent"
        return "stopping" if self.facts.stop is not None or self.facts.stopped is not None else "running"

    @property
    def _state_without_journal(self) -> RunState:
        facts = self.facts
        if self.is_complete:
            return "finished"
        if facts.stopped is not None or (self.source == "snapshot" and self.stop is not None):
            return "stopped" if self.age is not None and self.age > self.patience else "unknown"
        return "unknown"


def status_of(seen: Seen) -> Status:
    """Return how a run is, in figures and words."""
    facts, state = seen.facts, seen.state
    pace = facts.pace
    word, level = _word(seen, state)
    total, epochs = pace.total, facts.infos.get("max_epochs")
    epochs = epochs if type(epochs) is int and epochs > 0 else None
    share = None
    if total and pace.step is not None:
        share = min(max(pace.step / total, 0.0), 1.0)
    elif epochs and pace.epoch is not None:
        share = min(max(pace.epoch / epochs, 0.0), 1.0)
    if state == "finished" and seen.is_complete:
        share = 1.0
    lives = state in ("running", "silent", "stopping")
    reason = _reason(seen, state)
    return Status(
        state,
        word,
        level,
        pace.step,
        total,
        pace.epoch,
        epochs,
        share,
        pace.mean_rate if lives else None,
        pace.seconds_left if state == "running" and facts.paused is None else None,
        seen.age,
        reason,
        tuple(_lines(seen, state, reason, total, epochs)),
    )


def _word(seen: Seen, state: RunState) -> tuple[str, Level]:
    facts = seen.facts
    match state:
        case "running" if facts.paused is not None:
            return "Paused", "warn"
        case "running":
            return "Running", "good"
        case "silent":
            return f"Silent for {ago(seen.age or 0.0)}", "warn"
        case "stopping":
            return "Stopping", "warn"
        case "stopped":
            return "Stopped", "plain"
        case "finished":
            return ("Finished", "good") if _went_far(seen) else ("Ended early", "warn")
        case "crashed":
            return "Crashed", "bad"
    return ("No event yet" if seen.age is None and seen.source == "journal" else "Unknown"), "quiet"


def _went_far(seen: Seen) -> bool:
    """Whether a run that was closed without a stop has done what it was to do, as far as that is known."""
    facts = seen.facts
    limits = [facts.infos.get("max_iters"), facts.infos.get("max_epochs")]
    return seen.is_complete or not any(type(limit) is int for limit in limits)


def _reason(seen: Seen, state: RunState) -> str:
    """Return why it ended or will end; "" if nothing has said."""
    facts = seen.facts
    if state == "crashed":
        return "its writer is gone and has not closed the journal"
    if facts.stop is not None or facts.stopped is not None:
        return shown(stop_in_words(facts).removeprefix(": ")) or "a stop was asked for"
    if seen.stop is not None:
        return shown(seen.stop) or "a stop was asked for"
    return ""


def ended_of(seen: Seen) -> Line | None:
    """Return how a run has ended, if nobody has asked it to stop; None while it has not."""
    match seen.state:
        case "crashed":
            return Line(_of_writer(seen, "crashed").capitalize(), "bad")
        case "stopped":
            return Line(f"A stop was asked for: {shown(seen.stop)}" if seen.stop else "A stop was asked for")
        case "finished" if seen.is_complete:
            return Line(_as_far_as(seen.facts), "good")
        case "finished" if not _went_far(seen):
            return Line("It was closed before its end, and nothing has said why", "warn")
        case "finished":
            return Line("Its program ended, and closed the journal: nobody had asked it to stop")
    return None


def _as_far_as(facts: RunFacts) -> str:
    """Return how far a run has come that has done all it was to do."""
    iters, epochs = facts.infos.get("max_iters"), facts.infos.get("max_epochs")
    if type(iters) is int and facts.pace.step is not None and facts.pace.step + 1 >= iters:
        return f"It has done its {iters:,} step{'' if iters == 1 else 's'}"
    return f"It has done its {epochs:,} epoch{'' if epochs == 1 else 's'}"


def _lines(seen: Seen, state: RunState, reason: str, total: int | None, epochs: int | None) -> list[Line]:
    facts = seen.facts
    lives = state in ("running", "silent", "stopping")
    lines = []
    if progress := _progress(facts, total, epochs):
        lines.append(Line(progress))
    if figures := _figures(seen, lives):
        lines.append(Line(figures, "quiet" if state != "silent" else "plain"))
    paused = facts.paused
    if paused is not None and lives:
        who = f" by {shown(paused.author)}" if paused.author else ""
        why = f": {shown(paused.reason)}" if paused.reason else ""
        lines.append(Line(f"paused{who}{why}, for {ago(paused.seconds)} at most", "warn"))
    if reason and state != "crashed":
        lines.append(Line(reason, "warn" if state == "stopping" else "plain"))
    if state == "finished" and not _went_far(seen):
        lines.append(Line("it was closed before its end, and nothing has said why", "warn"))
    if words := _of_writer(seen, state):
        lines.append(Line(words, "bad" if state == "crashed" else "quiet"))
    if seen.read is not None:
        lines.append(Line(f"reading its past: {min(int(100 * seen.read), 99)} %", "quiet"))
    return lines


def _progress(facts: RunFacts, total: int | None, epochs: int | None) -> str:
    pace = facts.pace
    said = []
    if pace.step is not None:
        about = "" if type(facts.infos.get("max_iters")) is int else "about "
        said.append(f"step {pace.step:,}{'' if total is None else f' of {about}{total:,}'}")
    if pace.epoch is not None:
        said.append(f"epoch {pace.epoch:,}{'' if epochs is None else f' of {epochs:,}'}")
    return " · ".join(said)


def _figures(seen: Seen, lives: bool) -> str:
    facts = seen.facts
    said = []
    rate, left = facts.pace.mean_rate, facts.pace.seconds_left
    if lives and rate:
        said.append(f"{rate:,.0f} steps/s" if rate >= 1000 else f"{format_number(rate)} steps/s")
    if lives and left is not None and facts.paused is None:
        said.append(f"{format_duration(left)} left")
    if not lives and facts.began is not None and facts.time is not None and facts.time >= facts.began:
        said.append(f"took {format_duration(facts.time - facts.began)}")
    if seen.age is not None:
        long_ago = facts.time is not None and seen.age > DAYS
        when = f"on {clock_text(facts.time)}" if long_ago and facts.time is not None else f"{ago(seen.age)} ago"
        said.append(f"last event {when}")
    return " · ".join(said)


def _of_writer(seen: Seen, state: RunState) -> str:
    if seen.source == "snapshot":
        return "no journal: this is what its newest snapshot says"
    if seen.source == "log":
        return "no journal: this is what its metrics.jsonl says; whether it runs cannot be told from that"
    if not seen.source:
        return seen.problem
    if state == "crashed":
        if seen.writer == "released":
            return "its writer has let go of the journal without closing it: the disk refused, or the program failed"
        return "its writer is gone and has not closed the journal: it was killed"
    if seen.age is None:
        return "nothing has been published yet" if seen.writer in ("alive", "unseen") else seen.problem
    if state == "unknown":
        return "a copy of a journal that was not closed: whether its run goes on cannot be told"
    if state == "silent":
        if seen.writer == "alive":
            return "its process lives"
        return "no process seen from here writes its journal: it was killed, or runs on another machine"
    return ""


def ago(seconds: float) -> str:
    """Return a time that has passed in words: ``0.1 s``, ``41 s``, ``3:05``."""
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 99.5 else format_duration(seconds)


def clock_text(moment: float) -> str:
    """Return a moment, in seconds since the epoch, as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
