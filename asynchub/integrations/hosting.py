"""A hub inside of somebody else's training loop: what the integrations of all trainers do with it.

Life: the hub is entered when training begins and left when it ends, however it ends; a hub that the program has entered
    itself stays entered.
State: it is part of the trainer's own checkpoint, as bytes of the hub's own format, without pickle. What a checkpoint
    holds is taken in before the journal is attached, so that the journal is rewound to it.
Threads: the trainer's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.columns import encode_column
from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.requests import ParameterChangeRequested, Request
from asynchub.state import packed, unpacked
from asynchub.taps import Tap

__all__ = ("Hosted", "change_parameter", "check_terms", "hub_from_bytes", "hub_to_bytes", "serve")


PATIENCE = 1.0
"""Seconds that a checkpoint waits for observers, such as loggers; the states of those that are later are left out."""


def hub_to_bytes(hub: MessageHub) -> bytes:
    """Return the resumable state of a hub as bytes."""
    state = hub.state_dict(PATIENCE, late="leave out")
    tree = packed(state, hub.instance_name, encode_column)
    return dumps({"run_id": hub.run_id, "hub": tree}, registry=hub.registry)


def hub_from_bytes(hub: MessageHub, data: bytes) -> None:
    """Take in what ``hub_to_bytes`` returned.

    Raises:
        StateError: it is something else, or damaged.
    """
    tree = loads(bytes(data), registry=hub.registry)
    inner = tree.get("hub") if isinstance(tree, dict) else None
    state = unpacked(inner)
    run_id = tree.get("run_id")
    if isinstance(run_id, str) and run_id:
        state = {**state, "asynchub": {**state.get("asynchub", {}), "run_id": run_id}}
    hub.load_state_dict(state)


def check_terms(journal: Tap | None, settle_every: int, unit: str = "steps") -> None:
    """Check what every integration takes.

    Raises:
        ArgumentError: ``journal`` is no journal, or ``settle_every`` is not an int above 0, of a ``unit``.
    """
    if type(settle_every) is not int or settle_every < 1:
        raise ArgumentError(f"settle_every must be a number of {unit} above 0, got {settle_every!r:.80}")
    if journal is not None and not isinstance(journal, Tap):
        raise ArgumentError(f"journal must be a Journal, such as Journal('run/journal'), got {journal!r:.80}")


class Hosted:
    """A hub that lives as long as a trainer trains.

    Args:
        hub: the hub.
        journal: a ``Journal`` that is attached when training begins, after the checkpoint was read that it goes on
            from; None for none, or if the program attaches it itself.
        settle_every: steps from one settle point to the next; results of an evaluation are a settle point, too.

    Raises:
        ArgumentError: ``settle_every`` is not an int above 0, or ``hub`` is not a hub.

    Attributes:
        hub: the hub.
    """

    def __init__(self, hub: MessageHub, journal: Tap | None = None, settle_every: int = 1) -> None:
        if not isinstance(hub, MessageHub):
            raise ArgumentError(f"hub must be asynchub's MessageHub, got {type(hub).__name__}")
        check_terms(journal, settle_every)
        self.hub = hub
        self._journal = journal
        self._settle_every = settle_every
        self._scope: ExitStack | None = None
        self._settled_at = 0

    @property
    def training(self) -> bool:
        """Whether it has begun and not ended."""
        return self._scope is not None

    def begin(self, step: int) -> None:
        """Attach the journal and enter the hub; ``step`` is where training begins. Once is enough.

        Raises:
            JournalError: the folder of the journal has another writer, or is of another run.
        """
        if self._scope is not None:
            return
        hub = self.hub
        hub.step = step
        self._settled_at = step
        with ExitStack() as scope:
            if self._journal is not None:
                hub.attach(self._journal)
                scope.callback(hub.detach, self._journal)
            if not hub.entered:
                scope.enter_context(hub)
            self._scope = scope.pop_all()

    def end(self, error: BaseException | None = None) -> None:
        """Leave the hub and end the journal; ``error`` is what ends training. Once is enough.

        Raises:
            ControlFailedError: control subscribers failed on their last events, and ``error`` is None.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed, and ``error`` is None.
        """
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.__exit__(None if error is None else type(error), error, None)

    def at(self, step: int) -> bool:
        """Say that ``step`` is done; settle if it is time to; tell whether training is to stop."""
        self.hub.step = step
        if step - self._settled_at >= self._settle_every or step < self._settled_at:
            return self.settle()
        self.hub.apply_requests()
        return self.hub.stop_requested

    def settle(self) -> bool:
        """Settle; tell whether training is to stop."""
        self._settled_at = self.hub.step
        self.hub.settle()
        return self.hub.stop_requested

    def publish(self, metrics: dict[str, Any], step: int) -> None:
        """Publish what a trainer logs: numbers and tensors as scalars, all else as runtime info."""
        scalars: dict[str, Any] = {}
        for key, value in metrics.items():
            if isinstance(value, int | float) or getattr(value, "numel", lambda: 0)() == 1 or _is_number(value):
                scalars[key] = value
            else:
                self.hub.update_info(key, value, step=step)
        if scalars:
            self.hub.update_scalars(scalars, step=step)


class _Served:
    """What an integration does with requests; another one, later, may take its place."""

    def __init__(self, apply: Callable[[Any], object]) -> None:
        self._apply = apply

    def __call__(self, request: Request) -> None:
        self._apply(request)


def serve(hub: MessageHub, kind: type[Request], apply: Callable[[Any], object]) -> None:
    """Have ``apply`` called with requests of a kind, unless the program has said itself what becomes of them."""
    said = hub.applied_by(kind)
    if said is None or isinstance(said, _Served):
        hub.on_request(kind, _Served(apply))


def change_parameter(groups: Iterable[dict[str, Any]], request: ParameterChangeRequested) -> None:
    """Set a parameter of an optimizer, such as ``lr``, in all of its groups or in one.

    Args:
        groups: ``optimizer.param_groups``.
        request: what to set.

    Raises:
        ArgumentError: there is no such group or parameter, or the value is not a number.
    """
    listed = list(groups)
    if request.group is not None:
        if not 0 <= request.group < len(listed):
            raise ArgumentError(f"there are {len(listed)} parameter groups, from 0 on, got {request.group}")
        listed = [listed[request.group]]
    value = request.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(f"{request.name} must be a number, got {value!r:.80}")
    for group in listed:
        if not isinstance(group.get(request.name), int | float) and not hasattr(group.get(request.name), "fill_"):
            known = sorted(name for name, one in group.items() if isinstance(one, int | float))
            raise ArgumentError(f"the optimizer has no number {request.name!r}; it has {', '.join(known)}")
    for group in listed:
        if hasattr(group[request.name], "fill_"):
            group[request.name].fill_(value)  # a tensor, which a captured graph reads
        else:
            group[request.name] = value


def _is_number(value: Any) -> bool:
    return getattr(value, "size", None) == 1 and hasattr(value, "item")
