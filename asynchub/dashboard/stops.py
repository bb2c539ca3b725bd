"""Why will a run stop? Its limits and its rules, the first to fire first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.marks import shown
from asynchub.dashboard.rulings import Ruling, kind_in_state
from asynchub.dashboard.screen import Level, Line
from asynchub.dashboard.sifting import HUGE
from asynchub.requests import Decided
from asynchub.subscribers.display import format_duration

__all__ = ("stop_in_words", "stop_lines")

QUIET = 1e18
"""Where rules stand that nothing is known to lead to."""


class _Stop(NamedTuple):
    """Something that may end a run.

    Attributes:
        left: steps until then, about; ``QUIET`` and more if that cannot be told.
        text: it.
        level: how much it asks for attention.
        key: of the scalar that it watches.
    """

    left: float
    text: str
    level: Level = "plain"
    key: str = ""


def stop_in_words(facts: RunFacts) -> str:
    """Return who has asked for a stop, and why; "" if nobody has."""
    asked = facts.stop or facts.stopped
    if asked is None:
        return ""
    who = f" by {shown(asked.author)}" if asked.author else ""
    return f"{who}{f': {shown(asked.reason)}' if asked.reason else ''}".removeprefix(" ")


def stop_lines(facts: RunFacts, ended: Line | None) -> tuple[Line, ...]:
    """Return why a run will stop; of one that is over, why it did.

    Args:
        facts: of the run.
        ended: of one that is over, how it ended; None of one that is not.
    """
    is_over = ended is not None
    lines: list[Line] = []
    if facts.stop is not None or facts.stopped is not None:
        at = facts.stopped or facts.stop
        step = None if at is None else at.step
        when = "" if step is None else f" at step {step:,}"
        verb = "Stop applied" if facts.stopped is not None else "Stop asked for"
        words = stop_in_words(facts)
        text = f"{verb}{when}{' ' if words.startswith('by ') else ''}{words}"
        furthest = facts.pace.step
        if not is_over and facts.stopped is not None and step is not None and furthest is not None and furthest > step:
            text += f"; it has gone on for {furthest - step:,} steps"
        lines.append(Line(shown(text), "plain" if is_over else "warn", start=step, stop=step))
    if ended is not None:
        says_more = ended.level in ("good", "bad")
        return (ended, *lines) if says_more or not lines else tuple(lines)
    found = sorted(_stops(facts), key=lambda one: one.left)
    for number, one in enumerate(found):
        first = number == 0 and one.left < QUIET and len(found) > 1
        lines.append(Line(shown(f"{one.text} (first to fire)" if first else one.text), one.level, one.key))
    if not lines:
        lines.append(
            Line(
                "Nothing is known that will stop it: no rule has decided yet, and neither max_iters nor max_epochs is "
                "among its infos",
                "quiet",
            )
        )
    return tuple(lines)


def _stops(facts: RunFacts) -> Iterator[_Stop]:
    yield from _limits(facts)
    states = facts.states
    for name, ruling in facts.rulings.known.items():
        kind = ruling.kind(states)
        if kind == "stopping":
            yield _stopping(facts, ruling)
        elif kind == "plateau":
            yield _plateau(ruling)
        elif kind in ("guard", "spike"):
            yield _guard(name, ruling)
        for event, trained in ruling.limits.values():
            yield _limit(facts, event, trained)
    for name, saved in states.items():
        if isinstance(name, str) and name not in facts.rulings.known:
            kind = kind_in_state(saved)
            if kind in ("guard", "spike", "stopping"):
                yield _Stop(QUIET + 2, f"{shown(name)}: quiet so far", "quiet")
            elif kind in ("timer", "limit"):
                yield _Stop(QUIET + 1, f"{shown(name)}: {_limits_in(facts, saved, kind)}", "quiet")


def _limits(facts: RunFacts) -> Iterator[_Stop]:
    pace = facts.pace
    total, step, epochs = pace.total, pace.step, facts.infos.get("max_epochs")
    iters = facts.infos.get("max_iters")
    said = {(verdict, limit.best) for one in facts.rulings.known.values() for verdict, (limit, _) in one.limits.items()}
    if type(iters) is int and step is not None and ("step_limit", iters) not in said:
        steps = max(iters - step, 0)
        text = (
            f"Step limit in {steps:,} steps{_time(facts, steps)}" if steps else f"Step limit reached: {iters:,} steps"
        )
        yield _Stop(steps, text)
    if type(epochs) is int and pace.epoch is not None and ("epoch_limit", epochs) not in said:
        gone = max(epochs - pace.epoch, 0)
        left = math.inf if total is None or step is None or type(iters) is int else max(total - step, 0)
        if not gone:
            text = f"Epoch limit: epoch {pace.epoch:,} of {epochs:,} is the last"
        else:
            some = f"{gone:,} epoch{'s' if gone != 1 else ''}"
            about = f", about {left:,.0f} steps{_time(facts, left)}" if math.isfinite(left) else ""
            text = f"Epoch limit in {some}{about}"
        yield _Stop(left if math.isfinite(left) else QUIET, text)


def _limit(facts: RunFacts, event: Decided, trained: float) -> _Stop:
    """A limit that a rule has said: where it lies, and how far that is."""
    at, pace, name = event.best or 0.0, facts.pace, shown(event.author)
    left: float | None = None
    if event.verdict == "step_limit" and pace.step is not None:
        left = max(at - pace.step, 0)
        text = (
            f"Step limit in {left:,.0f} steps{_time(facts, left)}" if left else f"Step limit reached: {at:,.0f} steps"
        )
    elif event.verdict == "epoch_limit" and event.value is not None and pace.epoch is not None:
        gone = max(at - pace.epoch, 0)
        text = f"Epoch limit in {gone:,.0f} epoch{'s' if gone != 1 else ''}" if gone else "Epoch limit reached"
        left = None if gone else 0
    elif event.verdict in ("time_limit", "deadline") and facts.time is not None:
        what = "Time limit" if event.verdict == "time_limit" else "Deadline"
        gone = facts.trained - trained + (event.value or 0.0) if event.verdict == "time_limit" else facts.time
        seconds = max(at - gone, 0.0)
        if facts.paused is not None and event.verdict == "time_limit":
            seconds += max(facts.time - facts.paused.time, 0.0)
        training = " of training" if event.verdict == "time_limit" else ""
        text = f"{what} in {format_duration(seconds)}{training}" if seconds else f"{what} reached"
        left = seconds * pace.mean_rate if pace.mean_rate else None if seconds else 0
    else:
        return _Stop(QUIET, f"{name}: {shown(event.reason)}")
    return _Stop(QUIET if left is None else left, f"{text}, says {name}")


def _limits_in(facts: RunFacts, saved: Any, kind: str) -> str:
    """Return the limits that a rule has said, as its state has them."""
    said = saved["state"].get("said")
    found = []
    for verdict, at in said.items() if isinstance(said, Mapping) else ():
        if isinstance(at, int | float) and abs(at) < HUGE:  # neither is NaN
            found.append(
                {
                    "step_limit": f"step limit of {at:,.0f}",
                    "epoch_limit": f"epoch limit of {at:,.0f}",
                    "time_limit": f"time limit of {format_duration(at)} of training",
                    "deadline": f"deadline in {format_duration(at - (facts.time or at))}",
                }.get(str(verdict), "")
            )
    what = "a time limit" if kind == "timer" else "a limit of steps or epochs"
    return ", ".join(one for one in found if one) or f"{what}, which it has not reached"


def _time(facts: RunFacts, steps: float) -> str:
    """Return how long steps take, in brackets; "" if that is not known."""
    rate = facts.pace.mean_rate
    return f" ({format_duration(steps / rate)})" if rate and steps > 0 else ""


def _stopping(facts: RunFacts, ruling: Ruling) -> _Stop:
    newest = ruling.newest
    patience = newest.patience
    name, key = shown(ruling.author), newest.monitor
    if patience is None:
        return _Stop(QUIET + 1, f"{name} on {key}: {shown(newest.verdict)}", "plain", key)
    if newest.verdict == "stop":
        return _Stop(0, f"{name} on {key}: {shown(newest.reason)}", "warn", key)
    checks = f"{newest.wait:,} of {patience:,} checks without gain"
    left, interval = max(patience - newest.wait, 1), ruling.interval
    level: Level = "warn" if newest.wait and 2 * newest.wait >= patience else "plain" if newest.wait else "quiet"
    if interval is None:
        return _Stop(QUIET, f"{name} on {key}: {checks}", level, key)
    steps = left * interval - max((facts.pace.step or 0) - ruling.steps[-1], 0)
    steps = max(steps, 1.0)
    return _Stop(
        steps,
        f"{name} on {key}: {checks}, fires in about {steps:,.0f} steps{_time(facts, steps)} at the earliest",
        level,
        key,
    )


def _plateau(ruling: Ruling) -> _Stop:
    """A rule that does not stop, but changes a parameter first."""
    newest = ruling.newest
    checks = "" if newest.patience is None else f": {newest.wait:,} of {newest.patience:,} checks without gain"
    if newest.verdict in ("reduced", "at_bound", "cooldown"):
        said = {"reduced": "has just reduced", "at_bound": "is at its bound", "cooldown": "is cooling down"}
        checks = f": {said[newest.verdict]}"
    return _Stop(
        QUIET + 1, f"{shown(ruling.author)} on {newest.monitor} (stops nothing){checks}", "quiet", newest.monitor
    )


def _guard(name: str, ruling: Ruling) -> _Stop:
    acted = ruling.acted
    on = f" on {next(iter(ruling.monitors))}" if len(ruling.monitors) == 1 else ""
    if acted is None:
        return _Stop(QUIET + 2, f"{shown(name)}{on}: quiet so far", "quiet")
    if acted.verdict == "recovered":
        since = "" if acted.step is None else f" since step {acted.step:,}"
        return _Stop(QUIET + 2, f"{shown(name)}{on}: quiet{since}", "quiet", acted.monitor)
    return _Stop(QUIET - 1, f"{shown(name)}{on}: {shown(acted.reason) or shown(acted.verdict)}", "warn", acted.monitor)
