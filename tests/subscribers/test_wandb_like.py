"""WandbLike: any object with a log gets the run, a row for each step."""

from __future__ import annotations

from typing import Any

import pytest

from asynchub.errors import ArgumentError
from asynchub.events import SubscriberFailed, TrackerDegraded, TrackerRestored
from asynchub.hub import MessageHub
from asynchub.subscribers.wandb_like import WandbLike
from tests.subscribers.news import News
from tests.subscribers.observing import observe, scalars, stamped


class Tracker:
    """A tracker that takes dicts, as many do."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, Any], int | None]] = []
        self.ended = 0

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((values, step))

    def finish(self) -> None:
        self.ended += 1


ROWS = scalars((1, "a", 1.0), (1, "b", 2.0), (2, "a", 3.0), (2, "a", 4.0), (None, "c", 5.0), (None, "c", 6.0))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_any_object_with_a_log_gets_a_row_for_each_step(backend: str) -> None:
    tracker = Tracker()
    observe(WandbLike(tracker, finish=tracker.finish), stamped(ROWS), backend=backend)
    wanted = [({"a": 1.0, "b": 2.0}, 1), ({"a": 3.0}, 2), ({"a": 4.0}, 2), ({"c": 5.0}, 0), ({"c": 6.0}, 1)]
    assert tracker.rows == wanted
    assert tracker.ended == 1


def test_the_step_can_be_a_value_or_the_log_a_function() -> None:
    tracker = Tracker()
    observe(WandbLike(tracker, step_metric="step"), stamped(ROWS[:3]))
    assert tracker.rows == [({"a": 1.0, "b": 2.0, "step": 1}, None), ({"a": 3.0, "step": 2}, None)]
    calls: list[Any] = []
    failure = SubscriberFailed(subscriber="x", error="ValueError", action="detach", step=2)
    observe(WandbLike(lambda *row: calls.append(row), decisions=True), stamped([*ROWS[:3], failure]))
    assert calls[0] == ({"a": 1.0, "b": 2.0}, 1)
    assert calls[1][0]["hub/decisions"].startswith("x failed at step 2")


def test_one_that_raises_gets_everything_when_it_does_not_any_more() -> None:
    rows: list[Any] = []
    broken = [True]

    def log(values: dict[str, Any], step: int) -> None:
        if broken[0]:
            raise ConnectionError("gone")
        rows.append(step)

    class Quick(WandbLike):
        retry = (0.01, 0.02)

    hub = MessageHub("raises")
    hub.attach(Quick(log, interval=0.0), on_error="raise")
    news = News(hub)
    with hub:
        for step in range(100):
            hub.update_scalar("loss", step, step=step)
        news.wait_for(TrackerDegraded)
        broken[0] = False
        news.wait_for(TrackerRestored)
    assert rows == list(range(100))


def test_its_state_goes_on_counting() -> None:
    first, second = Tracker(), Tracker()
    logger = WandbLike(first)
    observe(logger, stamped(scalars((None, "c", 1.0), (None, "c", 2.0))))
    resumed = WandbLike(second)
    resumed.load_state_dict(logger.state_dict())
    observe(resumed, stamped(scalars((None, "c", 3.0))))
    assert second.rows == [({"c": 3.0}, 2)]


@pytest.mark.parametrize("options", [{"run": object()}, {"step_metric": ""}, {"decisions": 1}, {"finish": 3}])
def test_malformed_arguments_of_any_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        WandbLike(**{"run": Tracker(), **options})
