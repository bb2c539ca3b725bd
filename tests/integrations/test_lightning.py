"""A real Trainer of Lightning with a hub in it: the same metrics, the same run, stopped, resumed, killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import lightning
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import asynchub
from asynchub.errors import ArgumentError, JournalError, StateError
from asynchub.events import CheckpointSaved, Event, InfoUpdated, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.integrations.lightning import STATUS_KEY, HubCallback, HubLogger
from asynchub.journal.journal import Journal
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning"),
]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch from spreading what takes microseconds over cores that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZES = (160, 80)
"""Digits to train with, and to validate with."""


def digits(first: int, count: int) -> TensorDataset:
    images, labels = load_digits(return_X_y=True)
    part = slice(first, first + count)
    return TensorDataset(torch.tensor(images[part] / 16, dtype=torch.float32), torch.tensor(labels[part]))


class Classifier(LightningModule):
    """One layer, and metrics of every kind."""

    def __init__(self, lr: float = 0.3, loaders: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(64, 10)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        images, labels = batch
        scores = self.layer(images)
        loss = torch.nn.functional.cross_entropy(scores, labels)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(labels))
        self.log("right", (scores.argmax(1) == labels).float().sum(), on_step=True, on_epoch=False)
        self.log("batch", float(index), on_epoch=False, on_step=True)
        self.log("secret", loss, logger=False)
        return loss

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        scores = self.layer(images)
        self.log("val_loss", torch.nn.functional.cross_entropy(scores, labels), on_step=True, on_epoch=True)
        self.log("val_acc", (scores.argmax(1) == labels).float().mean())

    def test_step(self, batch: Any, index: int) -> None:
        images, labels = batch
        self.log("test_loss", torch.nn.functional.cross_entropy(self.layer(images), labels))

    def on_validation_epoch_end(self) -> None:
        self.log("val_epochs", float(self.current_epoch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader(digits(0, SIZES[0]), batch_size=16)

    def val_dataloader(self) -> Any:
        made = [DataLoader(digits(SIZES[0] * (1 + n), SIZES[1]), 40) for n in range(self.hparams["loaders"])]
        return made if len(made) > 1 else made[0]

    def test_dataloader(self) -> Any:
        return DataLoader(digits(1000, 80), batch_size=40)


def model(**hparams: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**hparams)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "logger": False,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "default_root_dir": folder,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **options})


class Seen:
    """An observer that keeps all that it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


Series = dict[str, list[tuple[int | None, float]]]
"""By key, step and value of each that was published, in order."""


def series(hub: MessageHub) -> Series:
    events = hub.subscribe(ScalarUpdated, replay="all")
    events.close()

    async def read() -> Series:
        found: Series = {}
        async for event in events:
            found.setdefault(event.key, []).append((event.step, event.value))
        return found

    return anyio.run(read)


def resumable(hub: MessageHub) -> Series:
    """Return what a resumed run has in common with one that ran through.

    Of what is logged for each batch of a validation that is not the step: see
    ``test_what_lightning_does_not_save_is_lost_to_its_loggers_too``.
    """
    found = series(hub)
    return {**found, "val_loss_step": [(None, value) for _, value in found["val_loss_step"]]}


def logged(folder: Path) -> Series:
    """Return what Lightning's own logger has written."""
    found: Series = {}
    with next(folder.rglob("metrics.csv")).open() as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value and key not in ("step", "epoch"):
                    found.setdefault(key, []).append((int(row["step"]), float(value)))
    return found


def fitted(folder: Path, hub: MessageHub, *callbacks: Callback, ckpt_path: Any = None, **options: Any) -> Trainer:
    """Train with a hub."""
    journal = options.pop("journal", None)
    hparams = options.pop("hparams", {})
    module = options.pop("module", None) or model(**hparams)
    run = trainer(folder, HubCallback(hub, journal=journal), *callbacks, **options)
    run.fit(module, ckpt_path=ckpt_path)
    return run


# --- metrics


