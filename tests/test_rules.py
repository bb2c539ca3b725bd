"""Rules in a line of text: what each comes to, and what is said about one that is none."""

from __future__ import annotations

from typing import Any

import pytest

from asynchub.errors import ArgumentError
from asynchub.rules import DummyOptimizer, Rule, parse_rules
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau


def written(text: str) -> list[str]:
    return [str(rule) for rule in parse_rules(text)]


def test_a_rule_is_the_subscriber_with_the_arguments_it_names() -> None:
    (rule,) = parse_rules("EarlyStopping:val/loss:mode=max:patience=7:min_delta=0.25")
    stopping = rule.make()
    assert isinstance(stopping, EarlyStopping)
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("val/loss", "max", 7)
    assert rule.arguments == {"monitor": "val/loss", "mode": "max", "patience": 7, "min_delta": 0.25}
    assert rule.make() is not rule.make()


def test_lists_span_a_grid_whose_last_argument_changes_fastest() -> None:
    assert written("EarlyStopping:val/loss:patience=3,5:min_delta=0,0.1") == [
        "EarlyStopping:val/loss:patience=3:min_delta=0",
        "EarlyStopping:val/loss:patience=3:min_delta=0.1",
        "EarlyStopping:val/loss:patience=5:min_delta=0",
        "EarlyStopping:val/loss:patience=5:min_delta=0.1",
    ]


def test_keys_and_presets_span_it_too_and_nothing_comes_twice() -> None:
    assert written("EarlyStopping:val/loss,train/loss:patience=3,3") == [
        "EarlyStopping:val/loss:patience=3",
        "EarlyStopping:train/loss:patience=3",
    ]
    assert written("EarlyStopping:val/loss:like=keras,lightning:patience=2") == [
        "EarlyStopping:val/loss:patience=2:like=keras",
        "EarlyStopping:val/loss:patience=2:like=lightning",
    ]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_lone_min_or_max_is_the_mode(mode: str) -> None:
    assert written(f"EarlyStopping:val/loss:{mode}:patience=3") == [f"EarlyStopping:val/loss:mode={mode}:patience=3"]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("smooth=('ema', 0.3)", "smooth", ("ema", 0.3)),
        ("start_from=5ep", "start_from", "5ep"),
        ("min_epochs=None", "min_epochs", None),
        ("check_finite=False", "check_finite", False),
        ("monitor='a,b:c=d'", "monitor", "a,b:c=d"),
    ],
)
def test_values_are_literals_or_text_and_quotes_and_brackets_hold_together(text: str, name: str, value: object) -> None:
    key = "" if name == "monitor" else "val/loss:"
    (rule,) = parse_rules(f"EarlyStopping:{key}{text}")
    assert rule.arguments[name] == value
    assert written(str(rule)) == [str(rule)]


def test_a_rule_with_an_optimizer_gets_a_dummy_that_begins_at_lr() -> None:
    one, several = parse_rules("ReduceLROnPlateau:val/loss:lr=0.1,[0.1,0.01]:patience=2")
    assert one.arguments["lr"] == 0.1
    assert isinstance(one.make(), ReduceLROnPlateau)
    assert several.arguments["lr"] == [0.1, 0.01]
    assert written("ReduceLROnPlateau:val/loss") == ["ReduceLROnPlateau:val/loss:lr=1.0"]
    assert parse_rules("ReduceLROnPlateau:val/loss:like=keras:lr=0.5")[0].make()
    assert parse_rules("ReduceLROnPlateau:val/loss:param_name=weight_decay:lr=0.01")[0].make()
    spikes = "SpikeDetection:train/loss:action=rollback:lr_decay=0.5"
    assert parse_rules(f"{spikes}:lr=0.1")[0].make()
    with pytest.raises(ArgumentError, match="lr_decay needs an optimizer"):
        parse_rules(spikes)


def test_a_dummy_has_what_rules_look_at() -> None:
    assert DummyOptimizer([0.1], "momentum").param_groups == [
        {"params": [], "lr": 0.1, "initial_lr": 0.1, "momentum": 0.1}
    ]


def test_a_rule_that_needs_a_function_gets_one_that_does_nothing() -> None:
    assert parse_rules("CheckpointPolicy:every=1ep")[0].make()


def test_a_class_that_is_not_installed_is_named_by_its_path() -> None:
    (rule,) = parse_rules(f"{__name__}.Positional:val/loss:3")
    made: Any = rule.make()
    assert (made.monitor, made.limit) == ("val/loss", 3)


class Positional:
    role = "control"

    def __init__(self, monitor: str, limit: int, /) -> None:
        self.monitor, self.limit = monitor, limit

    async def __call__(self, events: Any) -> None: ...


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EarlyStoping:val/loss", "did you mean EarlyStopping?"),
        ("Nothing:val/loss", "`asynchub subscribers` lists what there is"),
        ("EarlyStopping", "needs a key to monitor; write e.g. EarlyStopping:val/loss:mode=min:patience=3,5"),
        ("EarlyStopping:val/loss:sideways", "takes only monitor by position, got 'sideways' as well"),
        (
            "EarlyStopping:val/loss:mode=sideways",
            "mode must be 'min' or 'max', got 'sideways'; write",
        ),
        ("EarlyStopping:val/loss:patients=3", r"no argument 'patients' \(did you mean patience\?\); write e.g."),
        ("EarlyStopping:val/loss:x=3", r"no argument 'x' \(it has monitor, patience"),
        ("EarlyStopping:val/loss:patience=many", "patience must be an int of at least 0, got 'many'"),
        ("EarlyStopping:val/loss:patience=1:patience=2", "write patience=1,2 to try several values"),
        ("EarlyStopping:val/loss:patience=1,", "something is missing before or after a ','"),
        ("EarlyStopping::patience=1", "something is missing before or after a ':'"),
        ("", "something is missing"),
        ("EarlyStopping:val/*", "monitor must be one key"),
        ("EarlyStopping:val/loss:like=torch", "EarlyStopping has presets like 'keras'"),
        ("MaxSteps:3:like=keras", "MaxSteps has no presets"),
        (
            "ReduceLROnPlateau:val/loss:lr=0",
            "lr must be a number above 0, or a list of them, got 0; write",
        ),
        ("ReduceLROnPlateau:val/loss:lr=[]", "lr must be a number above 0"),
        ("JsonlLogger:x", "is an observer: it decides nothing"),
        ("SchedulerStep", r"needs scheduler; what a line of text cannot give, a function can: .*lambda: SchedulerStep"),
        ("no_such_package.rules.Stop:val/loss", "there is no module 'no_such_package'"),
        ("asynchub.hub.Nothing:val/loss", "'asynchub.hub' has no class 'Nothing'"),
        ("EarlyStopping:val/loss:patience=" + ",".join(map(str, range(10_001))), "more than 10000 rules"),
    ],
)
def test_what_is_no_rule_is_explained(text: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        parse_rules(text)


def test_a_rule_of_ones_own_shows_its_name_and_arguments() -> None:
    assert str(Rule("mine", lambda: EarlyStopping("a"))) == "mine"
    assert (
        str(Rule("mine", lambda: EarlyStopping("a"), {"limit": 3, "keys": ("a", "b")})) == "mine:limit=3:keys=('a','b')"
    )
