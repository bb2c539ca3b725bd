"""asynchub in accelerate: ``HubTracker`` is a tracker that never blocks, and has a hub live in a loop of one's own.

    tracker = HubTracker(hub)
    accelerator = Accelerator(log_with=tracker)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    tracker.attach(accelerator, optimizer)

Metrics: the hub gets what ``accelerator.log`` is given, tensors as the tensors they are, with the step that is named.
Life: the hub is entered at the first log or settle point, after ``accelerator.load_state``, and left by
    ``accelerator.end_training()``.
Ranks: only the main process publishes, settles and keeps a journal. What it decides, the others learn at the same
    ``tracker.settle()``, which all of them call, through a group of processes on the CPU: no device is waited for.
Resume: the hub's state is in the folder that ``accelerator.save_state`` writes, as bytes. Nothing of it is pickled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from asynchub.errors import ArgumentError, LifecycleError, StateDictError
from asynchub.events import CheckpointSaved
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import Hosted, change_parameter, hub_from_bytes, hub_to_bytes, serve
from asynchub.integrations.ranks import Ranks
from asynchub.requests import CheckpointRequested, ParameterChangeRequested
from asynchub.taps import Tap

try:
    from accelerate import Accelerator, PartialState
    from accelerate.tracking import GeneralTracker, on_main_process
    from accelerate.utils import broadcast_object_list
except ImportError as error:
    raise ImportError(
        "asynchub.integrations.accelerate needs accelerate: python -m pip install 'asynchub[accelerate]'"
    ) from error

__all__ = ("HubTracker",)


class HubTracker(GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """A tracker of accelerate that publishes what it is given, and settles where the loop says so.

    A request to stop makes ``settle`` return True, a ``ParameterChangeRequested`` sets it in the optimizers, a
    ``CheckpointRequested`` is answered by ``accelerator.save_state``.

    Args:
        hub: the hub.
        journal: a ``Journal``, attached when training begins, after the state was loaded that it goes on from.
        checkpoints: folder of the checkpoints that are asked for, a folder for each, named after its step. None refuses
            such requests, unless the accelerator names its checkpoints itself (``automatic_checkpoint_naming``).
        settle_every: calls of ``settle`` from one settle point to the next.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.

    Attributes:
        hub: the hub.
    """

    name = "asynchub"
    requires_logging_directory = False
    main_process_only = True

    def __init__(
        self,
        hub: MessageHub,
        *,
        journal: Tap | None = None,
        checkpoints: str | PathLike[str] | None = None,
        settle_every: int = 1,
    ) -> None:
        super().__init__()
        self._hosted = Hosted(hub, journal, settle_every)
        self.hub = hub
        self._has_journal = journal is not None
        self._folder = None if checkpoints is None else Path(checkpoints)
        self._every = settle_every
        self._calls = 0
        self._config: Mapping[str, Any] = {}
        self._accelerator: Accelerator | None = None
        self._optimizers: tuple[Any, ...] = ()
        self._ranks: Ranks | None = None
        self._watching = False
        self._wanted: CheckpointRequested | None = None
        self._ended = False

    # --- what accelerate calls

    @property
    def tracker(self) -> MessageHub:
        """The hub, which ``accelerator.get_tracker("asynchub", unwrap=True)`` returns."""
        return self.hub

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Publish the configuration as the runtime info ``hparams``, when training begins."""
        self._config = {str(key): _storable(value) for key, value in values.items()}
        if self._hosted.training:
            self.hub.update_info("hparams", self._config)

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Publish numbers and one-element tensors as scalars, all else as runtime infos.

        Args:
            values: by key.
            step: the step that they are of, from then on the hub's; default the hub's.
        """
        self._begin()
        if step is not None:
            self.hub.step = step
        self._hosted.publish(dict(values), self.hub.step)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """Settle for a last time, and leave the hub.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
        """
        self._ended = True
        self._hosted.end()

    # --- what the loop calls

    def attach(self, accelerator: Accelerator, *optimizers: Any) -> None:
        """Have the hub's state saved by ``accelerator.save_state``, and requests served. On all processes.

        Args:
            accelerator: the accelerator; ``load_state`` comes after this, and before the first log.
            optimizers: those whose parameters requests and rules may change, as ``prepare`` returned them.

        Raises:
            ArgumentError: an argument is of a wrong type.
            LifecycleError: it is attached already.
        """
        if not isinstance(accelerator, Accelerator):
            raise ArgumentError(f"accelerator must be an Accelerator, got {type(accelerator).__name__}")
        for one in optimizers:
            if not hasattr(one, "param_groups"):
                raise ArgumentError(f"optimizers must be optimizers of torch, got {type(one).__name__}")
        if self._accelerator is not None:
            raise LifecycleError("this HubTracker is attached already; make one for each Accelerator")
        self._accelerator, self._optimizers = accelerator, optimizers
        accelerator.register_for_checkpointing(self)
        if accelerator.num_processes > 1:
            self._ranks = Ranks(accelerator.is_main_process, optimizers)
        if accelerator.is_main_process:
            if optimizers:
                serve(self.hub, ParameterChangeRequested, self._change)
            if self._folder is not None or accelerator.project_configuration.automatic_checkpoint_naming:
                serve(self.hub, CheckpointRequested, self._want)

    def settle(self) -> bool:
        """Settle on the main process, do on all of them what was decided there, and tell whether to stop.

        All processes call it, at the same places: after each optimizer step and each evaluation, say. With several it
        costs each settle point a message through the CPU, in which they wait for the main process.

        Raises:
            ControlFailedError: control subscribers raised.
            LifecycleError: several processes call it before ``attach``, or it could not settle on another process.
        """
        self._calls += 1
        if self._calls % self._every:
            return False
        if self._ranks is None and PartialState().num_processes > 1:
            raise LifecycleError("call tracker.attach(accelerator) on all processes before tracker.settle()")
        stop = settled = False
        self._watch()
        try:
            if PartialState().is_main_process:
                self._begin()
                stop = self._hosted.settle()
            settled = True
        finally:
            wanted = self._wanted is not None
            if self._ranks is not None:
                stop, wanted, settled = self._ranks.tell(stop, wanted, settled)
                self._watching = False
        if not settled:
            raise LifecycleError("the hub could not be settled on the main process; what went wrong is said there")
        if wanted:
            self._save()
        return stop

    # --- inside

    def _begin(self) -> None:
        if self._hosted.training or self._ended:
            return
        self._hosted.begin(self.hub.step)
        if self._config:
            self.hub.update_info("hparams", self._config)

    def _watch(self) -> None:
        """Begin to look at what rules set in the optimizers, so that the other processes learn of it."""
        if self._ranks is not None and not self._watching:
            self._watching = True
            self._ranks.watch()

    def _change(self, request: ParameterChangeRequested) -> None:
        for optimizer in self._optimizers:
            change_parameter(optimizer.param_groups, request)

    def _want(self, request: CheckpointRequested) -> None:
        self._wanted = request

    def _save(self) -> None:
        """Write a checkpoint, on all processes."""
        request, self._wanted = self._wanted, None
        if self._accelerator is None:
            return
        start = time.perf_counter()
        box = [None if self._folder is None else str(self._folder / f"step={self.hub.step}")]
        broadcast_object_list(box)  # the hub of the main process alone knows the step
        path = self._accelerator.save_state(box[0])
        if self._hosted.training:
            took = time.perf_counter() - start
            reason = "" if request is None else request.reason
            self.hub.publish(CheckpointSaved(path=str(path), seconds=took, reason=reason))

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return the hub's state, for the accelerator's checkpoint; of other processes than the main one nothing."""
        if not PartialState().is_main_process:
            return {}
        if self._hosted.training:
            self._watch()
            self._hosted.settle()
        return {"hub": hub_to_bytes(self.hub)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take in the hub's state of a checkpoint.

        Raises:
            LifecycleError: the journal is attached already.
            StateError: it is damaged, or none.
        """
        if not PartialState().is_main_process:
            return
        if self._has_journal and self._hosted.training:
            raise LifecycleError("call load_state before the first log: the journal goes on from what it holds")
        data = state_dict.get("hub") if isinstance(state_dict, Mapping) else None
        if not isinstance(data, bytes):
            raise StateDictError(f"the state of a HubTracker is a dict with bytes as 'hub', got {state_dict!r:.80}")
        hub_from_bytes(self.hub, data)


def _storable(value: Any) -> Any:
    """Return a value of a configuration as a hub can store it."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
