"""The differences to mmengine, each shown on both: what ``docs/reference/differences.md`` lists, and nothing else."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mmengine.logging.message_hub as their_module
import mmengine.utils.manager as their_manager
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer as TheirHistory
from mmengine.logging import MessageHub as TheirHub

from asynchub.devices import register_backend
from asynchub.devices.courier import RowCourier
from asynchub.errors import (
    ArgumentError,
    CountTypeError,
    InstanceNameError,
    KeyTypeError,
    NotAScalarError,
    ResumedFlagError,
    StateDictError,
    UnknownScalarError,
)
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.manager import ManagerMixin
from asynchub.manager import _lock as our_lock
from asynchub.pending import courier_for
from tests.devices.fake_device import FakeBackend, Machine

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "differences.md"


@pytest.fixture
def theirs() -> TheirHub:
    return TheirHub("hub")


@pytest.fixture
def ours() -> MessageHub:
    return MessageHub("hub")


def error(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # looked at by the caller
        call()
    return caught.value


def test_the_page_and_the_tests_list_the_same_differences() -> None:
    listed = re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    tests = [name for name in globals() if name.startswith("test_")]
    assert sorted(listed) == sorted(name for name in tests if not name.startswith("test_the_page"))


# --- errors


def test_a_count_that_is_no_int_is_one_error_with_a_text(theirs: TheirHub, ours: MessageHub) -> None:
    broken = error(lambda: theirs.update_scalar("loss", 1.0, 2.0))
    assert type(broken) is TypeError
    assert "unsupported format string" in str(broken)
    clear = error(lambda: ours.update_scalar("loss", 1.0, 2.0))  # type: ignore[arg-type]
    assert isinstance(clear, CountTypeError)
    assert isinstance(clear, TypeError)
    assert isinstance(clear, AssertionError)
    assert str(clear) == "count of 'loss' must be int, got float; pass the number of samples"


def test_a_value_that_is_no_scalar_is_named(theirs: TheirHub, ours: MessageHub) -> None:
    assert str(error(lambda: theirs.update_scalar("loss", [1.0]))) == ""
    clear = error(lambda: ours.update_scalar("loss", np.ones(3)))
    assert isinstance(clear, NotAScalarError)
    assert "'loss' must be one real number, got ndarray of shape (3,)" in str(clear)


def test_an_unknown_scalar_is_told_with_the_hubs_name(theirs: TheirHub, ours: MessageHub) -> None:
    assert "<property object" in str(error(lambda: theirs.get_scalar("loss")))
    clear = error(lambda: ours.get_scalar("loss"))
    assert isinstance(clear, UnknownScalarError)
    assert str(clear).startswith("'loss' is not among the scalars of hub 'hub'")


def test_a_changed_flag_is_told_with_its_value(theirs: TheirHub, ours: MessageHub) -> None:
    for hub in (theirs, ours):
        hub.update_scalar("loss", 1)
    assert "but got {resumed} now" in str(error(lambda: theirs.update_scalar("loss", 1, resumed=False)))
    clear = error(lambda: ours.update_scalar("loss", 1, resumed=False))
    assert isinstance(clear, ResumedFlagError)
    assert "used to be True, but got False now" in str(clear)


def test_a_wrong_argument_of_the_constructor_is_told_with_its_type() -> None:
    assert "got <class 'str'>" in str(error(lambda: TheirHub("hub", log_scalars=3)))
    clear = error(lambda: MessageHub("hub", log_scalars=3))  # type: ignore[arg-type]
    assert isinstance(clear, ArgumentError)
    assert "got <class 'int'>" in str(clear)


def test_a_wrong_name_is_told_with_its_type() -> None:
    assert "ManagerMeta" in str(error(lambda: TheirHub.get_instance(3)))
    their_manager._release_lock()
    clear = error(lambda: MessageHub.get_instance(3))  # type: ignore[arg-type]
    assert isinstance(clear, InstanceNameError)
    assert str(clear) == "type of name should be str, but got <class 'int'>"


def test_of_several_faults_another_may_be_told_first(theirs: TheirHub, ours: MessageHub) -> None:
    for hub in (theirs, ours):
        hub.update_scalar("loss", 1)
    assert "used to be" in str(error(lambda: theirs.update_scalar("loss", None, resumed=False)))
    assert "one real number" in str(error(lambda: ours.update_scalar("loss", None, resumed=False)))


# --- what an error leaves behind


def test_a_failed_update_leaves_no_trace(theirs: TheirHub, ours: MessageHub) -> None:
    for hub in (theirs, ours):
        error(lambda hub=hub: hub.update_scalar("loss", None))  # type: ignore[misc]
    assert theirs._resumed_keys == {"loss": True}
    assert ours._resumed_keys == {}


def test_updates_of_several_keys_happen_whole_or_not_at_all(theirs: TheirHub, ours: MessageHub) -> None:
    for hub in (theirs, ours):
        hub.update_info("flagged", 1, resumed=False)
        error(lambda hub=hub: hub.update_scalars({"loss": 1.0, "bad": None}))  # type: ignore[misc]
        error(lambda hub=hub: hub.update_info_dict({"epoch": 1, "flagged": 2}))  # type: ignore[misc]
    assert (list(theirs.log_scalars), list(theirs.runtime_info)) == (["loss"], ["flagged", "epoch"])
    assert (list(ours.log_scalars), list(ours.runtime_info)) == ([], ["flagged"])


def test_the_lock_of_named_instances_is_free_after_an_error() -> None:
    error(lambda: TheirHub.get_instance(""))
    assert their_manager._lock._is_owned()
    their_manager._release_lock()
    error(lambda: MessageHub.get_instance(""))
    assert not our_lock._is_owned()  # type: ignore[attr-defined]


# --- values


def test_a_value_that_is_not_real_is_refused_at_once(theirs: TheirHub, ours: MessageHub) -> None:
    for value in (np.complex64(1j), torch.tensor(1j), np.array(["text"]), np.array([None]), np.timedelta64(1, "s")):
        theirs.update_scalar("loss", value)
        assert isinstance(error(lambda: theirs.update_scalar("loss", value)), TypeError)  # noqa: B023
        theirs.log_scalars.clear()
        assert isinstance(error(lambda: ours.update_scalar("loss", value)), NotAScalarError)  # noqa: B023


def test_an_extended_float_becomes_a_float(theirs: TheirHub, ours: MessageHub) -> None:
    theirs.update_scalar("loss", np.longdouble("0.5"))
    assert isinstance(error(lambda: theirs.update_scalar("loss", np.longdouble("0.5"))), TypeError)
    for _ in range(2):
        ours.update_scalar("loss", np.longdouble("0.5"))
    assert ours.get_scalar("loss").data[0].tolist() == [0.5, 0.5]


def test_a_numpy_bool_is_a_scalar(theirs: TheirHub, ours: MessageHub) -> None:
    assert isinstance(error(lambda: theirs.update_scalar("right", np.True_)), AssertionError)
    ours.update_scalar("right", np.True_)
    assert ours.get_scalar("right").current() is np.True_


def test_a_key_is_a_string(theirs: TheirHub, ours: MessageHub) -> None:
    theirs.update_scalar(3, 1.0)
    theirs.update_info(3, 1.0)
    for call in (ours.update_scalar, ours.update_info):
        assert isinstance(error(lambda: call(3, 1.0)), KeyTypeError)  # type: ignore[arg-type]  # noqa: B023
    assert isinstance(error(lambda: ours.update_scalars({3: 1.0})), KeyTypeError)  # type: ignore[dict-item]


def test_a_tensor_on_a_device_is_not_waited_for(theirs: TheirHub, ours: MessageHub) -> None:
    machine = Machine()
    register_backend(machine.device.type, lambda device: FakeBackend(machine))
    theirs.update_scalar("loss", machine.tensor(1.5))
    assert machine.calls["item"] == 1  # its stream was run to the end
    tensor = machine.tensor(1.5)
    ours.update_scalar("loss", tensor)
    tensor.fill(0.0)
    assert machine.calls["item"] == 1
    assert ours.get_scalar("loss").snapshot().pending == 1
    machine.run()
    assert ours.get_scalar("loss").current() == theirs.get_scalar("loss").current() == 1.5
    courier = courier_for(machine.device)
    assert isinstance(courier, RowCourier)
    courier.end(10)


def test_no_update_is_lost_among_threads(ours: MessageHub) -> None:
    def publish() -> None:
        for number in range(5000):
            ours.update_scalar("loss", number)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values, counts = ours.get_scalar("loss").data
    assert len(values) == len(counts) == 20_000
    # theirs: two threads between reading the arrays and assigning the longer ones
    history = TheirHistory()
    with mock.patch.object(np, "append", side_effect=lambda array, value: np.concatenate([array, [value]])) as append:
        first = append.side_effect

        def interrupted(array: Any, value: Any) -> Any:
            append.side_effect = first
            history.update(2.0)
            return first(array, value)

        append.side_effect = interrupted
        history.update(1.0)
    assert [len(part) for part in history.data] == [1, 2]


# --- state


def test_the_flags_in_a_state_dict_are_a_copy(theirs: TheirHub, ours: MessageHub) -> None:
    states = [hub.state_dict() for hub in (theirs, ours)]
    for hub in (theirs, ours):
        hub.update_info("later", 1)
    assert [list(state["resumed_keys"]) for state in states] == [["later"], []]


def test_loaded_histories_are_copies(theirs: TheirHub, ours: MessageHub) -> None:
    for hub, shared in ((theirs, True), (ours, False)):
        hub.update_scalar("loss", 1.0)
        state = hub.state_dict()
        others = [type(hub)("first"), type(hub)("second")]
        for other in others:
            other.load_state_dict(state)
        assert (others[0].get_scalar("loss") is others[1].get_scalar("loss")) is shared


def test_a_malformed_state_changes_nothing(theirs: TheirHub, ours: MessageHub) -> None:
    state = {"log_scalars": {}, "runtime_info": {"epoch": 1}, "resumed_keys": None}
    assert isinstance(error(lambda: theirs.load_state_dict(state)), AttributeError)
    assert theirs.runtime_info == {"epoch": 1}
    assert isinstance(error(lambda: ours.load_state_dict(state)), StateDictError)
    assert ours.runtime_info == {}
    assert isinstance(error(lambda: theirs.load_state_dict(None)), AttributeError)
    assert isinstance(error(lambda: ours.load_state_dict(None)), StateDictError)


def test_a_state_may_hold_the_histories_of_either_class(theirs: TheirHub, ours: MessageHub) -> None:
    for hub in (theirs, ours):
        hub.update_scalar("loss", 0.5, 4)
    states = [theirs.state_dict(), ours.state_dict()]
    into_theirs, into_ours = TheirHub("new"), MessageHub("new")
    with mock.patch.object(their_module, "print_log") as log:
        into_theirs.load_state_dict(states[1])
    assert "is not HistoryBuffer" in log.call_args_list[0].args[0]
    into_ours.load_state_dict(states[0])
    history = into_ours.get_scalar("loss")
    assert type(history) is HistoryBuffer
    assert [part.tolist() for part in history.data] == [[0.5], [4]]


def test_an_interrupt_goes_out_of_state_dict(theirs: TheirHub, ours: MessageHub) -> None:
    class Interrupts:
        def __deepcopy__(self, memo: object) -> None:
            raise KeyboardInterrupt

    for hub in (theirs, ours):
        hub.update_info("it", Interrupts())
    with mock.patch.object(their_module, "print_log"):
        assert "it" in theirs.state_dict()["runtime_info"]
    with pytest.raises(KeyboardInterrupt):
        ours.state_dict()


def test_what_is_more_than_mmengines_is_in_a_fourth_entry(theirs: TheirHub, ours: MessageHub) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["log_scalars", "runtime_info", "resumed_keys"]
    ours.step = 3
    assert list(ours.state_dict()) == ["log_scalars", "runtime_info", "resumed_keys", "asynchub"]
    theirs.load_state_dict(ours.state_dict())


def test_torch_load_reads_a_checkpoint_without_being_told_to_trust_it(theirs: TheirHub, ours: MessageHub) -> None:
    loaded = []
    for hub in (theirs, ours):
        hub.update_scalar("loss", 0.5)
        file = io.BytesIO()
        torch.save(hub.state_dict(), file)
        file.seek(0)
        loaded.append(lambda file=file: torch.load(file, weights_only=True))
    assert isinstance(error(loaded[0]), pickle.UnpicklingError)
    assert loaded[1]()["log_scalars"]["loss"].current() == 0.5


@pytest.fixture
def log() -> Iterator[list[str]]:
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("asynchub").addHandler(handler)
    yield texts
    logging.getLogger("asynchub").removeHandler(handler)


def test_messages_go_to_a_logger_named_asynchub(theirs: TheirHub, ours: MessageHub, log: list[str]) -> None:
    state = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {"gone": True}}
    with mock.patch.object(their_module, "print_log") as print_log:
        theirs.load_state_dict(state)
    ours.load_state_dict(state)
    assert log == [print_log.call_args.args[0]]
    assert print_log.call_args.kwargs["logger"] == "current"


# --- hubs


def test_inside_a_hub_it_is_the_current_one() -> None:
    for base, inner in ((TheirHub, "latest"), (MessageHub, "entered")):
        entered: Any = base.get_instance("entered")
        base.get_instance("latest")
        if isinstance(entered, MessageHub):
            with entered:
                assert MessageHub.get_current_instance().instance_name == inner
        assert base.get_current_instance().instance_name == "latest"


def pickled(hub: Any) -> Any:
    return pickle.loads(pickle.dumps(hub))


def test_a_copy_or_a_pickle_keeps_the_record_and_nothing_else(theirs: Any, ours: Any) -> None:
    for hub in (theirs, ours):
        hub.update_info("epoch", 3)
        hub.of_the_program = 1
    for duplicate in (copy.deepcopy, pickled, copy.copy):
        assert duplicate(theirs).of_the_program == 1
        assert not hasattr(duplicate(ours), "of_the_program")
        assert duplicate(ours).runtime_info == {"epoch": 3}
    assert copy.copy(theirs).runtime_info is theirs.runtime_info
    assert copy.copy(ours).runtime_info is not ours.runtime_info


# --- histories


def test_the_arrays_of_a_history_are_read_only() -> None:
    theirs, ours = TheirHistory([1.0], [1]), HistoryBuffer([1.0], [1])
    theirs.data[0][0] = 2.0
    assert theirs.current() == 2.0
    with pytest.raises(ValueError, match="read-only"):
        ours.data[0][0] = 2.0


def test_max_length_is_checked_when_it_is_set() -> None:
    theirs, ours = TheirHistory([1.0], [1]), HistoryBuffer([1.0], [1])
    theirs.max_length = None
    assert isinstance(error(lambda: theirs.update(1.0)), TypeError)
    with pytest.raises(ArgumentError):
        ours.max_length = None  # type: ignore[assignment]


def test_a_history_is_made_of_numbers() -> None:
    assert TheirHistory([{}], [1]).current() == {}
    assert isinstance(error(lambda: HistoryBuffer(np.array(["2024"], "datetime64[Y]"), [1])), ArgumentError)


def test_a_statistic_of_a_local_function_leaves_histories_picklable() -> None:
    for history in (TheirHistory, HistoryBuffer):
        with mock.patch.dict(history._statistics_methods):
            history([1.0], [1])

            def local(self: Any) -> float:
                return 0.0

            history.register_statistics(local)
            if history is TheirHistory:
                assert isinstance(error(lambda: pickle.dumps(history([1.0], [1]))), AttributeError)  # noqa: B023
            else:
                assert pickle.loads(pickle.dumps(history([1.0], [1]))).statistics("local") == 0.0


def test_there_are_more_statistics() -> None:
    assert isinstance(error(lambda: TheirHistory([1.0], [1]).statistics("std")), KeyError)
    assert HistoryBuffer([1.0], [1]).statistics("std") == 0.0


def test_named_classes_are_others_than_mmengines() -> None:
    assert not issubclass(MessageHub, their_manager.ManagerMixin)
    assert issubclass(MessageHub, ManagerMixin)
