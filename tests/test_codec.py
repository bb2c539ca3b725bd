"""What is stored comes back with its type and its bits, or is refused with its path."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import datetime, tzinfo
from enum import IntEnum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asynchub.codec import Code, Limits, UnknownValue, dumps, loads
from asynchub.errors import ArgumentError, UnknownTypeError, UnsupportedTypeError, UnsupportedTypesError
from tests.codec_trees import ZOO, difference


@pytest.mark.parametrize("name", ZOO)
def test_a_value_comes_back_with_its_type_and_its_bits(name: str) -> None:
    data = dumps(ZOO[name])
    back = loads(data)
    assert difference(ZOO[name], back) == ""
    assert dumps(back) == data


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 100


@pytest.mark.parametrize("container", [list, tuple, deque], ids=lambda kind: kind.__name__)
def test_all_values_come_back_from_one_container(container: type) -> None:
    tree = {"all": container(ZOO.values()), "named": ZOO}
    assert difference(tree, loads(dumps(tree))) == ""


def test_the_comparison_sees_types_order_and_bits() -> None:
    pairs: list[tuple[Any, Any]] = [
        (0.0, -0.0),
        (1, True),
        (1, 1.0),
        ((1,), [1]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (np.float64(1), 1.0),
        (np.arange(3, dtype=">i4"), np.arange(3, dtype="<i4")),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (deque([1], 3), deque([1])),
        ({1}, {True}),
        (datetime(2024, 1, 1, fold=1), datetime(2024, 1, 1)),
    ]
    for one, other in pairs:
        assert difference(one, other) != ""


hashable_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.times(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
scalars = hashable_scalars | st.decimals()
dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(endianness="?", sizes=(64, 128))
    | hnp.unicode_string_dtypes(endianness="?", max_len=5)
    | hnp.byte_string_dtypes(max_len=5)
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
)
hashable = st.recursive(
    hashable_scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4).map(OrderedDict)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, len(items) + 1))
        | st.sets(hashable, max_size=4)
    )


trees = st.recursive(scalars | arrays, _containers, max_leaves=12)


def _check_round_trip(tree: Any) -> None:
    data = dumps(tree)
    back = loads(data)
    assert difference(tree, back) == ""
    assert dumps(back) == data


@settings(max_examples=500)
@given(trees)
def test_a_random_tree_comes_back_and_gives_the_same_bytes_again(tree: Any) -> None:
    _check_round_trip(tree)


@pytest.mark.lengthy
@pytest.mark.slow
@settings(max_examples=10_000)
@given(trees)
def test_ten_thousand_random_trees_do(tree: Any) -> None:
    _check_round_trip(tree)


@settings(max_examples=300)
@given(st.sets(hashable, max_size=6), st.randoms())
def test_the_bytes_of_a_set_do_not_depend_on_its_order(members: set[Any], random: Any) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)
    assert dumps(set(shuffled)) == dumps(members)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_what_is_read_may_be_written_to_and_is_a_copy(kind: str) -> None:
    value = np.arange(3.0) if kind == "array" else torch.arange(3.0)
    data = dumps(value)
    first, second = loads(data), loads(data)
    first[0] = 7
    assert second[0] == 0


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_can_be_read(wrap: Any) -> None:
    assert loads(wrap(dumps([1, "a"]))) == [1, "a"]


def test_a_tensor_of_a_graph_comes_back_as_a_leaf() -> None:
    tensor = torch.ones(2, requires_grad=True) * 3
    back = loads(dumps(tensor))
    assert back.requires_grad
    assert back.is_leaf
    assert back.tolist() == [3.0, 3.0]


def test_what_is_found_twice_is_stored_twice() -> None:
    inner = [1]
    one, other = loads(dumps([inner, inner]))
    assert one == other == [1]
    assert one is not other


def test_a_path_of_the_other_system_comes_back_as_a_pure_path() -> None:
    flavour, pure = ("windows", PureWindowsPath) if os.name == "posix" else ("posix", PurePosixPath)
    back = loads(_ext(Code.PATH, msgpack.packb([flavour, "a/b"])))
    assert type(back) is pure
    assert back == pure("a/b")


class Colour(IntEnum):
    """An int that is more than an int."""

    RED = 1


class Pair(NamedTuple):
    """A tuple that is more than a tuple."""

    a: int
    b: int


class Array(np.ndarray[Any, Any]):
    """An array that is more than an array."""


class Unknown(tzinfo):
    """A time zone of somebody's own."""

    def utcoffset(self, when: Any) -> None:
        return None

    def dst(self, when: Any) -> None:
        return None

    def tzname(self, when: Any) -> str:
        return "somewhere"


