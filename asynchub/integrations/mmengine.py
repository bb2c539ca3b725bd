"""asynchub in programs of mmengine: ``install`` puts its hub in the place of mmengine's, ``HubHook`` lets it live.

Installing replaces names in modules, and on request the method that clips gradients, nothing else: what was made before
(a runner, a hub, a history) stays what it is. Checkpoints go both ways as far as mmengine reads them: ours loads those
of either class.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from asynchub.errors import ArgumentError, LifecycleError
from asynchub.events import CheckpointSaved
from asynchub.history import HistoryBuffer, allow_in_torch_load
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import change_parameter, check_terms, serve
from asynchub.integrations.ranks import Ranks
from asynchub.requests import CheckpointRequested, ParameterChangeRequested
from asynchub.runner import Attachment
from asynchub.taps import Tap

try:
    from mmengine.hooks import Hook
    from mmengine.logging.history_buffer import HistoryBuffer as TheirHistoryBuffer
    from mmengine.logging.message_hub import MessageHub as TheirMessageHub
    from mmengine.optim import OptimWrapper, OptimWrapperDict
    from mmengine.registry import HOOKS, LOOPS
except ImportError as error:
    raise ImportError(
        "asynchub.integrations.mmengine needs mmengine: python -m pip install 'asynchub[mmengine]'"
    ) from error

__all__ = ("HubHook", "Installation", "install")

NUMPY_TYPES: list[Any] = [
    np.ndarray,
    np.dtype,
    np.float64(0).__reduce__()[0],
    np.zeros(0).__reduce__()[0],
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
]
"""What a pickle of NumPy numbers and arrays is made of."""
REPLACEMENTS: tuple[tuple[type, type], ...] = ((TheirMessageHub, MessageHub), (TheirHistoryBuffer, HistoryBuffer))
THEIR_CLIP_GRAD = OptimWrapper._clip_grad
VALIDATED_KEY = "asynchub/validated"
"""The runtime info that says at which iteration the newest validation was."""


class Installation:
    """What ``install`` did; undone by ``uninstall``, or by leaving it as a context manager.

    Attributes:
        packages: the packages in which names were replaced.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = tuple(packages)

    def uninstall(self) -> None:
        """Put mmengine's classes back wherever a module of ``packages`` holds asynchub's, those imported since too.

        Gradients are clipped in mmengine's way again.
        """
        _rename(self.packages, [(ours, theirs) for theirs, ours in REPLACEMENTS])
        if OptimWrapper._clip_grad is _clip_grad:
            OptimWrapper._clip_grad = THEIR_CLIP_GRAD

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()


def install(*packages: str, norm_as_tensor: bool = False) -> Installation:
    """Put asynchub's ``MessageHub`` and ``HistoryBuffer`` in the place of mmengine's.

    Every loaded module of mmengine, and of ``packages``, that holds one of mmengine's classes under any name holds ours
    after this; modules that are imported later take them from mmengine. Installing twice is installing once.

    ``torch.load``, which with torch 2.6 began to refuse what a runner saves, is allowed to make histories, and the
    NumPy numbers and arrays that hooks of mmengine put in the runtime info.

    Args:
        packages: other packages to look through, e.g. ``"mmdet"``; needed for those that were imported before.
        norm_as_tensor: where ``clip_grad`` is set, mmengine reads the norm of the gradients as a number at each update,
            before the hub sees it. With this, ``OptimWrapper`` (and each subclass that does not clip in a way of its
            own, and each wrapper that was built before) hands the hub the tensor, so that the hub alone decides when
            it is read. Gradients, key and history are the same. A later ``install()`` without it leaves it as it is.

    Raises:
        ArgumentError: a package is not a string.
    """
    for package in packages:
        if not isinstance(package, str):
            raise ArgumentError(f"install takes names of packages like 'mmdet', got {package!r:.80}")
    allow_in_torch_load()
    torch.serialization.add_safe_globals(NUMPY_TYPES)
    installation = Installation(("mmengine", *packages))
    _rename(installation.packages, REPLACEMENTS)
    if norm_as_tensor:
        OptimWrapper._clip_grad = _clip_grad
    return installation


def _rename(packages: tuple[str, ...], replacements: Iterable[tuple[type, type]]) -> None:
    prefixes = tuple(f"{package}." for package in packages)
    modules = [module for name, module in list(sys.modules.items()) if f"{name}.".startswith(prefixes)]
    for module in modules:
        names = vars(module) if module is not None else {}  # None stands for a module that must not be imported
        for name, value in list(names.items()):
            for old, new in replacements:
                if value is old:
                    setattr(module, name, new)


