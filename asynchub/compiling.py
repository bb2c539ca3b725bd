"""Keeping ``torch.compile`` out of this package.

A compiler that follows a call into a hub makes graphs of its bookkeeping, with guards on what changes at each call. So
it is told, as soon as it is loaded, to leave the files of this package alone: a call to a hub ends a graph, runs as it
is, and the next graph begins.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ("leave_out_of_graphs",)

logger = logging.getLogger("asynchub")
RULES = "torch._dynamo.trace_rules"
"""The module that knows what the compiler follows; torch loads it when something is compiled."""
_told: list[ModuleType] = []


def leave_out_of_graphs() -> None:
    """Have the compiler leave this package alone, if torch is loaded. Again is the same as once."""
    if "torch" not in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    rules = sys.modules.get(RULES)
    if rules is None:
        sys.meta_path.insert(0, _Finder())
    elif rules not in _told:
        _tell(rules)


def _tell(rules: Any) -> None:
    _told[:] = [rules]
    try:
        rules.add("asynchub")
    except Exception:  # another version of torch: it goes on without, and follows calls as far as it can
        logger.debug("torch.compile could not be told to leave asynchub alone", exc_info=True)


class _Finder(MetaPathFinder):
    """Sees the compiler's rules being loaded, and steps aside."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return, for the rules, what the other finders find, with a loader that tells them."""
        if name != RULES:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _tell(module)

            loader.exec_module = exec_module
        return spec
