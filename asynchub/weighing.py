"""What rules would have done, side by side: as tables for people, and as JSON.

One table for each kind of rule and each scalar that rules are judged by. What the rules have in common stands above it,
once; the table has a column for each argument that they differ in. A ``*`` marks the rows that no other beats: none
saves more steps and loses no more, or loses less and saves no fewer.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from asynchub.dashboard.marks import LIMITS
from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChanged
from asynchub.rules import written
from asynchub.subscribers.display import format_duration, format_number, format_quantity, one_line
from asynchub.tables import Column, cut, table_lines
from asynchub.what_if import Outcome

__all__ = ("SORTS", "Sort", "outcomes_json", "outcomes_table", "runs_table")

Sort = Literal["rule", "saved", "worse"]
"""The order of rows: as the rules were given; the most steps saved first; the best kept first."""
SORTS: tuple[Sort, ...] = ("rule", "saved", "worse")
LEAST = 40
"""Characters of a line that notes are wrapped at, at least."""
FEW = 3
"""Rows of a table up to which the reasons stand below it; arguments that have a column each though some lack them."""
CHANGING = {"SkipRequested", "RollbackRequested"}
"""Requests after which a run goes another way."""
_PLURALS = {"SkipRequested": "skips", "RollbackRequested": "rollbacks", "CheckpointSaved": "checkpoints"}


def outcomes_table(outcomes: Sequence[Outcome], *, width: int = 120, sort: Sort = "rule") -> str:
    """Return tables of what rules would have done to one run.

    Args:
        outcomes: of one run, as ``asynchub.what_if.what_if`` returns them.
        width: characters that a line may have, if that can be kept.
        sort: the order of rows.

    Raises:
        ArgumentError: ``sort`` is none of these.
    """
    blocks = []
    for group in _groups(outcomes):
        rows = _sorted([(one,) for one in group], sort)
        ordered = [row[0] for row in rows]
        columns = [*_arguments(ordered), _marks(rows), *_stops(ordered), *_changes(ordered), *_requests(ordered)]
        columns += _verdicts(ordered)
        below = [*_reasons(ordered), *_failures(ordered)]
        blocks.append("\n".join([_title(ordered), _facts(ordered[0]), *table_lines(columns, width), *below]))
    return _together(blocks, outcomes, width)


def runs_table(outcomes: Sequence[Outcome], *, width: int = 120, sort: Sort = "rule") -> str:
    """Return tables of what rules would have done to several runs: a row for each rule, over all runs.

    Args:
        outcomes: of the same rules on each run.
        width: as of ``outcomes_table``.
        sort: the order of rows, by the means over the runs.

    Raises:
        ArgumentError: ``sort`` is none of these.
    """
    blocks = []
    for group in _groups(outcomes):
        by_rule: dict[int, list[Outcome]] = {}
        for one in group:
            by_rule.setdefault(id(one.rule), []).append(one)
        rows = _sorted([tuple(many) for many in by_rule.values()], sort)
        first = [row[0] for row in rows]
        columns = [*_arguments(first), _marks(rows), *_over_runs(rows)]
        names = [one.run.name for one in rows[0]]
        facts = f"over {len(names)} runs: {', '.join(names)}"
        blocks.append("\n".join([_title(first), cut(facts, width), *table_lines(columns, width), *_failures(group)]))
    return _together(blocks, outcomes, width)


# --- what stands around a table


def _together(blocks: Iterable[str], outcomes: Sequence[Outcome], width: int) -> str:
    notes = [textwrap.fill(note, max(width, LEAST)) for note in _notes(outcomes)]
    return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else [])])


def _groups(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.rule.name, one.judge, one.mode), []).append(one)
    return list(groups.values())


def _title(group: Sequence[Outcome]) -> str:
    """Return the name of the rules, and the arguments that they have in common."""
    first = group[0].rule
    common = [written(name, value) for name, value in first.arguments.items() if name not in _varied(group)]
    return ":".join([first.name, *common])


def _facts(one: Outcome) -> str:
    run = one.run
    said = f"{run.name}: {run.last_step} steps in {_duration(run.seconds)}"
    if one.judge and one.best_of_run is not None:
        said += f"; best {one.judge} {_number(one.best_of_run)} ({one.mode}) of {one.checks} values"
    return said


def _reasons(group: Sequence[Outcome]) -> list[str]:
    """Return a line for each stop, if there are few; where there are many they have a column."""
    if len(group) > FEW:
        return []
    return [f"stops at {_stop(one)}: {_why(one)}" for one in group if one.stop is not None]


def _failures(group: Iterable[Outcome]) -> list[str]:
    """Return a line for each rule that failed."""
    return [
        f"{one.rule} failed on {one.run.name} after {one.handled} events: {type(one.error).__name__}: {one.error}"
        for one in group
        if one.error is not None
    ]


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what must be known to read the tables right."""
    notes = []
    if any(len({_weight((one,)) for one in group}) > 1 for group in _groups(outcomes)):
        notes.append("* no other row saves more and loses no more, or loses less and saves no fewer.")
    if any(one.answers.changes or CHANGING & one.answers.requests.keys() for one in outcomes):
        notes.append(
            "A rule that changes the run is shown on the values as recorded: after its first change a live run would "
            "have had others."
        )
    forgetful = dict.fromkeys(one.run.name for one in outcomes if one.run.infos_lost and one.wants_infos)
    notes += [f"{run} has no journal: of each runtime info, only the newest value is known." for run in forgetful]
    blind = {(one.rule.name, one.run.name) for one in outcomes if not one.handled and one.error is None}
    notes += [f"{rule} was sent nothing: {run} has none of its events." for rule, run in sorted(blind)]
    missed = {one.run.name: one.run.missed for one in outcomes if one.run.missed}
    notes += [f"{run} lacks {count} events: rules have not seen them." for run, count in missed.items()]
    return notes


