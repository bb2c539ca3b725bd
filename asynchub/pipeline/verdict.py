"""Which part of a pipeline limits it: from items, busy time and servers of each stage, and the consumer's wait.

The rule, in this order:

1. fewer than 20 items of the consumer in the window (5, if that is 10 s or more), a window under 2 s, or the warm-up:
   ``unknown``;
2. the event loop comes round late, and stages hold it more than 0.9 of the time: ``loop``, and the stage that holds it
   most; unless a stage in threads or processes is busier;
3. the consumer waits less than 0.05 of its time: ``consumer``;
4. stages work in the consumer's own task, and it spends at least half of its waiting there: ``stage``, the one with the
   most time of its own;
5. the busiest servers are busy at least 0.85 of the time: ``stage``;
6. at least 0.70: ``balanced``;
7. else ``unsaturated``: finished items wait for an earlier one (``order``), calls wait for a thread (``pool``), a queue
   is full and empty in turn (``burst``), or it is not known why (``unknown``).

A verdict is only changed when two of three windows in a row agree on the new one, and a stage that was named stays
named as long as it is within 0.10 of the busiest; other thresholds too are lower for what was named before.

Source:
    P. J. Denning and J. P. Buzen, "The Operational Analysis of Queueing Network Models", Computing Surveys 10 (1978):
    utilisation = throughput x service time / servers, and the throughput of the whole is at most the smallest capacity.
    Thresholds of the wait: those of XLA's input-pipeline analyzer and of torch's profiler.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from asynchub.pipeline.report import Verdict

__all__ = ("ConsumerFacts", "Facts", "Judge", "StageFacts", "judged")

MIN_ITEMS, FEW_ITEMS = 20, 5
LONG_WINDOW = 9.5
"""Seconds from which few items will do: the steps of a large model take seconds."""
MIN_WINDOW = 1.95
"""Seconds."""
HARDLY_WAITS = 0.05
SATURATED, BUSY = 0.85, 0.70
NEAR = 0.10
STAYS = 0.05
"""By how much a threshold is lower for what was named before: it is left less easily than entered."""
LAG = 0.010
"""Seconds at the 95th percentile from which an event loop is late."""
HELD = 0.9
"""Share of the time from which stages hold a loop all the time."""
INLINE = 0.5
"""Share of the consumer's waiting from which the stages in its own task are to blame."""
READY_LATER = 0.2
"""Share of the moments at which the consumer waits from which the order of items is to blame."""
POOL_WAIT = 0.3
"""Share of a call, seen from outside, spent waiting for a thread, from which the pool is to blame."""
BURSTS = 0.15
"""Share of the time that a queue is empty, and full as well, from which bursts are to blame."""


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What is known of a stage.

    Attributes:
        name: its name.
        utilisation: busy time, per server and second.
        capacity: the consumer's items a second that it could do; None if it finished none.
        servers: name of the servers that it shares; its own name if it shares none.
        on_loop: share of the time that it holds an event loop; 0 for functions in threads.
        inline: share of its busy time spent in the consumer's own task.
        own_time: seconds of its own per item of the consumer.
        pool_wait: share of its calls, seen from outside, spent waiting for a thread; None if it is not known.
    """

    name: str
    utilisation: float
    capacity: float | None
    servers: str
    on_loop: float = 0.0
    inline: bool = False
    own_time: float = 0.0
    pool_wait: float | None = None


@dataclass(frozen=True, slots=True)
class ConsumerFacts:
    """What is known of the consumer.

    Attributes:
        name: its name.
        items: items in the window.
        wait_fraction: share of its time that it waits.
        capacity: items a second if it never waited; None if that is not known.
        throughput: items a second.
        inline: share of its waiting in which stages work in its own task.
    """

    name: str
    items: int
    wait_fraction: float
    capacity: float | None
    throughput: float
    inline: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a verdict is made of.

    Attributes:
        window: seconds.
        warm: whether the warm-up is over.
        stages: in the order of the flow.
        consumer: None if nobody is known who takes the items; then the last stage stands for it.
        lag: seconds that an event loop is late, at the 95th percentile; None if there is none.
        ready_later: share of the moments at which the consumer waited and finished items waited for an earlier one.
        bursts: of each queue its name and the smaller one of the shares of time that it is empty and full.
        items: items in the window if there is no consumer.
        throughput: of the whole, items a second.
    """

    window: float
    warm: bool
    stages: tuple[StageFacts, ...]
    consumer: ConsumerFacts | None
    lag: float | None = None
    ready_later: float = 0.0
    bursts: tuple[tuple[str, float], ...] = ()
    items: int = 0
    throughput: float = 0.0