KINDS: list[dict[str, Any]] = [
    {},
    {"accumulate_grad_batches": 3},
    {"val_check_interval": 0.25, "max_epochs": 1},
    {"check_val_every_n_epoch": None, "val_check_interval": 7},
    {"hparams": {"loaders": 2}},
    {"max_steps": 13, "max_epochs": None, "limit_val_batches": 0},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_hub_gets_what_lightnings_own_logger_gets(tmp_path: Path, kind: dict[str, Any]) -> None:
    hparams = kind.get("hparams", {})
    options = {name: value for name, value in kind.items() if name != "hparams"}
    trainer(tmp_path, logger=CSVLogger(tmp_path / "alone"), **options).fit(model(**hparams))
    alone = logged(tmp_path / "alone")
    assert {"loss_step", "right", "loss_epoch"} <= alone.keys()
    assert ("val_loss_epoch" in alone or "val_loss_epoch/dataloader_idx_1" in alone) is ("max_steps" not in kind)
    hub = MessageHub("with the logger")
    fitted(tmp_path, hub, logger=[CSVLogger(tmp_path / "both"), HubLogger(hub)], **kind)
    assert logged(tmp_path / "both") == alone
    assert series(hub) == alone
    hub = MessageHub("without a logger")
    fitted(tmp_path, hub, **kind)
    assert series(hub) == alone
    assert hub.step == (alone["right"][-1][0] or 0) + 1


@pytest.mark.parametrize("every", [3, 50])
def test_with_the_logger_the_hub_gets_what_is_due(tmp_path: Path, every: int) -> None:
    hub = MessageHub("due")
    fitted(tmp_path, hub, logger=[CSVLogger(tmp_path), HubLogger(hub)], log_every_n_steps=every)
    assert series(hub) == logged(tmp_path)
    assert len(series(hub).get("right", ())) == 20 // every


def test_a_prefix_stands_before_each_key(tmp_path: Path) -> None:
    hub = MessageHub("prefixed")
    fitted(tmp_path, hub, logger=[CSVLogger(tmp_path), HubLogger(hub, "run/")])
    assert series(hub) == {f"run/{key}": values for key, values in logged(tmp_path).items()}
    assert "run/hparams" in hub.runtime_info


def test_the_logger_alone_publishes_as_any_logger(tmp_path: Path) -> None:
    hub = MessageHub("alone")
    trainer(tmp_path, logger=[CSVLogger(tmp_path), HubLogger(hub)]).fit(model())
    assert series(hub) == logged(tmp_path)
    assert hub.get_info("epoch") == 1
    assert hub.get_info("hparams") == {"lr": 0.3, "loaders": 1}
    assert hub.get_info(STATUS_KEY) == "success"


def test_what_a_module_logs_as_an_epoch_or_a_step_ends_is_published_once(tmp_path: Path) -> None:
    class Late(Classifier):
        def on_train_batch_end(self, *args: Any) -> None:
            self.log("late", 1.0, on_step=True, on_epoch=False)
            self.logger.log_metrics({"by_hand": 2.0}, step=self.trainer.global_step)

        def on_train_epoch_end(self) -> None:
            self.log("later", 2.0)
            self.log("step", 7.0)  # which Lightning takes for the step

    hub = MessageHub("late")
    loggers = [HubLogger(hub), CSVLogger(tmp_path)]
    fitted(tmp_path, hub, logger=loggers, module=Late(), max_epochs=1)
    found, wanted = series(hub), logged(tmp_path)
    assert found.pop("by_hand") == [(step, 2.0) for step in range(1, 11)]  # the first logger is the one asked by hand
    assert found.pop("loss_epoch")[0][0] == 9  # published before the module names another step
    assert wanted.pop("loss_epoch")[0][0] == 7
    assert found == wanted


def test_epochs_and_hyperparameters_are_runtime_infos(tmp_path: Path) -> None:
    hub, seen = MessageHub("infos"), Seen()
    hub.attach(seen)
    fitted(tmp_path, hub, max_epochs=3)
    infos = [(event.key, event.value) for event in seen.of(InfoUpdated)]
    assert [value for key, value in infos if key == "epoch"] == [0, 1, 2]
    assert dict(infos)["max_epochs"] == 3
    assert dict(infos)["hparams"] == {"lr": 0.3, "loaders": 1}
    assert infos[-1] == (STATUS_KEY, "success")


def test_the_sanity_check_is_not_published(tmp_path: Path) -> None:
    hub = MessageHub("sanity")
    fitted(tmp_path, hub, num_sanity_val_steps=2, limit_train_batches=1, max_epochs=1)
    assert [step for step, _ in series(hub)["val_loss_epoch"]] == [0]


# --- reading


class Reads(TorchDispatchMode):  # type: ignore[misc]  # torch gives it no types
    """Counts the reads of a tensor as a number, which wait when it is on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            frame: Any = sys._getframe(1)
            while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] not in (
                "asynchub",
                "lightning",
            ):
                frame = frame.f_back
            self.by["another" if frame is None else frame.f_globals["__name__"].split(".")[0]] += 1
        return function(*args, **(kwargs or {}))


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def reads(folder: Path, *callbacks: Callback, **options: Any) -> Counter[str]:
    run, module = trainer(folder, *callbacks, **options), model()
    with Reads() as counted:
        run.fit(module)
    return counted.by


def test_no_tensor_is_read_that_lightning_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, kept = MessageHub.update_scalars, Counter[str]()

    def keep(hub: MessageHub, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        kept.update(key for key, value in metrics.items() if isinstance(value, torch.Tensor))
        plain = {key: 0.0 if isinstance(value, torch.Tensor) else value for key, value in metrics.items()}
        update(hub, plain, *args, **kwargs)

    monkeypatch.setattr(MessageHub, "update_scalars", keep)  # the hub itself reads what is on the CPU
    nothing = reads(tmp_path)
    assert reads(tmp_path, HubCallback(MessageHub("tensors"))) == nothing
    assert kept["loss_step"] == kept["right"] == 20
    assert kept["val_loss_epoch"] == kept["loss_epoch"] == 2
    their_logger = reads(tmp_path, logger=CSVLogger(tmp_path))
    hub = MessageHub("logger")
    assert reads(tmp_path, HubCallback(hub), logger=HubLogger(hub)) == their_logger
    assert their_logger["lightning"] >= nothing["lightning"] + 60


# --- control


def test_a_rule_stops_at_the_epoch_at_which_lightnings_own_does(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EarlyStopping as Theirs

    alone = trainer(tmp_path, Theirs("val_acc", mode="max", patience=2), max_epochs=15)
    alone.fit(model())
    hub = MessageHub("early")
    hub.attach(EarlyStopping("val_acc", mode="max", patience=2))
    ours = fitted(tmp_path, hub, max_epochs=15)
    assert ours.current_epoch == alone.current_epoch < 40
    assert ours.global_step == alone.global_step
    assert "val_acc" in hub.stop_reason


@pytest.mark.parametrize("with_logger", [False, True])
@pytest.mark.parametrize("settle_every", [1, 4])
def test_a_stop_ends_training_at_the_settle_point(tmp_path: Path, with_logger: bool, settle_every: int) -> None:
    hub = MessageHub("stop")

    @hub.on("loss_step", role="control")
    def decide(event: ScalarUpdated) -> None:
        if event.step == 5:
            hub.request_stop("seen")

    run = trainer(
        tmp_path, HubCallback(hub, settle_every=settle_every), logger=HubLogger(hub) if with_logger else False
    )
    run.fit(model())
    assert run.global_step == {1: 6, 4: 8}[settle_every]
    assert [step for step, _ in series(hub)["val_loss_epoch"]] == [run.global_step - 1]  # it validates once more


def test_a_stop_waits_for_min_epochs(tmp_path: Path) -> None:
    hub = MessageHub("patient")
    hub.request_stop("at once")
    assert fitted(tmp_path, hub, min_epochs=2, max_epochs=9).current_epoch == 2


def test_a_learning_rate_that_is_asked_for_is_set_and_a_wrong_one_refused(tmp_path: Path) -> None:
    hub, seen, rates = MessageHub("lr"), Seen(), []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            if index == 3:
                hub.request(ParameterChangeRequested(name="lr", value=0.125, reason="smaller"))
                hub.request(ParameterChangeRequested(name="rate", value=0.5))

    hub.attach(seen, RequestApplied, RequestRefused)
    fitted(tmp_path, hub, Rates(), max_epochs=1)
    assert rates == [0.3] * 4 + [0.125] * 6
    assert [event.reason for event in seen.of(RequestApplied)] == ["smaller"]
    assert "it has" in seen.of(RequestRefused)[0].error


def test_a_rule_may_set_the_learning_rate_itself(tmp_path: Path) -> None:
    hub = MessageHub("plateau")

    class Planned(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            hub.attach(ReduceLROnPlateau(optimizer, "val_loss_epoch", patience=0, mode="max", factor=0.5))
            return optimizer

    run = fitted(tmp_path, hub, module=Planned(), max_epochs=4)
    assert run.optimizers[0].param_groups[0]["lr"] == 0.3 * 0.5**3


def test_the_schedule_goes_on_from_a_learning_rate_that_was_set(tmp_path: Path) -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Rates(Callback):
        def __init__(self, hub: MessageHub | None) -> None:
            self.rates, self.hub = [], hub

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            if index == 3 and self.hub is not None:
                self.hub.request(ParameterChangeRequested(name="lr", value=0.03))

    hub, plain = MessageHub("scheduled"), Rates(None)
    trainer(tmp_path, plain, max_epochs=1).fit(Scheduled())
    changed = Rates(hub)
    fitted(tmp_path, hub, changed, module=Scheduled(), max_epochs=1)
    factor = 0.03 / plain.rates[4]
    assert changed.rates == pytest.approx([*plain.rates[:4], *(rate * factor for rate in plain.rates[4:])])


def test_a_checkpoint_that_is_asked_for_is_written_and_can_be_resumed(tmp_path: Path) -> None:
    hub, seen = MessageHub("asked"), Seen()
    hub.attach(seen, CheckpointSaved)

    @hub.on("val_loss_epoch", role="control")
    def decide(event: ScalarUpdated) -> None:
        if event.step == 9:
            hub.request(CheckpointRequested(reason="good"))

    fitted(tmp_path, hub)
    (saved,) = seen.of(CheckpointSaved)
    assert (saved.path, saved.reason) == (str(tmp_path / "requested" / "step=10.ckpt"), "good")
    assert saved.seconds > 0
    back = MessageHub("asked")
    fitted(tmp_path, back, ckpt_path=saved.path)
    whole = resumable(hub)
    del whole["loss_epoch"][0]  # see test_what_lightning_does_not_save_is_lost_to_its_loggers_too
    assert resumable(back) == whole


# --- resuming


class Dies(Callback):
    """Ends the process as ``kill -9`` does, or training by an error."""

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self.step:
            if self.error is not None:
                raise self.error
            signal.raise_signal(signal.SIGKILL)


def each_epoch(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True, **options)


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_a_resumed_run_is_the_run(tmp_path: Path, weights_only: bool | None) -> None:
    whole, first, second = (MessageHub("run") for _ in range(3))
    for hub in (whole, first, second):
        hub.attach(EarlyStopping("val_loss_epoch", patience=3, mode="max"))
    run = fitted(tmp_path, whole, max_epochs=6)
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, first, each_epoch(tmp_path), Dies(25, ZeroDivisionError()), max_epochs=6)
    resumed = trainer(tmp_path, HubCallback(second), max_epochs=6)
    resumed.fit(model(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=weights_only)
    assert resumable(second) == resumable(whole)
    assert second.stop_reason == whole.stop_reason != ""
    assert resumed.global_step == run.global_step == 40
    assert second.run_id == first.run_id


def test_a_run_that_was_stopped_and_resumed_stays_stopped(tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.attach(EarlyStopping("val_loss_epoch", patience=1, mode="max"))
    run = fitted(tmp_path, hub, max_epochs=6)
    run.save_checkpoint(tmp_path / "after.ckpt")
    assert run.current_epoch == 2
    back = MessageHub("run")
    assert fitted(tmp_path, back, ckpt_path=tmp_path / "after.ckpt", max_epochs=6).global_step == 20
    assert back.stop_reason == hub.stop_reason
    again = MessageHub("run")

    class Withdrawn(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            again.stop_requested = False

    trained = trainer(tmp_path, Withdrawn(), HubCallback(again), max_epochs=6)
    trained.fit(model(), ckpt_path=tmp_path / "after.ckpt")
    assert trained.global_step == 60


def test_what_a_validation_came_to_is_in_the_checkpoint_of_it(tmp_path: Path) -> None:
    hub = MessageHub("order")
    hub.attach(EarlyStopping("val_loss_epoch", patience=9, mode="max"), name="rule")
    saver = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss_epoch", save_top_k=-1)
    fitted(tmp_path, hub, saver, max_epochs=3)
    for epoch in range(3):
        held = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        back = MessageHub("order")
        rule = EarlyStopping("val_loss_epoch", patience=9, mode="max")
        back.attach(rule, name="rule")
        callback = HubCallback(back)
        callback._fits = True
        callback.load_state_dict(held["callbacks"]["asynchub.HubCallback(order)"])
        assert series(back)["val_loss_epoch"] == series(hub)["val_loss_epoch"][: epoch + 1]
        assert rule.state_dict()["wait"] == epoch
        assert back.step == 10 * (epoch + 1)


def test_what_lightning_does_not_save_is_lost_to_its_loggers_too(tmp_path: Path) -> None:
    """Lightning 2.6.6: no means of the epoch that a validation's checkpoint is in; batches of validations from 0 on."""
    assert lightning.__version__ == "2.6.6"
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    trainer(tmp_path, saver, logger=CSVLogger(tmp_path / "whole")).fit(model())
    whole = logged(tmp_path / "whole")
    assert [step for step, _ in whole["loss_epoch"]] == [9, 19]
    assert [step for step, _ in whole["val_loss_step"]] == [0, 1, 2, 3]
    trainer(tmp_path, logger=CSVLogger(tmp_path / "rest")).fit(model(), ckpt_path=tmp_path / "epoch=0.ckpt")
    rest = logged(tmp_path / "rest")
    assert [step for step, _ in rest["loss_epoch"]] == [19]
    assert [step for step, _ in rest["val_loss_step"]] == [0, 1]


KILLED = """
import sys
from pathlib import Path
import torch
from tests.integrations.test_lightning import Dies, HubCallback, HubLogger, Journal, MessageHub, each_epoch, model
from tests.integrations.test_lightning import trainer

torch.set_num_threads(1)
folder, step, with_logger = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
hub = MessageHub("run")
callback = HubCallback(hub, journal=Journal(folder / "journal"))
trainer(
    folder, callback, each_epoch(folder), Dies(step), max_epochs=4, logger=HubLogger(hub) if with_logger else False
).fit(model())
"""


@pytest.mark.parametrize("with_logger", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_killed_and_resumed_has_the_series_of_one_that_was_not(tmp_path: Path, with_logger: bool) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), "26", str(int(with_logger))]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole, hub, seen = MessageHub("whole"), MessageHub("run"), Seen()
    fitted(tmp_path / "whole", whole, max_epochs=4)
    hub.attach(seen)
    fitted(
        tmp_path,
        hub,
        each_epoch(tmp_path),
        max_epochs=4,
        ckpt_path=tmp_path / "epoch=1.ckpt",
        journal=Journal(tmp_path / "journal"),
        logger=HubLogger(hub) if with_logger else False,
    )
    assert resumable(hub) == resumable(whole)
    assert len(seen.of(Rewound)) == 1
    assert [event.step for event in seen.of(ScalarUpdated) if event.key == "right"] == list(range(20, 40))
    assert series(asynchub.recover(tmp_path)) == series(hub)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 calls it
