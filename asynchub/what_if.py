"""What another rule would have done: control subscribers tried on recorded runs, many at once.

Same: the very objects that decide in a live run decide here, on the same events in the same order, as if each had a
    settle point of its own. A stopping rule therefore stops where it would have stopped the run.
Not the same: a rule that changes the run itself (a learning rate, skipped updates) is shown on the values as they were
    recorded; after its first change a live run would have had others.
Cost: a run is read once, however many rules there are, and a rule is sent only what it subscribes to: 0.2 µs an event
    beside its own work. Of the values that rules are judged by, 24 bytes each are held.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from asynchub.channels import Selection
from asynchub.errors import ArgumentError
from asynchub.events import Event, EventsDropped, Rewound, ScalarUpdated, StateLoaded
from asynchub.history import NO_STEP
from asynchub.journal.folder import find_journal
from asynchub.recorded import LOG, recorded_events
from asynchub.requests import StopRequested
from asynchub.rules import Rule, parse_rules
from asynchub.subscribers.checks import Mode, mean_of
from asynchub.trying import Answers, Trial

__all__ = ("Outcome", "RecordedRun", "try_rules", "what_if")

CHUNK = 8192
"""Events that are read before the rules are sent theirs."""
Rules = str | Rule | Iterable[str | Rule]
"""What is to be tried: texts as of ``parse_rules``, and rules, also a single one."""


@dataclass(slots=True)
class RecordedRun:
    """What there is in a recorded run.

    Attributes:
        name: where it was read from.
        events: how many events.
        last_step: the last step; 0 if no event has one.
        seconds: from its first event to its last, pauses included, but for those that end in a ``StateLoaded`` or
            ``Rewound``: a run that was resumed elsewhere has no sign of how long it lay still.
        missed: events that are known to be missing.
        infos_lost: whether only the newest value of each runtime info is known, as of a run without a journal.
    """

    name: str
    events: int = 0
    last_step: int = 0
    seconds: float = 0.0
    missed: int = 0
    infos_lost: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule would have done to a recorded run.

    Attributes:
        rule: the rule.
        run: the run.
        judge: key of the scalar that it is judged by: the one given, else the one it monitors; empty for none.
        mode: whether smaller or larger values of that are better.
        checks: values of that key in the whole run.
        checks_until_stop: those up to the stop.
        stop: the request to stop, at the step of the value that brought it about; None if the run would have gone on.
        seconds_until_stop: time of the run up to then.
        best: best value up to the stop; None if there is none that is finite. The rest of the step it stops in counts.
        best_step: the step of that value.
        best_of_run: best value of the whole run.
        handled: events that the rule was sent until it stopped.
        wants_infos: whether it subscribes to more than scalars of the run.
        answers: all that it answered: parameters changed, other requests, verdicts.
        error: what it failed with; None if it did not.
    """

    rule: Rule
    run: RecordedRun
    judge: str
    mode: Mode
    checks: int
    checks_until_stop: int
    stop: StopRequested | None
    seconds_until_stop: float
    best: float | None
    best_step: int | None
    best_of_run: float | None
    handled: int
    wants_infos: bool
    answers: Answers
    error: Exception | None

    @property
    def worse_by(self) -> float | None:
        """How much worse ``best`` is than ``best_of_run``: 0 or above; None if the run has no finite value."""
        if self.best_of_run is None:
            return None
        if self.best is None:
            return math.inf
        return abs(self.best_of_run - self.best)

    @property
    def steps_saved(self) -> int:
        """Steps of the run after the stop."""
        if self.stop is None or self.stop.step is None:
            return 0
        return max(self.run.last_step - self.stop.step, 0)

    @property
    def share_saved(self) -> float:
        """The same as a share of all steps: 0 to 1."""
        return self.steps_saved / self.run.last_step if self.run.last_step > 0 else 0.0

    @property
    def seconds_saved(self) -> float:
        """Time of the run after the stop."""
        return 0.0 if self.stop is None else max(self.run.seconds - self.seconds_until_stop, 0.0)