# --- columns


def _varied(group: Sequence[Outcome]) -> list[str]:
    """Return the names of the arguments that the rules differ in."""
    names = dict.fromkeys(name for one in group for name in one.rule.arguments)
    missing = object()
    return [name for name in names if len({repr(one.rule.arguments.get(name, missing)) for one in group}) > 1]


def _arguments(group: Sequence[Outcome]) -> list[Column]:
    """Return a column for each argument that the rules differ in; one for all, if they were given different ones."""
    varied = _varied(group)
    given = [{name: one.rule.arguments[name] for name in varied if name in one.rule.arguments} for one in group]
    if len(varied) > FEW and any(len(arguments) < len(varied) for arguments in given):
        cells = [" ".join(written(name, value) for name, value in arguments.items()) for arguments in given]
        return [Column("rule", cells, text=True, least=max(map(len, cells)))]
    return [
        Column(name, ["-" if name not in arguments else _argument(arguments[name]) for arguments in given])
        for name in varied
    ]


def _argument(value: object) -> str:
    return written("", value).removeprefix("=")


def _stops(group: Sequence[Outcome]) -> list[Column]:
    if not any(one.stop for one in group) and any(_does_something_else(one) for one in group):
        return []
    judged = any(one.judge for one in group)
    columns = [Column("stops at", [_stop(one) for one in group])]
    if judged:
        columns += [
            Column("best kept", [_number(one.best) for one in group]),
            Column("of step", ["-" if one.best_step is None else str(one.best_step) for one in group], rank=2),
            Column("worse by", [_number(one.worse_by) for one in group]),
            Column("values", [f"{one.checks_until_stop}/{one.checks}" for one in group], rank=4),
        ]
    return [
        *columns,
        Column("steps saved", [f"{one.steps_saved} ({_percent(one.share_saved):>4})" for one in group]),
        Column("time saved", [_duration(one.seconds_saved) for one in group], rank=1),
        *([Column("why", [_why(one) for one in group], rank=5, text=True, least=48)] if len(group) > FEW else []),
    ]


