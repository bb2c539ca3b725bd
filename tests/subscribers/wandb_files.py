"""What an offline run of W&B holds: its ``.wandb`` file, frame by frame.

    file   = header (7 bytes: ":W&B", uint16 magic 0xBEE1, uint8 version 0) + block*
    block  = 32768 bytes of frames, the first with the header; a rest below 7 bytes is padding
    frame  = CRC-32 of kind and data (uint32) + length of data (uint16) + kind (uint8) + data      little-endian
    kind   = 1 a whole record, or 2 its first, 3 a middle, 4 its last part
    record = a serialized ``wandb_internal_pb2.Record``

Source:
    LevelDB, doc/log_format.md, with another checksum: CRC-32, not masked CRC-32C.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
_FRAME = struct.Struct("<IHB")


def records(path: Path) -> Iterator[Any]:
    """Yield the whole records of a file; what a crash has torn at its end is left out."""
    data = path.read_bytes()
    if len(data) < _FRAME.size:
        return
    assert struct.unpack_from("<4sHB", data) == (b":W&B", 0xBEE1, 0), data[:7]
    position, parts = _FRAME.size, b""
    while position + _FRAME.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < _FRAME.size:
            position += left
            continue
        crc, length, kind = _FRAME.unpack_from(data, position)
        position += _FRAME.size
        part = data[position : position + length]
        if len(part) < length or not WHOLE <= kind <= LAST:
            return
        assert zlib.crc32(part, zlib.crc32(bytes((kind,)))) == crc, f"the frame before byte {position} is damaged"
        position += length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST):
            yield wandb_internal_pb2.Record.FromString(parts)


def files_in(folder: Path) -> list[Path]:
    """Return the files of the runs below ``folder``, oldest first."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name)


class OfflineRun:
    """One file, taken apart.

    Attributes:
        path: of it.
        id: of the run.
        rows: of the history, in order: values by key.
        metrics: what each key was defined as: the ``MetricRecord``.
        summary: the newest values.
        config: the newest values.
        alerts: title and text of each.
        exit_code: what it was ended with; None if it was not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ""
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.alerts: list[tuple[str, str]] = []
        self.exit_code: int | None = None
        for record in records(path):
            self._take(record)

    def _take(self, record: Any) -> None:
        match record.WhichOneof("record_type"):
            case "run":
                self.id = record.run.run_id
            case "history":
                self.rows.append(dict(_items(record.history.item)))
            case "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "summary":
                self.summary.update(_items(record.summary.update))
            case "config":
                self.config.update(_items(record.config.update))
            case "alert":
                self.alerts.append((record.alert.title, record.alert.text))
            case "exit":
                self.exit_code = record.exit.exit_code

    def points(self, key: str, step: str = "trainer/global_step") -> list[tuple[Any, Any, Any]]:
        """Return step, time and value of each row that has ``key``."""
        return [(row.get(step), row["_timestamp"], row[key]) for row in self.rows if key in row]


def counting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of ``rows`` that were neither abandoned by a resumed run nor logged again."""
    lives: dict[int, list[dict[str, Any]]] = {0: []}
    life = 0
    for row in rows:
        if "hub/rewound_to" in row:
            life, before = row["hub/life"], lives[row["hub/rewound_life"]]
            lives[life] = [one for one in before if one["hub/seq"] <= row["hub/rewound_to"]]
        else:
            lives[life].append(row)
    return lives[life]


def _items(items: Any) -> Iterator[tuple[str, Any]]:
    for item in items:
        yield "/".join(item.nested_key) or item.key, json.loads(item.value_json)
