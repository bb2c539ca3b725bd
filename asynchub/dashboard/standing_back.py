"""A viewer beside a training takes what that leaves of the processor."""

from __future__ import annotations

import contextlib
import os

__all__ = ("stand_back",)

NICE = 19
"""The least urgent there is."""


def stand_back() -> None:
    """Let every other process have the processor first, from now on; where that is not known, nothing happens."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):  # a viewer that may not say so is a viewer all the same
            os.nice(NICE)
