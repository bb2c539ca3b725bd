"""What decides in ``EarlyStopping``, check by check: the form of such rules, and ours.

State: ``best``, ``best_step`` and ``wait`` decide about the next check, beside the arguments; a rule may have more.
Not finite: ours takes no NaN or infinity as the best value.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from asynchub.errors import ArgumentError
from asynchub.subscribers.checks import Better, Mode, ThresholdMode, check_count, check_number

__all__ = ("OwnRule", "StoppingRule", "Why", "check_flag", "check_maybe")

Why = Literal["not_stopped", "patience_exhausted", "stopping_threshold", "divergence_threshold", "non_finite_metric"]
"""Why a rule stops, if it does: the values of ``StoppingReason``."""


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is a bool.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be True or False, got {value!r}")
    return value


def check_maybe(name: str, value: object) -> float | None:
    """Return None, or ``value`` as a float if it is a finite number.

    Raises:
        ArgumentError: it is neither.
    """
    return None if value is None else check_number(name, value)


class StoppingRule(ABC):
    """What decides, check by check, whether training is to stop.

    Attributes:
        mode: whether smaller or larger values are better.
        patience: checks without an improvement after which it stops.
        best: the value that the next one is compared with; None before the first.
        best_step: the step of that value.
        wait: checks since the last improvement.
        start_from: checks before it looks at any.
        strict: whether a scalar that never came is to be warned of.
        stopping_threshold: it stops when the value is better than this.
        divergence_threshold: it stops when the value is worse than this.
    """

    state_fields: ClassVar[Mapping[str, tuple[type, ...]]] = {
        "best": (int, float, type(None)),
        "best_step": (int, type(None)),
        "wait": (int,),
    }
    absent: ClassVar[Mapping[str, Any]] = {}
    start_from: int | str = 0
    strict = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None

    def __init__(self, mode: Mode, patience: int) -> None:
        self.mode = mode
        self.patience = patience
        self.best: float | None = None
        self.best_step: int | None = None
        self.wait = 0
        self._beats: Callable[[float, float], bool] = operator.lt if mode == "min" else operator.gt
        self._worst = math.inf if mode == "min" else -math.inf

    @abstractmethod
    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""

    @property
    def bar(self) -> float | None:
        """What the next value is compared with; None if there is nothing yet."""
        return self.best

    def state_dict(self) -> dict[str, Any]:
        """Return what decides about the next check, beside the arguments."""
        return {"best": self.best, "best_step": self.best_step, "wait": self.wait}

    def check_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # a subclass may leave it so
        """Look closer at a state, of whichever rule, that ``take_state`` has looked at; change nothing.

        Raises:
            StateDictError: something is wrong with it.
        """

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``check_state`` has looked at."""
        self.best, self.best_step, self.wait = state["best"], state["best_step"], state["wait"]

    def _take(self, value: float, step: int | None) -> None:
        self.best, self.best_step = value, step

    def _not_improved(self) -> Why:
        self.wait += 1
        return self._exhausted()

    def _exhausted(self) -> Why:
        return "patience_exhausted" if self.wait >= self.patience else "not_stopped"


class OwnRule(StoppingRule):
    """The rule of this package; arguments as of ``EarlyStopping``."""

    def __init__(
        self,
        patience: int,
        min_delta: float,
        mode: Mode,
        threshold_mode: ThresholdMode,
        cumulative: bool,
        baseline: float | None,
        check_finite: bool,
        stopping_threshold: float | None,
        divergence_threshold: float | None,
    ) -> None:
        self._better = Better(mode, check_number("min_delta", min_delta, 0), threshold_mode)
        super().__init__(mode, check_count("patience", patience))
        self._baseline = check_maybe("baseline", baseline)
        self.stopping_threshold = check_maybe("stopping_threshold", stopping_threshold)
        self.divergence_threshold = check_maybe("divergence_threshold", divergence_threshold)
        self._cumulative = check_flag("cumulative", cumulative)
        self._check_finite = check_flag("check_finite", check_finite)

    @property
    def bar(self) -> float | None:
        """The best value, or before there is one the baseline."""
        return self._baseline if self.best is None else self.best

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        finite, bar = math.isfinite(value), self.bar
        improved = finite and (bar is None or self._better(value, bar))
        self.wait = 0 if improved else self.wait + 1
        if improved or (finite and not self._cumulative and bar is not None and self._beats(value, bar)):
            self._take(value, step)
        if not finite and self._check_finite:
            return "non_finite_metric"
        if finite and self.stopping_threshold is not None and self._beats(value, self.stopping_threshold):
            return "stopping_threshold"
        if self.divergence_threshold is not None and self._beats(self.divergence_threshold, value):
            return "divergence_threshold"
        return self._exhausted() if self.wait else "not_stopped"

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; a best value that is not finite, which a rule of others has left, is none here."""
        super().load_state(state)
        if self.best is not None and not math.isfinite(self.best):
            self.best = self.best_step = None
