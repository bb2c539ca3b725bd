"""How a rank is doing, as who follows it from afar has heard."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("RankStatus",)


@dataclass(frozen=True, slots=True)
class RankStatus:
    """How a rank is doing, as far as it has been heard of.

    Attributes:
        rank: the rank.
        world: how many ranks the run has.
        step: its step; None while that is not known.
        heard: seconds since its last sign of life; None if there was none.
        waiting: frames that it could not send yet; None while that is not known.
        left_out: events that it left out in this epoch, because its spool was full; None while that is not known.
        frames: frames that came from it.
        missed: events of it that did not come.
        ended: whether it has left its hub.
    """

    rank: int
    world: int
    step: int | None
    heard: float | None
    waiting: int | None
    left_out: int | None
    frames: int
    missed: int
    ended: bool
