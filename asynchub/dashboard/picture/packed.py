"""The curves of a page: one message ``AHC1``, made small enough to stand in it.

Bytes: of each eight bytes of the columns the first ones of all come first, then the second ones, and so on, since those
    of numbers that stand near each other are alike. Then all is deflated (zlib), and in base64.
Exact: the page draws the same numbers, bit for bit, as one that is served.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from asynchub.dashboard.web.wire import ALIGNED

__all__ = ("packed",)


def packed(message: bytes) -> str:
    """Return a message, as of ``asynchub.dashboard.web.wire``, as it stands in a page."""
    begin = _begin(message)
    columns = np.frombuffer(message, np.uint8, offset=begin).reshape(-1, ALIGNED)
    return base64.b64encode(zlib.compress(message[:begin] + columns.T.tobytes(), 9)).decode("ascii")


def _begin(message: bytes) -> int:
    """Return where the columns begin, a multiple of ``ALIGNED``."""
    (length,) = struct.unpack_from("<I", message, 4)
    return ALIGNED + int(length)
