"""Runs of several lives: each goes on from a state that an earlier one has saved, whether that was abandoned or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover

KEYS = ("loss", "val", "lr")
Points = dict[str, list[tuple[int, float]]]
"""Step and value of each update, by key."""


class Life(NamedTuple):
    """What a life does.

    Attributes:
        goes_on_from: number of the state, among all that were saved by then, from the newest.
        parts: how many values come before each save.
        rest: how many come after the last.
    """

    goes_on_from: int
    parts: list[int]
    rest: int


def lives(most: int = 6) -> st.SearchStrategy[list[Life]]:
    """Return some lives."""
    life = st.builds(Life, st.integers(0, 9), st.lists(st.integers(0, 6), max_size=3), st.integers(0, 6))
    return st.lists(life, min_size=2, max_size=most)


class Program:
    """A program that is started again and again.

    Attributes:
        states: what was saved, oldest first: a state dict, or a mark.

    Args:
        attach: attaches what is tested to its hub, once in each life.
        run: folder of the run's journal; None for a program without one.
    """

    def __init__(self, attach: Callable[[MessageHub], object], run: Path | None = None) -> None:
        self.states: list[Any] = []
        self._attach = attach
        self._run = run
        self._value = 0.0

    def live(self, life: Life) -> MessageHub:
        """Return the hub after a life."""
        hub = self._begun(life.goes_on_from)
        with hub:
            self.publish(hub, life)
        return hub

    def publish(self, hub: MessageHub, life: Life) -> None:
        """Do what a life does, in a hub that is entered."""
        if not self.states:
            self.states.append(self._saved(hub))
        for size in life.parts:
            self._publish(hub, size)
            self.states.append(self._saved(hub))
        self._publish(hub, life.rest)

    def _begun(self, which: int) -> MessageHub:
        state = self.states[-1 - which % len(self.states)] if self.states else None
        if self._run is not None and state is not None:
            hub = recover(self._run, mark=state)
        else:
            hub = MessageHub("lives")
            if state is not None:
                hub.load_state_dict(state)
        if self._run is not None:
            hub.attach(Journal(self._run / "journal", interval=0.01))
        self._attach(hub)
        return hub

    def _saved(self, hub: MessageHub) -> Any:
        if self._run is None:
            return hub.state_dict(timeout=20)
        hub.save(f"{self._run}/", timeout=20, keep=99)
        return hub.mark()

    def _publish(self, hub: MessageHub, size: int) -> None:
        for _ in range(size):
            self._value += 1.0
            key = KEYS[int(self._value * 7) % 5 % 3]
            hub.update_scalar(key, self._value, step=hub.step - (key == "val"))  # a validation comes late
            hub.step += int(self._value) % 3 > 0
            if self._value % 4 == 0:
                hub.update_info("epoch", int(self._value))


def logging_with(make: Callable[[], Any]) -> Callable[[MessageHub], object]:
    """Return what attaches a logger, made anew in each life."""
    return lambda hub: hub.attach(make(), name="logger", on_error="raise")


def counted(hub: MessageHub) -> Points:
    """Return what a hub has recorded."""
    found: Points = {}
    for key, history in hub.log_scalars.items():
        assert isinstance(history, HistoryBuffer)
        records = history.records()
        found[key] = list(zip(records.steps.tolist(), records.values.tolist(), strict=True))
    return found
