"""A real runner of mmengine with our hub in the place of mmengine's: the same run, value by value."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import mmengine.logging
import mmengine.optim
import mmengine.runner
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import HistoryBuffer as TheirHistory
from mmengine.logging import MessageHub as TheirHub
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset

from asynchub.errors import ArgumentError, LifecycleError
from asynchub.events import Event, ScalarUpdated
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.integrations.mmengine import HubHook, install
from asynchub.subscribers.early_stopping import EarlyStopping

ROOT = Path(__file__).parent.parent.parent
TIMES = re.compile(r"(^|/)(time|data_time|memory|eta)$")
EPOCHS = 4


class Digits(Dataset[dict[str, Any]]):
    """Every ninth of the digits, from ``first`` on."""

    metainfo = {"classes": tuple("0123456789")}  # noqa: RUF012  # mmengine looks for it here

    def __init__(self, first: int) -> None:
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images[first::9] / 16, dtype=torch.float32)
        self.labels = torch.tensor(labels[first::9])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.images[index], "labels": self.labels[index]}


class Classifier(BaseModel):  # type: ignore[misc]
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = "tensor") -> Any:
        scores = self.layer(inputs)
        if mode == "loss":
            loss = nn.functional.cross_entropy(scores, labels)
            right = (scores.argmax(1) == labels).float().sum()
            return {"loss": loss, "right": right}
        return [{"guess": guess, "label": label} for guess, label in zip(scores.argmax(1), labels, strict=True)]


class Accuracy(BaseMetric):  # type: ignore[misc]
    """The accuracy, a count, and something that is no scalar."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [(int(one["guess"]), int(one["label"])) for one in data_samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        guesses, labels = np.array(results).T
        right = guesses == labels
        return {"accuracy": right.mean(), "seen": len(results), "per_digit": np.bincount(labels[right], minlength=10)}


def runner(
    folder: Path, hooks: Sequence[Hook] = (), epochs: int = EPOCHS, save_best: str | None = "accuracy", **options: Any
) -> Runner:
    torch.manual_seed(0)

    def loader(first: int) -> dict[str, Any]:
        sampler = {"type": "DefaultSampler", "shuffle": first == 0}
        collate = {"type": "default_collate"}
        return {"dataset": Digits(first), "sampler": sampler, "collate_fn": collate, "batch_size": 50, "num_workers": 0}

    return Runner(
        model=Classifier(),
        work_dir=str(folder),
        train_dataloader=loader(0),
        val_dataloader=loader(1),
        val_evaluator=[Accuracy()],
        train_cfg={"by_epoch": True, "max_epochs": epochs, "val_interval": 1},
        val_cfg={},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.5, "momentum": 0.9}, "clip_grad": {"max_norm": 5.0}},
        param_scheduler={"type": "StepLR", "step_size": 2, "gamma": 0.5, "by_epoch": True},
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": 2},
            "checkpoint": {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 3, "save_best": save_best},
        },
        custom_hooks=list(hooks),
        log_processor={
            "window_size": 3,
            "custom_cfg": [
                {"data_src": "loss", "method_name": "max", "window_size": "epoch", "log_name": "worst"},
                {"data_src": "right", "method_name": "mean", "window_size": "global", "log_name": "mean_right"},
            ],
        },
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
        experiment_name=f"digits-{uuid4().hex}",
        randomness={"seed": 3},
        cfg={"note": "digits"},
        **options,
    )


@pytest.fixture(autouse=True)
def _closed_logs() -> Iterator[None]:
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in logger.handlers:
            handler.close()


def values_on_disk(folder: Path) -> list[dict[str, Any]]:
    """Return what mmengine's backend wrote, without times."""
    files = sorted(folder.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if not TIMES.search(key)} for line in lines]


def log_lines(folder: Path) -> list[str]:
    """Return what mmengine's logger wrote while it ran, without times."""
    text = "\n".join(file.read_text() for file in sorted(folder.glob("*/*.log")))
    lines = [line.split(" - INFO - ")[-1] for line in text.splitlines() if re.search(r"Epoch\((train|val)\)", line)]
    return [re.sub(r"(eta|time|data_time): [\d:.]+ *", "", line) for line in lines]


def record(hub: Any) -> dict[str, Any]:
    """Return the histories of a hub as lists with their dtypes, and its info; without times, names and places."""
    scalars = {
        key: [(part.dtype.str, part.tolist()) for part in history.data]
        for key, history in hub.log_scalars.items()
        if not TIMES.search(key)
    }
    unlike = {"eta", "cfg", "experiment_name", "last_ckpt", "best_ckpt", "keep_ckpt_ids"}
    infos = {key: repr(value) for key, value in hub.runtime_info.items() if key not in unlike}
    return {"scalars": scalars, "infos": infos, "order": list(hub.log_scalars), "flags": dict(hub._resumed_keys)}


