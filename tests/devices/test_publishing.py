"""A published tensor has the value that it had at the call, in its place among all other events, and nobody waits."""

from __future__ import annotations

import functools
import math
import random
import signal
import struct
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import anyio
import pytest
import torch

import asynchub.devices.courier as courier_module
from asynchub import (
    Event,
    GraphCaptureError,
    HistoryBuffer,
    InfoUpdated,
    MessageHub,
    ScalarUpdated,
    StopRequested,
)
from asynchub.bus import EventBus
from asynchub.devices import SLOTS, register_backend
from asynchub.devices.courier import RowCourier
from asynchub.errors import (
    ArgumentError,
    CountTypeError,
    KeyTypeError,
    NotAScalarError,
    ResumedFlagError,
)
from asynchub.holding import Holding
from asynchub.intake import Intake
from asynchub.pending import courier_for
from asynchub.recording import Recording
from tests.devices.fake_device import FakeBackend, FakeTensor, Machine
from tests.interrupting import codes_of, interrupted

VALUES: list[tuple[torch.dtype, Any]] = [
    (torch.float64, 0.1),
    (torch.float64, -0.0),
    (torch.float64, 5e-324),
    (torch.float64, math.inf),
    (torch.float64, -math.inf),
    (torch.float64, math.nan),
    (torch.float32, 0.1),
    (torch.float32, 1e-45),
    (torch.bfloat16, 3.140625),
    (torch.float16, 6e-8),
    (torch.float8_e4m3fn, 0.4375),
    (torch.float8_e5m2, 57344.0),
    (torch.bool, True),
    (torch.bool, False),
    (torch.uint8, 255),
    (torch.int8, -128),
    (torch.int16, -32768),
    (torch.uint16, 65535),
    (torch.int32, 2**31 - 1),
    (torch.uint32, 2**32 - 1),
    (torch.int64, 2**53 + 1),
    (torch.int64, -(2**63)),
    (torch.uint64, 2**64 - 1),
    (torch.uint64, 2**53 + 1),
]


def read(events: Any) -> list[Event]:
    """Return what a subscription holds."""
    events._bus.collect()
    return list(events._take())


def scalars(events: Any) -> list[tuple[str, Any]]:
    return [(event.key, event.value) for event in read(events) if isinstance(event, ScalarUpdated)]


# --- exact


@pytest.mark.parametrize(("dtype", "value"), VALUES, ids=lambda one: str(one).removeprefix("torch."))
@pytest.mark.parametrize("way", ["one", "dict", "batch"])
def test_a_value_is_what_item_gives_though_it_is_overwritten_at_once(
    hub: MessageHub, machine: Machine, dtype: torch.dtype, value: Any, way: str
) -> None:
    tensor = machine.tensor(value, dtype)
    expected = torch.tensor(value, dtype=dtype).item()
    events = hub.subscribe("a")
    if way == "one":
        hub.update_scalar("a", tensor)
    elif way == "dict":
        hub.update_scalars({"a": tensor, "b": machine.tensor(1.0)})
    else:
        with hub.batch():
            hub.update_scalar("a", tensor)
    tensor.fill(1)
    machine.advance()
    hub.get_scalar("a").current()
    (event,) = read(events)
    assert isinstance(event, ScalarUpdated)
    assert type(event.value) is type(expected)
    if isinstance(expected, float):
        assert struct.pack("d", event.value) == struct.pack("d", expected)
    else:
        assert event.value == expected
    assert machine.calls["item"] == 0


def test_the_payload_of_a_nan_is_kept(hub: MessageHub, machine: Machine) -> None:
    odd = torch.tensor([0x7FF8DEADBEEF0001], dtype=torch.int64).view(torch.float64)
    tensor = FakeTensor(machine, odd)
    hub.update_scalar("a", tensor)
    machine.advance()
    assert hub.get_scalar("a").data[0].tobytes() == odd.numpy().tobytes()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_one_element_of_any_shape_with_a_gradient_is_taken_without_it(
    hub: MessageHub, machine: Machine, shape: tuple[int, ...]
) -> None:
    tensor = machine.tensor(torch.full(shape, 2.5), requires_grad=True)
    hub.update_scalar("a", tensor)
    machine.advance()
    assert hub.get_scalar("a").current() == 2.5


