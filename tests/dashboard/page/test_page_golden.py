"""The page looks as it did when somebody last looked at it and kept a picture: ``golden/``.

After a change that is meant, they are made anew: look at them before they are committed.

    ASYNCHUB_GOLDEN=write python -m pytest -m slow tests/dashboard/page/test_page_golden.py

Another font makes other pictures: then nothing is compared.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.sample_runs import KEYS, sample_run
from tests.dashboard.web.servers import Served, serving

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parent / "golden"
STEPS = 4000
DIFFERENT = 32
"""By how much a channel of a pixel differs, of 255, where people would see it."""
SHARE = 0.02
"""Pixels that may differ so."""
WIDTHS = """() => {
    const pen = document.createElement('canvas').getContext('2d');
    const text = 'Running 812,440 of 1,000,000: Why it will stop, what limits its speed';
    const { fontFamily } = getComputedStyle(document.body);
    return ['400', '700'].map((weight) => {
        pen.font = `${weight} 14px ${fontFamily}`;
        return pen.measureText(text).width.toFixed(2);
    }).join(' ');
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="golden-", dir="/tmp") as folder:  # the page says it: always as long
        writers = [sample_run(Path(folder) / f"run-{number}", number, STEPS) for number in range(3)]
        with serving([Path(folder)], tmp_path_factory.mktemp("cache")) as server:
            server.have_read(KEYS, min(writer.seq for writer in writers))
            yield server


def _picture(looked: Looked) -> tuple[Image.Image, str]:
    """Return the page, without the path of the runs, and how wide its letters are."""
    looked.drawn()
    looked.settled()
    looked.page.mouse.move(0, 0)
    path = looked.page.locator(".where")
    shot = looked.page.screenshot(animations="disabled", mask=[path], mask_color="#808080")
    return Image.open(io.BytesIO(shot)).convert("RGB"), str(looked.page.evaluate(WIDTHS))


@pytest.mark.parametrize(
    ("name", "state", "options"),
    [
        ("dark", "", {"scheme": "dark"}),
        ("light", "y=log&smooth=mean:100", {"scheme": "light"}),
        ("phone", "", {"scheme": "light", "width": 390, "height": 1600}),
    ],
)
def test_the_page_looks_as_it_did(browser: Any, served: Served, name: str, state: str, options: Any) -> None:
    run = served.runs["run-1"]
    with looking(browser, served, f"run={run}{'&' if state else ''}{state}", **options) as looked:
        picture, letters = _picture(looked)
        assert looked.faults == []
    path = GOLDEN / f"{name}.png"
    if os.environ.get("ASYNCHUB_GOLDEN") == "write":
        about = PngInfo()
        about.add_text("letters", letters)
        path.parent.mkdir(exist_ok=True)
        picture.quantize(128).save(path, optimize=True, pnginfo=about)
    with Image.open(path) as file:
        if (before := file.info["letters"]) != letters:
            pytest.skip(f"this machine has another font: its letters are {letters} pixels wide, not {before}")
        golden = np.asarray(file.convert("RGB"), np.int16)
    seen = np.asarray(picture, np.int16)
    assert seen.shape == golden.shape
    share = float((np.abs(seen - golden).max(axis=2) > DIFFERENT).mean())
    assert share <= SHARE, f"{share:.1%} of the pixels are others"
