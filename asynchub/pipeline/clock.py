"""The time that a pipeline is measured by."""

from __future__ import annotations

import time

__all__ = ("SECOND", "clock")

clock = time.perf_counter_ns
"""Returns nanoseconds; on Linux the same in all processes."""
SECOND = 1_000_000_000
"""Nanoseconds in a second."""
