"""``python -m asynchub``."""

from __future__ import annotations

import sys

from asynchub.cli import main

__all__ = ()

if __name__ == "__main__":
    sys.exit(main())
