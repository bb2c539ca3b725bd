"""asynchub in the Trainer of Hugging Face transformers: ``HubTrainerCallback`` has a hub live in it.

    trainer = Trainer(..., callbacks=[HubTrainerCallback(hub)])

Metrics: the hub gets what the Trainer logs, under its names (``loss``, ``eval_loss``, ``epoch``) and at its
    ``global_step``, when it logs it. The runtime info ``epoch`` is the number of whole epochs before this one.
Waiting: the callback reads no tensor. The Trainer itself reads the loss whenever it logs, and at each step if
    ``logging_nan_inf_filter`` is on, as it is by default: that also replaces what is not finite in the log.
Order: logs and results of an evaluation are published and settled before the Trainer saves a checkpoint of the step.
Ranks: only rank zero publishes, settles and keeps a journal. The control flags of the Trainer are of each process:
    what was decided on rank zero, all ranks do at the same settle point; no GPU is waited for.
Resume: the hub's state is in ``trainer_state.json``, as compressed bytes in base64, which the Trainer writes last: a
    checkpoint that has it is whole. It is taken in when training is resumed, wherever the checkpoint lies.
"""

from __future__ import annotations

import base64
import binascii
import weakref
import zlib
from pathlib import Path
from typing import Any

from asynchub.errors import ArgumentError, StateError
from asynchub.events import CheckpointSaved
from asynchub.every import EPOCH_KEY
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import Hosted, change_parameter, hub_from_bytes, hub_to_bytes, serve
from asynchub.integrations.ranks import Ranks
from asynchub.integrations.schedules import Schedules
from asynchub.requests import CheckpointRequested, ParameterChangeRequested
from asynchub.taps import Tap

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise ImportError(
        "asynchub.integrations.transformers needs transformers: python -m pip install 'asynchub[transformers]'"
    ) from error

__all__ = ("HubTrainerCallback",)


