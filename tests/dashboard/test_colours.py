"""A run's colour stays the same, can be seen, and is not that of the run beside it."""

from __future__ import annotations

import threading
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from asynchub.dashboard.colours import GREY, PALETTE, Colours, colour, colour_of
from asynchub.dashboard.picture import look
from asynchub.dashboard.screen import Colour
from asynchub.errors import ArgumentError

LIGHT, DARK = ("#ffffff", "#fbfbfa", "#f4f5f7"), ("#14161b", "#1b1e24")
"""Grounds of the page."""
DICHROMATS = {
    "sees all": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.00388, -0.04812, 1.052]]),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.9689]]
    ),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.1476], [0.004733, 0.69137, 0.3039]]),
}
"""What is left of linear red, green and blue. Machado, Oliveira and Fernandes, IEEE TVCG 15 (6), 2009, severity 1."""
RUNS = [f"{number:032x}" for number in range(40)]


def linear(text: str) -> NDArray[np.float64]:
    parts = np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Return how much two colours differ in luminance, as WCAG 2.2 has it."""
    low, high = sorted(float(linear(text) @ (0.2126, 0.7152, 0.0722)) for text in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear red, green and blue in a space where distances are as they are seen (Ottosson, Oklab, 2020)."""
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]])
    mixed = [[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]]
    return np.array(mixed) @ np.cbrt(cones @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize("hue", range(10))
def test_a_line_stands_out_from_the_ground_three_to_one(hue: int) -> None:
    light, dark = PALETTE[hue]
    assert min(contrast(light, ground) for ground in LIGHT) >= 3
    assert min(contrast(dark, ground) for ground in DARK) >= 3


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_run_looks_like_what_is_wrong(dark: bool) -> None:
    bad = oklab(linear((look.DARK if dark else look.LIGHT).bad))
    least = min(float(np.linalg.norm(oklab(linear(pair[dark])) - bad)) for pair in PALETTE)
    assert least > 0.07
    angle = np.arctan2(bad[2], bad[1])
    red = [colour for _, *colour in (oklab(linear(pair[dark])) for pair in PALETTE) if np.hypot(*colour) > 0.15]
    assert all(abs((np.arctan2(b, a) - angle + np.pi) % (2 * np.pi) - np.pi) > np.radians(30) for a, b in red)


def test_grey_can_be_seen_too() -> None:
    assert contrast(GREY.light, LIGHT[0]) >= 3
    assert contrast(GREY.dark, DARK[0]) >= 3


@pytest.mark.parametrize("sight", DICHROMATS)
@pytest.mark.parametrize("ground", [0, 1], ids=["light", "dark"])
def test_ten_hues_differ_for_everybody(ground: int, sight: str) -> None:
    seen = [oklab(DICHROMATS[sight] @ linear(pair[ground])) for pair in PALETTE]
    least = min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2))
    assert least > (0.12 if sight == "sees all" else 0.06)  # a step that is just seen is about 0.02


def test_a_colour_follows_from_the_run(tmp_path: Path) -> None:
    (alone,) = Colours(tmp_path / "a").of(RUNS[:1])
    assert alone == colour_of(RUNS[0])
    assert {colour_of(run).hue for run in RUNS} == set(range(10))
    assert {colour_of(run).dash for run in RUNS} == set(range(4))


def test_ten_runs_have_ten_hues_and_forty_have_forty_colours(tmp_path: Path) -> None:
    given = Colours(tmp_path).of(RUNS)
    assert len({one.hue for one in given[:10]}) == 10
    assert len({(one.hue, one.dash) for one in given}) == 40


def test_a_clash_is_solved_by_the_nearest_hue_that_is_free(tmp_path: Path) -> None:
    twins = [run for run in RUNS if colour_of(run).hue == colour_of(RUNS[0]).hue][:3]
    first, second, third = Colours(tmp_path).of(twins)
    assert first == colour_of(twins[0])
    around = sorted(abs((one.hue - first.hue + 5) % 10 - 5) for one in (second, third))
    assert around == [1, 1]


def test_another_run_never_changes_a_colour_and_nor_does_another_viewer(tmp_path: Path) -> None:
    colours = Colours(tmp_path)
    before = [colours.of([run])[0] for run in RUNS[:20]]  # one by one, nobody beside them
    assert Colours(tmp_path).of(RUNS[:30])[:20] == before
    assert colours.of(RUNS)[:30] == Colours(tmp_path).of(RUNS)[:30]
    assert Colours(tmp_path).of(RUNS[::-1])[::-1] == colours.of(RUNS)


def test_a_colour_that_somebody_chose_stays(tmp_path: Path) -> None:
    colours = Colours(tmp_path)
    colours.of(RUNS[:2])
    colours.pin(RUNS[0], 7, 2)
    colours.pin(RUNS[0], 3, 1)
    assert colours.of(RUNS[:1]) == [colour(3, 1)]
    assert Colours(tmp_path).of(RUNS[:1]) == [colour(3, 1)]
    for hue, dash in ((10, 0), (-1, 0), (0, 4), (True, 0)):
        with pytest.raises(ArgumentError, match="hue from 0 to 9"):
            colours.pin(RUNS[0], hue, dash)


def test_a_run_keeps_the_colour_that_it_had_before_its_identity_was_known(tmp_path: Path) -> None:
    colours = Colours(tmp_path)
    (before,) = colours.of(["/runs/new"])
    colours.keep(RUNS[3], before)
    colours.keep(RUNS[3], colour((before.hue + 1) % 10))
    assert Colours(tmp_path).of([RUNS[3]]) == [before]


def test_what_is_damaged_is_passed_over_and_said(tmp_path: Path) -> None:
    given = Colours(tmp_path).of(RUNS[:5])
    path = tmp_path / "colours.txt"
    lines = path.read_bytes().split()
    path.write_bytes(b"\xff\x00 nonsense\n" + path.read_bytes() + lines[0][:9])  # torn
    again = Colours(tmp_path)
    assert again.of(RUNS[:5]) == given
    assert "2 damaged lines were passed over" in again.problem
    more = again.of(RUNS[:6])
    assert Colours(tmp_path).of(RUNS[:6]) == more


def test_where_nothing_can_be_kept_colours_stay_for_as_long_as_somebody_looks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    colours = Colours(tmp_path / "file" / "cache")
    given = colours.of(RUNS[:10])
    assert "the colours of runs cannot be" in colours.problem
    assert colours.of(RUNS[9::-1])[::-1] == given


def test_viewers_that_begin_at_once_agree(tmp_path: Path) -> None:
    found: dict[int, list[Colour]] = {}
    barrier = threading.Barrier(8, timeout=20)

    def view(number: int) -> None:
        colours = Colours(tmp_path)
        barrier.wait()
        colours.of(RUNS[number:] + RUNS[:number])
        barrier.wait()
        found[number] = colours.of(RUNS)

    threads = [threading.Thread(target=view, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert all(one == found[0] for one in found.values())
