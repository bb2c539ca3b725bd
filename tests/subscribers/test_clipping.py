"""``ZClip`` and ``AutoClip``: NumPy, the algorithms of the papers step by step, and gradients that torch clips."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided
from asynchub.subscribers.clipping import AutoClip, ZClip
from asynchub.testing import Drive, drive, scalars

NAN, INF = math.nan, math.inf
NORM = "train/grad_norm"


def norms(rng: np.random.Generator, count: int) -> list[float]:
    """Return norms that fall slowly, with spikes."""
    spikes = np.where(rng.random(count) < 0.08, rng.uniform(2, 30, count), 1)
    return ((2 + np.exp(-np.arange(count) / 50)) * rng.lognormal(0, 0.2, count) * spikes).tolist()


def thresholds(answers: Iterable[Event], key: str = "clip/threshold") -> list[float]:
    return [one.value for one in answers if isinstance(one, ScalarUpdated) and one.key == key]


def spikes_of(answers: Iterable[Event]) -> list[Decided]:
    return [one for one in answers if isinstance(one, Decided)]


# --- ZClip


class Original:
    """The algorithm of the paper and of its authors' package, written down once more, in NumPy."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = {
            "alpha": 0.97,
            "z_thresh": 2.5,
            "max_grad_norm": 1.0,
            "eps": 1e-6,
            "warmup_steps": 25,
            "mode": "zscore",
            "clip_option": "adaptive_scaling",
            "clip_factor": 1.0,
            "skip_update_on_spike": False,
            **arguments,
        }
        self.first: list[float] = []
        self.mean = self.variance = np.float64(NAN)

    def step(self, norm: float) -> float:
        """Return the norm that a gradient of ``norm`` is left with."""
        given = self.arguments
        limit = np.inf if given["max_grad_norm"] is None else given["max_grad_norm"]
        if np.isnan(self.mean):
            self.first.append(norm)
            if len(self.first) == given["warmup_steps"]:
                self.mean, self.variance = np.mean(self.first), np.var(self.first)
            return min(norm, limit)
        mean, deviation, thresh = self.mean, np.sqrt(self.variance), given["z_thresh"]
        z = (norm - mean) / (deviation + given["eps"])
        if given["mode"] == "percentile":
            spike, clipped = norm > mean + thresh * deviation, mean + thresh * deviation
        elif given["clip_option"] == "mean":
            spike, clipped = z > thresh, mean
        else:
            spike, clipped = z > thresh, given["clip_factor"] * (mean + thresh**2 / z * deviation)
        left = clipped if spike else norm
        if not (spike and given["skip_update_on_spike"]):
            alpha = given["alpha"]
            self.mean = alpha * mean + (1 - alpha) * left
            self.variance = alpha * self.variance + (1 - alpha) * (left - self.mean) ** 2
        return min(left, limit)


ZCLIPS: list[dict[str, Any]] = [
    {},
    {"max_grad_norm": None},
    {"max_grad_norm": 6.0, "warmup_steps": 1},
    {"max_grad_norm": None, "alpha": 0.5, "z_thresh": 1.0, "clip_factor": 0.6, "warmup_steps": 5},
    {"max_grad_norm": None, "clip_option": "mean"},
    {"max_grad_norm": None, "mode": "percentile", "z_thresh": 2.0},
    {"max_grad_norm": None, "skip_update_on_spike": True},
    {"max_grad_norm": 4.0, "alpha": 0.1, "eps": 0.01},
]


@pytest.mark.parametrize("arguments", ZCLIPS, ids=str)
def test_what_is_left_of_each_gradient_is_what_zclip_leaves(
    arguments: dict[str, Any], rng: np.random.Generator
) -> None:
    spikes = 0
    for _ in range(5):
        ours, original = ZClip(**arguments), Original(**arguments)
        driven = Drive(ours)
        for event in scalars(NORM, norms(rng, 200)):
            left = min(event.value, ours.clip_to(event.value))
            assert left == pytest.approx(original.step(event.value), rel=1e-9)
            spikes += len(spikes_of(driven.send(event)))
            if ours.mean is not None:
                assert (ours.mean, ours.variance) == pytest.approx((original.mean, original.variance), rel=1e-9)
        driven.close()
    assert spikes > 20


