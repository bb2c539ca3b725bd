"""Where everything of a picture stands: the head, the charts, the decisions, the end."""

from __future__ import annotations

from math import ceil

import numpy as np

from asynchub.dashboard.colours import DASHES, GREY
from asynchub.dashboard.picture.charts import SMALL, Frame, chart, extent
from asynchub.dashboard.picture.look import Look, room, shortened, wrapped
from asynchub.dashboard.picture.shapes import Box, Group, Polyline, Scene, Text
from asynchub.dashboard.picture.sheet import Sheet
from asynchub.dashboard.screen import Level, Mark

__all__ = ("columns_of", "plot_width", "scene")

PAD, GAP = 20.0, 14.0
LETTERS, HEADING, LINE = 13.0, 12.0, 18.0
PANEL = 288.0
"""Height of a chart, in pixels, unless the picture has a height."""
LEAST_PANEL = 190.0
WIDE = 860.0
"""Width from which on there are two columns."""
SIGNS: dict[Level, str] = {"good": "", "plain": "", "quiet": "", "warn": "▲ ", "bad": "▲ "}
LEGEND = 24
"""Runs, at most, that are named."""


def columns_of(panels: int, width: float) -> int:
    """Return how many charts stand beside each other."""
    if width < WIDE or panels < 2:
        return 1
    return 3 if width >= 1300 and panels > 6 else 2


def plot_width(panels: int, width: float) -> int:
    """Return how wide the plot of a chart is, in pixels."""
    columns = columns_of(panels, width)
    return max(int((width - 2 * PAD - GAP * (columns - 1)) / columns - 68), 50)


def scene(sheet: Sheet, look: Look, width: float, height: float | None = None) -> Scene:
    """Return a picture of a sheet.

    Args:
        sheet: what it shows.
        look: its colours.
        width: in pixels.
        height: in pixels, at least; None for as much as it takes.
    """
    page = _Page(sheet, look, width)
    page.head()
    page.legend()
    page.charts(height)
    page.decisions()
    page.end()
    return Scene(width, max(page.y + PAD - 6, height or 0.0), look.ground, sheet.title, page.groups)


