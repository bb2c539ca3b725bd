"""Build the web page into wheels and source distributions; an editable installation does without it if it must.

The sources are in ``asynchub/dashboard/web/page``, the outcome is in ``asynchub/dashboard/web/dist``, with a digest of
    the sources: it is built anew only if they have changed.
With Node.js: the page is built with exactly the packages of ``package-lock.json``, none of whose scripts is run.
Without it: an outcome that fits the sources, as a source distribution has it, is taken; else a wheel or a source
    distribution is refused, and an editable installation goes on without the page.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = "asynchub/dashboard/web/page"
DIST = "asynchub/dashboard/web/dist"
SOURCES = ("build.mjs", "package.json", "package-lock.json", "tsconfig.json")
STAMP = ".sources"
FILES = ("app.css", "app.js", "index.html", "more.css", "more.js", "uPlot.LICENSE.txt")
OLDEST_NODE = 18
SECONDS = 600
NO_NODE = (
    "the web page of asynchub is not built, and to build it takes Node.js {oldest} or newer with npm, which {found}: "
    "install Node.js, or install asynchub from a wheel or a source distribution, which have the page"
)


class PageBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the page; hatchling calls it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Have the page there before the files of the distribution are listed."""
        root = Path(self.root)
        try:
            built(root)
        except PageError as error:
            if version != "editable":
                raise SystemExit(f"asynchub: {error}") from error
            self.app.display_warning(f"asynchub serve will have no page: {error}")
            return
        if version == "editable":
            return
        names = (*FILES, STAMP) if self.target_name == "sdist" else FILES
        for name in names:
            build_data["force_include"][str(root / DIST / name)] = f"{DIST}/{name}"


class PageError(Exception):
    """The page cannot be built, in words."""


def built(root: Path) -> bool:
    """Have the page there; return whether it had to be built.

    Raises:
        PageError: it cannot be built.
    """
    page, dist = root / PAGE, root / DIST
    digest = digest_of(page)
    if is_fresh(dist, digest):
        return False
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise PageError(NO_NODE.format(oldest=OLDEST_NODE, found="is not here"))
    version = _run([node, "--version"], page).strip()
    if not version.startswith("v") or int(version[1:].split(".")[0]) < OLDEST_NODE:
        raise PageError(NO_NODE.format(oldest=OLDEST_NODE, found=f"is {version[:40]} here"))
    _run([npm, "ci", "--ignore-scripts"], page)
    (dist / STAMP).unlink(missing_ok=True)
    _run([node, "build.mjs"], page)
    missing = [name for name in FILES if not (dist / name).is_file()]
    if missing:
        raise PageError(f"the build of the web page made no {missing[0]}")
    (dist / STAMP).write_text(f"{digest}\n", encoding="ascii")
    return True


def digest_of(page: Path) -> str:
    """Return a digest of all that the page is made of."""
    digest = hashlib.sha256()
    for path in [*(page / name for name in SOURCES), *sorted((page / "src").iterdir())]:
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def is_fresh(dist: Path, digest: str) -> bool:
    """Tell whether the page is there, made of these sources."""
    stamp = dist / STAMP
    if not all((dist / name).is_file() for name in FILES) or not stamp.is_file():
        return False
    return stamp.read_text(encoding="ascii", errors="replace").strip() == digest


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False, env=os.environ
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PageError(f"{' '.join(command)} failed: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise PageError(f"{' '.join(command)} failed with {done.returncode}: {said}")
    return done.stdout
