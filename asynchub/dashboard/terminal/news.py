"""What stands at the right of the first line: what there is beside what is seen."""

from __future__ import annotations

from asynchub.dashboard.terminal.feed import Shown
from asynchub.dashboard.terminal.viewpoint import Viewpoint

__all__ = ("news_of",)


def news_of(shown: Shown, view: Viewpoint, label: str) -> str:
    """Return it.

    Args:
        shown: what there is to show.
        view: what is looked at.
        label: of a rule that is tried; "" while none is.
    """
    parts = [f"what if: {label}"] if label else []
    if unseen := view.unseen(shown.last):
        parts.append(f"{unseen:,} new steps → f")
    if view.start is not None and shown.front is not None:
        first, last = view.steps(shown.first, shown.last)
        parts.append(f"steps {first:,} to {last:,}")
    if shown.total > len(shown.charts) > 0:
        parts.append(f"chart {min(view.chart, shown.total - 1) + 1} of {shown.total:,}")
    if shown.reading and shown.front is not None:
        parts.append("reading…")
    return " · ".join(parts)
