"""What a person sees of a run: facts, in figures and in words, which every view shows as they stand here.

One source: the page, the terminal, the picture and the notebook draw these and compute nothing of their own, so that
    they never disagree. Texts are of one line, without control characters.
Levels: of a line, how much it asks for attention: ``"good"``, ``"plain"``, ``"quiet"`` (may be grey), ``"warn"``,
    ``"bad"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = (
    "Asked",
    "Chart",
    "Colour",
    "KeyRow",
    "Level",
    "Line",
    "Mark",
    "PipelineCard",
    "RunRow",
    "RunState",
    "Screen",
    "StageCard",
    "Status",
    "Steerable",
)

Level = Literal["good", "plain", "quiet", "warn", "bad"]
RunState = Literal["running", "silent", "stopping", "stopped", "finished", "crashed", "unknown"]
"""``"silent"``: its writer lives, or may, and nothing came for longer than is usual. ``"stopping"``: a stop was asked
for and has not taken effect. ``"stopped"``: something ended it early. ``"crashed"``: its writer is gone and has not
closed the journal. ``"unknown"``: there is nothing to tell by."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, and what it is about.

    Attributes:
        text: it.
        level: how much it asks for attention.
        key: of the scalar that it is about; "" if it is about none.
        start: the first step that it is about, to zoom to; None if it is about none.
        stop: the last one.
    """

    text: str
    level: Level = "plain"
    key: str = ""
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Is it alive?

    Attributes:
        state: see ``RunState``.
        word: the state in words, e.g. ``"Running"``, ``"Silent for 41 s"``.
        level: how much that asks for attention.
        step: the furthest step; None before the first.
        total: steps in the whole run; None if that is not known.
        epoch: epochs that are over; None if that is not known.
        epochs: epochs in the whole run; None if that is not known.
        share: how much of it is done, 0 to 1; None if that is not known.
        rate: steps a second lately; None if that is not known.
        seconds_left: None if that is not known.
        age: seconds since the newest event; None if there is none.
        reason: why it ended or will end; "" if nothing has said.
        lines: all that in words, to stand below ``word``.
    """

    state: RunState
    word: str
    level: Level = "plain"
    step: int | None = None
    total: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    share: float | None = None
    rate: float | None = None
    seconds_left: float | None = None
    age: float | None = None
    reason: str = ""
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision, to be marked on the curves and listed.

    Attributes:
        seq: of its event.
        step: at which it was made; None if it has none.
        time: when, in seconds since the epoch.
        who: the rule, the program or the person.
        what: was decided, e.g. ``"lr 0.1 -> 0.01"``.
        why: in words; may be "".
        kind: ``"acted"``, ``"suggested"`` (and not done, or vetoed), ``"refused"``, ``"manual"`` (by a person),
            ``"resumed"``, ``"failed"``.
        key: of the scalar it is about, on whose chart it belongs; "" for all charts.
        short: ``what`` in a few letters, to stand on a chart.
        inputs: what the rule saw, name and figure, as text.
    """

    seq: int
    step: int | None
    time: float
    who: str
    what: str
    why: str = ""
    kind: Literal["acted", "suggested", "refused", "manual", "resumed", "failed"] = "acted"
    key: str = ""
    short: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A scalar of a run.

    Attributes:
        key: it.
        count: how many values count.
        last: the newest value, a mean over its samples; None if that is not at hand.
        text: ``last``, with its unit.
        summary: what there is to say of it, e.g. ``"0.41, down 2 % over the last 10,000 steps; 50 NaN"``.
    """

    key: str
    count: int
    last: float | None
    text: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A curve that belongs on the first screen.

    Attributes:
        key: of the scalar.
        why: it is there, e.g. ``"monitored by EarlyStopping"``.
        mode: ``"min"`` or ``"max"``, which of its values is best; "" if nobody has said.
        best: the best value; None if there is none.
        best_step: the step it is of.
        note: to stand in the head of the chart, e.g. ``"best 0.763 at step 690,000"``.
    """

    key: str
    why: str
    mode: Literal["min", "max", ""] = ""
    best: float | None = None
    best_step: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class StageCard:
    """A stage of a pipeline.

    Attributes:
        name: of the stage.
        text: its figures, e.g. ``"busy 98 %, queue 0/64"``.
        busy: the share of its time that it works, 0 to 1; None if that is not known.
        limits: whether it is what limits the pipeline.
    """

    name: str
    text: str
    busy: float | None = None
    limits: bool = False


@dataclass(frozen=True, slots=True)
class PipelineCard:
    """A data pipeline.

    Attributes:
        name: of the pipeline.
        headline: its verdict.
        level: how much that asks for attention.
        stages: in the order of the flow; the last is the consumer.
    """

    name: str
    headline: str
    level: Level
    stages: tuple[StageCard, ...]


@dataclass(frozen=True, slots=True)
class Steerable:
    """Something that a run lets be asked for.

    Attributes:
        word: ``"stop"``, ``"checkpoint"``, ``"pause"``, ``"resume"``, ``"skip"``, ``"rollback"`` or ``"set"``.
        name: of the parameter that ``"set"`` sets; "" else.
        value: of the parameter now; None if that is not known.
        low: the smallest value it takes; None for no bound.
        high: the largest.
        note: what it is, in words.
    """

    word: str
    name: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a run, and what became of it.

    Attributes:
        id: its identity.
        what: was asked, in words.
        who: asked.
        why: in words; may be "".
        state: ``"requested"`` (it is written down), ``"seen"`` (the run has it), ``"applied"``, ``"refused"`` or
            ``"expired"`` (the run had not seen it in time).
        step: at which it was applied or refused; None before.
        error: why it was refused; "" if it was not.
        time: when it was asked, in seconds since the epoch.
    """

    id: str
    what: str
    who: str
    why: str
    state: Literal["requested", "seen", "applied", "refused", "expired"]
    step: int | None = None
    error: str = ""
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Colour:
    """The colour of a run, which stays the same in all views.

    Attributes:
        hue: which of ten, 0 to 9.
        dash: which of four patterns a line has, 0 to 3: whole, dashed, dotted, dash and dot.
        light: on a light ground, as ``#rrggbb``.
        dark: on a dark ground, as ``#rrggbb``.
    """

    hue: int
    dash: int
    light: str
    dark: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list of runs.

    Attributes:
        id: identity among the runs that are looked at: letters and digits.
        name: of the run.
        folder: where it is, as a path relative to the folder that is looked at.
        run_id: identity of the run, 32 hexadecimal digits; "" if it is not known.
        colour: its colour.
        state: as of ``Status``.
        word: the state in words.
        level: how much that asks for attention.
        step: the furthest step; None if it is not known.
        newest: when its newest event was published, in seconds since the epoch; None if that is not known.
        metrics: the newest value of some keys, as text.
        config: what its program said of itself: runtime infos that are numbers, text or truth values, as text.
        problem: what is wrong with it; "" if nothing is.
    """

    id: str
    name: str
    folder: str
    run_id: str
    colour: Colour
    state: RunState
    word: str
    level: Level = "plain"
    step: int | None = None
    newest: float | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of what JSON has."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Screen:
    """The first screen of a run.

    Attributes:
        row: the run.
        seq: the event up to which it was read.
        time: when that was, in seconds since the epoch.
        status: is it alive?
        stops: why will it stop? The first to fire stands first. Of one that is over: why it ended.
        stops_head: which of the two that is, to stand above it.
        speed: what limits its speed, or has limited it?
        speed_head: which of the two that is, to stand above it.
        alerts: what is wrong?
        charts: the curves that matter most, at most four.
        keys: how many scalars there are.
        pipelines: its data pipelines.
        marks: the newest decisions, the newest first.
        marks_total: how many decisions there are.
        steerable: what it lets be asked for.
        steering: why nothing, or not everything, can be asked for; "" if everything can.
        asked: what was asked of it lately, the newest first.
    """

    row: RunRow
    seq: int
    time: float
    status: Status
    stops: tuple[Line, ...] = ()
    stops_head: str = "Why it will stop"
    speed: tuple[Line, ...] = ()
    speed_head: str = "What limits its speed"
    alerts: tuple[Line, ...] = ()
    charts: tuple[Chart, ...] = ()
    keys: int = 0
    pipelines: tuple[PipelineCard, ...] = ()
    marks: tuple[Mark, ...] = ()
    marks_total: int = 0
    steerable: tuple[Steerable, ...] = ()
    steering: str = ""
    asked: tuple[Asked, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of what JSON has."""
        return asdict(self)
