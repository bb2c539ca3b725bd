"""Real engines of ignite with a hub in them: what they log, value by value; stopped, asked, killed, resumed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import ignite
import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.handlers import Checkpoint, DiskSaver
from ignite.handlers.base_logger import BaseOutputHandler
from ignite.metrics import Accuracy, ConfusionMatrix, Loss, RunningAverage
from sklearn.datasets import load_digits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from asynchub.errors import ArgumentError, ControlFailedError, LifecycleError, StateDictError
from asynchub.events import CheckpointSaved, Event, Rewound
from asynchub.hub import MessageHub
from asynchub.integrations.ignite import Attached, HubHandler
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

ROOT = Path(__file__).parent.parent.parent
LENGTH = 4
"""Batches in an epoch."""
Series = dict[str, list[tuple[int, float]]]


@cache
def all_digits() -> Any:
    return load_digits(return_X_y=True)


def digits(first: int) -> DataLoader[Any]:
    """Return batches of every ninth of the digits, from ``first`` on."""
    images, labels = all_digits()
    data = TensorDataset(torch.tensor(images[first::9] / 16, dtype=torch.float32), torch.tensor(labels[first::9]))
    return DataLoader(data, batch_size=50)


class Run:
    """A trainer that an evaluator looks at after each epoch, and a handler that has a hub live in them."""

    def __init__(self, hub: MessageHub | None = None, lr: float = 0.5, **options: Any) -> None:
        torch.manual_seed(0)
        self.hub = MessageHub("run") if hub is None else hub
        self.model = nn.Linear(64, 10)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.trainer = Engine(self.step)
        loss = Loss(nn.functional.cross_entropy)
        metrics = {"accuracy": Accuracy(), "loss": loss, "confusion": ConfusionMatrix(num_classes=10)}
        self.evaluator = create_supervised_evaluator(self.model, metrics)
        self.handler = HubHandler(self.hub, **{"optimizer": self.optimizer, **options})

    def step(self, engine: Engine, batch: Any) -> dict[str, Any]:
        images, labels = batch
        self.optimizer.zero_grad()
        scores = self.model(images)
        loss = nn.functional.cross_entropy(scores, labels)
        loss.backward()
        self.optimizer.step()
        right = (scores.argmax(1) == labels).float().sum()
        return {"loss": loss.detach(), "right": right, "scores": scores.detach()}

    def attach(self) -> Attached:
        return self.handler.attach(self.trainer, {"val": self.evaluator})

    def evaluate(self) -> None:
        self.evaluator.run(digits(1))

    def go(self, epochs: int = 3) -> Run:
        self.attach()
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.evaluate)
        self.trainer.run(digits(0), max_epochs=epochs)
        return self

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "trainer": self.trainer, "hub": self.handler}

    def saver(self, folder: Path) -> Checkpoint:
        return Checkpoint(self.parts, DiskSaver(str(folder), create_dir=True, require_empty=False), n_saved=None)

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


def series(hub: MessageHub) -> Series:
    """Return steps and values of each scalar of a hub."""
    histories = {key: hub.get_scalar(key) for key in hub.log_scalars}
    return {key: list(zip(one.steps.tolist(), one.data[0].tolist(), strict=True)) for key, one in histories.items()}


class Log(BaseOutputHandler):
    """What ignite's own loggers log, kept as they would write it."""

    def __init__(self, into: Series, trainer: Engine, **options: Any) -> None:
        super().__init__(**options, global_step_transform=lambda *_: trainer.state.iteration)
        self.into = into

    def __call__(self, engine: Engine) -> None:
        step = self.global_step_transform(engine, Events.COMPLETED)
        for key, value in self._setup_output_metrics_state_attrs(engine, key_tuple=False).items():
            self.into.setdefault(key, []).append((step, value))


# --- metrics


@pytest.mark.filterwarnings("ignore:Logger output_handler can not log metrics value type:UserWarning")
def test_the_hub_gets_what_ignites_own_logger_gets() -> None:
    run, logged = Run(), dict[str, Any]()
    RunningAverage(output_transform=lambda output: output["loss"]).attach(run.trainer, "smooth")
    train = Log(logged, run.trainer, tag="train", output_transform=lambda output: output)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, train)
    val = Log(logged, run.trainer, tag="val", metric_names="all")
    run.evaluator.add_event_handler(Events.COMPLETED, val)
    own = Log(logged, run.trainer, tag="train/epoch", metric_names=["smooth"])
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, own)
    run.go()
    assert len(logged["train/loss"]) == 3 * LENGTH
    assert [step for step, _ in logged["val/accuracy"]] == [LENGTH, 2 * LENGTH, 3 * LENGTH]
    assert len(logged["train/epoch/smooth"]) == 3
    assert series(run.hub) == logged
    assert torch.equal(run.hub.get_info("val/confusion"), run.evaluator.state.metrics["confusion"])
    assert (run.hub.get_info("epoch"), run.hub.get_info("max_epochs"), run.hub.step) == (2, 3, 3 * LENGTH)


