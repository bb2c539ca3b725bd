"""The subjects that a run uses on a broker.

    ``ah.<run>.ev.<rank>.<epoch>``     frames of events of one process of a rank, stored
    ``ah.<run>.snap.<rank>.<part>``    the newest value of each of its keys, stored
    ``ah.<run>.hb.<rank>``             a sign of life, told every few seconds
    ``ah.<run>.ctl.<command>[.<name>]``  requests, asked

Words: a run's name or a key may be any text. What a broker would take for its own (dots, ``*``, ``>``, ``%``, blanks,
    control characters), and what is not ASCII, is written as ``%`` and two hexadecimal digits for each byte of UTF-8;
    the empty text is ``%``. A key's ``/`` is a dot, so that a broker's permissions can go by its levels.
"""

from __future__ import annotations

import re

from asynchub.errors import ArgumentError

__all__ = ("Subjects", "decode_key", "decode_word", "encode_key", "encode_word", "matches")

ROOT = "ah"
EMPTY = "%"
MAX_BYTES = 255
"""Bytes that the name of a run's log may take."""
_ILLEGAL = re.compile(r"[\x00-\x20\x7f.*>%]|[^\x00-\x7f]")
_ESCAPE = re.compile(r"((?:%[0-9A-F]{2})+)")


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def encode_word(text: str) -> str:
    """Return any text as one word of a subject."""
    return _ILLEGAL.sub(_escaped, text) or EMPTY


def decode_word(word: str) -> str:
    """Return the text that ``encode_word`` made a word of.

    Raises:
        ArgumentError: it is none.
    """
    if word == EMPTY:
        return ""
    parts = _ESCAPE.split(word)
    try:
        parts[1::2] = [bytes.fromhex(one.replace("%", "")).decode("utf-8", "surrogatepass") for one in parts[1::2]]
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{word!r:.80} is not an encoded word: {error}") from error
    text = "".join(parts)
    if encode_word(text) != word:
        raise ArgumentError(f"{word!r:.80} is not an encoded word; {encode_word(text)!r:.80} would be")
    return text


def encode_key(key: str) -> str:
    """Return a key as words of a subject, one for each of its levels."""
    return ".".join(encode_word(level) for level in key.split("/"))


def decode_key(words: str) -> str:
    """Return the key that ``encode_key`` made words of.

    Raises:
        ArgumentError: they are none.
    """
    return "/".join(decode_word(word) for word in words.split("."))


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject matches a pattern with ``*`` for one word and a last ``>`` for one or more."""
    wanted, words = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(wanted) == len(words) and all(one in ("*", word) for one, word in zip(wanted, words, strict=True))


class Subjects:
    """The subjects of one run.

    Args:
        run: its name, any text that is not empty.

    Raises:
        ArgumentError: it is not a text, empty, or too long.

    Attributes:
        run: the name.
        log: name of the broker's log for it.
        stored: patterns of the subjects that are stored in the log.
    """

    def __init__(self, run: str) -> None:
        if not isinstance(run, str) or not run:
            raise ArgumentError(f"run must be the name of a run, got {run!r:.80}")
        word = encode_word(run)
        log = "AH_" + word.replace("/", "%2F").replace("\\", "%5C")
        if len(log) > MAX_BYTES:
            most = MAX_BYTES - len("AH_")
            raise ArgumentError(
                f"the name of a run takes at most {most} bytes, encoded, got {len(log) - 3}: {run!r:.80}"
            )
        self.run = run
        self.log = log
        self._base = f"{ROOT}.{word}"
        self.stored = (f"{self._base}.ev.>", f"{self._base}.snap.>")

    def events(self, rank: int | str = "*", epoch: int | str = "*") -> str:
        """Return the subject of the frames of a rank and epoch, or the pattern of all."""
        return f"{self._base}.ev.{rank}.{epoch}"

    def snapshot(self, rank: int | str = "*", part: int | str = "*") -> str:
        """Return the subject of a part of a rank's newest values, or the pattern of all."""
        return f"{self._base}.snap.{rank}.{part}"

    def heartbeat(self, rank: int | str = "*") -> str:
        """Return the subject of a rank's signs of life, or the pattern of all."""
        return f"{self._base}.hb.{rank}"

    def command(self, command: str = ">", name: str | None = None) -> str:
        """Return the subject of a command, such as ``stop``, or ``set`` with the name of a parameter; or of all."""
        return f"{self._base}.ctl.{command}" + ("" if name is None else f".{encode_key(name)}")
