"""``EarlyStopping.like``: the early stoppers themselves are the oracles, check by check, on random series."""

from __future__ import annotations

import inspect
import logging
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.stopping_presets import STOPPING_PRESETS
from asynchub.testing import Drive, drive, scalars
from tests.subscribers.test_plateau import random_series

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what third parties say while they are imported
    import ignite.engine
    import ignite.handlers
    import keras
    import lightning.pytorch
    import lightning.pytorch.callbacks
    import mmengine.hooks
    import optuna
    import transformers

NAN, INF = math.nan, math.inf
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "early-stopping.md"
Verdicts = list[tuple[bool, float | None]]
"""For each check: whether to stop, and the best value after it."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:PatientPruner is experimental"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),  # optuna's own
]


# --- the originals


def keras_verdicts(series: list[float], arguments: dict[str, Any]) -> Verdicts:
    model = SimpleNamespace(stop_training=False)
    callback = keras.callbacks.EarlyStopping("val_loss", **arguments)
    callback.set_model(model)
    callback.on_train_begin()
    found: Verdicts = []
    for epoch, value in enumerate(series):
        model.stop_training = False
        callback.on_epoch_end(epoch, {"val_loss": value})
        found.append((model.stop_training, callback.best))
    return found


def lightning_verdicts(series: list[float], arguments: dict[str, Any]) -> Verdicts:
    callback = lightning.pytorch.callbacks.EarlyStopping("val_loss", **arguments)
    found: Verdicts = []
    for value in series:  # a number that is logged becomes such a tensor
        stops, _ = callback._evaluate_stopping_criteria(torch.tensor(value))
        best = float(callback.best_score)
        found.append((stops, best))
    return found


def hf_verdicts(series: list[float], arguments: dict[str, Any]) -> Verdicts:
    arguments = dict(arguments)
    args = SimpleNamespace(
        metric_for_best_model="loss",
        greater_is_better=arguments.pop("greater_is_better", False),
        save_strategy=transformers.trainer_utils.SaveStrategy.NO,
    )
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    callback = transformers.EarlyStoppingCallback(**arguments)
    found: Verdicts = []
    for value in series:  # as Trainer._maybe_log_save_evaluate does
        control.should_training_stop = False
        callback.on_evaluate(args, state, control, {"eval_loss": value})
        trainer: Any = SimpleNamespace(args=args, state=state)
        transformers.Trainer._determine_best_metric(trainer, {"eval_loss": value}, None)
        found.append((control.should_training_stop, state.best_metric))
    return found


def ignite_verdicts(series: list[float], arguments: dict[str, Any]) -> Verdicts:
    engine = ignite.engine.Engine(lambda engine, batch: None)
    handler = ignite.handlers.EarlyStopping(
        score_function=lambda engine: engine.state.score, trainer=engine, **arguments
    )
    handler.logger.setLevel(logging.WARNING)
    found: Verdicts = []
    for value in series:
        engine.should_terminate = False
        engine.state.score = value
        handler(engine)
        found.append((bool(engine.should_terminate), handler.best_score))
    return found


def mmengine_verdicts(series: list[float], arguments: dict[str, Any]) -> Verdicts:
    loop = SimpleNamespace(stop_training=False)
    runner = SimpleNamespace(train_loop=loop, logger=logging.getLogger("quiet"))
    hook = mmengine.hooks.EarlyStoppingHook("loss", **arguments)
    hook.before_run(runner)
    found: Verdicts = []
    for value in series:
        loop.stop_training = False
        hook.after_val_epoch(runner, {"loss": value})
        found.append((loop.stop_training, hook.best_score))
    return found


STUDIES: dict[str, optuna.Study] = {}


def study_of(direction: str) -> optuna.Study:
    if direction not in STUDIES:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        STUDIES[direction] = optuna.create_study(direction=direction)
    return STUDIES[direction]


def optuna_verdicts(series: list[float], arguments: dict[str, Any]) -> Verdicts:
    arguments = dict(arguments)
    study = study_of(arguments.pop("direction", "minimize"))
    pruner = optuna.pruners.PatientPruner(None, **arguments)
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    found: Verdicts = []
    for step, value in enumerate(series):
        trial.intermediate_values[step] = value
        found.append((bool(pruner.prune(study, trial)), None))
    return found


ORIGINALS: dict[str, Callable[[list[float], dict[str, Any]], Verdicts]] = {
    "keras": keras_verdicts,
    "lightning": lightning_verdicts,
    "hf": hf_verdicts,
    "ignite": ignite_verdicts,
    "mmengine": mmengine_verdicts,
    "optuna": optuna_verdicts,
}
every_library = pytest.mark.parametrize("library", ORIGINALS)


def preset_verdicts(library: str, series: list[float], arguments: dict[str, Any]) -> Verdicts:
    stopping = EarlyStopping.like(library, "val/loss", **arguments)
    driven = Drive(stopping)
    found: Verdicts = []
    for event in scalars("val/loss", series):
        answers = driven.send(event)
        stops = any(isinstance(answer, Decided) and answer.verdict == "stop" for answer in answers)
        found.append((stops, stopping.best))
    driven.close()
    return found


def first_stop(verdicts: Verdicts) -> int | None:
    return next((index for index, (stops, _) in enumerate(verdicts) if stops), None)


# --- random series and arguments


def series_for_presets(rng: np.random.Generator) -> list[float]:
    """Return one of ``random_series``, or values that single precision cannot tell apart, or not hold."""
    if rng.random() < 0.85:
        return random_series(rng)
    if rng.random() < 0.7:
        return [float(value) for value in 1 + rng.integers(-4, 5, 40) * 3e-8]
    return [float(value) for value in rng.choice([1e39, -1e39, 1e-46, 0.0, 3.5e38, NAN], 40)]


def random_arguments(library: str, rng: np.random.Generator) -> dict[str, Any]:
    patience = int(rng.integers(0, 7))
    delta = float(rng.choice([0.0, 0.0, 1e-4, 0.05, 0.125, 0.25, 1.0]))
    mode = str(rng.choice(["min", "max"]))
    threshold = None if rng.random() < 0.7 else float(rng.choice([-1.0, 0.0, 0.125, 1.5, 0.1]))
    other = None if rng.random() < 0.7 else float(rng.choice([-1.0, 0.0, 0.125, 1.5, 0.1]))
    check_finite = bool(rng.random() < 0.3)
    match library:
        case "keras":
            start = int(rng.choice([0, 0, 3]))
            chosen = {"min_delta": delta, "patience": patience, "mode": mode, "baseline": other}
            return {**chosen, "start_from_epoch": start}
        case "lightning":
            thresholds = {"stopping_threshold": threshold, "divergence_threshold": other}
            return {"min_delta": delta, "patience": patience, "mode": mode, "check_finite": check_finite, **thresholds}
        case "hf":
            return {
                "early_stopping_patience": patience,
                "early_stopping_threshold": delta,
                "greater_is_better": mode == "max",
            }
        case "ignite":
            return {
                "patience": patience + 1,
                "threshold": delta,
                "cumulative": bool(rng.random() < 0.5),
                "threshold_mode": str(rng.choice(["abs", "rel"])),
                "mode": mode,
            }
        case "mmengine":
            return {
                "rule": "greater" if mode == "max" else "less",
                "min_delta": delta,
                "check_finite": check_finite,
                "patience": patience,
                "stopping_threshold": threshold,
            }
        case _:
            return {"patience": patience, "min_delta": delta, "direction": "minimize" if mode == "min" else "maximize"}


def shown(verdicts: Verdicts) -> list[tuple[bool, str]]:
    """Return verdicts that compare equal where both are NaN."""
    return [(stops, repr(None if best is None else float(best))) for stops, best in verdicts]


def compare(library: str, rng: np.random.Generator, count: int) -> int:
    """Compare verdicts on ``count`` series of 40 checks; return at how many checks it stops."""
    stopped = 0
    for number in range(count):
        series, arguments = series_for_presets(rng), random_arguments(library, rng)
        theirs = ORIGINALS[library](series, arguments)
        ours = preset_verdicts(library, series, arguments)
        if library == "optuna":  # which keeps no best value
            ours = [(stops, None) for stops, _ in ours]
        if library == "lightning":  # an infinity stands there for no best value yet
            worst = INF if arguments["mode"] == "min" else -INF
            ours = [(stops, worst if best is None else best) for stops, best in ours]
        if library == "mmengine":
            worst = -INF if arguments["rule"] == "greater" else INF
            ours = [(stops, worst if best is None else best) for stops, best in ours]
        assert shown(ours) == shown(theirs), (number, series, arguments)
        stopped += sum(stops for stops, _ in ours)
    return stopped


@every_library
def test_a_preset_decides_as_the_original_at_every_check(library: str, rng: np.random.Generator) -> None:
    assert 500 < compare(library, rng, 250) < 9_500


@pytest.mark.slow
@every_library
def test_a_preset_decides_as_the_original_on_ten_thousand_series(library: str, rng: np.random.Generator) -> None:
    assert 20_000 < compare(library, rng, 10_000) < 380_000


@every_library
def test_the_defaults_are_those_of_the_original(library: str, rng: np.random.Generator) -> None:
    required = {"keras": {"mode": "min"}, "ignite": {"patience": 2}, "optuna": {"patience": 2}}.get(library, {})
    for _ in range(60):
        series = series_for_presets(rng)
        ours, theirs = preset_verdicts(library, series, required), ORIGINALS[library](series, required)
        assert [stops for stops, _ in ours] == [stops for stops, _ in theirs]


def test_a_fit_of_keras_stops_where_its_preset_does() -> None:
    """The whole of Keras, whose epochs are given their losses by a callback."""

    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["val_loss"] = series[epoch]

    for series in ([NAN, 1.0, 0.9, 0.8, 0.7, 0.6], [1 + k * 3e-8 for k in (0, -1, -2, -1, -3, -2, -4, -2)]):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a very small run
            history = model.fit(
                np.zeros((1, 1)),
                np.zeros((1, 1)),
                epochs=len(series),
                verbose=0,
                callbacks=[Losses(), keras.callbacks.EarlyStopping("val_loss", patience=2)],
            )
        index = first_stop(preset_verdicts("keras", series, {"patience": 2}))
        assert index is not None
        assert len(history.epoch) == index + 1


def test_a_trainer_of_lightning_stops_where_its_preset_does(tmp_path: Path, rng: np.random.Generator) -> None:
    """The whole of Lightning, which logs a Python float in single precision."""

    class Module(lightning.pytorch.LightningModule):
        def __init__(self, series: list[float]) -> None:
            super().__init__()
            self.layer, self.series = torch.nn.Linear(1, 1), series

        def training_step(self, batch: Any, index: int) -> Any:
            self.log("val_loss", self.series[self.current_epoch], on_step=False, on_epoch=True)
            return self.layer(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for series in ([1 + k * 3e-8 for k in (0, -1, -2, -1, -3, -2, -4, -2)], [0.3, 0.2, 0.1, 0.0, -0.1, -0.2, 0.0, 0.0]):
        callback = lightning.pytorch.callbacks.EarlyStopping("val_loss", min_delta=0.1, patience=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a very small run
            trainer = lightning.pytorch.Trainer(
                max_epochs=len(series),
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
                callbacks=[callback],
            )
            trainer.fit(Module(series), torch.utils.data.DataLoader(torch.zeros(1, 1)))
        index = first_stop(preset_verdicts("lightning", series, {"min_delta": 0.1, "patience": 2}))
        assert trainer.current_epoch == (len(series) if index is None else index + 1)


def test_a_trainer_of_transformers_stops_where_its_preset_does(tmp_path: Path) -> None:
    """The whole of its Trainer, which takes the best value after the callback has compared with it."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x: Any, labels: Any = None) -> Any:
            return {"loss": self.layer(x).square().mean(), "logits": self.layer(x)}

    for series in ([1.0, 0.95, 0.9, 0.85, 0.8, 0.2, 0.1, 0.1], [NAN, 1.0, 0.5, 0.5, 0.4, 0.0, 0.0, 0.0]):
        values = iter(series)
        chosen = {"early_stopping_patience": 2, "early_stopping_threshold": 0.125}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a very small run
            trainer = transformers.Trainer(
                Model(),
                transformers.TrainingArguments(
                    str(tmp_path),
                    max_steps=len(series),
                    per_device_train_batch_size=1,
                    eval_strategy="steps",
                    eval_steps=1,
                    save_strategy="no",
                    report_to="none",
                    use_cpu=True,
                    disable_tqdm=True,
                    metric_for_best_model="score",
                    greater_is_better=False,
                ),
                train_dataset=[{"x": torch.zeros(1), "labels": torch.zeros(1)}] * len(series),
                eval_dataset=[{"x": torch.zeros(1), "labels": torch.zeros(1)}],
                compute_metrics=lambda predictions, values=values: {"score": next(values)},
                callbacks=[transformers.EarlyStoppingCallback(**chosen)],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        index = first_stop(preset_verdicts("hf", series, {**chosen, "greater_is_better": False}))
        assert index is not None
        assert trainer.state.global_step == index + 1


def test_a_study_of_optuna_prunes_where_its_preset_stops(rng: np.random.Generator) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=optuna.pruners.PatientPruner(None, 2, min_delta=0.125))
    for _ in range(5):
        series, trial = random_series(rng), study.ask()
        found = []
        for step, value in enumerate(series):
            trial.report(value, step)
            found.append(trial.should_prune())
        ours = preset_verdicts("optuna", series, {"patience": 2, "min_delta": 0.125})
        assert [stops for stops, _ in ours] == found


