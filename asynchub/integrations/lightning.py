"""asynchub in Lightning: ``HubCallback`` has a hub live in a ``Trainer``, ``HubLogger`` is a logger that never blocks.

    trainer = Trainer(logger=HubLogger(hub), callbacks=[HubCallback(hub)])

Metrics: with ``HubLogger`` the hub gets what every logger of Lightning gets: numbers, every ``log_every_n_steps``
    steps, with Lightning's steps; Lightning reads tensors for that, and waits for the GPU. Without it (``logger=False``), the
    callback publishes the same metrics as the tensors they are, so that nothing waits; and at the end of the step they
    are of, so that a rule acts on them in that step.
Order: a validation's results are published and settled before Lightning saves a checkpoint of it.
Ranks: only rank zero publishes, settles and keeps a journal. What it decides, the others learn at the end of the step.
Resume: the hub's state is in the checkpoint, as bytes, which ``torch.load(weights_only=True)`` takes. Nothing of it is
    pickled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from asynchub.errors import ArgumentError
from asynchub.events import CheckpointSaved
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import Hosted, change_parameter, hub_from_bytes, hub_to_bytes
from asynchub.requests import CheckpointRequested, ParameterChangeRequested
from asynchub.taps import Tap

try:
    from lightning.fabric.loggers.logger import rank_zero_experiment
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers.logger import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError as error:
    raise ImportError(
        "asynchub.integrations.lightning needs lightning: python -m pip install 'asynchub[lightning]'"
    ) from error

__all__ = ("HubCallback", "HubLogger")


class HubLogger(Logger):
    """A logger of Lightning that hands what it is given to a hub. It never waits for a reader of the hub.

    Args:
        hub: the hub.
        prefix: put before each key.

    Raises:
        ArgumentError: ``hub`` is not a hub.
    """

    def __init__(self, hub: MessageHub, prefix: str = "") -> None:
        super().__init__()
        if not isinstance(hub, MessageHub):
            raise ArgumentError(f"hub must be asynchub's MessageHub, got {type(hub).__name__}")
        self.hub = hub
        self.prefix = prefix
        self._hosted = Hosted(hub)
        self._after_log: Any = None

    @property
    def name(self) -> str:
        """The name of the hub."""
        return self.hub.instance_name

    @property
    def version(self) -> str:
        """The first digits of the run's identity."""
        return self.hub.run_id[:8]

    @property
    @rank_zero_experiment
    def experiment(self) -> MessageHub:
        """The hub."""
        return self.hub

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Publish metrics, as of the step that Lightning names."""
        at = self.hub.step if step is None else step
        self._hosted.publish({f"{self.prefix}{key}": value for key, value in metrics.items()}, at)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        """Publish hyperparameters as the runtime info ``hparams``."""
        given = vars(params) if isinstance(params, argparse.Namespace) else dict(params)
        self.hub.update_info(f"{self.prefix}hparams", {str(key): _storable(value) for key, value in given.items()})

    def save(self) -> None:
        """Settle, if a ``HubCallback`` has this hub live in the trainer: Lightning calls it after each log."""
        if self._after_log is not None:
            self._after_log()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Publish how it ended, ``success``, ``failed`` or ``finished``, as the runtime info ``lightning/status``."""
        self.hub.update_info(f"{self.prefix}lightning/status", str(status))

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Publish that there is a new checkpoint."""
        path = str(getattr(checkpoint_callback, "last_model_path", "") or checkpoint_callback.best_model_path)
        score = getattr(checkpoint_callback, "current_score", None)
        value = None
        if isinstance(score, torch.Tensor) and score.device.type == "cpu":  # reading another would wait for it
            value = float(score)
        self.hub.publish(CheckpointSaved(path=path, value=value, reason=type(checkpoint_callback).__name__))


class HubCallback(Callback):
    """A callback that has a hub live in a ``Trainer``: entered for the fit, settled as it goes on, resumed with it.

    It settles at the end of training batches and when results of a validation are there. A request to stop sets
    ``trainer.should_stop``; Lightning heeds it at the end of the batch, after ``min_epochs`` and ``min_steps``, and
    validates once more. A ``CheckpointRequested`` is answered by ``trainer.save_checkpoint``, a
    ``ParameterChangeRequested`` by setting it in the optimizers.

    Args:
        hub: the hub.
        journal: a ``Journal`` that is attached for the fit, after the checkpoint was read that it goes on from: what
            it has of later is rewound.
        settle_every: batches from one settle point to the next.
        checkpoints: folder of the checkpoints that are asked for; default ``trainer.default_root_dir / "requested"``.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    def __init__(
        self,
        hub: MessageHub,
        *,
        journal: Tap | None = None,
        settle_every: int = 1,
        checkpoints: str | PathLike[str] | None = None,
    ) -> None:
        self._hosted = Hosted(hub, journal, settle_every)
        self._folder = checkpoints
        self._wanted: CheckpointRequested | None = None
        self._publishes = False
        self._every = settle_every

    @property
    def hub(self) -> MessageHub:
        """The hub."""
        return self._hosted.hub

    # --- living

    @property
    def state_key(self) -> str:
        """What its state is found under in a checkpoint: that of one hub is not another's."""
        return f"asynchub.HubCallback({self.hub.instance_name})"

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Enter the hub."""
        if not trainer.is_global_zero:
            return
        loggers = [one for one in trainer.loggers if isinstance(one, HubLogger) and one.hub is self.hub]
        self._publishes = not loggers
        for logger in loggers:
            logger._after_log = lambda: self._settle(trainer)
        self.hub.on_request(CheckpointRequested, self._want)
        self.hub.on_request(ParameterChangeRequested, lambda request: _change(trainer, request))
        self._hosted.begin(trainer.global_step)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Say how far it is, and heed a stop that was resumed."""
        if trainer.is_global_zero:
            self.hub.step = trainer.global_step
            if trainer.max_epochs is not None and trainer.max_epochs > 0:
                self.hub.update_info("max_epochs", trainer.max_epochs)
        self._heed(trainer, self._settle(trainer))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Publish which epoch it is, as the runtime info ``epoch``."""
        if trainer.is_global_zero:
            self.hub.update_info("epoch", trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Publish the metrics of the batch, if no ``HubLogger`` does, and settle."""
        if trainer.is_global_zero:
            if self._publishes:
                self._publish(trainer, trainer.global_step)
            self._hosted.at(trainer.global_step)
        if (batch_idx + 1) % self._every == 0 or trainer.is_last_batch:
            self._heed(trainer, self.hub.stop_requested)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Settle."""
        self._heed(trainer, self._settle(trainer))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Publish the results of a validation, if no ``HubLogger`` does, and settle."""
        if trainer.sanity_checking or not self._hosted.training:
            return
        if trainer.is_global_zero and self._publishes:
            self._publish(trainer, trainer.global_step)
        self._heed(trainer, self._settle(trainer))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the hub.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
        """
        self._end(trainer, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the hub."""
        self._end(trainer, exception)

    def _end(self, trainer: Any, error: BaseException | None) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, HubLogger) and logger.hub is self.hub:
                logger._after_log = None
        self._hosted.end(error)

    # --- metrics and control

    def _publish(self, trainer: Any, step: int) -> None:
        """Publish what Lightning has for loggers at this moment, as it is."""
        metrics = trainer._logger_connector.metrics["log"] if trainer._results is not None else {}
        if metrics:
            self._hosted.publish(dict(metrics), step)

    def _settle(self, trainer: Any) -> bool:
        """Settle; set ``trainer.should_stop`` if a stop was requested, and tell whether it was."""
        if not self._hosted.training or not trainer.is_global_zero:
            return False
        stop = self._hosted.settle()
        if stop and trainer.world_size == 1:
            trainer.should_stop = True
        return stop

    def _heed(self, trainer: Any, stop: bool) -> None:
        """Do on all ranks what rank zero was asked: stop, write a checkpoint."""
        wanted = self._wanted is not None
        if trainer.world_size > 1:
            stop, wanted = trainer.strategy.broadcast((stop, wanted))
        trainer.should_stop = trainer.should_stop or stop
        if wanted:
            self._save(trainer)

    def _want(self, request: CheckpointRequested) -> None:
        self._wanted = request

    def _save(self, trainer: Any) -> None:
        request, self._wanted = self._wanted, None
        folder = Path(trainer.default_root_dir, "requested") if self._folder is None else Path(self._folder)
        path = folder / f"step={trainer.global_step}.ckpt"
        start = time.perf_counter()
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            took = time.perf_counter() - start
            self.hub.publish(
                CheckpointSaved(path=str(path), seconds=took, reason="" if request is None else request.reason)
            )

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return the hub's state, for the trainer's checkpoint."""
        if not self._hosted.training:
            return {}
        return {"hub": hub_to_bytes(self.hub), "step": self.hub.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take in the hub's state of a checkpoint.

        Raises:
            StateError: it is damaged, or none.
        """
        if state_dict:
            hub_from_bytes(self.hub, state_dict["hub"])


def _change(trainer: Any, request: ParameterChangeRequested) -> None:
    """Set a parameter in all optimizers."""
    for optimizer in trainer.optimizers:
        change_parameter(optimizer.param_groups, request)


def _storable(value: Any) -> Any:
    """Return a hyperparameter as a hub can store it: what is not plain by its ``repr``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    return repr(value)
