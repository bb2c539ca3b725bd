"""What is waited for, in words, while there is no run to show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ("Waiting",)


class Waiting:
    """Says what is waited for.

    Args:
        folders: that runs are looked for in.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._words = ""
        self._before: str | None = None

    def words(self, problem: str) -> str:
        """Return what is waited for; "" if it is nothing.

        Args:
            problem: what is wrong with the folders, as the list of runs has it, which is looked through now and then.
        """
        missing = [os.fspath(folder) for folder in self._folders if not folder.exists()]
        if missing:
            self._words = f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there yet"
            self._before = problem
        elif problem != self._before:  # it was looked through since
            self._words, self._before = problem, None
        return self._words
