"""Memory of a program that does nothing but show runs.

A setting of the whole process: a program chooses it, no class that others use in theirs.
"""

from __future__ import annotations

import numpy as np

__all__ = ("keep_freed",)

SPARE = 2**24
"""Bytes of the array that ``keep_freed`` makes."""


def keep_freed() -> None:
    """Make and drop a large array, after which the C library of Linux keeps twice as much of what is freed.

    Before, it gives the operating system back all that is free beyond 128 KiB each time, and gets it again page by
    page: that was half of the time in which a journal is read. It is some 30 MB more that a viewer holds.
    """
    np.empty(SPARE, np.uint8)