def _why(one: Outcome) -> str:
    return "" if one.stop is None else one_line(one.stop.reason)


def _does_something_else(one: Outcome) -> bool:
    return bool(one.answers.changes or _others(one) or "lr" in one.rule.arguments)


def _others(one: Outcome) -> dict[str, list[int | None]]:
    return one.answers.requests | one.answers.published


def _changes(group: Sequence[Outcome]) -> list[Column]:
    if not any(one.answers.changes or "lr" in one.rule.arguments for one in group):
        return []
    return [
        Column("changes", [str(len(one.answers.changes)) for one in group]),
        Column("final", [_final(one) for one in group]),
        Column("at step: to", [_when(one) for one in group], text=True),
    ]


def _final(one: Outcome) -> str:
    newest: dict[tuple[str, int | None], Any] = {}
    for change in one.answers.changes:
        newest[change.name, change.group] = change.new if isinstance(change, ParameterChanged) else change.value
    if not newest:
        return "as it was"
    names = {name for name, _ in newest}
    return ", ".join((f"{name} " if len(names) > 1 else "") + _value(value) for (name, _), value in newest.items())


def _when(one: Outcome) -> str:
    """Return the steps of changes and what was changed to; of several groups, the first."""
    said: dict[tuple[int | None, str], str] = {}
    for change in one.answers.changes:
        value = change.new if isinstance(change, ParameterChanged) else change.value
        said.setdefault((change.step, change.name), _value(value))
    return ", ".join(f"{'?' if step is None else step}: {value}" for (step, _), value in said.items())


def _requests(group: Sequence[Outcome]) -> list[Column]:
    """Return what else was asked for or published, and at which steps."""
    kinds = dict.fromkeys(kind for one in group for kind in _others(one))
    columns = []
    for kind in kinds:
        asked = [_others(one).get(kind, []) for one in group]
        name = _PLURALS.get(kind, kind)
        columns.append(Column(name, [str(len(steps)) for steps in asked]))
        listed = [", ".join("?" if step is None else str(step) for step in steps) for steps in asked]
        columns.append(Column(f"{name} at steps", listed, rank=3, text=True))
    return columns


def _verdicts(group: Sequence[Outcome]) -> list[Column]:
    """Return what rules decided if nothing followed from it; that they have said where a limit lies is no decision."""
    if any(one.stop or one.answers.changes or one.answers.requests for one in group):
        return []
    decided = [[one for one in each.answers.verdicts.most_common() if one[0] not in LIMITS] for each in group]
    counts = [", ".join(f"{verdict} {n}" for verdict, n in some) for some in decided]
    return [Column("decided", counts, rank=3, text=True)] if any(counts) else []


def _over_runs(rows: Sequence[tuple[Outcome, ...]]) -> list[Column]:
    columns: list[Column] = []
    every = [one for row in rows for one in row]
    if any(one.stop for one in every) or not any(_does_something_else(one) for one in every):
        columns.append(Column("stops", [f"{sum(one.stop is not None for one in row)} of {len(row)}" for row in rows]))
        columns.append(Column("steps saved", [_percent(_mean(one.share_saved for one in row)) for row in rows]))
        columns.append(Column("time saved", [_duration(sum(one.seconds_saved for one in row)) for row in rows], rank=1))
        if any(one.judge for one in every):
            worst = [max(row, key=_loss) for row in rows]
            columns.append(Column("worse by", [_number(_mean(map(_loss, row))) for row in rows]))
            columns.append(Column("at worst", [_number(one.worse_by) for one in worst]))
            columns.append(Column("in", [one.run.name if one.worse_by else "" for one in worst], rank=2, text=True))
    if any(one.answers.changes or "lr" in one.rule.arguments for one in every):
        columns.append(
            Column("changes", [", ".join(str(len(one.answers.changes)) for one in row) for row in rows], text=True)
        )
    for kind in dict.fromkeys(kind for one in every for kind in _others(one)):
        counts = [", ".join(str(len(_others(one).get(kind, ()))) for one in row) for row in rows]
        columns.append(Column(_PLURALS.get(kind, kind), counts, text=True))
    return columns


