"""Payloads of NumPy's and torch's values.

A dtype is taken from the data only through the tables here. Data is written in C order; that of torch and ml_dtypes is
little-endian, that of NumPy has its byte order in its dtype. What is read has its own memory and may be written to.

In the list that a decoder takes, the data is bytes; or, of a blob, a function that returns as many bytes as it is told.

torch and ml_dtypes are imported only where data that holds their values is read.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asynchub.codec.codes import MAX_LEAF, Code
from asynchub.codec.packing import Bulk, pack
from asynchub.codec.refusals import Refused
from asynchub.codec.standard import Payload
from asynchub.errors import UnknownTypeError

__all__ = ("DECODERS", "ENCODERS", "elements", "encode_scalar", "torch_encoder")

_NUMERIC = re.compile(r"\|[bui]1|[<>]([ui][248]|f[248]|c8|c16)", re.ASCII)
_TEXT = re.compile(r"\|S([1-9]\d{0,9})|[<>]U([1-9]\d{0,8})", re.ASCII)
_TIMES = re.compile(r"[<>][mM]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?", re.ASCII)
_MAX_ITEM = 2**31 - 1
"""Bytes in one item of an array of text, by NumPy."""

_ML_DTYPES = frozenset({"bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4", "float8_e4m3"})
_ML_DTYPES |= {"float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
_ML_DTYPES |= {"float8_e8m0fnu", "int1", "int2", "int4", "uint1", "uint2", "uint4"}
_ML_DTYPES |= {"bcomplex32", "complex32"}
_TORCH_DTYPES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float4_e2m1fn_x2"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64"), 8),
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes of an element, by the name of the dtype."""
_DEVICE = re.compile(r"[a-z]{1,32}(:\d{1,4})?", re.ASCII)


def _dtype(name: Any) -> np.dtype[Any] | None:
    """Return the NumPy dtype of that name if it is one that is stored."""
    if not isinstance(name, str):
        return None
    if _NUMERIC.fullmatch(name) or _TIMES.fullmatch(name):
        return np.dtype(name)
    text = _TEXT.fullmatch(name)
    if text is None or (int(text[1]) if text[1] else 4 * int(text[2])) > _MAX_ITEM:
        return None
    return np.dtype(name)


def elements(shape: Any) -> int:
    """Return how many elements an array of that shape has.

    Raises:
        ValueError: it is no shape.
    """
    if type(shape) is not list or len(shape) > 64 or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"no shape: {shape!r:.80}")
    return math.prod(shape)


def _contiguous_bytes(array: NDArray[Any]) -> bytes | memoryview:
    """Return the data of an array in C order, without a copy where it lies so already."""
    if array.nbytes > MAX_LEAF:  # before a broadcast array is blown up
        raise Refused(f"an array of {array.nbytes} bytes is larger than the {MAX_LEAF} allowed; store it in parts")
    if array.nbytes == 0:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _little(data: bytes | memoryview, unit: int) -> bytes | memoryview:
    """Return data of items of ``unit`` bytes, in the byte order of this machine, as little-endian."""
    if sys.byteorder == "little" or unit == 1:
        return data
    return np.frombuffer(data, np.uint8).reshape(-1, unit)[:, ::-1].tobytes()


def _flat(data: Any, size: int, unit: int = 1) -> NDArray[np.uint8]:
    """Return ``size`` bytes of data, writable, in memory of their own.

    Args:
        data: what stands in the place of the data.
        size: how many bytes there must be.
        unit: bytes of the little-endian items whose byte order is to be that of this machine; 1 to leave it.
    """
    if callable(data):
        flat: NDArray[np.uint8] = data(size)
    elif type(data) is bytes and len(data) == size:
        flat = np.frombuffer(data, np.uint8).copy()
    else:
        raise ValueError(f"there must be {size} bytes of data")
    return flat if sys.byteorder == "little" or unit == 1 else flat.reshape(-1, unit)[:, ::-1].reshape(-1)