def test_a_number_is_the_loss_and_a_transform_names_what_is_published() -> None:
    hub = MessageHub("run")
    trainer = Engine(lambda engine, batch: batch * 0.5)
    HubHandler(hub).attach(trainer)
    trainer.run([1, 2, 3])
    HubHandler(hub, tag="other", output_transform=lambda output: {"twice": output * 2}).attach(trainer)
    trainer.run([4, 5])
    assert series(hub)["other/twice"] == [(1, 4.0), (2, 5.0)]
    assert series(hub)["train/loss"] == [(1, 0.5), (2, 1.0), (3, 1.5), (1, 2.0), (2, 2.5)]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ((1.0, 2.0), {}, r"put out a tuple; say what of it .* output_transform"),
        ("text", {"output_transform": lambda output: {"name": output}}, "must name numbers, got a str for 'name'"),
    ],
)
def test_an_output_without_numbers_is_refused(output: Any, options: Any, message: str) -> None:
    trainer, hub = Engine(lambda engine, batch: output), MessageHub("run")
    HubHandler(hub, **options).attach(trainer)
    with pytest.raises(ArgumentError, match=message):
        trainer.run([1])
    assert not hub.entered


def test_metrics_of_an_evaluation_that_was_broken_off_are_not_published_again() -> None:
    run = Run()
    run.go(1)
    run.evaluator.add_event_handler(Events.ITERATION_STARTED, run.evaluator.terminate)
    run.evaluate()
    assert len(series(run.hub)["val/accuracy"]) == 1


def test_an_evaluator_that_runs_before_and_after_training_is_heard_at_the_trainers_step() -> None:
    run = Run()
    run.attach()
    run.evaluate()
    run.trainer.run(digits(0))
    run.evaluate()
    assert [step for step, _ in series(run.hub)["val/accuracy"]] == [0, LENGTH]


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
    run = Run()
    with Reads() as alone:
        run.trainer.run(digits(0))
    run = Run()
    run.hub.update_scalars({"train/loss": 0, "train/right": 0})
    run.attach()
    with Reads() as reads:
        run.trainer.run(digits(0))
    more = reads.by - alone.by
    assert set(more) == {"asynchub.scalars"}
    assert sum(more.values()) == 2 * LENGTH


# --- control


def test_a_rule_ends_the_run_where_it_decides(tmp_path: Path) -> None:
    run = Run()
    run.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.5))
    terminated: list[int] = []
    run.trainer.add_event_handler(Events.TERMINATE, lambda engine: terminated.append(engine.state.iteration))
    run.go(8)
    assert terminated == [3 * LENGTH] == [run.trainer.state.iteration]
    assert "val/accuracy" in run.hub.stop_reason
    assert not run.hub.entered


def test_a_stop_is_heeded_in_the_iteration_of_its_settle_point() -> None:
    run = Run(settle_every=3)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda: run.hub.request_stop("enough"))
    run.go(8)
    assert run.trainer.state.iteration == 6 - 2  # the end of the epoch is a settle point, too
    other = Run(settle_every=3)
    other.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda: other.hub.request_stop("enough"))
    other.go(8)
    assert other.trainer.state.iteration == 6


def test_a_learning_rate_is_set_by_request_and_by_rule() -> None:
    run = Run(lr=0.5)
    answers: list[Event] = []
    run.hub.on(RequestApplied, RequestRefused, role="control")(answers.append)
    run.hub.attach(ReduceLROnPlateau(run.optimizer, "val/accuracy", mode="max", threshold=10.0, patience=0))
    seen: list[float] = []
    run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(run.lr))

    @run.trainer.on(Events.ITERATION_COMPLETED(once=2))
    def ask() -> None:
        run.hub.request(ParameterChangeRequested(name="lr", value=0.25))
        run.hub.request(ParameterChangeRequested(name="speed", value=1.0))
        run.hub.request(CheckpointRequested())

    run.go(3)
    assert seen == [0.5] * 2 + [0.25] * 6 + [pytest.approx(0.025)] * 4
    kinds = [(type(one), one.request) for one in answers]  # type: ignore[attr-defined]
    assert kinds == [
        (RequestApplied, "ParameterChangeRequested"),
        (RequestRefused, "ParameterChangeRequested"),
        (RequestRefused, "CheckpointRequested"),
    ]