# --- what they disagree on


def flat(length: int = 12) -> list[float]:
    return [1.0] * length


CASES: dict[str, tuple[list[float], int, float]] = {
    "A": ([1.0, 0.9, *[0.8] * 10], 3, 0.0),
    "B": ([1 - 0.01 * index for index in range(30)], 8, 0.05),
    "C": ([4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5], 3, 0.5),
    "D": ([1.0, 0.9, NAN, 0.8, 0.7, 0.6, 0.5], 3, 0.0),
    "E": ([1.0, 0.9, *[NAN] * 10], 3, 0.0),
    "F": ([NAN, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5], 3, 0.0),
    "G": (flat(), 1, 0.0),
    "H": (flat(), 0, 0.0),
    "I": ([1.0, 1.1, 1.2, 0.5, 0.6, 0.6, 0.6, 0.6], 2, 0.0),
}
"""Series, patience, and what a gain must exceed."""


def arguments_of(library: str, patience: int, delta: float, extra: dict[str, Any]) -> dict[str, Any]:
    """Return patience and delta by the names that ``library`` has for them, smaller being better."""
    match library:
        case "hf":
            names = {"early_stopping_patience": patience, "early_stopping_threshold": delta}
        case "ignite":
            names = {"patience": patience, "threshold": delta, "mode": "min"}
        case _:
            names = {"patience": patience, "min_delta": delta}
    return {**names, **({"mode": "min"} if library == "keras" else {}), **extra}


ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "asynchub": ("", {}),
    "asynchub, `check_finite=False`": ("", {"check_finite": False}),
    "keras": ("keras", {}),
    "lightning": ("lightning", {}),
    "hf": ("hf", {}),
    "ignite": ("ignite", {}),
    "ignite, `cumulative=True`": ("ignite", {"cumulative": True}),
    "mmengine": ("mmengine", {}),
    "mmengine, `check_finite=False`": ("mmengine", {"check_finite": False}),
    "optuna": ("optuna", {}),
}


