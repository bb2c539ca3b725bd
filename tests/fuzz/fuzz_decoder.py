"""Everything that reads bytes from outside, fed by a fuzzer that looks for new paths through the code.

    python -m tests.fuzz.fuzz_decoder FOLDER [-max_total_time=60] [-rss_limit_mb=1024] [other options of libFuzzer]

The folder is that of the inputs, which grows by what opens a new path; one that is empty is filled with seeds first. An
input is a byte that chooses who reads it, and what is read; lengths and checksums are made right before. Ends with an
error, and the input in a file, at an exception that is not a ``StateError``, or at more memory than allowed.
"""

from __future__ import annotations

import logging
import os
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris
import msgpack
import numpy as np
import torch  # before anything is measured

with atheris.instrument_imports(include=["asynchub"]):
    from asynchub.batches import decode_batch, encode_batch, events_of
    from asynchub.bridges.frames import decode_frame, encode_frame
    from asynchub.codec import Limits, UnknownValue, dumps, loads
    from asynchub.columns import decode_column, encode_column
    from asynchub.errors import StateError
    from asynchub.hub import MessageHub
    from asynchub.snapshot import TAIL_SIZE, read_snapshot, write_snapshot
    from asynchub.statefile import HEADER_SIZE, read_state, write_state

from tests.bridges.made_frames import Rank
from tests.codec_trees import PORTABLE
from tests.fuzz.mutations import changed
from tests.snapshot_files import repaired, repaired_state

GOLDEN = Path(__file__).parent.parent / "golden"
MOST = 10_000_000
LIMITS = Limits(size=MOST, elements=MOST)
"""Less than the defaults, so that what is allowed fits into the memory that is."""
FRAME = b"AHF\1"
"""What a frame begins with, before its checksum."""
FILE = Path(f"/proc/self/fd/{os.memfd_create('input')}")
"""In memory, and gone with the process, however that ends."""


def snapshot(data: bytes) -> None:
    FILE.write_bytes(repaired(data))
    read_snapshot(FILE, limits=LIMITS, on_unknown="keep" if len(data) % 2 else "raise")


def hub(data: bytes) -> None:
    FILE.write_bytes(repaired(data))
    MessageHub("fuzzed").load(FILE, limits=LIMITS)


def state(data: bytes) -> None:
    FILE.write_bytes(repaired_state(data))
    read_state(FILE, limits=LIMITS)


def column(data: bytes) -> None:
    try:
        parts = msgpack.unpackb(data, max_array_len=MOST, max_map_len=MOST)
    except (ValueError, TypeError):  # no msgpack
        return
    decode_column(parts, max_length=MOST, writable=len(data) % 2 == 0, progressions=True)


def frame(data: bytes) -> None:
    list(events_of(decode_frame(FRAME + zlib.crc32(data).to_bytes(4, "little") + data).batch, limits=LIMITS))


READERS: tuple[Callable[[bytes], object], ...] = (
    lambda data: loads(data, limits=LIMITS),
    lambda data: loads(data, limits=LIMITS, on_unknown="keep"),
    snapshot,
    hub,
    state,
    column,
    frame,
    lambda data: list(events_of(decode_batch(data), limits=LIMITS)),
)


def one_input(data: bytes) -> None:
    if data:
        with suppress(StateError):
            READERS[data[0] % len(READERS)](data[1:])


def mutant(data: bytes, most: int, seed: int) -> bytes:
    """Return an input a little different from another: of other bytes, or of other values."""
    generator = random.Random(seed)
    if data and generator.random() < 0.5:
        reader = READERS[data[0] % len(READERS)]
        begin, end = 1, len(data)
        if reader is state:
            begin += HEADER_SIZE
        elif reader in (snapshot, hub) and end > TAIL_SIZE:
            end -= TAIL_SIZE
            begin += struct.unpack_from("<Q", data, end)[0]
        with suppress(ValueError, TypeError, RecursionError):
            new = data[:begin] + changed(data[begin:end], generator) + data[end:]
            if len(new) <= most:
                return new
    return bytes(atheris.Mutate(data, most))


# --- where it begins


def written(write: Callable[..., None], *arguments: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        write(path, *arguments, sync=False)
        return path.read_bytes()


def seeds() -> Iterator[tuple[int, bytes]]:
    """Yield readers and what they can read."""
    values = [value for name, value in PORTABLE.items() if name != "int of 3000 digits"]
    for value in (*values, values[::5], UnknownValue(60, b"a")):
        yield 0, dumps(value)
    for value in values[::9]:
        yield 1, dumps([value])
        yield 4, written(write_state, value)
        yield 2, written(write_snapshot, lambda put, value=value: [value])
    array = np.arange(5000)
    tree = {"a": array.astype("u1"), "b": (torch.arange(1100.0), PORTABLE["tensor bfloat16"])}
    yield 2, written(write_snapshot, lambda put: tree)
    columns = [
        np.ones(5, "i8"),
        np.array([0.5, -0.0]),
        np.array([0.1, 1e300]),
        array % 100,
        array * 7,
        np.array([2**70, -1, True, 0.5], object),
        np.array([True, False]),
        array[:100].astype(">f4"),
    ]
    yield 2, written(write_snapshot, lambda put: [put(one) for one in columns])
    for one in columns:
        yield 5, msgpack.packb(encode_column(one, progressions=True))
    rank = Rank()
    for made in (rank.base(), rank.scalars(40, "a", "b"), rank.infos(2, 5), rank.frame()):
        yield 6, encode_frame(made)[len(FRAME) + 4 :]
        yield 7, encode_batch(made.batch)
    for path in sorted(GOLDEN.glob("*.ah[cs]")):  # the journal's tests change its files by themselves
        for reader in (2, 3) if path.suffix == ".ahs" else (4,):
            yield reader, path.read_bytes()


def main(folder: Path, options: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        for number, (reader, data) in enumerate(seeds()):
            (folder / f"seed-{number}").write_bytes(bytes((reader,)) + data)
    logging.disable()  # of what a hub leaves out
    atheris.Setup([sys.argv[0], str(folder), *options], one_input, custom_mutator=mutant)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
