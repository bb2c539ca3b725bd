"""Generations: the states of one run in a folder, each in a file named after its ``seq``, the newest few of them kept.

The newest is found by looking, not by a link that could go stale; a damaged one is passed over for the one before, and
named. Only files whose name is that of a generation are ever removed, and only when a newer one is durable.
Threads: all of this may be called from any thread; whoever writes generations of one folder does so one at a time.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Self, TypeVar

from asynchub.errors import ArgumentError, CorruptStateError, StateDictError
from asynchub.statefile import remove_orphans

__all__ = ("DAMAGE", "Target", "keep_newest", "list_generations", "newest_valid")

logger = logging.getLogger("asynchub")
T = TypeVar("T")
_NAME = re.compile(r"[0-9]{20}\.ahs")
_TEMPORARY = rf"\.{_NAME.pattern}\."
_ASIDE = ".aside"
"""Ends the name of a file that is no generation any more."""
DAMAGE = (CorruptStateError, StateDictError, OSError)
"""What reading a damaged generation raises. A type that is not known, or a limit, says something about the reader."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where states are saved: a file, or a folder of generations.

    Attributes:
        place: its real path.
        is_folder: whether it is a folder of generations.
        path: how the caller named it.
        keep: how many generations stay.
    """

    place: str
    is_folder: bool
    path: str = field(compare=False)
    keep: int = field(compare=False, default=1)

    @classmethod
    def of(cls, path: str | PathLike[str], keep: int) -> Self:
        """Return the target that ``path`` names: a folder if it is one, or ends in a separator.

        Raises:
            ArgumentError: ``keep`` is not an int above 0.
        """
        if type(keep) is not int or keep < 1:
            raise ArgumentError(f"keep must be how many generations stay, an int above 0, got {keep!r:.80}")
        name = os.fspath(path)
        is_folder = name.endswith((os.sep, os.altsep or os.sep)) or os.path.isdir(name)
        return cls(os.path.realpath(name), is_folder, name, keep)

    def file(self, seq: int) -> Path:
        """Return the file for a state whose newest event has that ``seq``."""
        return Path(self.path, f"{seq:020d}.ahs") if self.is_folder else Path(self.path)


def list_generations(folder: str | PathLike[str]) -> list[Path]:
    """Return the generations in a folder, those of the highest ``seq`` first, whether or not they are whole."""
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries if _NAME.fullmatch(entry.name)), reverse=True)
    return [Path(folder, name) for name in names]


def newest_valid(
    folder: str | PathLike[str], read: Callable[[Path], T]
) -> tuple[Path, T, list[tuple[Path, Exception]]]:
    """Return the newest generation that can be read, and what is wrong with those newer than it.

    Args:
        folder: the folder.
        read: reads one.

    Returns:
        The file, what ``read`` returned, and the newer files with what ``read`` raised, the newest first.

    Raises:
        FileNotFoundError: there are no generations, or there is no such folder.
        CorruptStateError: none can be read; each is named.
        Exception: what else ``read`` raises.
    """
    damaged: list[tuple[Path, Exception]] = []
    for path in list_generations(folder):
        try:
            return path, read(path), damaged
        except DAMAGE as error:
            damaged.append((path, error))
    if not damaged:
        raise FileNotFoundError(
            f"no generation of a state in {os.fspath(folder)}: hub.save({os.fspath(folder)!r}) writes one, "
            "as <seq in 20 digits>.ahs; for a state under another name, pass the path of the file"
        )
    problems = "".join(f"\n  {path.name}: {error}" for path, error in damaged)
    raise CorruptStateError(f"no generation of a state in {os.fspath(folder)} can be read:{problems}")


def keep_newest(written: Path, keep: int, check: Callable[[Path], object]) -> None:
    """Remove the generations beside the one that was just ``written`` and is durable, but for the newest valid ones.

    Those of a higher ``seq`` are of a run that this one does not go on from, and would be found in its place: they get
    a name that is not a generation's. What killed processes left amid writing one is removed, too. What cannot be
    removed or renamed is said through ``logging``.

    Args:
        written: the generation.
        keep: how many valid ones stay, that one included.
        check: raises if one is damaged.
    """
    remove_orphans(written.parent, _TEMPORARY)
    valid = 1
    for path in list_generations(written.parent):
        try:
            if path.name > written.name:
                os.replace(path, f"{path}{_ASIDE}")
                logger.warning("%s has a higher seq than %s, saved now: it is called %s%s", path, written, path, _ASIDE)
            elif path.name < written.name and valid == keep:
                path.unlink()
            elif path.name < written.name:
                valid += _is_valid(path, check)
        except OSError as error:
            logger.warning("an old generation is left in place: %s", error)


def _is_valid(path: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(path)
    except DAMAGE:
        return False
    return True