def row_of(
    library: str, extra: dict[str, Any], verdicts: Callable[[list[float], dict[str, Any]], Verdicts]
) -> list[str]:
    cells = []
    for series, patience, delta in CASES.values():
        try:
            index = first_stop(verdicts(series, arguments_of(library, patience, delta, extra)))
            cells.append("never" if index is None else str(index))
        except ValueError:  # ArgumentError is one
            cells.append("refused")
    return cells


def table_on_the_page() -> dict[str, list[str]]:
    rows = [re.split(r" *\| *", line.strip("| ")) for line in PAGE.read_text("utf-8").splitlines() if line[:1] == "|"]
    start = next(number for number, row in enumerate(rows) if row[0] == "stops at check")
    assert [cell.split(":")[0] for cell in rows[start][1:]] == list(CASES)
    return {row[0]: row[1:] for row in rows[start + 2 : start + 2 + len(ROWS)]}


@pytest.mark.parametrize("name", ROWS)
def test_the_table_on_the_page_is_what_the_originals_and_the_presets_decide(name: str) -> None:
    library, extra = ROWS[name]

    def ours(series: list[float], arguments: dict[str, Any]) -> Verdicts:
        if library:
            return preset_verdicts(library, series, arguments)
        stopping = EarlyStopping("loss", **arguments)
        return [(stopping.check(value).value != "not_stopped", None) for value in series]

    promised = table_on_the_page()[name]
    assert row_of(library, extra, ours) == promised
    if library:
        assert row_of(library, extra, ORIGINALS[library]) == promised