def _clip_grad(wrapper: Any) -> None:
    """Clip as ``OptimWrapper._clip_grad`` of mmengine 0.10 does, and publish the norm as the tensor it is."""
    given = [parameter for group in wrapper.optimizer.param_groups for parameter in group["params"]]
    clipped = [parameter for parameter in given if parameter.requires_grad and parameter.grad is not None]
    norm = wrapper.clip_func(clipped, **wrapper.clip_grad_kwargs) if clipped else None
    if norm is None:  # clip_grad_value_ returns no norm
        return
    if not isinstance(norm, torch.Tensor):  # from a clip_func of the program's own
        norm = float(norm)
    elif hasattr(norm, "full_tensor"):  # a DTensor: float(norm) would reduce it over the processes, too
        norm = norm.full_tensor()
    wrapper.message_hub.update_scalar(f"train/{wrapper.grad_name}", norm)


@HOOKS.register_module(force=True)
class HubHook(Hook):  # type: ignore[misc]  # mmengine has no types
    """A hook that enters the runner's hub for the run, settles it as training goes on, and does what is asked of it.

    It settles after training iterations, each training epoch and each validation epoch: after mmengine's hooks have
    logged and stepped their schedulers, before a checkpoint is written. Training ends where the loop looks: an
    ``EpochBasedTrainLoop`` after the epoch, an ``IterBasedTrainLoop`` after the iteration. A hub that the program
    entered itself stays entered. mmengine calls no hook when a run raises: then the hub is left at exit, or by
    ``hook.after_run(runner)``.

    A ``ParameterChangeRequested`` is set in the optimizers. A ``CheckpointRequested`` is answered by
    ``runner.save_checkpoint``: after the iteration, of an ``EpochBasedTrainLoop`` after the epoch, where it can be
    resumed from. What the program has said with ``hub.on_request`` before holds instead.

    Each rank has a hub. What rank zero's was asked for, and what its rules set in the optimizers, all ranks do.

    Args:
        journal: a ``Journal``, attached on rank zero when training begins, after mmengine has resumed the hub.
        checkpoints: folder of the checkpoints that are asked for; default ``requested`` in the ``work_dir``.
        settle_every: iterations from one settle point to the next, where no epoch or validation ends.
        validate_on_resume: whether the validation that a checkpoint was written before is made up for when training
            goes on from it. mmengine leaves it out, and rules that wait for its results would not come to what they
            would have without the resume.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
    """

    priority = "LOW"

    def __init__(
        self,
        journal: Tap | None = None,
        checkpoints: str | PathLike[str] | None = None,
        settle_every: int = 1,
        validate_on_resume: bool = True,
    ) -> None:
        check_terms(journal, settle_every, "iterations")
        self._scope = ExitStack()
        self._training = False
        self._journal = journal
        self._folder = checkpoints
        self._every = settle_every
        self._resumed = _AfterResume() if validate_on_resume else None
        self._ranks: Ranks | None = None
        self._optimizers: list[Any] = []
        self._attached: Attachment | None = None
        self._wanted: CheckpointRequested | None = None

    def before_run(self, runner: Any) -> None:
        """Enter the hub.

        Raises:
            LifecycleError: the hub is mmengine's.
        """
        hub = runner.message_hub
        if not isinstance(hub, MessageHub):
            raise LifecycleError(
                "HubHook found mmengine's own MessageHub: call asynchub.integrations.mmengine.install() before the "
                "Runner is built"
            )
        if self._resumed is not None and self._resumed not in runner.hooks:
            runner.register_hook(self._resumed)
        if not hub.entered:
            self._scope.enter_context(hub)

    def before_train(self, runner: Any) -> None:
        """Attach the journal, and heed a stop that was resumed.

        Raises:
            JournalError: the folder of the journal has another writer, or is of another run.
        """
        self._training = True
        hub = runner.message_hub
        if self._journal is not None and self._attached is None and runner.rank == 0:
            self._attached = hub.attach(self._journal)
        self._optimizers = _optimizers(runner)
        if runner.world_size > 1:
            self._ranks = Ranks(runner.rank == 0, self._optimizers)
        serve(hub, ParameterChangeRequested, self._change)
        serve(hub, CheckpointRequested, self._want)
        self._settle(runner)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Settle; write a checkpoint that was asked for, unless the loop is one of epochs."""
        if self.every_n_train_iters(runner, self._every):
            self._settle(runner)
        if self._wanted is not None and not _is_a(runner.train_loop, "EpochBasedTrainLoop"):
            self._save(runner, f"iter_{runner.iter + 1}.pth", by_epoch=False)

    def after_train_epoch(self, runner: Any) -> None:
        """Settle; write a checkpoint that was asked for."""
        self._settle(runner)
        if self._wanted is not None and _is_a(runner.train_loop, "EpochBasedTrainLoop"):
            self._save(runner, f"epoch_{runner.epoch + 1}.pth", by_epoch=True)

    def after_val_epoch(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Settle."""
        if self._training:
            runner.message_hub.update_info(VALIDATED_KEY, runner.iter)
        self._settle(runner)

    def after_train(self, runner: Any) -> None:
        """Let validation alone from here on."""
        self._training = False

    def after_run(self, runner: Any) -> None:
        """Leave the hub, and end the journal.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
        """
        try:
            self._scope.close()
        finally:
            attached, self._attached = self._attached, None
            if attached is not None:
                attached.detach()

    def _settle(self, runner: Any) -> None:
        hub = runner.message_hub
        if not self._training:
            hub.settle()
            return
        settled = False
        if self._ranks is not None:
            self._ranks.watch()
        try:
            hub.settle()
            settled = True
        finally:
            stop, wanted = hub.stop_requested, self._wanted is not None
            if self._ranks is not None:
                stop, wanted, settled = self._ranks.tell(stop, wanted, settled)
        if not settled:
            raise LifecycleError("the hub could not be settled on rank zero; what went wrong is said there")
        if stop:
            runner.train_loop.stop_training = True
        if wanted:
            self._wanted = self._wanted or CheckpointRequested()
        elif self._ranks is not None:
            self._wanted = None

    def _change(self, request: ParameterChangeRequested) -> None:
        for optimizer in self._optimizers:
            change_parameter(optimizer.param_groups, request)

    def _want(self, request: CheckpointRequested) -> None:
        self._wanted = request

    def _save(self, runner: Any, name: str, by_epoch: bool) -> None:
        """Write a checkpoint, on all ranks."""
        request, self._wanted = self._wanted, None
        folder = Path(runner.work_dir, "requested") if self._folder is None else Path(self._folder)
        start = time.perf_counter()
        runner.save_checkpoint(str(folder), name, by_epoch=by_epoch)
        if request is not None and runner.rank == 0:
            took = time.perf_counter() - start
            saved = CheckpointSaved(path=str(folder / name), seconds=took, reason=request.reason)
            runner.message_hub.publish(saved)