def test_a_checkpoint_that_is_asked_for_is_written_in_that_iteration(tmp_path: Path) -> None:
    saver: list[Checkpoint] = []
    run = Run(checkpoint=lambda engine: saver[0](engine))
    saver.append(run.saver(tmp_path))
    saved: list[CheckpointSaved] = []
    run.hub.on(CheckpointSaved, role="control")(saved.append)
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=3), lambda: run.hub.request(CheckpointRequested(reason="now"))
    )
    run.go(1)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_3.pt"]
    assert [(one.reason, one.step) for one in saved] == [("now", 3)]
    other = Run()
    Checkpoint.load_objects(other.parts, tmp_path / "checkpoint_3.pt")
    assert [step for step, _ in series(other.hub)["train/loss"]] == [1, 2, 3]


def test_a_program_that_answers_requests_itself_goes_on_doing_so() -> None:
    run = Run()
    asked: list[ParameterChangeRequested] = []
    run.hub.on_request(ParameterChangeRequested, asked.append)
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: run.hub.request(ParameterChangeRequested(name="lr", value=0.25))
    )
    run.go(1)
    assert (len(asked), run.lr) == (1, 0.5)


def test_the_path_of_a_checkpoint_is_ignites(tmp_path: Path) -> None:
    run = Run()
    handler = HubHandler(run.hub, checkpoint=Checkpoint({"model": run.model}, str(tmp_path)))
    saved: list[CheckpointSaved] = []
    run.hub.on(CheckpointSaved, role="control")(saved.append)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: run.hub.request(CheckpointRequested()))
    handler.attach(run.trainer)
    run.trainer.run(digits(0))
    assert [one.path for one in saved] == [str(tmp_path / "model_2.pt")]


# --- living


def test_the_hub_lives_until_the_handlers_of_the_program_are_done() -> None:
    run = Run()
    seen: list[Event] = []
    run.hub.on("val/accuracy", "last", role="observer")(seen.append)
    handle = run.attach()
    run.trainer.add_event_handler(Events.COMPLETED, run.evaluate)  # after the handlers of asynchub were added
    run.trainer.add_event_handler(Events.COMPLETED, lambda: run.hub.update_scalar("last", 1))
    run.trainer.run(digits(0))
    assert [one.key for one in seen] == ["val/accuracy", "last"]
    assert not run.hub.entered
    handle.remove()
    run.trainer.run(digits(0))
    assert len(series(run.hub)["train/loss"]) == LENGTH


def test_a_run_that_is_terminated_without_a_completed_is_left_too() -> None:
    run = Run()
    run.attach()
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: run.trainer.terminate(skip_completed=True)
    )
    run.trainer.run(digits(0))
    assert run.trainer.state.iteration == 2
    assert not run.hub.entered


def test_a_hub_that_the_program_entered_stays_entered_and_serves_several_runs() -> None:
    run = Run()
    run.attach()
    with run.hub:
        for _ in range(2):
            run.trainer.run(digits(0))
            assert run.hub.entered
    assert [step for step, _ in series(run.hub)["train/loss"]] == [1, 2, 3, 4] * 2


def fail(*_: Any) -> None:
    raise ArithmeticError("by itself")


def test_an_exception_comes_through_and_the_hub_is_left() -> None:
    run = Run()
    run.attach()
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), fail)
    with pytest.raises(ArithmeticError, match="by itself"):
        run.trainer.run(digits(0))
    assert not run.hub.entered
    assert len(series(run.hub)["train/loss"]) == 2


def test_a_program_that_handles_exceptions_itself_decides_and_a_with_block_leaves_the_hub() -> None:
    run = Run()
    handled: list[BaseException] = []
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), fail)
    run.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: handled.append(error))
    with run.attach():
        run.trainer.run(digits(0), max_epochs=2)
        assert run.trainer.state.epoch == 2  # ignite goes on with the next epoch
    assert len(handled) == 1
    assert not run.hub.entered
    assert len(series(run.hub)["train/loss"]) == 2 + LENGTH


