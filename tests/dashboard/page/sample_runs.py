"""Runs for the page's tests, like those of a training: falling losses, a spike, values that are not finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.dashboard.runs import Writer, columns_of

__all__ = ("KEYS", "SPIKE", "sample_run")

KEYS = ("train/loss", "val/acc", "train/grad_norm", "step_ms")
SPIKE = 13.0
PART = 200_000
"""Values in a frame."""


def sample_run(folder: Path, number: int, steps: int, *, keys: tuple[str, ...] = KEYS, closed: bool = True) -> Writer:
    """Write a run; its first key has a spike after 12.3 % of the steps, its third 50 NaN after 70 %."""
    rng = np.random.default_rng(number)
    writer = Writer(folder, bytes([number + 1] * 16), folder.name)
    share = np.arange(steps) / steps
    shapes = [
        2.2 * np.exp(-share * 4) + 0.35 + 0.06 * number + rng.normal(0, 0.08, steps),
        0.77 - 0.02 * number - 0.6 * np.exp(-share * 7) + rng.normal(0, 0.004, steps),
        2 + 6 * np.exp(-share * 5) + rng.normal(0, 0.3, steps),
        0.83 + 0.03 * number + rng.normal(0, 0.03, steps),
    ]
    values = np.stack([shapes[at % 4] + at // 4 for at in range(len(keys))], axis=1)
    values[int(steps * 0.123), 0] = SPIKE
    if len(keys) > 2:
        values[int(steps * 0.7) : int(steps * 0.7) + 50, 2] = np.nan
    size = PART // len(keys)
    for start in range(0, steps, size):
        part = slice(start, min(start + size, steps))
        writer.batch(columns_of(keys, np.arange(steps)[part], values[part], writer.seq))
    if closed:
        writer.close()
    return writer
