"""Why will a run stop? Its limits and its rules, the first to fire first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.marks import shown
from asynchub.dashboard.rulings import Ruling, kind_in_state
from asynchub.dashboard.screen import Level, Line
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


def stop_lines(facts: RunFacts, is_over: bool) -> tuple[Line, ...]:
    """Return why a run will stop; of one that is over, why it did."""
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
    found = sorted(_stops(facts), key=lambda one: one.left)
    for number, one in enumerate([] if is_over else found):
        first = number == 0 and one.left < QUIET and len(found) > 1
        lines.append(Line(shown(f"{one.text} (first to fire)" if first else one.text), one.level, one.key))
    if is_over and not lines:
        lines.append(Line("Nobody has asked it to stop", "quiet"))
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
    for name, saved in states.items():
        if isinstance(name, str) and name not in facts.rulings.known:
            kind = kind_in_state(saved)
            if kind in ("guard", "spike", "stopping"):
                yield _Stop(QUIET + 2, f"{shown(name)}: quiet so far", "quiet")
            elif kind in ("timer", "limit"):
                what = "a time limit" if kind == "timer" else "a limit of steps or epochs"
                yield _Stop(QUIET + 1, f"{shown(name)}: {what}, which it has not reached", "quiet")


def _limits(facts: RunFacts) -> Iterator[_Stop]:
    pace = facts.pace
    total, step, epochs = pace.total, pace.step, facts.infos.get("max_epochs")
    iters = facts.infos.get("max_iters")
    if type(iters) is int and step is not None:
        steps = max(iters - step, 0)
        text = (
            f"Step limit in {steps:,} steps{_time(facts, steps)}" if steps else f"Step limit reached: {iters:,} steps"
        )
        yield _Stop(steps, text)
    if type(epochs) is int and pace.epoch is not None:
        gone = max(epochs - pace.epoch, 0)
        left = math.inf if total is None or step is None or type(iters) is int else max(total - step, 0)
        if not gone:
            text = f"Epoch limit: epoch {pace.epoch:,} of {epochs:,} is the last"
        else:
            some = f"{gone:,} epoch{'s' if gone != 1 else ''}"
            about = f", about {left:,.0f} steps{_time(facts, left)}" if math.isfinite(left) else ""
            text = f"Epoch limit in {some}{about}"
        yield _Stop(left if math.isfinite(left) else QUIET, text)


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