def test_values_of_all_kinds_in_one_update_have_their_own_counts_and_one_place(
    hub: MessageHub, machine: Machine
) -> None:
    events = hub.subscribe()
    hub.update_scalars(
        {
            "float": machine.tensor(1.5),
            "number": 7,
            "long": {"value": machine.tensor(2**53 + 1, torch.int64), "count": 3},
            "flag": machine.tensor(True, torch.bool),
            "counted": {"value": 0.5, "count": machine.tensor(4, torch.int64)},
        },
        step=11,
    )
    machine.run()
    hub.flush()
    got = [(e.seq, e.key, e.value, e.count, e.step) for e in read(events) if isinstance(e, ScalarUpdated)]
    assert got == [
        (1, "float", 1.5, 1, 11),
        (2, "number", 7, 1, 11),
        (3, "long", 2**53 + 1, 3, 11),
        (4, "flag", True, 1, 11),
        (5, "counted", 0.5, 4, 11),
    ]


# --- nobody waits


def test_no_publish_waits_and_nothing_wakes_the_landing_thread(hub: MessageHub, machine: Machine) -> None:
    for number in range(5000):
        tensor = machine.tensor(float(number))
        hub.update_scalar("a", tensor)
        tensor.fill(-1.0)
        hub.update_scalars({"b": tensor, "c": 1.0})
    assert threading.get_ident() not in machine.waiters
    assert machine.calls["item"] == 0
    (device,) = [one for one in hub.statistics().devices if one.device == str(machine.device)]
    assert (device.taken, device.landed, device.stalls) == (10_000, 0, 0)
    assert hub.statistics().held == 15_000
    machine.run()
    assert hub.get_scalar("a").data[0].tolist() == list(map(float, range(5000)))
    assert set(hub.get_scalar("b").data[0].tolist()) == {-1.0}


def test_a_dict_of_fifty_is_one_kernel_and_one_copy(hub: MessageHub, machine: Machine) -> None:
    hub.update_scalars({f"key/{number}": machine.tensor(float(number)) for number in range(50)})
    assert (machine.calls["put"], machine.calls["kernel"], machine.calls["ship"]) == (1, 1, 1)
    machine.run()
    assert [hub.get_scalar(f"key/{number}").current() for number in range(50)] == list(range(50))


def test_a_dict_longer_than_a_row_is_one_update(hub: MessageHub, machine: Machine) -> None:
    events = hub.subscribe()
    hub.update_scalars({f"key/{number}": machine.tensor(float(number)) for number in range(3 * SLOTS + 1)})
    machine.run()
    hub.flush()
    assert scalars(events) == [(f"key/{number}", float(number)) for number in range(3 * SLOTS + 1)]


def test_a_batch_is_one_copy_and_leaves_when_its_outermost_with_ends(hub: MessageHub, machine: Machine) -> None:
    with hub.batch():
        with hub.batch():
            for number in range(10):
                hub.update_scalar("a", machine.tensor(float(number)))
        assert machine.calls["ship"] == 0
    assert machine.calls["ship"] == 1
    machine.run()
    assert hub.get_scalar("a").data[0].tolist() == list(range(10))


def test_waiting_amid_a_batch_has_it_brought(hub: MessageHub, machine: Machine) -> None:
    machine.run()
    with hub.batch():
        hub.update_scalar("a", machine.tensor(2.0))
        assert hub.get_scalar("a").current() == 2.0


def test_what_is_published_while_enough_is_under_way_travels_together_and_the_last_value_comes(
    hub: MessageHub, machine: Machine
) -> None:
    for number in range(40):
        hub.update_scalar("a", machine.tensor(float(number)))
    assert machine.calls["ship"] == courier_module.ENOUGH
    machine.run()
    hub.flush(10)
    assert hub.get_scalar("a").data[0].tolist() == list(range(40))
    assert machine.calls["ship"] == courier_module.ENOUGH + 1