# --- presets as rules


@every_library
def test_a_preset_saved_after_any_check_decides_as_if_it_had_not_been(library: str, rng: np.random.Generator) -> None:
    for _ in range(8):
        series, arguments = series_for_presets(rng), random_arguments(library, rng)
        whole = preset_verdicts(library, series, arguments)
        events = scalars("val/loss", series)
        part = EarlyStopping.like(library, "val/loss", **arguments)
        for index, event in enumerate(events):
            saved = msgpack.unpackb(msgpack.packb(part.state_dict(), strict_types=True))
            part = EarlyStopping.like(library, "val/loss", **arguments)
            part.load_state_dict(saved)
            driven = Drive(part)
            answers: list[Event] = driven.send(event)
            driven.close()
            stops = any(isinstance(answer, StopRequested) for answer in answers)
            assert shown([(stops, part.best)]) == shown([whole[index]])


def test_the_patience_of_a_preset_given_on_resume_wins() -> None:
    """Lightning's load_state_dict brings the old patience back."""
    original = lightning.pytorch.callbacks.EarlyStopping("val_loss", patience=4)
    original.load_state_dict(lightning.pytorch.callbacks.EarlyStopping("val_loss", patience=2).state_dict())
    assert original.patience == 2
    stopping = EarlyStopping.like("lightning", "val/loss", patience=2)
    drive(stopping, scalars("val/loss", [1.0, 1.0]))
    resumed = EarlyStopping.like("lightning", "val/loss", patience=4)
    resumed.load_state_dict(stopping.state_dict())
    verdicts = [one.verdict for one in drive(resumed, scalars("val/loss", flat(3))) if isinstance(one, Decided)]
    assert verdicts == ["waiting", "waiting", "stop"]


