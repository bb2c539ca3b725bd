"""What a bridge was told, and how it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asynchub.allowing import Allowed
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Transport
from asynchub.channels import Selection
from asynchub.hub import MessageHub
from asynchub.requests import Request

__all__ = ("BridgeStatistics", "Plan")


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """How a bridge is doing.

    Attributes:
        connected: whether the broker is there.
        error: why it does not take anything, or why the spool is in memory, as ``Type: text``; empty if all is well.
        waiting: frames in the spool.
        size: bytes of the spool.
        delivered: frames that the broker took since the hub was entered.
        left_out: events left out since then, because the spool was full, or their frame too large for the broker.
        clock_ahead: seconds that the clock is ahead of the broker's; None while that is not known.
    """

    connected: bool = False
    error: str = ""
    waiting: int = 0
    size: int = 0
    delivered: int = 0
    left_out: int = 0
    clock_ahead: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a bridge was told; see ``Bridge``."""

    hub: MessageHub
    open: Callable[[], Transport]
    subjects: Subjects
    rank: int
    world: int
    selection: Selection
    spool: Path | None
    max_spool: int
    allowed: Allowed
    agree: Callable[[Request], object] | None
    interval: float
    drain_timeout: float
    name: str
