"""The rules by which ``ReduceLROnPlateau`` reduces: that of torch, which is its own, and that of Keras.

The same decisions: each reduces at the check at which the original does, to the same value; tests compare them with
    the real objects (torch 2.13, keras 3.15). Keras holds learning rates in single precision; here they stay as exact
    as the optimizer has them, and only comparisons are made in single precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from asynchub.errors import ArgumentError
from asynchub.subscribers.checks import Better, Mode, ThresholdMode, check_count, check_number
from asynchub.subscribers.presets import KerasImprovement, single

__all__ = ("PLATEAU_PRESETS", "KerasPlateau", "PlateauRule", "PlateauVerdict", "TorchPlateau")

PlateauVerdict = Literal["improved", "waiting", "cooldown", "due"]
"""What a check comes to; ``"due"``: the parameter is to be reduced now."""


class PlateauRule(ABC):
    """What decides, check by check, whether a parameter is to be reduced.

    Attributes:
        mode: whether smaller or larger values are better.
        patience: as of the original.
        best: the value that the next one must improve on; before the first None, or an infinity.
        bad_checks: checks without an improvement that count by now.
        cooldown_left: checks until bad ones count again.
        wait: ``bad_checks`` as the last check found them, before a reduction began anew.
        min_lr: lower bound of the parameter: one for all groups, or one for each.
        nothing: what ``best`` is before the first value.
    """

    state_fields: ClassVar[Mapping[str, tuple[type, ...]]] = {
        "best": (int, float),
        "bad_checks": (int,),
        "cooldown_left": (int,),
    }
    best: float | None
    nothing: float | None = None

    def __init__(self, mode: Mode, factor: float, patience: int, cooldown: int, min_lr: Any) -> None:
        self.mode = mode
        self._factor = check_number("factor", factor, 0)
        if self._factor >= 1:
            raise ArgumentError(f"factor must be below 1, got {factor!r}")
        self.patience = check_count("patience", patience)
        self._cooldown = check_count("cooldown", cooldown)
        self.min_lr: float | list[float] = _bounds(min_lr)
        self.bad_checks = 0
        self.cooldown_left = 0
        self.wait = 0

    @property
    def rising(self) -> bool:
        """Whether a value slightly worse than the best now counts as an improvement."""
        return False

    @abstractmethod
    def check(self, value: float) -> PlateauVerdict:
        """Take the value of one more check into account; return what it comes to."""

    @abstractmethod
    def lowered(self, old: float, bound: float) -> float | None:
        """Return what ``old`` is to be reduced to, or None if it is to be left."""

    def was_reduced(self) -> None:  # noqa: B027  # a subclass may leave it so
        """Take into account that the parameter of a group was reduced."""

    def state_dict(self) -> dict[str, Any]:
        """Return what decides about the next check, beside the arguments."""
        return {"best": self.best, "bad_checks": self.bad_checks, "cooldown_left": self.cooldown_left}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``take_state`` has looked at."""
        self.best, self.bad_checks, self.cooldown_left = state["best"], state["bad_checks"], state["cooldown_left"]


class TorchPlateau(PlateauRule):
    """``torch.optim.lr_scheduler.ReduceLROnPlateau``; arguments as of our class of that name.

    Source:
        torch 2.13, ``ReduceLROnPlateau.step``.
    """

    best: float

    def __init__(
        self,
        mode: Mode,
        factor: float,
        patience: int,
        threshold: float,
        threshold_mode: ThresholdMode,
        cooldown: int,
        min_lr: Any,
        eps: float,
    ) -> None:
        self._better = Better(mode, check_number("threshold", threshold, 0), threshold_mode)
        super().__init__(mode, factor, patience, cooldown, min_lr)
        self._eps = check_number("eps", eps, 0)
        self.best = self.nothing = self._better.worst

    @property
    def rising(self) -> bool:
        """Whether a value slightly worse than the best now counts as an improvement."""
        better = self._better
        return self.best <= 0 and better.threshold_mode == "rel" and better.threshold > 0

    def check(self, value: float) -> PlateauVerdict:
        """Take the value of one more check into account; return what it comes to."""
        verdict: PlateauVerdict = "waiting"
        if self._better(value, self.best):
            self.best = value
            self.bad_checks = 0
            verdict = "improved"
        else:
            self.bad_checks += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_checks = 0
            verdict = "cooldown" if verdict == "waiting" else verdict
        self.wait = self.bad_checks
        if self.bad_checks <= self.patience:
            return verdict
        self.cooldown_left = self._cooldown
        self.bad_checks = 0
        return "due"

    def lowered(self, old: float, bound: float) -> float | None:
        """Return what ``old`` is to be reduced to, or None if it is to be left."""
        new = max(old * self._factor, bound)
        return new if old - new > self._eps else None


class KerasPlateau(PlateauRule):
    """``keras.callbacks.ReduceLROnPlateau``: a first NaN is the best value, on which nothing improves.

    It reduces at the check of number ``patience`` without an improvement, where torch tolerates that one; a patience of
    0 is the same as 1. While every group is at its bound, bad checks go on counting and no cooldown begins.
    """

    state_fields: ClassVar[Mapping[str, tuple[type, ...]]] = {
        **PlateauRule.state_fields,
        "best": (int, float, type(None)),
    }

    def __init__(
        self,
        monitor: str,
        *,
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self._improves = KerasImprovement(monitor, mode, min_delta)
        super().__init__(self._improves.mode, factor, patience, cooldown, check_number("min_lr", min_lr))
        self.best = None

    def check(self, value: float) -> PlateauVerdict:
        """Take the value of one more check into account; return what it comes to."""
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_checks = 0
        verdict: PlateauVerdict = "cooldown"
        if self._improves(value, self.best):
            self.best = value
            self.bad_checks = 0
            verdict = "improved"
        elif not self.cooldown_left:
            self.bad_checks += 1
            verdict = "due" if self.bad_checks >= self.patience else "waiting"
        self.wait = self.bad_checks
        return verdict

    def lowered(self, old: float, bound: float) -> float | None:
        """Return what ``old`` is to be reduced to, or None if it is to be left."""
        return max(old * self._factor, bound) if single(old) > single(bound) else None

    def was_reduced(self) -> None:
        """Take into account that the parameter of a group was reduced."""
        self.cooldown_left = self._cooldown
        self.bad_checks = 0


PLATEAU_PRESETS: Mapping[str, Callable[..., PlateauRule]] = {"keras": KerasPlateau}
"""By library, what makes its rule."""


def _bounds(min_lr: object) -> float | list[float]:
    if not isinstance(min_lr, (list, tuple)):
        return check_number("min_lr", min_lr)
    return [check_number(f"min_lr[{index}]", one) for index, one in enumerate(min_lr)]
