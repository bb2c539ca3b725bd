"""A real Trainer of transformers with a hub in it: the same log, the same run, stopped, resumed, killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
import transformers
from sklearn.datasets import load_digits
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import asynchub
from asynchub.errors import ArgumentError, JournalError, StateError
from asynchub.events import CheckpointSaved, Event, InfoUpdated, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.integrations.transformers import HubTrainerCallback
from asynchub.journal.journal import Journal
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

ROOT = Path(__file__).parent.parent.parent
TIMES = ("runtime", "per_second")
Series = dict[str, list[tuple[int | None, float]]]
"""By key, step and value of each that was published, in order."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch from spreading what takes microseconds over cores that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Digits(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Some of the digits."""

    def __init__(self, first: int, count: int) -> None:
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images[first : first + count] / 16, dtype=torch.float32)
        self.labels = torch.tensor(labels[first : first + count])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


class Classifier(torch.nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.layer(images)
        return {"loss": torch.nn.functional.cross_entropy(scores, labels), "logits": scores}


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def trainer(folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 16,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return Trainer(
        Classifier(),
        TrainingArguments(**{**defaults, **options}),
        train_dataset=Digits(0, 160),
        eval_dataset=Digits(160, 80),
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )


def trained(folder: Path, hub: MessageHub, *callbacks: TrainerCallback, resume: Any = None, **options: Any) -> Trainer:
    """Train with a hub."""
    journal = options.pop("journal", None)
    run = trainer(folder, HubTrainerCallback(hub, journal=journal), *callbacks, **options)
    run.train(resume_from_checkpoint=resume)
    return run


def series(hub: MessageHub, times: bool = False) -> Series:
    """Return what was published, without what takes another time in each run."""
    events = hub.subscribe(ScalarUpdated, replay="all")
    events.close()

    async def read() -> Series:
        found: Series = {}
        async for event in events:
            if times or not event.key.endswith(TIMES):
                found.setdefault(event.key, []).append((event.step, event.value))
        return found

    return anyio.run(read)


def logged(run: Trainer) -> Series:
    """Return what the Trainer itself has kept."""
    found: Series = {}
    for line in run.state.log_history:
        for key, value in line.items():
            if key != "step":
                found.setdefault(key, []).append((int(line["step"]), value))
    return found


class Seen:
    """An observer that keeps all that it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


# --- metrics


KINDS: list[dict[str, Any]] = [
    {},
    {"logging_steps": 4, "eval_strategy": "steps", "eval_steps": 7},
    {"gradient_accumulation_steps": 3},
    {"logging_strategy": "epoch", "logging_first_step": True, "eval_on_start": True},
    {"max_steps": 13, "lr_scheduler_type": "cosine", "warmup_steps": 3},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_hub_gets_what_the_trainer_logs(tmp_path: Path, kind: dict[str, Any]) -> None:
    hub = MessageHub("logged")
    run = trained(tmp_path, hub, **kind)
    assert {"loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy", "train_loss", "epoch"} <= logged(
        run
    ).keys()
    assert series(hub, times=True) == logged(run)
    assert hub.step == run.state.global_step


def test_the_run_is_the_same_with_and_without_a_hub(tmp_path: Path) -> None:
    alone = trainer(tmp_path)
    alone.train()
    hub = MessageHub("same")
    hub.attach(EarlyStopping("eval_loss", patience=50))
    run = trained(tmp_path, hub)
    plain = {key: values for key, values in logged(alone).items() if not key.endswith(TIMES)}
    assert {key: values for key, values in logged(run).items() if not key.endswith(TIMES)} == plain
    assert torch.equal(run.model.layer.weight, alone.model.layer.weight)


def test_a_prefix_stands_before_each_key(tmp_path: Path) -> None:
    hub = MessageHub("prefixed")
    run = trainer(tmp_path, HubTrainerCallback(hub, prefix="run/"), max_steps=2)
    run.train()
    assert series(hub, times=True) == {f"run/{key}": values for key, values in logged(run).items()}


def test_epochs_and_lengths_are_runtime_infos(tmp_path: Path) -> None:
    hub, seen = MessageHub("infos"), Seen()
    hub.attach(seen, InfoUpdated)
    trained(tmp_path, hub)
    infos = [(event.key, event.value, event.step) for event in seen.of(InfoUpdated)]
    assert [(value, step) for key, value, step in infos if key == "epoch"] == [(0, 0), (1, 10), (2, 20)]
    assert {key: value for key, value, _ in infos if key != "epoch"} == {"max_iters": 30, "max_epochs": 3}


def test_an_evaluation_and_a_prediction_by_themselves_are_published(tmp_path: Path) -> None:
    hub, seen = MessageHub("alone"), Seen()
    hub.attach(seen, ScalarUpdated)
    run = trainer(tmp_path, HubTrainerCallback(hub, journal=Journal(tmp_path / "journal")))
    evaluated = run.evaluate()
    assert not hub.entered
    run.train()
    tested = run.predict(Digits(300, 40)).metrics
    found = {event.key: event.value for event in seen.events}
    assert found["test_loss"] == tested["test_loss"]
    assert series(hub)["eval_loss"][0] == (0, evaluated["eval_loss"])
    assert Counter(event.key for event in seen.events)["eval_loss"] == 4
    assert not hub.entered
    assert series(asynchub.recover(tmp_path))["test_loss"] == [(30, tested["test_loss"])]


# --- reading


class Reads(TorchDispatchMode):  # type: ignore[misc]  # torch gives it no types
    """Counts the reads of a tensor as a number, which wait when it is on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            frame: Any = sys._getframe(1)
            while frame is not None and _package(frame) not in ("asynchub", "transformers"):
                frame = frame.f_back
            self.by["another" if frame is None else _package(frame)] += 1
        return function(*args, **(kwargs or {}))


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


@pytest.mark.parametrize("filters", [False, True])
def test_no_tensor_is_read_that_the_trainer_does_not_read(tmp_path: Path, filters: bool) -> None:
    found = []
    for callbacks in ([], [HubTrainerCallback(MessageHub("reads"))]):
        run = trainer(tmp_path, *callbacks, logging_steps=10, logging_nan_inf_filter=filters)
        with Reads() as reads:
            run.train()
        found.append(reads.by)
    assert found[0] == found[1]
    assert found[0]["transformers"] >= (60 if filters else 3)  # its filter reads the loss at each step


# --- control


def test_a_rule_stops_at_the_step_at_which_the_trainers_own_does(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "num_train_epochs": 30,
        "learning_rate": 0.5,
        "metric_for_best_model": "accuracy",
        "load_best_model_at_end": True,
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }
    alone = trainer(tmp_path / "alone", EarlyStoppingCallback(2), **options)
    alone.train()
    hub = MessageHub("early")
    hub.attach(EarlyStopping.like("hf", "eval_accuracy", early_stopping_patience=2, greater_is_better=True))
    run = trained(tmp_path / "ours", hub, **options)
    assert run.state.global_step == alone.state.global_step < 300
    assert "eval_accuracy" in hub.stop_reason


@pytest.mark.parametrize(("settle_every", "last"), [(1, 6), (4, 6)])
def test_a_stop_ends_training_in_the_step_whose_log_decided_it(tmp_path: Path, settle_every: int, last: int) -> None:
    hub = MessageHub("stop")

    @hub.on("loss", role="control")
    def decide(event: ScalarUpdated) -> None:
        if event.step == 6:
            hub.request_stop("seen")

    run = trainer(tmp_path, HubTrainerCallback(hub, settle_every=settle_every))
    run.train()
    assert run.state.global_step == last
    assert not hub.entered


class Asks(TrainerCallback):
    """Asks for something when a step begins, and keeps the learning rate of each step."""

    def __init__(self, step: int, *asked: Any, hub: MessageHub) -> None:
        self.step, self.asked, self.hub, self.rates = step, asked, hub, []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        if state.global_step == self.step and state.is_world_process_zero:
            for request in self.asked:
                self.hub.request(request)


def test_a_learning_rate_that_is_asked_for_is_set_and_a_wrong_one_refused(tmp_path: Path) -> None:
    hub, seen = MessageHub("lr"), Seen()
    hub.attach(seen, RequestApplied, RequestRefused)
    change = ParameterChangeRequested(name="lr", value=0.125, reason="larger")
    asks = Asks(3, change, ParameterChangeRequested(name="rate", value=0.5), hub=hub)
    trained(tmp_path, hub, asks, max_steps=8, lr_scheduler_type="constant")
    assert asks.rates == [0.05] * 4 + [0.125] * 4
    assert [event.reason for event in seen.of(RequestApplied)] == ["larger"]
    assert "it has" in seen.of(RequestRefused)[0].error


def test_the_schedule_goes_on_from_a_learning_rate_that_was_set(tmp_path: Path) -> None:
    hub = MessageHub("linear")
    plain = Asks(-1, hub=hub)
    trainer(tmp_path, plain, max_steps=10).train()
    at = plain.rates[5]
    half = Asks(4, ParameterChangeRequested(name="lr", value=at / 2), hub=hub)
    trained(tmp_path, hub, half, max_steps=10, save_strategy="steps", save_steps=7)
    assert half.rates == pytest.approx([*plain.rates[:5], *(rate / 2 for rate in plain.rates[5:])])
    again = MessageHub("linear")
    resumed = Asks(-1, hub=again)
    trained(tmp_path, again, resumed, resume=str(tmp_path / "out" / "checkpoint-7"), max_steps=10)
    assert resumed.rates == pytest.approx(half.rates[7:])  # the checkpoint has the schedule


def test_what_another_callback_takes_from_the_log_is_published(tmp_path: Path) -> None:
    """transformers 5.24.0: PrinterCallback takes ``total_flos`` from what the callbacks after it get."""
    assert transformers.__version__ == "5.24.0"
    hub, after = MessageHub("taken"), []

    class After(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            after.append("total_flos" in logs)

    run = trainer(tmp_path, max_steps=2, eval_strategy="no")
    run.add_callback(HubTrainerCallback(hub))
    run.add_callback(After())
    run.train()
    assert after[-1] is False
    assert "total_flos" in series(hub)


def test_what_is_logged_past_the_trainer_is_published_as_it_is(tmp_path: Path) -> None:
    hub = MessageHub("by hand")

    class Adds(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            logs["added"] = 1.0

    run = trainer(tmp_path, Adds(), HubTrainerCallback(hub), max_steps=2, eval_strategy="no", logging_steps=2)
    run.train()
    before = len(series(hub)["loss"])
    run.callback_handler.on_log(run.args, run.state, run.control, {"mine": 2.0})
    assert series(hub)["mine"] == [(2, 2.0)]
    assert len(series(hub)["added"]) == 3
    assert len(series(hub)["loss"]) == before == 1


def test_a_rule_may_set_the_learning_rate_itself(tmp_path: Path) -> None:
    hub = MessageHub("plateau")

    class Rule(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            hub.attach(ReduceLROnPlateau(kwargs["optimizer"], "eval_loss", patience=0, mode="max", factor=0.5))

    run = trained(tmp_path, hub, Rule(), num_train_epochs=4, lr_scheduler_type="constant")
    assert run.optimizer.param_groups[0]["lr"] == 0.05 * 0.5**3


def test_a_checkpoint_that_is_asked_for_is_written_and_can_be_resumed(tmp_path: Path) -> None:
    hub, seen = MessageHub("asked"), Seen()
    hub.attach(seen, CheckpointSaved)
    run = trained(tmp_path, hub, Asks(13, CheckpointRequested(reason="good"), hub=hub))
    (saved,) = seen.of(CheckpointSaved)
    assert (Path(saved.path).name, saved.reason) == ("checkpoint-14", "good")
    back = MessageHub("asked")
    trained(tmp_path, back, resume=saved.path)
    wanted = {key: values for key, values in series(hub).items() if not key.startswith("train_")}
    assert {key: values for key, values in series(back).items() if not key.startswith("train_")} == wanted
    assert run.state.global_step == back.step == 30


# --- resuming


class Dies(TrainerCallback):
    """Ends the process as ``kill -9`` does, or training by an error."""

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step, self.error = step, error

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            if self.error is not None:
                raise self.error
            signal.raise_signal(signal.SIGKILL)


SAVES: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}


def untimed(hub: MessageHub) -> Series:
    """Return what a resumed run has in common with one that ran through; the end sums up what was run."""
    return {key: values for key, values in series(hub).items() if not key.startswith("train_")}


@pytest.mark.parametrize("restores", [False, True])
def test_a_resumed_run_is_the_run(tmp_path: Path, restores: bool) -> None:
    whole, first, second = (MessageHub("run") for _ in range(3))
    for hub in (whole, first, second):
        hub.attach(EarlyStopping("loss", patience=20, mode="max"))
    run = trained(tmp_path / "whole", whole, **SAVES)
    with first, pytest.raises(ZeroDivisionError):
        trained(tmp_path, first, Dies(15, ZeroDivisionError()), **SAVES)
    callback = HubTrainerCallback(second)
    resumed = trainer(tmp_path, callback, restore_callback_states_from_checkpoint=restores, **SAVES)
    resumed.train(resume_from_checkpoint=True)
    assert untimed(second) == untimed(whole)
    assert second.stop_reason == whole.stop_reason != ""
    assert resumed.state.global_step == run.state.global_step < 30
    assert second.run_id == first.run_id
    assert [one for one in resumed.callback_handler.callbacks if isinstance(one, HubTrainerCallback)] == [callback]


def test_two_hubs_in_one_trainer_are_resumed_each_with_its_own_state(tmp_path: Path) -> None:
    hubs = [MessageHub("one"), MessageHub("two")]
    callbacks = [HubTrainerCallback(hub, prefix=f"{hub.instance_name}/") for hub in hubs]
    trainer(tmp_path, *callbacks, max_steps=8, **SAVES).train()
    back = [MessageHub("one"), MessageHub("two")]
    again = [HubTrainerCallback(hub, prefix=f"{hub.instance_name}/") for hub in back]
    run = trainer(tmp_path, *again, restore_callback_states_from_checkpoint=True, max_steps=8, **SAVES)
    run.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    for hub, resumed in zip(hubs, back, strict=True):
        key = f"{hub.instance_name}/loss"
        assert series(resumed)[key] == series(hub)[key]


def test_a_checkpoint_may_have_been_moved(tmp_path: Path) -> None:
    hub = MessageHub("moved")
    trained(tmp_path, hub, max_steps=8, **SAVES)
    shutil.move(tmp_path / "out" / "checkpoint-4", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "out")
    back = MessageHub("moved")
    trained(tmp_path / "new", back, resume=str(tmp_path / "elsewhere"), max_steps=8, **SAVES)
    assert untimed(back) == untimed(hub)


def test_a_run_that_was_stopped_and_resumed_trains_one_step_more(tmp_path: Path) -> None:
    """transformers 5.24.0 asks whether to stop after a step, not before the first."""
    assert transformers.__version__ == "5.24.0"

    class Saves(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_save = True
            return control

    hub = MessageHub("run")
    hub.attach(EarlyStopping("loss", patience=1, mode="max"))
    stopped = trained(tmp_path, hub, Saves()).state.global_step
    back = MessageHub("run")
    resumed = trained(tmp_path, back, resume=str(tmp_path / "out" / f"checkpoint-{stopped}"))
    assert back.stop_reason == hub.stop_reason != ""
    assert resumed.state.global_step == stopped + 1 < 30
    assert [step for step, _ in series(back)["loss"]] == list(range(1, stopped + 2))


KILLED = """
import sys
from pathlib import Path

import torch
from tests.integrations.test_transformers import SAVES, Dies, Journal, MessageHub, trained

torch.set_num_threads(1)
folder = Path(sys.argv[1])
trained(folder, MessageHub("run"), Dies(int(sys.argv[2])), journal=Journal(folder / "journal"), **SAVES)
"""


def test_a_run_killed_and_resumed_has_the_series_of_one_that_was_not(tmp_path: Path) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), "18"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole, hub, seen = MessageHub("whole"), MessageHub("run"), Seen()
    trained(tmp_path / "whole", whole)
    hub.attach(seen)
    trained(tmp_path, hub, journal=Journal(tmp_path / "journal"), resume=True, **SAVES)
    assert untimed(hub) == untimed(whole)
    assert len(seen.of(Rewound)) == 1
    assert [event.step for event in seen.of(ScalarUpdated) if event.key == "loss"] == list(range(17, 31))
    assert series(asynchub.recover(tmp_path)) == series(hub)


def test_a_journal_of_another_run_and_a_damaged_state_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, MessageHub("first"), journal=Journal(tmp_path / "journal"), max_steps=4, **SAVES)
    hub = MessageHub("second")
    with pytest.raises(JournalError, match="journal of run"):
        trained(tmp_path, hub, journal=Journal(tmp_path / "journal"), max_steps=4)
    assert not hub.entered
    file = tmp_path / "out" / "checkpoint-4" / "trainer_state.json"
    held = json.loads(file.read_text())
    for damaged in ("not base64!", "AAAA", 7, ["x"]):
        held["stateful_callbacks"]["HubTrainerCallback(first)"]["hub"] = damaged
        file.write_text(json.dumps(held))
        with pytest.raises(StateError, match="holds no state of hub 'first'"):
            trained(tmp_path, MessageHub("first"), resume=True, max_steps=8)


# --- however it ends


def test_an_error_in_training_leaves_the_hub_to_the_program(tmp_path: Path) -> None:
    hub, seen = MessageHub("error"), Seen()
    hub.attach(seen, "loss")
    callback = HubTrainerCallback(hub, journal=Journal(tmp_path / "journal"))
    with hub, pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callback, Dies(7, ZeroDivisionError()), **SAVES).train()
    assert not hub.entered
    assert [event.step for event in seen.events] == list(range(1, 8))
    trainer(tmp_path, callback, **SAVES).train(resume_from_checkpoint=True)  # the journal is let go of, and rewound
    assert [step for step, _ in series(hub)["loss"]] == list(range(1, 31))
    assert not hub.entered


def test_training_twice_goes_on_with_hub_and_journal(tmp_path: Path) -> None:
    hub, seen = MessageHub("twice"), Seen()
    hub.attach(seen, "loss")
    run = trainer(tmp_path, HubTrainerCallback(hub, journal=Journal(tmp_path / "journal")), max_steps=3)
    run.train()
    run.train()
    assert [event.step for event in seen.events] == [1, 2, 3] * 2
    assert series(asynchub.recover(tmp_path)) == series(hub)


def test_a_hub_that_the_program_entered_stays_entered(tmp_path: Path) -> None:
    hub = MessageHub("mine")
    with hub:
        trained(tmp_path, hub, max_steps=2)
        assert hub.entered


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    hub = MessageHub("refused")
    for wrong in (None, "hub", HubTrainerCallback):
        with pytest.raises(ArgumentError, match="hub must be"):
            HubTrainerCallback(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="prefix must be"):
        HubTrainerCallback(hub, prefix=None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="journal must be a Journal"):
        HubTrainerCallback(hub, journal=tmp_path / "journal")  # type: ignore[arg-type]
    for every in (0, -1, 1.5, True, "1"):
        with pytest.raises(ArgumentError, match="settle_every"):
            HubTrainerCallback(hub, settle_every=every)  # type: ignore[arg-type]


# --- several processes


RANKS = """
import os
import sys
from pathlib import Path

import torch
from tests.integrations.test_transformers import *

torch.set_num_threads(1)
folder = Path(sys.argv[1])
hub = MessageHub("ranks")
asked = Asks(
    6, ParameterChangeRequested(name="weight_decay", value=0.25), CheckpointRequested(), hub=hub
)


class Rule(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        hub.attach(ReduceLROnPlateau(kwargs["optimizer"], "eval_loss", patience=0, mode="max", factor=0.5))

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 12 and state.is_world_process_zero:
            hub.request_stop("enough")


callback = HubTrainerCallback(hub, journal=Journal(folder / "journal"), settle_every=int(sys.argv[2]))
run = trainer(folder, Rule(), asked, callback, num_train_epochs=9, ddp_backend="gloo")
run.train()
group = run.optimizer.param_groups[0]
lines = [*map(str, asked.rates), str(group["weight_decay"]), str(run.state.global_step)]
(folder / f"rank{run.args.process_index}.txt").write_text("\\n".join([*lines, f"{len(hub.log_scalars)}"]))
if run.is_world_process_zero():
    assert series(hub, times=True) == logged(run)
torch.distributed.barrier()
sys.stdout.flush()
os._exit(0)  # gloo's threads may abort a process that ends while the other one still has them
"""


LAUNCH = (sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


@pytest.mark.slow
@pytest.mark.parametrize("settle_every", [1, 3])
def test_all_ranks_do_what_was_decided_on_rank_zero(tmp_path: Path, settle_every: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    done = subprocess.run(
        [*LAUNCH, str(script), str(tmp_path), str(settle_every)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    zero, one = ((tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert zero[:-1] == one[:-1]
    assert zero[-3:-1] == ["0.25", {1: "13", 3: "13"}[settle_every]]
    assert one[-1] == "0" != zero[-1]
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 1
