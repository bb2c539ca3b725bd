"""Every subscriber of this package keeps the contract that ``asynchub.contract`` puts to anybody's."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import anyio
import msgpack
import pytest

from asynchub.contract import SubscriberContract
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.specimens import every_kind_of_event, run_for
from asynchub.testing import drive, observed

PACKAGE = "asynchub.subscribers"


class Maker(NamedTuple):
    """How a subscriber of this package is made.

    Attributes:
        module: the file it is in.
        make: given the class and a folder, returns one.
        resumed: given the class, a folder and an earlier one, returns the one that takes over; None: as the first.
        slow: whether it begins too slowly for the whole suite to run each time.
    """

    module: str
    make: Callable[[Any, Path], Any]
    resumed: Callable[[Any, Path, Any], Any] | None = None
    slow: bool = False


def an_optimizer(lr: float = 0.1) -> Any:
    torch = pytest.importorskip("torch")
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def plateau(kind: Any, folder: Path, lr: float = 0.1) -> Any:
    optimizer = an_optimizer(lr)
    rule = kind(optimizer, "val/acc", patience=2)
    rule.optimizer = optimizer  # for the one that takes over
    return rule


def plateau_resumed(kind: Any, folder: Path, earlier: Any) -> Any:
    return plateau(kind, folder, earlier.optimizer.param_groups[0]["lr"])


def scheduler_step(kind: Any, folder: Path, lr: float = 0.1) -> Any:
    optimizer = an_optimizer()
    scheduler = importlib.import_module("torch").optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()  # or torch warns that it was not
    optimizer.param_groups[0]["lr"] = lr
    rule = kind(scheduler)
    rule.optimizer = optimizer
    return rule


def scheduler_step_resumed(kind: Any, folder: Path, earlier: Any) -> Any:
    return scheduler_step(kind, folder, earlier.optimizer.param_groups[0]["lr"])


def batch_size(kind: Any, folder: Path, size: int = 32) -> Any:
    return kind(SimpleNamespace(batch_size=size), {0: 32, 3: 64, 6: 128})


def optuna_pruning(kind: Any, folder: Path) -> Any:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return kind(optuna.create_study().ask(), "val/loss")


def trial_rule(kind: Any, folder: Path, **arguments: Any) -> Any:
    group = importlib.import_module(f"{PACKAGE}.trial_group").TrialGroup()
    return kind(group, "val/loss", **arguments)


def rich_progress(kind: Any, folder: Path) -> Any:
    console = importlib.import_module("rich.console").Console(file=io.StringIO(), force_terminal=True, width=80)
    return kind(console=console)


MAKERS = {
    "ASHA": Maker("trials", lambda kind, folder: trial_rule(kind, folder, max_t=100)),
    "AutoClip": Maker("clipping", lambda kind, folder: kind()),
    "BatchSizeScheduler": Maker("batch_size", batch_size, lambda kind, folder, old: batch_size(kind, folder, old.size)),
    "CheckpointPolicy": Maker("checkpoint_policy", lambda kind, folder: kind(lambda context: None, every="1ep")),
    "ConsoleLogger": Maker("console", lambda kind, folder: kind(file=io.StringIO())),
    "CsvLogger": Maker("csv", lambda kind, folder: kind(folder / "metrics.csv")),
    "DeviceStatsMonitor": Maker("device_stats", lambda kind, folder: kind()),
    "EarlyStopping": Maker("early_stopping", lambda kind, folder: kind("val/acc", patience=2, check_finite=False)),
    "GradNoiseScale": Maker("noise_scale", lambda kind, folder: kind(8, 64)),
    "HubMonitor": Maker("hub_monitor", lambda kind, folder: kind(MessageHub("watched"))),
    "JsonlLogger": Maker("jsonl", lambda kind, folder: kind(folder / "metrics.jsonl")),
    "LearningRateMonitor": Maker("learning_rate", lambda kind, folder: kind(an_optimizer())),
    "MLflowLogger": Maker(
        "mlflow", lambda kind, folder: kind(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}"), slow=True
    ),
    "MatplotlibPlot": Maker("plot", lambda kind, folder: kind(folder / "run.png"), slow=True),
    "MaxSteps": Maker("limits", lambda kind, folder: kind(24)),
    "MedianStopping": Maker("trials", lambda kind, folder: trial_rule(kind, folder)),
    "NanGuard": Maker("nan_guard", lambda kind, folder: kind("train/**", action="skip")),
    "OTelMetrics": Maker("otel", lambda kind, folder: kind()),
    "OptunaPruning": Maker("optuna", optuna_pruning),
    "PrometheusExporter": Maker("prometheus", lambda kind, folder: kind()),
    "ReduceLROnPlateau": Maker("plateau", plateau, plateau_resumed),
    "RemoteControl": Maker("remote_control", lambda kind, folder: kind(folder, allow=("stop", "pause"))),
    "RichProgress": Maker("rich_progress", rich_progress),
    "SQLiteLogger": Maker("sqlite", lambda kind, folder: kind(folder / "run.sqlite")),
    "SchedulerStep": Maker("scheduler_step", scheduler_step, scheduler_step_resumed),
    "SpikeDetection": Maker("spikes", lambda kind, folder: kind("train/loss", finite_only=False)),
    "StepTimeMonitor": Maker("monitors", lambda kind, folder: kind(5)),
    "StopOnFile": Maker("stop_on", lambda kind, folder: kind(folder / "stop", every=60)),
    "StopOnSignal": Maker("stop_on", lambda kind, folder: kind("SIGUSR1")),
    "TensorBoardLogger": Maker("tensorboard", lambda kind, folder: kind(folder / "tensorboard")),
    "ThroughputMonitor": Maker("monitors", lambda kind, folder: kind(5)),
    "Timer": Maker("limits", lambda kind, folder: kind(15.0)),
    "TqdmProgress": Maker("tqdm_progress", lambda kind, folder: kind(file=io.StringIO())),
    "TrackioLogger": Maker("trackio", lambda kind, folder: kind("contract", dir=folder), slow=True),
    "WandbLike": Maker("wandb_like", lambda kind, folder: kind(lambda values, step: None)),
    "WandbLogger": Maker("wandb", lambda kind, folder: kind(mode="offline", dir=folder), slow=True),
    "ZClip": Maker("clipping", lambda kind, folder: kind()),
}


class BuiltIn(SubscriberContract):
    """What the subscribers of this package promise beyond the contract: states of plain msgpack."""

    name = ""

    def kind(self) -> Any:
        module = pytest.importorskip(f"{PACKAGE}.{MAKERS[self.name].module}", exc_type=ImportError)
        return getattr(module, self.name)

    def make(self, folder: Path) -> Any:
        return MAKERS[self.name].make(self.kind(), folder)

    def resumed(self, folder: Path, earlier: Any) -> Any:
        resumed = MAKERS[self.name].resumed
        return self.make(folder) if resumed is None else resumed(self.kind(), folder, earlier)

    def test_its_state_is_builtins_that_any_msgpack_can_read(self, tmp_path: Path) -> None:
        subscriber = self.make(tmp_path)
        if not hasattr(subscriber, "state_dict"):
            pytest.skip("it has no state")

        def go(subscriber: Any, events: list[Event]) -> None:
            if subscriber.role == "control":
                drive(subscriber, events)
            else:
                anyio.run(lambda: observed(subscriber, events))

        for events in ([], every_kind_of_event(), run_for(subscriber)):
            go(subscriber, events)
            state = subscriber.state_dict()
            packed = msgpack.packb(state, strict_types=True)
            assert msgpack.packb(msgpack.unpackb(packed, strict_map_key=False), strict_types=True) == packed

    def test_it_says_its_role(self, tmp_path: Path) -> None:
        assert self.kind().role in ("control", "observer")


def _contract_of(name: str) -> type[BuiltIn]:
    marks = [pytest.mark.slow] if MAKERS[name].slow else []
    return type(f"Test{name}", (BuiltIn,), {"name": name, "pytestmark": marks})


globals().update({f"Test{name}": _contract_of(name) for name in MAKERS})


@pytest.mark.parametrize("name", [name for name, maker in MAKERS.items() if maker.slow])
def test_one_that_begins_slowly_lives_on_a_hub_all_the_same(name: str, tmp_path: Path) -> None:
    """The rest of its contract is for ``-m slow``."""
    _contract_of(name)().test_it_lives_on_a_hub_that_is_entered_saved_and_entered_again(tmp_path)
