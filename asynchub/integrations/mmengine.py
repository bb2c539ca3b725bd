"""asynchub in programs of mmengine: ``install`` puts its hub in the place of mmengine's, ``HubHook`` lets it live.

Installing replaces names in modules, and on request the method that clips gradients, nothing else: what was made before
(a runner, a hub, a history) stays what it is. Checkpoints go both ways as far as mmengine reads them: ours loads those
of either class.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from asynchub.errors import ArgumentError, LifecycleError
from asynchub.history import HistoryBuffer, allow_in_torch_load
from asynchub.hub import MessageHub

try:
    from mmengine.hooks import Hook
    from mmengine.logging.history_buffer import HistoryBuffer as TheirHistoryBuffer
    from mmengine.logging.message_hub import MessageHub as TheirMessageHub
    from mmengine.optim import OptimWrapper
    from mmengine.registry import HOOKS
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
    """A hook that enters the runner's hub for the run, settles it as training goes on, and ends training on request.

    It settles after each training iteration, each training epoch and each validation epoch: after mmengine's hooks have
    logged and stepped their schedulers, before a checkpoint is written. Training ends where the loop looks: an
    ``EpochBasedTrainLoop`` after the epoch, an ``IterBasedTrainLoop`` after the iteration. A hub that the program
    entered itself stays entered. mmengine calls no hook when a run raises: then the hub is left at exit, or by
    ``hook.after_run(runner)``.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self._scope = ExitStack()
        self._training = False

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
        if not hub.entered:
            self._scope.enter_context(hub)

    def before_train(self, runner: Any) -> None:
        """Heed a stop that was resumed."""
        self._training = True
        self._settle(runner)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Settle."""
        self._settle(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Settle."""
        self._settle(runner)

    def after_val_epoch(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Settle."""
        self._settle(runner)

    def after_train(self, runner: Any) -> None:
        """Let validation alone from here on."""
        self._training = False

    def after_run(self, runner: Any) -> None:
        """Leave the hub.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
        """
        self._scope.close()

    def _settle(self, runner: Any) -> None:
        hub = runner.message_hub
        hub.settle()
        if self._training and hub.stop_requested:
            runner.train_loop.stop_training = True
