"""The files of the page, as its build has left them; without them, a page that says how to get them.

The build is that of ``page/``, next to this module; a wheel has its outcome in ``dist/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ("DIST", "PageFile", "page_files")

DIST = Path(__file__).parent / "dist"
INDEX = "index.html"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
PLAIN = "text/plain; charset=utf-8"
NOT_BUILT = (
    "The page was not built: this asynchub was installed from its source, where no Node.js was found. Install a wheel "
    "of it, or build the page: cd asynchub/dashboard/web/page && npm ci --ignore-scripts && npm run build. The runs "
    "are served all the same: asynchub watch RUN shows one in the terminal, asynchub plot RUN draws it."
)


class PageFile(NamedTuple):
    """A file of the page.

    Attributes:
        content: it.
        kind: its type.
    """

    content: bytes
    kind: str


def page_files(folder: Path = DIST) -> tuple[dict[str, PageFile], str]:
    """Return the files of the page by their paths on the server, and what is wrong with them, or "".

    Args:
        folder: that they are in.
    """
    try:
        files = {
            f"/{path.name}": PageFile(path.read_bytes(), KINDS.get(path.suffix, PLAIN))
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name.isascii() and path.name.isprintable()
        }
    except OSError:
        files = {}
    if f"/{INDEX}" in files:
        return {**files, "/": files[f"/{INDEX}"]}, ""
    text = f"<!doctype html><html lang=en><meta charset=utf-8><title>asynchub</title><p>{NOT_BUILT}</p></html>\n"
    page = PageFile(text.encode(), KINDS[".html"])
    return {"/": page, f"/{INDEX}": page}, NOT_BUILT
