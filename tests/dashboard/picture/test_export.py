"""A picture shows what is there: a lone value among a million, what is not finite, and every name as text only."""

from __future__ import annotations

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from asynchub.dashboard.picture.export import export
from asynchub.dashboard.picture.look import room, shortened, wrapped
from asynchub.errors import ArgumentError
from tests.dashboard.picture.pictures import HOSTILE, axis_of, bars_of, panels_of, write_run

WIDTHS = (390, 1400)


def _loss(size: int) -> NDArray[np.float64]:
    return 0.4 + np.random.default_rng(0).normal(0, 0.05, size)


@pytest.fixture(name="spiked", scope="module")
def _spiked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a million steps with one value of 13 and 50 NaN."""
    loss = _loss(1_000_000)
    loss[512_345] = 13.0
    loss[700_000:700_050] = np.nan
    return write_run(tmp_path_factory.mktemp("spiked") / "run", {"train/loss": loss}, name="resnet50-a3")


@pytest.fixture(name="cache", scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("part", [(None, None), (500_000, 530_000), (512_300, 512_400)])
def test_one_value_in_a_million_is_as_high_as_it_is(
    spiked: Path, cache: Path, tmp_path: Path, width: int, part: tuple[int | None, int | None]
) -> None:
    start, stop = part
    path = export([spiked], tmp_path / "run.svg", fit_all=True, width=width, start=start, stop=stop, cache=cache)
    (panel,) = panels_of(path.read_text())
    axis = axis_of(panel)
    if stop is not None and stop - start < 1000:  # single values: a line
        line = max((one.get("d") or "" for one in panel.iter("{http://www.w3.org/2000/svg}path")), key=len)
        tops = [float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", line)]
    else:
        tops = [bar.top for bar in bars_of(panel)]
        assert min(bar.bottom - bar.top for bar in bars_of(panel)) >= 0.98
    assert abs(min(tops) - axis.y(13.0)) < 1.0
    assert sum(top < axis.y(6.0) for top in tops) <= 2


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_value_in_a_million_is_seen_in_the_pixels_of_a_png(
    spiked: Path, cache: Path, tmp_path: Path, dark: bool
) -> None:
    svg = export([spiked], tmp_path / "run.svg", fit_all=True, width=600, dark=dark, cache=cache).read_text()
    png = export([spiked], tmp_path / "run.png", fit_all=True, width=600, dark=dark, cache=cache)
    (panel,) = panels_of(svg)
    spike = min(bars_of(panel), key=lambda bar: bar.top)
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1200
    column = pixels[:, int(2 * spike.left) + 1]
    beside = pixels[:, int(2 * spike.left) - 9]
    top, middle = round(2 * axis_of(panel).y(13.0)), round(2 * axis_of(panel).y(6.0))
    differs = np.abs(column - beside).sum(axis=1) > 40
    assert differs[top + 2 : middle].all()
    assert not differs[top - 40 : top - 4].any()


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_cut_off_or_not_finite_is_said_on_the_chart(
    spiked: Path, cache: Path, tmp_path: Path, width: int
) -> None:
    path = export([spiked], tmp_path / "run.svg", width=width, cache=cache)
    texts = [text for panel in panels_of(path.read_text()) for text in panel.itertext()]
    assert "13.00" in texts
    assert "50 NaN" in texts
    footer = " ".join(texts)
    assert "1 stroke cut off (▲▼)" in footer
    assert "50 NaN (◆)" in footer
    assert "all 1,000,000 values counted" in footer
    assert "no smoothing" in footer
    assert "up to event 1,000,000" in footer


def test_a_million_points_are_smoothed_over_the_raw_range(spiked: Path, cache: Path, tmp_path: Path) -> None:
    path = export([spiked], tmp_path / "run.svg", window=10_000, cache=cache)
    (panel,) = panels_of(path.read_text())
    assert len(bars_of(panel)) > 400
    assert "line = mean over 10,000 steps" in " ".join(panel.itertext())


# --- several runs, axes, what there is not


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for number in range(12):
        values = {"train/loss": _loss(300) + number / 10, "val/acc": np.linspace(0, 0.9, 300)}
        write_run(folder / f"run-{number:02}", values, bytes([number]) * 16, f"hub {number}")
    return folder


def test_of_many_runs_ten_are_coloured_and_the_others_counted(runs: Path, cache: Path, tmp_path: Path) -> None:
    path = export([runs], tmp_path / "runs.svg", keys=["**"], cache=cache)
    text = path.read_text()
    assert "12 runs" in text
    assert "10 coloured of 12, the others grey" in text
    assert len(panels_of(text)) == 2
    assert all(f"run-{number:02}" in text for number in range(12))


@pytest.mark.parametrize("axis", ["step", "time", "relative", "epoch"])
@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_every_axis_can_be_drawn(runs: Path, cache: Path, tmp_path: Path, axis: str, suffix: str) -> None:
    path = export([runs / "run-00"], tmp_path / f"run.{suffix}", axis=axis, log=True, cache=cache)  # type: ignore[arg-type]
    assert ("no epoch was recorded" in path.read_text()) == (axis == "epoch")


def test_keys_are_chosen_by_pattern_and_one_that_is_missing_is_said(runs: Path, cache: Path, tmp_path: Path) -> None:
    path = export([runs / "run-00"], tmp_path / "run.svg", keys=["val/*"], cache=cache)
    assert len(panels_of(path.read_text())) == 1
    path = export([runs / "run-00"], tmp_path / "run.svg", keys=["test/*"], cache=cache)
    assert "no scalar matches test/*" in path.read_text()


def test_a_picture_is_as_large_as_it_was_asked_to_be(runs: Path, cache: Path, tmp_path: Path) -> None:
    path = export([runs / "run-00"], tmp_path / "run.svg", width=800, height=1200, cache=cache)
    root = ElementTree.fromstring(path.read_text())
    assert (root.get("width"), root.get("height")) == ("800", "1200")
    path = export([runs / "run-00"], tmp_path / "run.png", width=300, height=1000, cache=cache)
    with Image.open(path) as image:
        assert image.size == (600, 2000)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match="holds no run yet"):
        export([tmp_path / "empty"], tmp_path / "run.svg", cache=tmp_path / "cache")
    assert not (tmp_path / "run.svg").exists()


def test_a_damaged_run_is_drawn_as_far_as_it_goes_and_said(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "run-00", tmp_path / "run")
    (segment,) = (run / "journal").glob("*.ahj")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    text = export([run], tmp_path / "run.svg", cache=tmp_path / "cache").read_text()
    assert "damaged" in text


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"output": "run.gif"}, "a picture ends in .png, .svg, .html"),
        ({"width": 10}, "width must be from 200"),
        ({"height": 10**9}, "height must be from 200"),
        ({"axis": "moon"}, "axis must be one of"),
        ({"window": -1}, "window must be steps"),
        ({"start": 9, "stop": 3}, "stop must not be before start"),
        ({"keys": ["[", "a"]}, ""),
    ],
)
def test_what_was_asked_wrongly_is_said(
    runs: Path, cache: Path, tmp_path: Path, how: dict[str, object], words: str
) -> None:
    output = tmp_path / str(how.pop("output", "run.svg"))
    if not words:
        export([runs / "run-00"], output, cache=cache, **how)  # type: ignore[arg-type]  # any text is a pattern
        return
    with pytest.raises(ArgumentError, match=words):
        export([runs / "run-00"], output, cache=cache, **how)  # type: ignore[arg-type]
    assert not output.exists()


def test_without_matplotlib_a_png_says_what_to_install(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "asynchub.dashboard.picture.png", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ModuleNotFoundError, match=r"asynchub\[plot\]"):
        export([runs / "run-00"], tmp_path / "run.png", cache=tmp_path / "cache")


def test_a_picture_that_is_there_is_replaced_as_a_whole(runs: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.svg"
    for _ in range(2):
        export([runs / "run-00"], path, cache=cache)
    assert [one.name for one in path.parent.iterdir()] == ["run.svg"]


# --- names


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _hostile_run(folder: Path) -> Path:
    scalars = {f"{text}/loss": _loss(40) for text in HOSTILE}
    return write_run(folder, scalars, name=HOSTILE[6] + HOSTILE[8])


def test_names_are_only_ever_text(tmp_path: Path) -> None:
    run = _hostile_run(tmp_path / "a<b>&'\"")
    svg = export([run], tmp_path / "run.svg", keys=["**"], cache=tmp_path / "cache").read_text()
    html = export([run], tmp_path / "run.html", keys=["**"], cache=tmp_path / "cache").read_text()
    assert len(panels_of(svg)) == len(HOSTILE)
    root = ElementTree.fromstring(svg)
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "title", "defs", "clipPath", "rect", "g", "text", "path", "circle", "polygon"}
    parser = _Tags()
    parser.feed(html)
    scripts = [attributes for tag, attributes in parser.tags if tag == "script"]
    assert len(scripts) in (0, 2)  # without and with the dashboard's own page
    assert not {"img", "iframe", "object", "embed", "link", "form", "a", "base"} & {tag for tag, _ in parser.tags}
    named = [name for _, attributes in parser.tags for name in attributes]
    named += [name for element in root.iter() for name in element.attrib]
    assert not [name for name in named if name.startswith("on") or name.rpartition("}")[2] in ("href", "src")]
    for text in (svg, html):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.slow
def test_names_do_no_harm_to_a_png(tmp_path: Path) -> None:
    run = _hostile_run(tmp_path / "run")
    path = export([run], tmp_path / "run.png", keys=["**"], width=400, cache=tmp_path / "cache")
    with Image.open(path) as image:
        assert image.size[0] == 800


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shortened_to_the_room_there_is(text: str) -> None:
    for width in (20.0, 80.0, 300.0):
        short = shortened(text, 12.0, width)
        assert room(short, 12.0) <= width + 12
        assert short.isprintable()
        lines = wrapped(text, 12.0, width, 3)
        assert len(lines) <= 3
        assert all(room(line, 12.0) <= width + 12 for line in lines)
