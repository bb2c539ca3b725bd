"""Events to try a subscriber on: one of every kind, and runs of the keys that it names."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asynchub.bridging import (
    BridgeDegraded,
    BridgeRestored,
    ClocksApart,
    FrameRefused,
    RankLeft,
    ReductionDegraded,
    ReductionRestored,
    ScalarsReduced,
)
from asynchub.dataflow import (
    BottleneckChanged,
    ConcurrencyChanged,
    PipelineRecovered,
    PipelineReported,
    PipelineStalled,
    SlowItems,
)
from asynchub.events import (
    CheckpointRemoved,
    CheckpointSaved,
    Event,
    EventsDropped,
    InfoRemoved,
    InfoUpdated,
    Marked,
    ScalarLost,
    ScalarUpdated,
    StateLoaded,
    StateSaved,
    SubscriberFailed,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.requests import (
    CheckpointRequested,
    Decided,
    ParameterChanged,
    ParameterChangeRequested,
    Paused,
    PauseEnded,
    PauseRequested,
    RequestApplied,
    RequestRefused,
    ResumeRequested,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)

__all__ = ("UnknownHappened", "every_kind_of_event", "run_for", "stamped")

START = 1_700_000_000.0
"""When the first event was published, in seconds since the epoch."""
INFOS = ("batch_index", "epoch", "max_epochs", "max_iters")
"""Keys that are runtime infos by convention."""


@dataclass(frozen=True, kw_only=True)
class UnknownHappened(Event):
    """A kind of event that no subscriber knows."""

    path: str = "a.pt"


def every_kind_of_event() -> list[Event]:
    """Return events of every kind, with every value that one can have, as a hub would publish them."""
    return stamped(
        [
            InfoUpdated(key="max_iters", value=100, step=0),
            InfoUpdated(key="max_epochs", value="many", step=0),
            InfoUpdated(key="epoch", value=None, step=0),
            *[ScalarUpdated(key="train/loss", value=value, step=1) for value in (1.0, 2, True, 2**80, -0.0, 1e308)],
            *[ScalarUpdated(key="val/loss", value=value, step=2) for value in (math.nan, math.inf, -math.inf, 0.5)],
            *[ScalarUpdated(key="val/acc", value=7.0, count=count, step=2) for count in (0, -1, 10)],
            *[ScalarUpdated(key=key, value=1.0) for key in (" ", "\n", '"', "é\u2028/漢", "step", "a,b", "/")],
            ScalarUpdated(key="train/loss", value=0.25, step=1),  # of an earlier step
            ScalarLost(scalar="train/loss", error="RuntimeError: lost", step=2),
            InfoUpdated(key="cfg", value={"deep": [object(), {1, 2}, (3.0,)]}, step=2),
            InfoRemoved(key="cfg", step=2),
            StopRequested(reason="two\nlines", author="me", step=2),
            SkipRequested(step=2),
            RollbackRequested(step=2),
            CheckpointRequested(step=2),
            ParameterChangeRequested(name="lr", value="high", step=2),
            PauseRequested(author="me", seconds=60.0, step=2),
            Paused(seconds=60.0, author="me", step=2),
            ResumeRequested(step=2),
            PauseEnded(seconds=1.5, reason="resumed", step=2),
            RequestApplied(request="StopRequested", request_seq=3, step=2),
            RequestRefused(request="SkipRequested", request_seq=4, error="no", step=2),
            ParameterChanged(name="lr", group=1, old=0.1, new=math.nan, step=2),
            Decided(author="x", verdict="waiting", value=math.nan, step=2),
            CheckpointSaved(path="a.pt", seconds=0.5, value=math.inf, step=2),
            SubscriberFailed(subscriber="x", error="ValueError: \x1b[31m", action="detach", step=2),
            StateLoaded(step=2),
            StateSaved(path="hub.state", saved_seq=9, step=2),
            Marked(step=2),
            CheckpointRemoved(path="a.pt", reason="old", step=2),
            TrackerDegraded(tracker="x", error="OSError: no route", step=2),
            TrackerRestored(tracker="x", delivered=3, step=2),
            PipelineReported(report={"pipeline": "data", "stages": [{"name": "decode", "busy": 0.5}]}, step=2),
            BottleneckChanged(kind="stage", stage="decode", reason="all of decode is busy", gain=0.5, step=2),
            ConcurrencyChanged(stage="decode", old=1, new=2, reason="it limits", author="x", step=2),
            PipelineStalled(seconds=10.5, reason="waiting for decode", worker=1, pid=7, queues={"raw": 0}, step=2),
            PipelineRecovered(seconds=12.0, step=2),
            SlowItems(stage="decode", items=2, slowest=0.9, median=0.01, step=2),
            BridgeDegraded(bridge="bridge", error="OSError: no route", step=2),
            BridgeRestored(bridge="bridge", seconds=1.5, waiting=2, step=2),
            FrameRefused(source="ah.run.ev.0.1", error="CorruptStateError: torn", step=2),
            ClocksApart(rank=1, seconds=-3.5, step=2),
            RankLeft(rank=1, step=2),
            ScalarsReduced(
                ranks=2, interval=0, keys={"train/loss": {"lowest": 0, "highest": 1, "non_finite": 0}}, step=2
            ),
            ReductionDegraded(error="RuntimeError: a rank is missing", interval=1, step=2),
            ReductionRestored(seconds=2.5, interval=1, step=2),
            EventsDropped(missed=5, step=2),
            UnknownHappened(step=3),
        ]
    )


def run_for(subscriber: Any) -> list[Event]:
    """Return a run of 32 steps of the keys that a subscriber names: values that fall, jump, stay and are not finite."""
    patterns = [one for one in getattr(subscriber, "keys", ()) if isinstance(one, str)]
    keys = sorted({one.replace("**", "x").replace("*", "x") for one in patterns} - set(INFOS))
    chance = random.Random(7)
    events: list[Event] = []
    for step in range(1, 33):
        if step % 4 == 1:
            events.append(InfoUpdated(key="epoch", value=step // 4, step=step))
        events.append(InfoUpdated(key="batch_index", value=step, step=step))
        for key in keys or ["train/loss", "val/loss"]:
            value = max(2.0 - 0.1 * step, 0.8) + 0.01 * chance.random()
            value *= 50 if step in (9, 21) else 1
            value = math.nan if step == 15 else value
            events.append(ScalarUpdated(key=key, value=value * 4, count=4, step=step))
    return stamped(events)


def stamped(events: Iterable[Event]) -> list[Event]:
    """Return ``events`` as a hub would publish them, half a second from one to the next."""
    return [event.stamped(seq, START + 0.5 * (seq - 1), event.step) for seq, event in enumerate(events, 1)]
