"""asynchub in Lightning: ``HubCallback`` has a hub live in a ``Trainer``, ``HubLogger`` is its logger.

    trainer = Trainer(logger=HubLogger(hub), callbacks=[HubCallback(hub)])

Metrics: the hub gets what every logger of Lightning gets, under the same names and at the same steps: the index of the
    optimizer step, from 0. ``hub.step`` counts steps done, as ``trainer.global_step`` does.
Waiting: for its loggers, Lightning reads each metric as a number, and so waits for the GPU every ``log_every_n_steps``
    steps. With ``logger=False`` the callback publishes, at every step, the tensors themselves, and nothing is read.
Order: the metrics of a training step, of a training epoch and of a validation are published and settled before
    Lightning saves a checkpoint of it. What the module logs in ``on_train_batch_end`` or ``on_train_epoch_end`` comes
    after that, and only with ``HubLogger``.
Ranks: only rank zero publishes, settles and keeps a journal. What was decided there, a stop, a checkpoint, a value in
    an optimizer, all ranks do at the same settle point; no GPU is waited for.
Resume: the hub's state is in the checkpoint as bytes, which ``torch.load(weights_only=True)`` takes; nothing of it is
    pickled. It is taken in by ``fit``, not by ``validate`` or ``test``.
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
from asynchub.every import EPOCH_KEY
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import Hosted, change_parameter, hub_from_bytes, hub_to_bytes, serve
from asynchub.integrations.ranks import Ranks
from asynchub.integrations.schedules import Schedules
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

STATUS_KEY = "lightning/status"
"""The runtime info that says how it ended: ``success`` or ``failed``."""


class HubLogger(Logger):
    """A logger of Lightning that hands what it is given to a hub. It never waits for a reader of the hub.

    The epoch, which Lightning gives its loggers as a metric, is the runtime info ``epoch``; hyperparameters are the
    runtime info ``hparams``.

    Args:
        hub: the hub.
        prefix: put before each key.

    Raises:
        ArgumentError: ``hub`` is not a hub, or ``prefix`` is not a string.
    """

    def __init__(self, hub: MessageHub, prefix: str = "") -> None:
        super().__init__()
        if not isinstance(prefix, str):
            raise ArgumentError(f"prefix must be a string, such as 'run/', got {prefix!r:.80}")
        self._hosted = Hosted(hub)
        self.hub = hub
        self.prefix = prefix
        self._callback: HubCallback | None = None
        self._epoch: Any = None

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
        """The hub; on other ranks than zero what takes every call and does nothing."""
        return self.hub

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Publish metrics, as of the step that Lightning names."""
        at = self.hub.step if step is None else step
        wanted = dict(metrics)
        epoch = wanted.pop(EPOCH_KEY, None)
        if self._callback is not None:
            wanted = self._callback.not_published(wanted)
        elif epoch is not None and epoch != self._epoch:
            self._epoch = epoch
            self.hub.update_info(EPOCH_KEY, int(epoch), step=at)
        self._hosted.publish({f"{self.prefix}{key}": value for key, value in wanted.items()}, at)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        """Publish hyperparameters as the runtime info ``hparams``; what is not plain by its ``repr``."""
        given = vars(params) if isinstance(params, argparse.Namespace) else params
        self.hub.update_info(f"{self.prefix}hparams", _storable(given))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Publish how it ended as the runtime info ``lightning/status``, if no ``HubCallback`` has done so."""
        if self._callback is None:
            self.hub.update_info(STATUS_KEY, str(status), resumed=False)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Publish that there is a new checkpoint."""
        path = getattr(checkpoint_callback, "_last_checkpoint_saved", "") or checkpoint_callback.best_model_path
        score = getattr(checkpoint_callback, "current_score", None)
        value = None
        if isinstance(score, torch.Tensor) and score.device.type == "cpu":  # reading another would wait for it
            value = float(score)
        self.hub.publish(CheckpointSaved(path=str(path), value=value, reason=type(checkpoint_callback).__name__))


