"""Real loops with an Accelerator and a hub in them: what its trackers log; stopped, asked, killed, resumed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from sklearn.datasets import load_digits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from asynchub.errors import ArgumentError, ControlFailedError, LifecycleError, StateDictError
from asynchub.events import CheckpointSaved, Event, Rewound
from asynchub.hub import MessageHub
from asynchub.integrations.accelerate import HubTracker
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

ROOT = Path(__file__).parent.parent.parent
LENGTH = 4
"""Batches in an epoch."""
Series = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def _no_state() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)


@cache
def all_digits() -> Any:
    return load_digits(return_X_y=True)


def digits(first: int) -> TensorDataset:
    """Return every ninth of the digits, from ``first`` on."""
    images, labels = all_digits()
    return TensorDataset(torch.tensor(images[first::9] / 16, dtype=torch.float32), torch.tensor(labels[first::9]))


class Loop:
    """A loop of one's own, as the examples of accelerate have it."""

    def __init__(self, tracker: HubTracker, *others: str, first: int = 0, batch: int = 50, **options: Any) -> None:
        torch.manual_seed(0)
        self.tracker, self.hub = tracker, tracker.hub
        self.accelerator = Accelerator(cpu=True, log_with=[tracker, *others], **options)
        model = nn.Linear(64, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        self.model, self.optimizer, self.batches = self.accelerator.prepare(
            model, optimizer, DataLoader(digits(first), batch_size=batch)
        )
        self.accelerator.init_trackers("digits", config={"lr": 0.5, "note": None})
        tracker.attach(self.accelerator, self.optimizer)
        self.step = 0
        self.after_step: Any = lambda: None
        self.after_epoch: Any = lambda: None

    def go(self, epochs: int = 3) -> Loop:
        """Train and evaluate; stop when told to."""
        stop = self.tracker.settle()
        while self.step < epochs * LENGTH and not stop:
            for images, labels in self.batches:
                loss = nn.functional.cross_entropy(self.model(images), labels)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.step += 1
                self.accelerator.log({"train/loss": loss.detach().item()}, step=self.step)
                self.after_step()
                stop = self.tracker.settle() or stop
                if stop:
                    break
            images, labels = digits(1).tensors
            right = (self.model(images).argmax(1) == labels).float().mean()
            self.accelerator.log({"val/accuracy": right.item()}, step=self.step)
            stop = self.tracker.settle() or stop
            self.after_epoch()
        self.accelerator.end_training()
        return self

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


def series(hub: MessageHub) -> Series:
    """Return steps and values of each scalar of a hub."""
    histories = {key: hub.get_scalar(key) for key in hub.log_scalars}
    return {key: list(zip(one.steps.tolist(), one.data[0].tolist(), strict=True)) for key, one in histories.items()}


# --- metrics


def test_the_hub_gets_what_a_tracker_of_accelerates_gets(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop = Loop(HubTracker(MessageHub("run")), "tensorboard", project_dir=tmp_path).go()
    board = EventAccumulator(str(tmp_path / "digits"), size_guidance={"scalars": 0})
    board.Reload()
    logged = {key: [(one.step, one.value) for one in board.Scalars(key)] for key in ("train/loss", "val/accuracy")}
    assert len(logged["train/loss"]) == 3 * LENGTH
    assert series(loop.hub) == logged
    assert loop.hub.get_info("hparams") == {"lr": 0.5, "note": None}
    assert not loop.hub.entered


def test_what_is_no_number_is_a_runtime_info_and_a_log_without_step_is_of_the_step_before() -> None:
    loop = Loop(HubTracker(MessageHub("run")))
    loop.accelerator.log({"loss": torch.tensor([2.5]), "note": "begun"}, step=7)
    loop.accelerator.log({"loss": 1})
    loop.accelerator.end_training()
    assert series(loop.hub) == {"loss": [(7, 2.5), (7, 1.0)]}
    assert loop.hub.get_info("note") == "begun"


def test_the_hub_is_what_unwrapping_the_tracker_gives() -> None:
    loop = Loop(HubTracker(MessageHub("run")))
    assert loop.accelerator.get_tracker("asynchub") is loop.tracker
    assert loop.accelerator.get_tracker("asynchub", unwrap=True) is loop.hub


class Reads(TorchDispatchMode):  # type: ignore[misc]  # torch gives it no types
    """Counts who reads a tensor as a number, which is what waits when the tensor is on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("torch"):
                frame = frame.f_back
            self.by[frame.f_globals.get("__name__", "")] += 1
        return function(*args, **(kwargs or {}))


def test_no_tensor_is_read_but_by_the_hub_which_reads_none_that_is_on_a_device() -> None:
    loop = Loop(HubTracker(MessageHub("run")))
    loop.accelerator.log({"train/loss": 0.0}, step=0)
    with Reads() as reads:
        for step in range(1, 4):
            loop.accelerator.log({"train/loss": torch.tensor(1.0)}, step=step)
            loop.tracker.settle()
    loop.accelerator.end_training()
    assert reads.by == {"asynchub.scalars": 3}


# --- control


def test_a_rule_ends_the_loop_where_it_decides() -> None:
    loop = Loop(HubTracker(MessageHub("run")))
    loop.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.5))
    loop.go(8)
    assert loop.step == 3 * LENGTH
    assert "val/accuracy" in loop.hub.stop_reason


def test_a_settle_point_is_each_so_many_calls() -> None:
    tracker = HubTracker(MessageHub("run"), settle_every=3)
    tracker.hub.request_stop("enough")
    assert [tracker.settle() for _ in range(6)] == [False, False, True, False, False, True]
    tracker.finish()


def test_a_learning_rate_is_set_by_request_and_by_rule() -> None:
    loop = Loop(HubTracker(MessageHub("run")))
    answers: list[Event] = []
    loop.hub.on(RequestApplied, RequestRefused, role="control")(answers.append)
    loop.hub.attach(ReduceLROnPlateau(loop.optimizer, "val/accuracy", mode="max", threshold=10.0, patience=0))
    rates: list[float] = []

    def ask() -> None:
        rates.append(loop.lr)
        if loop.step == 2:
            loop.hub.request(ParameterChangeRequested(name="lr", value=0.25))
            loop.hub.request(CheckpointRequested())

    loop.after_step = ask
    loop.go(3)
    assert rates == [0.5] * 2 + [0.25] * 6 + [pytest.approx(0.025)] * 4
    kinds = [(type(one), one.request) for one in answers]  # type: ignore[attr-defined]
    assert kinds == [(RequestApplied, "ParameterChangeRequested"), (RequestRefused, "CheckpointRequested")]


@pytest.mark.parametrize("own_names", [True, False])
def test_a_checkpoint_that_is_asked_for_is_written_by_the_accelerator(tmp_path: Path, own_names: bool) -> None:
    project = ProjectConfiguration(project_dir=str(tmp_path), automatic_checkpoint_naming=not own_names)
    tracker = HubTracker(MessageHub("run"), checkpoints=tmp_path / "saved" if own_names else None)
    loop = Loop(tracker, project_config=project)
    saved: list[CheckpointSaved] = []
    loop.hub.on(CheckpointSaved, role="control")(saved.append)
    loop.after_step = lambda: loop.step == 3 and loop.hub.request(CheckpointRequested(reason="now"))
    loop.go(1)
    expected = tmp_path / ("saved/step=3" if own_names else "checkpoints/checkpoint_0")
    assert [(one.path, one.reason, one.step) for one in saved] == [(str(expected), "now", 3)]
    AcceleratorState._reset_state(True)
    other = Loop(HubTracker(MessageHub("other")))
    other.accelerator.load_state(str(expected))
    assert [step for step, _ in series(other.hub)["train/loss"]] == [1, 2, 3]
    assert other.hub.step == 3


def test_a_control_subscriber_that_fails_raises_where_the_loop_settles() -> None:
    loop = Loop(HubTracker(MessageHub("run")))

    @loop.hub.on("train/loss", role="control")
    def fail(event: Event) -> None:
        raise ArithmeticError

    with pytest.raises(ControlFailedError), loop.hub:
        loop.go()
    assert loop.step == 1
    assert not loop.hub.entered


# --- state


def main(folder: Path, kill_at: int) -> tuple[int, str, int]:
    """Train for six epochs, from the newest checkpoint on, or until ``kill -9`` after a step.

    Return at which step it ended, why, and how often the journal was rewound.
    """
    loop = Loop(HubTracker(MessageHub("run"), journal=Journal(folder / "journal")))
    loop.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=3, min_delta=0.2))
    rewound: list[Rewound] = []
    loop.hub.on(Rewound, role="control")(rewound.append)
    saved = sorted(folder.glob("step=*"))
    if saved:
        loop.accelerator.load_state(str(saved[-1]))
        loop.step = loop.hub.step

    loop.after_step = lambda: loop.step == kill_at and os.kill(os.getpid(), signal.SIGKILL)
    loop.after_epoch = lambda: loop.accelerator.save_state(str(folder / f"step={loop.step:03}"))
    loop.go(6)
    return loop.step, loop.hub.stop_reason, len(rewound)


def process(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "kills", [(LENGTH + 3,), pytest.param((LENGTH + 3, 2 * LENGTH + 2, 4 * LENGTH - 1), marks=pytest.mark.slow)]
)
def test_a_run_that_was_killed_comes_to_the_same_series_and_stops_where_it_would_have(
    tmp_path: Path, kills: tuple[int, ...]
) -> None:
    whole = main(tmp_path / "whole", 0)
    assert whole[0] == 5 * LENGTH
    for kill_at in kills:
        with process(tmp_path / "run", kill_at) as killed:
            _, errors = killed.communicate(timeout=120)
        assert killed.returncode == -signal.SIGKILL, errors
    AcceleratorState._reset_state(True)
    assert main(tmp_path / "run", 0) == (*whole[:2], 1)
    expected, got = (series(recover(tmp_path / name)) for name in ("whole", "run"))
    assert len(expected["train/loss"]) == 5 * LENGTH
    assert got == expected


def test_a_checkpoint_holds_what_was_decided(tmp_path: Path) -> None:
    loop = Loop(HubTracker(MessageHub("run")))
    rule = EarlyStopping("val/accuracy", mode="max", patience=9)
    loop.hub.attach(rule)
    loop.accelerator.log({"val/accuracy": 0.5}, step=1)
    loop.accelerator.save_state(str(tmp_path))
    loop.accelerator.end_training()
    state = torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)
    hub, other = MessageHub("other"), EarlyStopping("val/accuracy", mode="max", patience=9)
    hub.attach(other)
    HubTracker(hub).load_state_dict(state)
    assert other.state_dict() == rule.state_dict()
    assert rule.state_dict()["best"] == 0.5


def test_a_checkpoint_is_refused_while_the_journal_is_written(tmp_path: Path) -> None:
    loop = Loop(HubTracker(MessageHub("run"), journal=Journal(tmp_path / "journal")))
    loop.accelerator.log({"loss": 1.0}, step=1)
    loop.accelerator.save_state(str(tmp_path / "saved"))
    with pytest.raises(LifecycleError, match="before the first log"):
        loop.accelerator.load_state(str(tmp_path / "saved"))
    loop.accelerator.end_training()


# --- several processes


def rank(folder: Path, number: int) -> None:
    """Train on one of two processes, with other data each; say how it ended in a file."""
    tracker = HubTracker(
        MessageHub("run"), journal=Journal(folder / "journal") if number == 0 else None, checkpoints=folder / "saved"
    )
    loop = Loop(tracker, batch=25)
    assert loop.accelerator.num_processes == 2
    if number == 0:
        loop.hub.attach(ReduceLROnPlateau(loop.optimizer, "val/accuracy", mode="max", threshold=10.0, patience=0))
        loop.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.5))

        def ask() -> None:
            if loop.step == 3:
                loop.hub.request(ParameterChangeRequested(name="momentum", value=0.5))
                loop.hub.request(CheckpointRequested())

        loop.after_step = ask
    loop.go(8)
    group = loop.optimizer.param_groups[0]
    weight = next(iter(loop.model.parameters())).sum().item()
    found = (loop.step, group["lr"], group["momentum"], weight, len(loop.hub.log_scalars), loop.hub.entered)
    (folder / f"rank{number}").write_text(repr(found))


@pytest.mark.slow
def test_two_processes_stop_together_with_the_same_parameters_and_the_main_one_alone_publishes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    both = [process(tmp_path, "rank", RANK=str(n), LOCAL_RANK=str(n), **addresses) for n in range(2)]
    with both[0], both[1]:
        errors = [one.communicate(timeout=200)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], errors
    zero, other = (literal_eval((tmp_path / f"rank{number}").read_text()) for number in range(2))
    assert zero[:4] == other[:4]
    assert zero[0] == 3 * LENGTH
    assert zero[1] == pytest.approx(0.005)
    assert zero[2] == 0.5
    assert zero[4] > 0 == other[4]
    assert not zero[5]
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["step=3"]
    assert len(series(recover(tmp_path))["train/loss"]) == 3 * LENGTH


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settle_every": 0}, "settle_every must be a number of steps above 0"),
        ({"journal": "run/journal"}, "journal must be a Journal"),
    ],
)
def test_a_tracker_of_something_else_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        HubTracker(MessageHub("run"), **options)


def test_other_hubs_accelerators_optimizers_and_states_are_refused() -> None:
    with pytest.raises(ArgumentError, match="hub must be asynchub's MessageHub, got str"):
        HubTracker("hub")  # type: ignore[arg-type]
    tracker = HubTracker(MessageHub("run"))
    with pytest.raises(ArgumentError, match="must be an Accelerator, got int"):
        tracker.attach(3)
    accelerator = Accelerator(cpu=True)
    with pytest.raises(ArgumentError, match="must be optimizers of torch, got str"):
        tracker.attach(accelerator, "sgd")
    tracker.attach(accelerator)
    with pytest.raises(LifecycleError, match="attached already"):
        tracker.attach(accelerator)
    with pytest.raises(StateDictError, match="a dict with bytes as 'hub'"):
        tracker.load_state_dict({"hub": "text"})


def test_without_accelerate_the_error_says_what_to_install() -> None:
    code = "import sys\nsys.modules['accelerate'] = None\nimport asynchub.integrations.accelerate"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "python -m pip install 'asynchub[accelerate]'" in done.stderr


if __name__ == "__main__":
    if sys.argv[2] == "rank":
        rank(Path(sys.argv[1]), int(os.environ["RANK"]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
