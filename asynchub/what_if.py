"""What another rule would have done: control subscribers tried on a recorded run.

The very objects that decide in a live run decide here, on the same events in the same order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.events import Event, ScalarUpdated
from asynchub.requests import StopRequested
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.testing import Drive

__all__ = ("Outcome", "early_stopping", "try_rule", "what_if_table")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule would have done to a recorded run.

    Attributes:
        rule: the rule, as it was asked for.
        monitor: the key it watched.
        checks: values of that key in the whole run.
        stop: the request to stop, or None if the rule would have let the run go on.
        checks_until_stop: values it had seen when it stopped.
        best: best value of the key up to the stop.
        best_step: the step of that value.
        best_of_run: best value of the whole run.
        last_step: the last step of the run.
    """

    rule: str
    monitor: str
    checks: int
    stop: StopRequested | None
    checks_until_stop: int
    best: float | None
    best_step: int | None
    best_of_run: float | None
    last_step: int


def early_stopping(rule: str) -> EarlyStopping:
    """Return the rule that ``monitor[:mode][:name=value]…`` describes, e.g. ``val/accuracy:max:patience=3``.

    Raises:
        ArgumentError: it is malformed, or ``EarlyStopping`` refuses an argument.
    """
    monitor, *parts = rule.split(":")
    arguments: dict[str, Any] = {}
    for part in parts:
        name, separator, text = part.partition("=")
        if not separator:
            arguments["mode"] = name
            continue
        try:
            arguments[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[name] = text
    try:
        return EarlyStopping(monitor, **arguments)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{rule!r} is not a rule: {error}; write e.g. val/accuracy:max:patience=3:min_delta=0.001"
        ) from error


def try_rule(rule: str, events: Sequence[Event]) -> Outcome:
    """Run the early-stopping ``rule`` over ``events`` until it asks to stop.

    Raises:
        ArgumentError: the rule is malformed, or the run has no values of its key.
    """
    stopping = early_stopping(rule)
    monitor = stopping.monitor
    values = [event for event in events if isinstance(event, ScalarUpdated) and event.key == monitor]
    if not values:
        keys = sorted({event.key for event in events if isinstance(event, ScalarUpdated)})
        raise ArgumentError(f"the run has no {monitor!r}; it has {', '.join(keys) or 'no scalars'}")
    driven = Drive(stopping)
    stop = None
    seen: list[ScalarUpdated] = []
    for event in values:
        seen.append(event)
        stop = next((one for one in driven.send(event) if isinstance(one, StopRequested)), None)
        if stop is not None:
            break
    driven.close()
    better = max if stopping.mode == "max" else min
    best, best_step = _best(seen, better)
    return Outcome(
        rule=rule,
        monitor=monitor,
        checks=len(values),
        stop=stop,
        checks_until_stop=len(seen),
        best=best,
        best_step=best_step,
        best_of_run=_best(values, better)[0],
        last_step=max(event.step or 0 for event in events),
    )


def _best(values: Iterable[ScalarUpdated], better: Any) -> tuple[float | None, int | None]:
    finite = [(event.value / event.count, event.step) for event in values if event.count and event.value == event.value]
    if not finite:
        return None, None
    best = better(value for value, _ in finite)
    return best, next(step for value, step in finite if value == best)


def what_if_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table of what each rule would have done, for people."""
    width = max(len("rule"), *(len(outcome.rule) for outcome in outcomes))
    lines = [
        f"{'rule':<{width}}  {'stops at step':>13}  {'checks':>9}  {'best kept':>10}  {'of run':>10}  "
        f"{'steps saved':>11}"
    ]
    for one in outcomes:
        stop = "never" if one.stop is None else str(one.stop.step)
        saved = "0" if one.stop is None else f"{one.last_step - (one.stop.step or 0)}"
        share = f"{100 * int(saved) / one.last_step:.0f} %" if one.last_step else "0 %"
        lines.append(
            f"{one.rule:<{width}}  {stop:>13}  {f'{one.checks_until_stop}/{one.checks}':>9}  {_number(one.best):>10}  "
            f"{_number(one.best_of_run):>10}  {f'{saved} ({share})':>11}"
        )
    lines += [f"  {one.rule}: {one.stop.reason}" for one in outcomes if one.stop is not None]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
