"""What limits the speed of a run? Its pipelines, its waiting for data, the hub itself, the journal; or how to know."""

from __future__ import annotations

from collections.abc import Iterator

from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.marks import shown
from asynchub.dashboard.screen import Level, Line, PipelineCard, StageCard
from asynchub.errors import CorruptStateError
from asynchub.pipeline.cells import known
from asynchub.pipeline.layout import bottleneck_in_words
from asynchub.pipeline.report import PipelineFigures, StageReport, Verdict
from asynchub.subscribers.display import format_number, format_quantity

__all__ = ("pipeline_cards", "speed_lines")

MUCH, SOME = 0.20, 0.05
"""Shares of waiting: those of XLA's input-pipeline analyzer."""
HEAVY = 0.05
"""Share of a run's time that settle points may take, as ``HubMonitor`` has it."""
BEHIND = 10_000
"""Events from which a subscriber that is behind is worth a word of warning."""
LATE = 1_000_000
"""Events from which the journal is."""


def speed_lines(facts: RunFacts, behind: int, is_over: bool) -> tuple[Line, ...]:
    """Return what limits the speed of a run.

    Args:
        facts: of the run.
        behind: how many of its events are not on the disk.
        is_over: whether it has ended.
    """
    lines = [line for name in facts.pipelines or facts.limits for line in _of_pipeline(facts, name)]
    if not lines:
        lines += _waiting(facts)
    measured = bool(lines)
    lines += [*_hub(facts), *_ranks(facts)]
    if behind and not is_over:
        lines.append(Line(f"{behind:,} events are not on the disk yet", "warn" if behind > LATE else "quiet"))
    if not measured:
        how = (
            "Not measured: attach StepTimeMonitor, or hand the loader to asynchub.pipeline, to know whether it waits "
            "for data"
        )
        lines.insert(0, Line(how, "quiet"))
    if not _newest(facts, "hub/overhead") and not is_over and not measured:
        lines.append(Line("HubMonitor tells what the hub itself costs", "quiet"))
    return tuple(lines)


def _of_pipeline(facts: RunFacts, name: str) -> Iterator[Line]:
    figures = _figures(facts, name)
    limit = facts.limits.get(name)
    level: Level
    if figures is None:
        if limit is not None:
            level = "warn" if limit.kind in ("stage", "loop") else "plain"
            verdict = Verdict(limit.kind, limit.stage)  # type: ignore[arg-type]  # as another version may have it
            yield Line(f"{_limits(name, verdict)}{_worth(limit.gain)}", level)
            if limit.reason:
                yield Line(shown(limit.reason), "quiet")
        return
    verdict = figures.verdict or Verdict()
    consumer = figures.consumer
    share = None if consumer is None else known(consumer.wait_fraction)
    waits = "" if share is None or consumer is None else f"{shown(consumer.name)} waits {_percent(share)} of its time"
    level = "plain" if share is None or share < SOME else "warn"
    if figures.state == "stalled":
        yield Line(f"{shown(name)} has stalled: {shown(figures.stalled)}", "bad")
    elif verdict.kind == "consumer":
        yield Line(f"{shown(name)} keeps up{f': {waits}' if waits else ''}", "good")
    else:
        yield Line(f"{_limits(name, verdict)}{f': {waits}' if waits else ''}", level)
    if verdict.kind != "consumer" and (worth := _worth(verdict.gain)):
        yield Line(f"mending {bottleneck_in_words(verdict)} is{worth.removeprefix(',')}", "quiet")
    if verdict.reason and verdict.kind != "consumer":
        yield Line(shown(verdict.reason), "quiet")


def _limits(name: str, verdict: Verdict) -> str:
    """Return what limits a pipeline."""
    words = shown(bottleneck_in_words(verdict))
    return f"{words} limits {shown(name)}" if verdict.kind in ("stage", "loop") else f"{shown(name)}: {words}"


def _worth(gain: float | None) -> str:
    """Return what mending is worth, behind a comma; "" if that is not known, or nothing."""
    share = known(gain)
    return f", worth at most +{100 * share:,.0f} %" if share else ""