@every_library
def test_a_state_of_any_rule_is_taken_by_any_other(library: str) -> None:
    required = {"ignite": {"patience": 2}, "optuna": {"patience": 2}}
    for other in ("", *ORIGINALS):
        for series in ([NAN], [NAN, 2.0, 1.0, 3.0], []):
            old: Any = EarlyStopping("val/loss")
            if other:
                old = EarlyStopping.like(other, "val/loss", **required.get(other, {}))
            drive(old, scalars("val/loss", series))
            new = EarlyStopping.like(library, "val/loss", **required.get(library, {}))
            new.load_state_dict(old.state_dict())
            assert drive(new, scalars("val/loss", [0.5, 0.4, NAN, 0.3]))
            own = EarlyStopping("val/loss", check_finite=False)
            own.load_state_dict(new.state_dict())
            assert own.best is None or math.isfinite(own.best)


def test_a_malformed_state_of_a_preset_is_refused_and_changes_nothing() -> None:
    stopping = EarlyStopping.like("optuna", "val/loss", patience=1)
    drive(stopping, scalars("val/loss", [2.0, 1.0, 3.0]))
    before = stopping.state_dict()
    assert before["recent"] == [1.0, 3.0]
    for name, value in (("recent", ["a"]), ("recent", 3), ("before", "b"), ("best", "c")):
        with pytest.raises(StateDictError, match=name):
            stopping.load_state_dict({**before, "seen": 99, name: value})
    assert stopping.state_dict() == before


def test_a_preset_says_what_it_saw_and_why_it_stops() -> None:
    answers = drive(EarlyStopping.like("keras", "val/loss", patience=2), scalars("val/loss", [NAN, 1.0, 0.5]))
    assert [(one.verdict, one.reason) for one in answers if isinstance(one, Decided)] == [
        ("improved", "val/loss is nan, the first"),
        ("waiting", "val/loss is 1, no improvement on nan: 1 of 2 checks"),
        ("stop", "val/loss has not improved on nan of step 1 for 2 checks"),
    ]


def test_until_the_baseline_of_keras_is_beaten_it_is_what_a_value_is_compared_with() -> None:
    stopping = EarlyStopping.like("keras", "val/loss", patience=9, baseline=0.75)
    answers = drive(stopping, scalars("val/loss", [1.0, 0.9, 0.5, 0.6]))
    assert [(one.verdict, one.best, one.wait) for one in answers if isinstance(one, Decided)] == [
        ("waiting", 0.75, 1),
        ("waiting", 0.75, 2),
        ("improved", 0.75, 0),
        ("waiting", 0.5, 1),
    ]
    assert (stopping.best, stopping.best_step) == (0.5, 3)


