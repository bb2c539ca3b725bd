"""Parameters of an optimizer's groups, changed in place."""

from __future__ import annotations

from typing import Any

__all__ = ("set_parameter",)


def set_parameter(group: dict[str, Any], name: str, value: float) -> None:
    """Set a parameter of a group; one that is a tensor is filled, as a captured graph may hold on to it."""
    parameter = group[name]
    if hasattr(parameter, "fill_"):
        parameter.fill_(value)
    else:
        group[name] = value
