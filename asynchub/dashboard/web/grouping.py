"""Which runs belong together: those whose programs said the same of an info.

Stable: a group has a colour of its own, which is kept as those of runs are, so that another group, or a run more, never
    changes it.
Threads: one, the server's ``Worker``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from asynchub.dashboard.comparing import MISSING, differences
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.groups import Group, group_curve, grouped
from asynchub.dashboard.screen import Colour, RunRow
from asynchub.dashboard.web.looked_at import Runs
from asynchub.dashboard.web.wire import SeriesNow, empty_series, series_now
from asynchub.subscribers.display import one_line

__all__ = ("Grouping", "RunGroup", "grouped_series")

FRESH = 1.0
"""Seconds for which it is known who belongs together: as long as a list of runs is."""
MOST_NAMES = 40
"""Infos by which runs can be grouped, at most, that are told with a list."""
LONGEST = 80
"""Letters of a label."""


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Some runs.

    Attributes:
        id: identity of the group among those of the same info.
        label: what it is called.
        runs: row ids of its runs.
        colour: its colour.
    """

    id: str
    label: str
    runs: tuple[str, ...]
    colour: Colour


class Grouping:
    """Puts runs into groups.

    Args:
        runs: that are looked at.
        colours: gives each of some names a colour, which stays.
    """

    def __init__(self, runs: Runs, colours: Callable[[Sequence[str]], list[Colour]]) -> None:
        self._runs = runs
        self._colours = colours
        self._known: dict[tuple[str, tuple[str, ...]], tuple[float, tuple[RunGroup, ...]]] = {}
        self._names: tuple[tuple[Mapping[str, str], ...], list[str]] = ((), [])

    def of(self, name: str, runs: tuple[str, ...]) -> tuple[RunGroup, ...]:
        """Return the groups of some runs by what they said of an info, in the order of that.

        Args:
            name: of the info.
            runs: row ids; unknown ones are in no group.
        """
        now = time.monotonic()
        self._known = {asked: one for asked, one in self._known.items() if now - one[0] < FRESH}
        if (name, runs) not in self._known:
            self._known[name, runs] = now, self._made(name, set(runs))
        return self._known[name, runs][1]

    def _made(self, name: str, runs: set[str]) -> tuple[RunGroup, ...]:
        found = grouped([row for row in self._runs.rows("") if row.id in runs], name)
        colours = self._colours([f"group {name}={value}" for value in found])
        labels = [f"{name} not said" if value == MISSING else f"{name} = {value}" for value in found]
        return tuple(
            RunGroup(f"={value}", one_line(label)[:LONGEST], tuple(row.id for row in rows), colour)
            for (value, rows), label, colour in zip(found.items(), labels, colours, strict=True)
        )

    def names(self, rows: Sequence[RunRow]) -> list[str]:
        """Return the infos in which runs differ, by which they can be grouped; those with the fewest values first."""
        configs = tuple(row.config for row in rows)
        before, names = self._names
        if len(before) != len(configs) or any(one is not other for one, other in zip(before, configs, strict=True)):
            names = list(differences(rows).names[:MOST_NAMES])
            self._names = configs, names
        return names


def grouped_series(
    groups: Sequence[RunGroup], curves: Mapping[str, Curve], axis: str
) -> tuple[dict[str, Group], list[SeriesNow]]:
    """Return what groups have in common, by their ids, without those that have nothing; and how all are sent.

    Args:
        groups: they.
        curves: of one key, by run; runs without one are passed over.
        axis: on which they are, which must be that of steps.
    """
    shown: dict[str, Group] = {}
    series: list[SeriesNow] = []
    for group in groups:
        found = [curve for run in group.runs if (curve := curves.get(run)) is not None and curve.points]
        head = {"group": {"label": group.label, "runs": len(found), "colour": asdict(group.colour)}}
        if not found:
            none = empty_series(group.id, f"{group.label}: no run has a value there", axis)
            series.append(none._replace(head=none.head | head))
            continue
        made = group_curve(group.label, found)
        if len(found) < len(group.runs):
            note = f"{group.label}: only {len(found):,} of {len(group.runs):,} runs have values"
            made = replace(made, curve=replace(made.curve, note=note))
        shown[group.id] = made
        now = series_now(group.id, made.curve, between=(made.low, made.high))
        series.append(now._replace(head=now.head | head))
    return shown, series