def test_a_control_subscriber_that_fails_ends_the_run() -> None:
    run = Run()
    run.hub.on("train/loss", role="control")(fail)
    with pytest.raises(ControlFailedError):
        run.go(1)
    assert run.trainer.state.iteration == 1
    assert not run.hub.entered


def test_ignite_055_swallows_exceptions_once_their_last_handler_is_removed_and_ours_does_not_bring_that_about() -> None:
    assert ignite.__version__ == "0.5.5"
    trainer = Engine(fail)
    with trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None):
        pass
    trainer.run([1])  # nobody handles it, and nothing is raised
    trainer = Engine(fail)
    with HubHandler(MessageHub("run")).attach(trainer):
        pass
    with pytest.raises(ArithmeticError):
        trainer.run([1])


# --- state


@pytest.mark.parametrize("before", [True, False])
def test_a_checkpoint_holds_what_came_before_it_whichever_handler_was_attached_first(
    tmp_path: Path, before: bool
) -> None:
    run = Run()
    rule = EarlyStopping("val/accuracy", mode="max", patience=9)
    run.hub.attach(rule)
    saver = run.saver(tmp_path)
    if not before:
        run.attach()
    for engine, event in (
        (run.trainer, Events.ITERATION_COMPLETED(once=2)),
        (run.evaluator, Events.COMPLETED),
        (run.trainer, Events.EPOCH_COMPLETED),
    ):
        engine.add_event_handler(event, lambda: saver(run.trainer))
    if before:
        run.attach()
    RunningAverage(output_transform=lambda output: output["loss"]).attach(run.trainer, "smooth")
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, run.evaluate)
    run.trainer.run(digits(0))
    states = {}
    for file in tmp_path.iterdir():
        hub, loaded = MessageHub("other"), EarlyStopping("val/accuracy", mode="max", patience=9)
        hub.attach(loaded)
        HubHandler(hub).load_state_dict(torch.load(file, weights_only=True)["hub"])
        states[file.name] = {key: len(values) for key, values in series(hub).items()}, loaded.state_dict()
    counts, rules = zip(*(states[f"checkpoint_{step}.pt"] for step in (2, LENGTH)), strict=True)
    assert counts[0] == {"train/loss": 2, "train/right": 2}
    assert counts[1] == {
        "train/loss": LENGTH,
        "train/right": LENGTH,
        "val/accuracy": 1,
        "val/loss": 1,
        "train/epoch/smooth": 1,
    }
    assert rules[1] == rule.state_dict()


def main(folder: Path, kill_at: int) -> tuple[int, str, int]:
    """Train for six epochs, from the newest checkpoint on, or until ``kill -9`` after an iteration.

    Return at which iteration it ended, why, and how often the journal was rewound.
    """
    run = Run(journal=Journal(folder / "journal"))
    run.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.2))
    rewound: list[Rewound] = []
    run.hub.on(Rewound, role="control")(rewound.append)
    saved = sorted(folder.glob("checkpoint_*.pt"), key=lambda path: int(path.stem.split("_")[1]))
    if saved:
        Checkpoint.load_objects(run.parts, saved[-1])
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, run.saver(folder))  # before the evaluation

    def kill() -> None:
        if run.trainer.state.iteration == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    run.trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda: None if run.trainer.state.epoch == 1 else run.evaluate()
    )
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
    run.attach()
    run.trainer.run(digits(0), max_epochs=6)
    return run.trainer.state.iteration, run.hub.stop_reason, len(rewound)