@dataclass(frozen=True, slots=True)
class _Servers:
    """Stages that share servers: a stage by itself mostly."""

    stages: tuple[StageFacts, ...]

    @property
    def name(self) -> str:
        """Name of the busiest of them."""
        return max(self.stages, key=lambda stage: stage.utilisation).name

    @property
    def utilisation(self) -> float:
        """Busy time of all of them, per server and second."""
        return sum(stage.utilisation for stage in self.stages)

    @property
    def capacity(self) -> float | None:
        """Items a second of all its stages, one after the other."""
        times = [1 / stage.capacity for stage in self.stages if stage.capacity]
        return 1 / sum(times) if times else None

    def has(self, name: str) -> bool:
        """Tell whether a stage is one of them."""
        return any(stage.name == name for stage in self.stages)

    def blamed(self, before: str) -> str:
        """Return which of them to name: the busiest, or the one named before if that is nearly as busy."""
        busy = {stage.name: stage.utilisation for stage in self.stages}
        return before if busy.get(before, -1.0) >= busy[self.name] - NEAR else self.name

    def without(self, name: str) -> float | None:
        """Return the capacity if one of the stages took no time."""
        times = [1 / stage.capacity for stage in self.stages if stage.capacity and stage.name != name]
        return 1 / sum(times) if times else None


class Judge:
    """Keeps a verdict until another has good reason."""

    def __init__(self) -> None:
        self._newest: deque[Verdict] = deque(maxlen=3)
        self.verdict = Verdict()

    def judge(self, facts: Facts, time: float) -> Verdict:
        """Return the verdict on the newest window.

        Args:
            facts: of the window.
            time: seconds since the epoch.
        """
        found = judged(facts, self.verdict)
        self._newest.append(found)
        if found.same_as(self.verdict):
            self.verdict = dataclasses.replace(found, since=self.verdict.since or time)
        elif sum(found.same_as(one) for one in self._newest) >= 2:
            self.verdict = dataclasses.replace(found, since=time)
        return self.verdict


def judged(facts: Facts, before: Verdict | None = None) -> Verdict:
    """Return the verdict on one window; ``before`` is the one on the window before it."""
    before = before or Verdict()
    consumer = facts.consumer
    items = facts.items if consumer is None else consumer.items
    if not facts.warm or facts.window < MIN_WINDOW or items < _least(facts.window):
        return Verdict(reason=_why_unknown(facts, items))
    groups = _grouped(facts.stages)
    busiest = max(groups, key=lambda group: group.utilisation, default=None)
    if (verdict := _loop(facts, busiest, before)) is not None:
        return verdict
    if consumer is not None:
        limit = HARDLY_WAITS + (STAYS / 2 if before.kind == "consumer" else 0)
        if consumer.wait_fraction < limit:
            return _consumer(consumer, groups)
        inline = [stage for stage in facts.stages if stage.inline]
        if inline and consumer.inline >= INLINE - (STAYS if _is_stage(before, inline) else 0):
            return _inline(consumer, inline, before)
    if busiest is None:
        return Verdict("unsaturated", cause="unknown", reason="no stage is measured")
    if before.kind == "stage":
        stays = max(busiest.utilisation - NEAR, SATURATED - STAYS)
        for group in groups:
            if group.has(before.stage) and group.utilisation >= stays:
                return _stage(facts, group, groups, before)
    if busiest.utilisation >= SATURATED:
        return _stage(facts, busiest, groups, before)
    if busiest.utilisation >= BUSY - (STAYS if before.kind == "balanced" else 0):
        near = tuple(g.name for g in groups if g.utilisation >= busiest.utilisation - NEAR)
        return Verdict(
            "balanced",
            near=near,
            utilisation=min(busiest.utilisation, 1.0),
            reason=f"no stage alone; the busiest is {busiest.name}, {_percent(busiest.utilisation)} of the time",
        )
    return _unsaturated(facts, busiest, before)


