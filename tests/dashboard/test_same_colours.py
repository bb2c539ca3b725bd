"""A run has the same colour in the browser, in the terminal and in a picture, after a clash and when it was pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.color import Color

from asynchub.dashboard.colours import colour_of
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.picture.export import export
from asynchub.dashboard.screen import Colour, RunRow
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.web.wire import decode
from tests.dashboard.runs import Point, Writer
from tests.dashboard.terminal.apps import watched
from tests.dashboard.web.servers import Served, serving

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder of four runs, three of which would have one hue."""
    ids = [number.to_bytes(16, "big") for number in range(200)]
    hue = colour_of(ids[0].hex()).hue
    clashing = [one for one in ids if colour_of(one.hex()).hue == hue][:3]
    other = next(one for one in ids if colour_of(one.hex()).hue != hue)
    for name, run_id in zip(NAMES, [*clashing, other], strict=True):
        writer = Writer(tmp_path / "runs" / name, run_id, name)
        writer.points(Point("loss", step, len(name) / (step + 1)) for step in range(20))
        writer.close()
    return tmp_path / "runs"


def _of_server(served: Served) -> dict[str, Colour]:
    rows = served.get("/api/runs")["rows"]
    for row in rows:
        assert served.get("/api/screen", run=row["id"])["row"]["colour"] == row["colour"]
    (chart,) = decode(served.curves(runs=[row["id"] for row in rows], keys=["loss"]))["charts"]
    assert [one["run"] for one in chart["series"]] == [row["id"] for row in rows]
    return {row["name"]: Colour(**row["colour"]) for row in rows}


async def _of_terminal(top: Path, cache: Path, dark: bool) -> dict[str, str]:
    """Return which colours the names of runs, and the strokes in front of them, are printed in."""
    found = {}
    async with watched(top, cache=cache, look=Look(dark=dark)) as (app, _):
        rows: tuple[RunRow, ...] = app.shown.rows
        for row in rows:
            colour = app.look.run(row.colour, True).color
            assert isinstance(colour, Color)
            assert colour.triplet is not None
            found[row.name] = colour.triplet.hex
    return found


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("pinned", [False, True], ids=["clash", "pinned"])
async def test_a_run_has_one_colour_in_all_views(pinned: bool, top: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    if pinned:
        with Gallery([top], cache) as gallery:
            gallery.pin(gallery.rows()[1].id, 7, 2)
    with serving([top], cache) as served:
        web = _of_server(served)
    assert list(web) == list(NAMES)
    assert len({one.hue for one in web.values()}) == len(NAMES)
    if pinned:
        assert (web["b"].hue, web["b"].dash) == (7, 2)
    for dark in (False, True):
        assert await _of_terminal(top, cache, dark) == {
            name: one.dark if dark else one.light for name, one in web.items()
        }
        picture = export([top], tmp_path / "runs.svg", dark=dark, cache=cache).read_text()
        for name, one in web.items():
            own = one.dark if dark else one.light
            assert re.search(rf'<path[^>]* stroke="{own}"', picture) or f'stroke="{own}"' in picture, name
    with Gallery([top / "b"], cache) as gallery:  # alone, too
        assert gallery.rows()[0].colour == web["b"]
    alone = export([top / "b"], tmp_path / "b.svg", cache=cache).read_text()
    assert f'stroke="{web["b"].light}"' in alone
