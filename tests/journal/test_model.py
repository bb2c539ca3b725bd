"""Whatever a program does, and wherever it is killed: what comes back is what the simplest model says."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from asynchub import CheckpointRequested, Journal, MessageHub, StopRequested, recover
from asynchub.journal.reading import read_journal
from tests.codec_trees import difference
from tests.journal.force import flush

KEYS = st.sampled_from(["a", "b", "train/loss", "", "\udc80"])
VALUES = st.floats(width=64) | st.integers(-(2**70), 2**70) | st.booleans()
COUNTS = st.just(1) | st.integers(-(2**66), 2**66)
INFOS = st.none() | st.integers() | st.text(max_size=3) | st.tuples(st.integers()) | st.binary(max_size=9000)


class Model:
    """What a run is."""

    def __init__(self) -> None:
        self.scalars: dict[str, list[Any]] = {}
        self.infos: dict[str, Any] = {}
        self.pending: list[tuple[str, int]] = []
        self.stopped = False
        self.step = 0

    def update(self, key: str, value: Any, count: int) -> None:
        self.scalars.setdefault(key, []).append((value, count, self.step))


class Runs(RuleBasedStateMachine):
    """A hub with a journal, beside a model; or rather a chain of them, each going on where the last was killed."""

    marks = Bundle("marks")
    states = Bundle("states")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.number = 0
        self.hub = MessageHub("hub")
        self.model = Model()
        self.journal: Journal | None = None
        self.entered = False

    @initialize(
        level=st.sampled_from(["memory", "process", "disk"]),
        tail=st.sampled_from([8192, 65536]),
        size=st.sampled_from([1, 500, 5000, 2**26]),
    )
    def begin(self, level: Any, tail: int, size: int) -> None:
        self.options: dict[str, Any] = {"level": level, "tail": tail, "segment_size": size, "interval": 1000}

    @property
    def run(self) -> Path:
        return self.root / f"run {self.number}"

    # --- what a program does

    @rule(key=KEYS, value=VALUES, count=COUNTS)
    def update_scalar(self, key: str, value: Any, count: int) -> None:
        self.hub.update_scalar(key, value, count)
        self.model.update(key, value, count)

    @rule(values=st.dictionaries(KEYS, VALUES, max_size=4), times=st.sampled_from([1, 1, 60]))
    def update_scalars(self, values: dict[str, Any], times: int) -> None:
        for _ in range(times):
            self.hub.update_scalars(values)
            for key, value in values.items():
                self.model.update(key, value, 1)

    @rule(key=KEYS, value=INFOS)
    def update_info(self, key: str, value: Any) -> None:
        self.hub.update_info(f"info {key}", value)
        self.model.infos[f"info {key}"] = value

    @rule(step=st.integers(0, 9))
    def set_step(self, step: int) -> None:
        self.hub.update_info("iter", step)
        self.model.infos["iter"] = self.model.step = step

    @rule(key=KEYS)
    def pop_info(self, key: str) -> None:
        self.hub.pop_info(f"info {key}")
        self.model.infos.pop(f"info {key}", None)

    @precondition(lambda self: self.journal is not None)
    @rule(stop=st.booleans())
    def request(self, stop: bool) -> None:
        request = self.hub.request(StopRequested() if stop else CheckpointRequested())
        self.model.pending.append(("stop" if stop else "checkpoint", request.seq))

    @precondition(lambda self: self.journal is not None)
    @rule()
    def apply_requests(self) -> None:
        self.hub.on_request(CheckpointRequested, lambda request: None)
        assert self.hub.apply_requests() == len(self.model.pending)
        self.model.stopped = self.model.stopped or "stop" in dict(self.model.pending)
        self.model.pending = []

    @precondition(lambda self: self.journal is not None)
    @rule(target=marks)
    def mark(self) -> Any:
        return self.hub.mark(), copy.deepcopy(self.model)

    @precondition(lambda self: self.journal is not None)
    @rule(target=states)
    def save_state(self) -> Any:
        return self.hub.state_dict(), copy.deepcopy(self.model)

    @precondition(lambda self: self.journal is not None)
    @rule(state=states, then_killed=st.booleans())
    def load_state(self, state: Any, then_killed: bool) -> None:
        saved, then = state
        is_own = saved["asynchub"]["run_id"] == self.hub.run_id
        if not is_own or self.model.scalars.keys() - then.scalars.keys() or set(then.pending) - set(self.model.pending):
            return  # the journal does not follow a state of another run, nor with keys that are not in it
        self.hub.load_state_dict(saved)
        now, self.model = self.model, copy.deepcopy(then)
        self.model.infos = {**now.infos, **then.infos}
        self.model.stopped = now.stopped or then.stopped
        self.model.pending = now.pending
        if then_killed:
            self.killed(repeat=1)

    # --- what happens to a journal

    @precondition(lambda self: self.journal is None)
    @rule()
    def attach(self) -> None:
        self.journal = Journal(self.run / "journal", **self.options)
        self.hub.attach(self.journal)

    @precondition(lambda self: self.journal is not None and not self.entered)
    @rule()
    def detach(self) -> None:
        self.hub.detach(self.journal)
        self.journal = None

    @precondition(lambda self: self.journal is not None)
    @rule()
    def flush(self) -> None:
        assert self.journal is not None
        flush(self.journal)

    @precondition(lambda self: self.journal is not None)
    @rule()
    def enter_or_leave(self) -> None:
        if self.entered:
            self.hub.__exit__(None, None, None)
            self.hub.detach(self.journal)
            self.journal = None
        else:
            self.hub.__enter__()
        self.entered = not self.entered

    def _leave(self) -> None:
        if self.entered:
            self.hub.__exit__(None, None, None)
        if self.journal is not None:
            self.hub.detach(self.journal)
        self.journal, self.entered = None, False

    @precondition(lambda self: self.journal is not None and self.hub.statistics().seq)
    @rule(repeat=st.integers(1, 2))
    def killed(self, repeat: int) -> None:
        if self.options["level"] == "memory":
            flush(self.journal)  # type: ignore[arg-type]
        if not read_journal(self.run / "journal").last_seq:
            return
        for _ in range(repeat):  # also: killed right after it came back
            before = self.run
            self.number += 1
            shutil.copytree(before, self.run)
        self._leave()
        self.hub = recover(self.run)
        self.check()
        self.attach()

    @precondition(lambda self: self.journal is not None)
    @rule(mark=marks)
    def resume_from_a_checkpoint(self, mark: Any) -> None:
        self._leave()
        if mark[0]["run_id"] != self.hub.run_id:
            return
        self.hub, self.model = recover(self.run, mark=mark[0]), copy.deepcopy(mark[1])
        self.check()
        self.attach()

    # --- what must hold

    @invariant()
    def check(self) -> None:
        hub, model = self.hub, self.model
        scalars = {
            key: list(zip(*(column.tolist() for column in (one.values, one.counts, one.steps)), strict=True))
            for key, one in ((key, history.records()) for key, history in hub.log_scalars.items())
        }
        assert difference(scalars, numbers(model.scalars)) == ""
        assert difference(dict(sorted(hub.runtime_info.items())), dict(sorted(model.infos.items()))) == ""
        assert hub.step == model.step
        assert hub.stop_requested == model.stopped

    def teardown(self) -> None:
        self._leave()
        shutil.rmtree(self.root)


def numbers(scalars: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the entries of a model with the numbers that a history makes of them."""
    plain = MessageHub("plain")
    for key, entries in scalars.items():
        for value, count, step in entries:
            plain.update_scalar(key, value, count, step=step)
    return {
        key: list(zip(*(column.tolist() for column in (one.values, one.counts, one.steps)), strict=True))
        for key, one in ((key, history.records()) for key, history in plain.log_scalars.items())
    }


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=60, stateful_step_count=40, phases=set(Phase) - {Phase.explain})