def test_a_publisher_waits_for_a_row_only_when_there_may_be_no_more(
    hub: MessageHub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "MOST", 2)
    monkeypatch.setattr(courier_module, "FEWEST", 1)
    monkeypatch.setattr(courier_module, "ENOUGH", 1)
    for number in range(1 + SLOTS):
        hub.update_scalar("a", machine.tensor(float(number)))
    done = threading.Event()

    def publish() -> None:
        hub.update_scalars({"a": machine.tensor(-1.0), "b": machine.tensor(-2.0)})
        done.set()

    thread = threading.Thread(target=publish)
    thread.start()
    courier = courier_for(machine.device)
    while not courier.statistics().stalls:
        pass
    assert not done.is_set()
    assert hub.get_scalar("a").snapshot().pending == 1 + SLOTS  # nobody else is held up
    machine.run()
    thread.join()
    assert hub.get_scalar("a").data[0].tolist() == [*range(1 + SLOTS), -1.0]
    assert courier.statistics().stalls == 1
    assert courier.statistics().rows == 2


def test_a_value_is_that_of_the_publishers_stream(hub: MessageHub, machine: Machine) -> None:
    first = machine.tensor(1.0)
    hub.update_scalar("a", first)
    machine.current = "other"
    second = machine.tensor(2.0)
    hub.update_scalar("a", second)
    machine.current = "default"
    hub.update_scalar("a", machine.tensor(3.0))
    assert machine.calls["ship"] == 3
    machine.advance(stream="other")
    assert hub.get_scalar("a").snapshot().pending == 3
    machine.advance()
    assert hub.get_scalar("a").data[0].tolist() == [1.0, 2.0, 3.0]


def test_a_value_put_behind_a_shipped_row_of_another_stream_does_not_come_early(
    hub: MessageHub, machine: Machine
) -> None:
    for _ in range(courier_module.ENOUGH + 1):
        hub.update_scalar("a", machine.tensor(1.0))
    machine.current = "other"
    hub.update_scalar("a", machine.tensor(2.0))  # ships the open row of the first stream
    machine.current = "default"
    machine.advance(stream="default")
    while hub.statistics().held > 1:
        pass
    assert hub.get_scalar("a").snapshot().values.tolist() == [1.0] * (courier_module.ENOUGH + 1)
    machine.advance()
    assert hub.get_scalar("a").data[0].tolist()[-1] == 2.0


# --- order


