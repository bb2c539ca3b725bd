"""What another rule would have done to the runs that are drawn: asked for in a thread, again until all are replayed.

Same: texts and figures are those of whoever tries the rule, as the page shows them, too.
Bounded: nobody waits for it. What is tried in its place, or taken off, is forgotten at once; after ``LONGEST`` seconds
    nobody asks any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Mark, Screen
from asynchub.dashboard.terminal.look import clean, narrow
from asynchub.tables import Column, table_lines

__all__ = ("Stop", "Trial", "TrialRow", "Trying", "WhatIf", "example", "table_of")

AGAIN = 0.25
"""Seconds from one look for what is ready to the next."""
LONGEST = 600.0
EXAMPLE = ("val/accuracy", "max")
RESERVED = frozenset(":,=()[]{}'\"")
"""Letters that a rule needs for itself."""

Stop = tuple[str, Mark]
"""The id of a run, and where a rule would have stopped it."""


class TrialRow(Protocol):
    """What a rule would have done to a run.

    Attributes:
        run: its id.
        rule: the rule, as text.
        stop: the step at which it would have stopped it; None if it would not.
        cells: what is to stand below the heads; empty if there is an error.
        error: why there is nothing to say; "" if there is.
        marks: what it would have decided; a stop is the last.
    """

    @property
    def run(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def stop(self) -> int | None: ...
    @property
    def cells(self) -> tuple[str, ...]: ...
    @property
    def error(self) -> str: ...
    @property
    def marks(self) -> tuple[Mark, ...]: ...


class Trial(Protocol):
    """What is known by now of what rules would have done.

    Attributes:
        rows: run by run, those that are ready.
        waiting: how many runs are not yet replayed.
        heads: what stands above the cells of rows.
        label: what it is, to be shown with it.
        error: why nothing was tried; "" if something was.
    """

    @property
    def rows(self) -> Sequence[TrialRow]: ...
    @property
    def waiting(self) -> int: ...
    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def label(self) -> str: ...
    @property
    def error(self) -> str: ...


WhatIf = Callable[[Mapping[str, Pyramid], str], Trial]
"""Tries a rule on runs, by their ids, and returns at once what is known of that; asked again it knows more."""


class Trying:
    """A rule that is tried.

    Attributes:
        rule: it; "" for none.
        found: what is known of it; None before there is anything.

    Args:
        what_if: tries it.
        changed: called whenever something else is known.
    """

    def __init__(self, what_if: WhatIf, changed: Callable[[], object]) -> None:
        self.rule = ""
        self.found: Trial | None = None
        self._what_if, self._changed = what_if, changed
        self._number = 0

    async def go(self, rule: str, runs: Mapping[str, Pyramid]) -> None:
        """Try a rule in place of the one before, until all is known; "" only takes that off."""
        number = self._number = self._number + 1
        self.rule, self.found = rule, None
        self._changed()
        deadline = time.monotonic() + LONGEST
        while rule and time.monotonic() < deadline:
            found = await asyncio.to_thread(self._what_if, runs, rule)
            if number != self._number:
                return
            self.found = found
            self._changed()
            if not found.waiting:
                return
            await asyncio.sleep(AGAIN)

    @property
    def label(self) -> str:
        """What is to be shown with what is found; "" while nothing is tried."""
        return self.found.label if self.found is not None and self.found.rows else ""

    @property
    def stops(self) -> tuple[Stop, ...]:
        """Where it would have stopped runs."""
        rows = self.found.rows if self.found is not None else ()
        return tuple((row.run, row.marks[-1]) for row in rows if row.stop is not None and row.marks)


def example(screen: Screen | None) -> str:
    """Return a rule that could be tried on a run, to begin with."""
    charts = screen.charts if screen is not None else ()
    key, mode = next(((one.key, one.mode) for one in charts if one.mode and not RESERVED & set(one.key)), EXAMPLE)
    return f"EarlyStopping:{key}:mode={mode}:patience=3"


def table_of(found: Trial, names: Mapping[str, str], width: int) -> tuple[list[str], list[TrialRow]]:
    """Return what was found as lines of a table, that of the heads first, and the row that each other line is of.

    Args:
        found: it; rows that have an error are left out.
        names: of runs, by id.
        width: columns that a line may have.
    """
    rows = [row for row in found.rows if not row.error]
    if not rows:
        return [], []
    columns = [Column("run", [narrow(names.get(row.run, row.run)) for row in rows], text=True)]
    rules = list(dict.fromkeys(row.rule for row in found.rows))
    if len(rules) > 1:
        short = dict(zip(rules, _told_apart(rules), strict=True))
        columns.append(Column("rule", [narrow(short[row.rule]) for row in rows], text=True, least=16))
    columns += [
        Column(clean(head), [narrow(row.cells[number]) for row in rows], rank=number)
        for number, head in enumerate(found.heads)
    ]
    return table_lines(columns, width), rows


def _told_apart(rules: Sequence[str]) -> list[str]:
    """Return rules without the parts that all of them share."""
    parts = [rule.split(":") for rule in rules]
    if len({len(part) for part in parts}) > 1:
        return list(rules)
    differ = [number for number, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    return [":".join(part[number] for number in differ) for part in parts]