def what_if(rules: Rules, *runs: str | Path, judge: str | None = None) -> list[Outcome]:
    """Try rules on recorded runs; return what each would have done, run by run in the order of the rules.

    Args:
        rules: texts, each a rule or a grid of them (see ``asynchub.rules``), or ``Rule`` objects.
        runs: folders of runs, as of ``asynchub.recorded.recorded_events``.
        judge: as of ``try_rules``.

    Raises:
        ArgumentError: a rule is malformed, or a run has no values of the key that a rule monitors or is judged by.
        FileNotFoundError: there is no such run.
        StateError: a run is damaged.
        ImportError: a rule needs what is not installed.
    """
    parsed = _parsed(rules)
    outcomes: list[Outcome] = []
    for run in map(Path, runs):
        tried = try_rules(parsed, recorded_events(run), judge=judge, name=str(run))
        if tried and run.is_dir() and find_journal(run) is None and not (run / LOG).is_file():
            tried[0].run.infos_lost = True  # all of them have the same
        outcomes += tried
    return outcomes


def try_rules(rules: Rules, events: Iterable[Event], *, judge: str | None = None, name: str = "run") -> list[Outcome]:
    """Try rules on the events of a run, which are read once; return what each would have done, in their order.

    Args:
        rules: as of ``what_if``.
        events: in the order of ``seq``, as they were published.
        judge: the scalar whose best value tells what a stop would have cost: ``key``, ``key:min`` or ``key:max``; by
            default each rule's own ``monitor`` and ``mode``.
        name: of the run, for people.

    Raises:
        ArgumentError: a rule is malformed, or there are no values of the key that a rule monitors or is judged by.
        ImportError: a rule needs what is not installed.
    """
    parsed = _parsed(rules)
    judged = None if judge is None else _judge_of(judge)
    tried = [_Tried(rule, judged) for rule in parsed]
    values = {one.judge: _Values(one.judge) for one in tried if one.judge}
    groups: dict[Selection, _Group] = {}
    for one in tried:
        groups.setdefault(one.trial.selection, _Group(one.trial.selection)).tried.append(one)
    run = RecordedRun(name)
    clock = _Clock(run)
    routes: dict[tuple[str, type[Event]], list[list[Event]]] = {}
    readers: list[_Group | _Values] = [*groups.values(), *values.values()]
    for chunk in _chunks(events):
        clock.pass_over(chunk)
        for event in chunk:
            route = event.key, type(event)
            wanted = routes.get(route)
            if wanted is None:
                wanted = routes[route] = [reader.pending for reader in readers if reader.test(*route)]
            for pending in wanted:
                pending.append(event)
        for reader in readers:
            if reader.pending:
                reader.take(clock)
                reader.pending.clear()
    keys = sorted({key for key, kind in routes if issubclass(kind, ScalarUpdated)})
    for one in tried:
        one.refuse_blindness(keys, run)
    for one in tried:
        one.trial.close()
    return [one.outcome(run, values.get(one.judge), keys) for one in tried]


# --- rules and runs on their way


class _Tried:
    """A rule while it is tried."""

    def __init__(self, rule: Rule, judge: tuple[str, Mode] | None) -> None:
        subscriber: Any = rule.make()
        if getattr(subscriber, "role", "observer") != "control":
            raise ArgumentError(f"{rule.name} is an observer: it decides nothing that could be tried")
        self.rule = rule
        self.trial = Trial(subscriber)
        monitor = getattr(subscriber, "monitor", "")
        self.monitor = monitor if isinstance(monitor, str) else ""
        mode: Mode = "max" if getattr(subscriber, "mode", "min") == "max" else "min"
        self.judge, self.mode = judge or (self.monitor, mode)
        self.seconds_until_stop: float | None = None

    def refuse_blindness(self, keys: Sequence[str], run: RecordedRun) -> None:
        for key in (self.monitor, self.judge):
            if key and key not in keys:
                known = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
                raise ArgumentError(f"{run.name} has no {key!r}; it has {known or 'no scalars'}")

    def outcome(self, run: RecordedRun, values: _Values | None, keys: Sequence[str]) -> Outcome:
        stop, wanted = self.trial.answers.stop, self.trial.selection
        values = values or _Values("")
        checks = len(values.seqs)
        upto = checks if stop is None else values.position(stop)
        best, best_step = values.best(self.mode, upto)
        return Outcome(
            rule=self.rule,
            run=run,
            judge=self.judge,
            mode=self.mode,
            checks=checks,
            checks_until_stop=upto,
            stop=stop,
            seconds_until_stop=run.seconds if self.seconds_until_stop is None else self.seconds_until_stop,
            best=best,
            best_step=best_step,
            best_of_run=values.best(self.mode, checks)[0],
            handled=self.trial.handled,
            wants_infos=bool(wanted.kinds or wanted.patterns.difference(keys)),
            answers=self.trial.answers,
            error=self.trial.error,
        )