class _Page:
    def __init__(self, sheet: Sheet, look: Look, width: float) -> None:
        self.sheet, self.look, self.width = sheet, look, width
        self.groups: list[Group] = []
        self.y = PAD

    def begin(self) -> Group:
        self.groups.append(Group())
        return self.groups[-1]

    def head(self) -> None:
        """Write the heading, what there is to say of the run in columns, and what is wrong."""
        group, look, sheet = self.begin(), self.look, self.sheet
        inner = self.width - 2 * PAD
        title = shortened(sheet.title, 19, inner * 0.7, bold=True)
        self.y += 16
        group.shapes.append(Text(PAD, self.y, title, 19, look.ink, bold=True))
        group.shapes.append(Text(self.width - PAD, self.y, "asynchub", HEADING, look.mute, "end"))
        self.y += 24
        for number, line in enumerate(wrapped(sheet.state.text, 15, inner - 24, 3)):
            sign = "● " if number == 0 else ""
            colour = look.of_level(sheet.state.level)
            group.shapes.append(Text(PAD, self.y, sign + line, 14, colour, bold=True))
            self.y += 19
        if sheet.share is not None and np.isfinite(sheet.share):
            done = min(max(sheet.share, 0.0), 1.0)
            group.shapes.append(Box(PAD, self.y - 8, inner, 6, look.edge, "", 3))
            if done:
                group.shapes.append(Box(PAD, self.y - 8, max(inner * done, 6), 6, look.accent, "", 3))
            self.y += 12
        self._facts()
        self._alerts()

    def _facts(self) -> None:
        facts = [(heading, lines) for heading, lines in self.sheet.facts if lines]
        if not facts:
            return
        group, look = self.begin(), self.look
        columns = min(len(facts), 3 if self.width >= WIDE else 2 if self.width >= 560 else 1)
        wide = (self.width - 2 * PAD - 28 * (columns - 1)) / columns
        for start in range(0, len(facts), columns):
            top = deepest = self.y + 8
            for number, (heading, lines) in enumerate(facts[start : start + columns]):
                x, y = PAD + number * (wide + 28), top
                group.shapes.append(Text(x, y, heading, HEADING, look.mute, bold=True))
                for line in lines:
                    for text in wrapped(SIGNS[line.level] + line.text, LETTERS, wide, 3):
                        y += LINE
                        group.shapes.append(Text(x, y, text, LETTERS, look.of_level(line.level)))
                deepest = max(deepest, y)
            self.y = deepest + 14

    def _alerts(self) -> None:
        group, look = self.begin(), self.look
        self.y += 4
        for line in self.sheet.alerts:
            bad = line.level == "bad"
            texts = wrapped("▲ " + line.text, LETTERS, self.width - 2 * PAD - 26, 3)
            high = LINE * len(texts) + 8
            colour = look.bad if bad else look.warn
            ground = look.bad_ground if bad else look.warn_ground
            group.shapes.append(Box(PAD, self.y, self.width - 2 * PAD, high, ground, "", 5))
            group.shapes.append(Box(PAD, self.y, 4, high, colour))
            for number, text in enumerate(texts):
                group.shapes.append(Text(PAD + 14, self.y + 17 + LINE * number, text, LETTERS, colour))
            self.y += high + 6

    def legend(self) -> None:
        """Say which line is which run's, if there are several."""
        runs = self.sheet.runs
        if len(runs) < 2:
            return
        group, look = self.begin(), self.look
        x, self.y = PAD, self.y + 16
        for number, row in enumerate(runs[:LEGEND]):
            colour = row.colour if number < self.sheet.coloured else GREY
            text = shortened(row.name, LETTERS, 300)
            word = shortened(row.word, SMALL, 160)
            wide = 34 + room(text, LETTERS) + 8 + room(word, SMALL) + 22
            if x + wide > self.width - PAD and x > PAD:
                x, self.y = PAD, self.y + 21
            line = np.array([x, x + 26]), np.array([self.y - 4.5, self.y - 4.5])
            group.shapes.append(Polyline(*line, look.of_run(colour), 2.5, DASHES[colour.dash]))
            group.shapes.append(Text(x + 34, self.y, text, LETTERS, look.ink))
            group.shapes.append(Text(x + 42 + room(text, LETTERS), self.y, word, SMALL, look.of_level(row.level)))
            x += wide
        more = []
        if len(runs) > self.sheet.coloured:
            more.append(f"{self.sheet.coloured} coloured of {len(runs):,}, the others grey")
        if len(runs) > LEGEND:
            more.append(f"{len(runs) - LEGEND:,} not named here")
        if more:
            self.y += 21
            group.shapes.append(Text(PAD, self.y, "; ".join(more), SMALL, look.mute))
        self.y += 12

    def charts(self, height: float | None) -> None:
        """Draw the charts, as high as the picture lets them be."""
        panels = self.sheet.panels
        if not panels:
            return
        self.y += 8
        columns = columns_of(len(panels), self.width)
        rows = ceil(len(panels) / columns)
        high = PANEL
        if height is not None:
            high = max((height - self.y - self._rest()) / rows - GAP, LEAST_PANEL)
        wide = (self.width - 2 * PAD - GAP * (columns - 1)) / columns
        start, stop = extent(panels)
        colours = {row.id: row.colour for row in self.sheet.runs[: self.sheet.coloured]}
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            x, y = PAD + column * (wide + GAP), self.y + row * (high + GAP)
            frame = Frame(x, y, wide, high, start, stop, self.sheet.axis, colours)
            self.groups.append(chart(panel, frame, self.look))
        self.y += rows * (high + GAP)

    def _rest(self) -> float:
        """Return how much room what comes after the charts takes."""
        decisions = 30 + LINE * len(self.sheet.decisions) if self.sheet.decisions else 0.0
        return decisions + 16 * len(self._notes()) + PAD

    def decisions(self) -> None:
        """List the newest decisions."""
        if not self.sheet.decisions:
            return
        group, look = self.begin(), self.look
        self.y += 12
        group.shapes.append(Text(PAD, self.y, "Decisions, the newest first", HEADING, look.mute, bold=True))
        inner = self.width - 2 * PAD
        for name, mark in self.sheet.decisions:
            self.y += LINE
            step = "" if mark.step is None else f"step {mark.step:,}"
            group.shapes.append(Text(PAD, self.y, step, LETTERS, look.mute))
            words = f"{shortened(name, LETTERS, 240)} · {_words(mark)}" if name else _words(mark)
            text = shortened(words, LETTERS, inner - 120)
            colour = look.bad if mark.kind in ("failed", "refused") else look.ink
            group.shapes.append(Text(PAD + 120, self.y, text, LETTERS, colour))
        self.y += 14

    def _notes(self) -> list[str]:
        return [text for note in self.sheet.notes for text in wrapped(note, SMALL, self.width - 2 * PAD, 2)]

    def end(self) -> None:
        """Write what else there is to say."""
        group = self.begin()
        for text in self._notes():
            self.y += 16
            group.shapes.append(Text(PAD, self.y - 4, text, SMALL, self.look.mute))


def _words(mark: Mark) -> str:
    kind = {"suggested": " (only suggested)", "refused": " (refused)", "manual": " (by hand)"}.get(mark.kind, "")
    return f"{mark.who}: {mark.what}{kind}" + (f" · {mark.why}" if mark.why else "")
