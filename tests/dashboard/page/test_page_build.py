"""The page gets into distributions: built where Node.js is, taken as it is where it was built, and refused else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asynchub.dashboard.web.page_files import DIST
from tests.dashboard.page.browsers import SOURCES, built

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ASK = """
import sys
from pathlib import Path
import hatch_build
try:
    print("built" if hatch_build.built(Path(sys.argv[1])) else "there already")
except hatch_build.PageError as error:
    print(error)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of what the page is built from, and into."""
    pytest.importorskip("hatchling", reason="the hook is one of hatchling's")
    if problem := built():
        pytest.skip(problem)
    page = tmp_path / SOURCES.relative_to(ROOT)
    shutil.copytree(SOURCES, page, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(DIST, tmp_path / DIST.relative_to(ROOT))
    (tmp_path / DIST.relative_to(ROOT) / ".sources").unlink(missing_ok=True)
    return tmp_path


def _asked(tree: Path, path: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tree)],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def test_without_node_a_page_of_other_sources_is_refused_with_words(tree: Path) -> None:
    said = _asked(tree, "/nowhere")
    assert "install Node.js" in said
    assert "from a wheel" in said


def test_a_page_that_was_built_of_these_sources_is_taken_as_it_is(tree: Path) -> None:
    sys.path.insert(0, str(ROOT))
    try:
        import hatch_build
    finally:
        sys.path.remove(str(ROOT))
    stamp = tree / hatch_build.DIST / hatch_build.STAMP
    stamp.write_text(hatch_build.digest_of(tree / hatch_build.PAGE), encoding="ascii")
    assert _asked(tree, "/nowhere") == "there already"
    source = tree / hatch_build.PAGE / "src" / "main.ts"
    source.write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert "install Node.js" in _asked(tree, "/nowhere")


def test_the_types_of_the_sources_are_right() -> None:
    node, checker = shutil.which("node"), SOURCES / "node_modules" / "typescript" / "bin" / "tsc"
    if node is None or not checker.exists():
        pytest.skip("TypeScript is not here: npm ci --ignore-scripts in asynchub/dashboard/web/page")
    done = subprocess.run(
        [node, str(checker), "--noEmit", "-p", str(SOURCES)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout + done.stderr == ""
