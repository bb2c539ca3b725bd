"""The resumable state of a hub as a dict: what is in it, what loading makes of it, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from mmengine.logging import HistoryBuffer as TheirHistory
from mmengine.logging import MessageHub as TheirHub
from mmengine.utils import apply_to

from asynchub.errors import StateDictError
from asynchub.events import ScalarUpdated, StateLoaded
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.state import unpacked

ROOT = Path(__file__).parent.parent


def filled(hubs: Any = MessageHub) -> Any:
    hub = hubs("filled")
    hub.update_scalar("loss", 0.5, 4)
    hub.update_scalar("loss", 0.25, 2)
    hub.update_scalar("seen", 16)
    hub.update_scalar("time", 1.0, resumed=False)
    hub.update_info("epochs", [1, 2])
    hub.update_info("cfg", "text", resumed=False)
    return hub


def lists(scalars: Any) -> dict[str, Any]:
    return {key: [part.tolist() for part in history.data] for key, history in scalars.items()}


def test_a_state_dict_holds_copies_of_what_is_resumed_and_every_flag() -> None:
    hub = filled()
    state = hub.state_dict()
    assert list(state) == ["log_scalars", "runtime_info", "resumed_keys"]
    assert {type(part) for part in state.values()} == {OrderedDict}
    assert lists(state["log_scalars"]) == {"loss": [[0.5, 0.25], [4, 2]], "seen": [[16], [1]]}
    assert state["runtime_info"] == {"epochs": [1, 2]}
    assert state["resumed_keys"] == {"loss": True, "seen": True, "time": False, "epochs": True, "cfg": False}
    hub.update_scalar("loss", 9.0)
    hub.get_info("epochs").append(3)
    assert lists(state["log_scalars"])["loss"] == [[0.5, 0.25], [4, 2]]
    assert state["runtime_info"] == {"epochs": [1, 2]}


def test_loading_merges_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    state = filled().state_dict()
    hub = MessageHub("new")
    hub.update_scalar("loss", 7.0, resumed=False)
    hub.update_scalar("mine", 3.0)
    hub.load_state_dict(state)
    assert lists(hub.log_scalars) == {
        "loss": [[0.5, 0.25], [4, 2]],
        "mine": [[3.0], [1]],
        "seen": [[16], [1]],
    }
    hub.update_scalar("loss", 1.0)
    hub.update_scalar("seen", 17)
    assert hub.get_scalar("loss").data[0].tolist() == [0.5, 0.25, 1.0]
    assert hub.get_scalar("seen").data[0].dtype == np.int64
    assert lists(state["log_scalars"])["loss"] == [[0.5, 0.25], [4, 2]]
    assert "resumed key: time is not defined in message_hub, just skip resuming this key." in caplog.messages


def test_a_key_that_is_not_resumed_is_loaded_once_and_said(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("new")
    hub.load_state_dict({"log_scalars": {}, "runtime_info": {"cfg": 1}, "resumed_keys": {"cfg": False}})
    assert hub.get_info("cfg") == 1
    assert hub.state_dict()["runtime_info"] == {}
    assert caplog.messages == [
        "Although resumed key: cfg is False, cfg will still be loaded this time. This key will not be saved by the "
        "next calling of `MessageHub.state_dict()`"
    ]


def test_what_is_no_history_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("new")
    hub.load_state_dict({"log_scalars": {"old": 3.5}, "runtime_info": {}, "resumed_keys": {}})
    assert hub.log_scalars == {}
    assert caplog.messages == ["old in message_hub is not HistoryBuffer, just skip resuming it."]


def test_an_info_that_cannot_be_copied_is_kept_itself_and_said(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("new")
    feature = torch.ones(2, requires_grad=True) * 2  # torch copies leaves only
    hub.update_info("feature", feature)
    state = hub.state_dict()
    assert state["runtime_info"]["feature"] is feature
    other = MessageHub("other")
    other.load_state_dict(state)
    assert other.get_info("feature") is feature
    assert caplog.messages == ["feature in message_hub cannot be copied, just return its reference."] * 2


def test_loading_a_hub_replaces_everything_but_the_name() -> None:
    for source in (filled(), filled(TheirHub)):
        hub = MessageHub("new")
        hub.update_scalar("mine", 3.0)
        hub.update_info("mine", 3)
        hub.load_state_dict(source)
        assert hub.instance_name == "new"
        assert lists(hub.log_scalars) == lists(source.log_scalars)
        assert hub.runtime_info == {"epochs": [1, 2], "cfg": "text"}
        assert hub._resumed_keys == source._resumed_keys
        assert {type(history) for history in hub.log_scalars.values()} == {HistoryBuffer}
        hub.get_info("epochs").append(3)
        hub.update_scalar("loss", 1.0)
        assert source.get_info("epochs") == [1, 2]
        assert len(source.get_scalar("loss").data[0]) == 2


def test_a_pickle_of_mmengines_state_loads() -> None:
    source = filled(TheirHub)
    source.log_scalars["short"] = TheirHistory([1, 2, 3], [1, 1, 1], max_length=3)
    source._resumed_keys["short"] = True
    hub = MessageHub("new")
    hub.load_state_dict(pickle.loads(pickle.dumps(source.state_dict())))
    hub.update_scalar("short", 4)
    assert lists(hub.log_scalars) == {
        "loss": [[0.5, 0.25], [4, 2]],
        "seen": [[16], [1]],
        "short": [[2, 3, 4], [1, 1, 1]],
    }
    assert hub.get_scalar("loss").statistics("mean") == 0.75 / 6


def test_a_runner_may_rebuild_the_dicts_of_a_state() -> None:
    rebuilt = apply_to(filled().state_dict(), lambda one: hasattr(one, "cpu"), lambda one: one.cpu())
    hub = MessageHub("new")
    hub.load_state_dict(rebuilt)
    assert hub.get_scalar("loss").current() == 0.25


def test_step_and_stop_come_back() -> None:
    hub = filled()
    hub.step = 41
    hub.request_stop("seen enough")
    hub.apply_requests()
    state = copy.deepcopy(hub.state_dict())
    other = MessageHub("new")
    other.load_state_dict(state)
    assert (other.step, other.stop_requested, other.stop_reason) == (41, True, "seen enough")
    assert other.statistics().seq > hub.statistics().seq - 1


async def test_loading_is_an_event_and_what_comes_after_it_is_read() -> None:
    hub = MessageHub("new")
    with hub.subscribe() as events:
        hub.update_scalar("loss", 1.0)
        hub.load_state_dict(filled().state_dict())
        hub.update_scalar("loss", 2.0)
        hub.close()
        seen = [event async for event in events]
    assert [type(event) for event in seen] == [ScalarUpdated, StateLoaded, ScalarUpdated]
    assert [event.seq for event in seen] == sorted({event.seq for event in seen})


@pytest.mark.parametrize("first", ["import torch, asynchub", "import asynchub, torch"])
def test_a_new_process_loads_a_checkpoint_with_torchs_default(tmp_path: Path, first: str) -> None:
    hub = filled()
    hub.step = 3
    torch.save({"message_hub": hub.state_dict()}, tmp_path / "checkpoint.pth")
    code = (
        f"{first}\n"
        "hub = asynchub.MessageHub('resumed')\n"
        "hub.load_state_dict(torch.load('checkpoint.pth', weights_only=True)['message_hub'])\n"
        "print(hub.get_scalar('loss').data[0].tolist(), hub.get_info('epochs'), hub.step)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[0.5, 0.25] [1, 2] 3", done.stderr


JUNK = st.sampled_from([None, 3, "text", [], [("a", 1)], object()])


@given(JUNK | st.dictionaries(st.sampled_from(["log_scalars", "runtime_info", "resumed_keys"]), JUNK))
def test_a_malformed_state_is_refused_and_changes_nothing(state: Any) -> None:
    hub = filled()
    before = hub.state_dict()
    with pytest.raises(StateDictError):
        hub.load_state_dict(state)
    after = hub.state_dict()
    assert lists(after.pop("log_scalars")) == lists(before.pop("log_scalars"))
    assert after == before


@pytest.mark.parametrize("missing", ["log_scalars", "runtime_info", "resumed_keys"])
def test_a_missing_entry_is_named_as_mmengine_does(missing: str) -> None:
    state = filled().state_dict()
    del state[missing]
    with pytest.raises(AssertionError, match=f"The loaded `state_dict` of `MessageHub` must contain key: `{missing}`"):
        MessageHub("new").load_state_dict(state)


@pytest.mark.parametrize("flag", [np.zeros(2), None, "yes", 0.5])
def test_a_flag_that_is_no_bool_is_refused_and_changes_nothing(flag: Any) -> None:
    hub = MessageHub("new")
    state = filled().state_dict()
    with pytest.raises(StateDictError, match="whether 'loss' of a state dict is resumed must be a bool"):
        hub.load_state_dict({**state, "resumed_keys": {**state["resumed_keys"], "loss": flag}})
    assert not hub.log_scalars
    assert not hub.runtime_info


@pytest.mark.parametrize("tree", [None, {"format": np.zeros(2)}, {"format": [1]}, {}])
def test_what_is_not_the_state_of_a_hub_is_refused(tree: Any) -> None:
    with pytest.raises(StateDictError, match=r"was it written by hub\.save"):
        unpacked(tree)


@pytest.mark.parametrize(
    "extra",
    [
        3,
        {"step": "3"},
        {"seq": None},
        {"subscribers": []},
        {"subscribers": {"a": {}}},
        {"stop": 3},
        {"stop": {"reason": 5}},
        {"stop": {"because": "x"}},
        {"step": 2**70},
        {"step": True},
        {"stop": np.zeros(2)},
        {"info_stamps": {"a": [1e999, 1.0, 0]}},
        {"info_stamps": {"a": [1, 10**400, 0]}},
        {"info_stamps": {"a": [1, 1.0, np.zeros(2)]}},
        {"info_stamps": np.zeros(2)},
        {"subscribers": {"a": {"state": {}, "seq": 2**70}}},
        {"run_id": np.zeros(2)},
    ],
)
def test_a_malformed_fourth_entry_is_refused_and_changes_nothing(extra: Any) -> None:
    hub = filled()
    state = {**filled().state_dict(), "asynchub": extra}
    hub.update_scalar("loss", 1.0)
    with pytest.raises(StateDictError):
        hub.load_state_dict(state)
    assert hub.get_scalar("loss").data[0].tolist() == [0.5, 0.25, 1.0]
    assert hub.step == 0
