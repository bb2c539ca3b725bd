"""The gradient noise scale: how large a batch is before a larger one brings little.

Deterministic: it estimates at settle points, from the events alone; a recorded run gives the same estimates again.
Not finite: a step with a norm that is NaN or infinite, or below 0, is left out.
Resume: the state holds what was seen, never the arguments: those of the constructor win.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import ScalarUpdated
from asynchub.subscribers.checks import check_count, check_key, check_number, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("GradNoiseScale",)


class GradNoiseScale:
    """Publish the simple noise scale, ``tr(Sigma) / |G| ** 2``, in samples.

    ``G`` is the gradient of the true loss and ``Sigma`` the covariance of the gradient of one sample. The expected
    squared norm of the gradient of a batch of ``B`` samples is ``|G| ** 2 + tr(Sigma) / B``; so from those of batches
    of two sizes, both can be told, without bias::

        |G| ** 2  =  (b_big * big - b_small * small) / (b_big - b_small)
        tr(Sigma) =  (small - big) / (1 / b_small - 1 / b_big)

    One step tells little, so each is averaged, ``average = beta * average + (1 - beta) * estimate``, divided by the
    weights so far, ``1 - beta ** n``, and the scale is the ratio of the averages. It is published after each step from
    which both norms are there, as long as the average of ``|G| ** 2`` is above 0. It can be below 0 itself, when the
    noise is too small to be told from that of the estimate.

    In data-parallel training the small batch is that of one rank, the big one that of all; with accumulated gradients,
    one micro-batch and all of them. Publish the squared norms before clipping. The more small ones a step has, the
    better: publish them one by one, or their sum with its ``count``, and the big one after them.

    Args:
        b_small: samples in a small batch; at least 1.
        b_big: samples in a big batch; above ``b_small``.
        beta: weight of the past in the averages; from 0 to below 1.
        small: key of the squared norm of the gradient of a small batch.
        big: key of that of a big batch.
        key: of the scalar that the scale is published as.

    Attributes:
        steps: how many the averages are over.

    Raises:
        PatternError: ``small``, ``big`` or ``key`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range.

    Source:
        McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv 1812.06162, 2018, appendix A.1; dividing
        by the weights as in Kingma and Ba, "Adam", ICLR 2015, section 3.
    """

    role = "control"

    def __init__(
        self,
        b_small: int,
        b_big: int,
        beta: float = 0.99,
        *,
        small: str = "grad_norm_sq/small",
        big: str = "grad_norm_sq/big",
        key: str = "noise_scale/simple",
    ) -> None:
        self._b_small = check_count("b_small", b_small, 1)
        self._b_big = check_count("b_big", b_big, 1)
        if self._b_big <= self._b_small:
            raise ArgumentError(f"b_big must be above b_small, got {b_big!r} and {b_small!r}")
        self._beta = check_number("beta", beta, 0)
        if self._beta >= 1:
            raise ArgumentError(f"beta must be below 1, got {beta!r}")
        self.keys = (check_key("small", small), check_key("big", big))
        self._key = check_key("key", key)
        if len({small, big, key}) < 3:
            raise ArgumentError(f"small, big and key must differ, got {small!r}, {big!r} and {key!r}")
        self.steps = 0
        self._squared = 0.0  # the averages, before they are divided by their weights
        self._trace = 0.0
        self._step: int | None = None  # of what follows:
        self._small_sum = 0.0
        self._small_count = 0
        self._big: float | None = None  # one that came before its small one

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            if not isinstance(event, ScalarUpdated) or event.key not in self.keys:
                continue
            value = mean_of(event)
            if value is None:
                continue
            if event.step != self._step:
                self._begin(event.step)
            if event.key == self.keys[1]:
                self._big = value
            else:
                self._small_sum += value * event.count
                self._small_count += event.count
            if self._small_count and self._big is not None:
                self._estimate(self._small_sum / self._small_count, self._big, events)
                self._begin(event.step)

    def _begin(self, step: int | None) -> None:
        self._step, self._small_sum, self._small_count, self._big = step, 0.0, 0, None

    @property
    def squared_norm(self) -> float | None:
        """The estimate of ``|G| ** 2``, averaged; None before the first step."""
        return self._squared / (1 - self._beta**self.steps) if self.steps else None

    @property
    def trace(self) -> float | None:
        """The estimate of ``tr(Sigma)``, averaged; None before the first step."""
        return self._trace / (1 - self._beta**self.steps) if self.steps else None

    @property
    def scale(self) -> float | None:
        """The noise scale, in samples; None before the first step, and where ``squared_norm`` is not above 0."""
        return self._trace / self._squared if self._squared > 0 else None

    def _estimate(self, small: float, big: float, events: Subscription) -> None:
        if not (0 <= small < math.inf and 0 <= big < math.inf):
            return
        squared = (self._b_big * big - self._b_small * small) / (self._b_big - self._b_small)
        trace = (small - big) / (1 / self._b_small - 1 / self._b_big)
        if not (math.isfinite(squared) and math.isfinite(trace)):  # too large for a float, and for the averages
            return
        self.steps += 1
        self._squared = self._beta * self._squared + (1 - self._beta) * squared
        self._trace = self._beta * self._trace + (1 - self._beta) * trace
        scale = self.scale
        if scale is not None:
            events.update_scalar(self._key, scale, step=self._step)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen; no arguments."""
        return {
            "steps": self.steps,
            "squared": self._squared,
            "trace": self._trace,
            "step": self._step,
            "small_sum": self._small_sum,
            "small_count": self._small_count,
            "big": self._big,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields: dict[str, tuple[type, ...]] = {
            "steps": (int,),
            "squared": (float,),
            "trace": (float,),
            "step": (int, type(None)),
            "small_sum": (float,),
            "small_count": (int,),
            "big": (float, type(None)),
        }
        taken = take_state(state, fields, "GradNoiseScale")
        if not (math.isfinite(taken["squared"]) and math.isfinite(taken["trace"])):
            raise StateDictError(f"'squared' and 'trace' must be finite, got {taken['squared']}, {taken['trace']}")
        self.steps, self._squared, self._trace = taken["steps"], taken["squared"], taken["trace"]
        self._step, self._big = taken["step"], taken["big"]
        self._small_sum, self._small_count = taken["small_sum"], taken["small_count"]
