"""What the server looks at: runs, and one of them; see ``asynchub.dashboard.gallery`` and ``.view``."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import KeyRow, Mark, RunRow, Screen

__all__ = ("OneRun", "Runs")


class OneRun(Protocol):
    """A run that is looked at; see ``asynchub.dashboard.view.RunView``."""

    pyramid: Pyramid

    def screen(self, now: float | None = None) -> Screen:
        """Return its first screen."""

    def row(self, now: float | None = None) -> RunRow:
        """Return its row in a list."""

    def marks(
        self, start: int | None = None, stop: int | None = None, key: str = "", most: int = 200
    ) -> tuple[Mark, ...]:
        """Return decisions."""

    def keys(self, pattern: str = "", start: int = 0, most: int = 200) -> tuple[int, list[KeyRow]]:
        """Return how many scalars match, and some of them."""


class Runs(Protocol):
    """All runs that are looked at; see ``asynchub.dashboard.gallery.Gallery``."""

    folders: tuple[Path, ...]

    @property
    def problem(self) -> str:
        """What is wrong with them, in words."""

    @property
    def colours_problem(self) -> str:
        """Why their colours cannot be kept, in words."""

    @property
    def unread(self) -> int:
        """Of how many nothing was read yet."""

    def update(self, seconds: float = float("inf")) -> bool:
        """Take what has come; return whether there is more."""

    def rows(self, filter: str = "", now: float | None = None) -> list[RunRow]:
        """Return the rows of a list."""

    def run(self, row_id: str) -> OneRun:
        """Return one of them."""

    def pyramid(self, row_id: str) -> Pyramid:
        """Return the curves of one."""

    def title(self, row_id: str) -> str:
        """Return what one is called."""

    def is_behind(self, row_id: str) -> bool:
        """Return whether there is more to take of one."""

    def close(self) -> None:
        """Let go of them."""
