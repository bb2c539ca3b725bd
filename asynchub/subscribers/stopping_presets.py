"""The rules that early stoppers of other libraries go by, with the names that their arguments have there.

The same decisions: a preset stops at the check at which the original does, with all that is odd about it; tests compare
    each with the real object (keras 3.15, lightning 2.6, transformers 5.24, ignite 0.5.5, mmengine 0.10, optuna 5.0).
Precision: Keras and Lightning compare in single precision, as their tensors do; so do their presets.
State: that of ``StoppingRule``, and of optuna's rule the newest values: any of them goes on exactly after a resume,
    where some of the originals begin anew.
Not finite: which of them take a NaN or an infinity as the best value, each class says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.subscribers.checks import Mode, check_count, check_number
from asynchub.subscribers.presets import KerasImprovement, single
from asynchub.subscribers.stopping_rule import StoppingRule, Why, check_flag, check_maybe

__all__ = (
    "STOPPING_PRESETS",
    "HfRule",
    "IgniteRule",
    "KerasRule",
    "LightningRule",
    "MmengineRule",
    "OptunaRule",
)


class KerasRule(StoppingRule):
    """``keras.callbacks.EarlyStopping``: a first NaN is the best value, on which nothing improves.

    With ``baseline``, ``wait`` goes on growing while values improve that do not beat it. ``start_from_epoch`` counts
    checks, of which Keras has one in each epoch.
    """

    def __init__(
        self,
        monitor: str,
        *,
        min_delta: float = 0,
        patience: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        start_from_epoch: int = 0,
    ) -> None:
        self._improves = KerasImprovement(monitor, mode, min_delta)
        super().__init__(self._improves.mode, check_count("patience", patience))
        self._baseline = check_maybe("baseline", baseline)
        self.start_from = check_count("start_from_epoch", start_from_epoch)

    @property
    def bar(self) -> float | None:
        """The baseline until it has been beaten, and the best value from then on."""
        baseline = self._baseline
        if baseline is None or (self.best is not None and self._improves(self.best, baseline)):
            return self.best
        return baseline

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        if not self._improves(value, self.best):
            return self._not_improved()
        self._take(value, step)
        self.wait = 0 if self._baseline is None or self._improves(value, self._baseline) else self.wait + 1
        return "not_stopped"


class LightningRule(StoppingRule):
    """``lightning.pytorch.callbacks.EarlyStopping``: it decides by the thresholds before it looks for an improvement.

    A check that is decided by them neither counts nor becomes the best. With ``check_finite=False`` an infinity can be
    the best value. ``strict`` warns at the end, where Lightning raises.
    """

    def __init__(
        self,
        monitor: str,
        *,
        min_delta: float = 0.0,
        patience: int = 3,
        mode: Mode = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        super().__init__(_checked_mode(mode), check_count("patience", patience))
        self._delta = single(check_number("min_delta", min_delta) * (1 if mode == "max" else -1))
        self.strict = check_flag("strict", strict)
        self._check_finite = check_flag("check_finite", check_finite)
        self.stopping_threshold = check_maybe("stopping_threshold", stopping_threshold)
        self.divergence_threshold = check_maybe("divergence_threshold", divergence_threshold)

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        value = single(value)
        if self._check_finite and not math.isfinite(value):
            return "non_finite_metric"
        if self.stopping_threshold is not None and self._beats(value, single(self.stopping_threshold)):
            return "stopping_threshold"
        if self.divergence_threshold is not None and self._beats(single(self.divergence_threshold), value):
            return "divergence_threshold"
        if not self._beats(single(value - self._delta), self._worst if self.best is None else self.best):
            return self._not_improved()
        self._take(value, step)
        self.wait = 0
        return "not_stopped"


class HfRule(StoppingRule):
    """``EarlyStoppingCallback`` of transformers, in its ``Trainer``, which takes any gain, however small, as the best.

    The first check never counts as one without an improvement, whatever its value, and stops with a patience of 0.

    ``greater_is_better=None`` goes by the name, as ``TrainingArguments`` does: not for what ends in ``loss``.
    """

    def __init__(
        self,
        monitor: str,
        *,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.0,
        greater_is_better: bool | None = None,
    ) -> None:
        if greater_is_better is None:
            greater_is_better = not monitor.endswith("loss")
        super().__init__(
            "max" if check_flag("greater_is_better", greater_is_better) else "min",
            check_count("early_stopping_patience", early_stopping_patience),
        )
        self._threshold = check_number("early_stopping_threshold", early_stopping_threshold)

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        best = self._worst if self.best is None else self.best
        gained = self._beats(value, best)
        if self.best is None or (gained and abs(value - best) > self._threshold):
            self.wait = 0
        else:
            self.wait += 1
        if gained:
            self._take(value, step)
        elif self.best is None:
            self.best = best  # an infinity, which the next finite value gains on
        return self._exhausted()


class IgniteRule(StoppingRule):
    """``EarlyStopping`` of ignite, whose ``monitor`` is the score: a NaN is an improvement, and the best value then.

    Without ``cumulative`` gains too small to count move the best value all the same. Larger is better by default.
    ``min_delta``, ``min_delta_mode`` and ``cumulative_delta`` are the names of ignite before 0.5.5; they win.
    """

    def __init__(
        self,
        monitor: str,
        *,
        patience: int,
        threshold: float = 0.0,
        cumulative: bool = False,
        threshold_mode: Literal["abs", "rel"] = "abs",
        mode: Mode = "max",
        min_delta: float | None = None,
        min_delta_mode: Literal["abs", "rel"] | None = None,
        cumulative_delta: bool | None = None,
    ) -> None:
        super().__init__(_checked_mode(mode), check_count("patience", patience, 1))
        if min_delta is None:
            self._threshold = check_number("threshold", threshold, 0)
        else:
            self._threshold = check_number("min_delta", min_delta, 0)
        for name, value in (("threshold_mode", threshold_mode), ("min_delta_mode", min_delta_mode or "abs")):
            if value not in ("abs", "rel"):
                raise ArgumentError(f"{name} must be 'abs' or 'rel', got {value!r}")
        self._relative = (min_delta_mode or threshold_mode) == "rel"
        flag = "cumulative" if cumulative_delta is None else "cumulative_delta"
        self._cumulative = check_flag(flag, cumulative if cumulative_delta is None else cumulative_delta)
        if mode == "min":
            self._threshold = -self._threshold

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        best = self.best
        if best is not None:
            bar = best * (1 + self._threshold) if self._relative else best + self._threshold
            if self._beats(bar, value) or value == bar:  # a NaN is neither
                if not self._cumulative and self._beats(value, best):
                    self._take(value, step)
                return self._not_improved()
        self._take(value, step)
        self.wait = 0
        return "not_stopped"


class MmengineRule(StoppingRule):
    """``EarlyStoppingHook`` of mmengine: an equal value is an improvement if ``min_delta`` is 0, and so is a NaN.

    A NaN gets that far with ``check_finite=False`` only. ``rule=None`` goes by the name, as the hook does. ``strict``
    warns at the end, where mmengine raises.
    """

    _GREATER = ("acc", "top", "ar@", "auc", "precision", "map", "mdice", "miou", "macc", "aacc")

    def __init__(
        self,
        monitor: str,
        *,
        rule: Literal["greater", "less"] | None = None,
        min_delta: float = 0.1,
        strict: bool = False,
        check_finite: bool = True,
        patience: int = 5,
        stopping_threshold: float | None = None,
    ) -> None:
        if rule not in (None, "greater", "less"):
            raise ArgumentError(f"rule must be 'greater', 'less' or None, got {rule!r}")
        name = monitor.lower()
        if rule is None and name != "loss" and any(part in name for part in self._GREATER):
            rule = "greater"
        elif rule is None and "loss" in name:
            rule = "less"
        if rule is None:
            raise ArgumentError(
                f"rule=None knows what is best of an accuracy or a loss only: give rule= for {monitor!r}"
            )
        super().__init__("max" if rule == "greater" else "min", check_count("patience", patience))
        self._delta = check_number("min_delta", min_delta) * (1 if rule == "greater" else -1)
        self.strict = check_flag("strict", strict)
        self._check_finite = check_flag("check_finite", check_finite)
        self.stopping_threshold = check_maybe("stopping_threshold", stopping_threshold)

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        if self._check_finite and not math.isfinite(value):
            return "non_finite_metric"
        if self.stopping_threshold is not None and self._beats(value, self.stopping_threshold):
            self._take(value, step)
            return "stopping_threshold"
        if self._beats((self._worst if self.best is None else self.best) + self._delta, value):
            return self._not_improved()
        self._take(value, step)
        self.wait = 0
        return "not_stopped"


class OptunaRule(StoppingRule):
    """``optuna.pruners.PatientPruner(None, patience, min_delta)`` in a study of this ``direction``.

    It stops when the best of the last ``patience + 1`` values is worse than the best before them by more than
    ``min_delta``; so on a flat series never. NaN is left out; an infinity counts.
    """

    state_fields: ClassVar[Mapping[str, tuple[type, ...]]] = {
        **StoppingRule.state_fields,
        "before": (int, float, type(None)),
        "recent": (list, type(None)),
    }
    absent: ClassVar[Mapping[str, Any]] = {"before": None, "recent": None}

    def __init__(
        self,
        monitor: str,
        *,
        patience: int,
        min_delta: float = 0.0,
        direction: Literal["minimize", "maximize"] = "minimize",
    ) -> None:
        if direction not in ("minimize", "maximize"):
            raise ArgumentError(f"direction must be 'minimize' or 'maximize', got {direction!r}")
        super().__init__("min" if direction == "minimize" else "max", check_count("patience", patience))
        self._delta = check_number("min_delta", min_delta, 0) * (1 if direction == "minimize" else -1)
        self._before: float | None = None  # the best before the newest ones
        self._recent: list[float] = []

    def check(self, value: float, step: int | None = None) -> Why:
        """Take the value of one more check into account; return why to stop now, or ``"not_stopped"``."""
        self.wait += 1
        if self._gains(value, self.best):
            self._take(value, step)
            self.wait = 0
        self._recent.append(value)
        while len(self._recent) > self.patience + 1:
            oldest = self._recent.pop(0)
            if self._gains(oldest, self._before):
                self._before = oldest
        after: float | None = None
        for one in self._recent:
            if self._gains(one, after):
                after = one
        if self._before is None or after is None or not self._beats(self._before + self._delta, after):
            return "not_stopped"
        return "patience_exhausted"

    def _gains(self, value: float, best: float | None) -> bool:
        return not math.isnan(value) and (best is None or self._beats(value, best))

    def state_dict(self) -> dict[str, Any]:
        """Return what decides about the next check, beside the arguments."""
        return {**super().state_dict(), "before": self._before, "recent": list(self._recent)}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Look closer at a state; change nothing.

        Raises:
            StateDictError: the newest values are no numbers.
        """
        if not all(type(one) in (int, float) for one in state["recent"] or ()):
            raise StateDictError(f"'recent' must be a list of numbers, got {state['recent']!r:.80}")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; one of another rule has no newest values: its best was before them."""
        super().load_state(state)
        recent = state["recent"]
        self._before = state["best"] if recent is None else state["before"]
        self._recent = list(recent or ())


STOPPING_PRESETS: Mapping[str, Callable[..., StoppingRule]] = {
    "keras": KerasRule,
    "lightning": LightningRule,
    "hf": HfRule,
    "ignite": IgniteRule,
    "mmengine": MmengineRule,
    "optuna": OptunaRule,
}
"""By library, what makes its rule."""


def _checked_mode(mode: object) -> Mode:
    if mode == "min":
        return "min"
    if mode == "max":
        return "max"
    raise ArgumentError(f"mode must be 'min' or 'max', got {mode!r}")