def _figures(facts: RunFacts, name: str) -> PipelineFigures | None:
    event = facts.pipelines.get(name)
    if event is None:
        return None
    try:
        return PipelineFigures.from_dict(event.report)
    except CorruptStateError:
        return None


def _waiting(facts: RunFacts) -> Iterator[Line]:
    """Yield how long steps wait for data, as ``StepTimeMonitor`` says."""
    for key, newest in facts.newest.items():
        share = known(newest.mean) if key.endswith(("data_share", "/wait_fraction")) else None
        if share is not None and 0 <= share <= 1:
            level: Level = "warn" if share >= MUCH else "plain" if share >= SOME else "good"
            yield Line(f"steps wait {_percent(share)} of their time for data", level, key)
            return


def _hub(facts: RunFacts) -> Iterator[Line]:
    overhead = _newest(facts, "hub/overhead")
    if overhead is not None:
        level: Level = "warn" if overhead > HEAVY else "quiet"
        settle = _newest(facts, "hub/settle_s")
        each = "" if settle is None else f", {format_quantity('_s', settle)} each"
        yield Line(f"hub: settle points take {_percent(overhead)} of the time{each}", level, "hub/overhead")
    worst = _worst(facts, "hub/lag/")
    if worst is not None:
        key, lag = worst
        name = shown(key.removeprefix("hub/lag/"))
        lost = sum(value for _, value in _all(facts, "hub/dropped/"))
        text = f"hub: {name} is {format_number(int(lag))} events behind" if lag else "hub: nobody is behind"
        yield Line(f"{text}, {int(lost):,} dropped", "warn" if lag > BEHIND or lost else "quiet", key)


def _ranks(facts: RunFacts) -> Iterator[Line]:
    trouble = facts.troubles.of("reduction")
    if trouble is not None and trouble.level != "quiet":
        yield Line(trouble.text, trouble.level)


def _all(facts: RunFacts, prefix: str) -> list[tuple[str, float]]:
    found = ((key, known(newest.mean)) for key, newest in facts.newest.items() if key.startswith(prefix))
    return [(key, number) for key, number in found if number is not None]


def _worst(facts: RunFacts, prefix: str) -> tuple[str, float] | None:
    return max(_all(facts, prefix), key=lambda one: one[1], default=None)


def _newest(facts: RunFacts, key: str) -> float | None:
    newest = facts.newest.get(key)
    return None if newest is None else known(newest.mean)


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if share < 0.0995 else 0}f} %"


# --- pipelines


def pipeline_cards(facts: RunFacts) -> tuple[PipelineCard, ...]:
    """Return the pipelines of a run, as they were at their newest report."""
    cards = []
    for name in facts.pipelines:
        figures = _figures(facts, name)
        if figures is None:
            continue
        verdict = figures.verdict or Verdict()
        lines = list(_of_pipeline(facts, name))
        headline = lines[0] if lines else Line(shown(name))
        stages = [_stage(one, figures, verdict) for one in figures.stages]
        consumer = figures.consumer
        if consumer is not None:
            share = known(consumer.wait_fraction)
            text = f"waits {_percent(share)}" if share is not None else "has taken nothing lately"
            busy = None if share is None else 1 - share
            stages.append(StageCard(shown(consumer.name), text, busy, verdict.kind == "consumer"))
        cards.append(PipelineCard(shown(name), headline.text, headline.level, tuple(stages)))
    return tuple(cards)


def _stage(stage: StageReport, figures: PipelineFigures, verdict: Verdict) -> StageCard:
    busy = known(stage.busy)
    said = [] if busy is None else [f"busy {_percent(busy)}"]
    for queue in figures.queues:
        if queue.after == stage.name and (depth := known(queue.depth)) is not None:
            most = known(queue.capacity)
            said.append(f"queue {depth:,.0f}{'' if most is None else f'/{most:,.0f}'}")
    if (servers := known(stage.concurrency)) is not None and servers > 1:
        said.append(f"{servers:,.0f} at once")
    if errors := known(stage.errors):
        said.append(f"{errors:,.0f} errors")
    limits = verdict.kind in ("stage", "loop") and verdict.stage == stage.name
    return StageCard(shown(stage.name), ", ".join(said), busy, limits)
