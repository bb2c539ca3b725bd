"""What a page has after the messages that came to it, put together as the page does."""

from __future__ import annotations

from typing import Any

import numpy as np

from asynchub.dashboard.web.wire import decode

__all__ = ("Received",)


class Received:
    """The newest curves of each key.

    Attributes:
        charts: drawing and series, by key; of a series the head and the columns, by run.
        rows: how many rows came in all.
        messages: how many messages came.
    """

    def __init__(self) -> None:
        self.charts: dict[str, tuple[Any, dict[str, tuple[dict[str, Any], dict[str, Any]]]]] = {}
        self.rows = 0
        self.messages = 0

    def take(self, message: bytes) -> int | None:
        """Take a message in; return its number."""
        self.messages += 1
        head = decode(message)
        for chart in head["charts"]:
            before = self.charts.get(chart["key"], (None, {}))[1]
            series = {}
            for one in chart["series"]:
                first, columns = one.pop("from"), one.pop("columns")
                old = before.get(one["run"], ({}, {}))[1]
                assert first <= len(old.get("x", ()))
                if first:
                    columns = {name: np.concatenate([old[name][:first], new]) for name, new in columns.items()}
                assert {len(column) for column in columns.values()} == {one["rows"]}
                series[one["run"]] = one, columns
                self.rows += one["rows"] - first
            self.charts[chart["key"]] = chart["drawing"], series
        number: int | None = head.get("n")
        return number

    def state(self) -> dict[str, Any]:
        """Return all of it, to be compared bit for bit."""
        return {
            key: (
                drawing,
                {
                    run: (head, {name: (str(column.dtype), column.tobytes()) for name, column in columns.items()})
                    for run, (head, columns) in series.items()
                },
            )
            for key, (drawing, series) in self.charts.items()
        }