def test_the_threshold_is_the_largest_norm_that_is_no_spike(rng: np.random.Generator) -> None:
    for mode in ("zscore", "percentile"):
        zclip = ZClip(max_grad_norm=None, mode=mode)  # type: ignore[arg-type]
        assert zclip.threshold == INF
        drive(zclip, scalars(NORM, norms(rng, 60)))
        assert zclip.clip_to(zclip.threshold * (1 - 1e-9)) == INF
        assert zclip.clip_to(zclip.threshold * (1 + 1e-9)) < INF
        assert zclip.mean is not None
        assert zclip.variance is not None
        assert zclip.threshold == pytest.approx(zclip.mean + 2.5 * math.sqrt(zclip.variance), rel=1e-5)


def test_the_larger_a_spike_the_closer_to_the_mean_it_is_clipped(rng: np.random.Generator) -> None:
    zclip = ZClip(max_grad_norm=None)
    drive(zclip, scalars(NORM, norms(rng, 60)))
    assert zclip.mean is not None
    clipped = [zclip.clip_to(zclip.threshold * factor) for factor in (1.01, 2, 10, 1e6, INF)]
    assert sorted(clipped, reverse=True) == clipped
    assert clipped[-1] == zclip.mean


def test_a_threshold_is_published_after_each_norm_at_its_step(rng: np.random.Generator) -> None:
    zclip = ZClip(max_grad_norm=None)
    driven, found = Drive(zclip), []
    for event in scalars(NORM, norms(rng, 60)):
        answers = driven.send(event)
        found += thresholds(answers)
        assert all(answer.step == event.step for answer in answers)
        assert found[-1:] == ([zclip.threshold] if zclip.threshold < INF else [])
    driven.close()
    assert len(found) == 60 - 24  # there is none before the 25 norms of the warm-up are there
    assert thresholds(drive(ZClip(), scalars(NORM, [5.0] * 3))) == [1.0] * 3


def test_a_spike_is_published_with_what_it_is_to_be_clipped_to() -> None:
    zclip = ZClip(max_grad_norm=2.5, warmup_steps=4, clip_option="mean")
    decided, _ = drive(zclip, scalars(NORM, [1.0, 3.0, 1.0, 3.0, 10.0]))[-2:]
    assert isinstance(decided, Decided)
    assert (decided.verdict, decided.monitor, decided.value, decided.best, decided.step) == ("clip", NORM, 10.0, 2.0, 5)
    assert decided.reason == "train/grad_norm is 10 at step 5, a spike above 4.5: clip to 2"


def test_constant_norms_make_any_larger_one_a_spike() -> None:
    zclip = ZClip(max_grad_norm=None, warmup_steps=3, eps=0.0)
    drive(zclip, scalars(NORM, [2.0, 2.0, 2.0]))
    assert [zclip.clip_to(norm) for norm in (1.0, 2.0, 2.5)] == [INF, INF, 2.0]


NOT_NORMS = [NAN, INF, -INF, -1.0]


@pytest.mark.parametrize("make", [lambda: ZClip(warmup_steps=2, max_grad_norm=None), lambda: AutoClip(50)])
def test_what_is_no_norm_teaches_nothing(make: Any) -> None:
    clean, other = make(), make()
    drive(clean, scalars(NORM, [1.0, 2.0, 3.0]))
    events: list[Event] = [*scalars(NORM, [1.0, *NOT_NORMS, 2.0, *NOT_NORMS, 3.0])]
    events += [ScalarUpdated(key=NORM, value=9.0, count=0), ScalarUpdated(key="other", value=9.0)]
    answers = drive(other, events, "**")
    assert other.state_dict() == clean.state_dict()
    assert thresholds(answers)[-1] == other.threshold == clean.threshold
    assert [other.clip_to(value) for value in (NAN, -1.0)] in ([INF, INF], [other.threshold, other.threshold])


def test_norms_beyond_what_a_variance_can_hold_leave_it_as_it_was() -> None:
    zclip = ZClip(max_grad_norm=None, mode="percentile", z_thresh=1e300, warmup_steps=2)
    drive(zclip, scalars(NORM, [1.0, 1e299, 2.0]))
    assert (zclip.mean, zclip.variance) == (1.5, 0.25)
    drive(zclip, scalars(NORM, [1e299]))
    assert (zclip.mean, zclip.variance) == (1.5, 0.25)


# --- AutoClip


