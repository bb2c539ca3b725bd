"""A hub's state in one file: written as a snapshot, read as that or as what version 0.1 wrote at first."""

from __future__ import annotations

import functools
import os
import stat
from os import PathLike
from pathlib import Path
from typing import Any

from asynchub.codec.decoder import OnUnknown
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.generations import Target, keep_newest, newest_valid
from asynchub.snapshot import MAGIC, read_head, read_whole, write_snapshot
from asynchub.state import packed, unpacked
from asynchub.statefile import read_state

__all__ = ("read_hub", "read_newest", "write_hub")


def write_hub(
    target: Target, state: dict[str, Any], name: str, registry: Registry | None, run_id: str, seq: int
) -> None:
    """Write a state to where it belongs; see ``MessageHub.save``. Any thread may, if nobody else changes ``state``."""
    file = target.file(seq)
    write_snapshot(file, functools.partial(packed, state, name), registry=registry, run_id=run_id, seq=seq)
    if target.is_folder:
        keep_newest(file, target.keep, read_head)


def read_hub(
    path: str | PathLike[str], limits: Limits | None, registry: Registry | None, on_unknown: OnUnknown = "raise"
) -> dict[str, Any]:
    """Return the state dict in a file; see ``MessageHub.load``, and ``codec.loads`` for ``on_unknown``."""
    if stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "rb") as file:
            magic = file.read(len(MAGIC))
        if magic == MAGIC:
            head, tree, columns = read_whole(path, limits=limits, registry=registry, on_unknown=on_unknown)
            state = unpacked(tree, columns)
            return {**state, "asynchub": {**state.get("asynchub", {}), "run_id": head.run_id}}
    return unpacked(read_state(path, limits=limits, registry=registry, on_unknown=on_unknown))


def read_newest(
    path: str | PathLike[str], limits: Limits | None, registry: Registry | None, on_unknown: OnUnknown = "raise"
) -> tuple[Path, dict[str, Any], list[tuple[Path, Exception]]]:
    """Return the file that ``path`` names, or the newest valid generation there; its state; and which are damaged."""
    read = functools.partial(read_hub, limits=limits, registry=registry, on_unknown=on_unknown)
    if os.path.isdir(path):
        return newest_valid(path, read)
    return Path(path), read(path), []
