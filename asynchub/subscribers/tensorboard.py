"""A run as TensorBoard shows it: scalars as curves, decisions and settings as text.

    scalar            its key as the tag, the mean per sample as the value, the event's step and time
    without a step    how many updates of its key there were before is taken for it
    decisions         the text ``hub/decisions``, at their steps: requests, parameter changes, failures, checkpoints
    settings          the texts ``hub/cfg``, ``hub/config``, ``hub/hparams``: the runtime infos of these names

Exact: to a float32, which is what TensorBoard keeps, or to a float64 with ``double_precision``. NaN and infinities are
    values like any other.
Killed: what counts as handled is in the file, so a process that is killed loses at most what came in the last
    ``interval``; with a journal that is there for the run that goes on, too.
Resume: what was written after the state was saved is cut off, and kept next to the event files, where readers pass over
    it. Readers that had seen it are told to forget it. What an earlier resume had cut off, and this state has, is
    written again. So a reader has each value that counts once, whatever its step. In a folder that is a URL nothing can
    be cut: readers forget what is beyond the furthest step of the state, and what was left does not come back.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.subscribers.aggregation import Point
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.checks import take_state
from asynchub.subscribers.configs import CONFIG_KEYS, check_config_keys, config_text
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.subscribers.display import DECISIONS, is_failure
from asynchub.subscribers.rows import DECISIONS_KEY, as_float, check_counts, said, step_of
from asynchub.subscribers.tensorboard_cuts import EventCuts
from asynchub.subscribers.tensorboard_writers import EventFile, find_backend, is_remote

__all__ = ("TensorBoardLogger",)

logger = logging.getLogger("asynchub")
LINES = 100
"""Decisions of one step that are shown at most: those that came last."""


class _Written(NamedTuple):
    """What is in the files.

    Attributes:
        name: of the newest file; empty before the first.
        size: bytes of it that count.
        top: the furthest step; None before the first.
        counts: updates of each key.
        rewound: number of the newest cut.
    """

    name: str = ""
    size: int = 0
    top: int | None = None
    counts: Mapping[str, int] = {}
    rewound: int = 0


class TensorBoardLogger(TrackerLogger):
    """Write a run to event files, for TensorBoard.

    Args:
        log_dir: folder of the run; made if it is not there. One logger for each folder.
        purge_step: what readers forget when the logger begins: ``"auto"``, what was written after the state that it is
            resumed from; an int, whatever has that step or a later one, as ``SummaryWriter`` does; None, nothing.
        double_precision: whether values are kept as float64, in a tensor; ``EventAccumulator`` then has them under
            ``Tensors``.
        backend: whose messages: ``"tensorboard"`` or ``"tensorboardX"``; ``"auto"``, the first that is installed.
        decisions: whether decisions and failures are written.
        config: runtime infos that are written as text.
        options: those of ``TrackerLogger``: ``every``, ``aggregate``, ``interval``, ``batch``, …

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
        ModuleNotFoundError: neither package is installed, or not the one that was asked for.
    """

    def __init__(
        self,
        log_dir: str | PathLike[str],
        *,
        purge_step: int | Literal["auto"] | None = "auto",
        double_precision: bool = False,
        backend: Literal["auto", "tensorboard", "tensorboardX"] = "auto",
        decisions: bool = True,
        config: Iterable[str] = CONFIG_KEYS,
        **options: Any,
    ) -> None:
        self._folder = os.fspath(log_dir)
        if not isinstance(self._folder, str) or not self._folder:
            raise ArgumentError(f"log_dir must be the path of a folder, got {log_dir!r}")
        if purge_step not in ("auto", None) and (not isinstance(purge_step, int) or isinstance(purge_step, bool)):
            raise ArgumentError(f"purge_step must be 'auto', a step or None, got {purge_step!r:.80}")
        if backend not in ("auto", "tensorboard", "tensorboardX"):
            raise ArgumentError(f"backend must be 'auto', 'tensorboard' or 'tensorboardX', got {backend!r:.80}")
        for name, flag in (("double_precision", double_precision), ("decisions", decisions)):
            if not isinstance(flag, bool):
                raise ArgumentError(f"{name} must be True or False, got {flag!r:.80}")
        self._config = check_config_keys(config)
        self.keys: tuple[str | type[Event], ...] = (ScalarUpdated, *(DECISIONS if decisions else ()), *self._config)
        super().__init__(**options)
        self._backend = find_backend(backend)
        self._purge_step = purge_step
        self._double = double_precision
        self._run = uuid4().hex[:12]
        self._file: EventFile | None = None
        self._written = _Written()
        self._told: tuple[int | None, list[str]] = (None, [])  # the newest text of decisions

    # --- in the logger's own thread

    def open(self) -> None:
        """Begin a new file, and have what does not count any more forgotten."""
        self._file = self._begin(self.resumed)

    def write(self, items: Sequence[Item]) -> None:
        """Append ``items``, and hand them to the operating system."""
        file = self._file or self._begin(False)
        self._file = None  # if this does not work, the next attempt begins a new one
        counts = Counter(self._written.counts)
        try:
            records, told = self._encoded(items, counts)
            for data, _ in records:
                file.add(data)
            file.flush()
        except BaseException:
            file.abandon()
            raise
        steps = [step for _, step in records]
        top = self._written.top
        self._file, self._told = file, told
        self._written = _Written(
            file.name,
            file.size,
            max(steps if top is None else [top, *steps], default=None),
            counts,
            self._written.rewound,
        )

    def close(self) -> None:
        """End the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _begin(self, resumed: bool) -> EventFile:
        """Return a new file; what the files have beyond what counts is cut off, and what is left is whole."""
        previous, self._file = self._file, None
        if previous is not None:  # of a life that was cancelled
            previous.abandon()
        written, backend = self._written, self._backend
        while True:
            was_there = is_remote(self._folder) or Path(self._folder).is_dir()
            purge, again, rewound = self._take_back(resumed)
            file = EventFile(backend, self._folder, self._run, written.name)
            if was_there or not written.name:
                break
            file.abandon()  # the folder has come back only now, and nothing was cut in it
        try:
            if purge is not None:
                file.add(backend.restart(purge))
            for data in again:
                file.add(data)
            file.flush()
        except BaseException:
            file.abandon()
            raise
        self._written = written._replace(name=file.name, size=file.size, rewound=rewound)
        return file

    def _take_back(self, resumed: bool) -> tuple[int | None, list[bytes], int]:
        """Cut off what does not count; return the step from which readers are to forget, and what to write again.

        And the number of the newest cut.
        """
        written, backend = self._written, self._backend
        if isinstance(self._purge_step, int):
            given, self._purge_step = self._purge_step, "auto"
            return given, [], written.rewound
        if self._purge_step is None:
            return None, [], written.rewound
        if is_remote(self._folder):
            return written.top + 1 if resumed and written.top is not None else None, [], 0
        cuts = EventCuts(backend, Path(self._folder), self._run)
        steps = cuts.cut(written.name, written.size, keep=resumed)
        parts, back, problem = cuts.parts(written.name, written.size, written.rewound)
        if resumed and problem:
            logger.warning("%s: %s: values are lost to it", self._folder, problem)
        purge = min([*steps, *cuts.steps_of(back)], default=None)
        again: list[bytes] = []
        if purge is not None and (back or (written.top is not None and purge <= written.top)):
            again = cuts.survivors(parts, back, purge)
        return purge, again, cuts.newest

    def _encoded(
        self, items: Sequence[Item], counts: Counter[str]
    ) -> tuple[list[tuple[bytes, int]], tuple[int | None, list[str]]]:
        """Return the records of ``items``, with their steps, and the newest text of decisions."""
        records: list[tuple[bytes, int]] = []
        told, lines = self._told
        when: float | None = None  # of a text that is not among the records yet

        def tell() -> None:
            if when is not None and told is not None:
                records.append((self._backend.text(DECISIONS_KEY, "\n".join(lines), told, when), told))

        for item in items:
            if isinstance(item, Point):
                step = step_of(item, item.key, counts)
                value = as_float(item.value)
                records.append((self._backend.scalar(item.key, value, step, item.time, self._double), step))
            elif isinstance(item, InfoUpdated):
                if item.key in self._config:
                    step = step_of(item, item.key, counts)
                    records.append((self._backend.text(f"hub/{item.key}", _block(item.value), step, item.time), step))
            elif (line := _line(item)) is not None:
                step = step_of(item, DECISIONS_KEY, counts)
                if step != told:
                    tell()
                    told, lines = step, []
                lines, when = [*lines, line][-LINES:], item.time
        tell()
        return records, (told, lines)

    # --- state

    def tracker_state(self) -> dict[str, Any]:
        """Return whose files they are, and how far they go."""
        written = self._written
        return {
            "run": self._run,
            "file": written.name,
            "size": written.size,
            "top": written.top,
            "counts": dict(written.counts),
            "rewound": written.rewound,
        }

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the files that ``state`` names."""
        fields = {"run": (str,), "file": (str,), "size": (int,), "top": (int, type(None)), "counts": (dict,)}
        fields["rewound"] = (int,)
        taken = take_state(state, fields, "TensorBoardLogger", {"rewound": 0})
        counts = check_counts(taken["counts"])
        if min(taken["size"], taken["rewound"]) < 0:
            raise StateDictError(f"wanted a size and a number from 0 on, got {taken['size']} and {taken['rewound']}")
        self._told = (None, [])
        self._run = taken["run"]
        self._written = _Written(taken["file"], taken["size"], taken["top"], counts, taken["rewound"])


def _line(event: Event) -> str | None:
    """Return a decision as an item of a list in Markdown; None for what is none."""
    text = said(event)
    if text is None:
        return None
    return f"* **{text}**" if is_failure(event) else f"* {text}"


def _block(value: object) -> str:
    """Return settings as a block of code in Markdown, which every line of theirs is a part of."""
    return "\n".join(f"    {line}" for line in config_text(value).splitlines())