@pytest.mark.parametrize("percentile", [0, 10, 33.3, 50, 90, 100])
@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_the_threshold_is_the_percentile_of_numpy_to_the_last_bit(
    percentile: float, size: int, rng: np.random.Generator
) -> None:
    series = norms(rng, 120)
    series[40:50] = [3.0] * 10  # ties
    autoclip = AutoClip(percentile, size)
    driven = Drive(autoclip)
    assert autoclip.threshold == INF
    for count, event in enumerate(scalars(NORM, series), 1):
        wanted = np.percentile(series[max(0, count - size) : count], percentile)
        assert autoclip.clip_to(event.value) == wanted
        assert thresholds(driven.send(event)) == [wanted]
        assert autoclip.threshold == wanted
    driven.close()


@settings(max_examples=200)
@given(
    st.lists(st.floats(0, 1e308) | st.sampled_from([0.0, 1.0, 1.5]), min_size=1, max_size=40),
    st.floats(0, 100),
    st.integers(1, 50),
)
def test_the_threshold_is_that_of_numpy_for_any_norms(series: list[float], percentile: float, size: int) -> None:
    autoclip = AutoClip(percentile, size)
    drive(autoclip, scalars(NORM, series))
    assert autoclip.threshold == np.percentile(series[-size:], percentile)


def test_its_history_is_bounded() -> None:
    autoclip = AutoClip(history_size=100)
    drive(autoclip, scalars(NORM, np.linspace(1, 2, 1000).tolist()))
    assert len(autoclip.state_dict()["history"]) == len(autoclip._sorted) == 100


# --- both

MAKERS: dict[str, Any] = {
    "ZClip": lambda: ZClip(warmup_steps=4, max_grad_norm=None, alpha=0.8),
    "ZClip, mean": lambda: ZClip(warmup_steps=4, max_grad_norm=5.0, clip_option="mean", skip_update_on_spike=True),
    "AutoClip": lambda: AutoClip(30, 6),
}
every_adviser = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
SERIES = st.lists(st.floats(0, 50) | st.floats(1, 2) | st.sampled_from([NAN, INF, 0.0, -1.0, 1e308]), max_size=25)


@every_adviser
@settings(max_examples=40)
@given(series=SERIES)
def test_an_adviser_saved_after_any_norm_advises_as_if_it_had_not_been(make: Any, series: list[float]) -> None:
    events = scalars(NORM, series)
    whole = make()
    driven = Drive(whole)
    states, answers = [whole.state_dict()], []
    for event in events:
        got = driven.send(event)
        answers.append((thresholds(got), [one.reason for one in spikes_of(got)]))
        states.append(whole.state_dict())
    driven.close()
    for index, event in enumerate(events):
        part = make()
        part.load_state_dict(msgpack.unpackb(msgpack.packb(states[index], strict_types=True)))
        got = drive(part, [event])
        assert (thresholds(got), [one.reason for one in spikes_of(got)]) == answers[index]
        assert part.state_dict() == states[index + 1]


@every_adviser
def test_asking_changes_nothing(make: Any, rng: np.random.Generator) -> None:
    adviser = make()
    drive(adviser, scalars(NORM, norms(rng, 30)))
    before = adviser.state_dict()
    for norm in (0.0, 1.0, 100.0, NAN, INF, -1.0):
        adviser.clip_to(norm)
    assert adviser.state_dict() == before


def test_arguments_given_on_resume_win() -> None:
    first = AutoClip(10, 100)
    drive(first, scalars(NORM, [float(one) for one in range(1, 21)]))
    smaller = AutoClip(50, 5)
    smaller.load_state_dict(first.state_dict())
    assert smaller.threshold == 18.0
    zclip = ZClip(warmup_steps=10, max_grad_norm=None)
    drive(zclip, scalars(NORM, [1.0] * 8))
    shorter = ZClip(warmup_steps=3, max_grad_norm=None)
    shorter.load_state_dict(zclip.state_dict())
    drive(shorter, scalars(NORM, [1.0]))
    assert shorter.mean == 1.0


def step_of(model: torch.nn.Module, factor: float) -> None:
    model.zero_grad()
    (factor * model(torch.randn(16, 8)).pow(2).mean()).backward()


def grads_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [one.grad for one in model.parameters() if one.grad is not None]


