"""A picture of runs as a file: SVG, PNG, or a page that needs nothing else.

Whole: the file is replaced in one step, so whoever opens it sees a whole picture.
Harmless: nothing in it asks anybody for anything, no matter how runs and scalars are called.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from asynchub.dashboard.curves import AXES, Axis
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.picture.gathering import Wanted, gather, made
from asynchub.dashboard.picture.layout import plot_width, scene
from asynchub.dashboard.picture.look import DARK, LIGHT
from asynchub.dashboard.picture.page import page_of
from asynchub.dashboard.picture.shapes import Scene
from asynchub.dashboard.picture.svg import svg
from asynchub.dashboard.smoothing import Smoothing
from asynchub.dashboard.view import RunView
from asynchub.errors import ArgumentError

__all__ = ("FORMATS", "MOST_RUNS", "export")

FORMATS = (".png", ".svg", ".html")
MOST_RUNS = 100
"""Runs in a picture at most."""
SIZES = (200, 20_000)
"""Pixels of a picture, each way, at least and at most."""


def export(
    runs: Sequence[Path],
    output: Path,
    *,
    keys: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    axis: Axis = "step",
    log: bool = False,
    window: int = 0,
    smoothing: Smoothing = "mean",
    fit_all: bool = False,
    width: int = 1400,
    height: int | None = None,
    dark: bool = False,
    cache: Path | None = None,
) -> Path:
    """Draw runs to a file; return which.

    Args:
        runs: folders of runs, or folders that runs are in.
        output: the file, whose suffix says the format: ``.png`` (with twice as many pixels each way), ``.svg``, or
            ``.html``. Its folder is created.
        keys: patterns of the scalars; none for those of the first screen.
        start: the first step.
        stop: the last step.
        axis: what stands on the x axis.
        log: make the y axes logarithmic.
        window: steps to smooth over, or the half-life; 0 for no smoothing.
        smoothing: ``"mean"`` over a window, or ``"ema"``, an exponential one.
        fit_all: cut nothing off.
        width: in pixels.
        height: in pixels, at least; None for as much as it takes.
        dark: draw on a dark ground.
        cache: folder for what viewers keep; default as of ``Pyramid``.

    Raises:
        ArgumentError: an argument is out of range, or there is no run.
        ModuleNotFoundError: a PNG is asked for, and matplotlib is not installed.
        OSError: the disk said no.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise ArgumentError(f"a picture ends in {', '.join(FORMATS)}, got {str(output)!r:.200}")
    if axis not in AXES:
        raise ArgumentError(f"axis must be one of {', '.join(map(repr, AXES))}, got {axis!r:.80}")
    for name, size in (("width", width), ("height", height)):
        if size is not None and (type(size) is not int or not SIZES[0] <= size <= SIZES[1]):
            raise ArgumentError(f"{name} must be from {SIZES[0]} to {SIZES[1]} pixels, got {size!r:.40}")
    write = _writer(suffix)
    wanted = Wanted(
        keys=tuple(keys),
        start=start,
        stop=stop,
        axis=axis,
        log=log,
        window=window,
        smoothing=smoothing,
        fit_all=fit_all,
    )
    now = time.time()
    with Gallery([Path(run) for run in runs], cache) as gallery:
        rows = gallery.rows(now=now)
        if not rows:
            raise ArgumentError(gallery.problem or "there is no run to draw; give the folder of one")
        if len(rows) > MOST_RUNS:
            raise ArgumentError(f"a picture has {MOST_RUNS} runs at most, got {len(rows):,}; name some of them")
        views = [gallery.run(row.id) for row in rows]
        for view in views:
            view.update()
        data = write(views, wanted, _Size(width, height, dark), now)
    _replace(output, data)
    return output


class _Size:
    """How large and how dark a picture is."""

    def __init__(self, width: int, height: int | None, dark: bool) -> None:
        self.width, self.height = float(width), None if height is None else float(height)
        self.look = DARK if dark else LIGHT

    def scene(self, views: Sequence[RunView], wanted: Wanted, now: float) -> Scene:
        found = gather(views, wanted, 2 * plot_width(2, self.width), now)
        sheet = made(found, views, wanted, plot_width(len(found.keys), self.width), now)
        return scene(sheet, self.look, self.width, self.height)


Write = Callable[[Sequence[RunView], Wanted, _Size, float], bytes]


def _writer(suffix: str) -> Write:
    """Return what makes the bytes of a file; what that needs is imported now, before any work is done."""
    if suffix == ".svg":
        return _svg
    if suffix == ".html":
        return _html
    from asynchub.dashboard.picture.png import write_png

    def png(views: Sequence[RunView], wanted: Wanted, size: _Size, now: float) -> bytes:
        file = io.BytesIO()
        write_png(size.scene(views, wanted, now), file)
        return file.getvalue()

    return png


def _svg(views: Sequence[RunView], wanted: Wanted, size: _Size, now: float) -> bytes:
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + svg(size.scene(views, wanted, now))).encode()


def _html(views: Sequence[RunView], wanted: Wanted, size: _Size, now: float) -> bytes:
    return page_of(views, wanted, size.look, size.width, size.height, now).encode()


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
