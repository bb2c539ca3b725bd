"""asynchub beside mmengine: the same calls on both, one after the other, and the same answers, state and messages.

What is left out here is listed in ``docs/reference/differences.md`` and shown in ``tests/test_differences.py``.
"""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import mmengine.logging.message_hub as their_module
import mmengine.utils.manager as their_manager
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from mmengine.logging import HistoryBuffer as TheirHistory
from mmengine.logging import MessageHub as TheirHub

from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.manager import ManagerMixin

LONG = 1_000
"""Sequences of calls in the slow tests."""

BROKEN_TEXTS = (
    "unsupported format string passed to",  # a count that is no int
    "{resumed}",  # a changed flag
    "<property object",  # an unknown scalar
    "ManagerMeta",  # the type of the class
)
"""What mmengine says where its message is broken; ours says something else there."""


# --- comparing


def described(value: object) -> object:
    """Return what two values that should be the same have in common: their types and contents, NaN included."""
    if isinstance(value, HistoryBuffer | TheirHistory):
        return ("history", value.max_length, described(value._log_history), described(value._count_history))
    if isinstance(value, np.ndarray | np.generic):
        return (value.dtype.str, value.shape, repr(value.tolist()))
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), repr(value.tolist()))
    if isinstance(value, dict):
        return ("dict", [(key, described(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return (type(value).__name__, [described(item) for item in value])
    if isinstance(value, Uncopyable):
        return id(value)
    return (type(value).__name__, repr(value))


@contextmanager
def messages() -> Iterator[tuple[list[str], list[str]]]:
    """Collect what mmengine's hub and ours log."""
    theirs: list[str] = []
    ours: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: ours.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("asynchub")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        with mock.patch.object(their_module, "print_log", lambda text, **_: theirs.append(text.rstrip())):
            yield theirs, ours
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


def same_error(theirs: Exception, ours: Exception) -> None:
    assert isinstance(ours, type(theirs)), f"theirs {theirs!r}, ours {ours!r}"
    text = str(theirs)
    if text and not any(broken in text for broken in BROKEN_TEXTS):  # it says nothing of a value that is no scalar
        assert str(ours) == text


def outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error


# --- what is generated


class Uncopyable:
    """Something that neither ``deepcopy`` nor ``pickle`` can take."""

    def __deepcopy__(self, memo: object) -> None:
        raise NotImplementedError("not to be copied")

    def __reduce__(self) -> str:
        raise NotImplementedError("not to be pickled")


FLOATS = st.floats(width=32) | st.sampled_from([0.1, -0.0, float("nan"), float("inf"), float("-inf"), 1e300])
INTS = st.integers(-1000, 1000) | st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30])
NUMPY = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint16, np.int32, np.int64])
TORCH = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool])
SHAPES = st.sampled_from([(), (1,), (1, 1)])
WRONG_SHAPES = st.sampled_from([(0,), (2,), (2, 2), (1, 0)])


@st.composite
def arrays(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]]) -> Any:
    shape, number = draw(shapes), draw(st.integers(0, 100))
    if draw(st.booleans()):
        return torch.full(shape, number, dtype=draw(TORCH))
    array = np.full(shape, number, draw(NUMPY))
    return array[()] if draw(st.booleans()) else array


GRADS = st.builds(lambda number: torch.tensor(number, requires_grad=True), st.floats(-10, 10, width=32))
NUMBERS = FLOATS | INTS | st.booleans() | arrays(SHAPES) | GRADS
NOT_NUMBERS = st.sampled_from([None, "1", [1.0], (1,), 1j, object(), b"1"]) | arrays(WRONG_SHAPES)
VALUES = st.one_of(NUMBERS, NUMBERS, NUMBERS, NOT_NUMBERS)
COUNTS = st.one_of(st.just(1), st.just(1), st.integers(-3, 64), st.booleans(), st.just(10**25))
BAD_COUNTS = st.sampled_from([1.0, None, "1", np.int64(2), torch.tensor(2), np.float32(1)])
FLAGS = st.sampled_from([True, True, True, True, False, 1, 0])
KEYS = st.sampled_from(["loss", "train/loss", "val/acc", "iter", "", "é ✓"])
INFOS = st.one_of(
    INTS,
    FLOATS,
    st.none(),
    st.text(max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(0, 9), max_size=2),
    arrays(SHAPES | WRONG_SHAPES),
    st.builds(Uncopyable),
)
ITEMS = VALUES | st.fixed_dictionaries(
    {}, optional={"value": VALUES, "count": COUNTS | BAD_COUNTS | arrays(SHAPES), "other": st.none()}
)
WINDOWS = st.sampled_from([None, 0, 1, 2, 3, 100, -1, -2, -100, True, False, 2.0, "2", np.int64(2)])
PLACED = st.sampled_from([3, [1, 2], "text"])


