"""Runs as one page that needs nothing else: the dashboard's own page with its data inside, or without it a drawing.

Small: 200 to 400 kB for a run with four charts, however long it is. Curves are there once, deflated, each with a
    drawing for each scale of its y axis; of many runs they come in fewer buckets. See ``EXPORT.md`` beside the page.
Harmless: what is in it asks nobody for anything, which a policy in its head forbids, too. No token is in it, and no
    button that steers.
Without JavaScript, and where the page was not built, there are the drawing and tables of its data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from urllib.parse import urlencode

from asynchub.dashboard.buckets import Buckets, reduce
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.picture.decisions import MARKS
from asynchub.dashboard.picture.gathering import Gathered, Wanted, gather, made
from asynchub.dashboard.picture.layout import plot_width, scene
from asynchub.dashboard.picture.look import Look
from asynchub.dashboard.picture.packed import packed
from asynchub.dashboard.picture.sheet import Sheet
from asynchub.dashboard.picture.svg import escaped, svg
from asynchub.dashboard.screen import Chart, Screen
from asynchub.dashboard.view import RunView
from asynchub.dashboard.web.page_files import page_files
from asynchub.dashboard.web.wire import changes, chart_now, encode, series_now, to_json
from asynchub.subscribers.display import format_quantity, one_line

__all__ = ("page", "page_of")

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
SCRIPTS, STYLE = ("/more.js", "/app.js"), "/app.css"
ROWS = 200
"""Of a table, at most."""
ALL_ROWS, LEAST_ROWS = 400, 20
"""Of all tables together, about; of each at least so many may stand."""
BUCKETS = 2000
"""Buckets of a curve, at least, if it has as many values: one can zoom in it."""
FEWEST = 400
"""The same, of many runs."""
MANY = 10
"""Runs from which on each has fewer."""
STILL_BUCKETS, STILL_FEWEST, STILL_MANY = 128, 64, 8
"""The same of the drawing that is seen without JavaScript: of a few runs, of many, and what many are."""
_STYLE = """
:root{{color-scheme:{scheme}}}
body{{margin:0;background:{ground};color:{ink};font:14px/1.45 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}}
.asynchub-still{{max-width:{width}px;margin:0 auto}}
.asynchub-still svg{{display:block;width:100%;height:auto}}
.asynchub-still details{{margin:8px 20px;border:1px solid {edge};border-radius:8px;background:{card};padding:8px 12px}}
.asynchub-still summary{{cursor:pointer;overflow-wrap:anywhere}}
.asynchub-still table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:12.5px;margin-top:8px}}
.asynchub-still th,.asynchub-still td{{padding:2px 12px 2px 0;text-align:right;border-top:1px solid {edge}}}
.asynchub-still caption{{text-align:left;color:{mute};overflow-wrap:anywhere}}
.asynchub-still .scroll{{overflow-x:auto}}
"""


def page_of(
    views: Sequence[RunView], wanted: Wanted, look: Look, width: float, height: float | None, now: float
) -> str:
    """Return a page of runs.

    Args:
        views: they, up to date.
        wanted: what was asked for.
        look: the colours of the drawing that is seen without JavaScript.
        width: of that drawing, in pixels.
        height: of it, at least; None for as much as it takes.
        now: when it is made, in seconds since the epoch.

    Raises:
        ArgumentError: a pattern is malformed, or a number out of range.
    """
    buckets = max(BUCKETS * MANY // max(len(views), MANY), FEWEST)
    drawn = max(STILL_BUCKETS * STILL_MANY // max(len(views), STILL_MANY), STILL_FEWEST)
    found, still = gather(views, wanted, buckets, now), gather(views, wanted, drawn, now)
    sheet = made(still, views, wanted, plot_width(len(still.keys), width), now)
    return page(found, sheet, svg(scene(sheet, look, width, height)), look, wanted, now)


def page(found: Gathered, sheet: Sheet, drawing: str, look: Look, wanted: Wanted, now: float) -> str:
    """Return a page.

    Args:
        found: what it shows.
        sheet: that, as it is drawn.
        drawing: that, as SVG.
        look: its colours.
        wanted: what was asked for.
        now: when it is made, in seconds since the epoch.
    """
    still = f'<div class="asynchub-still">\n{drawing}\n{"".join(_tables(found))}</div>'
    width = drawing.partition('width="')[2].partition('"')[0]
    style = _STYLE.format(
        scheme="dark" if look.dark else "light",
        ground=look.ground,
        ink=look.ink,
        edge=look.edge,
        card=look.card,
        mute=look.mute,
        width=width,
    )
    bundle = _bundle()
    styles, body = f"<style>{style}</style>", still
    if bundle is not None:
        script, own_style = bundle
        data = to_json(_data(found, wanted, now)).replace("<", "\\u003c")
        styles = f"<style>{own_style}</style>\n<noscript><style>{style}</style></noscript>"
        body = (
            f'<div id="asynchub"></div>\n<noscript>{still}</noscript>\n'
            f'<script type="application/json" id="asynchub-export">{data}</script>\n<script>{script}</script>'
        )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(sheet.title[:200])} · asynchub</title>\n{styles}\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _bundle() -> tuple[str, str] | None:
    """Return the script and the style sheet of the dashboard's page; None if it was not built."""
    built, _ = page_files()
    if not {*SCRIPTS, STYLE} <= built.keys():
        return None
    *scripts, style = (built[name].content.decode("utf-8") for name in (*SCRIPTS, STYLE))
    script = "\n".join(scripts)
    return (script, style) if "</script" not in script and "</style" not in style else None


