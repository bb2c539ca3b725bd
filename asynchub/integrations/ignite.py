"""asynchub in ignite: a ``HubHandler`` has a hub live as long as a trainer ``Engine`` runs.

    handler = HubHandler(hub, optimizer=optimizer)
    handler.attach(trainer, {"val": evaluator})

Metrics: the trainer's output after each iteration, and what evaluators have in ``state.metrics`` when they are done,
    with ``trainer.state.iteration`` as their step. Tensors are handed on as they are, so nothing waits for a device.
Order: a checkpoint holds what was published and decided before it, whichever handler was attached first.
Ranks: only rank zero publishes, settles and keeps a journal. What it decides, the others learn at the same point,
    through a group of processes of its own on the CPU, so that no device is waited for.
Resume: the hub's state is in ignite's checkpoint, as a tensor of bytes, which ``torch.load(weights_only=True)`` takes.
    Nothing of it is pickled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from asynchub.errors import ArgumentError, LifecycleError, StateDictError
from asynchub.events import CheckpointSaved
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import Hosted, change_parameter, hub_from_bytes, hub_to_bytes, serve
from asynchub.integrations.ranks import Ranks
from asynchub.requests import CheckpointRequested, ParameterChangeRequested
from asynchub.taps import Tap

try:
    import ignite.distributed as idist
    from ignite.engine import Engine, Events
    from ignite.engine.events import RemovableEventHandle
except ImportError as error:
    raise ImportError("asynchub.integrations.ignite needs ignite: python -m pip install 'asynchub[ignite]'") from error

__all__ = ("Attached", "HubHandler")


class HubHandler:
    """A handler that has a hub live in a trainer: entered for the run, settled as it goes on, resumed with it.

    It settles after training iterations, after training epochs and when results of an evaluator are there. A request to
    stop is answered by ``trainer.terminate()``, a ``ParameterChangeRequested`` by setting it in the optimizers, a
    ``CheckpointRequested`` by calling ``checkpoint``. Put it into the ``to_save`` of ``ignite.handlers.Checkpoint``,
    and load it before the trainer runs.

    Args:
        hub: the hub.
        optimizer: one, or several; what requests may change. None refuses such requests.
        journal: a ``Journal``, attached when the trainer starts, after the checkpoint was loaded that it goes on from.
        checkpoint: called with the trainer when a checkpoint is asked for, such as an ``ignite.handlers.Checkpoint``
            without a score. None refuses such requests.
        output_transform: what of the trainer's output is published: a dict of numbers by name, or a number, which is
            named ``loss``. Default the output itself, if it is one of the two; of a dict, the numbers in it.
        tag: put before the names of what the trainer puts out; its own metrics, at the ends of epochs, are under
            ``tag/epoch/``.
        settle_every: iterations from one settle point to the next.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.

    Attributes:
        hub: the hub.
    """

    def __init__(
        self,
        hub: MessageHub,
        *,
        optimizer: Any = None,
        journal: Tap | None = None,
        checkpoint: Callable[[Engine], Any] | None = None,
        output_transform: Callable[[Any], Any] | None = None,
        tag: str = "train",
        settle_every: int = 1,
    ) -> None:
        for name, function in (("checkpoint", checkpoint), ("output_transform", output_transform)):
            if function is not None and not callable(function):
                raise ArgumentError(f"{name} must be callable, got {function!r:.80}")
        if not isinstance(tag, str) or not tag:
            raise ArgumentError(f"tag must be a name like 'train', got {tag!r:.80}")
        self._hosted = Hosted(hub, journal, settle_every)
        self.hub = hub
        self._optimizers = _optimizers(optimizer)
        self._has_journal = journal is not None
        self._checkpoint = checkpoint
        self._transform = output_transform
        self._tag = tag
        self._every = settle_every
        self._trainer: Engine | None = None
        self._evaluated: dict[str, Engine] = {}
        self._wanted: CheckpointRequested | None = None
        self._published = self._published_epoch = 0
        self._last: list[RemovableEventHandle] = []
        self._ranks: Ranks | None = None
        self._watching = False

    # --- living

    def attach(self, trainer: Engine, evaluators: Mapping[str, Engine] | None = None) -> Attached:
        """Have the hub live in ``trainer``, from the next start on.

        Args:
            trainer: the engine that trains.
            evaluators: engines whose results are published, by the word that is put before the names of their metrics,
                e.g. ``{"val": evaluator}``.

        Returns:
            What takes the handlers away again, also as a context manager.

        Raises:
            ArgumentError: an argument is of a wrong type.
            LifecycleError: it is attached already.
        """
        evaluators = {} if evaluators is None else evaluators
        if not isinstance(evaluators, Mapping):
            raise ArgumentError(f"evaluators must be a dict like {{'val': evaluator}}, got {type(evaluators).__name__}")
        for name, engine in (("trainer", trainer), *evaluators.items()):
            if not isinstance(engine, Engine):
                raise ArgumentError(f"{name} must be an ignite Engine, got {type(engine).__name__}")
        if trainer in evaluators.values():
            raise ArgumentError("the trainer is among the evaluators; its metrics are published at the ends of epochs")
        if self._trainer is not None:
            raise LifecycleError("this HubHandler is attached already; remove() what attach returned first")
        self._trainer = trainer
        add = trainer.add_event_handler
        handles = [
            add(Events.STARTED, self._started),
            add(Events.EPOCH_STARTED, self._epoch_started),
            add(Events.ITERATION_COMPLETED, self._iteration_completed),
            add(Events.EXCEPTION_RAISED, self._raise),
        ]
        for tag, engine in evaluators.items():
            handles.append(engine.add_event_handler(Events.EPOCH_COMPLETED, self._note_evaluated, tag))
            handles.append(engine.add_event_handler(Events.COMPLETED, self._evaluator_completed))
        return Attached(self, trainer, handles)

    def _end(self, error: BaseException | None) -> None:
        """Leave the hub."""
        last, self._last = self._last, []
        for handle in last:
            handle.remove()
        self._hosted.end(error)

    @property
    def _zero(self) -> bool:
        return bool(idist.get_rank() == 0)

    def _started(self, trainer: Engine) -> None:
        """Enter the hub, and heed a stop that was resumed."""
        state = trainer.state
        self._published, self._published_epoch = state.iteration, state.epoch
        self._evaluated.clear()
        add = trainer.add_event_handler
        self._last = [  # added now, so that they run after the handlers of the program for the same events
            add(Events.EPOCH_COMPLETED, self._epoch_completed),
            add(Events.TERMINATE, self._terminated),
            add(Events.COMPLETED, self._completed),
        ]
        if idist.get_world_size() > 1 and self._ranks is None:
            self._ranks = Ranks(self._zero, self._optimizers)
        if self._zero:
            if self._checkpoint is not None:
                serve(self.hub, CheckpointRequested, self._want)
            if self._optimizers:
                serve(self.hub, ParameterChangeRequested, self._change)
            self._hosted.begin(state.iteration)
            if state.max_epochs is not None:
                self.hub.update_info("max_epochs", state.max_epochs)
        self._settle(trainer)

    def _epoch_started(self, trainer: Engine) -> None:
        """Publish which epoch it is, as the runtime info ``epoch``, from 0 on."""
        if self._hosted.training:
            self.hub.update_info("epoch", trainer.state.epoch - 1, step=trainer.state.iteration)

    def _iteration_completed(self, trainer: Engine) -> None:
        """Publish the output, and settle if it is time to."""
        self._publish_late()
        if self._hosted.training:
            self.hub.step = trainer.state.iteration
        if trainer.state.iteration % self._every == 0:
            self._settle(trainer)

    def _note_evaluated(self, evaluator: Engine, tag: str) -> None:
        self._evaluated[tag] = evaluator

    def _evaluator_completed(self, evaluator: Engine) -> None:
        """Publish the results, and settle."""
        self._publish_late()
        if self._trainer is not None:
            self._settle(self._trainer)

    def _epoch_completed(self, trainer: Engine) -> None:
        """Publish the trainer's own metrics, and settle."""
        self._publish_late()
        self._publish_epoch(trainer)
        self._settle(trainer)

    def _terminated(self, trainer: Engine) -> None:
        """Leave the hub, if no ``COMPLETED`` is to come."""
        if trainer.should_terminate == "skip_completed":
            self._end(None)

    def _completed(self, trainer: Engine) -> None:
        """Leave the hub."""
        self._end(None)

    def _raise(self, trainer: Engine, error: BaseException) -> None:
        """Leave the hub and raise again, as ignite does where nobody handles exceptions.

        Handlers that the program has for the same event decide instead: the run may go on.
        """
        if len(trainer._event_handlers[Events.EXCEPTION_RAISED]) == 1:
            self._end(error)
            raise error

    # --- metrics

    def _publish_late(self) -> None:
        """Publish the output of the newest iteration and results of evaluators, unless they are published already."""
        evaluated, self._evaluated = self._evaluated, {}
        if self._trainer is None or not self._zero:
            return
        state = self._trainer.state
        if state.iteration > self._published and state.output is not None:
            self._published = state.iteration
            self._hosted.publish(self._named(state.output), state.iteration)
        for tag, engine in evaluated.items():
            self._publish_metrics(tag, engine)

    def _named(self, output: Any) -> dict[str, Any]:
        """Return what of an output is to be published, by key."""
        chosen = output if self._transform is None else self._transform(output)
        if _is_number(chosen):
            return {f"{self._tag}/loss": chosen}
        if isinstance(chosen, Mapping):
            others = [name for name, value in chosen.items() if not _is_number(value)]
            if others and self._transform is not None:
                got = type(chosen[others[0]]).__name__
                raise ArgumentError(f"output_transform must name numbers, got a {got} for {others[0]!r}")
            return {f"{self._tag}/{name}": value for name, value in chosen.items() if name not in others}
        raise ArgumentError(
            f"the trainer put out a {type(chosen).__name__}; say what of it to publish with output_transform="
            "lambda output: {'loss': output[0]}, or {} for nothing"
        )

    def _publish_metrics(self, tag: str, engine: Engine) -> None:
        """Publish metrics; those that are dicts are in the engine's state entry by entry, too."""
        metrics = {name: one for name, one in engine.state.metrics.items() if not isinstance(one, Mapping)}
        step = 0 if self._trainer is None else self._trainer.state.iteration
        self._hosted.publish({f"{tag}/{name}": value for name, value in metrics.items()}, step)

    def _publish_epoch(self, trainer: Engine) -> None:
        if self._hosted.training and self._published_epoch < trainer.state.epoch:
            self._published_epoch = trainer.state.epoch
            self._publish_metrics(f"{self._tag}/epoch", trainer)

    # --- control

    def _settle(self, trainer: Engine) -> None:
        """Settle on rank zero, and do on all ranks what was decided there."""
        if not self._last:  # the trainer does not run
            return
        stop = settled = False
        self._watch()
        try:
            if self._zero:
                stop = self._hosted.settle()
            settled = True
        finally:
            wanted = self._wanted is not None
            if self._ranks is not None:
                stop, wanted, settled = self._ranks.tell(stop, wanted, settled)
                self._watching = False
        if not settled:
            raise LifecycleError("the hub could not be settled on rank zero; what went wrong is said there")
        if stop and not trainer.should_terminate:
            trainer.terminate()
        if wanted:
            self._save(trainer)

    def _watch(self) -> None:
        """Begin to look at what rules set in the optimizers, so that the other ranks learn of it."""
        if self._ranks is not None and not self._watching:
            self._watching = True
            self._ranks.watch()

    def _change(self, request: ParameterChangeRequested) -> None:
        for optimizer in self._optimizers:
            change_parameter(optimizer.param_groups, request)

    def _want(self, request: CheckpointRequested) -> None:
        self._wanted = request

    def _save(self, trainer: Engine) -> None:
        """Have a checkpoint written."""
        request, self._wanted = self._wanted, None
        start = time.perf_counter()
        if self._checkpoint is not None:
            self._checkpoint(trainer)
        if self._hosted.training:
            took = time.perf_counter() - start
            path = str(getattr(self._checkpoint, "last_checkpoint", None) or "")
            self.hub.publish(CheckpointSaved(path=path, seconds=took, reason="" if request is None else request.reason))

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return the hub's state, for a checkpoint; what is due is published and settled before."""
        if not self._zero:
            return {}
        trainer = self._trainer
        if trainer is not None and self._hosted.training:
            self._publish_late()
            if trainer.last_event_name is Events.EPOCH_COMPLETED:
                self._publish_epoch(trainer)
            self._watch()
            self._hosted.settle()
        return {"hub": torch.frombuffer(bytearray(hub_to_bytes(self.hub)), dtype=torch.uint8)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take in the hub's state of a checkpoint.

        Raises:
            LifecycleError: the journal is attached already.
            StateError: it is damaged, or none.
        """
        if not self._zero:
            return
        if self._has_journal and self._hosted.training:
            raise LifecycleError("load the checkpoint before the trainer runs: the journal goes on from what it holds")
        data = state_dict.get("hub") if isinstance(state_dict, Mapping) else None
        if not isinstance(data, torch.Tensor) or data.dtype != torch.uint8:
            raise StateDictError(f"the state of a HubHandler is a dict with bytes as 'hub', got {state_dict!r:.80}")
        hub_from_bytes(self.hub, data.cpu().numpy().tobytes())


class Attached(RemovableEventHandle):
    """What ``HubHandler.attach`` returns: a handle that removes all of its handlers.

    As a context manager it leaves the hub too, however a run ends.
    """

    def __init__(self, hub_handler: HubHandler, trainer: Engine, handles: Iterable[RemovableEventHandle]) -> None:
        super().__init__(Events.STARTED, hub_handler._started, trainer)
        self._hub_handler = hub_handler
        self._handles = list(handles)

    def remove(self) -> None:
        """Take the handlers away, and leave the hub if the trainer has not."""
        self._remove(None)

    def __exit__(self, *args: Any, **kwargs: Any) -> None:
        self._remove(args[1] if len(args) > 1 else None)

    def _remove(self, error: BaseException | None) -> None:
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        trainer = self.engine()
        if trainer is not None and not trainer._event_handlers.get(Events.EXCEPTION_RAISED):
            trainer._event_handlers.pop(Events.EXCEPTION_RAISED, None)  # left empty, ignite would swallow exceptions
        if handles:
            self._hub_handler._trainer = None
            self._hub_handler._end(error)


def _optimizers(given: Any) -> list[Any]:
    """Return one or several optimizers as a list."""
    if given is None:
        return []
    several = list(given.values()) if isinstance(given, Mapping) else given
    found = list(several) if isinstance(several, list | tuple) else [several]
    for one in found:
        if not hasattr(one, "param_groups"):
            raise ArgumentError(f"optimizer must be an optimizer of torch, or several, got {type(one).__name__}")
    return found


def _is_number(value: Any) -> bool:
    """Tell whether something is one number, without reading it."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) or getattr(value, "size", None) == 1
