"""A figure of a hub, or of a run, in a notebook: plain HTML, which needs no extension and runs no script.

Live: inside IPython's kernel a figure of a hub is drawn again while the hub is entered, at most twice a second and in a
    twentieth of the time, and once more when it is left. What a training step calls does not notice: no scalar is
    subscribed to, a worker thread looks at the histories. IPython takes an update of a display from any thread.
Elsewhere: the figure is an object that draws what there is whenever it is shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from asynchub.dashboard.colours import Colours
from asynchub.dashboard.picture.from_hub import sheet_of_hub
from asynchub.dashboard.picture.gathering import Wanted, gather, made
from asynchub.dashboard.picture.layout import plot_width, scene
from asynchub.dashboard.picture.look import DARK, LIGHT
from asynchub.dashboard.picture.sheet import Sheet
from asynchub.dashboard.picture.svg import svg
from asynchub.dashboard.runs import find_runs
from asynchub.dashboard.view import RunView
from asynchub.errors import ArgumentError
from asynchub.events import StateLoaded
from asynchub.hub import MessageHub
from asynchub.patterns import matcher
from asynchub.subscription import Subscription

__all__ = ("Figure", "show")

EACH = 0.5
"""Seconds from one drawing to the next, at least."""
SHARE = 20
"""One part in so many of the time may go into drawing."""
WIDTHS = (200, 4000)


class Figure:
    """A figure, drawn anew each time it is shown.

    Args:
        make: returns what it shows now; it is told whether it is drawn again.
        width: in pixels.
        dark: draw on a dark ground.
    """

    def __init__(self, make: Callable[[bool], Sheet], width: int, dark: bool) -> None:
        self._make = make
        self._width, self._look = float(width), DARK if dark else LIGHT
        self._live: _Live | None = None
        self._drawn_again = False
        self._shown_in: object = None

    def _repr_html_(self) -> str:
        """Return it as HTML: an SVG, without a script."""
        return self._html(self._make(self._drawn_again))

    def _html(self, sheet: Sheet) -> str:
        prefix = f"a{os.urandom(6).hex()}"  # ids are those of the whole notebook
        drawing = svg(scene(sheet, self._look, self._width), prefix=prefix)
        return f'<div style="max-width:{self._width:.0f}px">{drawing}</div>'

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return it in all forms that a notebook may show."""
        sheet = self._make(self._drawn_again)
        return {"text/html": self._html(sheet), "text/plain": _in_words(sheet)}

    def _ipython_display_(self) -> None:
        """Show it, unless ``show`` did so in this cell."""
        from asynchub.dashboard.picture.jupyter import cell, display_bundle

        if self._shown_in is None or self._shown_in != cell():
            display_bundle(self._repr_mimebundle_())

    def __str__(self) -> str:
        return _in_words(self._make(self._drawn_again))

    __repr__ = __str__

    def stop(self) -> None:
        """Draw it no more by itself; it stays as it is."""
        live, self._live = self._live, None
        if live is not None:
            live.hub.detach(live)


class _Live:
    """What draws a figure again while its hub is entered."""

    role = "observer"
    name = "asynchub.show"
    keys = (StateLoaded,)  # something rare: no value is logged for it

    def __init__(self, hub: MessageHub, draw: Callable[[bool], None]) -> None:
        self.hub = hub
        self._draw = draw  # it is told whether that is not the last time

    async def __call__(self, events: Subscription) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._draw_again)
            async for _ in events:
                pass
            group.cancel_scope.cancel()
        await anyio.to_thread.run_sync(self._draw, False)

    async def _draw_again(self) -> None:
        drawn = -1
        while True:
            began = time.monotonic()
            seq = self.hub.statistics().seq
            if seq != drawn:
                await anyio.to_thread.run_sync(self._draw, True)
                drawn = seq
            await anyio.sleep(max(EACH, (SHARE - 1) * (time.monotonic() - began)))


def show(
    source: MessageHub | str | PathLike[str],
    keys: Sequence[str] = (),
    *,
    live: bool = True,
    log: bool = False,
    width: int = 960,
    dark: bool = False,
    cache: str | PathLike[str] | None = None,
) -> Figure:
    """Show the curves of a hub, or of a run in a folder; return the figure.

    In a notebook it is shown at once, and where it is the value of a cell not a second time. Elsewhere nothing is
    printed: ``str`` of it says in words what it shows.

    Args:
        source: a hub, whose own histories are shown; or the folder of a run.
        keys: patterns of the scalars, e.g. ``["val/*"]``; none for those that matter most, four in all.
        live: in a notebook, draw a figure of a hub again while the hub is entered.
        log: make the y axes logarithmic.
        width: in pixels.
        dark: draw on a dark ground.
        cache: of a run, the folder for what viewers keep.

    Raises:
        ArgumentError: ``source`` is neither, or ``width`` is out of range.
        PatternError: a pattern is malformed.
        FileNotFoundError: there is no such folder.
    """
    patterns = (keys,) if isinstance(keys, str) else tuple(keys)
    matcher(patterns)  # says what is wrong with one before anything is shown
    if type(width) is not int or not WIDTHS[0] <= width <= WIDTHS[1]:
        raise ArgumentError(f"width must be from {WIDTHS[0]} to {WIDTHS[1]} pixels, got {width!r:.40}")
    pixels = plot_width(2, width)
    if isinstance(source, MessageHub):
        hub = source
        figure = Figure(lambda live: sheet_of_hub(hub, patterns, pixels, log=log, live=live), width, dark)
    elif isinstance(source, str | PathLike):
        folder = Path(source)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder; give that of a run, or a hub")
        kept = None if cache is None else Path(cache)
        known = next((found.run_id for found in find_runs(folder) if found.run_id), str(folder.resolve()))
        view = RunView(folder, kept, colour=Colours(kept).of([known])[0])
        figure = Figure(lambda _: _of_run(view, Wanted(keys=patterns, log=log), pixels), width, dark)
    else:
        raise ArgumentError(f"show takes a MessageHub or the folder of a run, got {type(source).__name__}")
    _display(figure, source if live and isinstance(source, MessageHub) else None)
    return figure


def _of_run(view: RunView, wanted: Wanted, pixels: int) -> Sheet:
    now = time.time()
    view.update()
    return made(gather([view], wanted, 2 * pixels, now), [view], wanted, pixels, now)


def _display(figure: Figure, hub: MessageHub | None) -> None:
    """Show a figure in the notebook that this runs in, if any, and keep it up to date."""
    if "IPython" not in sys.modules:  # whoever is in one has imported it
        return
    from asynchub.dashboard.picture.jupyter import Display, cell, in_notebook

    if not in_notebook():
        return
    display = Display(figure._repr_mimebundle_())
    figure._shown_in = cell()
    if hub is not None:

        def draw(again: bool) -> None:
            figure._drawn_again = again
            display.update(figure._repr_mimebundle_())

        figure._live = _Live(hub, draw)
        hub.attach(figure._live)


def _in_words(sheet: Sheet) -> str:
    """Return what a sheet shows, a line each."""
    facts = [line.text for _, lines in sheet.facts for line in lines]
    charts = [panel.drawing.summary for panel in sheet.panels]
    alerts = [line.text for line in sheet.alerts]
    return "\n".join([f"{sheet.title}: {sheet.state.text}", *(f"  {text}" for text in (*facts, *alerts, *charts))])
