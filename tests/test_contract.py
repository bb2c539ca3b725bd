"""What the contract says of hubs, fact by fact; every fact holds of mmengine's class and of ours."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer as TheirHistory
from mmengine.logging import MessageHub as TheirHub

from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub


@pytest.fixture(params=[TheirHub, MessageHub], ids=["mmengine", "asynchub"])
def hubs(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The class of hubs."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def histories(hubs: Any) -> Any:
    """The class of histories that goes with it."""
    return HistoryBuffer if hubs is MessageHub else TheirHistory


@pytest.fixture
def hub(hubs: Any) -> Any:
    return hubs("hub")


# --- making one


def test_a_new_hub_is_empty(hub: Any) -> None:
    assert hub.instance_name == "hub"
    assert hub.log_scalars == hub.runtime_info == OrderedDict()
    assert isinstance(hub.log_scalars, OrderedDict)
    assert isinstance(hub.runtime_info, OrderedDict)


def test_the_dicts_given_are_copied_but_not_what_is_in_them(hubs: Any, histories: Any) -> None:
    history, value = histories([1.0], [1]), [1]
    scalars, infos, flags = {"loss": history}, {"it": value}, {"loss": True}
    hub = hubs("hub", scalars, infos, flags)
    assert hub.log_scalars["loss"] is history
    assert hub.runtime_info["it"] is value
    hub.update_info("more", 1)
    assert (list(infos), list(flags)) == (["it"], ["loss"])


def test_keys_given_without_a_flag_are_not_saved(hubs: Any, histories: Any) -> None:
    state = hubs("hub", {"loss": histories([1.0], [1])}, {"epoch": 1}).state_dict()
    assert (state["log_scalars"], state["runtime_info"]) == ({}, {})


def test_a_dict_of_the_constructor_is_a_dict_or_none(hubs: Any) -> None:
    for name in ("log_scalars", "runtime_info", "resumed_keys"):
        with pytest.raises(TypeError, match=f"{name} should be a dict or `None`"):
            hubs("hub", **{name: [("a", 1)]})


def test_scalars_given_are_histories(hubs: Any) -> None:
    with pytest.raises(AssertionError, match="The type of log_scalars'value must be HistoryBuffer, but got <class 'in"):
        hubs("hub", log_scalars={"loss": 1})


def test_a_flag_given_is_of_a_key_that_is_there(hubs: Any) -> None:
    with pytest.raises(AssertionError, match="must contained in `log_scalars` or `runtime_info`, but got epoch"):
        hubs("hub", resumed_keys={"epoch": True})


def test_the_current_hub_is_the_latest_created_and_the_first_is_named_mmengine(hubs: Any) -> None:
    assert hubs.get_current_instance().instance_name == "mmengine"
    first, second = hubs.get_instance("first"), hubs.get_instance("second")
    assert hubs.get_instance("first") is first
    assert hubs.get_current_instance() is second
    hubs("unnamed")
    assert hubs.get_current_instance() is second


def test_a_hub_is_made_by_name_with_its_arguments(hubs: Any) -> None:
    assert hubs.get_instance("hub", runtime_info={"epoch": 3}).get_info("epoch") == 3


# --- scalars

ONE = [3, 3.0, True, np.float16(3), np.int8(3), np.float64(3), np.array(3), np.array([3.0]), np.array([[3]])]
TENSORS = [
    torch.tensor(3),
    torch.tensor([3.0]),
    torch.ones(1, 1, dtype=torch.bool),
    torch.ones((), dtype=torch.bfloat16),
]
NOT_ONE = [None, "3", [3.0], (3,), {3}, 3j, b"3", object(), np.ones(2), np.ones(0), torch.ones(2), torch.ones(0)]


@pytest.mark.parametrize("value", [*ONE, *TENSORS], ids=repr)
def test_one_real_number_is_a_scalar(hub: Any, value: Any) -> None:
    assert hub.update_scalar("loss", value) is None
    values, counts = hub.get_scalar("loss").data
    expected = value if isinstance(value, int | float) else value.item()
    assert values.tolist() == [expected]
    assert values.dtype == np.array([expected]).dtype
    assert (counts.tolist(), counts.dtype) == ([1], np.int64)


@pytest.mark.parametrize("value", NOT_ONE, ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)))
def test_anything_else_is_none(hub: Any, value: Any) -> None:
    with pytest.raises(AssertionError):
        hub.update_scalar("loss", value)
    assert "loss" not in hub.log_scalars


def test_a_tensor_without_data_says_so(hub: Any) -> None:
    with pytest.raises(RuntimeError, match="meta"):
        hub.update_scalar("loss", torch.ones((), device="meta"))


def test_integers_stay_integers_until_a_float_comes(hub: Any) -> None:
    hub.update_scalar("n", 16)
    assert type(hub.get_scalar("n").current()) is np.int64
    hub.update_scalar("n", 10**30)
    assert hub.get_scalar("n").current() == 10**30
    hub.update_scalar("m", 1)
    hub.update_scalar("m", 0.5)
    assert hub.get_scalar("m").data[0].dtype == np.float64


@pytest.mark.parametrize("count", [0, -3, True, 10**25])
def test_a_count_is_any_int(hub: Any, count: int) -> None:
    hub.update_scalar("loss", 1.0, count)
    assert hub.get_scalar("loss").data[1].tolist() == [count]


@pytest.mark.parametrize("count", [1.0, None, "1", np.int64(1), torch.tensor(1)])
def test_a_count_of_another_type_is_an_error(hub: Any, count: Any) -> None:
    with pytest.raises((TypeError, AssertionError)):
        hub.update_scalar("loss", 1.0, count)
    assert "loss" not in hub.log_scalars


def test_the_mean_is_that_of_sums(hub: Any) -> None:
    hub.update_scalar("loss", 10.0, 4)
    hub.update_scalar("loss", 2.0, 2)
    assert hub.get_scalar("loss").mean() == 12 / 6


def test_several_scalars_come_as_values_or_dicts(hub: Any) -> None:
    hub.update_scalars(
        {"a": 1, "b": {"value": torch.tensor(2.0), "count": np.int64(3), "unit": "s"}, "c": {"value": 4}}
    )
    assert {key: [part.tolist() for part in one.data] for key, one in hub.log_scalars.items()} == {
        "a": [[1], [1]],
        "b": [[2.0], [3]],
        "c": [[4], [1]],
    }


def test_several_scalars_come_in_a_dict(hub: Any) -> None:
    with pytest.raises(AssertionError, match=r"`log_dict` must be a dict!, but got <class 'list'>"):
        hub.update_scalars([("a", 1)])
    with pytest.raises(AssertionError, match=r"value must be defined in \{'count': 1\}"):
        hub.update_scalars({"a": {"count": 1}})


def test_a_flag_is_not_changed(hub: Any) -> None:
    hub.update_scalar("loss", 1.0, resumed=False)
    for update in (hub.update_scalar, hub.update_info):
        with pytest.raises(AssertionError, match=r"loss used to be False, but got .* cannot be modified repeatedly"):
            update("loss", 1.0)
    hub.update_info("loss", 1.0, resumed=0)
    assert hub._resumed_keys == {"loss": False}


def test_a_history_is_given_itself_and_an_unknown_one_is_a_key_error(hub: Any) -> None:
    hub.update_scalar("loss", 1.0)
    assert hub.get_scalar("loss") is hub.log_scalars["loss"]
    with pytest.raises(KeyError):
        hub.get_scalar("val/loss")


# --- runtime info


def test_an_info_is_any_object_and_kept_itself(hub: Any) -> None:
    value = object()
    assert hub.update_info("it", value) is None
    assert hub.get_info("it") is value
    assert hub.get_info("other") is None
    assert hub.get_info("other", 3) == 3
    hub.update_info("it", None)
    assert hub.get_info("it", 3) is None


def test_several_infos_come_in_a_dict(hub: Any) -> None:
    hub.update_info_dict({"epoch": 1, "iter": 5}, resumed=False)
    assert hub.runtime_info == {"epoch": 1, "iter": 5}
    assert hub._resumed_keys == {"epoch": False, "iter": False}
    with pytest.raises(AssertionError, match="`log_dict` must be a dict!"):
        hub.update_info_dict(None)


def test_a_popped_info_leaves_its_flag(hub: Any) -> None:
    hub.update_info("epoch", 3)
    assert hub.pop_info("epoch") == 3
    assert hub.pop_info("epoch") is None
    assert hub.pop_info("epoch", 5) == 5
    with pytest.raises(AssertionError, match="epoch used to be True"):
        hub.update_info("epoch", 3, resumed=False)


def test_one_key_may_be_a_scalar_and_an_info(hub: Any) -> None:
    hub.update_scalar("time", 1.0)
    hub.update_info("time", "noon")
    assert hub.get_info("time") == "noon"
    assert hub.get_scalar("time").current() == 1.0


def test_the_program_may_change_the_dicts(hub: Any, histories: Any) -> None:
    hub.update_scalar("loss", 1.0)
    taken = hub.log_scalars.pop("loss")
    hub.update_scalar("loss", 2.0)
    assert [one.data[0].tolist() for one in (taken, hub.get_scalar("loss"))] == [[1.0], [2.0]]
    hub.log_scalars["loss"] = histories([5.0], [1])
    hub.update_scalar("loss", 6.0)
    assert hub.get_scalar("loss").data[0].tolist() == [5.0, 6.0]
    hub.runtime_info["epoch"] = 4
    assert hub.get_info("epoch") == 4
    hub.runtime_info.clear()
    assert hub.get_info("epoch") is None


def test_something_else_among_the_histories_is_asked_to_update(hub: Any) -> None:
    hub.log_scalars["loss"] = 3
    with pytest.raises(AttributeError):
        hub.update_scalar("loss", 1.0)
    assert hub.get_scalar("loss") == 3


# --- copies


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda hub: pickle.loads(pickle.dumps(hub))])
def test_a_copy_is_independent_and_has_no_name_to_be_found_by(hubs: Any, duplicate: Any) -> None:
    hub = hubs.get_instance("hub")
    hub.update_scalar("loss", 1.0, resumed=False)
    hub.update_info("epochs", [1])
    hub.update_info("gone", 1)
    hub.pop_info("gone")
    other = duplicate(hub)
    other.update_scalar("loss", 2.0, resumed=False)
    other.get_info("epochs").append(2)
    assert (other.instance_name, other._resumed_keys) == ("hub", hub._resumed_keys)
    assert hub.get_scalar("loss").data[0].tolist() == [1.0]
    assert hub.get_info("epochs") == [1]
    assert hubs.get_instance("hub") is hub


def test_what_programs_call_beside_the_documented_methods_is_there(hub: Any) -> None:
    assert hub._get_valid_value(torch.tensor([2.0])) == 2.0
    hub._set_resumed_keys("loss", False)
    with pytest.raises(AssertionError, match="loss used to be False"):
        hub._set_resumed_keys("loss", True)
    assert hub._parse_input("log_scalars", None) == OrderedDict()
