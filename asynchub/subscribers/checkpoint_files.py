"""Which checkpoints stay, and how one that does not is deleted.

Order: what is to go is deleted after the new checkpoint is whole, never before.
Deleted: only what a call has written. A file or folder goes if all in it was last changed while the call that returned
    its path ran, if it is no link, and if neither another kept checkpoint nor the working directory is inside. What
    looks different is left, and that is said through ``logging``.
Resume: a state that was saved amid a call, as one inside of the checkpoint is, knows that checkpoint too, but not where
    it is; whoever resumes from it can say so.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.subscribers.checks import Better, take_state

__all__ = ("KeptCheckpoint", "KeptCheckpoints", "delete_written", "path_of")

logger = logging.getLogger("asynchub")

SLACK = 2.0
"""Seconds that the clock of a file system may differ by; the coarsest time stamps in use (FAT) are 2 s."""


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A checkpoint that was written.

    Attributes:
        path: where, if whoever wrote it has said so.
        step: the step it was written at.
        epoch: the runtime info ``epoch`` by then; None if there was none.
        value: of the monitored scalar; None if it is not of its step.
        reason: why, for people.
        began: when its writing began, in seconds since the epoch.
        ended: when it was done; an infinity until then.
    """

    path: str | None
    step: int | None
    epoch: int | None
    value: float | None
    reason: str
    began: float
    ended: float


_FIELDS: Mapping[str, tuple[type, ...]] = {
    "path": (str, type(None)),
    "step": (int, type(None)),
    "epoch": (int, type(None)),
    "value": (int, float, type(None)),
    "reason": (str,),
    "began": (int, float),
    "ended": (int, float),
}