def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_run_if_its_data_loader_is(tmp_path: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    class Resumable(Classifier):
        def train_dataloader(self) -> Any:
            return stateful(digits(0, SIZES[0]), batch_size=16)

    def module() -> Classifier:
        torch.manual_seed(0)
        return Resumable()

    whole, first, second = (MessageHub("run") for _ in range(3))
    fitted(tmp_path, whole, module=module())
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, first, saver, Dies(7, ZeroDivisionError()), module=module())
    fitted(tmp_path, second, module=module(), ckpt_path=tmp_path / "step=4.ckpt")
    found, wanted = resumable(second), resumable(whole)
    assert found.pop("loss_epoch")[1:] == wanted.pop("loss_epoch")[1:]  # the first is over part of the epoch
    assert found == wanted


def test_a_journal_of_another_run_and_a_damaged_state_are_refused(tmp_path: Path) -> None:
    fitted(tmp_path, MessageHub("first"), max_epochs=1, journal=Journal(tmp_path / "journal"))
    hub = MessageHub("second")
    with pytest.raises(JournalError, match="journal of run"):
        fitted(tmp_path, hub, max_epochs=1, journal=Journal(tmp_path / "journal"))
    assert not hub.entered
    run = trainer(tmp_path, HubCallback(hub), max_epochs=1)
    run.fit(model())
    run.save_checkpoint(tmp_path / "damaged.ckpt")
    held = torch.load(tmp_path / "damaged.ckpt", weights_only=True)
    held["callbacks"]["asynchub.HubCallback(second)"]["hub"] = b"something else"
    torch.save(held, tmp_path / "damaged.ckpt")
    with pytest.raises(StateError):
        fitted(tmp_path, MessageHub("second"), ckpt_path=tmp_path / "damaged.ckpt")


