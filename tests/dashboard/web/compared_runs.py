"""Runs that were told to do things differently, for tests of what they are beside one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asynchub.events import InfoUpdated
from tests.dashboard.runs import Writer, columns_of

__all__ = ("KEYS", "RATES", "compared_run", "compared_runs")

KEYS = ("train/loss", "val/acc")
RATES = (0.1, 0.3, 1.0)
SPIKE = 13.0


def compared_run(
    folder: Path, number: int, steps: int = 2000, *, infos: dict[str, object], closed: bool = True, spike: bool = False
) -> Writer:
    """Write a run with some infos; with a spike after a third of its steps, and NaN at its end, if that is wanted."""
    rng = np.random.default_rng(number)
    writer = Writer(folder, bytes([number + 1] * 16), folder.name)
    for key, value in infos.items():
        writer.event(InfoUpdated(key=key, value=value))
    share = np.arange(steps) / steps
    loss = 2.2 * np.exp(-share * 4) + 0.35 + 0.02 * number + rng.normal(0, 0.05, steps)
    accuracy = 0.8 - 0.01 * number - 0.6 * np.exp(-share * 7) + rng.normal(0, 0.004, steps)
    if spike:
        loss[steps // 3] = SPIKE
        loss[-60:-20] = np.nan
    writer.batch(columns_of(KEYS, np.arange(steps), np.stack([loss, accuracy], axis=1), writer.seq))
    if closed:
        writer.close()
    return writer


def compared_runs(top: Path, seeds: int = 3, steps: int = 2000) -> None:
    """Write runs of each learning rate with some seeds; the second one has a spike."""
    for number in range(len(RATES) * seeds):
        rate, seed = RATES[number // seeds], number % seeds
        infos = {"lr": rate, "batch": 32 if seed % 2 else 64, "seed": seed, "arch": "resnet50"}
        compared_run(top / f"lr{rate}-s{seed}", number, steps + 100 * number, infos=infos, spike=number == 1)
