"""A runner of mmengine that is killed and goes on: hub, journal and patience; and what it is asked for meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import mmengine
import pytest
import torch
import torch.distributed
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from asynchub.errors import ArgumentError
from asynchub.events import CheckpointSaved, Event, Rewound
from asynchub.hub import MessageHub
from asynchub.integrations.mmengine import HubHook, install
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

ROOT = Path(__file__).parent.parent.parent
LENGTH = 4
"""Iterations in an epoch, and between two validations of a run that knows no epochs."""
Series = dict[str, list[tuple[int, float]]]


@cache
def all_digits() -> Any:
    return load_digits(return_X_y=True)


def loader(first: int, sampler: str = "DefaultSampler") -> dict[str, Any]:
    images, labels = all_digits()
    data = TensorDataset(torch.tensor(images[first::9] / 16, dtype=torch.float32), torch.tensor(labels[first::9]))
    return {
        "dataset": data,
        "sampler": {"type": sampler, "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "batch_size": 50 // (2 if "RANK" in os.environ and sampler == "DefaultSampler" and first == 0 else 1),
        "num_workers": 0,
    }


class Classifier(BaseModel):  # type: ignore[misc]
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = "tensor") -> Any:
        scores = self.layer(inputs)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(scores, labels)}
        return [(scores.argmax(1) == labels).tolist()]


class Accuracy(BaseMetric):  # type: ignore[misc]
    """The part that was guessed right."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples[0]

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        return {"accuracy": sum(results) / len(results)}


class Kill(Hook):  # type: ignore[misc]
    """Ends the process as ``kill -9`` does, in an iteration."""

    priority = "LOWEST"

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def runner(folder: Path, *hooks: Hook, by_epoch: bool = True, epochs: int = 8, **options: Any) -> Runner:
    torch.manual_seed(0)
    checkpoint = {"type": "CheckpointHook", "interval": 1 if by_epoch else LENGTH, "by_epoch": by_epoch}
    train: dict[str, Any] = {"by_epoch": True, "max_epochs": epochs}
    if not by_epoch:
        train = {"by_epoch": False, "max_iters": epochs * LENGTH, "val_interval": LENGTH}
    return Runner(
        **{
            "model": Classifier(),
            "work_dir": str(folder),
            "train_dataloader": loader(0, "DefaultSampler" if by_epoch else "InfiniteSampler"),
            "val_dataloader": loader(1),
            "val_evaluator": [Accuracy()],
            "train_cfg": train,
            "val_cfg": {},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.5, "momentum": 0.9}},
            "default_hooks": {"checkpoint": checkpoint},
            "custom_hooks": list(hooks),
            "log_processor": {"by_epoch": by_epoch},
            "log_level": "ERROR",
            "experiment_name": f"digits-{uuid4().hex}",
            "randomness": {"seed": 3},
            **options,
        }
    )


@pytest.fixture(autouse=True)
def _closed_logs() -> Iterator[None]:
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in logger.handlers:
            handler.close()


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with install():
        yield


def series(hub: MessageHub) -> Series:
    """Return steps and values of each scalar of a hub, without times."""
    histories = {key: hub.get_scalar(key) for key in hub.log_scalars if "time" not in key}
    return {key: list(zip(one.steps.tolist(), one.data[0].tolist(), strict=True)) for key, one in histories.items()}


# --- killed


def main(folder: Path, kill_at: int, by_epoch: bool, **hook: Any) -> tuple[int, int, str, int]:
    """Train, from the newest checkpoint on, or until ``kill -9`` in an iteration.

    Return epoch and iteration at which it ended, why, and how often the journal was rewound.
    """
    hub_hook = HubHook(journal=Journal(folder / "journal"), **hook)
    resume = (folder / "last_checkpoint").exists()
    run = runner(folder, hub_hook, Kill(kill_at), by_epoch=by_epoch, resume=resume)
    hub = run.message_hub
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=3, min_delta=0.5))
    rewound: list[Rewound] = []
    hub.on(Rewound, role="control")(rewound.append)
    run.train()
    assert not hub.entered
    return run.epoch, run.iter, hub.stop_reason, len(rewound)