# --- however it ends


def test_an_error_in_training_leaves_the_hub_and_is_raised(tmp_path: Path) -> None:
    hub, seen = MessageHub("error"), Seen()
    hub.attach(seen)
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, hub, Dies(3, ZeroDivisionError()), journal=Journal(tmp_path / "journal"))
    assert not hub.entered
    assert [event.step for event in seen.of(ScalarUpdated) if event.key == "right"] == [0, 1, 2]
    assert hub.get_info(STATUS_KEY) == "failed"


def test_an_interrupt_leaves_the_hub(tmp_path: Path) -> None:
    hub, handler = MessageHub("interrupted"), signal.getsignal(signal.SIGINT)
    saver = ModelCheckpoint(tmp_path, "held", save_on_exception=True)
    try:
        with pytest.raises(SystemExit):  # which is what Lightning makes of it
            fitted(tmp_path, hub, saver, Dies(3, KeyboardInterrupt()))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not hub.entered
    back = MessageHub("interrupted")
    assert next(tmp_path.glob("*.ckpt"))
    fitted(tmp_path, back, ckpt_path=next(tmp_path.glob("*.ckpt")), limit_train_batches=3, max_epochs=1)
    assert back.run_id == hub.run_id


def test_fitting_twice_goes_on_with_hub_and_journal(tmp_path: Path) -> None:
    hub, seen = MessageHub("twice"), Seen()
    hub.attach(seen, "right")
    run = trainer(tmp_path, HubCallback(hub, journal=Journal(tmp_path / "journal")), max_epochs=1)
    run.fit(model())
    run.fit_loop.max_epochs = 2
    run.fit(model())
    assert [event.step for event in seen.events] == list(range(20))
    assert hub.step == 20
    assert series(asynchub.recover(tmp_path)) == series(hub)