def _array(dtype: np.dtype[Any], shape: list[int], data: Any, unit: int = 1) -> NDArray[Any]:
    """Return an array of ``data``; see ``_flat``."""
    flat = _flat(data, elements(shape) * dtype.itemsize, unit)
    return flat.view(dtype).reshape(shape) if len(flat) else np.empty(shape, dtype)


def _unit(name: str, size: int) -> int:
    """Return the bytes of what has a byte order in an element of ``size`` bytes: a complex number is made of two."""
    return size // 2 if "complex" in name else size


def _is_ml(dtype: np.dtype[Any]) -> bool:
    return dtype.type.__module__ == "ml_dtypes" and dtype.name in _ML_DTYPES


def _ml_dtype(name: Any) -> np.dtype[Any]:
    if name not in _ML_DTYPES:
        raise UnknownTypeError(f"dtype {name!r:.80} of ml_dtypes is not known here")
    try:
        ml_dtypes: Any = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise UnknownTypeError(f"an array of dtype {name} needs the package ml_dtypes, which is missing") from error
    if not hasattr(ml_dtypes, name):
        raise UnknownTypeError(f"dtype {name} needs a newer ml_dtypes than {ml_dtypes.__version__}")
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def _encode_array(array: NDArray[Any]) -> Payload:
    dtype = array.dtype
    if _is_ml(dtype):
        data = _little(_contiguous_bytes(array), _unit(dtype.name, dtype.itemsize))
        return Code.ML_DTYPES, Bulk([dtype.name, list(array.shape)], data, [])
    if dtype.char in "gG" or _dtype(dtype.str) != dtype:
        raise Refused(f"an array of dtype {dtype} is not the same everywhere; convert it with .astype()")
    return Code.NDARRAY, Bulk([dtype.str, list(array.shape)], _contiguous_bytes(array), [])


def encode_scalar(scalar: np.generic) -> Payload:
    """Return the payload of a NumPy scalar, or of one of ml_dtypes."""
    kind = type(scalar)
    if isinstance(scalar, np.str_):
        return Code.NUMPY_SCALAR, pack(["U", scalar.encode("utf-8", "surrogatepass")])
    if isinstance(scalar, np.bytes_):
        return Code.NUMPY_SCALAR, pack(["S", scalar[:]])
    dtype = scalar.dtype
    if _is_ml(dtype):
        return Code.ML_DTYPES, pack(
            [dtype.name, None, bytes(_little(scalar.tobytes(), _unit(dtype.name, dtype.itemsize)))]
        )
    known = _dtype(dtype.str)
    if dtype.char in "gG" or known is None or known.type is not kind:
        raise Refused(
            f"a NumPy scalar of dtype {dtype.name} is not the same everywhere; convert it with int() or float()"
        )
    return Code.NUMPY_SCALAR, pack([dtype.str, scalar.tobytes()])


def _decode_array(parts: list[Any]) -> NDArray[Any]:
    name, shape, data = parts
    dtype = _dtype(name)
    if dtype is None:
        raise UnknownTypeError(f"dtype {name!r:.80} is not known here")
    return _array(dtype, shape, data)


def _decode_scalar(parts: list[Any]) -> Any:
    name, data = parts
    if type(data) is not bytes:
        raise ValueError("the data of a NumPy scalar must be bytes")
    if name == "U":
        return np.str_(data.decode("utf-8", "surrogatepass"))
    if name == "S":
        return np.bytes_(data)
    dtype = _dtype(name)
    if dtype is None or dtype.kind in "SU":
        raise UnknownTypeError(f"dtype {name!r:.80} of a NumPy scalar is not known here")
    return _array(dtype, [1], data)[0]


def _decode_ml(parts: list[Any]) -> Any:
    name, shape, data = parts
    dtype = _ml_dtype(name)
    unit = _unit(name, dtype.itemsize)
    return _array(dtype, [1], data, unit)[0] if shape is None else _array(dtype, shape, data, unit)


# --- torch


def _dtype_name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in _TORCH_DTYPES:
        raise Refused(f"torch's dtype {name} cannot be stored; convert it")
    return name


