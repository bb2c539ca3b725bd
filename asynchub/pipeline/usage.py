"""What this process uses: processor and memory, its own, not that of its children."""

from __future__ import annotations

import os
import time

try:
    import psutil
except ImportError:  # the file that Linux keeps will do
    psutil = None

__all__ = ("cpu_seconds", "resident_bytes")

cpu_seconds = time.process_time
"""Returns the seconds that all threads together have had a processor for."""


def resident_bytes() -> int | None:
    """Return how much memory is taken; None if it is not known: neither psutil is there nor ``/proc``."""
    if psutil is not None:
        return int(psutil.Process().memory_info().rss)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