def test_a_hub_that_the_program_entered_stays_entered(tmp_path: Path) -> None:
    hub = MessageHub("mine")
    with hub:
        fitted(tmp_path, hub, max_epochs=1)
        assert hub.entered
    assert len(series(hub)["right"]) == 10


@pytest.mark.parametrize("with_logger", [False, True])
def test_a_validation_and_a_test_by_themselves_are_published(tmp_path: Path, with_logger: bool) -> None:
    hub, seen = MessageHub("alone"), Seen()
    hub.attach(seen, ScalarUpdated)
    run = trainer(tmp_path, HubCallback(hub), logger=HubLogger(hub) if with_logger else False)
    (validated,) = run.validate(model(), verbose=False)
    assert not hub.entered
    (tested,) = run.test(model(), verbose=False)
    assert not hub.entered
    found = {event.key: event.value for event in seen.events}
    assert {key: found[key] for key in validated} == validated
    assert {key: found[key] for key in tested} == tested
    assert Counter(event.key for event in seen.events)["val_loss_epoch"] == 1
    assert not hub.stop_requested


def test_testing_an_older_checkpoint_does_not_bring_the_hub_back_to_it(tmp_path: Path) -> None:
    hub, seen = MessageHub("best"), Seen()
    hub.attach(seen, "test_loss")
    run = fitted(tmp_path, hub, each_epoch(tmp_path), journal=Journal(tmp_path / "journal"))
    before = series(hub)
    run.test(model(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert len(seen.events) == 1
    assert {key: values for key, values in series(hub).items() if key != "test_loss"} == before
    assert hub.step == 20
    assert len(series(asynchub.recover(tmp_path))["test_loss"]) == 1  # the journal went on


def test_checkpoints_of_lightnings_own_are_told(tmp_path: Path) -> None:
    hub, seen = MessageHub("told"), Seen()
    hub.attach(seen, CheckpointSaved)
    fitted(tmp_path, hub, ModelCheckpoint(tmp_path, "{epoch}", "val_acc", save_top_k=-1), logger=HubLogger(hub))
    assert [Path(event.path).name for event in seen.events] == ["epoch=0.ckpt", "epoch=1.ckpt"]
    accuracies = [value for _, value in series(hub)["val_acc"]]
    assert [event.value for event in seen.of(CheckpointSaved)] == accuracies


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    hub = MessageHub("refused")
    for wrong in (None, "hub", HubLogger):
        with pytest.raises(ArgumentError, match="hub must be"):
            HubLogger(wrong)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="hub must be"):
            HubCallback(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="prefix must be"):
        HubLogger(hub, None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="journal must be a Journal"):
        HubCallback(hub, journal=tmp_path / "journal")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="checkpoints must be"):
        HubCallback(hub, checkpoints=3)  # type: ignore[arg-type]
    for every in (0, -1, 1.5, True, "1"):
        with pytest.raises(ArgumentError, match="settle_every"):
            HubCallback(hub, settle_every=every)  # type: ignore[arg-type]