def _is_stage(verdict: Verdict, stages: Sequence[StageFacts]) -> bool:
    """Tell whether a verdict blames one of these stages."""
    return verdict.kind == "stage" and any(stage.name == verdict.stage for stage in stages)


def _percent(share: float) -> str:
    return f"{100 * min(share, 1.0):.0f} %"


def _least(window: float) -> int:
    """Return how many items of the consumer a window of so many seconds must have."""
    return MIN_ITEMS if window < LONG_WINDOW else FEW_ITEMS


def _why_unknown(facts: Facts, items: int) -> str:
    if not facts.warm:
        return "warming up"
    if facts.window < MIN_WINDOW:
        return f"only {facts.window:.1f} s were seen, 2 are needed"
    return f"only {items} items in {facts.window:.1f} s, {_least(facts.window)} are needed"


def _grouped(stages: Sequence[StageFacts]) -> list[_Servers]:
    groups: dict[str, list[StageFacts]] = {}
    for stage in stages:
        groups.setdefault(stage.servers, []).append(stage)
    return [_Servers(tuple(group)) for group in groups.values()]


def _loop(facts: Facts, busiest: _Servers | None, before: Verdict) -> Verdict | None:
    held, stays = sum(stage.on_loop for stage in facts.stages), before.kind == "loop"
    if facts.lag is None or facts.lag < LAG / (2 if stays else 1) or held <= HELD - (STAYS if stays else 0):
        return None
    if busiest is not None and busiest.utilisation >= SATURATED and not any(one.on_loop for one in busiest.stages):
        return None  # in threads: its time is not made longer by the loop
    culprit = max(facts.stages, key=lambda stage: stage.on_loop)
    for stage in facts.stages:
        if stays and stage.name == before.stage and stage.on_loop >= culprit.on_loop - NEAR:
            culprit = stage
    return Verdict(
        "loop",
        culprit.name,
        confidence=min(max(culprit.on_loop - (held - culprit.on_loop), 0.0), 1.0),
        utilisation=min(held, 1.0),
        reason=f"{culprit.name} holds the event loop {_percent(culprit.on_loop)} of the time, which comes round "
        f"{1000 * facts.lag:.0f} ms late; run it in a thread",
    )


def _consumer(consumer: ConsumerFacts, groups: Sequence[_Servers]) -> Verdict:
    capacities = [(group.capacity, group.name) for group in groups if group.capacity is not None]
    capacity, limit = min(capacities, default=(None, ""))
    return Verdict(
        "consumer",
        consumer.name,
        confidence=1 - consumer.wait_fraction / HARDLY_WAITS if consumer.wait_fraction < HARDLY_WAITS else 0.0,
        utilisation=1 - consumer.wait_fraction,
        capacity=consumer.capacity,
        next_limit=limit,
        next_capacity=capacity,
        gain=0.0,
        reason=f"{consumer.name} waits for data only {_percent(consumer.wait_fraction)} of its time",
    )