class HubTrainerCallback(TrainerCallback, ExportableState):
    """A callback that has a hub live in a ``Trainer``: entered for training, settled as it goes on, resumed with it.

    It settles at the end of steps and epochs and when results of an evaluation are there; in one process also when
    the Trainer has logged. A request to stop sets ``control.should_training_stop``, a ``CheckpointRequested``
    ``control.should_save``; a ``ParameterChangeRequested`` is set in the optimizer, and the schedule of the learning
    rate goes on from it. The Trainer tells its callbacks nothing when training raises: then the hub is left at the end
    of the program, or with ``with hub: trainer.train()`` at once.

    Args:
        hub: the hub.
        journal: a ``Journal`` that is attached for the training, after the checkpoint was read that it goes on from.
        settle_every: optimizer steps from one settle point to the next.
        prefix: put before each key.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    def __init__(self, hub: MessageHub, *, journal: Tap | None = None, settle_every: int = 1, prefix: str = "") -> None:
        self._hosted = Hosted(hub, journal, settle_every)
        if not isinstance(prefix, str):
            raise ArgumentError(f"prefix must be a string, such as 'run/', got {prefix!r:.80}")
        self._prefix = prefix
        self._every = settle_every
        self._settled_at = 0
        self._trained = self._trains = False  # on any rank
        self._wanted: CheckpointRequested | None = None
        self._optimizer: Any = None
        self._ranks: Ranks | None = None
        self._schedules = Schedules(())
        # With restore_callback_states_from_checkpoint, the Trainer replaces each callback by a new one of its class,
        # made of JSON; and it mixes up the states of two callbacks of one class. So each has a class of its own, which
        # gives back the callback that there is.
        itself = weakref.ref(self)
        own = {"__new__": lambda kind, **_: itself(), "__init__": lambda one, **_: None, "__doc__": type(self).__doc__}
        self.__class__ = type(f"HubTrainerCallback({hub.instance_name})", (type(self),), own)

    @property
    def hub(self) -> MessageHub:
        """The hub."""
        return self._hosted.hub

    # --- living

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Take in the state of the checkpoint, attach the journal, enter the hub, and heed a stop that was resumed.

        Raises:
            JournalError: the folder of the journal has another writer, or is of another run.
            StateError: the checkpoint's state of the hub is damaged.
        """
        self._optimizer, self._settled_at = kwargs.get("optimizer"), state.global_step
        self._trained = self._trains = True
        scheduler = kwargs.get("lr_scheduler")
        self._schedules = Schedules([] if scheduler is None else [scheduler])
        zero = state.is_world_process_zero
        self._ranks = Ranks(zero, [self._optimizer]) if args.world_size > 1 else None
        if zero:
            hub = self.hub
            self._hosted.end()  # if it raised the last time, nobody has told us
            if state.global_step > 0:
                self._resume(state)
            serve(hub, CheckpointRequested, self._want)
            serve(hub, ParameterChangeRequested, self._change)
            self._hosted.begin(state.global_step)
            hub.update_info("max_iters", state.max_steps)
            hub.update_info("max_epochs", state.num_train_epochs)
        return self._meet(state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the hub.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
        """
        self._trains = False
        self._hosted.end()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Publish which epoch it is, as the runtime info ``epoch``."""
        if state.is_world_process_zero:
            self.hub.update_info(EPOCH_KEY, int(round(state.epoch or 0, 6)), step=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Settle, if it is time to."""
        if state.is_world_process_zero:
            self.hub.step = state.global_step
        if state.global_step - self._settled_at >= self._every:
            return self._meet(state, control)
        if self._ranks is None:
            self._schedules.watch()
            self.hub.apply_requests()
            self._schedules.follow()
            return self._heed(control, self.hub.stop_requested, self._wanted is not None)
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Settle."""
        return self._meet(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Publish what is logged, and settle, if there is one process: a program may log on one rank alone."""
        if state.is_world_process_zero:
            given, kept = logs or {}, dict(state.log_history[-1]) if state.log_history else {}
            if given.items() <= kept.items():  # PrinterCallback takes something away from those after it
                given = {key: value for key, value in kept.items() if key != "step" or key in given}
            self._publish(given, state.global_step)
        return self._meet(state, control) if self._trains and self._ranks is None else control

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Settle; what it came to is logged before."""
        return self._meet(state, control) if self._trains else control

    def on_predict(self, args: Any, state: Any, control: Any, metrics: dict[str, Any], **kwargs: Any) -> None:
        """Publish what a prediction came to, which the Trainer does not log."""
        if state.is_world_process_zero:
            self._publish(metrics, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Publish that there is a new checkpoint."""
        if state.is_world_process_zero and self._hosted.training:
            request, self._wanted = self._wanted, None
            reason = "" if request is None else request.reason
            path = Path(args.output_dir, f"checkpoint-{state.global_step}")
            self.hub.publish(CheckpointSaved(path=str(path) if path.is_dir() else "", reason=reason))

    # --- metrics and control

    def _publish(self, logs: dict[str, Any], step: int) -> None:
        metrics = {f"{self._prefix}{key}": value for key, value in logs.items()}
        if self._hosted.training:
            self._hosted.publish(metrics, step)
            return
        by_itself = self._hosted if self._trained else Hosted(self.hub)
        by_itself.begin(max(self.hub.step, step))  # so that observers get it
        by_itself.publish(metrics, step)
        by_itself.end()

    def _meet(self, state: Any, control: Any) -> Any:
        """Settle, on rank zero, and do on all ranks what was decided there."""
        self._settled_at = state.global_step
        self._schedules.watch()
        if self._ranks is not None:
            self._ranks.watch()
        stop = self._hosted.settle() if self._hosted.training else False
        save = self._wanted is not None
        if self._ranks is not None:
            stop, save = self._ranks.tell(stop, save)
        self._schedules.follow()
        return self._heed(control, stop, save)

    def _heed(self, control: Any, stop: bool, save: bool) -> Any:
        control.should_training_stop = control.should_training_stop or stop
        control.should_save = control.should_save or save
        return control

    def _want(self, request: CheckpointRequested) -> None:
        self._wanted = request

    def _change(self, request: ParameterChangeRequested) -> None:
        change_parameter(self._optimizer.param_groups, request)

    # --- state

    def state(self) -> dict[str, Any]:
        """Return the hub's state, for ``trainer_state.json``; empty while nothing is trained."""
        if not self._hosted.training:
            return {"args": {}, "attributes": {}}
        data = zlib.compress(hub_to_bytes(self.hub), 1)
        return {"args": {}, "attributes": {}, "hub": base64.b64encode(data).decode("ascii")}

    def _resume(self, state: Any) -> None:
        """Take in the hub's state of a checkpoint, if it holds one."""
        held = state.stateful_callbacks.get(type(self).__name__)
        text = held.get("hub") if isinstance(held, dict) else None
        if text is None:
            return
        try:
            data = zlib.decompress(base64.b64decode(text, validate=True))
        except (TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise StateError(f"trainer_state.json holds no state of hub {self.hub.instance_name!r}: {error}") from error
        hub_from_bytes(self.hub, data)