class HubCallback(Callback):
    """A callback that has a hub live in a ``Trainer``: entered for the fit, settled as it goes on, resumed with it.

    It settles at the end of training steps and epochs and when the results of a validation are there. A request to stop
    sets ``trainer.should_stop``; Lightning heeds it at the end of the batch, after ``min_epochs`` and ``min_steps``,
    and validates once more. A ``CheckpointRequested`` is answered by ``trainer.save_checkpoint``, a
    ``ParameterChangeRequested`` by setting it in the optimizers; the schedule of a learning rate goes on from it. The
    hub is entered for ``validate`` and ``test``, too, so that observers get their results.

    Args:
        hub: the hub.
        journal: a ``Journal`` that is attached for the fit, after the checkpoint was read that it goes on from.
        settle_every: optimizer steps from one settle point to the next.
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
        self._here = self._hosted  # what is to be left
        if checkpoints is not None and not isinstance(checkpoints, str | PathLike):
            raise ArgumentError(f"checkpoints must be the path of a folder, got {checkpoints!r:.80}")
        self._folder = checkpoints
        self._every = settle_every
        self._logger: HubLogger | None = None
        self._zero = False
        self._fits = False
        self._trained = False
        self._settled_at = 0
        self._wanted: CheckpointRequested | None = None
        self._published: frozenset[str] = frozenset()
        self._ranks: Ranks | None = None
        self._schedules = Schedules(())

    @property
    def hub(self) -> MessageHub:
        """The hub."""
        return self._hosted.hub

    @property
    def state_key(self) -> str:
        """What its state is found under in a checkpoint: that of one hub is not another's."""
        return f"asynchub.HubCallback({self.hub.instance_name})"

    # --- living

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look who else publishes to the hub."""
        self._zero, self._fits = trainer.is_global_zero, stage == "fit"
        loggers = [one for one in trainer.loggers if isinstance(one, HubLogger) and one.hub is self.hub]
        for logger in loggers:
            logger._callback = self
        self._logger = loggers[0] if loggers else None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the journal, enter the hub, and heed a stop that was resumed.

        Raises:
            JournalError: the folder of the journal has another writer, or is of another run.
        """
        self._settled_at = trainer.global_step
        self._schedules = Schedules(config.scheduler for config in trainer.lr_scheduler_configs)
        self._ranks = None
        if trainer.world_size > 1:
            self._ranks = Ranks(self._zero, trainer.optimizers, trainer.strategy.broadcast)
        if self._zero:
            hub = self.hub
            serve(hub, CheckpointRequested, self._want)
            serve(hub, ParameterChangeRequested, lambda request: _change(trainer, request))
            self._here, self._trained = self._hosted, True
            self._hosted.begin(trainer.global_step)
            for key, most in (("max_epochs", trainer.max_epochs), ("max_iters", trainer.max_steps)):
                if most is not None and most > 0:
                    hub.update_info(key, most)
            if self._logger is None and pl_module.hparams_initial:
                hub.update_info("hparams", _storable(pl_module.hparams_initial))
        self._meet(trainer, saves=False)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Publish which epoch it is, as the runtime info ``epoch``."""
        if self._zero:
            self.hub.update_info(EPOCH_KEY, trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Publish the metrics of the step, and settle if it is time to."""
        step = trainer.global_step
        if self._zero:
            accumulating = pl_module.automatic_optimization and trainer.fit_loop._should_accumulate()
            if not accumulating and (self._logger is None or trainer._logger_connector.should_update_logs):
                self._publish(_of_step(trainer._results), trainer.fit_loop.epoch_loop._batches_that_stepped)
            self.hub.step = step
        if step - self._settled_at >= self._every:
            self._meet(trainer)
        elif self._ranks is None:
            self._schedules.watch()
            self.hub.apply_requests()
            self._schedules.follow()
            self._heed(trainer, self.hub.stop_requested, self._wanted is not None)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Publish the metrics of the epoch, and settle."""
        found = _of_epoch(trainer._results)  # on all ranks, for it may sum over them, as Lightning is about to
        if self._zero:
            self._publish(found, trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
        self._meet(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Enter the hub for a validation, or a test, by itself."""
        if self._zero and not self._fits:
            self._here = self._hosted if self._trained else Hosted(self.hub)
            self._here.begin(max(self.hub.step, trainer.global_step))

    def on_validation_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Publish the metrics of the batch, if no ``HubLogger`` does."""
        if self._zero and self._logger is None and not trainer.sanity_checking:
            loop, index = trainer._evaluation_loop, trainer._results.dataloader_idx or 0
            self._publish(_of_step(trainer._results), loop._seen_batches_per_dataloader[index])

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Publish the results, if no ``HubLogger`` does, and settle."""
        if trainer.sanity_checking:
            return
        if self._zero and self._logger is None:
            self._publish(_of_epoch(trainer._results), trainer.fit_loop.epoch_loop._batches_that_stepped)
        if self._fits:
            self._meet(trainer)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the hub.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
        """
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the hub."""
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        if self._here.training:
            self.hub.update_info(STATUS_KEY, "success" if error is None else "failed", resumed=False)
        self._here.end(error)

    # --- metrics

    def _publish(self, metrics: dict[str, torch.Tensor], step: int) -> None:
        """Publish metrics as the tensors they are."""
        prefix = ""
        if self._logger is not None:
            if "step" in metrics:  # Lightning takes this one for the step: it has to read it
                return
            self._published = frozenset(metrics)
            prefix = self._logger.prefix
        if metrics:
            self._hosted.publish({f"{prefix}{key}": value for key, value in metrics.items()}, step)

    def not_published(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return what the callback has not published of what Lightning logs; asked by ``HubLogger``, once."""
        keys = self._published
        if not keys or not keys <= metrics.keys():
            return metrics
        self._published = frozenset()
        return {key: value for key, value in metrics.items() if key not in keys}

    # --- control

    def _meet(self, trainer: Any, *, saves: bool = True) -> None:
        """Settle, on rank zero, and do on all ranks what was decided there."""
        self._settled_at = trainer.global_step
        self._schedules.watch()
        if self._ranks is not None:
            self._ranks.watch()
        stop = self._hosted.settle() if self._zero and self._hosted.training else False
        save = saves and self._wanted is not None
        if self._ranks is not None:
            stop, save = self._ranks.tell(stop, save)
        self._schedules.follow()
        self._heed(trainer, stop, save)

    def _heed(self, trainer: Any, stop: bool, save: bool) -> None:
        trainer.should_stop = trainer.should_stop or stop
        if save:
            self._save(trainer)

    def _want(self, request: CheckpointRequested) -> None:
        self._wanted = request

    def _save(self, trainer: Any) -> None:
        request, self._wanted = self._wanted, None
        folder = Path(trainer.default_root_dir, "requested") if self._folder is None else Path(self._folder)
        path = folder / f"step={trainer.global_step}.ckpt"
        start = time.perf_counter()
        trainer.save_checkpoint(path)
        if request is not None:
            seconds = time.perf_counter() - start
            self.hub.publish(CheckpointSaved(path=str(path), seconds=seconds, reason=request.reason))

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return the hub's state, for the trainer's checkpoint; of other ranks than zero nothing."""
        return {"hub": hub_to_bytes(self.hub)} if self._zero else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take in the hub's state of a checkpoint that training goes on from.

        Raises:
            StateError: it is damaged, or none.
        """
        if self._fits and state_dict:
            hub_from_bytes(self.hub, state_dict.get("hub", b""))


# --- what Lightning has for its loggers


def _of_step(results: Any) -> dict[str, torch.Tensor]:
    """Return what was logged in the newest step."""
    found = {}
    for metric in results.result_metrics:
        meta, value = metric.meta, metric._forward_cache
        if meta.logger and meta.on_step and not metric.has_reset and meta.dataloader_idx == results.dataloader_idx:
            found[results._forked_name(metric, True)[1]] = value
    return {name: value.detach() for name, value in found.items() if isinstance(value, torch.Tensor)}


def _of_epoch(results: Any) -> dict[str, torch.Tensor]:
    """Return the means and such over an epoch, or over a validation with all of its data loaders."""
    found = {}
    for metric in results.result_metrics:
        if metric.meta.logger and metric.meta.on_epoch and not metric.has_reset:
            found[results._forked_name(metric, False)[1]] = results._get_cache(metric, False)
    return {name: value.detach() for name, value in found.items() if isinstance(value, torch.Tensor)}


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
