"""A figure in a notebook: plain HTML, drawn again while the hub is entered, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from asynchub.dashboard.picture.notebook import show
from asynchub.errors import ArgumentError, PatternError
from asynchub.hub import MessageHub
from tests.dashboard.picture.pictures import HOSTILE, panels_of, write_run

NAMES = iter(range(10**6))


@pytest.fixture(name="hub")
def _hub() -> MessageHub:
    hub = MessageHub(f"figure {next(NAMES)}")
    for hub.step in range(200):
        hub.update_scalar("train/loss", 1.0 / (hub.step + 1))
    hub.update_scalar("val/acc", 0.5)
    return hub


@pytest.fixture(name="shell")
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """Return an IPython that leaves no trace."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    config = Config()
    config.HistoryManager.enabled = False
    yield InteractiveShell.instance(config=config, user_module=ModuleType("asynchub_cell"))
    InteractiveShell.clear_instance()


@pytest.fixture(name="shown")
def _shown(shell: InteractiveShell) -> list[dict[str, Any]]:
    """Return what is displayed: bundles as IPython's kernel would send them."""
    publisher = shell.display_pub = CapturingDisplayPublisher(parent=shell)
    return publisher.outputs


def _until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def _svg(html: str) -> str:
    return html[html.index("<svg") : html.index("</svg>") + 6]


def test_a_figure_of_a_hub_is_html_without_a_script(hub: MessageHub) -> None:
    html = show(hub)._repr_html_()
    assert "<script" not in html
    first, second = panels_of(_svg(html))
    assert "val/acc" in list(first.itertext())
    assert "train/loss" in list(second.itertext())


def test_a_figure_is_drawn_anew_each_time(hub: MessageHub) -> None:
    figure = show(hub, ["train/*"])
    assert "all 200 values counted" in figure._repr_html_()
    hub.update_scalar("train/loss", 0.5)
    assert "all 201 values counted" in figure._repr_html_()


def test_a_figure_is_said_in_words(hub: MessageHub) -> None:
    words = str(show(hub))
    assert words == repr(show(hub))
    assert "train/loss from step 0 to 199: 200 values, first 1.000, last 5.00e-03" in words.replace(
        "0.005000", "5.00e-03"
    )
    assert "val/acc is 0.5000 at step 199" in words


def test_a_hub_without_a_scalar_has_a_figure() -> None:
    assert "no scalar yet" in show(MessageHub(f"figure {next(NAMES)}"))._repr_html_()


def test_a_long_history_is_drawn_in_buckets(hub: MessageHub) -> None:
    for hub.step in range(200, 20_000):
        hub.update_scalar("train/loss", float(hub.step == 10_000))
    html = show(hub, ["train/loss"])._repr_html_()
    assert "all 20,000 values counted" in html
    assert "strokes from min to max" in html
    assert len(html) < 100_000


def test_names_of_a_hub_are_only_ever_text() -> None:
    hub = MessageHub(HOSTILE[2] + str(next(NAMES)))
    for text in HOSTILE:
        hub.update_scalar(text, 1.0)
    root = ElementTree.fromstring(_svg(show(hub, ["**"])._repr_html_()))
    assert not [element for element in root.iter() if element.tag.rpartition("}")[2] in ("img", "script")]


def test_a_figure_of_a_run_reads_what_has_come(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"train/loss": np.linspace(1, 0, 50)})
    figure = show(tmp_path / "run", cache=tmp_path / "cache")
    assert len(panels_of(_svg(figure._repr_html_()))) == 1
    assert "train/loss from step 0 to 49: 50 values" in str(figure)


@pytest.mark.parametrize("source", [None, 3, object()])
def test_what_is_neither_hub_nor_folder_is_refused(source: Any) -> None:
    with pytest.raises(ArgumentError, match="a MessageHub or the folder of a run"):
        show(source)


def test_other_arguments_that_are_wrong_are_refused(hub: MessageHub, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        show(tmp_path / "nothing")
    with pytest.raises(ArgumentError, match="width must be"):
        show(hub, width=3)
    with pytest.raises(PatternError):
        show(hub, [""])


def test_outside_of_ipython_nothing_is_printed(hub: MessageHub, capsys: pytest.CaptureFixture[str]) -> None:
    show(hub)
    assert capsys.readouterr() == ("", "")


def test_in_a_terminal_of_ipython_nothing_is_shown_before_it_is_asked_for(
    hub: MessageHub, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = show(hub)
    assert capsys.readouterr().out == ""
    figure._ipython_display_()
    assert "train/loss from step 0 to 199" in capsys.readouterr().out
    with hub:
        pass
    assert capsys.readouterr().out == ""


def test_in_a_notebook_it_is_shown_once_in_a_cell(
    hub: MessageHub, shell: InteractiveShell, shown: list[dict[str, Any]]
) -> None:
    figure = show(hub)
    figure._ipython_display_()  # it is the value of the cell, too
    assert len(shown) == 1
    assert set(shown[0]["data"]) == {"text/html", "text/plain"}
    shell.execution_count += 1
    figure._ipython_display_()
    assert len(shown) == 2


def test_in_a_notebook_it_is_drawn_again_while_the_hub_is_entered(
    hub: MessageHub, shown: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    show(hub)
    assert not shown[0]["update"]
    with hub:
        _until(lambda: len(shown) >= 2)
        hub.update_scalar("train/loss", 0.25)
        _until(lambda: any("all 201 values" in one["data"]["text/html"] for one in shown))
        began, count = time.monotonic(), len(shown)
        hub.update_scalar("train/loss", 0.25)
        _until(lambda: len(shown) > count)
        assert time.monotonic() - began < 10
    assert "As it was when this was drawn" in shown[-1]["data"]["text/html"]
    assert "all 202 values" in shown[-1]["data"]["text/html"]
    assert {one["transient"]["display_id"] for one in shown} == {shown[0]["transient"]["display_id"]}
    assert all(one["update"] for one in shown[1:])
    assert capsys.readouterr().out == ""
    left = len(shown)
    hub.update_scalar("train/loss", 0.25)
    assert len(shown) == left


def test_a_figure_is_drawn_at_most_twice_a_second(hub: MessageHub, shown: list[dict[str, Any]]) -> None:
    show(hub)
    began = time.monotonic()
    with hub:
        while time.monotonic() < began + 0.8:
            hub.update_scalar("train/loss", 0.25)
            time.sleep(0.001)
    assert len(shown) <= 2 + (time.monotonic() - began) / 0.5 + 1


async def test_in_an_async_program_it_is_drawn_again_too(hub: MessageHub, shown: list[dict[str, Any]]) -> None:
    show(hub)
    async with hub:
        hub.update_scalar("train/loss", 0.25)
    assert "all 201 values" in shown[-1]["data"]["text/html"]


def test_a_figure_that_was_stopped_is_drawn_no_more(hub: MessageHub, shown: list[dict[str, Any]]) -> None:
    figure = show(hub)
    figure.stop()
    figure.stop()
    with hub:
        hub.update_scalar("train/loss", 0.25)
    assert len(shown) == 1


def test_without_live_it_is_shown_once(hub: MessageHub, shown: list[dict[str, Any]]) -> None:
    show(hub, live=False)
    with hub:
        hub.update_scalar("train/loss", 0.25)
    assert len(shown) == 1


def test_a_hub_that_is_watched_so_logs_no_value_for_it(hub: MessageHub, shown: list[dict[str, Any]]) -> None:
    show(hub)
    (subscription,) = hub.statistics().subscriptions
    hub.update_scalar("train/loss", 0.25)
    assert hub.statistics().subscriptions[0].delivered == subscription.delivered
