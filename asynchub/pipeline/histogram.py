"""How long things took, as counts in buckets: added up over threads, processes and time without losing a thing.

A duration is a whole number of nanoseconds. Up to 16 each has a bucket of its own; above, every power of two is split
into 16 buckets of the same width, so the middle of a bucket is within 3.1 % of whatever lies in it. 960 buckets reach
to 2**63 ns.

Source:
    The layout is that of G. Tene's HdrHistogram, with 4 significant bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("BUCKETS", "SUB_BUCKETS", "Counts", "bucket_of", "bucket_range", "empty", "indices", "quantiles")

Counts = NDArray[np.int64]
"""How many durations are in each bucket, of shape ``(960,)``."""
SUB_BUCKETS = 16
"""Buckets for each power of two."""
BITS = 4
BUCKETS = 960


def empty() -> Counts:
    """Return the counts of nothing."""
    return np.zeros(BUCKETS, np.int64)


def bucket_of(duration: int) -> int:
    """Return the number of the bucket of a duration in nanoseconds, in plain Python; what is below 0 counts as 0."""
    if duration < SUB_BUCKETS:
        return max(duration, 0)
    shift = duration.bit_length() - BITS - 1
    return min((shift << BITS) + (duration >> shift), BUCKETS - 1)


def indices(durations: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the bucket of each of many durations in nanoseconds; what is below 0 counts as 0."""
    values = np.maximum(durations, 0).astype(np.int64, copy=False)
    exponents = np.frexp(values.astype(np.float64))[1]  # the number of bits, exactly below 2**53 ns, 104 days
    shifts = np.maximum(exponents - BITS - 1, 0).astype(np.int64)
    found: NDArray[np.int64] = np.minimum((shifts << BITS) + (values >> shifts), BUCKETS - 1)
    return found


def bucket_range(bucket: int) -> tuple[int, int]:
    """Return the smallest duration of a bucket, and the smallest above it, in nanoseconds."""
    if bucket < 2 * SUB_BUCKETS:
        return bucket, bucket + 1
    shift = (bucket >> BITS) - 1
    low = ((bucket & (SUB_BUCKETS - 1)) + SUB_BUCKETS) << shift
    return low, low + (1 << shift)


def quantiles(counts: Counts, *shares: float) -> list[float]:
    """Return quantiles in nanoseconds, each the middle of the bucket that it is in; NaN where there are no counts.

    Args:
        counts: of shape ``(960,)``.
        shares: of which each is from 0 to 1: 0.5 for the median. The quantile is the smallest value that at least this
            share of all do not exceed (an order statistic, nothing between two of them).
    """
    sums = np.cumsum(counts)
    total = int(sums[-1])
    if total == 0:
        return [math.nan] * len(shares)
    found = []
    for share in shares:
        rank = max(math.ceil(share * total), 1)
        low, above = bucket_range(int(np.searchsorted(sums, rank)))
        found.append((low + above - 1) / 2)
    return found
