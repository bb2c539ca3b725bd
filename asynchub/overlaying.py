"""What another rule would have done to the runs that are looked at: a row for each run, and marks for its curves.

Same: the very code that decides in a live run decides here, on the same events; see ``asynchub.what_if``. It is a
    replay, not a forecast: after a stop, or another learning rate, a run would have had other values.
Bounded: replaying goes on in a thread of its own, run by run, the shortest first; whoever asks waits for a moment, gets
    the rows that are ready, and asks again for the others. Of a run one frame of its journal is held at a time, and
    the values that rules are judged by, however long it is. What nobody asks for again is given up: that is looked at
    after each frame and each ``LOOK`` events, a fraction of a second apart. What was found is kept; of a run that goes
    on it is shown until the next replay is over, some seconds later.
Safe: of the rules, only those in ``RULES`` are tried: none of them has an argument that names a file or code.
Threads: any thread may call anything here.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynchub.channels import Selection
from asynchub.dashboard.pyramid import Pyramid
from asynchub.errors import ArgumentError, AsyncHubError
from asynchub.events import Event
from asynchub.overlay_rows import OverlayAnswer, OverlayRow, overlay_row
from asynchub.recorded import streamed_events
from asynchub.rules import Rule, parse_rules
from asynchub.subscribers.display import one_line
from asynchub.trying import Trial
from asynchub.what_if import Outcome, try_rules

__all__ = ("RULES", "Overlay", "overlay")

RULES = ("EarlyStopping", "MaxSteps", "NanGuard", "ReduceLROnPlateau", "SpikeDetection", "Timer")
"""The rules that can be tried."""
FORBIDDEN = ("exclude_batches_path",)
"""Arguments that name a file."""
MOST_RULES = 12
"""Rules of a grid, at most."""
MOST_KEPT = 2000
"""Rows that are kept."""
LOOK = 1024
"""Events for rules after which it is looked whether somebody waits still."""
FORGOTTEN = 10.0
"""Seconds for which replaying goes on when nobody asks again."""
LONGEST = 1000
"""Characters of a rule."""


AGAIN = 5.0
"""Seconds after which a run that goes on is replayed once more."""
_Key = tuple[str, str, str]
"""Id of a run, its folder, and the rules as text."""


def overlay(runs: Mapping[str, Pyramid], rule: str) -> OverlayAnswer:
    """Return what a rule, or a grid of them, would have done to runs; it waits until all are replayed.

    Args:
        runs: by the ids that rows are to have.
        rule: as of ``asynchub.rules.parse_rules``, e.g. ``"EarlyStopping:val/accuracy:max:patience=3,5"``.
    """
    with Overlay() as tried:
        while True:
            answer = tried.ask(runs, rule, seconds=60.0)
            if not answer.waiting:
                return answer


class Overlay:
    """Tries rules on runs, as long as somebody asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._wanted: OrderedDict[_Key, _Wanted] = OrderedDict()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Overlay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, runs: Mapping[str, Pyramid], rule: str, *, seconds: float = 1.0) -> OverlayAnswer:
        """Return what a rule would have done, as far as that is known within some seconds.

        Args:
            runs: by the ids that rows are to have.
            rule: as of ``overlay``.
            seconds: how long to wait at most.
        """
        try:
            rules = _parsed(rule)
        except (AsyncHubError, ImportError) as error:
            return OverlayAnswer((), error=one_line(str(error)))
        wanted = {(name, str(run.folder), rule): run for name, run in runs.items()}
        deadline = time.monotonic() + seconds
        with self._changed:
            for key, run in wanted.items():
                known = self._kept.get(key)
                if known is None or (known.seq != run.seq and time.monotonic() - known.time > AGAIN):
                    self._wanted.setdefault(key, _Wanted(rules, run, run.seq)).asked = deadline
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="asynchub what-if", daemon=True)
                self._thread.start()
            while waiting := sum(key not in self._kept for key in wanted):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            for key in wanted:
                if key in self._kept:
                    self._kept.move_to_end(key)
            rows = [row for key in wanted if key in self._kept for row in self._kept[key].rows]
        return OverlayAnswer(tuple(rows), waiting)

    def close(self) -> None:
        """End what is going on; it waits for that at most some seconds."""
        with self._changed:
            for one in self._wanted.values():
                one.asked = -math.inf
            thread = self._thread
        if thread is not None:
            thread.join(5.0)

    def _work(self) -> None:
        while True:
            with self._changed:
                for key in [key for key, one in self._wanted.items() if one.forgotten]:
                    del self._wanted[key]
                if not self._wanted:
                    self._thread = None
                    return
                key, one = min(self._wanted.items(), key=lambda item: item[1].size)
            seq, rows = one.run.seq, _tried(key[0], one)
            with self._changed:
                if rows is not None:
                    del self._wanted[key]
                    self._kept[key] = _Kept(rows, seq, time.monotonic())
                    while len(self._kept) > MOST_KEPT:
                        self._kept.popitem(last=False)
                    self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was found.

    Attributes:
        rows: it.
        seq: how far the run had come.
        time: when it was found, by the monotonic clock.
    """

    rows: list[OverlayRow]
    seq: int
    time: float


@dataclass(slots=True)
class _Wanted:
    """Rules to be tried on a run.

    Attributes:
        rules: they.
        run: it.
        size: values that it had then, about.
        asked: until when somebody waited for it last, by the monotonic clock.
    """

    rules: list[Rule]
    run: Pyramid
    size: int
    asked: float = math.inf

    @property
    def forgotten(self) -> bool:
        """Whether nobody wants to know any more."""
        return time.monotonic() - self.asked > FORGOTTEN


class _ForgottenError(Exception):
    """Nobody wants to know any more."""


def _parsed(text: str) -> list[Rule]:
    if len(text) > LONGEST:
        raise ArgumentError(f"a rule may have {LONGEST} characters, this one has {len(text)}")
    name = text.partition(":")[0].strip()
    if name not in RULES:
        raise ArgumentError(
            f"{name or 'nothing'!r:.60} cannot be tried here: write one of {', '.join(RULES)}, "
            "e.g. EarlyStopping:val/accuracy:max:patience=3,5"
        )
    rules = parse_rules(text)
    if len(rules) > MOST_RULES:
        raise ArgumentError(f"{text!r:.80} is a grid of {len(rules)} rules; here {MOST_RULES} can be tried at once")
    for rule in rules:
        if named := [one for one in FORBIDDEN if one in rule.arguments]:
            raise ArgumentError(f"{named[0]} names a file: leave it out here")
    return rules


def _tried(name: str, one: _Wanted) -> list[OverlayRow] | None:
    try:
        while one.run.update(0.2):  # its keys must be known
            if one.forgotten:
                return None
        return [overlay_row(name, outcome) for outcome in _outcomes(one)]
    except (AsyncHubError, OSError, ImportError) as error:
        problem = one_line(str(error))
        return [OverlayRow(name, str(rule), "failed", text=problem, error=problem) for rule in one.rules]
    except _ForgottenError:
        return None


def _outcomes(one: _Wanted) -> list[Outcome]:
    run = one.run
    wanted: set[str | type[Event]] = set()
    monitored = set()
    for rule in one.rules:
        subscriber: Any = rule.make()
        selection: Selection = Trial(subscriber).selection
        wanted |= {*selection.patterns, *selection.kinds}
        monitored.add(getattr(subscriber, "monitor", ""))
    keys = run.keys
    for key in monitored:
        if isinstance(key, str) and key and key not in keys:
            known = ", ".join(keys[:10]) + (f" and {len(keys) - 10:,} more" if len(keys) > 10 else "")
            raise ArgumentError(f"it has no {key!r}; it has {known or run.problem or 'no scalars'}")
    last_step = max((extent[1] for key in keys if (extent := run.extent(key)) is not None), default=0)
    events = _Events(one, wanted)
    outcomes = try_rules(one.rules, events, name=run.name)
    for totals in {
        id(outcome.run): outcome.run for outcome in outcomes
    }.values():  # a rule was sent only some of the events
        totals.last_step = max(totals.last_step, last_step)
        if run.newest > events.newest:
            totals.seconds += run.newest - events.newest
    return outcomes


class _Events:
    """The events that rules want.

    Attributes:
        newest: when the newest of them was published.
    """

    def __init__(self, one: _Wanted, wanted: set[str | type[Event]]) -> None:
        run = one.run
        self.newest = math.inf
        self._one = one
        upto = math.inf if run.problem else run.seq  # what is damaged is to be found again, and said
        self._events = streamed_events(run.folder, *wanted, rewinds=run.rewinds, upto=upto, between=self._look)

    def _look(self) -> None:
        if self._one.forgotten:
            raise _ForgottenError

    def __iter__(self) -> Iterator[Event]:
        for number, event in enumerate(self._events):
            if not number % LOOK:
                self._look()
            self.newest = event.time
            yield event