# --- several processes


RANKS = """
import os
import sys
from pathlib import Path

import torch
from tests.integrations.test_lightning import *

torch.set_num_threads(1)
folder = Path(sys.argv[1])
hub = MessageHub("ranks")


class Planned(Classifier):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        hub.attach(ReduceLROnPlateau(optimizer, "val_loss_epoch", patience=0, mode="max", factor=0.5))
        return optimizer


class Watches(Callback):
    def __init__(self):
        self.lines = []

    def on_train_batch_start(self, trainer, pl_module, batch, index):
        self.lines.append(f"{trainer.global_step} {trainer.optimizers[0].param_groups[0]['lr']}")
        if trainer.is_global_zero and trainer.global_step == 6:
            hub.request(ParameterChangeRequested(name="momentum", value=0.5))
            hub.request(CheckpointRequested())
        if trainer.is_global_zero and trainer.global_step == 17:
            hub.request_stop("enough")

    def on_train_end(self, trainer, pl_module):
        self.lines.append(f"momentum {trainer.optimizers[0].param_groups[0]['momentum']}")
        self.lines.append(f"published {len(hub.log_scalars)} {hub.entered}")
        (folder / f"rank{trainer.global_rank}.txt").write_text("\\n".join(self.lines))


torch.manual_seed(0)
run = trainer(
    folder, Watches(), HubCallback(hub, journal=Journal(folder / "journal"), settle_every=int(sys.argv[2])),
    devices=2, strategy="ddp", max_epochs=9, logger=[CSVLogger(folder), HubLogger(hub)],
)
run.fit(Planned())
if run.is_global_zero:
    assert series(hub) == logged(folder), (series(hub), logged(folder))
torch.distributed.barrier()
sys.stdout.flush()
os._exit(0)  # gloo's threads may abort a process that ends while the other one still has them
"""


@pytest.mark.slow
@pytest.mark.parametrize("settle_every", [1, 3])
def test_all_ranks_do_what_was_decided_on_rank_zero(tmp_path: Path, settle_every: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(settle_every)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    zero, one = ((tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert zero[:-1] == one[:-1]
    assert len(zero) == {1: 18, 3: 18}[settle_every] + 2
    assert zero[:1] == ["0 0.3"]
    assert len({line.split()[1] for line in zero[:-2]}) > 1  # a rule has set the learning rate
    assert zero[-2] == "momentum 0.5"
    assert zero[-1].endswith("True")
    assert one[-1] == "published 0 False"
    assert len(list((tmp_path / "requested").glob("*.ckpt"))) == 1
