"""Trees of values to bytes and back: msgpack, with extension codes for what training state contains.

Exact: what ``loads`` returns has the types and the bits of what ``dumps`` was given. A value that cannot be given back
    so is refused, with its path; a subclass never turns into its base.
Reproducible: equal trees with equal order give equal bytes; a set is written in the order of its members' bytes.
Safe: loading executes nothing, imports nothing that the data names, allocates in proportion to the data, and raises
    only ``StateError``.
Not kept: identity (a value found twice is stored twice), memory layout (arrays become C-contiguous), devices (tensors
    come back on the CPU), the graph and ``.grad`` of a tensor.
Threads: every function may be called from any thread. A container that another thread changes meanwhile is taken as it
    is when it is reached.

The bytes are written down in ``docs/formats/state.md``.
"""

from __future__ import annotations

from asynchub.codec.codes import Code
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.codec.unknown import UnknownValue

__all__ = ("Code", "Limits", "Registry", "UnknownValue", "dumps", "loads")