def trained(folder: Path, *arguments: Any, **options: Any) -> Runner:
    run = runner(folder, *arguments, **options)
    run.train()
    return run


def test_a_run_on_our_hub_is_the_same_run(tmp_path: Path) -> None:
    theirs = trained(tmp_path / "theirs")
    with install():
        ours = trained(tmp_path / "ours")
    assert type(theirs.message_hub) is TheirHub
    assert type(ours.message_hub) is MessageHub
    assert len(values_on_disk(tmp_path / "theirs")) == EPOCHS * 3
    assert values_on_disk(tmp_path / "ours") == values_on_disk(tmp_path / "theirs")
    assert log_lines(tmp_path / "ours") == log_lines(tmp_path / "theirs")
    assert "grad_norm" in log_lines(tmp_path / "ours")[0]
    assert record(ours.message_hub) == record(theirs.message_hub)
    assert all(isinstance(one, HistoryBuffer) for one in ours.message_hub.log_scalars.values())
    for our_weights, their_weights in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(our_weights, their_weights)


def test_mmengines_early_stopping_stops_at_the_same_epoch(tmp_path: Path) -> None:
    def stopped(folder: Path) -> Runner:
        return trained(folder, [EarlyStoppingHook("accuracy", rule="greater", min_delta=0.5, patience=2)], 8)

    theirs = stopped(tmp_path / "theirs")
    with install():
        ours = stopped(tmp_path / "ours")
    assert ours.epoch == theirs.epoch < 8
    assert log_lines(tmp_path / "ours") == log_lines(tmp_path / "theirs")


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD:UserWarning")
@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    with install() as installation:
        if writer == "theirs":
            installation.uninstall()
            # since torch 2.6 the checkpoints of mmengine's own class can be loaded in no other way
            monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        trained(tmp_path / "run", [StopAfter(2)])
        install()
        resumed = trained(tmp_path / "run", resume=True)
        hub = resumed.message_hub
        assert type(hub) is MessageHub
        assert all(type(one) is HistoryBuffer for one in hub.log_scalars.values())
        expected, got = record(whole.message_hub), record(hub)
        assert got["scalars"] == expected["scalars"]
        assert log_lines(tmp_path / "run") == log_lines(tmp_path / "whole")
        assert resumed.epoch == EPOCHS


