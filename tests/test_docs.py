"""The documentation is true: its code runs, its output is what comes, its commands and links lead somewhere.

A ``python`` block runs after those before it on its page, in one namespace and in an empty folder. A ``text`` or
``output`` block right below it is what it prints; ``...`` there stands for anything. A block that cannot be run says
why: ```` ```python skip="needs two machines" ````.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEST_COMMAND = "python -m pip install -c tests/constraints.txt -e '.[test]' && python -m pytest"
DEMO_COMMAND = "python -m pip install -c tests/constraints.txt -e '.[demo]' && python -m asynchub demo"
OUR_FOLDERS = (".ci", "asynchub", "docs", "examples", "tests")
UNCHECKED_PYTHON = ("Python", "py", "pycon", "python3")
"""Marks of Python blocks that would escape being run."""


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "docs" / "build_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = _builder()
ALL_PAGES = [page for page in (README, *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]
PAGES = [page for page in ALL_PAGES if not page.read_text(encoding="utf-8").startswith(builder.MARK)]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: first word behind the fence.
        rest: the words after it.
        line: number of its first line of text on the page, from 1.
        text: what it holds.
        below: the lines between the block before and this one.
    """

    language: str
    rest: str
    line: int
    text: str
    below: str


def _blocks(page: Path) -> Iterator[Block]:
    between: list[str] = []
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        fence = re.fullmatch(r"( *)(`{3,}|~{3,})\s*(\S*)\s*(.*)", line)
        if fence is None:
            between.append(line)
            continue
        indent, marks, language, rest = fence.groups()
        held: list[str] = []
        for _, inside in lines:
            if inside.strip() == marks:
                break
            held.append(inside.removeprefix(indent))
        else:
            pytest.fail(f"{page}:{number}: the block is not closed")
        yield Block(language, rest, number + 1, "\n".join(held), "\n".join(between))
        between = []


def _id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", ALL_PAGES, ids=_id)
every_written_page = pytest.mark.parametrize("page", PAGES, ids=_id)


# --- code


def _matches(printed: str, promised: str) -> bool:
    """Tell whether ``printed`` is what was promised, apart from blanks at the ends of lines and of the whole."""

    def trimmed(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).rstrip()

    pattern = ".*?".join(re.escape(part) for part in trimmed(promised).split("..."))
    return re.fullmatch(pattern, trimmed(printed), re.DOTALL) is not None


def _run(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    source = "\n" * (block.line - 1) + block.text + "\n"  # so that an error names the line on the page
    exec(compile(source, str(page), "exec", dont_inherit=True), namespace)


@every_written_page
def test_the_code_on_a_page_does_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the programs that a page starts
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed: str | None = None
    for block in _blocks(page):
        where = f"{_id(page)}:{block.line}"
        assert block.language not in UNCHECKED_PYTHON, f"{where}: mark it `python`"
        if block.language == "python" and block.rest:
            reason = re.fullmatch(r'skip="(.+)"', block.rest)
            assert reason is not None, f'{where}: only skip="reason" may stand there, got {block.rest}'
            printed = None
        elif block.language == "python":
            _run(block, page, namespace)
            sys.stdout.flush()
            printed = capfd.readouterr().out
        elif block.language in ("output", "text"):
            if printed is not None and not block.below.strip():
                assert _matches(printed, block.text), f"{where}: this was printed:\n{printed}"
            printed = None
        else:
            printed = None


# --- commands


def _commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if word in ("&&", "||", ";", "|", "&"):
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


@cache
def _help(words: tuple[str, ...]) -> str:
    """Return the help of ``python -m asynchub`` with the given sub-command."""
    done = subprocess.run(
        [sys.executable, "-m", "asynchub", *words, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"python -m asynchub {' '.join(words)} --help:\n{done.stderr}"
    return done.stdout


def _check_ours(words: list[str], where: str) -> None:
    """Check the arguments of ``python -m asynchub``: the sub-command is there, and its options."""
    subcommand = tuple(word for word in words[:1] if re.fullmatch(r"[a-z][a-z-]*", word))
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", _help(subcommand)))
    for word in words:
        option = word.split("=")[0]
        if option.startswith("-") and len(option) > 1:
            assert option in known, f"{where}: python -m asynchub {' '.join(subcommand)} has no option {option}"


def _check_install(words: list[str], where: str) -> None:
    """Check that the extras of ``pip install .[extra]`` are declared."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["optional-dependencies"]
    for word in words:
        if found := re.search(r"(?:^\.|^asynchub)\[(.+)\]$", word):
            for extra in found[1].split(","):
                assert extra.strip() in declared, f"{where}: there is no extra {extra!r}"


def _check_command(words: list[str], where: str) -> None:
    while words and re.fullmatch(r"\w+=.*", words[0]):  # variables for the command
        words = words[1:]
    for word in words:
        path = word.split("::")[0]
        if path.startswith(tuple(f"{folder}/" for folder in OUR_FOLDERS)):
            assert list(ROOT.glob(path)), f"{where}: there is no {path}"
    match words:
        case ["python" | "python3", "-m", "asynchub", *rest] | ["asynchub", *rest]:
            _check_ours(rest, where)
        case ["python" | "python3", "-m", "pip", *rest] | ["pip", *rest]:
            _check_install(rest, where)
        case ["python" | "python3", "-m", module, *_] if module.split(".")[0] in OUR_FOLDERS:
            file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            assert file.is_file(), f"{where}: there is no module {module}"


@every_written_page
def test_the_commands_on_a_page_exist(page: Path) -> None:
    for block in _blocks(page):
        if block.language in ("bash", "console", "sh", "shell"):
            for command in _commands(block):
                _check_command(command, f"{_id(page)}:{block.line}")


@pytest.mark.parametrize("command", [TEST_COMMAND, DEMO_COMMAND])
def test_the_readme_gives_the_command_that_a_newcomer_runs(command: str) -> None:
    shown = [line.removeprefix("$ ") for block in _blocks(README) for line in block.text.splitlines()]
    assert command in shown


# --- links


def _prose(page: Path) -> str:
    """Return a page without its blocks and code spans."""
    text = re.sub(r"^( *)(`{3,}|~{3,}).*?^\1\2\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"(`+).+?\1", lambda code: "x" * len(code[0]), text)


def _anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get, as GitHub makes them."""
    text = re.sub(r"^( *)(`{3,}|~{3,}).*?^\1\2\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    anchors: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.M):
        plain = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        anchors[anchor] = anchors.get(anchor, -1) + 1
        if anchors[anchor]:
            anchors[f"{anchor}-{anchors[anchor]}"] = 0
    return set(anchors)


@every_page
def test_the_links_on_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", _prose(page)):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{_id(page)}: {target} leads nowhere"
        assert path.is_relative_to(ROOT), f"{_id(page)}: {target} leads out of the repository"
        if anchor and path.suffix == ".md":
            assert anchor in _anchors(path), f"{_id(page)}: {_id(path)} has no heading for #{anchor}"


# --- reference


def test_the_reference_says_what_the_docstrings_say() -> None:
    assert builder.stale() == [], "run `python docs/build_reference.py`"
