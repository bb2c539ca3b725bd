"""When the page asks the server: at once, and on the line that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.web.servers import Served, serving

pytestmark = pytest.mark.slow

SENDS = """() => {
    window.order = [];
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (text) {
        const { curves } = JSON.parse(text);
        window.order.push(curves ? [curves.start, curves.stop] : null);
        return send.call(this, text);
    };
}"""
ZOOM = """([range, ...others]) => new Promise((done) => {
    window.order ??= [];
    const go = (to) => { location.hash = location.hash.replace(/&?range=[^&]*/, '') + `&range=${to}`; };
    addEventListener('hashchange', () => {
        for (const other of others) go(other);
        window.order.push('changed');
        requestAnimationFrame(() => { window.order.push('frame'); done(); });
    }, { once: true });
    go(range);
})"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("runs")
    for number in range(2):
        sample_run(top / f"run-{number}", number, 20_000)
    with serving([top], tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture
def looked(browser: Any, served: Served) -> Iterator[Looked]:
    with looking(browser, served, f"run={served.runs['run-1']}&follow=0") as one:
        one.drawn("train/loss")
        one.settled()
        yield one


def test_another_part_of_the_axis_is_asked_for_before_the_next_frame(looked: Looked) -> None:
    looked.page.evaluate(SENDS)
    looked.page.evaluate(ZOOM, ["5000..9000"])
    order = looked.page.evaluate("window.order")
    assert order.index([5000, 9000]) < order.index("frame")
    assert order.count([5000, 9000]) == 1


def test_of_many_addresses_in_a_moment_few_are_asked_for_and_the_last_of_them_is(looked: Looked) -> None:
    looked.page.evaluate(SENDS)
    ranges = [f"{low}..{low + 4000}" for low in range(5000, 9000, 50)]
    looked.page.evaluate(ZOOM, ranges)
    looked.until(lambda: [8950, 12950] in looked.page.evaluate("window.order"))
    looked.settled()
    asked = [one for one in looked.page.evaluate("window.order") if isinstance(one, list)]
    assert asked[-1] == [8950, 12950]
    assert len(asked) < len(ranges) / 2
    assert looked.drawings["train/loss"]["series"][0]["start"] <= 8950
    assert looked.faults == []


def test_another_address_leaves_the_line_to_the_server_as_it_is(looked: Looked, served: Served) -> None:
    page = looked.page
    for low in (1000, 2000, 3000):
        page.evaluate(ZOOM, [f"{low}..{low + 4000}"])
        looked.settled()
    page.evaluate("(run) => { location.hash = `run=${run}` }", served.runs["run-0"])
    looked.until(lambda: looked.text("#answers .name") == "run-0")
    assert [url.partition("?")[0] for url in looked.asked if "/api/live" in url] == [
        f"ws://127.0.0.1:{served.port}/api/live"
    ]
    assert looked.faults == []


def test_an_address_with_a_token_makes_a_new_line(looked: Looked, served: Served) -> None:
    looked.page.evaluate("(token) => { location.hash = `t=${token}` }", served.secrets.view)
    looked.until(lambda: sum("/api/live" in url for url in looked.asked) == 2)
    looked.until(lambda: "t=" not in looked.page.url.partition("#")[2])
    looked.drawn("train/loss")
    assert looked.faults == []
