"""The values of a run that has no journal, or whose journal begins later: from its snapshots, or from its log.

Bad: lines of a log that say a value which none can be are left out, and counted in ``problem``. A number that no double
    can hold is an infinity as a value, and no epoch.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import of_values
from asynchub.dashboard.growing import Owned, together
from asynchub.dashboard.saying import epoch_of
from asynchub.dashboard.sifting import HUGE
from asynchub.errors import AsyncHubError, CorruptStateError
from asynchub.events import InfoUpdated, ScalarUpdated
from asynchub.generations import list_generations
from asynchub.history import NO_STEP
from asynchub.journal.recovering import recover
from asynchub.subscribers.jsonl import read_jsonl

__all__ = ("LOG", "Deleted", "Past", "outside", "past_of_log", "past_of_snapshots", "past_outside")

LOG = "metrics.jsonl"
"""Name of a file of ``JsonlLogger``."""


@dataclass(slots=True)
class Past:
    """Values of a run.

    Attributes:
        keys: their keys, by number.
        values: they, in the order of ``seq``.
        epochs: ``seq`` and value of each update of the runtime info ``epoch`` that is known.
        problem: what is wrong with where they came from, in words.
    """

    keys: list[str]
    values: Owned
    epochs: list[tuple[int, float]] = field(default_factory=list)
    problem: str = ""

    @property
    def seqs(self) -> Array:
        """The ``seq`` of each value."""
        return self.values.rows.first_seq


class Deleted:
    """What snapshots have of the events that a journal has deleted; what was read last is kept."""

    def __init__(self) -> None:
        self._known: tuple[Path, int, Past | None] | None = None

    def upto(self, run: Path, seq: int) -> Past | None:
        """Return the values up to a ``seq``; None if there is no snapshot, or none that can be read."""
        if self._known is None or self._known[:2] != (run, seq):
            past: Past | None = None
            with suppress(AsyncHubError, OSError):
                past = past_of_snapshots(run, seq)
            self._known = (run, seq, past)
        return self._known[2]

    def forget(self) -> None:
        """Let go of what was read."""
        self._known = None


def outside(folder: Path) -> Path | None:
    """Return the file that says most of a run without a journal: its newest snapshot, else its log; None without one.

    Args:
        folder: of the run, or its log.
    """
    if not folder.is_dir():
        return folder if folder.is_file() else None
    log = folder / LOG
    return next(iter(list_generations(folder)), log if log.is_file() else None)


def past_outside(folder: Path, path: Path) -> Past:
    """Return the values of a run without a journal, of which ``outside`` has returned a file.

    Raises:
        OSError: they cannot be read.
        StateError: no snapshot can be read.
    """
    return past_of_log(path) if path in (folder, folder / LOG) else past_of_snapshots(folder)


def past_of_snapshots(run: Path, upto: float = float("inf")) -> Past:
    """Return what a run's newest state has of its values.

    Args:
        run: its folder.
        upto: the last ``seq`` that is wanted.

    Raises:
        FileNotFoundError: there is no snapshot.
        StateError: none can be read.
    """
    scalars, infos = recover(run, on_unknown="keep").recorded(0)
    parts = []
    for number, (_, _, records) in enumerate(scalars):
        kept = records.seqs <= upto
        seqs, times, steps, numbers, counts = (column[kept] for column in records)
        parts.append(Owned(np.full(len(seqs), number), of_values(steps, numbers, counts, seqs, times)))
    values = together(parts, 1)
    epochs = [(one.seq, epoch) for one in infos if (epoch := epoch_of(one)) is not None]
    order = np.argsort(values.rows.first_seq, kind="stable")
    return Past([key for key, _, _ in scalars], values.take(order), [one for one in epochs if one[0] <= upto])


def past_of_log(path: Path) -> Past:
    """Return the values in a file of ``JsonlLogger``, up to the first line that is damaged.

    Raises:
        OSError: it cannot be read.
    """
    numbers: dict[str, int] = {}
    found: list[ScalarUpdated] = []
    bad: list[ScalarUpdated] = []
    past = Past([], Owned.none())
    try:
        for event in read_jsonl(path):
            if isinstance(event, ScalarUpdated) and _is_value(event):
                numbers.setdefault(event.key, len(numbers))
                found.append(event)
            elif isinstance(event, ScalarUpdated):
                bad.append(event)
            elif isinstance(event, InfoUpdated) and _counts(event.seq) and (epoch := epoch_of(event)) is not None:
                past.epochs.append((event.seq, epoch))
        if bad:
            past.problem = f"{path}: left out {len(bad)} lines that say no value, the first of key {bad[0].key!r:.80}"
    except CorruptStateError as error:
        past.problem = str(error)
    values, counts = np.empty(len(found), object), np.empty(len(found), object)
    values[:], counts[:] = [event.value for event in found], [event.count for event in found]
    rows = of_values(
        np.array([NO_STEP if event.step is None else event.step for event in found], np.int64),
        values,
        counts,
        np.array([event.seq for event in found], np.int64),
        np.array([event.time for event in found], np.float64),
    )
    past.keys = list(numbers)
    past.values = Owned(np.array([numbers[event.key] for event in found], np.int64), rows)
    return past


def _is_value(event: ScalarUpdated) -> bool:
    """Tell whether the fields of an event are what they are said to be: a log may hold anything."""
    step = 0 if event.step is None else event.step
    if not isinstance(event.key, str) or not isinstance(event.value, int | float) or not isinstance(event.count, int):
        return False
    try:
        return _counts(event.seq) and isinstance(step, int) and abs(step) < HUGE and math.isfinite(event.time)
    except (OverflowError, TypeError):  # the time is none
        return False


def _counts(seq: object) -> bool:
    """Tell whether a run may count its events by it."""
    return isinstance(seq, int) and 0 <= seq < HUGE