class HubComparison(RuleBasedStateMachine):
    """One of mmengine's hubs and one of ours, told the same."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._quiet = warnings.catch_warnings()
        self._quiet.__enter__()
        warnings.simplefilter("ignore")  # of NumPy, about NaN and overflow; of requires_grad
        self.theirs, self.ours = TheirHub("hub"), MessageHub("hub")

    def teardown(self) -> None:
        self._quiet.__exit__(None, None, None)

    def both(self, call: Callable[[Any, type], Any], several: bool = False) -> tuple[Any, Any]:
        """Call with each hub and its class of histories; compare the errors and the messages.

        Args:
            call: takes both.
            several: whether several things may be wrong with it; which of them is said first is then left open.
        """
        before = self._snapshot()
        with messages() as (their_messages, our_messages):
            theirs, their_error = outcome(lambda: call(self.theirs, TheirHistory))
            ours, our_error = outcome(lambda: call(self.ours, HistoryBuffer))
        if their_error is not None:
            assert our_error is not None, f"theirs raised {their_error!r}"
            if not several:
                same_error(their_error, our_error)
            self._restore(before)  # a listed difference: ours leaves no trace
        elif our_error is not None:
            raise our_error
        else:
            assert our_messages == their_messages
        return theirs, ours

    def same(self, call: Callable[[Any, type], Any], several: bool = False) -> None:
        theirs, ours = self.both(call, several)
        assert described(ours) == described(theirs)

    def _snapshot(self) -> Any:
        hub = self.theirs
        buffers = {key: dict(vars(one)) for key, one in hub._log_scalars.items() if isinstance(one, TheirHistory)}
        return buffers, *(OrderedDict(part) for part in (hub._log_scalars, hub._runtime_info, hub._resumed_keys))

    def _restore(self, snapshot: Any) -> None:
        buffers, *parts = snapshot
        for live, part in zip(
            (self.theirs._log_scalars, self.theirs._runtime_info, self.theirs._resumed_keys), parts, strict=True
        ):
            live.clear()
            live.update(part)
        for key, attributes in buffers.items():
            vars(self.theirs._log_scalars[key]).update(attributes)

    # --- writing

    @rule(key=KEYS, value=VALUES, flag=FLAGS)
    def update_scalar(self, key: str, value: Any, flag: Any) -> None:
        self.same(lambda hub, _: hub.update_scalar(key, value, resumed=flag))

    @rule(key=KEYS, value=VALUES, count=st.one_of(COUNTS, COUNTS, BAD_COUNTS), flag=FLAGS)
    def update_scalar_with_a_count(self, key: str, value: Any, count: Any, flag: Any) -> None:
        self.same(lambda hub, _: hub.update_scalar(key, value, count, flag))

    @rule(items=st.dictionaries(KEYS, ITEMS, max_size=4), flag=FLAGS)
    def update_scalars(self, items: dict[str, Any], flag: Any) -> None:
        self.same(lambda hub, _: hub.update_scalars(items, flag), several=len(items) > 1)

    @rule(items=st.sampled_from([None, [("loss", 1)], 3]))
    def update_with_no_dict(self, items: Any) -> None:
        self.same(lambda hub, _: hub.update_scalars(items))
        self.same(lambda hub, _: hub.update_info_dict(items))

    @rule(key=KEYS, value=INFOS, flag=FLAGS)
    def update_info(self, key: str, value: Any, flag: Any) -> None:
        self.same(lambda hub, _: hub.update_info(key, value, resumed=flag))

    @rule(infos=st.dictionaries(KEYS, INFOS, max_size=3), flag=FLAGS)
    def update_info_dict(self, infos: dict[str, Any], flag: Any) -> None:
        self.same(lambda hub, _: hub.update_info_dict(infos, flag))

    @rule(key=KEYS, default=st.none() | st.just(5))
    def pop_info(self, key: str, default: Any) -> None:
        self.same(lambda hub, _: hub.pop_info(key, default))

    # --- reading

    @rule(key=KEYS, default=st.none() | st.just(5))
    def get(self, key: str, default: Any) -> None:
        self.same(lambda hub, _: hub.get_info(key, default))
        self.same(lambda hub, _: hub.get_scalar(key))

    @rule(key=KEYS, window=WINDOWS, name=st.sampled_from(["mean", "max", "min", "current", "median"]))
    def statistic(self, key: str, window: Any, name: str) -> None:
        arguments = () if name == "current" else (window,)
        if isinstance(self.theirs.log_scalars.get(key), TheirHistory):
            self.same(lambda hub, _: hub.get_scalar(key).statistics(name, *arguments))
            self.same(lambda hub, _: getattr(hub.get_scalar(key), name)(*arguments) if name != "median" else None)

    # --- the live dicts, changed by the program

    @rule(key=KEYS)
    def take_out(self, key: str) -> None:
        self.same(lambda hub, _: hub.log_scalars.pop(key, None))

    @rule(key=KEYS, values=st.lists(INTS, max_size=3))
    def put_history(self, key: str, values: list[int]) -> None:
        def put(hub: Any, history: type) -> None:
            hub.log_scalars[key] = history(values, [1] * len(values), max_length=4)

        self.same(put)

    @rule(key=KEYS, value=PLACED)
    def put_something_else(self, key: str, value: Any) -> None:
        self.same(lambda hub, _: hub.log_scalars.update({key: value}))

    @rule(key=KEYS, values=st.lists(FLOATS, min_size=1, max_size=2))
    def set_default(self, key: str, values: list[float]) -> None:
        self.same(lambda hub, history: hub.log_scalars.setdefault(key, history(values, [2] * len(values))))

    @rule(first=st.booleans())
    def take_any(self, first: bool) -> None:
        if self.theirs.log_scalars:
            self.same(lambda hub, _: hub.log_scalars.popitem(last=not first))

    @rule(key=KEYS)
    def move(self, key: str) -> None:
        self.same(lambda hub, _: hub.log_scalars.move_to_end(key) if key in hub.log_scalars else None)

    @rule(scalars=st.booleans())
    def clear(self, scalars: bool) -> None:
        self.same(lambda hub, _: (hub.log_scalars if scalars else hub.runtime_info).clear())

    @rule(key=KEYS, value=INFOS)
    def put_info(self, key: str, value: Any) -> None:
        self.same(lambda hub, _: hub.runtime_info.update({key: value}))

    @rule(key=KEYS)
    def change_a_list_in_place(self, key: str) -> None:
        ours, theirs = self.ours.get_info(key), self.theirs.get_info(key)
        if isinstance(ours, list):
            ours.append(1)
            if theirs is not ours:
                theirs.append(1)

    @rule(key=KEYS, value=FLOATS, count=st.integers(0, 5))
    def update_a_history(self, key: str, value: float, count: int) -> None:
        if isinstance(self.theirs.log_scalars.get(key), TheirHistory):
            self.same(lambda hub, _: hub.log_scalars[key].update(value, count))

    # --- state

    @rule()
    def save(self) -> None:
        theirs, ours = self.both(lambda hub, _: hub.state_dict())
        ours.pop("asynchub", None)
        assert [type(part) for part in ours.values()] == [type(part) for part in theirs.values()]
        assert described(ours) == described(theirs)
        theirs = {**theirs, "resumed_keys": OrderedDict(theirs["resumed_keys"])}  # listed: theirs is the live object
        self.saved.append((theirs, ours))

    @rule(data=st.data(), foreign=st.booleans())
    def load(self, data: st.DataObject, foreign: bool) -> None:
        if self.saved:
            theirs, ours = data.draw(st.sampled_from(self.saved))
            self._load(theirs, ours, foreign)

    def _load(self, theirs: dict[str, Any], ours: dict[str, Any], foreign: bool) -> None:
        scalars = {key: copy.deepcopy(value) for key, value in theirs["log_scalars"].items()}
        loaded = {**theirs, "log_scalars": scalars}  # listed: theirs shares the histories with the state
        self.same(lambda hub, _: hub.load_state_dict(loaded if hub is self.theirs or foreign else ours))

    @rule(key=KEYS, missing=st.sampled_from(["log_scalars", "runtime_info", "resumed_keys", ""]), flag=FLAGS)
    def load_a_made_up_state(self, key: str, missing: str, flag: Any) -> None:
        state = {"log_scalars": {"old": 3.5}, "runtime_info": {"new": [1]}, "resumed_keys": {"new": True, key: flag}}
        state.pop(missing, None)
        self.same(lambda hub, _: hub.load_state_dict(state))

    @rule(foreign=st.booleans())
    def load_a_hub(self, foreign: bool) -> None:
        names = (TheirHub("other"), TheirHub("other") if foreign else MessageHub("other"))
        for hub in names:
            hub.update_scalar("loss", 0.5, 4)
            hub.update_info("epoch", [3], resumed=False)
        self.same(lambda hub, _: hub.load_state_dict(names[hub is self.ours]))

    @rule()
    def copy(self) -> None:
        theirs, ours = self.both(lambda hub, _: copy.deepcopy(hub))
        if theirs is not None:
            self.theirs, self.ours = theirs, ours

    @rule()
    def pickle(self) -> None:
        theirs, ours = self.both(lambda hub, _: pickle.loads(pickle.dumps(hub)))
        if theirs is not None:
            self.theirs, self.ours = theirs, ours

    @invariant()
    def both_hold_the_same(self) -> None:
        for name in ("log_scalars", "runtime_info", "_resumed_keys"):
            assert described(getattr(self.ours, name)) == described(getattr(self.theirs, name)), name
        assert self.ours.instance_name == self.theirs.instance_name


def compared(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=checks)
    )


def test_the_hub_answers_each_call_as_mmengines_does() -> None:
    compared(HubComparison, 600, 30)


@pytest.mark.lengthy
@pytest.mark.slow
def test_the_hub_answers_each_call_as_mmengines_does_in_thousands_of_sequences() -> None:
    compared(HubComparison, LONG * 4, 40)


# --- named instances


def managed(base: type) -> Any:
    """Return a class of named instances whose constructor can fail."""

    class Managed(base):  # type: ignore[misc]
        def __init__(self, name: str = "", number: int = 0) -> None:
            super().__init__(name)
            if number < 0:
                raise ArithmeticError(number)
            self.number = number

    return Managed


NAMES = st.sampled_from(["a", "b", "c", "", None, 3, b"a"])


class ManagerComparison(RuleBasedStateMachine):
    """A class of mmengine's named instances and one of ours, and a subclass of each."""

    @initialize()
    def begin(self) -> None:
        self.pairs = [(managed(their_manager.ManagerMixin), managed(ManagerMixin))]
        theirs, ours = self.pairs[0]
        self.pairs.append((managed(theirs), managed(ours)))

    def same(self, sub: bool, call: Callable[[Any], Any]) -> None:
        """Compare what two classes answer, raise and warn of."""
        answers = []
        for cls in self.pairs[sub]:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                answer, error = outcome(lambda cls=cls: call(cls))  # type: ignore[misc]
            if their_manager._lock._is_owned():  # listed: theirs keeps the lock after an error
                their_manager._release_lock()
            said = [(one.category, str(one.message)) for one in caught]
            answers.append((getattr(answer, "_instance_name", answer), error, said))
        (theirs, their_error, they_said), (ours, our_error, we_said) = answers
        assert (ours, we_said) == (theirs, they_said)
        assert (our_error is None) == (their_error is None)
        if their_error is not None and our_error is not None:
            same_error(their_error, our_error)

    @rule(sub=st.booleans(), name=NAMES, options=st.sampled_from([{}, {}, {"number": 1}, {"number": -1}, {"no": 1}]))
    def get_instance(self, sub: bool, name: Any, options: dict[str, int]) -> None:
        self.same(sub, lambda cls: cls.get_instance(name, **options))

    @rule(sub=st.booleans())
    def get_instance_without_a_name(self, sub: bool) -> None:
        assert all(isinstance(outcome(cls.get_instance)[1], TypeError) for cls in self.pairs[sub])

    @rule(sub=st.booleans())
    def get_current_instance(self, sub: bool) -> None:
        self.same(sub, lambda cls: cls.get_current_instance())

    @rule(sub=st.booleans(), name=NAMES)
    def check(self, sub: bool, name: Any) -> None:
        self.same(sub, lambda cls: cls.check_instance_created(name))

    @rule(sub=st.booleans(), name=NAMES)
    def construct(self, sub: bool, name: Any) -> None:
        self.same(sub, lambda cls: cls(name).instance_name)

    @rule(sub=st.booleans(), anew=st.booleans())
    def reset(self, sub: bool, anew: bool) -> None:
        for cls in self.pairs[sub]:
            if anew:
                cls._instance_dict = OrderedDict()
            else:
                cls._instance_dict.clear()

    @invariant()
    def both_know_the_same_instances(self) -> None:
        for theirs, ours in getattr(self, "pairs", ()):
            assert [(name, one._instance_name, one.number) for name, one in ours._instance_dict.items()] == [
                (name, one._instance_name, one.number) for name, one in theirs._instance_dict.items()
            ]


def test_named_instances_answer_each_call_as_mmengines_do() -> None:
    compared(ManagerComparison, 500, 20)


@pytest.mark.slow
def test_named_instances_answer_each_call_as_mmengines_do_in_thousands_of_sequences() -> None:
    compared(ManagerComparison, LONG * 4, 30)