@pytest.mark.parametrize(
    ("library", "monitor", "arguments", "text"),
    [
        ("torch", "loss", {}, "presets like 'keras', 'lightning'"),
        (None, "loss", {}, "presets like"),
        ("composer", "loss", {}, "presets like"),
        (
            "keras",
            "loss",
            {"restore_best_weights": True},
            "knows min_delta, patience, mode, baseline, start_from_epoch",
        ),
        ("keras", "val/accuracy", {}, "give mode="),
        ("keras", "loss", {"mode": "lower"}, "mode must be"),
        ("lightning", "loss", {"threshold": 1.0}, "knows min_delta, patience, mode, strict, check_finite"),
        ("lightning", "loss", {"mode": "auto"}, "mode must be"),
        ("hf", "loss", {"patience": 1}, "knows early_stopping_patience"),
        ("hf", "loss", {"early_stopping_patience": -1}, "early_stopping_patience must be"),
        ("hf", "loss", {"greater_is_better": 1}, "greater_is_better must be"),
        ("ignite", "loss", {}, "must be given patience"),
        ("ignite", "loss", {"patience": 0}, "patience must be"),
        ("ignite", "loss", {"patience": 1, "threshold": -1.0}, "threshold must be"),
        ("ignite", "loss", {"patience": 1, "threshold_mode": "both"}, "threshold_mode must be"),
        ("mmengine", "psnr", {}, "give rule="),
        ("mmengine", "loss", {"rule": "min"}, "rule must be"),
        ("optuna", "loss", {"patience": 1, "direction": "min"}, "direction must be"),
        ("optuna", "loss", {"patience": 1, "min_delta": -1.0}, "min_delta must be"),
        ("keras", "val/*", {"mode": "min"}, "one key"),
        ("keras", "loss", {"allowed_lateness": "soon"}, "allowed_lateness must be"),
        ("keras", "loss", {"restore_best": 3}, "restore_best must be"),
    ],
)
def test_what_a_preset_does_not_know_is_refused_and_what_it_knows_is_said(
    library: Any, monitor: str, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(ArgumentError, match=re.escape(text)):
        EarlyStopping.like(library, monitor, **arguments)


@every_library
def test_every_argument_of_a_preset_is_one_of_the_original(library: str) -> None:
    """Taken from the signatures, as far as they have any: HF's and optuna's direction stand elsewhere."""
    originals: dict[str, Any] = {
        "keras": keras.callbacks.EarlyStopping,
        "lightning": lightning.pytorch.callbacks.EarlyStopping,
        "hf": transformers.EarlyStoppingCallback,
        "ignite": ignite.handlers.EarlyStopping,
        "mmengine": mmengine.hooks.EarlyStoppingHook,
        "optuna": optuna.pruners.PatientPruner,
    }
    ours = inspect.signature(STOPPING_PRESETS[library]).parameters
    theirs = inspect.signature(originals[library].__init__).parameters
    for name, parameter in ours.items():
        if name not in ("monitor", "greater_is_better", "direction"):
            assert parameter.default == theirs[name].default, name


def test_the_direction_of_a_preset_goes_by_the_name_as_in_the_original() -> None:
    assert EarlyStopping.like("hf", "eval_loss").mode == "min"
    assert EarlyStopping.like("hf", "perplexity").mode == "max"
    for monitor in ("loss", "val/loss", "acc", "coco/bbox_mAP", "top1", "Accuracy/loss"):
        hook = mmengine.hooks.EarlyStoppingHook(monitor)
        assert EarlyStopping.like("mmengine", monitor).mode == ("max" if hook.rule == "greater" else "min")
    assert EarlyStopping.like("ignite", "loss", patience=1).mode == "max"
    with pytest.raises(PatternError):
        EarlyStopping.like("hf", 3)  # type: ignore[arg-type]


def test_the_old_names_of_ignite_are_known(rng: np.random.Generator) -> None:
    for _ in range(20):
        series = series_for_presets(rng)
        old = {"patience": 2, "min_delta": 0.125, "min_delta_mode": "rel", "cumulative_delta": True, "mode": "min"}
        new = {"patience": 2, "threshold": 0.125, "threshold_mode": "rel", "cumulative": True, "mode": "min"}
        assert shown(preset_verdicts("ignite", series, old)) == shown(preset_verdicts("ignite", series, new))