class _AfterResume(Hook):  # type: ignore[misc]
    """Makes up for the validation that mmengine (0.10) leaves out when it goes on from the checkpoint before it.

    It is the last of all hooks to hear that training begins, so that the others are ready for a validation.
    """

    priority = "LOWEST"

    def before_train(self, runner: Any) -> None:
        hub, loop = runner.message_hub, runner.train_loop
        validated = hub.get_info(VALIDATED_KEY)
        if validated is None:  # a new run, or a checkpoint that does not say
            hub.update_info(VALIDATED_KEY, runner.iter)
        elif validated < runner.iter and runner.val_loop is not None and not loop.stop_training and _is_due(loop):
            step, hub.step = hub.step, runner.iter - 1  # that of the iteration which the checkpoint is of
            runner.val_loop.run()
            hub.step = step


def _is_a(loop: Any, name: str) -> bool:
    """Tell whether a loop is of that class of mmengine's, whose module is not to be imported before it is needed."""
    return isinstance(loop, LOOPS.get(name))


def _is_due(loop: Any) -> bool:
    """Tell whether a loop of training would validate where it is now, if it had just got there."""
    if _is_a(loop, "EpochBasedTrainLoop"):
        now, last = loop.epoch, loop.max_epochs
    elif _is_a(loop, "IterBasedTrainLoop"):
        now, last = loop.iter, loop.max_iters
    else:
        return False
    loop._decide_current_val_interval()
    return bool(now >= loop.val_begin and (now % loop.val_interval == 0 or now == last))


def _optimizers(runner: Any) -> list[Any]:
    """Return the optimizers of torch that a runner has."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one.optimizer for one in wrappers]