class _Group:
    """Rules that get the same events.

    Attributes:
        tried: those that still take events.
        pending: events for them.
    """

    def __init__(self, selection: Selection) -> None:
        self.test = selection.test()
        self.tried: list[_Tried] = []
        self.pending: list[Event] = []

    def take(self, clock: _Clock) -> None:
        ended = False
        for one in self.tried:
            one.trial.send(self.pending)
            if one.trial.ended:
                ended = True
                if one.trial.answers.stop is not None:
                    one.seconds_until_stop = clock.seconds_at(one.trial.answers.stop)
        if ended:
            self.tried = [one for one in self.tried if not one.trial.ended]


class _Values:
    """The values of a scalar that rules are judged by, in columns."""

    def __init__(self, key: str) -> None:
        self.pending: list[Event] = []
        self.seqs = array("q")
        self._steps = array("q")
        self._values = array("d")
        self._key = key

    def test(self, key: str, kind: type[Event]) -> bool:
        return key == self._key and issubclass(kind, ScalarUpdated)

    def take(self, clock: _Clock) -> None:
        scalars = [event for event in self.pending if isinstance(event, ScalarUpdated) and event.count]
        self.seqs.extend([event.seq for event in scalars])
        self._steps.extend([NO_STEP if event.step is None else event.step for event in scalars])
        self._values.extend([mean for event in scalars if (mean := mean_of(event)) is not None])

    def position(self, stop: StopRequested) -> int:
        """Return how many values there were at the stop; those of the rest of its step belong to it."""
        position = int(np.searchsorted(np.frombuffer(self.seqs, np.int64), stop.seq))  # an answer's seq comes after
        while stop.step is not None and position < len(self.seqs) and self._steps[position] == stop.step:
            position += 1
        return position

    def best(self, mode: Mode, upto: int) -> tuple[float | None, int | None]:
        """Return the best of the values up to a position, and its step; values that are not finite are none."""
        values = np.frombuffer(self._values, np.float64)[:upto]
        finite = np.flatnonzero(np.isfinite(values))
        if not len(finite):
            return None, None
        index = int(finite[(np.argmax if mode == "max" else np.argmin)(values[finite])])
        step = self._steps[index]
        return float(values[index]), None if step == NO_STEP else step


class _Clock:
    """How far a run has come, in steps and in seconds of its own."""

    def __init__(self, run: RecordedRun) -> None:
        self._run = run
        self._newest: float | None = None
        self._seqs: list[int] = []
        self._seconds: Any = ()

    def pass_over(self, chunk: Sequence[Event]) -> None:
        run = self._run
        run.events += len(chunk)
        run.last_step = max([run.last_step, *(event.step for event in chunk if event.step is not None)])
        times = np.array([event.time for event in chunk])
        passed = np.diff(times, prepend=times[:1] if self._newest is None else self._newest)
        for index, event in enumerate(chunk):
            if isinstance(event, StateLoaded | Rewound):
                passed[index] = 0.0  # from one process to the next
            elif isinstance(event, EventsDropped):
                run.missed += event.missed
        passed[~(passed > 0)] = 0.0  # also where a time is not known, or a clock was set back
        self._seqs = [event.seq for event in chunk]
        self._seconds = run.seconds + np.cumsum(passed)
        run.seconds = float(self._seconds[-1])
        self._newest = float(times[-1])

    def seconds_at(self, stop: StopRequested) -> float:
        """Return the seconds of the run at the event of the newest chunk that brought ``stop`` about."""
        return float(self._seconds[max(int(np.searchsorted(self._seqs, stop.seq)) - 1, 0)])


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _parsed(rules: Rules) -> list[Rule]:
    many = [rules] if isinstance(rules, str | Rule) else rules
    return [rule for one in many for rule in ([one] if isinstance(one, Rule) else parse_rules(one))]


def _judge_of(text: str) -> tuple[str, Mode]:
    key, separator, mode = text.rpartition(":")
    if not separator:
        return text, "min"
    if not key or mode not in ("min", "max"):
        raise ArgumentError(f"a judge must be KEY, KEY:min or KEY:max, got {text!r}; write e.g. val/accuracy:max")
    return key, "max" if mode == "max" else "min"
