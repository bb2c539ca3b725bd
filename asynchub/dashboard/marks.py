"""Decisions and what went wrong, as marks on the curves: who, what and why of each.

One mark: a request and what became of it are one, at the step at which it was asked; what it changed is a part of it.
No mark: what limits a pipeline, ``BottleneckChanged``, is a finding, which changes hands every few seconds where two
    stages are about as fast, and would hide what was decided. The lines about speed, and the cards, have the newest.
Kept: the newest ``MOST``; all are counted.
Threads: one at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from asynchub.allowing import in_words
from asynchub.bridging import BridgeRestored, ReductionRestored
from asynchub.dashboard.screen import Mark
from asynchub.dataflow import BottleneckChanged, ConcurrencyChanged, PipelineRecovered, PipelineStalled
from asynchub.events import (
    CheckpointSaved,
    Event,
    Rewound,
    StateLoaded,
    SubscriberFailed,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.requests import (
    Decided,
    ParameterChanged,
    ParameterChangeRequested,
    PauseEnded,
    Request,
    RequestApplied,
    RequestRefused,
)
from asynchub.subscribers.display import (
    DECISIONS,
    described,
    format_duration,
    format_quantity,
    is_failure,
    one_line,
)

__all__ = ("LIMITS", "LONGEST", "MOST", "Marks", "change_in_short", "inputs_of", "shown")

MOST = 10_000
"""Marks that are kept."""
LONGEST = 300
"""Letters of a text from a run, at most, that are shown."""
FOLLOWED = frozenset({"reduced", "skip", "rollback", "stop", "prune", "due", "requested", "end", "exception"})
"""Verdicts that are followed by an event of their own."""
LIMITS = frozenset({"step_limit", "epoch_limit", "time_limit", "deadline"})
"""Verdicts that say where a limit lies."""
CALM = frozenset({"waiting", "improved", "cooldown", "continue", *LIMITS})
"""Verdicts that change nothing."""
TAKEN = {"call": "called its function", "clip": "clipped the gradients", "recovered": "well again"}
"""Verdicts of what was done, in words."""
HELD = {"tolerated": "held, no action", "late": "left out, came too late", "at_bound": "no change, at its bound"}
"""Verdicts of what was not done, in words."""
MOST_PENDING = 100
"""Changes of parameters that are asked for and not answered, which are looked through; of more, the newest."""
PROGRAM = "program"
ASKED = ", asked for"
"""Behind what is asked for, as long as nothing has become of it."""
Kind = Literal["acted", "suggested", "refused", "manual", "resumed", "failed"]


def shown(text: object) -> str:
    """Return a text from a run on one line, cut if it is long."""
    line = one_line(str(text))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _kind_in_words(kind: str) -> str:
    known = {"ParameterChangeRequested": "parameter change", "RollbackRequested": "go back", "SkipRequested": "skip"}
    name = kind.removesuffix("Requested")
    return shown(known.get(kind) or "".join(f" {one.lower()}" if one.isupper() else one for one in name).strip())


def change_in_short(name: str, old: float, new: float) -> str:
    """Return a change of a parameter in a few letters, e.g. ``lr ÷10``."""
    if old > 0 and new > 0 and old != new:
        factor = old / new if new < old else new / old
        if factor < 1e6:
            return shown(f"{name} {'÷' if new < old else 'x'}{factor:.3g}")
    return shown(f"{name} {new:.6g}")


def inputs_of(decided: Decided | None) -> dict[str, str]:
    """Return what a rule saw, name and figure."""
    if decided is None:
        return {}
    found: dict[str, str] = {}
    if decided.monitor:
        found["monitor"] = shown(decided.monitor)
    for name, value in (("value", decided.value), ("best", decided.best)):
        if isinstance(value, int | float):
            found[name] = format_quantity(decided.monitor, value)
    if decided.patience is not None:
        found |= {"wait": f"{decided.wait:,}", "patience": f"{decided.patience:,}"}
    return found


class Marks:
    """The marks of a run.

    Attributes:
        total: how many there were.
        newest: of each rule the decision that it made last.
    """

    def __init__(self) -> None:
        self.total = 0
        self.newest: dict[str, Decided] = {}
        self._kept: dict[int, Mark] = {}
        self._stands: dict[str, str] = {}
        self._changes: tuple[Any, ...] = ()
        self._last = -1
        self._pending: dict[int, ParameterChangeRequested] = {}

    def kept(self) -> list[Mark]:
        """Return those that are kept, oldest first."""
        return list(self._kept.values())

    def take(self, event: Event) -> None:
        """Take account of one event."""
        mark = None
        if isinstance(event, Decided):
            before, self.newest[event.author] = self.newest.get(event.author), event
            if event.verdict not in CALM:
                stands, self._stands[event.author] = self._stands.get(event.author), event.verdict
                mark = None if stands == event.verdict == "at_bound" else _of_decided(event, before)
        elif isinstance(event, RequestApplied | RequestRefused):
            mark = self._answered(event)
        elif isinstance(event, ParameterChanged):
            mark = self._changed(event)
        else:
            mark = _mark_of(event, self._seen_by(event))
            if isinstance(event, ParameterChangeRequested):
                self._pending[event.seq] = event
                if len(self._pending) > MOST_PENDING:
                    del self._pending[next(iter(self._pending))]
        if mark is not None:
            self.add(mark)

    def add(self, mark: Mark) -> None:
        """Keep a mark; one of the same event is replaced."""
        if mark.seq not in self._kept:
            self.total += 1
            if len(self._kept) >= MOST:
                del self._kept[next(iter(self._kept))]
        self._kept[mark.seq] = mark

    def begin(self, seq: int, step: int | None, time: float) -> None:
        """Say that the run went on here, after its journal had been closed."""
        self.add(Mark(seq, step, time, PROGRAM, "went on", "its journal had been closed", "resumed", short="resume"))

    def _seen_by(self, event: Event) -> Decided | None:
        """Return the decision that an event follows from."""
        decided = self.newest.get(getattr(event, "author", ""))
        return decided if decided is not None and decided.step == event.step else None

    def _answered(self, event: RequestApplied | RequestRefused) -> Mark:
        asked = self._kept.get(event.request_seq)
        self._pending.pop(event.request_seq, None)
        what = _kind_in_words(event.request) if asked is None else asked.what.removesuffix(ASKED)
        kind: Kind = "manual" if event.id else "acted"
        why = shown(event.reason)
        if isinstance(event, RequestRefused):
            kind, why = "refused", shown(f"{event.error}{f' ({event.reason})' if event.reason else ''}")
            what = f"{what} refused"
        return Mark(
            event.seq if asked is None else asked.seq,
            event.step if asked is None else asked.step,
            event.time if asked is None else asked.time,
            shown(event.author) or PROGRAM,
            what,
            why,
            kind,
            "" if asked is None else asked.key,
            what if asked is None else asked.short,
            {} if asked is None else asked.inputs,
        )

    def _changed(self, event: ParameterChanged) -> Mark | None:
        """Return the mark of a change; changes of several groups at once are one."""
        same = (event.author, event.name, event.step, event.reason)
        before = self._kept.get(self._last) if same == self._changes else None
        change = f"{event.old:.6g} -> {event.new:.6g}"
        if before is not None:
            if f" {change}" not in before.what:
                self._kept[before.seq] = replace(before, what=shown(f"{before.what}, [{event.group}] {change}"))
            return None
        group = f"[{event.group}]" if event.group else ""
        what, short = shown(f"{event.name}{group} {change}"), change_in_short(event.name, event.old, event.new)
        asked = self._asked(event)
        self._changes, self._last = same, event.seq if asked is None else asked.seq
        if asked is not None:
            return replace(asked, what=what, short=short)
        return Mark(
            event.seq,
            event.step,
            event.time,
            shown(event.author) or PROGRAM,
            what,
            shown(event.reason),
            "acted",
            "",
            short,
            inputs_of(self._seen_by(event)),
        )

    def _asked(self, event: ParameterChanged) -> Mark | None:
        """Return the mark of the request that a change comes of: the oldest that is not answered; None if of none."""
        for seq, request in self._pending.items():
            same = (request.author, request.name, request.reason) == (event.author, event.name, event.reason)
            if same and request.group in (None, event.group):
                del self._pending[seq]  # what else comes of it is of another group
                return self._kept.get(seq)
        return None


def _of_decided(event: Decided, before: Decided | None) -> Mark | None:
    verdict = event.verdict
    if verdict in CALM or verdict in FOLLOWED:
        return None
    said_before = before is not None and before.verdict == verdict
    if said_before and verdict not in TAKEN and verdict not in HELD:
        return None  # of a rule that is not known here, which may say so at each step
    what = TAKEN.get(verdict) or HELD.get(verdict) or shown(verdict)
    kind: Kind = "acted" if verdict in TAKEN else "suggested"
    return Mark(
        event.seq,
        event.step,
        event.time,
        shown(event.author),
        what,
        shown(event.reason),
        kind,
        event.monitor,
        shown(verdict),
        inputs_of(event),
    )


def _mark_of(event: Event, decided: Decided | None) -> Mark | None:
    """Return the mark of an event that is a decision, or something that went wrong; None for another one."""
    who, what, why, short = PROGRAM, "", "", ""
    kind: Kind = "failed" if is_failure(event) else "acted"
    match event:
        case Request():
            word = shown(in_words(event))
            who, what, why, short = shown(event.author) or PROGRAM, f"{word}{ASKED}", shown(event.reason), word
            kind = "manual" if event.id else "suggested"
        case SubscriberFailed():
            follows = {"detach": "detached", "restart": "restarting", "raise": "raised on leaving"}
            who, what = shown(event.subscriber), f"failed, {follows.get(event.action, shown(event.action))}"
            why, short = shown(event.error), "failed"
        case StateLoaded():
            what, why, kind, short = "resumed", shown(f"from {event.source}"), "resumed", "resume"
        case Rewound():
            what, kind, short = "resumed from an earlier state", "resumed", "resume"
            why = f"what came after event {event.to_seq:,} does not count"
        case CheckpointSaved():
            who, what, short = "checkpoint", "saved", "saved"
            took = f"in {format_quantity('_s', event.seconds)}" if event.seconds else ""
            why = shown(", ".join(one for one in (event.reason, event.path, took) if one))
        case PauseEnded():
            what, why, kind, short = (
                f"went on after {format_duration(event.seconds)}",
                shown(event.reason),
                "resumed",
                "on",
            )
            who = shown(event.author) or PROGRAM
        case TrackerDegraded() | TrackerRestored():
            who = shown(event.tracker)
        case BottleneckChanged():
            return None
        case ConcurrencyChanged():
            who, why, short = shown(event.author or event.pipeline), shown(event.reason), f"{event.old} -> {event.new}"
            what = shown(f"{event.stage}: {event.old} -> {event.new} at once")
        case PipelineStalled():
            who, why, short = shown(event.pipeline), shown(event.reason), "stalled"
            what = f"stalled for {format_quantity('_s', event.seconds)}"
        case PipelineRecovered():
            who, what, short = shown(event.pipeline), f"goes on after {format_quantity('_s', event.seconds)}", "on"
        case _ if not isinstance(event, DECISIONS):
            return None
    if isinstance(event, PipelineRecovered | TrackerRestored | BridgeRestored | ReductionRestored):
        kind = "resumed"
    what = what or _without_step(event)
    key = decided.monitor if decided is not None and short == "skip" else ""
    return Mark(event.seq, event.step, event.time, who, shown(what), why, kind, key, short, inputs_of(decided))


def _without_step(event: Event) -> str:
    """Return an event in the words that all views of a run share; the step stands elsewhere."""
    text = described(event) or type(event).__name__
    return text if event.step is None else text.replace(f" at step {event.step}", "", 1)