def _marks(rows: Sequence[tuple[Outcome, ...]]) -> Column:
    """Return a ``*`` for each row that no other beats, if there is anything to choose from."""
    points = [_weight(row) for row in rows]
    if len(set(points)) < 2:
        return Column("", [""])
    return Column("", ["" if any(_beats(other, one) for other in points) else "*" for one in points])


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] <= other[1]


def _weight(row: Sequence[Outcome]) -> tuple[float, float]:
    """Return the mean share of the steps that a rule saves, and what it loses."""
    return _mean(one.share_saved for one in row), _mean(map(_loss, row))


def _loss(one: Outcome) -> float:
    return 0.0 if one.worse_by is None else one.worse_by


def _sorted(rows: Iterable[tuple[Outcome, ...]], sort: Sort) -> list[tuple[Outcome, ...]]:
    orders: dict[str, Callable[[tuple[Outcome, ...]], Any]] = {
        "rule": lambda row: 0,
        "saved": lambda row: (-_weight(row)[0], _weight(row)[1]),
        "worse": lambda row: (_weight(row)[1], -_weight(row)[0]),
    }
    if sort not in orders:
        raise ArgumentError(f"rows can be sorted by {', '.join(SORTS)}, got {sort!r}")
    return sorted(rows, key=orders[sort])


# --- text


def _stop(one: Outcome) -> str:
    if one.error is not None:
        return "failed"
    return "never" if one.stop is None else "?" if one.stop.step is None else str(one.stop.step)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else format_number(value)


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))


def _duration(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 60 else format_quantity("_s", seconds)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _mean(values: Iterable[float]) -> float:
    held = list(values)
    return math.fsum(held) / len(held)


# --- for machines


def outcomes_json(outcomes: Iterable[Outcome]) -> str:
    """Return outcomes as a JSON array, with all that the tables leave out.

    Numbers that JSON lacks are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
    """
    return json.dumps([_plain(_fields(one)) for one in outcomes], indent=2, allow_nan=False)


def _fields(one: Outcome) -> dict[str, Any]:
    stop, answers, run = one.stop, one.answers, one.run
    return {
        "run": {name: getattr(run, name) for name in ("name", "events", "last_step", "seconds", "missed")},
        "rule": str(one.rule),
        "name": one.rule.name,
        "arguments": dict(one.rule.arguments),
        "judge": one.judge or None,
        "mode": one.mode,
        "stop": None if stop is None else {"step": stop.step, "time": stop.time, "reason": stop.reason},
        "checks": one.checks,
        "checks_until_stop": one.checks_until_stop,
        "best": one.best,
        "best_step": one.best_step,
        "best_of_run": one.best_of_run,
        "worse_by": one.worse_by,
        "steps_saved": one.steps_saved,
        "share_saved": one.share_saved,
        "seconds_saved": one.seconds_saved,
        "changes": [
            {"step": change.step, "name": change.name, "group": change.group, "new": change.new, "old": change.old}
            if isinstance(change, ParameterChanged)
            else {"step": change.step, "name": change.name, "group": change.group, "new": change.value}
            for change in answers.changes
        ],
        "requests": answers.requests,
        "verdicts": dict(answers.verdicts),
        "scalars": dict(answers.scalars),
        "published": answers.published,
        "handled": one.handled,
        "error": None if one.error is None else f"{type(one.error).__name__}: {one.error}",
    }


def _plain(value: Any) -> Any:
    """Return a value in what JSON has."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
