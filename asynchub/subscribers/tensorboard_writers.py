"""Event files, as TensorBoard reads them, written record by record.

    file    = record*
    record  = length (uint64) + CRC of length (uint32) + data + CRC of data (uint32)       little-endian
    data    = a serialized ``Event`` message; the first of a file has ``file_version`` "brain.Event:2"
    CRC     = CRC-32C, masked: rotated right by 15 bits, plus 0xa282ead8

The messages are those of the package ``tensorboard`` or ``tensorboardX``. Their own writers hand records to a thread
that prints an error and dies (tensorboard), or dies and blocks its callers (tensorboardX); here a record that could not
be written raises where it was to be.

Order: readers take the files of a folder by name, and never go back. A new file is named after all that are there.
Threads: one at a time.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from asynchub.subscribers.rows import sound

__all__ = ("Backend", "EventFile", "files_of", "find_backend", "is_remote", "records_in")

_NAME = re.compile(r"events\.out\.tfevents\.(\d{10,})\..*")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_STEPS = (-(2**63), 2**63 - 1)
_DOUBLE, _STRING = 2, 7  # of ``DataType``


class Backend(NamedTuple):
    """What a package has for event files.

    Attributes:
        name: ``"tensorboard"`` or ``"tensorboardX"``.
        event: its class of ``Event`` messages.
        start: its ``SessionLog.START``.
        crc: returns the masked CRC-32C of bytes.
    """

    name: str
    event: Any
    start: int
    crc: Callable[[bytes], int]

    def header(self) -> bytes:
        """Return the record that begins a file."""
        record: bytes = self.event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()
        return record

    def restart(self, step: int) -> bytes:
        """Return a record that has readers forget what they have of ``step`` and beyond."""
        event = self.event(wall_time=time.time(), step=_within(step))
        event.session_log.status = self.start
        record: bytes = event.SerializeToString()
        return record

    def scalar(self, tag: str, value: float, step: int, when: float, double: bool) -> bytes:
        """Return the record of one value: a ``simple_value`` of 32 bits, or a tensor of 64."""
        event = self.event(wall_time=when, step=_within(step))
        if not double:
            event.summary.value.add(tag=sound(tag), simple_value=value)
        else:
            one = event.summary.value.add(tag=sound(tag))
            one.metadata.plugin_data.plugin_name = "scalars"
            one.tensor.dtype = _DOUBLE
            one.tensor.double_val.append(value)
        record: bytes = event.SerializeToString()
        return record

    def text(self, tag: str, text: str, step: int, when: float) -> bytes:
        """Return the record of a text, which TensorBoard shows as Markdown."""
        event = self.event(wall_time=when, step=_within(step))
        one = event.summary.value.add(tag=sound(tag))
        one.metadata.plugin_data.plugin_name = "text"
        one.tensor.dtype = _STRING
        one.tensor.tensor_shape.dim.add(size=1)
        one.tensor.string_val.append(sound(text).encode())
        record: bytes = event.SerializeToString()
        return record

    def is_restart(self, event: Any) -> bool:
        """Tell whether an event has readers forget what they have from its step on."""
        return bool(event.HasField("session_log") and event.session_log.status == self.start)


def find_backend(name: str) -> Backend:
    """Return what ``"tensorboard"``, ``"tensorboardX"`` or, for ``"auto"``, the first of them that is installed, has.

    Raises:
        ModuleNotFoundError: it is not installed; the text says how to.
    """
    crcs = {"tensorboard": "compat.tensorflow_stub.pywrap_tensorflow", "tensorboardX": "record_writer"}
    protos = {"tensorboard": "compat.proto.event_pb2", "tensorboardX": "proto.event_pb2"}
    wanted = list(protos) if name == "auto" else [name]
    for package in wanted:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            continue
        messages = importlib.import_module(f"{package}.{protos[package]}")
        crc = importlib.import_module(f"{package}.{crcs[package]}").masked_crc32c
        return Backend(package, messages.Event, messages.SessionLog.START, crc)
    ways = " or ".join(f"pip install 'asynchub[{package.lower()}]'" for package in wanted)
    raise ModuleNotFoundError(
        f"No module named {' or '.join(map(repr, wanted))}; install it with: {ways}", name=wanted[0]
    )


def is_remote(folder: str) -> bool:
    """Tell whether a folder is a URL such as ``s3://bucket/run``, which the package opens by its own means."""
    return "://" in folder


