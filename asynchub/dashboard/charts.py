"""The few curves of a run that matter most, and the best value of each: exact, with its step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np

from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.growing import LEVELS
from asynchub.dashboard.marks import shown
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Chart
from asynchub.errors import AsyncHubError
from asynchub.patterns import matcher
from asynchub.subscribers.display import RESULT_KEYS, format_quantity

__all__ = ("MOST", "Bests", "Choice", "chosen", "main_keys")

MOST = 4
"""Charts on the first screen."""
LOSSES = ("train/loss", "loss", "train_loss", "training/loss", "train/loss_epoch", "train/total_loss")
GUESSES = ("lr", "train/lr", "learning_rate", "grad_norm", "train/grad_norm")
SECONDS = ("hub/**", "device/**", "data/**")
"""Keys that are about the machinery, which has no charts where there are others."""
Mode = Literal["min", "max", ""]


def chosen(facts: RunFacts, keys: Iterable[str]) -> dict[str, tuple[str, Mode]]:
    """Return the keys of the charts in their order, each with why, and which of its values are better."""
    known = dict.fromkeys(keys)
    states = facts.states
    found: dict[str, tuple[str, Mode]] = {}
    watched: dict[str, tuple[str, Mode]] = {}
    rank = {"stopping": 0, "plateau": 1, "spike": 2, "guard": 3, "other": 4}
    rulings = sorted(facts.rulings.known.values(), key=lambda one: rank.get(one.kind(states), 5))
    for ruling in rulings:
        for key in ruling.monitors:
            if key in known and key not in watched:
                watched[key] = (f"watched by {shown(ruling.author)}", ruling.mode)
    monitored = [key for key in watched if _is_monitored(facts, key)]
    for key in monitored[: MOST - 1]:
        found[key] = watched[key]
    for key, why in _ordered(known):
        if why == "loss":
            found.setdefault(key, watched.get(key, ("the training loss", "")))
            break
    for key, (why, mode) in watched.items():
        found.setdefault(key, (why, mode))
    for key, why in _ordered(known):
        found.setdefault(key, (why, ""))
    return dict(list(found.items())[:MOST])


def _is_monitored(facts: RunFacts, key: str) -> bool:
    """Tell whether a rule decides by a scalar getting better."""
    return any(
        key in ruling.monitors and ruling.kind(facts.states) in ("stopping", "plateau")
        for ruling in facts.rulings.known.values()
    )


def _ordered(known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield keys in the order in which they are likely to matter, with why."""
    keys = list(known)
    loss = next((key for key in LOSSES if key in keys), None) or next((key for key in keys if _is_loss(key)), None)
    if loss is not None:
        yield loss, "loss"
    is_result, is_second = matcher(RESULT_KEYS), matcher(SECONDS)
    results = [key for key in keys if is_result(key)]
    for key in sorted(results, key=lambda key: not key.endswith(("loss", "acc", "accuracy"))):
        yield key, "a result of evaluation"
    for key in GUESSES:
        if key in keys:
            yield key, "steers training"
    others = [key for key in keys if not is_second(key)]
    for key in others or keys:
        yield key, "one of its scalars"


def _is_loss(key: str) -> bool:
    return key.rsplit("/", 1)[-1].lower().endswith("loss") and not key.startswith(("val", "eval", "test"))


def main_keys(facts: RunFacts, charts: Iterable[str], most: int) -> list[str]:
    """Return keys whose newest values stand in a list of runs: those of the charts, then others."""
    keys = dict.fromkeys([*charts, *islice(facts.newest, most)])
    return [key for key in islice(keys, most) if key in facts.newest]


class Choice:
    """The charts of a run, which are chosen anew only when it has other keys, or its rules say something else."""

    def __init__(self) -> None:
        self._facts: RunFacts | None = None
        self._made_of: tuple[object, ...] = ()
        self._found: dict[str, tuple[str, Mode]] = {}

    def of(self, facts: RunFacts, keys: Collection[str]) -> dict[str, tuple[str, Mode]]:
        """Return what ``chosen`` does.

        Args:
            facts: of the run.
            keys: its scalars; of the same facts and the same number they are the same ones.
        """
        states = facts.states
        rules = [
            (one.author, one.kind(states), one.mode, len(one.monitors)) for one in list(facts.rulings.known.values())
        ]
        made_of = (len(keys), rules)
        if facts is not self._facts or made_of != self._made_of:
            self._found = chosen(facts, keys)
            self._facts, self._made_of = facts, made_of
        return self._found


class Bests:
    """The best value of scalars of a run, which is looked for anew only when it has changed.

    Args:
        run: of which run.
    """

    def __init__(self, run: Pyramid) -> None:
        self._run = run
        self._known: dict[tuple[str, Mode], tuple[float, int, int | None]] = {}

    def best(self, key: str, mode: Mode) -> tuple[float, int | None] | None:
        """Return the best value of a key and the step of the first that has it; None if there is none.

        The step is None if the journal does not have the value any more. Raises nothing about the run.
        """
        if not mode:
            return None
        try:
            return self._best(key, mode)
        except (AsyncHubError, OSError):  # whoever follows the run says so
            return None

    def _best(self, key: str, mode: Mode) -> tuple[float, int | None] | None:
        run = self._run
        rewinds = len(run.rewinds)
        value = self._extreme(key, mode, LEVELS - 1)
        if value is None:
            return None
        known = self._known.get((key, mode))
        if known is not None and known[:2] == (value, rewinds):
            return value, known[2]
        rows = run.rows(key, 0)
        column = rows.min if mode == "min" else rows.max
        which = np.flatnonzero(column == value)[:1]
        values = run.values(key, rows.take(which)) if len(which) else None
        step = None
        if values is not None:
            exact = np.flatnonzero(values.min == value)
            step = int(values.first[exact[0]]) if len(exact) else None
        self._known[key, mode] = value, rewinds, step
        return value, step

    def _extreme(self, key: str, mode: Mode, level: int) -> float | None:
        rows = self._run.rows(key, level)
        least = mode == "min"
        value = float((np.fmin if least else np.fmax).reduce(rows.min if least else rows.max, initial=np.nan))
        return None if np.isnan(value) else value

    def chart(self, key: str, why: str, mode: Mode) -> Chart:
        """Return a chart."""
        best = self.best(key, mode)
        if best is None:
            return Chart(key, shown(why), mode)
        value, step = best
        at = "" if step is None else f" at step {step:,}"
        return Chart(key, shown(why), mode, value, step, f"best {format_quantity(key, value)}{at}")
