"""A browser for the tests of a module: it takes a second to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard.page.browsers import CHROMIUM, need_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
