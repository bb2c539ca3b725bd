"""A hub for each trial of an Optuna study.

Life: the hub is entered in the ``with`` and left at its end, however that ends, before Optuna hears of it.
Pruning: what prunes (``OptunaPruning``, or anything that has ``raise_if_pruned``) is asked at the end, so the objective
    needs no word about it.
Record: the trial's parameters are in the hub as the runtime info ``hparams``; why it was stopped, and its steps, are
    attributes of the trial, which Optuna's dashboard and ``study.trials_dataframe()`` show.
Several processes, or threads: each trial has a hub of its own, under a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.taps import Tap

try:
    import optuna
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[optuna]'", name=error.name) from error

__all__ = ("trial_hub",)


@contextmanager
def trial_hub(
    trial: optuna.trial.BaseTrial, *subscribers: Any, journal: Tap | None = None, name: str | None = None
) -> Iterator[MessageHub]:
    """Give a trial a hub, for as long as it is tried::

        def objective(trial):
            with trial_hub(trial, OptunaPruning(trial, "val/loss")) as hub:
                ...

    Args:
        trial: what Optuna hands the objective.
        subscribers: attached to the hub, in this order.
        journal: a ``Journal`` for this trial alone; None for none.
        name: of the hub; default that of the study, and the number of the trial.

    Yields:
        The hub, entered.

    Raises:
        ArgumentError: ``trial`` is not a trial.
        TrialPruned: a subscriber says that it was pruned; raised at the end, unless something else was.
        ControlFailedError: control subscribers failed on their last events.
        SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
    """
    if not isinstance(trial, optuna.trial.BaseTrial):
        raise ArgumentError(f"trial must be an optuna.Trial, got {type(trial).__name__}")
    study = getattr(getattr(trial, "study", None), "study_name", "study")
    hub = MessageHub(name or f"{study} trial {trial.number}")
    if journal is not None:
        hub.attach(journal)
    for subscriber in subscribers:
        hub.attach(subscriber)
    try:
        with hub:
            hub.update_info("hparams", dict(trial.params))
            try:
                yield hub
            finally:
                hub.update_info("hparams", dict(trial.params))  # with what was suggested meanwhile
    finally:
        trial.set_user_attr("steps", hub.step)
        if hub.stop_requested:
            trial.set_user_attr("stop_reason", hub.stop_reason)
    for subscriber in subscribers:
        raise_if_pruned = getattr(subscriber, "raise_if_pruned", None)
        if raise_if_pruned is not None:
            raise_if_pruned()
