"""A training that goes on in a thread, and lets itself be steered."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asynchub.declaring import Parameter
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.requests import CheckpointRequested
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.remote_control import RemoteControl

__all__ = ("Training", "training")

PAUSE = 0.01


class Training:
    """A training.

    Attributes:
        hub: what it says itself to.
        lr: its learning rate, at most 1; 0.5 is refused.
        steps: how many it has taken.
        stopped_at: when it found that it was to stop, by ``time.monotonic``; None before.
    """

    def __init__(self, folder: Path) -> None:
        self.hub = MessageHub(folder.name)
        self.lr = 0.1
        self.steps = 0
        self.stopped_at: float | None = None
        self.ending = threading.Event()
        lr = Parameter("lr", get=lambda: self.lr, set=self._set, low=1e-4, high=1.0, note="of the optimizer")
        self.hub.attach(Journal(folder / "journal"))
        self.hub.attach(EarlyStopping("val/acc", mode="max", patience=10_000))
        self.hub.attach(RemoteControl(folder, allow=("stop", "checkpoint", "pause", "set/lr"), parameters=(lr,)))
        self.hub.on_request(CheckpointRequested, lambda _: None)
        self.hub.update_info("max_iters", 100_000)

    def _set(self, value: float) -> None:
        if value == 0.5:
            raise ValueError("the warm-up is not over: half is too much")
        self.lr = value

    def run(self) -> None:
        """Train until it is stopped, or ends."""
        hub = self.hub
        with hub:
            while not self.ending.is_set() and not hub.stop_requested:
                hub.step += 1
                self.steps = hub.step
                hub.update_scalar("train/loss", 2 * math.exp(-hub.step / 300) + 0.01 * math.sin(hub.step))
                if hub.step % 20 == 0:
                    hub.update_scalar("val/acc", 1 - math.exp(-hub.step / 400))
                hub.settle()
                time.sleep(PAUSE)  # stands for the work of a step
            if hub.stop_requested:
                self.stopped_at = time.monotonic()


@contextmanager
def training(folder: Path) -> Iterator[Training]:
    """Train while something is done."""
    one = Training(folder)
    thread = threading.Thread(target=one.run, name="training")
    thread.start()
    try:
        yield one
    finally:
        one.ending.set()
        thread.join(20)
