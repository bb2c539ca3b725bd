"""Runs to look at, and waiting for what an app shows."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from asynchub.dashboard.screen import Mark
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.watching import Watch
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.overlay_rows import OverlayRow
from asynchub.subscribers.early_stopping import EarlyStopping

__all__ = ("PATIENCE", "row_of", "settled", "until", "watched", "write_run")

PATIENCE = 20.0
"""Seconds that something may take on a machine with much else to do."""


def write_run(folder: Path, name: str = "run", steps: int = 400) -> None:
    """Train nothing: a loss with a spike, an accuracy that stops to improve, and some NaN, until a rule stops it."""
    hub = MessageHub(name)
    hub.attach(Journal(folder / "journal"))
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=3))
    hub.update_info("max_iters", 1000)
    with hub:
        for hub.step in range(steps):
            hub.update_scalar("train/loss", 13.0 if hub.step == 123 else math.exp(-hub.step / 200))
            hub.update_scalar("train/grad_norm", math.nan if 50 <= hub.step < 60 else 1.0)
            if hub.step % 20 == 0:
                hub.update_scalar("val/accuracy", min(hub.step / 300, 0.9))
            hub.settle()
            if hub.stop_requested:
                break


def row_of(run: str, rule: str) -> OverlayRow:
    """Return what a rule might have done."""
    mark = Mark(1, 100, 1.0, "rule", "would stop", kind="suggested", short="would stop")
    cells = ("100", "0.9", "0.1", "5 (3 %)", "0:07")
    return OverlayRow(run, rule, "stops", stop=100, cells=cells, marks=(mark,))


async def until(pilot: Pilot[Any], holds: Callable[[], object], what: str = "") -> None:
    """Wait until something holds; fail if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            board = getattr(pilot.app, "board", None)
            raise AssertionError(f"{what or holds} did not come; shown is:\n{board.text() if board else ''}")
        await pilot.pause(0.02)


@asynccontextmanager
async def watched(
    *runs: Path,
    cache: Path,
    size: tuple[int, int] = (160, 46),
    look: Look | None = None,
    ready: bool = True,
    **options: Any,
) -> AsyncIterator[tuple[Watch, Pilot[int]]]:
    """Show runs in a terminal of a size, without one; with ``ready``, once they are read."""
    app = Watch(list(runs), cache=cache, look=look, interval=0.05, **options)
    async with app.run_test(size=size) as pilot:
        if ready:
            await until(pilot, lambda: settled(app), "the charts")
        yield app, pilot


def settled(app: Watch) -> bool:
    """Tell whether all that is wanted is shown, and read."""
    shown = app.shown
    return bool(shown.charts) and not shown.reading and shown.number == app._wanted.number
