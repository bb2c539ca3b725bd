"""Runs as one page that needs nothing else: the dashboard's own page with its data inside, or without it a drawing.

Harmless: what is in it asks nobody for anything, which a policy in its head forbids, too. No token is in it, and no
    button that steers.
Without JavaScript, and where the page was not built, there are the drawing and tables of its data.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from dataclasses import asdict, replace

from asynchub.dashboard.buckets import Buckets, reduce
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.picture.gathering import Gathered, Wanted
from asynchub.dashboard.picture.look import Look
from asynchub.dashboard.picture.sheet import Sheet
from asynchub.dashboard.picture.svg import escaped
from asynchub.dashboard.screen import Screen
from asynchub.dashboard.web.page_files import page_files
from asynchub.dashboard.web.wire import changes, chart_now, encode, series_now, to_json
from asynchub.subscribers.display import format_quantity, one_line

__all__ = ("page",)

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
SCRIPT, STYLE = "/app.js", "/app.css"
ROWS = 200
"""Of a table, at most."""
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
    if not {SCRIPT, STYLE} <= built.keys():
        return None
    script, style = (built[name].content.decode("utf-8") for name in (SCRIPT, STYLE))
    return (script, style) if "</script" not in script and "</style" not in style else None


def _data(found: Gathered, wanted: Wanted, now: float) -> dict[str, object]:
    """Return what the page takes in place of a server; see ``EXPORT.md`` beside it."""
    names = {row.id: row.name for row in found.rows}
    drawings = []
    for log, fit_all in dict.fromkeys([(wanted.log, wanted.fit_all), (not wanted.log, wanted.fit_all)]):
        charts = [
            chart_now(
                key,
                [series_now(run, curve) for run, curve in shown.items()],
                draw(shown, log=log, fit_all=fit_all, names=names, time=now),
            )
            for key, shown in found.curves.items()
        ]
        message = encode(changes({}, charts))
        drawings.append(
            {
                "axis": wanted.axis,
                "log": log,
                "fit_all": fit_all,
                "smoothing": wanted.smoothing,
                "window": wanted.window,
                "data": base64.b64encode(message).decode(),
            }
        )
    return {
        "format": 1,
        "made": now,
        "folder": "",
        "rows": [row.to_dict() for row in found.rows],
        "screens": [_unsteered(screen) for screen in found.screens.values()],
        "marks": {run: [asdict(mark) for mark in marks] for run, marks in found.marks.items()},
        "curves": drawings,
    }


def _unsteered(screen: Screen) -> dict[str, object]:
    """Return a screen on which nothing can be asked for."""
    why = "this page is a copy: nothing can be asked of the run here"
    return replace(screen, steerable=(), steering=why).to_dict()


# --- tables


def _tables(found: Gathered) -> Iterator[str]:
    """Return the data of each chart as a table, in as many rows as one can look at."""
    names = {row.id: row.name for row in found.rows}
    for key, shown in found.curves.items():
        yield f"<details><summary>Data of {escaped(one_line(key[:500]))}</summary>"
        for run, curve in shown.items():
            yield _table(names[run], curve)
        yield "</details>\n"


def _table(name: str, curve: Curve) -> str:
    rows = _few(curve.buckets)
    many = f"{int(rows.points.sum()):,} values" + (f", {rows.width:,} steps a row" if rows.width > 1 else "")
    head = "".join(f'<th scope="col">{title}</th>' for title in ("step", "min", "mean", "max", "values", "not finite"))
    columns = (rows.steps, rows.min, rows.means, rows.max, rows.points, rows.not_finite)
    body = "".join(
        f"<tr><td>{step:,}</td>{''.join(_cell(curve.key, value) for value in values)}"
        f"<td>{count:,}</td><td>{bad or ''}</td></tr>"
        for step, *values, count, bad in zip(*(column.tolist() for column in columns), strict=True)
    )
    title = escaped(f"{one_line(name[:200])}: {many}")
    return f'<div class="scroll"><table><caption>{title}</caption><tr>{head}</tr>{body}</table></div>'


def _cell(key: str, value: float) -> str:
    return f"<td>{format_quantity(key, value) if math.isfinite(value) else ''}</td>"


def _few(rows: Buckets) -> Buckets:
    """Return buckets so wide that there are few."""
    factor = 1
    while rows.size > ROWS and factor < 2**40:
        rows = reduce(rows, 2)
        factor *= 2
    return rows