class KeptCheckpoints:
    """The checkpoints of a run that stay, oldest first.

    Args:
        better: which of two values is better; None if checkpoints have none, and newer is better.
        top_k: how many of the best stay; -1 for all.
        last: whether the newest stays, too, whatever its value.
        remove: deletes a path; None for ``delete_written``.
        resumed_from: where the checkpoint is that this run is resumed from; None if it is not, or nobody knows.

    Attributes:
        kept: those that stay.
        leaving: those to be deleted as soon as the newest is whole.
        writing: whether the newest is being written.
    """

    state_fields: Mapping[str, tuple[type, ...]] = {"kept": (list,), "leaving": (list,), "writing": (bool,)}

    def __init__(
        self,
        better: Better | None,
        top_k: int,
        last: bool,
        remove: Callable[[str], object] | None = None,
        resumed_from: str | None = None,
    ) -> None:
        self._better = better
        self._top_k = top_k
        self._last = last
        self._remove = remove
        self._resumed_from = resumed_from
        self.kept: list[KeptCheckpoint] = []
        self.leaving: list[KeptCheckpoint] = []
        self.writing = False

    @property
    def best(self) -> KeptCheckpoint | None:
        """The one with the best value; None if none has a value."""
        ranked = self._ranked(self.kept)
        return ranked[0] if self._better is not None and ranked else None

    def admits(self, value: float) -> bool:
        """Tell whether a checkpoint with ``value`` would be among the best; one that is not finite never is."""
        if self._better is None or not self._top_k or not math.isfinite(value):
            return False
        ranked = self._ranked(self.kept)
        if self._top_k < 0 or len(ranked) < self._top_k:
            return True
        worst = ranked[self._top_k - 1].value
        return worst is not None and self._better.beats(value, worst)

    def _ranked(self, checkpoints: list[KeptCheckpoint]) -> list[KeptCheckpoint]:
        """Return those that have a rank, best first; of two that are as good, the older."""
        if self._better is None:
            return checkpoints[::-1]
        sign = 1.0 if self._better.mode == "min" else -1.0
        return sorted((one for one in checkpoints if one.value is not None), key=lambda one: sign * (one.value or 0.0))

    @property
    def rule(self) -> str:
        """What stays, for people."""
        if self._top_k < 0:
            return "all stay"
        kind = "newest" if self._better is None else "best"
        ranked = "" if not self._top_k else f"the {kind}" if self._top_k == 1 else f"the {self._top_k} {kind}"
        newest = "the newest" if self._last and (self._better is not None or not self._top_k) else ""
        return " and ".join(filter(None, (ranked, newest))) + " stay" + ("" if self._top_k > 1 or newest else "s")

    # --- writing one

    def begin(self, new: KeptCheckpoint, rotate: bool) -> None:
        """Make room for ``new``, which is about to be written; with ``rotate``, others leave for it."""
        kept = [*self.kept, new]
        if rotate and self._top_k >= 0:
            staying = {id(one) for one in self._ranked(kept)[: self._top_k]}
            if self._last:
                staying.add(id(new))
            self.leaving = [*self.leaving, *(one for one in self.kept if id(one) not in staying)]
            kept = [one for one in kept if id(one) in staying or one is new]  # it leaves when there is another
        self.kept = kept
        self.writing = True

    def abandon(self, kept: list[KeptCheckpoint], leaving: list[KeptCheckpoint]) -> None:
        """Say that the newest was not written: go back to what there was."""
        self.kept, self.leaving, self.writing = kept, leaving, False

    def finish(self, path: str | None) -> KeptCheckpoint:
        """Say that the newest is whole, and where; return it."""
        new = replace(self.kept[-1], path=path, ended=time.time())
        older = self.kept[:-1]
        if path is not None:  # written over: the older one is gone
            older, self.leaving = ([one for one in some if one.path != path] for some in (older, self.leaving))
        self.kept = [*older, new]
        self.writing = False
        return new

    def tidy(self) -> Iterator[str]:
        """Delete what is to leave; yield the path of each that is gone.

        Raises:
            Exception: what ``remove`` raised, unless it was an ``OSError``, which is only logged.
        """
        while self.leaving:
            one = self.leaving.pop(0)
            if one.path is None:
                continue
            try:
                if self._remove is not None:
                    self._remove(one.path)
                else:
                    others = [other.path for other in self.kept if other.path is not None]
                    refused = delete_written(one.path, one.began, one.ended, others)
                    if refused:
                        logger.warning("checkpoint %s is left: %s; remove= can say how to delete it", one.path, refused)
                        continue
            except FileNotFoundError:
                continue  # somebody else was faster
            except OSError as error:
                logger.warning("checkpoint %s could not be deleted: %s", one.path, error)
                continue
            yield one.path

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return what stays and what leaves."""
        return {
            "kept": [_plain(one) for one in self.kept],
            "leaving": [_plain(one) for one in self.leaving],
            "writing": self.writing,
        }

    def loader(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Return a function that takes ``state`` in, which has been looked at.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        taken = take_state(state, self.state_fields, "KeptCheckpoints")
        kept, leaving = ([_checkpoint_of(one) for one in taken[name]] for name in ("kept", "leaving"))
        if taken["writing"] and not kept:
            raise StateDictError("'writing' in the state of KeptCheckpoints is True, and 'kept' is empty")

        def take_in() -> None:
            if taken["writing"]:
                kept[-1] = _found(kept[-1], self._resumed_from)
            self.kept = [one for one in kept if not _vanished(one, warn=True)]
            self.leaving = [one for one in leaving if not _vanished(one, warn=False)]
            self.writing = False

        return take_in


def _plain(one: KeptCheckpoint) -> list[Any]:
    return [getattr(one, name) for name in _FIELDS]


def _checkpoint_of(plain: object) -> KeptCheckpoint:
    if not isinstance(plain, list | tuple) or len(plain) != len(_FIELDS):
        raise StateDictError(f"a kept checkpoint must be a list of {', '.join(_FIELDS)}, got {plain!r:.80}")
    return KeptCheckpoint(**take_state(dict(zip(_FIELDS, plain, strict=True)), _FIELDS, "a kept checkpoint"))


def _found(one: KeptCheckpoint, path: str | None) -> KeptCheckpoint:
    """Return a checkpoint that a state was saved in, now that it is known where it is."""
    if path is None or _is_remote(path) or not os.path.lexists(path):
        return replace(one, path=path, ended=one.began)
    return replace(one, path=path, ended=max((info.st_ctime for _, info in _inside(Path(path))), default=one.began))


def _vanished(one: KeptCheckpoint, warn: bool) -> bool:
    if one.path is None or _is_remote(one.path) or os.path.lexists(one.path):
        return False
    if warn:
        logger.warning("checkpoint %s of step %s is gone, and is counted no more", one.path, one.step)
    return True


def path_of(returned: object) -> str | None:
    """Return what whoever wrote a checkpoint has returned as a path.

    Raises:
        ArgumentError: it is neither a path nor None.
    """
    path = os.fspath(returned) if isinstance(returned, os.PathLike) else returned
    if path is None or isinstance(path, str):
        return path
    raise ArgumentError(f"fn must return the path of the checkpoint, or None, got {returned!r:.80}")


def _is_remote(path: str) -> bool:
    """Tell whether ``path`` is the address of something that is no file here, such as ``s3://bucket/name``."""
    return "://" in path


def delete_written(path: str, began: float, ended: float, others: list[str]) -> str:
    """Delete a file or folder if all of it was written between two times; return "" or why it was left.

    Args:
        path: it.
        began: seconds since the epoch.
        ended: seconds since the epoch.
        others: paths that must stay, also if they are inside of it.

    Raises:
        OSError: the file system said no.
    """
    if _is_remote(path):
        return "it is no file here"
    place = Path(path)
    if stat.S_ISLNK(place.lstat().st_mode):
        return "it is a link"
    real = place.resolve()
    if any(Path(other).resolve().is_relative_to(real) for other in [*others, os.curdir]):
        return "it holds what must stay"
    for found, info in _inside(place):
        if not began - SLACK <= info.st_ctime <= ended + SLACK:
            return f"{found} was changed before the checkpoint was written, or after"
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    return ""


def _inside(place: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield ``place`` and all below it, links themselves and not what they lead to."""
    yield place, place.lstat()
    if place.is_dir() and not place.is_symlink():
        for child in place.iterdir():
            yield from _inside(child)