def _encode_tensor(tensor: Any) -> Payload:
    name = _dtype_name(tensor.dtype)
    layout = str(tensor.layout).removeprefix("torch.")
    if layout != "strided" or tensor.is_nested:
        raise Refused(f"a tensor of layout {layout} cannot be stored; convert it with .to_dense() or store its parts")
    if tensor.device.type == "meta":
        raise Refused("a tensor on the meta device has no values; store its shape and dtype")
    if any(dimension is not None for dimension in getattr(tensor, "names", ())):
        raise Refused("a tensor with named dimensions cannot be stored; drop the names with .rename(None)")
    size = tensor.numel() * _TORCH_DTYPES[name]
    if size > MAX_LEAF:
        raise Refused(f"a tensor of {size} bytes is larger than the {MAX_LEAF} allowed; store it in parts")
    data: bytes | memoryview = b""
    if size:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        flat = plain.as_strided((plain.numel(),), (1,))  # reshape(-1) would leave one element with its odd stride
        data = _little(flat.view(sys.modules["torch"].uint8).numpy().data, _unit(name, _TORCH_DTYPES[name]))
    about = [tensor.requires_grad, str(tensor.device)]
    return Code.TENSOR, Bulk([name, list(tensor.shape)], data, about)


def torch_encoder(kind: type) -> Callable[[Any], Payload] | None:
    """Return what encodes values of exactly that class, if it is one of torch's that are stored."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if kind is getattr(torch, "Tensor", None):
        return _encode_tensor
    if kind is getattr(torch, "Size", None):
        return lambda size: (Code.TORCH, pack(["size", list(size)]))
    if kind is getattr(torch, "dtype", None):
        return lambda dtype: (Code.TORCH, pack(["dtype", _dtype_name(dtype)]))
    if kind is getattr(torch, "device", None):
        return lambda device: (Code.TORCH, pack(["device", str(device)]))
    return None


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UnknownTypeError("a value of torch, which is not installed; install torch to read it") from error
    return torch


def _torch_dtype(name: Any) -> Any:
    torch = _torch()
    if name not in _TORCH_DTYPES or not hasattr(torch, name):
        raise UnknownTypeError(f"dtype {name!r:.80} is not known to torch {torch.__version__}")
    return getattr(torch, name)


def _decode_tensor(parts: list[Any]) -> Any:
    name, shape, data, requires_grad, device = parts
    dtype = _torch_dtype(name)
    if type(requires_grad) is not bool or type(device) is not str:
        raise ValueError("requires_grad must be a bool, the device a string")
    count, size = elements(shape), _TORCH_DTYPES[name]
    flat = _flat(data, count * size, _unit(name, size))
    if not count:  # a view of nothing as another dtype is refused by torch: there must be room for one element
        flat = np.zeros(size, np.uint8)
    tensor = _torch().from_numpy(flat).view(dtype)[:count].reshape(shape)
    return tensor.requires_grad_() if requires_grad else tensor


def _decode_torch(parts: list[Any]) -> Any:
    kind, value = parts
    if kind == "dtype":
        return _torch_dtype(value)
    if kind == "size":
        elements(value)
        return _torch().Size(value)
    if kind != "device" or type(value) is not str or not _DEVICE.fullmatch(value):
        raise ValueError(f"no value of torch: {kind!r:.80}")
    try:
        return _torch().device(value)
    except RuntimeError as error:
        raise UnknownTypeError(f"device {value!r} is not known to torch {_torch().__version__}") from error


ENCODERS: dict[type, Callable[[Any], Payload]] = {
    np.ndarray: _encode_array,
    **{np.dtype(char).type: encode_scalar for char in "?bBhHiIlLqQefdgFDGSUmMOV"},
}
"""By exact type; ``torch_encoder`` finds those of torch."""
del ENCODERS[np.object_]

DECODERS: dict[Code, Callable[[Any], Any]] = {
    Code.NDARRAY: _decode_array,
    Code.NUMPY_SCALAR: _decode_scalar,
    Code.TENSOR: _decode_tensor,
    Code.ML_DTYPES: _decode_ml,
    Code.TORCH: _decode_torch,
}