def _data(found: Gathered, wanted: Wanted, now: float) -> dict[str, object]:
    """Return what the page takes in place of a server; see ``EXPORT.md`` beside it."""
    names = {row.id: row.name for row in found.rows}
    views, charts = [], []
    for key, shown in found.curves.items():
        drawings = []
        for log, fit_all in product((wanted.log, not wanted.log), (wanted.fit_all, not wanted.fit_all)):
            if log and not _has_logarithms(shown):
                continue
            drawing = draw(shown, log=log, fit_all=fit_all, names=names, time=now)
            drawings.append({"key": key, "fit_all": fit_all, "drawing": asdict(drawing)})
        charts.append(chart_now(key, [series_now(run, curve) for run, curve in shown.items()], drawing))
        views += drawings
    return {
        "format": 2,
        "made": now,
        "look": _look(wanted),
        "folder": "",
        "rows": [row.to_dict() for row in found.rows],
        "screens": [_copied(screen, found.keys) for screen in found.screens.values()],
        "marks": {run: [asdict(mark) for mark in marks[-MARKS:]] for run, marks in found.marks.items()},
        "curves": [
            {
                "axis": wanted.axis,
                "smoothing": wanted.smoothing,
                "window": wanted.window,
                "views": views,
                "data": packed(encode(changes({}, charts))),
            }
        ],
    }


def _has_logarithms(shown: Mapping[str, Curve]) -> bool:
    """Tell whether there is something to draw on a logarithmic axis."""
    return any(bool((curve.buckets.max > 0).any()) for curve in shown.values())


def _look(wanted: Wanted) -> str:
    """Return the fragment of an address with which the page shows what was asked for."""
    said = {
        "x": "" if wanted.axis == "step" else wanted.axis,
        "y": "log" if wanted.log else "",
        "fit": "all" if wanted.fit_all else "",
        "smooth": f"{wanted.smoothing}:{wanted.window}" if wanted.window else "",
    }
    said = {name: value for name, value in said.items() if value}
    return f"#{urlencode(said, safe=':')}" if said else ""


def _copied(screen: Screen, keys: Sequence[str]) -> dict[str, object]:
    """Return a screen with the charts that there are, on which nothing can be asked for."""
    known = {chart.key: chart for chart in screen.charts}
    charts = tuple(known.get(key) or Chart(key, "") for key in keys)
    why = "this page is a copy: nothing can be asked of the run here"
    return replace(screen, charts=charts, steerable=(), steering=why).to_dict()


# --- tables


def _tables(found: Gathered) -> Iterator[str]:
    """Return the data of each chart as a table, in as many rows as one can look at."""
    names = {row.id: row.name for row in found.rows}
    tables = sum(map(len, found.curves.values()))
    most = max(min(ALL_ROWS // max(tables, 1), ROWS), LEAST_ROWS)
    for key, shown in found.curves.items():
        yield f"<details><summary>Data of {escaped(one_line(key[:500]))}</summary>"
        for run, curve in shown.items():
            yield _table(names[run], curve, most)
        yield "</details>\n"


def _table(name: str, curve: Curve, most: int) -> str:
    rows = _few(curve.buckets, most)
    many = f"{int(rows.points.sum()):,} values" + (f", {rows.width:,} steps a row" if rows.width > 1 else "")
    head = "".join(f'<th scope="col">{title}</th>' for title in ("step", "min", "mean", "max", "values", "not finite"))
    columns = (rows.steps, rows.min, rows.means, rows.max, rows.points, rows.not_finite)
    body = "".join(
        f"<tr><td>{step:,}{''.join(_cell(curve.key, value) for value in values)}<td>{count:,}<td>{bad or ''}"
        for step, *values, count, bad in zip(*(column.tolist() for column in columns), strict=True)
    )
    title = escaped(f"{one_line(name[:200])}: {many}")
    return f'<div class="scroll"><table><caption>{title}</caption><tr>{head}</tr>{body}</table></div>'


def _cell(key: str, value: float) -> str:
    return f"<td>{format_quantity(key, value) if math.isfinite(value) else ''}"


def _few(rows: Buckets, most: int) -> Buckets:
    """Return buckets so wide that there are few."""
    factor = 1
    while rows.size > most and factor < 2**40:
        rows = reduce(rows, 2)
        factor *= 2
    return rows