def test_numbers_infos_and_requests_stay_behind_the_value_that_was_published_before_them(
    hub: MessageHub, machine: Machine
) -> None:
    events = hub.subscribe()
    hub.update_scalar("number", 0.0)
    hub.update_scalar("tensor", machine.tensor(1.0))
    hub.update_scalar("number", 2.0)
    hub.update_info("info", "x")
    hub.request_stop("enough")
    hub.update_scalar("tensor", machine.tensor(3.0))
    assert [event.seq for event in read(events)] == [1]
    assert hub.get_info("info") == "x"  # the state itself waits for nothing
    assert hub.statistics().held == 5
    machine.run()
    hub.flush()
    got = read(events)
    assert [event.seq for event in got] == [2, 3, 4, 5, 6, 7]
    kinds = [ScalarUpdated, ScalarUpdated, InfoUpdated, StopRequested, ScalarUpdated]
    assert [type(event) for event in got[:5]] == kinds


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_four_threads_publish_numbers_and_tensors_and_every_value_has_its_place(
    hub: MessageHub, machine: Machine, seed: int
) -> None:
    rng = random.Random(seed)
    events = hub.subscribe(max_lag=1 << 20)
    stop = threading.Event()

    def advance() -> None:
        while not stop.is_set():
            machine.advance(rng.randrange(200))

    def publish(name: int) -> None:
        own = random.Random(f"{seed} {name}")
        for number in range(2500):
            way = own.randrange(4)
            if way == 0:
                hub.update_scalar(f"{name}", number)
            elif way == 1:
                tensor = machine.tensor(number, torch.int32)
                hub.update_scalar(f"{name}", tensor)
                tensor.fill(-1)
            elif way == 2:
                hub.update_scalars({f"{name}": machine.tensor(number, torch.int64), f"{name}/other": 1.0})
            else:
                with hub.batch():
                    hub.update_scalar(f"{name}", machine.tensor(number, torch.int32))

    advancer = threading.Thread(target=advance)
    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in [advancer, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    advancer.join()
    machine.run()
    hub.flush()
    got: list[Any] = []
    while batch := read(events):
        got += batch
    assert [event.seq for event in got] == list(range(1, len(got) + 1))
    for name in range(4):
        assert [event.value for event in got if event.key == f"{name}"] == list(range(2500))
        assert hub.get_scalar(f"{name}").data[0].tolist() == list(range(2500))


async def test_observers_get_the_last_value_without_another_publish(machine: Machine) -> None:
    hub = MessageHub("hub")
    got = anyio.Event()
    values = []

    @hub.on("a")
    async def observe(event: ScalarUpdated) -> None:
        values.append(event.value)
        if len(values) == 20:
            got.set()

    async with hub:
        for number in range(20):
            hub.update_scalar("a", machine.tensor(float(number)))
        machine.advance()
        with anyio.fail_after(10):
            await got.wait()
        assert values == list(range(20))
    machine.run()


def test_a_reader_that_comes_while_values_are_held_gets_each_once(hub: MessageHub, machine: Machine) -> None:
    hub.update_scalar("a", 0.0)
    hub.update_info("info", "old")
    hub.update_scalar("a", machine.tensor(1.0))
    hub.update_info("info", "new")
    late = hub.subscribe(replay="all")
    machine.run()
    hub.flush()
    got = [(event.key, getattr(event, "value", None)) for _ in range(3) for event in read(late)]
    assert got == [("a", 0.0), ("a", 1.0), ("info", "new")]


# --- the histories


def test_reading_waits_for_what_was_published_before_and_a_snapshot_does_not(hub: MessageHub, machine: Machine) -> None:
    for number in range(3):
        hub.update_scalar("a", machine.tensor(float(number)))
    hub.update_scalar("b", 1.0)
    assert hub.get_scalar("a").snapshot().pending == 3
    assert hub.get_scalar("a").snapshot().values.tolist() == []
    assert hub.get_scalar("b").snapshot().pending == 1
    thread = threading.Timer(0.05, machine.run)
    thread.start()
    assert hub.get_scalar("a").mean(2) == 1.5
    thread.join()
    snapshot = hub.get_scalar("a").snapshot()
    assert (snapshot.pending, snapshot.values.tolist(), snapshot.counts.tolist()) == (0, [0.0, 1.0, 2.0], [1, 1, 1])
    assert not snapshot.values.flags.writeable
    assert len(snapshot.times) == len(snapshot.steps) == 3


def test_a_history_of_the_programs_own_is_given_numbers(hub: MessageHub, machine: Machine) -> None:
    class Own(HistoryBuffer):
        def update(self, log_val: float, count: float = 1) -> None:
            super().update(log_val * 2, count)

    hub.log_scalars["own"] = Own()
    hub.update_scalar("own", machine.tensor(2.0))
    hub.update_scalars({"own": machine.tensor(3.0), "other": machine.tensor(4.0)})
    assert hub.log_scalars["own"].data[0].tolist() == [4.0, 6.0]
    machine.run()
    assert hub.get_scalar("other").current() == 4.0


def test_a_watch_never_waits(hub: MessageHub, machine: Machine) -> None:
    hub.update_scalar("a", 1.0)
    with hub.watch("a") as watch:
        hub.update_scalar("a", machine.tensor(2.0))
        assert watch.value == 1.0
        machine.run()
        hub.flush()
        assert watch.value == 2.0


def test_a_probe_takes_tensors(hub: MessageHub, machine: Machine) -> None:
    probe = hub.probe("a")
    probe(machine.tensor(2.0), 4, step=7)
    machine.run()
    history = hub.get_scalar("a")
    assert (history.data[0].tolist(), history.data[1].tolist(), history.steps.tolist()) == ([2.0], [4], [7])


# --- bad input


@pytest.fixture
def untouched(hub: MessageHub, machine: Machine) -> Iterator[MessageHub]:
    hub.update_scalar("known", 1.0)
    yield hub
    assert hub.statistics().seq == 1
    assert list(hub.log_scalars) == list(hub._resumed_keys) == ["known"]
    assert machine.calls["put"] == 0


@pytest.mark.parametrize("way", ["one", "dict"])
@pytest.mark.parametrize(
    ("value", "dtype"),
    [([1.0, 2.0], torch.float32), ([], torch.float32), (1 + 2j, torch.complex64)],
    ids=["two", "none", "complex"],
)
def test_what_is_not_one_real_number_is_refused_at_the_call(
    untouched: MessageHub, machine: Machine, value: Any, dtype: torch.dtype, way: str
) -> None:
    tensor = FakeTensor(machine, torch.tensor(value, dtype=dtype))
    update = {
        "one": lambda: untouched.update_scalar("bad", tensor),
        "dict": lambda: untouched.update_scalars({"good": machine.tensor(1.0), "bad": tensor}),
    }
    with pytest.raises(NotAScalarError, match=r"'bad' must be one real number"):
        update[way]()


def test_other_arguments_are_checked_before_anything_is_taken(untouched: MessageHub, machine: Machine) -> None:
    tensor = machine.tensor(1.0)
    key: Any = 7
    count: Any = "x"
    step: Any = "x"
    with pytest.raises(KeyTypeError):
        untouched.update_scalar(key, tensor)
    with pytest.raises(KeyTypeError):
        untouched.update_scalars({"a": tensor, key: tensor})
    with pytest.raises(CountTypeError):
        untouched.update_scalar("a", tensor, count)
    with pytest.raises(ArgumentError, match="step must be an int"):
        untouched.update_scalar("a", tensor, step=step)
    with pytest.raises(ResumedFlagError):
        untouched.update_scalar("known", tensor, resumed=False)
    with pytest.raises(ResumedFlagError):
        untouched.update_scalars({"a": tensor, "known": tensor}, resumed=False)


def test_a_publish_amid_a_capture_says_what_to_do(untouched: MessageHub, machine: Machine) -> None:
    tensor = machine.tensor(1.0)
    machine.is_capturing = True
    with pytest.raises(GraphCaptureError, match=r"after replay\(\)"):
        untouched.update_scalar("a", tensor)
    with pytest.raises(GraphCaptureError, match=r"after replay\(\)"):
        untouched.update_scalars({"b": 1.0, "a": tensor})
    machine.is_capturing = False


class _Placement:
    def __init__(self, replicated: bool) -> None:
        self._replicated = replicated

    def is_replicate(self) -> bool:
        return self._replicated


def test_a_replicated_dtensor_is_taken_and_a_sharded_one_names_full_tensor(hub: MessageHub, machine: Machine) -> None:
    class Spread(FakeTensor):
        def __init__(self, replicated: bool) -> None:
            super().__init__(machine, torch.tensor(4.0))
            self.placements = (_Placement(replicated),)

        def to_local(self) -> FakeTensor:
            return FakeTensor(machine, self.data)

    hub.update_scalar("a", Spread(replicated=True))
    with pytest.raises(NotAScalarError, match=r"full_tensor\(\)"):
        hub.update_scalar("a", Spread(replicated=False))
    machine.run()
    assert hub.get_scalar("a").data[0].tolist() == [4.0]


def test_a_backend_needs_a_name_and_a_function() -> None:
    factory: Any = None
    with pytest.raises(ArgumentError, match="'cpu'"):
        register_backend("cpu", lambda device: FakeBackend(Machine()))
    with pytest.raises(ArgumentError, match="function"):
        register_backend("thing", factory)


def test_a_tensor_without_a_value_is_refused(hub: MessageHub) -> None:
    with pytest.raises(NotAScalarError):
        hub.update_scalar("a", torch.ones(2, device="meta"))


# --- interrupts and signals


class Hand:
    """Publishes one update for each way, and tells what it is."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def one(self, hub: MessageHub, number: int) -> None:
        hub.update_scalar("a", self.machine.tensor(float(number)))

    def new(self, hub: MessageHub, number: int) -> None:
        hub.update_scalar(f"new/{number}", self.machine.tensor(float(number)))

    def several(self, hub: MessageHub, number: int) -> None:
        hub.update_scalars({"a": self.machine.tensor(float(number)), "b": number, f"new/{number}": 1.0})

    def number(self, hub: MessageHub, number: int) -> None:
        hub.update_scalar("a", float(number))
        hub.update_info("info", number)


LET_GO = r"\s*(with |try:|finally:|self\._?busy = False)"  # at the edges of a block no signal comes
OUTSIDE = {Recording._let_go.__code__}
CODE = codes_of(Recording, EventBus, Holding, Intake, RowCourier) - OUTSIDE


@pytest.mark.parametrize("way", ["one", "new", "several", "number"])
def test_an_interrupt_in_any_line_of_a_publish_leaves_all_of_it_or_nothing(
    hub: MessageHub, machine: Machine, way: str
) -> None:
    hand = Hand(machine)
    hub.update_scalars({"a": 0.0, "b": 0.0})
    hub.update_info("info", 0)
    events = hub.subscribe(max_lag=1 << 20)
    at = 0
    came = True
    while came:
        at += 1
        hub.update_scalar("a", machine.tensor(-1.0))  # so that something is held
        before = hub.statistics().seq
        came = interrupted(functools.partial(getattr(hand, way), hub, at), at, CODE, LET_GO)
        assert not hub._bus.busy
        assert hub.statistics().seq - before in {"number": (0, 1, 2), "several": (0, 3)}.get(way, (0, 1))
        machine.advance()
    machine.run()
    hub.flush(10)
    got: list[Any] = []
    while batch := read(events):
        got += batch
    assert [event.seq for event in got] == list(range(4, hub.statistics().seq + 1))
    values = [event.value for event in got if event.key == "a"]
    assert hub.get_scalar("a").data[0].tolist() == [0.0, *values]
    assert at > 10


@pytest.mark.parametrize("way", ["flush", "read", "collect"])
def test_an_interrupt_in_any_line_of_handing_on_loses_and_repeats_nothing(machine: Machine, way: str) -> None:
    at = 0
    came = True
    while came:
        at += 1
        hub = MessageHub("hub")
        events = hub.subscribe(max_lag=1 << 20)
        hub._bus.let_out = lambda: None  # type: ignore[method-assign]  # or the landing thread is faster
        for number in range(3):
            hub.update_scalar("a", machine.tensor(float(number)))
            hub.update_scalar("b", float(number))
            hub.update_info("info", number)
        machine.advance()
        courier = courier_for(machine.device)
        while courier.statistics().landed < courier.statistics().taken:
            pass

        def look() -> None:
            if way == "flush":
                hub.flush()  # noqa: B023
            elif way == "read":
                hub.get_scalar("a").current()  # noqa: B023
            else:
                hub._bus.attend()  # noqa: B023
                hub._bus.collect()  # noqa: B023

        came = interrupted(look, at, CODE, LET_GO)
        hub.flush()
        assert [event.seq for event in read(events)] == list(range(1, 10))
        assert hub.get_scalar("a").data[0].tolist() == hub.get_scalar("b").data[0].tolist() == [0.0, 1.0, 2.0]
        hub.close()
    assert at > 20


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_may_publish_tensors_amid_anything(hub: MessageHub, machine: Machine) -> None:
    machine.run()
    rng = random.Random(0)
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        if machine.at_work:
            return
        count += 1
        hub.update_scalar("handler", machine.tensor(float(count)))
        if not count % 3:
            hub.get_scalar("handler").mean()  # waits, unless it broke into what it would wait for

    hub.update_scalar("handler", machine.tensor(0.0))
    hub.flush(10)  # a mean of nothing would warn
    before = signal.signal(signal.SIGALRM, handle)
    try:
        number = 0
        while count < 200:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4))
            hub.update_scalar("a", machine.tensor(float(number)))
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    hub.flush(10)
    assert hub.get_scalar("a").data[0].tolist() == list(map(float, range(number)))
    handled = hub.get_scalar("handler").data[0].tolist()  # one handler may break into another
    assert sorted(handled) == list(map(float, range(count + 1)))