def killed(folder: Path, kill_at: int, by_epoch: bool) -> None:
    """Train in another process, which is killed."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder), str(kill_at), str(by_epoch)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("by_epoch", "kills"),
    [
        (True, [2 * LENGTH + 1]),
        pytest.param(True, [LENGTH + 2, 2 * LENGTH, 3 * LENGTH + 3], marks=pytest.mark.slow),
        pytest.param(False, [2 * LENGTH + 1, 3 * LENGTH + 2], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_keeps_its_patience_and_comes_to_the_same_series(
    tmp_path: Path, by_epoch: bool, kills: list[int]
) -> None:
    whole = main(tmp_path / "whole", -1, by_epoch)
    for kill_at in kills:
        killed(tmp_path / "run", kill_at, by_epoch)
    assert main(tmp_path / "run", -1, by_epoch) == (*whole[:3], 1)
    assert whole[1] == 4 * LENGTH
    assert "val/accuracy has not improved" in whole[2]
    expected, got = (series(recover(tmp_path / name)) for name in ("whole", "run"))
    assert [step for step, _ in expected["train/loss"]] == list(range(4 * LENGTH))
    assert len(expected["val/accuracy"]) == 4
    assert got == expected


@pytest.mark.parametrize("make_up", [True, False])
def test_the_validation_that_mmengine_0107_leaves_out_is_made_up_for_when_a_run_goes_on(
    tmp_path: Path, make_up: bool
) -> None:
    assert mmengine.__version__ == "0.10.7"

    def trained(folder: Path, epochs: int, **options: Any) -> Runner:
        run = runner(folder, HubHook(validate_on_resume=make_up), epochs=epochs, **options)
        run.train()
        return run

    whole = trained(tmp_path / "whole", 3)
    trained(tmp_path / "run", 2)
    resumed = trained(tmp_path / "run", 3, resume=True)
    expected, got = series(whole.message_hub)["val/accuracy"], series(resumed.message_hub)["val/accuracy"]
    assert [step for step, _ in expected] == [LENGTH - 1, 2 * LENGTH - 1, 3 * LENGTH - 1]
    assert got == (expected if make_up else [expected[0], expected[2]])


def test_the_patience_of_mmengine_0107_begins_anew_when_a_run_goes_on(tmp_path: Path) -> None:
    assert mmengine.__version__ == "0.10.7"

    def stopped(folder: Path, epochs: int = 8, **options: Any) -> int:
        rule = EarlyStoppingHook("accuracy", rule="greater", min_delta=0.5, patience=3)
        run = runner(folder, rule, epochs=epochs, **options)
        run.train()
        return int(run.epoch)

    assert stopped(tmp_path / "whole") == 4
    stopped(tmp_path / "run", epochs=2)
    assert stopped(tmp_path / "run", resume=True) == 6


def test_a_run_that_has_validated_after_its_checkpoint_does_not_validate_again(tmp_path: Path) -> None:
    first = runner(tmp_path, HubHook(), epochs=2)
    first.train()
    first.save_checkpoint(str(tmp_path), "later.pth", meta={"epoch": 2, "iter": 2 * LENGTH})
    second = runner(tmp_path, HubHook(), epochs=3, load_from=str(tmp_path / "later.pth"), resume=True)
    second.train()
    assert len(series(second.message_hub)["val/accuracy"]) == 3


# --- requests


class Ask(Hook):  # type: ignore[misc]
    """Makes requests in an iteration, and keeps the learning rate of each."""

    def __init__(self, at: int, *requests: Any) -> None:
        self.at = at
        self.requests = requests
        self.rates: list[float] = []

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.rates.append(runner.optim_wrapper.param_groups[0]["lr"])
        if runner.iter == self.at:
            for request in self.requests:
                runner.message_hub.request(request)


def test_a_learning_rate_is_set_in_the_iteration_in_which_it_is_asked_for(tmp_path: Path) -> None:
    wrong = ParameterChangeRequested(name="speed", value=1.0)
    ask = Ask(2, ParameterChangeRequested(name="lr", value=0.25), wrong)
    run = runner(tmp_path, HubHook(), ask, epochs=2)
    answers: list[Event] = []
    run.message_hub.on(RequestApplied, RequestRefused, role="control")(answers.append)
    run.train()
    assert ask.rates == [0.5] * 3 + [0.25] * 5
    assert [type(one) for one in answers] == [RequestApplied, RequestRefused]


def test_a_program_that_answers_requests_itself_goes_on_doing_so(tmp_path: Path) -> None:
    run = runner(tmp_path, HubHook(), Ask(2, CheckpointRequested()), epochs=1)
    asked: list[CheckpointRequested] = []
    run.message_hub.on_request(CheckpointRequested, asked.append)
    run.train()
    assert len(asked) == 1
    assert not (tmp_path / "requested").exists()


def test_settle_points_are_each_so_many_iterations_and_at_the_ends_of_epochs(tmp_path: Path) -> None:
    ask = Ask(0, ParameterChangeRequested(name="lr", value=0.25))
    runner(tmp_path, HubHook(settle_every=3), ask, epochs=1).train()
    assert ask.rates == [0.5] * 3 + [0.25]


@pytest.mark.parametrize(("by_epoch", "name"), [(True, "epoch_1.pth"), (False, "iter_3.pth")])
def test_a_checkpoint_that_is_asked_for_is_written_where_the_loop_can_go_on_from_it(
    tmp_path: Path, by_epoch: bool, name: str
) -> None:
    run = runner(
        tmp_path, HubHook(), Ask(2, CheckpointRequested(reason="now")), by_epoch=by_epoch, epochs=2, default_hooks={}
    )
    saved: list[CheckpointSaved] = []
    run.message_hub.on(CheckpointSaved, role="control")(saved.append)
    run.train()
    assert [(one.path, one.reason) for one in saved] == [(str(tmp_path / "requested" / name), "now")]
    hook = HubHook(checkpoints=tmp_path / "other")
    again = runner(tmp_path, hook, by_epoch=by_epoch, epochs=2, load_from=saved[0].path, resume=True, default_hooks={})
    again.train()
    assert series(again.message_hub) == series(run.message_hub)


# --- two ranks


def rank(folder: Path) -> None:
    """Train on one of two ranks, with other data each; say how it ended in a file."""
    number = int(os.environ["RANK"])
    ask = Ask(2, ParameterChangeRequested(name="momentum", value=0.5), CheckpointRequested())
    hook = HubHook(journal=Journal(folder / "journal"))
    torch.distributed.init_process_group("gloo")  # mmengine itself would ask for a GPU
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None}
    cfg = {"model_wrapper_cfg": wrapper}
    run = runner(folder, hook, *[ask] * (number == 0), launcher="pytorch", cfg=cfg)
    hub, accuracy = run.message_hub, "val/accuracy"
    if number == 0:
        optimizer = run.build_optim_wrapper(run.optim_wrapper)
        run.optim_wrapper = optimizer
        hub.attach(ReduceLROnPlateau(optimizer.optimizer, accuracy, mode="max", threshold=10.0, patience=0))
        hub.attach(EarlyStopping(accuracy, mode="max", patience=2, min_delta=0.5))
    run.train()
    group = run.optim_wrapper.param_groups[0]
    weight = next(iter(run.model.parameters())).sum().item()
    (folder / f"rank{number}").write_text(repr((run.epoch, group["lr"], group["momentum"], weight)))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends while the other one still has them


@pytest.mark.slow
def test_two_ranks_stop_together_with_the_same_parameters(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), "rank"],
            cwd=ROOT,
            env={**os.environ, **addresses, "RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    with both[0], both[1]:
        errors = [one.communicate(timeout=200)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], errors
    zero, other = (literal_eval((tmp_path / f"rank{number}").read_text()) for number in range(2))
    assert zero == other
    assert zero[0] == 3
    assert zero[1] == pytest.approx(0.005)
    assert zero[2] == 0.5
    assert [file.name for file in (tmp_path / "requested").iterdir()] == ["epoch_1.pth"]
    assert len(series(recover(tmp_path))["val/accuracy"]) == 3


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settle_every": 0}, "settle_every must be a number of iterations above 0"),
        ({"journal": "run/journal"}, "journal must be a Journal"),
    ],
)
def test_a_hook_of_something_else_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        HubHook(**options)


if __name__ == "__main__":
    with install():
        if sys.argv[2] == "rank":
            rank(Path(sys.argv[1]))
        else:
            main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True")
