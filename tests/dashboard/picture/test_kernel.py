"""A figure in a notebook that a real kernel runs: shown at once, drawn again in its place, and left as it is."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from textwrap import dedent
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import sync_playwright
from traitlets.config import Config

from tests.dashboard.picture.pictures import panels_of, write_run

pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow
ENOUGH = 3
"""Times that a figure is drawn again before the training ends."""
SETUP = """
    import asyncio, threading, time
    from pathlib import Path
    from asynchub import MessageHub
    from asynchub.dashboard.picture.notebook import show

    threads = set(threading.enumerate())
    hub = MessageHub("notebook")
    deadline = time.monotonic() + 60

    def goes_on():
        return not Path("enough").exists() and time.monotonic() < deadline
"""
BLOCKING = """
    with hub:
        while goes_on():
            hub.step += 1
            hub.update_scalar("train/loss", 1 / hub.step)
            time.sleep(0.001)
"""
AWAITING = """
    async with hub:
        while goes_on():
            hub.step += 1
            hub.update_scalar("train/loss", 1 / hub.step)
            await asyncio.sleep(0.001)
"""
AFTER = """
    print(sorted(thread.name for thread in set(threading.enumerate()) - threads), hub.step)
"""


class Notebook:
    """A notebook, and what its kernel sent.

    Args:
        folder: that its kernel works in.
        sockets: folder of what it is reached through, whose path must be short.
        cells: their code.
    """

    def __init__(self, folder: Path, sockets: Path, *cells: str) -> None:
        self.document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(dedent(cell)) for cell in cells])
        self.sent: list[tuple[int, str, dict[str, Any]]] = []
        config = Config(KernelManager={"transport": "ipc", "ip": str(sockets / "k")})
        resources = {"metadata": {"path": str(folder)}}
        self._client = nbclient.NotebookClient(self.document, config=config, timeout=120, resources=resources)
        process = self._client.process_message

        def seen(message: dict[str, Any], cell: Any, number: int) -> Any:
            self.sent.append((number, message["msg_type"], message["content"]))
            if len(self.updates) >= ENOUGH:
                (folder / "enough").touch()
            return process(message, cell, number)

        self._client.process_message = seen

    @property
    def updates(self) -> list[dict[str, Any]]:
        """What was shown in place of something else."""
        return [content for _, kind, content in self.sent if kind == "update_display_data"]

    def run(self) -> list[list[Any]]:
        """Run all cells; return the outputs of each."""
        self._client.execute()
        return [cell.outputs for cell in self.document.cells]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for a kernel, which leaves nothing elsewhere."""
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture(name="sockets")
def _sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("k")


def _svg(output: Any) -> str:
    html = str(output.data["text/html"])
    return html[html.index("<svg") : html.index("</svg>") + 6]


@pytest.mark.parametrize("training", [BLOCKING, AWAITING])
def test_a_figure_is_drawn_again_in_its_place_while_a_cell_trains(folder: Path, sockets: Path, training: str) -> None:
    notebook = Notebook(folder, sockets, SETUP, "figure = show(hub)\nfigure", training, AFTER, "print(figure)")
    began = time.monotonic()
    _, shown, trained, (after,), (words,) = notebook.run()
    assert time.monotonic() - began < 60, "the deadline has ended it"
    assert len(notebook.updates) > ENOUGH
    names = {content["transient"]["display_id"] for _, _, content in notebook.sent if "transient" in content}
    assert len({name for name in names if name}) == 1
    (figure,) = shown  # once, although it is the value of its cell, too
    assert not trained
    steps = int(after.text.rpartition(" ")[2])
    assert after.text.startswith("[] "), "threads are left"
    assert f"all {steps:,} values counted" in figure.data["text/html"]
    assert "As it was when this was drawn" in figure.data["text/html"]
    assert f"{steps:,} events" in figure.data["text/plain"]
    assert f"{steps:,} values" in words.text
    assert "Live" in notebook.updates[0]["data"]["text/html"]


def test_a_figure_needs_no_script_and_no_extension(folder: Path, sockets: Path) -> None:
    write_run(folder / "run", {"train/loss": np.linspace(1, 0, 50), "val/acc": np.linspace(0, 1, 50)})
    notebook = Notebook(folder, sockets, SETUP, "show(hub)", "show('run', cache='cache')")
    _, _, (figure,) = notebook.run()
    kinds = {kind for _, kind, _ in notebook.sent}
    assert not {kind for kind in kinds if kind.startswith("comm")}
    assert set(figure.data) == {"text/html", "text/plain"}
    elements = {one.tag.rpartition("}")[2] for one in ElementTree.fromstring(_svg(figure)).iter()}
    assert not {"script", "style", "image", "foreignObject"} & elements
    assert len(panels_of(_svg(figure))) == 2
    json.dumps(notebook.document)  # it can be kept


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_figures_beside_each_other_in_a_browser_are_whole(folder: Path, sockets: Path) -> None:
    write_run(folder / "run", {"train/loss": np.linspace(1, 0, 50)})
    code = "show('run', cache='cache')", "show('run', cache='cache', dark=True)"
    light, dark = (output.data["text/html"] for (output,) in Notebook(folder, sockets, SETUP, *code).run()[1:])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 700, "height": 900})
        tab.set_content(f"<body style='margin:0'><div>{light}</div><div>{dark}</div></body>")
        sizes = tab.evaluate("[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width)")
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        browser.close()
    assert len(sizes) == 2
    assert len(set(ids)) == len(ids) > 1