class EventFile:
    """An event file that is being written.

    Attributes:
        name: of the file, in its folder.
        size: bytes that were handed to it.

    Args:
        backend: whose messages.
        folder: where; made if it is not there.
        run: end of the name; what belongs to one run, and is taken back together, has it in common.
        after: name of a file that it is to be read after, besides those that are there.

    Raises:
        OSError: it could not be made.
    """

    def __init__(self, backend: Backend, folder: str, run: str, after: str = "") -> None:
        self._backend = backend
        self._path = ""
        others = [after]
        if not is_remote(folder):
            os.makedirs(folder, exist_ok=True)
            others += os.listdir(folder)
        stamp = max([int(time.time()), *(int(match[1]) + 1 for match in map(_NAME.fullmatch, others) if match)])
        self.name = f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}.{run}"
        self.size = 0
        if is_remote(folder):
            self._file = _open_remote(backend, folder, self.name)
        else:
            self._path = os.path.join(folder, self.name)
            self._file = open(self._path, "xb")  # noqa: SIM115  # closed by close()
        self.add(backend.header())

    def add(self, data: bytes) -> None:
        """Append the record of ``data``."""
        crc, length = self._backend.crc, _LENGTH.pack(len(data))
        self._file.write(b"".join((length, _CRC.pack(crc(length)), data, _CRC.pack(crc(data)))))
        self.size += _LENGTH.size + 2 * _CRC.size + len(data)

    def flush(self) -> None:
        """Hand what was appended to the operating system.

        Raises:
            OSError: that failed, or the file is no longer where it was.
        """
        self._file.flush()
        if self._path and os.stat(self._path).st_size < self.size:
            raise OSError(f"{self._path} has lost a part of what was written to it")

    def close(self) -> None:
        """Hand over the rest, and end.

        Raises:
            OSError: that failed.
        """
        self._file.close()

    def abandon(self) -> None:
        """End, whether or not the rest can be handed over: it did not work, and is written again elsewhere."""
        with suppress(OSError):
            self._file.close()


def _open_remote(backend: Backend, folder: str, name: str) -> Any:
    if backend.name == "tensorboardX":
        writer = importlib.import_module("tensorboardX.record_writer")
        writer.directory_check(folder)
        return writer.open_file(f"{folder.rstrip('/')}/{name}")
    gfile = importlib.import_module("tensorboard.compat").tf.io.gfile
    gfile.makedirs(folder)
    return gfile.GFile(f"{folder.rstrip('/')}/{name}", "wb")


def _within(step: int) -> int:
    """Return the step next to ``step`` that a message can hold."""
    return min(max(int(step), _STEPS[0]), _STEPS[1])


# --- read again


def files_of(folder: Path, run: str) -> list[Path]:
    """Return the event files of ``run``, in the order in which they are read."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.name.endswith(f".{run}"))


def records_in(backend: Backend, path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield the data of the records of a file from ``start`` to ``stop``, up to one that is torn or damaged."""
    with path.open("rb") as file:
        file.seek(start)
        while (stop is None or file.tell() < stop) and (data := _record(backend, file)) is not None:
            yield data


def _record(backend: Backend, file: BinaryIO) -> bytes | None:
    head = file.read(_LENGTH.size + _CRC.size)
    if len(head) < _LENGTH.size + _CRC.size or _CRC.unpack_from(head, _LENGTH.size)[0] != backend.crc(head[:8]):
        return None
    (length,) = _LENGTH.unpack_from(head)
    data, crc = file.read(length), file.read(_CRC.size)
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != backend.crc(data):
        return None
    return data
