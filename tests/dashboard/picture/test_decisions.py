"""Decisions are marked on the charts of several runs, each in the colour of its run; those that are not are counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from asynchub import Journal, MessageHub
from asynchub.dashboard.colours import PALETTE
from asynchub.dashboard.picture.decisions import MARKS, MOST, Placed, chosen, in_words
from asynchub.dashboard.picture.export import export
from asynchub.dashboard.picture.look import LIGHT
from asynchub.dashboard.screen import Mark
from asynchub.events import SubscriberFailed
from asynchub.requests import Decided, ParameterChanged, StopRequested
from tests.dashboard.picture.pictures import panels_of

SVG = "{http://www.w3.org/2000/svg}"
COLOURS = {light for light, _ in PALETTE}


def _run(folder: Path, clips: int = 0) -> Path:
    """Make a run with a change, a suggestion, a failure, what a person asked for, and a lot of one kind."""
    hub = MessageHub(folder.name)
    hub.attach(Journal(folder))
    with hub:
        for hub.step in range(100):
            hub.update_scalar("loss", 1 / (1 + hub.step))
            if hub.step == 20:
                hub.publish(ParameterChanged(name="lr", group=0, old=0.1, new=0.01, author="StepLR", reason="at 20"))
            if hub.step == 40:
                hub.publish(Decided(author="Guard", verdict="lower lr", reason="grows", monitor="loss"))
            if hub.step == 60:
                hub.publish(StopRequested(author="ada", id="1", reason="enough"))
            if hub.step == 80:
                hub.publish(SubscriberFailed(subscriber="Logger", error="disk full", action="detach"))
            if hub.step >= 100 - clips:
                hub.publish(Decided(author="Clip", verdict="clip", monitor="loss"))
    return folder


def _signs(panel: ElementTree.Element) -> tuple[list[ElementTree.Element], list[ElementTree.Element]]:
    """Return the signs on a chart: diamonds, and people."""
    polygons = list(panel.iter(f"{SVG}polygon"))
    diamonds = [one for one in polygons if len((one.get("points") or "").split()) == 4]
    return diamonds, [one for one in polygons if len((one.get("points") or "").split()) > 4]


def test_each_kind_of_decision_of_each_run_has_its_sign_in_the_colour_of_the_run(tmp_path: Path) -> None:
    runs = [_run(tmp_path / name) for name in ("a", "b")]
    svg = export(runs, tmp_path / "both.svg", cache=tmp_path / "cache").read_text()
    (panel,) = panels_of(svg)
    diamonds, people = _signs(panel)
    solid = [one.get("fill") for one in diamonds if one.get("fill") != LIGHT.card]
    hollow = [one.get("stroke") for one in diamonds if one.get("fill") == LIGHT.card]
    by_hand = [one.get("fill") for one in people]
    assert len(set(solid)) == len(solid) == 2
    assert set(solid) == set(hollow) == set(by_hand) <= COLOURS
    crosses = [one for one in panel.iter(f"{SVG}path") if one.get("stroke") == LIGHT.bad and not one.get("clip-path")]
    assert len([one for one in crosses if not one.get("stroke-dasharray")]) == 4
    assert "decisions marked" not in svg
    assert "in the colour of the run" in svg
    assert "b · StepLR: lr 0.1 -&gt; 0.01 · at 20" in svg


def test_decisions_that_are_too_many_to_be_read_are_counted(tmp_path: Path) -> None:
    runs = [_run(tmp_path / "a", clips=50), _run(tmp_path / "b")]
    svg = export(runs, tmp_path / "both.svg", cache=tmp_path / "cache").read_text()
    assert f"{MOST} of 58 decisions marked" in svg
    (panel,) = panels_of(svg)
    assert len(_signs(panel)[1]) == 2


def test_decisions_of_grey_runs_are_counted_and_not_marked(tmp_path: Path) -> None:
    for number in range(11):
        _run(tmp_path / "runs" / f"{number:02}")
    svg = export([tmp_path / "runs"], tmp_path / "runs.svg", cache=tmp_path / "cache").read_text()
    assert f"{MOST} of 44 decisions marked, none of the 4 of grey runs" in svg


def _marks(run: str, kinds: Sequence[str]) -> list[Placed]:
    return [Placed(float(seq), run, Mark(seq, seq, 0.0, "", "", kind=kind)) for seq, kind in enumerate(kinds)]  # type: ignore[arg-type]


def test_each_run_has_as_many_marks_as_the_others_and_the_newest_that_matter_most() -> None:
    many = _marks("a", ["acted"] * 500 + ["manual"] + ["suggested"] * 500)
    few = _marks("b", ["suggested"] * 3)
    found = chosen({"a": many, "b": few})
    assert len(found) == MOST
    assert {one.x for one in found if one.run == "b"} == {0.0, 1.0, 2.0}
    assert {one.x for one in found if one.run == "a"} == {500.0, *range(480, 500)}


@pytest.mark.parametrize("size", [0, 3, 1000])
def test_of_one_run_the_newest_are_marked(size: int) -> None:
    marks = _marks("a", ["acted"] * size)
    assert list(chosen({"a": marks})) == marks[-MARKS:]


def test_what_is_not_marked_is_said() -> None:
    assert in_words(3, 3, 0, more=False) == ""
    assert in_words(24, 1300, 0, more=False) == "24 of 1,300 decisions marked"
    assert in_words(200, 10_000, 0, more=True) == "200 of more than 10,000 decisions marked"
