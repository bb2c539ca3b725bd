"""How fast the page is: with wide bounds, since other work goes on where this runs. The figures are printed."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.processes import ZOOM
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.runs import Writer, columns_of
from tests.dashboard.web.servers import Served, serving

pytestmark = pytest.mark.slow

STEPS = 100_000
KEYS = tuple(f"key-{number}" for number in range(10))
TALL = {"width": 1400, "height": 2600}
COUNT = """window.drawn = {};
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...box) {
    const key = this.canvas.closest('.chart')?.getAttribute('aria-label');
    if (key) window.drawn[key] = (window.drawn[key] ?? 0) + 1;
    return clear.apply(this, box);
};"""


class Ready(NamedTuple):
    """Five runs of ten keys that are looked at; the first goes on."""

    served: Served
    writer: Writer


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    top = tmp_path_factory.mktemp("runs")
    writers = [sample_run(top / f"run-{number}", number, STEPS, keys=KEYS, closed=number > 0) for number in range(5)]
    with serving([top], tmp_path_factory.mktemp("cache")) as served:
        served.have_read(KEYS, min(writer.seq for writer in writers))  # the bounds are of what is warm
        yield Ready(served, writers[0])


def _ten(looked: Looked) -> None:
    looked.until(lambda: looked.page.locator(".chart canvas").count() >= 10, 60)
    looked.until(lambda: len(looked.drawings) >= 10, 60)
    looked.frames()


def test_ten_charts_of_five_runs_are_there_soon(browser: Any, ready: Ready) -> None:
    took = []
    for _ in range(5):
        began = time.perf_counter()
        with looking(browser, ready.served, f"run={ready.served.runs['run-1']}&keys=", **TALL) as looked:
            _ten(looked)
            took.append(time.perf_counter() - began)
    print(f"first paint of 10 charts x 5 runs: median {statistics.median(took):.2f} s, longest {max(took):.2f} s")
    assert statistics.median(took) < 8.0


def test_a_chart_is_drawn_once_until_there_is_something_new_of_it(browser: Any, ready: Ready) -> None:
    with looking(browser, ready.served, f"run={ready.served.runs['run-1']}&keys=", **TALL) as looked:
        _ten(looked)
        looked.page.add_init_script(COUNT)
        looked.page.reload()
        _ten(looked)
        looked.settled()
        asked = [address for address in looked.asked if "/api/keys" in address]
        assert len(asked) == 2  # once for each time that the page was opened
        drawn = looked.page.evaluate("window.drawn")
        assert sorted(drawn) == sorted(f"Chart of {key}" for key in KEYS)
        assert set(drawn.values()) == {1}
        looked.page.wait_for_timeout(2500)  # first screens come, which say how old they are
        assert looked.page.evaluate("window.drawn") == drawn


@pytest.mark.parametrize("late", ["the scalars", "the first screen"])
def test_a_chart_is_drawn_once_whatever_comes_first(browser: Any, ready: Ready, late: str) -> None:
    held: list[Callable[[], None]] = []

    def hold(socket: Any) -> None:
        server = socket.connect_to_server()

        def came(message: str | bytes) -> None:
            if isinstance(message, str) and '"type":"screen"' in message:
                held.append(lambda: socket.send(message))
            else:
                socket.send(message)

        server.on_message(came)

    with looking(browser, ready.served, f"run={ready.served.runs['run-1']}&keys=", **TALL) as looked:
        _ten(looked)
        looked.page.add_init_script(COUNT)
        if late == "the scalars":
            looked.page.route("**/api/keys*", lambda route: held.append(route.continue_))
        else:
            looked.page.route_web_socket("**/api/live*", hold)
        looked.page.reload()
        looked.until(lambda: held and looked.page.locator(".chart canvas").count())
        looked.settled()
        first, further = (looked.page.locator(f"{place} .chart").count() for place in ("#charts", "#more-charts"))
        assert (first > 0, further) == (True, 0) if late == "the scalars" else (first, further) == (0, 10)
        for release in held:
            release()
        looked.until(lambda: looked.page.locator("#charts .chart").count())
        _ten(looked)
        looked.settled()
        assert looked.page.evaluate("window.drawn") == {f"Chart of {key}": 1 for key in KEYS}
        assert looked.faults == []


def test_zooming_ten_charts_is_quick(browser: Any, ready: Ready) -> None:
    with looking(browser, ready.served, f"run={ready.served.runs['run-1']}&keys=&follow=0", **TALL) as looked:
        _ten(looked)
        took = []
        for number in range(12):
            low = 1000 * number
            took.append(looked.page.evaluate(ZOOM, f"{low}..{low + 30_000 + 997 * number}") / 1000)
        print(f"zoom of 10 charts: median {statistics.median(took) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms")
        assert statistics.median(took) < 2.0


def test_news_ten_times_a_second_leave_the_page_at_rest(browser: Any, ready: Ready) -> None:
    ended = threading.Event()

    def write() -> None:
        step = STEPS
        rng = np.random.default_rng(1)
        while not ended.wait(0.1):
            values = 1 + rng.normal(0, 0.1, (50, len(KEYS)))
            ready.writer.batch(columns_of(KEYS, np.arange(step, step + 50), values, ready.writer.seq))
            step += 50

    with looking(browser, ready.served, f"run={ready.served.runs['run-0']}&keys=", **TALL) as looked:
        _ten(looked)
        looked.page.evaluate(
            """() => {
                window.long = [];
                new PerformanceObserver((list) => window.long.push(...list.getEntries().map((one) => one.duration)))
                    .observe({ type: 'longtask' });
            }"""
        )
        writer = threading.Thread(target=write, name="writing")
        writer.start()
        try:
            seen = looked.messages
            looked.page.wait_for_timeout(10_000)
            came = looked.messages - seen
        finally:
            ended.set()
            writer.join()
        long = looked.page.evaluate("window.long")
        print(f"10 s live: {came} messages, {len(long)} tasks above 50 ms, the longest {max(long, default=0):.0f} ms")
        assert came >= 10
        assert len(long) <= 40
        assert looked.faults == []
