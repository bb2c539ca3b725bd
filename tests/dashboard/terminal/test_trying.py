"""What a rule that is tried is shown with: a table, and a rule to begin with."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from asynchub.dashboard.screen import Chart
from asynchub.dashboard.terminal.trying import example, table_of
from asynchub.overlay_rows import OverlayAnswer
from tests.dashboard.terminal.apps import row_of


def test_rules_of_a_grid_are_told_apart_by_what_differs() -> None:
    rules = [f"EarlyStopping:val/acc:patience={patience}:min_delta={delta}" for patience in (3, 5) for delta in (0, 1)]
    found = OverlayAnswer(tuple(row_of("run", rule) for rule in rules))
    lines, rows = table_of(found, {"run": "a"}, 100)
    assert [row.rule for row in rows] == rules
    assert [line.split()[1] for line in lines[1:]] == [
        f"patience={patience}:min_delta={delta}" for patience in (3, 5) for delta in (0, 1)
    ]
    lines, _ = table_of(OverlayAnswer((row_of("run", rules[0]),)), {}, 100)
    assert "rule" not in lines[0]
    assert table_of(OverlayAnswer(()), {}, 100) == ([], [])


class _Charts(NamedTuple):
    """What of a screen an example is made of."""

    charts: tuple[Chart, ...]


@pytest.mark.parametrize(
    ("charts", "rule"),
    [
        ((), "EarlyStopping:val/accuracy:mode=max:patience=3"),
        ((Chart("a", "x"), Chart("val/loss", "x", "min")), "EarlyStopping:val/loss:mode=min:patience=3"),
        ((Chart("a,b", "x", "min"), Chart("b", "x", "max")), "EarlyStopping:b:mode=max:patience=3"),
    ],
)
def test_an_example_is_about_what_the_run_monitors(charts: tuple[Chart, ...], rule: str) -> None:
    assert example(_Charts(charts)) == rule  # type: ignore[arg-type]  # it looks at charts only