class StopAfter(Hook):  # type: ignore[misc]
    """Ends training after some epochs, as a killed program would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        runner.train_loop.stop_training = runner.epoch >= self.epochs


# --- the hook


@pytest.fixture
def installed() -> Iterator[None]:
    with install():
        yield


@pytest.mark.usefixtures("installed")
def test_early_stopping_on_our_hub_ends_a_runners_training(tmp_path: Path) -> None:
    run = runner(tmp_path, [HubHook()], epochs=8)
    hub = run.message_hub
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.5))
    run.train()
    assert run.epoch == 3
    assert "val/accuracy" in hub.stop_reason
    assert not hub.entered


@pytest.mark.usefixtures("installed")
def test_a_stop_is_resumed_until_it_is_taken_back(tmp_path: Path) -> None:
    first = runner(tmp_path, [HubHook()], epochs=8)
    first.message_hub.attach(EarlyStopping("val/accuracy", mode="max", patience=1, min_delta=0.5))
    first.train()
    first.save_checkpoint(str(tmp_path), "stopped.pth")
    second = runner(tmp_path, [HubHook()], epochs=8, load_from=str(tmp_path / "stopped.pth"), resume=True)
    second.train()
    losses = [len(run.message_hub.get_scalar("train/loss").data[0]) for run in (first, second)]
    assert losses[0] == losses[1] == first.iter
    third = runner(
        tmp_path, [TakesBackTheStop(), HubHook()], epochs=4, load_from=str(tmp_path / "stopped.pth"), resume=True
    )
    third.train()
    assert third.epoch == 4


class TakesBackTheStop(Hook):  # type: ignore[misc]
    """Trains on."""

    def before_train(self, runner: Runner) -> None:
        runner.message_hub.stop_requested = False


class Reader:
    """A control subscriber that keeps what it saw, and in which iteration."""

    keys = (ScalarUpdated,)
    role = "control"

    def __init__(self) -> None:
        self.run: Any = None
        self.seen: list[tuple[str, int | None, int]] = []

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.seen.append((event.key, event.step, self.run.iter))


@pytest.mark.usefixtures("installed")
def test_control_subscribers_see_each_iteration_before_the_next(tmp_path: Path) -> None:
    reader = Reader()
    reader.run = runner(tmp_path, [HubHook()], epochs=1)
    reader.run.message_hub.attach(reader)
    reader.run.train()
    losses = [(step, at) for key, step, at in reader.seen if key == "train/loss"]
    assert losses == [(step, step) for step in range(reader.run.iter)]
    assert [key for key, _, _ in reader.seen if key.startswith("val/acc")] == ["val/accuracy"]


@pytest.mark.usefixtures("installed")
def test_a_checkpoint_holds_what_control_subscribers_decided(tmp_path: Path) -> None:
    class Counter(Reader):
        def state_dict(self) -> dict[str, Any]:
            return {"seen": len(self.seen)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.loaded = state

    counter = Counter()
    counter.run = runner(tmp_path, [HubHook()], epochs=1)
    counter.run.message_hub.attach(counter, "train/loss", name="counter")
    counter.run.train()
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["message_hub"]
    assert saved["asynchub"]["subscribers"]["counter"]["state"] == {"seen": counter.run.iter}


@pytest.mark.usefixtures("installed")
def test_an_observer_lives_for_the_run_and_a_hub_entered_by_the_program_stays_entered(tmp_path: Path) -> None:
    seen: list[Event] = []
    run = runner(tmp_path, [HubHook()], epochs=1)
    hub = run.message_hub
    hub.on("train/loss", role="observer")(seen.append)
    with hub:
        run.train()
        assert hub.entered
    assert len(seen) == run.iter


@pytest.mark.usefixtures("installed")
def test_validation_alone_settles_too(tmp_path: Path) -> None:
    reader = Reader()
    reader.run = runner(tmp_path, [HubHook()], save_best=None)
    reader.run.message_hub.attach(reader)
    reader.run.message_hub.stop_requested = True
    reader.run.val()
    assert "val/accuracy" in [key for key, _, _ in reader.seen]


@pytest.mark.usefixtures("installed")
def test_a_run_that_raised_can_be_left_by_its_hook(tmp_path: Path) -> None:
    hook = HubHook()
    run = runner(tmp_path, [hook, Fails()])
    with pytest.raises(ArithmeticError):
        run.train()
    assert run.message_hub.entered
    hook.after_run(run)
    assert not run.message_hub.entered


class Fails(Hook):  # type: ignore[misc]
    """Ends a run as an error does."""

    def after_train_epoch(self, runner: Runner) -> None:
        raise ArithmeticError


def test_the_hook_refuses_mmengines_own_hub(tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match=r"install\(\) before the Runner"):
        runner(tmp_path, [HubHook()]).train()


def test_the_hook_can_be_named_in_a_config() -> None:
    assert HOOKS.get("HubHook") is HubHook


# --- installing


def test_installing_twice_is_installing_once_and_uninstalling_puts_everything_back() -> None:
    places = [
        (mmengine, "MessageHub"),
        (mmengine, "HistoryBuffer"),
        (mmengine.logging, "MessageHub"),
        (mmengine.logging.message_hub, "MessageHub"),
        (mmengine.logging.message_hub, "HistoryBuffer"),
        (mmengine.logging.history_buffer, "HistoryBuffer"),
        (mmengine.runner.runner, "MessageHub"),
        (mmengine.runner.loops, "HistoryBuffer"),
        (mmengine.optim.optimizer.optimizer_wrapper, "MessageHub"),
    ]
    before = [getattr(module, name) for module, name in places]
    assert set(before) == {TheirHub, TheirHistory}
    with install(), install():
        assert {getattr(module, name) for module, name in places} == {MessageHub, HistoryBuffer}
    assert [getattr(module, name) for module, name in places] == before


def test_other_packages_are_changed_when_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detection.models", "detections"):
        module = ModuleType(name)
        module.Hub = TheirHub  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    with install("detection"):
        assert sys.modules["detection.models"].Hub is MessageHub
        assert sys.modules["detections"].Hub is TheirHub
    assert sys.modules["detection.models"].Hub is TheirHub


def test_a_package_that_is_no_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="names of packages"):
        install(mmengine)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_modules_imported_after_installing_hold_our_hub() -> None:
    assert (
        python(
            "from asynchub.integrations.mmengine import install\n"
            "import sys\n"
            "for name in [name for name in sys.modules if name.startswith('mmengine.runner')]: del sys.modules[name]\n"
            "install()\n"
            "from mmengine.runner.runner import MessageHub\n"
            "from mmengine.runner.loops import HistoryBuffer\n"
            "print(MessageHub.__module__, HistoryBuffer.__module__)"
        )
        == "asynchub.hub asynchub.history"
    )


def test_without_mmengine_the_error_says_what_to_install() -> None:
    assert python(
        "import sys\n"
        "sys.modules['mmengine'] = None\n"
        "try:\n"
        "    import asynchub.integrations.mmengine\n"
        "except ImportError as error:\n"
        "    print(error)"
    ).endswith("python -m pip install 'asynchub[mmengine]'")
