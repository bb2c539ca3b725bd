"""A hub's state in one file: written as a snapshot, read as that or as what version 0.1 wrote at first."""

from __future__ import annotations

import functools
import os
import stat
from os import PathLike
from typing import Any

from asynchub.codec.decoder import OnUnknown
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.snapshot import MAGIC, read_snapshot, write_snapshot
from asynchub.state import packed, unpacked
from asynchub.statefile import read_state

__all__ = ("read_hub", "write_hub")


def write_hub(path: str | PathLike[str], state: dict[str, Any], name: str, registry: Registry | None) -> None:
    """Write a state dict to a file; see ``MessageHub.save``. Any thread may, if nobody else changes ``state``."""
    write_snapshot(path, functools.partial(packed, state, name), registry=registry)


def read_hub(
    path: str | PathLike[str], limits: Limits | None, registry: Registry | None, on_unknown: OnUnknown = "raise"
) -> dict[str, Any]:
    """Return the state dict in a file; see ``MessageHub.load``, and ``codec.loads`` for ``on_unknown``."""
    if stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "rb") as file:
            head = file.read(len(MAGIC))
        if head == MAGIC:
            tree, columns = read_snapshot(path, limits=limits, registry=registry, on_unknown=on_unknown)
            return unpacked(tree, columns)
    return unpacked(read_state(path, limits=limits, registry=registry, on_unknown=on_unknown))
