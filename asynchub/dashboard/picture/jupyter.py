"""Showing something in the notebook that the program runs in, with IPython."""

from __future__ import annotations

import os
from collections.abc import Mapping

try:
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.getipython import get_ipython
    from IPython.core.interactiveshell import InteractiveShell
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install ipython", name=error.name) from error

__all__ = ("Display", "cell", "display_bundle", "in_notebook")


def _shell() -> InteractiveShell | None:
    shell = get_ipython()
    return shell if isinstance(shell, InteractiveShell) else None


def in_notebook() -> bool:
    """Tell whether there is somebody who shows HTML: a kernel, and not a terminal, which would print text."""
    shell = _shell()
    return shell is not None and type(shell.display_pub) is not DisplayPublisher


def cell() -> object:
    """Return what tells the cell that runs now from others; None outside IPython."""
    shell = _shell()
    return None if shell is None else shell.execution_count


def display_bundle(bundle: Mapping[str, str]) -> None:
    """Show something in the cell that runs now."""
    Display(bundle)


class Display:
    """Something that is shown, and can be shown anew in its place. Any thread may do so.

    Args:
        bundle: by the type of content, what is shown.
    """

    def __init__(self, bundle: Mapping[str, str]) -> None:
        self._publisher = None if (shell := _shell()) is None else shell.display_pub
        self._id = os.urandom(16).hex()
        self._publish(bundle, update=False)

    def update(self, bundle: Mapping[str, str]) -> None:
        """Show something else in its place."""
        self._publish(bundle, update=True)

    def _publish(self, bundle: Mapping[str, str], *, update: bool) -> None:
        if self._publisher is not None:
            self._publisher.publish(dict(bundle), metadata={}, transient={"display_id": self._id}, update=update)
