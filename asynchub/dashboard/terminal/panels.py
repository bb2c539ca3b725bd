"""The lines around the charts: is it alive, why will it stop, what limits it, what is wrong; pipeline and decisions.

Texts stand as ``asynchub.dashboard.screen`` has them; they are cut where there is no room, never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from asynchub.dashboard.screen import Asked, Line, Mark, PipelineCard, RunRow, Screen
from asynchub.dashboard.terminal.feed import Charted, Shown
from asynchub.dashboard.terminal.layout import NARROW, Rect
from asynchub.dashboard.terminal.look import LEVEL_SIGNS, Look, Piece, clean, columns_of, cut, strip_of, wrapped
from asynchub.dashboard.terminal.plot import MARK_SIGNS
from asynchub.dashboard.terminal.viewpoint import Viewpoint

try:
    from rich.style import Style
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = (
    "alert_lines",
    "chart_lines",
    "foot_lines",
    "foot_size",
    "footer_size",
    "head_lines",
    "head_size",
    "sign_of",
)

DASHES = ("━━", "╍╍", "┅┅", "━╍")
ASKED_SECONDS = 120
"""Seconds that a request which is over is still shown."""


def head_lines(shown: Shown, view: Viewpoint, rect: Rect, look: Look, note: str) -> list[Strip]:
    """Return the lines of the head.

    Args:
        shown: what there is to show.
        view: what is looked at.
        rect: where it stands.
        look: of the terminal.
        note: what stands at the right of its first line.
    """
    width = rect.width
    lines = [_titles(shown, view, width, look, note)]
    screen = shown.front
    if screen is None:
        words = clean(shown.problem) or "looking for runs"
        text = f"waiting: {words}" if shown.problem else words
        lines.append(strip_of([(" " + text, look.style("warn" if shown.problem else "quiet"))], width, look))
    elif width >= NARROW and rect.height >= 5:
        lines += _beside(screen, rect.height - 1, width, look)
    else:
        lines += _below(screen, rect.height - 1, width, look)
    lines += [strip_of([], width, look)] * (rect.height - len(lines))
    return lines[: rect.height]


def _titles(shown: Shown, view: Viewpoint, width: int, look: Look, note: str) -> Strip:
    """Return the line that names the runs."""
    quiet = look.style("quiet")
    pieces: list[Piece] = []
    numbers = {row.id: number for number, row in enumerate(shown.rows, 1)}
    by_id = {row.id: row for row in shown.rows}
    several = len(shown.rows) > 1
    for run in shown.drawn:
        row, front = by_id[run], run == shown.drawn[0]
        mark = f"{numbers[run]} " if several and numbers[run] < 10 else ""
        pieces.append((" ", quiet))
        pieces.append((mark, look.style("key") if mark else quiet))
        pieces.append(sign_of(row, shown, look))
        pieces.append((clean(row.name) or clean(row.folder), look.style("title" if front else "plain")))
        if run in view.pinned:
            pieces.append((" pinned", quiet))
        if several:
            pieces.append((f" {clean(row.word)} ", look.style(row.level)))
        if not front and row.problem:
            pieces.append((f"({clean(row.problem)}) ", look.style("warn")))
    if len(shown.rows) > len(shown.drawn):
        pieces.append((f" · {len(shown.drawn)} of {len(shown.rows)} runs drawn", quiet))
    if not shown.drawn:
        pieces.append((" asynchub watch", look.style("title")))
    note = clean(note)
    room = width - columns_of(note) - 3
    if note and room >= 20:
        left = strip_of(pieces, room, look)
        return Strip.join([left, strip_of([("  " + note, quiet)], width - room, look)])
    return strip_of(pieces, width, look)


def sign_of(row: RunRow, shown: Shown, look: Look) -> Piece:
    """Return how the line of a run that is drawn looks, and a blank."""
    return DASHES[row.colour.dash % 4 if len(shown.drawn) > 1 else 0] + " ", look.run(row.colour, True)


def _status(screen: Screen, look: Look) -> list[Piece]:
    status = screen.status
    pieces: list[Piece] = [(_word(screen), look.style(_state(status.level)))]
    for line in status.lines[:1]:
        pieces.append((f"  {clean(line.text)}", look.style(line.level)))
    return pieces


def _state(level: str) -> str:
    return "title" if level == "plain" else level


def _bar(share: float, width: int, look: Look) -> list[Piece]:
    full = min(max(round(share * width), 0), width)
    rest = "━" if look.letters else "."
    return [("━" * full, look.style("good")), (rest * (width - full), look.style("frame"))]


def _beside(screen: Screen, height: int, width: int, look: Look) -> list[Strip]:
    """Return the three answers beside each other; texts go on in a second line, if there is room."""
    parts = _parts(width)
    columns = _answers(screen, parts, look, 2)
    if max(map(len, columns)) > height:
        columns = _answers(screen, parts, look, 1)
    found = [
        _filled(_counted(lines, height, part, look), height, part, look)
        for lines, part in zip(columns, parts, strict=True)
    ]
    return [Strip.join(row) for row in zip(*found, strict=True)]


def _parts(width: int) -> tuple[int, int, int]:
    """Return how wide each of the three answers is."""
    first, second = width * 34 // 100, width * 34 // 100
    return first, second, width - first - second


def _answers(screen: Screen, parts: tuple[int, int, int], look: Look, most: int) -> tuple[list[Strip], ...]:
    """Return the lines of each answer; a text has ``most`` at most."""
    first = [strip_of(_status(screen, look), parts[0], look)]
    details = screen.status.lines
    if details and columns_of(_word(screen)) + columns_of(clean(details[0].text)) + 4 > parts[0] and most > 1:
        first = [strip_of(_status(screen, look)[:1], parts[0], look)]
    else:
        details = details[1:]
    if screen.status.share is not None:
        bar = [(" ", look.style("plain")), *_bar(screen.status.share, parts[0] - 4, look)]
        first.append(strip_of(bar, parts[0], look))
    first += _texts(details, parts[0], look, most)
    second = [strip_of([(f" {clean(screen.stops_head)}", look.style("quiet"))], parts[1], look)]
    third = [strip_of([(f" {clean(screen.speed_head)}", look.style("quiet"))], parts[2], look)]
    return (
        first,
        second + _texts(screen.stops, parts[1], look, most),
        third + _texts(screen.speed, parts[2], look, most),
    )


def _word(screen: Screen) -> str:
    return f" {LEVEL_SIGNS[screen.status.level]} {clean(screen.status.word)}"


def _texts(lines: Sequence[Line], width: int, look: Look, most: int) -> list[Strip]:
    found = []
    for line in lines:
        sign = _sign(line.level)
        for number, text in enumerate(wrapped(clean(line.text), width - 2 - len(sign), most)):
            lead = f" {sign}" if not number else " " * (1 + len(sign))
            found.append(strip_of([(lead + text, look.style(line.level))], width, look))
    return found


def _sign(level: str) -> str:
    return "▲ " if level in ("warn", "bad") else ""


def _counted(lines: list[Strip], height: int, width: int, look: Look) -> list[Strip]:
    """Return the lines that there is room for; the last says how many there are more."""
    if len(lines) <= height or not height:
        return lines[:height]
    word = f" +{len(lines) - height} "
    more = strip_of([(word, look.style("quiet"))], len(word), look)
    return [*lines[: height - 1], Strip.join([lines[height - 1].crop(0, width - len(word)), more])]


def _filled(lines: list[Strip], height: int, width: int, look: Look) -> list[Strip]:
    return lines[:height] + [strip_of([], width, look)] * (height - len(lines))


def _below(screen: Screen, height: int, width: int, look: Look) -> list[Strip]:
    """Return the three answers below each other, a line each."""
    status = _status(screen, look)
    share = screen.status.share
    used = sum(columns_of(text) for text, _ in status)
    if share is not None and width - used >= 14:
        status += [("  ", look.style("plain")), *_bar(share, min(width - used - 4, 24), look)]
    lines = [strip_of(status, width, look)]
    for word, facts in (("stops", screen.stops), ("speed", screen.speed)):
        if facts:
            lines.append(strip_of([(f" {word}: ", look.style("quiet")), *_pieces(facts, look)], width, look))
    lines += [_line(line, width, look) for line in screen.status.lines[1:]]
    return lines[:height]


def _pieces(facts: Sequence[Line], look: Look) -> list[Piece]:
    pieces: list[Piece] = []
    for line in facts:
        pieces += [(" · ", look.style("quiet"))] if pieces else []
        pieces.append((_sign(line.level) + clean(line.text), look.style(line.level)))
    return pieces


def _line(line: Line, width: int, look: Look) -> Strip:
    return strip_of([(f" {_sign(line.level)}{clean(line.text)}", look.style(line.level))], width, look)


def alert_lines(screen: Screen | None, rect: Rect, look: Look) -> list[Strip]:
    """Return what is wrong; the last line says how much more there is."""
    alerts = screen.alerts if screen is not None else ()
    lines = [_line(line, rect.width, look) for line in alerts]
    return _filled(_counted(lines, rect.height, rect.width, look), rect.height, rect.width, look) if rect.height else []


# --- charts


def footer_size(rect: Rect) -> int:
    """Return how many lines the truth about a chart has, the lower edge of its frame included."""
    return 2 if rect.height >= 12 and rect.width < 80 else 1


def chart_lines(chart: Charted | None, rect: Rect, chosen: bool, look: Look) -> list[Strip]:
    """Return a chart with its frame: in the upper edge what it is, in the lower one the truth about it."""
    frame = look.style("chosen" if chosen else "frame")
    across, down = ("━", "┃") if chosen else ("─", "│")
    corners = "┏┓┗┛" if chosen else "╭╮╰╯"
    width = rect.width
    lines = list(chart.lines) if chart is not None else []
    above: list[Piece] = []
    if chart is not None:
        note = clean(chart.note)
        key = cut(clean(chart.key), max(width - 6, 1))
        above = [(f" {key} ", look.style("title"))]
        above += [("log ", look.style("key"))] if chart.log else []
        above += [(f"{note} ", look.style("quiet"))] if note and width - columns_of(key) > 12 else []
    truth = wrapped(clean(chart.footer), width - 6, footer_size(rect)) if chart is not None else []
    below: list[Piece] = [(f" {truth[-1]} ", look.style("quiet"))] if truth else []
    lines += [strip_of([(f"  {line}", look.style("quiet"))], width - 2, look) for line in truth[:-1]]
    inner = width - 2
    found = [_edge(above, corners[:2], across, width, look, frame)]
    side = strip_of([(down, frame)], 1, look)
    for row in range(rect.height - 2):
        line = lines[row] if row < len(lines) else strip_of([], inner, look)
        found.append(Strip.join([side, line.adjust_cell_length(inner), side]))
    found.append(_edge(below, corners[2:], across, width, look, frame))
    return found[: rect.height]


def _edge(pieces: list[Piece], ends: str, across: str, width: int, look: Look, frame: Style) -> Strip:
    """Return an edge of a frame, with some words in it."""
    room = width - 4
    texts: list[Piece] = []
    for text, style in pieces:
        text = cut(text, room)
        texts.append((text, style))
        room -= columns_of(text)
        if room <= 0:
            break
    return strip_of([(ends[0] + across, frame), *texts, (across * (max(room, 0) + 1) + ends[1], frame)], width, look)


# --- below


def head_size(screen: Screen | None, width: int) -> int:
    """Return how many lines the head would take where it is wide."""
    if screen is None:
        return 2
    return 1 + max(len(lines) for lines in _answers(screen, _parts(width), Look(), 2))


def foot_size(screen: Screen | None) -> tuple[int, int]:
    """Return how many lines the pipelines of a run would take, and what was decided and asked for."""
    if screen is None:
        return 0, 0
    asked = sum(_is_shown(one, screen.time) for one in screen.asked)
    return len(screen.pipelines), (1 + len(screen.marks) if screen.marks else 0) + asked


def foot_lines(shown: Shown, rect: Rect, look: Look, selected: int | None = None) -> list[Strip]:
    """Return the pipeline and the decisions; of these, those that were asked for first."""
    screen = shown.front
    if screen is None or not rect.height:
        return [strip_of([], rect.width, look)] * rect.height
    lines = [_pipeline(card, rect.width, look) for card in screen.pipelines[: max(rect.height - 3, 1)]]
    asked = [one for one in screen.asked if _is_shown(one, screen.time)]
    lines += [_asked(one, rect.width, look) for one in asked[: max(rect.height - len(lines) - 1, 1)]]
    room = rect.height - len(lines)
    if room > 0 and screen.marks:
        if room > 1:
            head = f" {screen.marks_total:,} decision{'' if screen.marks_total == 1 else 's'}"
            lines.append(strip_of([(head, look.style("quiet"))], rect.width, look))
            room -= 1
        lines += [_mark(mark, rect.width, look) for mark in screen.marks[:room]]
    return _filled(lines, rect.height, rect.width, look)


def _is_shown(asked: Asked, now: float) -> bool:
    return asked.state in ("requested", "seen") or now - asked.time < ASKED_SECONDS


def _pipeline(card: PipelineCard, width: int, look: Look) -> Strip:
    pieces: list[Piece] = [
        (f" {clean(card.name)}: ", look.style("quiet")),
        (_sign(card.level) + clean(card.headline), look.style(card.level)),
    ]
    for number, stage in enumerate(card.stages):
        pieces.append((" → " if number else "   ", look.style("quiet")))
        limits = " ▲" if stage.limits else ""
        pieces.append((f"{clean(stage.name)}{limits} ", look.style("warn" if stage.limits else "plain")))
        pieces.append((clean(stage.text), look.style("quiet")))
    return strip_of(pieces, width, look)


def _asked(asked: Asked, width: int, look: Look) -> Strip:
    level = {"requested": "warn", "seen": "warn", "applied": "good", "refused": "bad", "expired": "bad"}[asked.state]
    at = f" at step {asked.step:,}" if asked.step is not None else ""
    pieces: list[Piece] = [
        (f" {clean(asked.what)} ", look.style("title")),
        (f"{asked.state}{at}", look.style(level)),
        (f" · asked by {clean(asked.who)}" if asked.who else "", look.style("quiet")),
        (f": {clean(asked.why)}" if asked.why else "", look.style("quiet")),
        (f" · {clean(asked.error)}" if asked.error else "", look.style("bad")),
    ]
    return strip_of(pieces, width, look)


def _mark(mark: Mark, width: int, look: Look) -> Strip:
    step = f"{mark.step:,}" if mark.step is not None else _clock(mark.time)
    level = "bad" if mark.kind in ("failed", "refused") else "plain"
    who_width, what_width = (18, 34) if width >= NARROW else (14, 24)
    return strip_of(
        [
            (f" {step:>11} ", look.style("quiet")),
            (f"{MARK_SIGNS[mark.kind]} ", look.style(level)),
            (_column(clean(mark.who), who_width), look.style("plain")),
            (_column(clean(mark.what), what_width), look.style(level)),
            (clean(mark.why), look.style("quiet")),
        ],
        width,
        look,
    )


def _column(text: str, width: int) -> str:
    text = cut(text, width - 1)
    return text + " " * (width - columns_of(text))


def _clock(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds):%H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return "-"