@every_adviser
def test_a_loop_clips_to_the_threshold_of_the_step_before_without_a_wait(make: Any) -> None:
    torch.manual_seed(0)
    model, hub, adviser = torch.nn.Linear(8, 8), MessageHub("lagged"), make()
    hub.attach(adviser)
    before = []
    with hub:
        for hub.step in range(1, 41):
            step_of(model, 100.0 if hub.step % 10 == 0 else 1.0)
            threshold = adviser.threshold
            before.append(threshold)
            hub.update_scalar(NORM, clip_grad_norm_(model.parameters(), threshold))
            assert float(get_total_norm(grads_of(model))) <= threshold * 1.00001
            hub.settle()
        published = hub.get_scalar("clip/threshold").data[0].tolist()
    assert published[:-1] == [one for one in before[1:] if one < INF]
    assert max(hub.get_scalar(NORM).data[0]) > 5 * max(published)


def test_a_loop_that_waits_for_its_norm_does_what_zclip_does() -> None:
    torch.manual_seed(0)
    model, hub = torch.nn.Linear(8, 8), MessageHub("exact")
    hub.attach(zclip := ZClip(warmup_steps=5, max_grad_norm=None))
    original = Original(warmup_steps=5, max_grad_norm=None)
    clipped = 0
    with hub:
        for hub.step in range(1, 41):
            step_of(model, 100.0 if hub.step % 10 == 0 else 1.0)
            norm = get_total_norm(grads_of(model))
            limit = zclip.clip_to(norm.item())
            clipped += limit < norm
            clip_grads_with_norm_(model.parameters(), limit, norm)
            assert float(get_total_norm(grads_of(model))) == pytest.approx(original.step(norm.item()), rel=1e-4)
            hub.update_scalar(NORM, norm)
            hub.settle()
    assert clipped >= 4


def test_it_does_not_hear_itself_though_it_hears_everything() -> None:
    hub = MessageHub("everything")
    hub.attach(AutoClip(), "**")
    hub.update_scalar(NORM, 2.0)
    hub.settle()
    assert hub.get_scalar("clip/threshold").data[0].tolist() == [2.0]


def test_two_advisers_of_one_hub_publish_under_keys_of_their_own() -> None:
    hub = MessageHub("two")
    hub.attach(AutoClip(100, key="clip/auto"))
    hub.attach(ZClip(warmup_steps=1, key="clip/z"))
    hub.update_scalar(NORM, 2.0)
    hub.settle()
    assert [hub.get_scalar(key).current() for key in ("clip/auto", "clip/z")] == [2.0, 1.0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": 1.0},
        {"alpha": -0.1},
        {"z_thresh": 0.0},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": "1"},
        {"eps": -1e-6},
        {"warmup_steps": 0},
        {"mode": "mean"},
        {"clip_option": None},
        {"clip_factor": 0.0},
        {"skip_update_on_spike": 1},
        {"monitor": "train/*"},
        {"key": "clip/*"},
        {"key": NORM},
    ],
    ids=str,
)
def test_an_argument_of_zclip_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        ZClip(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"clip_percentile": -1},
        {"clip_percentile": 100.5},
        {"clip_percentile": NAN},
        {"history_size": 0},
        {"history_size": 10.0},
        {"monitor": "**"},
        {"key": NORM},
    ],
    ids=str,
)
def test_an_argument_of_autoclip_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        AutoClip(**arguments)


def test_an_empty_key_is_refused() -> None:
    for kind in (ZClip, AutoClip):
        with pytest.raises(PatternError):
            kind(key="")


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (ZClip, {"warmup": [1], "mean": None, "variance": None}),
        (ZClip, {"warmup": [-1.0], "mean": None, "variance": None}),
        (ZClip, {"warmup": [], "mean": 1.0, "variance": None}),
        (ZClip, {"warmup": [], "mean": 1.0, "variance": NAN}),
        (ZClip, {"warmup": [], "mean": INF, "variance": 1.0}),
        (ZClip, {"warmup": [], "mean": "1", "variance": 1.0}),
        (AutoClip, {"history": [NAN]}),
        (AutoClip, {"history": 1.0}),
        (AutoClip, {}),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(make: Any, state: dict[str, Any]) -> None:
    adviser = make()
    drive(adviser, scalars(NORM, [2.0, 3.0]))
    before = adviser.state_dict()
    with pytest.raises(StateDictError):
        adviser.load_state_dict(state)
    assert adviser.state_dict() == before