def _inline(consumer: ConsumerFacts, stages: Sequence[StageFacts], before: Verdict) -> Verdict:
    ranked = sorted(stages, key=lambda stage: -stage.own_time)
    whole = sum(stage.own_time for stage in ranked)
    for index, stage in enumerate(ranked):
        if _is_stage(before, [stage]) and stage.own_time >= ranked[0].own_time - NEAR * whole:
            ranked.insert(0, ranked.pop(index))
            break
    worst = ranked[0]
    second = ranked[1].own_time if len(ranked) > 1 else 0.0
    step = 1 / consumer.throughput if consumer.throughput else 0.0
    gain = worst.own_time / (step - worst.own_time) if step > worst.own_time else None
    return Verdict(
        "stage",
        worst.name,
        near=tuple(stage.name for stage in ranked[1:] if stage.own_time >= worst.own_time - NEAR * whole),
        confidence=max(worst.own_time - second, 0.0) / whole if whole else 0.0,
        utilisation=worst.own_time / whole if whole else None,
        capacity=worst.capacity,
        next_limit=ranked[1].name if len(ranked) > 1 else consumer.name,
        next_capacity=None if gain is None else consumer.throughput * (1 + gain),
        gain=gain,
        reason=f"{consumer.name} waits while {worst.name} works, in the same task; prepare items ahead, in others",
    )


def _stage(facts: Facts, worst: _Servers, groups: Sequence[_Servers], before: Verdict) -> Verdict:
    name = worst.blamed(before.stage)
    others = [group for group in groups if group is not worst]
    mates = [stage for stage in worst.stages if stage.name != name]
    second = max((group.utilisation for group in others), default=0.0)
    limits = [(group.capacity, group.name) for group in others if group.capacity is not None]
    if facts.consumer is not None and facts.consumer.capacity is not None:
        limits.append((facts.consumer.capacity, facts.consumer.name))
    if (left := worst.without(name)) is not None:
        limits.append((left, max(mates, key=lambda stage: stage.utilisation).name))
    next_capacity, next_limit = min(limits, default=(None, ""))
    throughput = facts.throughput if facts.consumer is None else facts.consumer.throughput
    gain = max(next_capacity / throughput - 1, 0.0) if next_capacity is not None and throughput else None
    share = next(stage.utilisation for stage in worst.stages if stage.name == name)
    near = [one.name for one in others if one.utilisation >= worst.utilisation - NEAR]
    near += [stage.name for stage in mates if stage.utilisation >= share - NEAR]
    busy = f"it is busy {_percent(worst.utilisation)} of the time"
    if mates:
        names = " and ".join(stage.name for stage in mates)
        busy = f"it shares its servers with {names}, and they are busy {_percent(worst.utilisation)} of the time"
    return Verdict(
        "stage",
        name,
        near=tuple(near),
        confidence=min(max(worst.utilisation - second, 0.0), 1.0),
        utilisation=min(worst.utilisation, 1.0),
        capacity=worst.capacity,
        next_limit=next_limit,
        next_capacity=next_capacity,
        gain=gain,
        reason=f"{name} can do no more: {busy}",
    )


def _unsaturated(facts: Facts, busiest: _Servers, before: Verdict) -> Verdict:
    def limit(cause: str, usual: float) -> float:
        return usual - (STAYS if before.cause == cause else 0)

    seen = f"the busiest stage is {busiest.name}, {_percent(busiest.utilisation)} of the time"
    enough = limit("pool", POOL_WAIT)
    pooled = [stage for stage in facts.stages if stage.pool_wait is not None and stage.pool_wait >= enough]
    burst = max(facts.bursts, key=lambda queue: queue[1], default=("", 0.0))
    if facts.ready_later >= limit("order", READY_LATER):
        cause, why = "order", "finished items wait for an earlier one; allow them out of order if that will do"
    elif pooled:
        names = " and ".join(stage.name for stage in pooled)
        cause, why = "pool", f"calls of {names} wait for a free thread; give the pool more"
    elif burst[1] >= limit("burst", BURSTS):
        cause, why = "burst", f"{burst[0]} is full and empty in turn; a longer queue would even that out"
    else:
        cause, why = "unknown", "no stage is the limit; something that is not measured may be"
    return Verdict("unsaturated", cause=cause, utilisation=busiest.utilisation, reason=f"{why} ({seen})")
