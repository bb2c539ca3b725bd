"""What bridges between processes, and the reduction over ranks, say about themselves, as events.

``asynchub.bridges`` publishes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from asynchub.events import Event

__all__ = (
    "BridgeDegraded",
    "BridgeRestored",
    "ClocksApart",
    "FrameRefused",
    "RankLeft",
    "ReductionDegraded",
    "ReductionRestored",
    "ScalarsReduced",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeDegraded(Event):
    """A broker is not to be had: what goes to it is kept in the spool, what comes from it comes later.

    Attributes:
        bridge: name of the bridge.
        error: why, as ``Type: text``.
    """

    key: str = "hub/bridge_degraded"
    bridge: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRestored(Event):
    """A broker is there again, and goes on where it was.

    Attributes:
        bridge: name of the bridge.
        seconds: how long it was away.
        waiting: frames in the spool that it has not taken yet.
    """

    key: str = "hub/bridge_restored"
    bridge: str
    seconds: float
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRefused(Event):
    """Something that came from elsewhere was left out: it is damaged, of another run, or of a version to come.

    Attributes:
        source: where it came from: a subject of the broker, or a file.
        error: what is wrong with it, as ``Type: text``.
    """

    key: str = "hub/frame_refused"
    source: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClocksApart(Event):
    """The clock of a rank's machine and that of the broker do not agree.

    Attributes:
        rank: the rank.
        seconds: by how much its clock is ahead; below 0 if it is behind.
    """

    key: str = "hub/clocks_apart"
    rank: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLeft(Event):
    """A rank has left its hub, and sends nothing more; a later process of that rank may.

    Attributes:
        rank: the rank.
    """

    key: str = "hub/rank_left"
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarsReduced(Event):
    """Scalars of all ranks were reduced; each rank publishes it, and the results, at the same step.

    Attributes:
        ranks: how many ranks took part.
        interval: how many reductions there were before this one.
        keys: of each key that was reduced: ``lowest`` and ``highest``, the ranks of the smallest and the largest value,
            and ``non_finite``, how many values were NaN or infinite.
    """

    key: str = "hub/scalars_reduced"
    ranks: int
    interval: int
    keys: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionDegraded(Event):
    """A reduction over ranks failed: what this rank had for it goes into the next one.

    Attributes:
        error: why, as ``Type: text``.
        interval: how many reductions there were before.
    """

    key: str = "hub/reduction_degraded"
    error: str
    interval: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionRestored(Event):
    """All ranks reduce together again.

    Attributes:
        seconds: how long they did not.
        interval: how many reductions there were before.
        note: what is not the same on all ranks since; empty if nothing is.
    """

    key: str = "hub/reduction_restored"
    seconds: float
    interval: int
    note: str = ""
