"""What is wrong with a run: values that are none, what failed and is not over, what is missing or damaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.marks import shown
from asynchub.dashboard.screen import Level, Line
from asynchub.dashboard.wording import not_finite_in_words
from asynchub.pipeline.cells import known
from asynchub.subscribers.display import format_quantity

__all__ = ("alert_lines",)

MOST = 8
"""Lines of one sort; of more, the number is said."""
RANK = {"bad": 0, "warn": 1, "plain": 2, "good": 3, "quiet": 4}
SKEW = 5.0
"""Seconds by which two clocks may differ without a word."""


def alert_lines(
    facts: RunFacts, damages: Iterable[str], problems: Iterable[str], skew: float | None
) -> tuple[Line, ...]:
    """Return what is wrong, the worst first.

    Args:
        facts: of the run.
        damages: of its journal, in words.
        problems: what else is wrong with its folder or with what is kept of it, in words.
        skew: seconds by which this machine's clock is ahead of the run's; None if that is not known.
    """
    lines = [*_some(list(_not_finite(facts)), "scalars with values that are not finite")]
    lines += _some([Line(shown(damage), "bad") for damage in damages], "places that are damaged")
    lines += [Line(shown(problem), "warn") for problem in problems if problem]
    lines += _some(list(_troubles(facts)), "troubles")
    if facts.missed:
        lines.append(Line(f"{facts.missed:,} events are missing: nobody has them any more", "warn"))
    lines += _dropped(facts)
    count, _, seconds = facts.backs
    if count:
        times = "" if count == 1 else f" {count:,} times, the last time"
        lines.append(Line(f"the clock of the run went back{times} by {format_quantity('_s', seconds)}", "warn"))
    if skew is not None and abs(skew) > SKEW:
        way = "behind" if skew > 0 else "ahead of"
        lines.append(Line(f"the clock of the run is {format_quantity('_s', abs(skew))} {way} this one", "warn"))
    return tuple(sorted(lines, key=lambda line: RANK[line.level]))


def _some(lines: list[Line], what: str) -> list[Line]:
    if len(lines) <= MOST:
        return lines
    lines.sort(key=lambda line: RANK[line.level])
    return [*lines[:MOST], Line(f"… and {len(lines) - MOST:,} more {what}", lines[MOST].level)]


def _not_finite(facts: RunFacts) -> Iterator[Line]:
    for key, found in sorted(facts.not_finite.items(), key=lambda one: -one[1].total):
        words = not_finite_in_words(found.nan, found.plus_inf, found.minus_inf)
        newest = facts.newest.get(key)
        mean = None if newest is None else newest.mean
        still = isinstance(mean, float) and not math.isfinite(mean)
        level: Level = "bad" if still else "warn"
        where = ""
        if found.first is not None and found.last is not None:
            single = found.first == found.last
            where = f", step {found.first:,}" if single else f", steps {found.first:,} to {found.last:,}"
        now = ", and still" if still else ""
        yield Line(f"{words} in {shown(key)}{where}{now}", level, key, found.first, found.last)


def _troubles(facts: RunFacts) -> Iterator[Line]:
    for trouble in facts.troubles.known(facts.time):
        times = "" if trouble.count == 1 else f" ({trouble.count:,} times)"
        yield Line(f"{trouble.text}{times}", trouble.level, start=trouble.step, stop=trouble.step)


def _dropped(facts: RunFacts) -> Iterator[Line]:
    prefix = "hub/dropped/"
    for key, newest in facts.newest.items():
        lost = known(newest.mean) if key.startswith(prefix) else None
        if lost:
            name = shown(key.removeprefix(prefix))
            yield Line(f"{name} has lost {lost:,.0f} events: it fell behind", "warn", key)