STRUCTURED = np.zeros(2, [("a", "i4")])
REFUSED: dict[str, tuple[Any, str]] = {
    "object": (object(), "register it"),
    "function": (len, "store the name of the function"),
    "class": (dict, "store its name"),
    "generator": ((letter for letter in "a"), "make a list of it"),
    "enum": (Colour.RED, "register its class"),
    "namedtuple": (Pair(1, 2), "register its class"),
    "defaultdict": (defaultdict(list), "dict()"),
    "counter": (Counter("a"), "dict()"),
    "subclass of str": (type("Name", (str,), {})("a"), "a subclass of str"),
    "subclass of float": (type("Loss", (float,), {})(1), "a subclass of float"),
    "subclass of dict": (type("Config", (dict,), {})(), "a subclass of dict"),
    "subclass of list": (type("Rows", (list,), {})(), "a subclass of list"),
    "memoryview": (memoryview(b"a"), "bytes()"),
    "int of 100 KiB": (1 << 800_000, "store it as bytes"),
    "own time zone": (datetime(2024, 1, 1, tzinfo=Unknown()), "zoneinfo.ZoneInfo"),
    "array of objects": (np.array([None]), "astype"),
    "structured array": (STRUCTURED, "astype"),
    "structured scalar": (STRUCTURED[0], "convert it"),
    "extended array": (np.zeros(2, np.longdouble), "astype"),
    "extended scalar": (np.longdouble(1), "convert it with int() or float()"),
    "subclass of array": (np.zeros(2).view(Array), "numpy.array(value)"),
    "masked array": (np.ma.masked_array([1], [True]), "numpy.array(value)"),
    "huge broadcast array": (np.broadcast_to(np.int8(1), (2**32,)), "store it in parts"),
    "NumPy dtype": (np.dtype("f8"), ".str"),
    "parameter": (torch.nn.Parameter(torch.ones(1)), "detach()"),
    "module": (torch.nn.ReLU(), "register it"),
    "sparse tensor": (torch.eye(2).to_sparse(), "to_dense()"),
    "meta tensor": (torch.ones(2, device="meta"), "no values"),
    "huge expanded tensor": (torch.ones(1).expand(2**31), "store it in parts"),
    "generator of torch": (torch.Generator(), "register it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_with_its_path_and_advice(name: str) -> None:
    value, advice = REFUSED[name]
    with pytest.raises(UnsupportedTypesError) as caught:
        dumps({"info": {"cfg": [0, {"hook": value}]}})
    (error,) = caught.value.exceptions
    assert isinstance(error, UnsupportedTypeError)
    assert error.path == "$.info.cfg[1].hook"
    assert str(error).startswith(f"$.info.cfg[1].hook: cannot store {type(value).__module__}.")
    assert advice in str(error)


def test_all_that_cannot_be_stored_is_named_at_once() -> None:
    bad = object()
    tree = {"a b": [bad], "t": (1, {2: bad, bad: 3}), "s": {bad}, "q": deque([bad]), "sl": slice(bad)}
    with pytest.raises(UnsupportedTypesError, match=r"\$\['a b'\]\[0\]: .* and 5 more") as caught:
        dumps(tree)
    paths = [error.path for error in caught.value.exceptions if isinstance(error, UnsupportedTypeError)]
    assert paths[:2] == ["$['a b'][0]", "$.t[1][2]"]
    assert paths[2].startswith("$.t[1][<object object at")
    assert paths[2].endswith("]<key>")
    assert paths[3:] == ["$.s{}", "$.q[0]", "$.sl"]
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("kind", ["list", "dict", "deque", "tuple", "slice"])
def test_a_cycle_is_refused(kind: str) -> None:
    inner: Any = []
    cycle: Any = {"list": inner, "dict": {}, "deque": deque(), "tuple": (inner,), "slice": slice(inner)}[kind]
    if kind == "dict":
        cycle["a"] = cycle
    elif kind == "deque":
        cycle.append(cycle)
    else:
        inner.append(cycle)
    with pytest.raises(UnsupportedTypesError, match="contains itself"):
        dumps({"x": cycle})


@pytest.mark.parametrize("kind", [list, tuple, deque, lambda items: {"a": items[0]} if items else {}])
def test_sixty_four_levels_are_stored_and_read_and_one_more_is_not(kind: Any) -> None:
    tree = kind(())
    for _ in range(63):
        tree = kind((tree,))
    assert difference(tree, loads(dumps(tree))) == ""
    with pytest.raises(UnsupportedTypesError, match="deeper than 64"):
        dumps(kind((tree,)))


def test_a_leaf_below_sixty_four_levels_is_read() -> None:
    leaves = [(), *(value for value in ZOO.values() if not isinstance(value, list | tuple | dict | set | frozenset))]
    tree: Any = [value for value in leaves if type(value) in (int, float, datetime, np.ndarray, torch.Tensor)]
    for _ in range(63):
        tree = [tree]
    assert difference(tree, loads(dumps(tree))) == ""


def test_a_list_that_another_thread_appends_to_can_be_stored() -> None:
    live: list[Any] = [(1,)]
    done = threading.Event()

    def append() -> None:
        while not done.is_set():
            live.append((1,))
            del live[100:]

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for _ in range(200):
            assert set(loads(dumps(live))) == {(1,)}
    finally:
        done.set()
        thread.join()


def test_an_unknown_type_is_refused_by_code_and_path() -> None:
    data = dumps({"a": [1, UnknownValue(60, b"xyz")]})
    with pytest.raises(UnknownTypeError, match=r"\$\.a\[1\]: extension code 60"):
        loads(data)


def test_an_unknown_type_can_be_kept_and_stored_again() -> None:
    data = dumps({"a": [1, UnknownValue(60, b"xyz"), {UnknownValue(127, b"")}]})
    kept = loads(data, on_unknown="keep")
    assert kept["a"][1] == UnknownValue(60, b"xyz")
    assert dumps(kept) == data


@pytest.mark.parametrize(("code", "data"), [(128, b""), (-1, b""), (True, b""), (60, bytearray())])
def test_an_impossible_unknown_value_is_refused(code: Any, data: Any) -> None:
    with pytest.raises(UnsupportedTypesError, match="from 0 to 127"):
        dumps(UnknownValue(code, data))


def test_arguments_are_checked() -> None:
    with pytest.raises(ArgumentError, match="loads takes bytes, got str"):
        loads("abc")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="on_unknown"):
        loads(b"\xc0", on_unknown="drop")  # type: ignore[arg-type]
    for limits in ({"depth": -1}, {"nodes": 1.5}, {"size": True}):
        with pytest.raises(ArgumentError, match="must be an int of at least 0"):
            Limits(**limits)


def _without(module: str, code: str) -> str:
    """Run code in an interpreter in which a module cannot be imported; return what it prints."""
    program = f"import sys; sys.modules[{module!r}] = None\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_without_torch_all_but_its_values_can_be_read_and_they_can_be_kept() -> None:
    data = dumps({"x": np.arange(3), "t": torch.ones(2), "d": torch.float32})
    code = f"""
from asynchub.codec import dumps, loads
data = {data!r}
try:
    loads(data)
except ValueError as error:
    print(error)
kept = loads(data, on_unknown="keep")
print(kept["x"].tolist(), dumps(kept) == data, "torch" in sys.modules and sys.modules["torch"])
"""
    first, second = _without("torch", code).splitlines()
    assert first == "$.t: a value of torch, which is not installed; install torch to read it"
    assert second == "[0, 1, 2] True None"


def test_ml_dtypes_comes_back_by_name() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"):
        dtype = getattr(ml_dtypes, name)
        for value in (np.arange(6).astype(dtype).reshape(2, 3), dtype(3)):
            back = loads(dumps(value))
            assert type(back) is type(value)
            assert back.dtype == value.dtype
            assert back.shape == value.shape
            assert back.tobytes() == value.tobytes()


def test_without_ml_dtypes_its_arrays_are_refused_by_name() -> None:
    data = _ext(Code.ML_DTYPES, b"\x93\xa8bfloat16\x91\x01\xc4\x02\x80\x3f")
    out = _without(
        "ml_dtypes", f"from asynchub.codec import loads\ntry:\n loads({data!r})\nexcept ValueError as e: print(e)"
    )
    assert out == "$: an array of dtype bfloat16 needs the package ml_dtypes, which is missing\n"


def _ext(code: int, payload: bytes) -> bytes:
    return bytes((0xC7, len(payload), code)) + payload
