"""Who is to blame: every rule, every boundary, and what noise may do to a verdict."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.report import Verdict
from asynchub.pipeline.verdict import ConsumerFacts, Facts, Judge, StageFacts, judged


def stage(name: str, utilisation: float, capacity: float | None = 50.0, **others: Any) -> StageFacts:
    return StageFacts(**{"name": name, "utilisation": utilisation, "capacity": capacity, "servers": name, **others})


def consumer(wait: float = 0.5, **others: Any) -> ConsumerFacts:
    facts = {"name": "train", "items": 400, "wait_fraction": wait, "capacity": 80.0, "throughput": 40.0}
    return ConsumerFacts(**{**facts, **others})


def facts(*stages: StageFacts, **others: Any) -> Facts:
    return Facts(**{"window": 10.0, "warm": True, "stages": stages, "consumer": consumer(), "items": 400, **others})


# --- too little is known


@pytest.mark.parametrize(
    ("others", "kind", "reason"),
    [
        ({"warm": False}, "unknown", "warming up"),
        ({"window": 1.9}, "unknown", "only 1.9 s were seen, 2 are needed"),
        ({"window": 2.0}, "stage", ""),
        ({"consumer": consumer(items=19), "window": 9.0}, "unknown", "only 19 items in 9.0 s, 20 are needed"),
        ({"consumer": consumer(items=4)}, "unknown", "only 4 items in 10.0 s, 5 are needed"),
        ({"consumer": consumer(items=5)}, "stage", ""),
        ({"consumer": consumer(items=20), "window": 9.0}, "stage", ""),
        ({"consumer": None, "items": 19, "window": 9.0}, "unknown", "only 19 items"),
        ({"consumer": None, "items": 20, "window": 9.0}, "stage", ""),
    ],
)
def test_too_little_is_judged_unknown_and_the_reason_says_what_is_missing(
    others: dict[str, Any], kind: str, reason: str
) -> None:
    verdict = judged(facts(stage("decode", 0.95), **others))
    assert verdict.kind == kind
    assert reason in verdict.reason


# --- a stage


def test_the_stage_whose_servers_are_all_busy_is_named_with_what_it_can_do_and_what_comes_next() -> None:
    found = judged(facts(stage("fetch", 0.6, 65.0), stage("decode", 0.98, 40.8), stage("collate", 0.2, 200.0)))
    assert (found.kind, found.stage, found.capacity) == ("stage", "decode", 40.8)
    assert (found.next_limit, found.next_capacity) == ("fetch", 65.0)
    assert found.gain == pytest.approx(65 / 40 - 1)
    assert found.confidence == pytest.approx(0.38)
    assert found.near == ()
    assert found.reason == "decode can do no more: it is busy 98 % of the time"


def test_the_consumer_may_be_the_next_limit() -> None:
    found = judged(facts(stage("fetch", 0.3, 130.0), stage("decode", 0.98, 40.8)))
    assert (found.next_limit, found.next_capacity, found.gain) == ("train", 80.0, pytest.approx(1.0))


def test_without_another_limit_nothing_is_said_of_the_gain() -> None:
    found = judged(facts(stage("decode", 0.98), consumer=consumer(capacity=None)))
    assert (found.next_limit, found.next_capacity, found.gain) == ("", None, None)


def test_a_gain_is_never_below_zero() -> None:
    assert judged(facts(stage("decode", 0.9, 40.0), stage("fetch", 0.95, 39.0))).gain == 0.0


@pytest.mark.parametrize(
    ("utilisation", "kind"),
    [
        (1.3, "stage"),
        (0.85, "stage"),
        (0.849, "balanced"),
        (0.70, "balanced"),
        (0.699, "unsaturated"),
        (0, "unsaturated"),
    ],
)
def test_how_busy_the_busiest_is_decides(utilisation: float, kind: str) -> None:
    found = judged(facts(stage("decode", utilisation), stage("fetch", 0.0)))
    assert found.kind == kind
    assert found.stage == ("decode" if kind == "stage" else "")
    assert found.utilisation == min(utilisation, 1.0)


def test_stages_that_are_nearly_as_busy_are_told_and_the_confidence_is_low() -> None:
    found = judged(facts(stage("fetch", 0.95), stage("decode", 0.98), stage("collate", 0.88), stage("copy", 0.87)))
    assert (found.stage, found.near, found.level) == ("decode", ("fetch", "collate"), "low")


def test_among_stages_that_are_fairly_busy_none_is_named() -> None:
    found = judged(facts(stage("fetch", 0.78), stage("decode", 0.80), stage("copy", 0.1)))
    assert (found.kind, found.stage, found.near) == ("balanced", "", ("fetch", "decode"))
    assert found.reason == "no stage alone; the busiest is decode, 80 % of the time"


def test_stages_that_share_servers_are_added_up_and_the_busier_one_is_named() -> None:
    shared = {"servers": "workers"}
    found = judged(
        facts(stage("dataset", 0.6, 66.0, **shared), stage("collate", 0.38, 105.0, **shared), stage("copy", 0.5, 80.0))
    )
    assert (found.kind, found.stage, found.near) == ("stage", "dataset", ())
    assert found.capacity == pytest.approx(1 / (1 / 66 + 1 / 105))
    assert found.utilisation == pytest.approx(0.98)
    assert found.reason == (
        "dataset can do no more: it shares its servers with collate, and they are busy 98 % of the time"
    )


def test_what_is_gained_within_shared_servers_is_the_time_of_the_one_that_is_named() -> None:
    shared = {"servers": "workers"}
    found = judged(facts(stage("dataset", 0.6, 66.0, **shared), stage("collate", 0.38, 70.0, **shared)))
    assert (found.next_limit, found.next_capacity) == ("collate", 70.0)


def test_of_two_equal_stages_with_the_same_servers_the_one_that_was_named_stays() -> None:
    shared = {"servers": "workers"}
    before = Verdict("stage", "collate")
    found = judged(facts(stage("dataset", 0.5, **shared), stage("collate", 0.46, **shared)), before)
    assert (found.stage, found.near) == ("collate", ("dataset",))


# --- the consumer


@pytest.mark.parametrize(("wait", "kind"), [(0.0, "consumer"), (0.049, "consumer"), (0.05, "stage"), (1.0, "stage")])
def test_a_consumer_that_hardly_waits_is_the_limit_however_busy_stages_are(wait: float, kind: str) -> None:
    assert judged(facts(stage("decode", 0.99), consumer=consumer(wait))).kind == kind


def test_of_a_consumer_that_is_the_limit_is_told_what_would_be_the_next() -> None:
    found = judged(facts(stage("fetch", 0.3, 300.0), stage("decode", 0.5, 90.0), consumer=consumer(0.03)))
    assert (found.stage, found.capacity, found.gain) == ("train", 80.0, 0.0)
    assert (found.next_limit, found.next_capacity) == ("decode", 90.0)
    assert found.confidence == pytest.approx(0.4)
    assert found.reason == "train waits for data only 3 % of its time"


def test_the_consumer_alone_is_known_to_wait_but_not_for_whom() -> None:
    found = judged(facts())
    assert (found.kind, found.cause, found.reason) == ("unsaturated", "unknown", "no stage is measured")
    assert judged(facts(consumer=consumer(0.01))).stage == "train"


# --- stages in the consumer's own task


def test_of_a_chain_in_the_consumers_own_task_the_stage_with_the_most_time_of_its_own_is_named() -> None:
    chain = {"servers": "train", "inline": True}
    found = judged(
        facts(
            stage("fetch", 0.15, own_time=0.005, **chain),
            stage("decode", 0.35, own_time=0.010, **chain),
            consumer=consumer(0.6, inline=1.0),
        )
    )
    assert (found.kind, found.stage, found.next_limit) == ("stage", "decode", "fetch")
    assert found.gain == pytest.approx(0.010 / 0.015)
    assert found.next_capacity == pytest.approx(40 / 0.6)
    assert found.reason == "train waits while decode works, in the same task; prepare items ahead, in others"


@pytest.mark.parametrize(("share", "kind"), [(0.5, "stage"), (0.49, "unsaturated")])
def test_a_chain_is_to_blame_for_half_of_the_waiting_or_not_at_all(share: float, kind: str) -> None:
    chain = stage("decode", 0.3, own_time=0.01, servers="train", inline=True)
    assert judged(facts(chain, consumer=consumer(inline=share))).kind == kind


def test_of_two_equal_stages_of_a_chain_the_one_that_was_named_stays() -> None:
    def chain(fetch: float, decode: float) -> Facts:
        times = {"fetch": fetch, "decode": decode}
        return facts(
            *(stage(name, 0.3, own_time=time, servers="train", inline=True) for name, time in times.items()),
            consumer=consumer(inline=1.0),
        )

    assert judged(chain(0.0100, 0.0102)).stage == "decode"
    stays = judged(chain(0.0100, 0.0102), Verdict("stage", "fetch"))
    assert (stays.stage, stays.near, stays.confidence) == ("fetch", ("decode",), 0.0)
    assert judged(chain(0.0100, 0.0140), Verdict("stage", "fetch")).stage == "decode"


# --- the event loop


def on_loop(**shares: float) -> list[StageFacts]:
    return [stage(name, min(share, 1.0) / 2, on_loop=share) for name, share in shares.items()]


def test_the_stage_that_holds_the_event_loop_is_named() -> None:
    found = judged(facts(*on_loop(fetch=0.01, decode=0.98), lag=0.057))
    assert (found.kind, found.stage, found.utilisation) == ("loop", "decode", pytest.approx(0.99))
    assert (
        found.reason == "decode holds the event loop 98 % of the time, which comes round 57 ms late; run it in a thread"
    )


@pytest.mark.parametrize(
    ("lag", "held", "kind"),
    [
        (0.010, 0.91, "loop"),
        (0.0099, 0.91, "unsaturated"),
        (0.010, 0.90, "unsaturated"),
        (None, 0.99, "unsaturated"),
    ],
)
def test_a_loop_is_to_blame_if_it_is_late_and_held_all_the_time(lag: float | None, held: float, kind: str) -> None:
    assert judged(facts(*on_loop(decode=held), lag=lag)).kind == kind


def test_a_stage_in_threads_that_is_busier_is_to_blame_before_the_loop() -> None:
    late = {"lag": 0.05}
    assert judged(facts(*on_loop(parse=0.95), stage("decode", 0.97), **late)).stage == "decode"
    assert judged(facts(*on_loop(parse=0.95), stage("decode", 0.84), **late)).stage == "parse"
    assert judged(facts(stage("parse", 0.97, on_loop=0.95), stage("decode", 0.3), **late)).kind == "loop"


def test_of_two_stages_that_hold_the_loop_alike_the_one_that_was_named_stays() -> None:
    before = Verdict("loop", "parse")
    assert judged(facts(*on_loop(parse=0.45, decode=0.52), lag=0.05), before).stage == "parse"
    assert judged(facts(*on_loop(parse=0.35, decode=0.60), lag=0.05), before).stage == "decode"


# --- nobody


@pytest.mark.parametrize(
    ("others", "cause", "reason"),
    [
        ({"ready_later": 0.2}, "order", "finished items wait for an earlier one"),
        ({"ready_later": 0.19}, "unknown", "not measured"),
        ({"pool_wait": 0.3}, "pool", "calls of decode wait for a free thread"),
        ({"pool_wait": 0.29}, "unknown", "not measured"),
        ({"bursts": (("raw", 0.1), ("ready", 0.15))}, "burst", "ready is full and empty in turn"),
        ({"bursts": (("ready", 0.14),)}, "unknown", "not measured"),
        ({"ready_later": 0.2, "pool_wait": 0.9, "bursts": (("ready", 0.5),)}, "order", "earlier"),
        ({"pool_wait": 0.9, "bursts": (("ready", 0.5),)}, "pool", "thread"),
    ],
)
def test_where_no_stage_is_busy_the_evidence_says_why(others: dict[str, Any], cause: str, reason: str) -> None:
    others = dict(others)
    decode = stage("decode", 0.43, pool_wait=others.pop("pool_wait", None))
    found = judged(facts(decode, **others))
    assert (found.kind, found.stage, found.cause) == ("unsaturated", "", cause)
    assert reason in found.reason
    assert "(the busiest stage is decode, 43 % of the time)" in found.reason


# --- what was said before


@pytest.mark.parametrize(
    ("before", "given_now", "kind"),
    [
        (Verdict("consumer", "train"), facts(stage("a", 0.9), consumer=consumer(0.07)), "consumer"),
        (Verdict("consumer", "train"), facts(stage("a", 0.9), consumer=consumer(0.08)), "stage"),
        (Verdict("balanced"), facts(stage("a", 0.66)), "balanced"),
        (Verdict("balanced"), facts(stage("a", 0.64)), "unsaturated"),
        (Verdict("stage", "a"), facts(stage("a", 0.81)), "stage"),
        (Verdict("stage", "a"), facts(stage("a", 0.79)), "balanced"),
        (Verdict("loop", "a"), facts(*on_loop(a=0.86), lag=0.006), "loop"),
        (Verdict("loop", "a"), facts(*on_loop(a=0.84), lag=0.050), "unsaturated"),
        (Verdict("loop", "a"), facts(*on_loop(a=0.99), lag=0.004), "unsaturated"),
    ],
)
def test_a_verdict_is_left_less_easily_than_it_is_reached(before: Verdict, given_now: Facts, kind: str) -> None:
    assert judged(given_now, before).kind == kind


@pytest.mark.parametrize(
    ("cause", "given_now"),
    [
        ("order", {"ready_later": 0.16}),
        ("pool", {"pool_wait": 0.26}),
        ("burst", {"bursts": (("ready", 0.11),)}),
    ],
)
def test_a_cause_is_left_less_easily_than_it_is_reached(cause: str, given_now: dict[str, Any]) -> None:
    others = dict(given_now)
    now = facts(stage("decode", 0.43, pool_wait=others.pop("pool_wait", None)), **others)
    assert judged(now).cause == "unknown"
    assert judged(now, Verdict("unsaturated", cause=cause)).cause == cause


def test_a_stage_that_was_named_stays_named_within_a_tenth_of_the_busiest() -> None:
    before = Verdict("stage", "fetch")
    assert judged(facts(stage("fetch", 0.87), stage("decode", 0.97)), before).stage == "fetch"
    assert judged(facts(stage("fetch", 0.86), stage("decode", 0.97)), before).stage == "decode"


def test_a_stage_that_is_gone_is_not_named() -> None:
    assert judged(facts(stage("decode", 0.9)), Verdict("stage", "fetch")).stage == "decode"


# --- the judge


SLOW = facts(stage("decode", 0.95))
FAST = facts(stage("decode", 0.95), consumer=consumer(0.01))
UNSURE = facts(stage("decode", 0.1))


def said(*windows: Facts) -> list[str]:
    judge = Judge()
    return [judge.judge(one, time).kind for time, one in enumerate(windows)]


def test_a_verdict_is_published_when_two_of_three_windows_agree() -> None:
    assert said(SLOW, SLOW) == ["unknown", "stage"]
    assert said(SLOW, UNSURE, SLOW) == ["unknown", "unknown", "stage"]
    assert said(SLOW, UNSURE, FAST, SLOW) == ["unknown"] * 4
    assert said(SLOW, SLOW, FAST, SLOW, FAST, FAST) == ["unknown", "stage", "stage", "stage", "consumer", "consumer"]


def test_a_verdict_tells_since_when_it_holds_while_its_figures_are_the_newest() -> None:
    judge = Judge()
    for second in (1, 2, 3, 4):
        verdict = judge.judge(facts(stage("decode", 0.875 + second / 64)), float(second))
    assert (verdict.since, verdict.utilisation) == (2.0, 0.9375)


# --- whatever comes


shares = st.floats(0, 1.5)
rates = st.one_of(st.none(), st.floats(1e-3, 1e6))
names = st.sampled_from(["fetch", "decode", "collate", "copy", "augment"])


@st.composite
def any_stages(draw: st.DrawFn) -> tuple[StageFacts, ...]:
    return tuple(
        StageFacts(
            name=name,
            utilisation=draw(shares),
            capacity=draw(rates),
            servers=draw(st.sampled_from([name, name, "pool", "train"])),
            on_loop=draw(st.one_of(st.just(0.0), shares)),
            inline=draw(st.booleans()),
            own_time=draw(st.floats(0, 2)),
            pool_wait=draw(st.one_of(st.none(), st.floats(0, 1))),
        )
        for name in draw(st.lists(names, unique=True, max_size=5))
    )


any_consumers = st.builds(
    ConsumerFacts,
    name=st.just("train"),
    items=st.integers(0, 1000),
    wait_fraction=st.floats(0, 1),
    capacity=rates,
    throughput=st.one_of(st.just(0.0), st.floats(1e-3, 1e6)),
    inline=st.floats(0, 2),
)
any_facts = st.builds(
    Facts,
    window=st.floats(0.1, 60),
    warm=st.sampled_from([True, True, True, False]),
    stages=any_stages(),
    consumer=st.one_of(st.none(), any_consumers),
    lag=st.one_of(st.none(), st.floats(0, 2)),
    ready_later=st.floats(0, 1),
    bursts=st.lists(st.tuples(names, st.floats(0, 0.5)), max_size=3).map(tuple),
    items=st.integers(0, 1000),
    throughput=st.one_of(st.just(0.0), st.floats(1e-3, 1e6)),
)
any_verdicts = st.builds(
    Verdict,
    kind=st.sampled_from(["unknown", "consumer", "stage", "loop", "balanced", "unsaturated"]),
    stage=st.one_of(st.just(""), st.just("train"), names),
    cause=st.sampled_from(["", "order", "pool", "burst", "unknown"]),
)


@settings(max_examples=100)
@given(any_facts, any_verdicts)
def test_whatever_is_measured_a_verdict_is_found_and_its_numbers_are_in_range(now: Facts, before: Verdict) -> None:
    found = judged(now, before)
    assert 0 <= found.confidence <= 1
    assert found.utilisation is None or 0 <= found.utilisation <= 1
    assert found.gain is None or found.gain >= 0
    assert found.reason
    assert (found.cause != "") == (found.kind == "unsaturated")
    assert (found.stage != "") == (found.kind in ("stage", "loop", "consumer"))
    assert found.stage not in found.near


@settings(max_examples=100)
@given(any_facts, any_verdicts)
def test_no_stage_is_ever_blamed_whose_servers_have_time_left(now: Facts, before: Verdict) -> None:
    found = judged(now, before)
    if found.kind != "stage":
        return
    named = next(stage for stage in now.stages if stage.name == found.stage)
    together = sum(stage.utilisation for stage in now.stages if stage.servers == named.servers)
    in_the_consumers_task = named.inline and now.consumer is not None and now.consumer.inline >= 0.45
    assert together >= 0.80 or in_the_consumers_task


@settings(max_examples=100)
@given(any_facts, any_verdicts, st.floats(1.0, 1000.0))
def test_a_machine_that_is_so_many_times_faster_gets_the_same_verdict(
    now: Facts, before: Verdict, factor: float
) -> None:
    def scaled(rate: float | None) -> Any:
        return None if rate is None else rate * factor

    stages = tuple(
        dataclasses.replace(one, capacity=scaled(one.capacity), own_time=one.own_time / factor) for one in now.stages
    )
    taker = now.consumer
    if taker is not None:
        capacity, throughput = scaled(taker.capacity), taker.throughput * factor
        taker = dataclasses.replace(taker, capacity=capacity, throughput=throughput)
    faster = dataclasses.replace(now, stages=stages, consumer=taker, throughput=now.throughput * factor)
    first, second = judged(now, before), judged(faster, before)
    assert second.same_as(first)
    assert second.near == first.near
    assert second.gain == (None if first.gain is None else pytest.approx(first.gain, rel=1e-3, abs=1e-6))


def noisy(rng: random.Random, mean: float) -> float:
    return mean * (1 + rng.uniform(-0.03, 0.03))


def changes(make: Callable[[random.Random], Facts]) -> int:
    """Return how often a verdict changes in 60 ticks after the first one, at most, of ten runs."""
    most = 0
    for seed in range(10):
        rng, judge = random.Random(seed), Judge()
        told = [judge.judge(make(rng), float(tick)) for tick in range(60)]
        known = [verdict for verdict in told if verdict.kind != "unknown"]
        most = max(most, sum(not one.same_as(other) for one, other in itertools.pairwise(known)))
    return most


@pytest.mark.parametrize("mean", [0.68, 0.70, 0.72, 0.80, 0.83, 0.85, 0.87, 0.92, 0.97])
def test_noise_around_stages_that_are_alike_changes_the_verdict_at_most_once_in_sixty(mean: float) -> None:
    def alike(rng: random.Random) -> Facts:
        stages = [stage(name, noisy(rng, mean), noisy(rng, 50.0)) for name in ("fetch", "decode", "collate")]
        return facts(*stages, consumer=consumer(noisy(rng, 0.3)))

    assert changes(alike) <= 1


@pytest.mark.parametrize("wait", [0.048, 0.05, 0.052, 0.06, 0.075])
def test_noise_around_a_consumer_that_just_waits_changes_the_verdict_at_most_once_in_sixty(wait: float) -> None:
    assert changes(lambda rng: facts(stage("decode", noisy(rng, 0.93)), consumer=consumer(noisy(rng, wait)))) <= 1


CHAIN = {"servers": "train", "inline": True}


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: facts(*on_loop(a=noisy(rng, 0.45), b=noisy(rng, 0.45)), lag=noisy(rng, 0.010)),
        lambda rng: facts(*on_loop(a=noisy(rng, 0.49), b=noisy(rng, 0.49)), lag=noisy(rng, 0.030)),
        lambda rng: facts(stage("a", 0.3), ready_later=noisy(rng, 0.2)),
        lambda rng: facts(stage("a", 0.3, pool_wait=noisy(rng, 0.3))),
        lambda rng: facts(stage("a", 0.3), bursts=(("ready", noisy(rng, 0.15)),)),
        lambda rng: facts(
            *(stage(name, 0.3, own_time=noisy(rng, 0.01), **CHAIN) for name in "ab"),
            consumer=consumer(inline=noisy(rng, 0.5)),
        ),
    ],
    ids=["lag", "loop", "order", "pool", "burst", "chain"],
)
def test_noise_around_any_other_threshold_changes_the_verdict_at_most_once_in_sixty(
    make: Callable[[random.Random], Facts],
) -> None:
    assert changes(make) <= 1


# --- a real one


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_real_stages_that_are_alike_change_the_verdict_at_most_once_in_sixty_reports() -> None:
    hub = MessageHub("balanced")
    told: list[Verdict] = []
    with hub, Pipeline(hub, interval=0.5, window=3.0, warmup=1.0) as mon:
        mon.on_change(told.append)
        send, receive = mon.channel("fetched", 8)
        out, ready = mon.channel("decoded", 8)
        rng = random.Random(1)

        @mon.stage("fetch", concurrency=1)
        async def fetch() -> None:
            await anyio.sleep(noisy(rng, 0.030))

        @mon.stage("decode", concurrency=1)
        async def decode() -> None:
            await anyio.sleep(noisy(rng, 0.030))

        async def fetching() -> None:
            async with send:
                while time.monotonic() < end:
                    await fetch()
                    await send.send(1)

        async def decoding() -> None:
            async with receive, out:
                async for item in receive:
                    await decode()
                    await out.send(item)

        end = time.monotonic() + 32
        async with anyio.create_task_group() as group, ready:
            group.start_soon(fetching)
            group.start_soon(decoding)
            async for _ in mon.consume(ready):
                await anyio.sleep(0.005)
    known = [verdict for verdict in told if verdict.kind != "unknown"]
    assert known
    assert len(known) <= 2  # the first of them, and one change