def killed(folder: Path, kill_at: int) -> None:
    """Train in another process, which is killed."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder), str(kill_at)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    "kills", [(LENGTH + 3,), pytest.param((LENGTH + 3, 2 * LENGTH + 2, 4 * LENGTH - 1), marks=pytest.mark.slow)]
)
def test_a_run_that_was_killed_comes_to_the_same_series_and_stops_where_it_would_have(
    tmp_path: Path, kills: tuple[int, ...]
) -> None:
    whole = main(tmp_path / "whole", 0)
    assert whole[0] == 4 * LENGTH
    for kill_at in kills:
        killed(tmp_path / "run", kill_at)
    assert main(tmp_path / "run", 0) == (*whole[:2], 1)
    expected, got = (series(recover(tmp_path / name)) for name in ("whole", "run"))
    assert len(expected["train/loss"]) == 4 * LENGTH
    assert got == expected


def test_a_stop_is_resumed(tmp_path: Path) -> None:
    run = Run()
    run.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=1, min_delta=0.5))
    run.trainer.add_event_handler(Events.COMPLETED, run.saver(tmp_path))
    run.go(8)
    steps = run.trainer.state.iteration
    other = Run()
    Checkpoint.load_objects(other.parts, tmp_path / f"checkpoint_{steps}.pt")
    other.attach()
    other.trainer.run(digits(0), max_epochs=8)
    assert other.trainer.state.iteration == steps == 2 * LENGTH


def test_a_checkpoint_is_refused_while_the_journal_is_written(tmp_path: Path) -> None:
    run = Run(journal=Journal(tmp_path / "journal"))
    state = run.handler.state_dict()
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: run.handler.load_state_dict(state))
    with pytest.raises(LifecycleError, match="before the trainer runs"):
        run.go(1)


# --- ranks


def ranks(local_rank: int, folder: Path) -> None:
    """Train on two ranks with other data each."""
    run = Run(journal=Journal(folder / "journal") if local_rank == 0 else None, checkpoint=lambda _: saver(run.trainer))
    run.model = idist.auto_model(run.model)
    saver = run.saver(folder / "saved")
    if local_rank == 0:
        run.hub.attach(ReduceLROnPlateau(run.optimizer, "val/accuracy", mode="max", threshold=10.0, patience=0))
        run.hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.5))

        @run.trainer.on(Events.ITERATION_COMPLETED(once=3))
        def ask() -> None:
            run.hub.request(ParameterChangeRequested(name="momentum", value=0.5))
            run.hub.request(CheckpointRequested())

    run.attach()
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, run.evaluate)
    run.trainer.run(digits(2 * local_rank), max_epochs=8)
    group = run.optimizer.param_groups[0]
    weight = next(iter(run.model.parameters())).sum().item()
    found = (
        run.trainer.state.iteration,
        group["lr"],
        group["momentum"],
        weight,
        len(run.hub.log_scalars),
        run.hub.entered,
    )
    (folder / f"rank{local_rank}").write_text(repr(found))
    idist.barrier()  # so that neither takes the group apart while the other is still in it


@pytest.mark.slow
def test_two_ranks_stop_together_with_the_same_parameters_and_rank_zero_alone_publishes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with idist.Parallel(backend="gloo", nproc_per_node=2, master_port=port) as parallel:
        parallel.run(ranks, tmp_path)
    zero, one = (literal_eval((tmp_path / f"rank{rank}").read_text()) for rank in range(2))
    assert zero[:4] == one[:4]
    assert zero[0] == 3 * LENGTH
    assert zero[1] == pytest.approx(0.005)
    assert zero[2] == 0.5
    assert (zero[4] > 0, one[4]) == (True, 0)
    assert not zero[5]
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["checkpoint_3.pt"]
    assert len(series(recover(tmp_path))["train/loss"]) == 3 * LENGTH


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settle_every": 0}, "settle_every must be a number of steps above 0"),
        ({"journal": "run/journal"}, "journal must be a Journal"),
        ({"optimizer": 3}, "must be an optimizer of torch, or several, got int"),
        ({"checkpoint": "folder"}, "checkpoint must be callable, got 'folder'"),
        ({"output_transform": {}}, "output_transform must be callable"),
        ({"tag": ""}, "tag must be a name like 'train'"),
    ],
)
def test_a_handler_of_something_else_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        HubHandler(MessageHub("run"), **options)


def test_other_hubs_and_engines_are_refused() -> None:
    trainer = Engine(lambda engine, batch: 0.0)
    with pytest.raises(ArgumentError, match="hub must be asynchub's MessageHub, got str"):
        HubHandler("hub")  # type: ignore[arg-type]
    handler = HubHandler(MessageHub("run"))
    with pytest.raises(ArgumentError, match="trainer must be an ignite Engine, got str"):
        handler.attach("trainer")
    with pytest.raises(ArgumentError, match="val must be an ignite Engine, got int"):
        handler.attach(trainer, {"val": 3})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="evaluators must be a dict like"):
        handler.attach(trainer, trainer)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="the trainer is among the evaluators"):
        handler.attach(trainer, {"train": trainer})
    handler.attach(trainer)
    with pytest.raises(LifecycleError, match="attached already"):
        handler.attach(trainer)
    with pytest.raises(StateDictError, match="a dict with bytes as 'hub'"):
        handler.load_state_dict({"hub": [1, 2]})


def test_without_ignite_the_error_says_what_to_install() -> None:
    code = "import sys\nsys.modules['ignite'] = None\nimport asynchub.integrations.ignite"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "python -m pip install 'asynchub[ignite]'" in done.stderr


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
