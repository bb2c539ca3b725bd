"""What a picture of a hub shows, from its own histories: no journal is needed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from asynchub.dashboard.buckets import of_values, reduce
from asynchub.dashboard.colours import colour_of
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.picture.sheet import Panel, Sheet
from asynchub.dashboard.screen import Line, RunRow
from asynchub.history import NO_STEP, HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.patterns import matcher
from asynchub.subscribers.display import RESULT_KEYS, one_line

__all__ = ("sheet_of_hub",)

MOST = 12
"""Charts at most."""
FIRST = 4
"""Charts, if nobody has said which."""
ROW = "hub"


def sheet_of_hub(hub: MessageHub, keys: Sequence[str], pixels: int, *, log: bool, live: bool) -> Sheet:
    """Return the page of a hub. Any thread; it waits for nothing.

    Args:
        hub: whose histories are shown.
        keys: patterns of the scalars; none for results of evaluations and the first others, four in all.
        pixels: how wide the plot of a chart is.
        log: whether the y axes are logarithmic.
        live: whether it is drawn again.

    Raises:
        PatternError: a pattern is malformed.
    """
    now = time.time()
    histories = {key: found for key, found in hub.log_scalars.copy().items() if isinstance(found, HistoryBuffer)}
    statistics = hub.statistics()
    chosen = _chosen(list(histories), keys)
    shown = chosen[: MOST if keys else FIRST]
    panels = []
    for key in shown:
        curve, pending = _curve(key, histories[key], statistics.seq, 2 * pixels)
        note = f"{pending:,} values are on their way from a device" if pending else ""
        panels.append(Panel(key, note, {ROW: curve}, draw({ROW: curve}, log=log, pixels=pixels, time=now)))
    facts = [f"step {statistics.step:,}", f"{statistics.seq:,} events", f"{statistics.scalars:,} scalars"]
    state = Line("Live", "good") if live else Line("As it was when this was drawn", "quiet")
    if hub.stop_requested:
        facts.append(f"stop requested: {hub.stop_reason}" if hub.stop_reason else "stop requested")
    notes = [f"{len(chosen) - len(shown):,} more scalars; name those to show with keys="] if shown != chosen else []
    name = one_line(hub.instance_name)
    row = RunRow(ROW, name, "", "", colour_of(name), "running" if live else "unknown", state.text)
    return Sheet(
        title=name,
        state=state,
        facts=(("How far it is", (Line(one_line(" · ".join(facts))),)),),
        alerts=() if panels else (Line("no scalar yet" if not histories else "no scalar matches", "warn"),),
        runs=(row,),
        panels=tuple(panels),
        notes=tuple(notes),
    )


def _chosen(present: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return the keys that are meant, the most interesting first."""
    if keys:
        matches = matcher(keys)
        return [key for key in present if matches(key)]
    is_result = matcher(RESULT_KEYS)
    results, others = [key for key in present if is_result(key)], [key for key in present if not is_result(key)]
    return [*results[: FIRST // 2], *others, *results[FIRST // 2 :]]


def _curve(key: str, history: HistoryBuffer, seq: int, buckets: int) -> tuple[Curve, int]:
    """Return a history as it is drawn, and how many values are on their way."""
    found = history.snapshot()
    steps = np.where(found.steps == NO_STEP, np.arange(len(found.steps)), found.steps)
    values = of_values(steps, found.values, found.counts, times=found.times)
    start, stop = (int(steps.min()), int(steps.max())) if len(steps) else (0, 0)
    single = values.size <= buckets
    if not single:
        values = reduce(values, int(2 ** max(((stop - start + 1) // buckets).bit_length() - 1, 0)))
    x = values.first if single else values.steps
    curve = Curve(
        key=key,
        start=start,
        stop=stop,
        width=values.width,
        single=single,
        buckets=values,
        axis="step",
        x=x,
        monotone=not bool((x[1:] < x[:-1]).any()),
        note="",
        smooth=None,
        window=0,
        seq=seq,
    )
    return curve, found.pending
