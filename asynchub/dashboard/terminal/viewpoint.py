"""What somebody looks at, and how: which charts, which steps of them, which axis; and what a key changes about that.

Steps: a part of a run is kept in steps, whatever stands on the axis. While it follows, its right edge is the newest
    step; moving it away ends that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from asynchub.dashboard.curves import Axis
from asynchub.dashboard.smoothing import Smoothing

__all__ = ("Trail", "Viewpoint")

PAN = 4
"""Which part of what is seen a pan moves by."""
NARROWEST = 8
"""Steps that are seen at least."""
PLACE = 50
"""Around a place, at least one part in so many of the run is seen."""
NARROWEST_WINDOW = 10
"""Steps to smooth over at first."""
MOST_UNDONE = 100
"""Changes that can be undone."""


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """What is looked at; the defaults are the first screen.

    Attributes:
        axis: what stands on the x axis.
        logs: keys whose y axis is logarithmic.
        fit_all: whether nothing is cut off.
        window: steps to smooth over, or the half-life; 0 for none.
        smoothing: which mean it is, or would be.
        width: what ``window`` was last, or will be first.
        start: the first step; None for the whole.
        stop: the last step; None for the whole.
        follow: whether the newest step stays at the right edge.
        filter: which keys; "" for those that matter most, then the others.
        chart: which chart is chosen, among all.
        large: whether only that one is shown.
        front: id of the run in front; "" for the first.
        pinned: ids of runs that are drawn whatever others there are.
    """

    axis: Axis = "step"
    logs: frozenset[str] = frozenset()
    fit_all: bool = False
    window: int = 0
    smoothing: Smoothing = "mean"
    width: int = NARROWEST_WINDOW
    start: int | None = None
    stop: int | None = None
    follow: bool = True
    filter: str = ""
    chart: int = 0
    large: bool = False
    front: str = ""
    pinned: frozenset[str] = frozenset()

    def steps(self, low: int, high: int) -> tuple[int, int]:
        """Return the first and the last step that are seen, of a run that goes from ``low`` to ``high``."""
        if self.start is None or self.stop is None:
            return low, high
        if self.follow and self.stop != high:
            return max(high - (self.stop - self.start), low), high
        return self.start, self.stop

    def unseen(self, high: int) -> int:
        """Return how many steps there are beyond the right edge."""
        return max(high - self.stop, 0) if self.stop is not None and not self.follow else 0

    def zoomed(self, low: int, high: int, closer: bool) -> Viewpoint:
        """Return it with half or twice as many steps, around the middle, or up to the newest while it follows."""
        first, last = self.steps(low, high)
        size = last - first + 1
        size = max(size // 2, NARROWEST) if closer else 2 * size
        if size >= high - low + 1:
            return replace(self, start=None, stop=None, follow=True)
        at_edge = self.follow or last >= high
        start = last - size + 1 if at_edge else (first + last + 1) // 2 - size // 2
        start = max(low, min(start, high - size + 1))
        return replace(self, start=start, stop=start + size - 1, follow=at_edge)

    def panned(self, low: int, high: int, right: bool) -> Viewpoint:
        """Return it moved by a part; at the newest step it follows again."""
        if self.start is None or self.stop is None:
            return self
        first, last = self.steps(low, high)
        by = max((last - first + 1) // PAN, 1)
        by = min(by, high - last) if right else -min(by, first - low)
        return replace(self, start=first + by, stop=last + by, follow=right and last + by >= high)

    def at(self, start: int, stop: int, low: int, high: int) -> Viewpoint:
        """Return it around the steps from ``start`` to ``stop``, with some room beside them."""
        room = max(stop - start + 1, (high - low) // PLACE, NARROWEST)
        start, stop = max(start - room, low), min(stop + room, high)
        return replace(self, start=start, stop=max(stop, start + 1), follow=False)

    def followed(self, low: int, high: int) -> Viewpoint:
        """Return it following, or no longer following."""
        first, last = self.steps(low, high)
        if self.follow:
            return replace(self, start=first, stop=last, follow=False)
        return replace(self, follow=True)

    def on_next_axis(self) -> Viewpoint:
        """Return it with the next axis."""
        axes: tuple[Axis, ...] = get_args(Axis)
        return replace(self, axis=axes[(axes.index(self.axis) + 1) % len(axes)])

    def on_next_smoothing(self) -> Viewpoint:
        """Return it with the next smoothing: none, a mean over a window, an exponential one."""
        if not self.window:
            return replace(self, window=self.width, smoothing="mean")
        return replace(self, smoothing="ema") if self.smoothing == "mean" else replace(self, window=0)

    def smoother(self, low: int, high: int) -> Viewpoint:
        """Return it smoothed over ten times as many steps; over none, once that would be more than half of the run."""
        window = 10 * self.window if self.window else NARROWEST_WINDOW
        window = window if 2 * window <= max(high - low + 1, 20) else 0
        return replace(self, window=window, width=window or NARROWEST_WINDOW)

    def rougher(self) -> Viewpoint:
        """Return it smoothed over a tenth of the steps; over none, once that would be less than there are at first."""
        window = self.window // 10 if self.window >= 10 * NARROWEST_WINDOW else 0
        return replace(self, window=window, width=window or NARROWEST_WINDOW)

    @property
    def smoothing_in_words(self) -> str:
        """What the line of charts is, in the words of the page."""
        if not self.window:
            return "no smoothing"
        kind = "EMA, half-life" if self.smoothing == "ema" else "mean of the last"
        return f"{kind} {self.window:,} steps"

    def logged(self, key: str) -> Viewpoint:
        """Return it with the y axis of a key logarithmic, or no longer so."""
        return replace(self, logs=self.logs ^ {key})


class Trail:
    """What is looked at, and what was before.

    Attributes:
        view: what is looked at.
    """

    def __init__(self) -> None:
        self.view = Viewpoint()
        self._before: list[Viewpoint] = []

    def go(self, view: Viewpoint) -> None:
        """Look at something else."""
        if view != self.view:
            self._before = [*self._before[1 - MOST_UNDONE :], self.view]
            self.view = view

    def back(self) -> None:
        """Undo the last change."""
        if self._before:
            self.view = self._before.pop()

    def unzoom(self) -> None:
        """Undo the last change of which steps are seen, and keep the others."""
        now = self.view
        for number in range(len(self._before) - 1, -1, -1):
            before = self._before[number]
            if (before.start, before.stop, before.follow) != (now.start, now.stop, now.follow):
                del self._before[number:]
                self.view = replace(now, start=before.start, stop=before.stop, follow=before.follow)
                return
