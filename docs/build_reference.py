"""Write the reference in docs/reference/ from signatures and docstrings: one page per module, and an index.

    python docs/build_reference.py            write the pages
    python docs/build_reference.py --check    change nothing; exit with 1 and name the pages that are out of date

The source is read, not imported: the pages depend neither on what is installed nor on the version of Python. Pages in
docs/reference/ without the mark of a generated page are left alone, and listed in the index.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ("MARK", "main", "pages", "stale")

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
MARK = "<!-- Made from docstrings by docs/build_reference.py: edit those, then run it. -->"
LINE = 100
"""Characters up to which a signature stays on one line."""
ENTRIES = ("Args", "Attributes", "Raises", "Warns")
TEXTS = ("Returns", "Source", "Yields")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Module:
    """One module's source, taken apart.

    Attributes:
        name: its dotted name.
        public: what its ``__all__`` lists.
        docstring: its docstring, or "".
        definitions: its functions and classes by name.
        values: its other names that are assigned: the assignment, and the docstring below it.
        sources: module and name that each imported name comes from.
    """

    def __init__(self, name: str, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        self.name = name
        self.public: tuple[str, ...] = ()
        self.docstring = ast.get_docstring(tree) or ""
        self.definitions = {node.name: node for node in tree.body if isinstance(node, Definition)}
        self.values: dict[str, tuple[str, str]] = {}
        for node, below in zip(tree.body, [*tree.body[1:], None], strict=False):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in [
                    one for some in targets for one in (some.elts if isinstance(some, ast.Tuple) else [some])
                ]:
                    if isinstance(target, ast.Name):
                        self.values[target.id] = (ast.unparse(node), _text_of(below))
                        if target.id == "__all__" and node.value is not None:
                            self.public = ast.literal_eval(node.value)
        self.sources = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    @property
    def page(self) -> str:
        """File name of its page."""
        return f"{self.name}.md"


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def _modules() -> dict[str, Module]:
    found = {}
    for path in sorted((ROOT / "asynchub").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


# --- docstrings to Markdown


def _inline(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split())).replace("::", ":")


def _summary(docstring: str) -> str:
    """Return the first paragraph, on one line."""
    return _inline(docstring.split("\n\n")[0])


def _hanging(lines: list[str]) -> list[str]:
    """Join each indented line to the one it continues."""
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    return items


def _section(title: str, lines: list[str]) -> Iterator[str]:
    body = [line[4:] for line in lines]
    yield f"**{title}**"
    yield ""
    if title in ENTRIES:
        for item in _hanging(body):
            name, _, meaning = item.partition(":")
            yield f"- `{name}`: {_inline(meaning)}"
    else:
        yield _inline(" ".join(body))


def _markdown(docstring: str) -> Iterator[str]:
    """Yield the lines of a docstring as Markdown; a block that is indented as a whole stays as it is."""
    for paragraph in re.split(r"\n\n(?=\S)|\n\n(?=    )", docstring.strip("\n")):
        lines = paragraph.rstrip().split("\n")
        title = lines[0].rstrip(":")
        if title in (*ENTRIES, *TEXTS) and lines[0].endswith(":"):
            yield from _section(title, lines[1:])
        elif all(line.startswith("    ") or not line for line in lines):
            yield "```text"
            yield from (line[4:] for line in lines)
            yield "```"
        elif any(line.startswith("    ") for line in lines) or all(re.match(r"[A-Z][\w ]*: ", line) for line in lines):
            yield from (f"- {_inline(item)}" for item in _hanging(lines))
        else:
            yield _inline(paragraph)
        yield ""


# --- signatures


def _call(head: str, arguments: list[str], tail: str) -> str:
    line = f"{head}({', '.join(arguments)}){tail}"
    if len(line) <= LINE:
        return line
    return "\n".join([f"{head}(", *(f"    {argument}," for argument in arguments), f"){tail}"])


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> list[str]:
    """Return the parameters as they are written, without ``self`` or ``cls`` if ``bound``."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    written = [_argument(argument, default) for argument, default in zip(plain, defaults, strict=True)]
    if given.posonlyargs:
        written.insert(len(given.posonlyargs), "/")
    if given.vararg:
        written.append("*" + _argument(given.vararg, None))
    elif given.kwonlyargs:
        written.append("*")
    written += [_argument(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        written.append("**" + _argument(given.kwarg, None))
    return written[1:] if bound else written


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    if default is not None:
        text += (" = " if argument.annotation is not None else "=") + ast.unparse(default)
    return text


def _decorators(node: Definition) -> list[str]:
    return [ast.unparse(decorator) for decorator in node.decorator_list]


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> str:
    marks = _decorators(node)
    shown = [f"@{mark}\n" for mark in marks if mark in ("classmethod", "property", "staticmethod", "contextmanager")]
    head = "".join(shown) + ("async def " if isinstance(node, ast.AsyncFunctionDef) else "def ") + node.name
    bound = method and "staticmethod" not in marks
    return _call(head, _arguments(node, bound), f" -> {ast.unparse(node.returns)}" if node.returns else "")


# --- classes


class Reference:
    """The pages of a set of modules."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self._modules = modules
        root = modules["asynchub"]
        self.faces = {name: root.sources[name] for name in root.public if name in root.sources}

    def _bases(self, module: Module, node: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
        """Yield the bases that this package defines, nearest first."""
        for base in node.bases:
            name = ast.unparse(base)
            source, name = module.sources.get(name, (module.name, name))
            home = self._modules.get(source)
            found = home.definitions.get(name) if home else None
            if home is not None and isinstance(found, ast.ClassDef):
                yield home, found
                yield from self._bases(home, found)

    def _fields(self, module: Module, node: ast.ClassDef) -> dict[str, str]:
        """Return the fields of a dataclass as parameters, inherited ones first."""
        fields: dict[str, str] = {}
        for _, owner in [*reversed(list(self._bases(module, node))), (module, node)]:
            for part in owner.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    value = f" = {ast.unparse(part.value)}" if part.value is not None else ""
                    if "ClassVar" not in ast.unparse(part.annotation) and not part.target.id.startswith("_"):
                        fields[part.target.id] = f"{part.target.id}: {ast.unparse(part.annotation)}{value}"
        return fields

    def _constructor(self, module: Module, node: ast.ClassDef) -> str:
        for home, owner in [(module, node), *self._bases(module, node)]:
            dataclass = next((mark for mark in _decorators(owner) if mark.startswith("dataclass")), None)
            if dataclass is not None:
                fields = list(self._fields(home, owner).values())
                return _call(f"class {node.name}", ["*", *fields] if "kw_only" in dataclass and fields else fields, "")
            for part in owner.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    return _call(f"class {node.name}", _arguments(part, bound=True), "")
        return f"class {node.name}"

    def _members(self, module: Module, node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Yield documented methods, with those of bases that ``import asynchub`` does not give."""
        seen: set[str] = set()
        for _, owner in [(module, node), *self._bases(module, node)]:
            if owner is not node and owner.name in self.faces:
                continue
            for part in owner.body:
                if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) or part.name in seen:
                    continue
                seen.add(part.name)
                shown = not part.name.startswith("_") or part.name == "__call__"
                setter = any(mark.endswith((".setter", ".deleter")) for mark in _decorators(part))
                if shown and not setter and ast.get_docstring(part):
                    yield part

    def _class(self, module: Module, node: ast.ClassDef) -> Iterator[str]:
        yield from _fenced(self._constructor(module, node))
        if node.bases:
            yield "Bases: " + ", ".join(f"`{ast.unparse(base)}`" for base in node.bases) + "."
            yield ""
        yield from _markdown(ast.get_docstring(node) or "")
        for member in self._members(module, node):
            yield f"### `{node.name}.{member.name}`"
            yield ""
            yield from _fenced(_function(member, method=True))
            yield from _markdown(ast.get_docstring(member) or "")

    def page(self, module: Module) -> str:
        """Return the page of one module."""
        lines = [MARK, "", f"# `{module.name}`", "", *_markdown(module.docstring)]
        for name in module.public:
            node = module.definitions.get(name)
            lines += [f"## `{name}`", ""]
            if isinstance(node, ast.ClassDef):
                lines += self._class(module, node)
            elif node is not None:
                lines += [*_fenced(_function(node, method=False)), *_markdown(ast.get_docstring(node) or "")]
            elif name in module.values:
                value, docstring = module.values[name]
                lines += [*_fenced(value), *_markdown(docstring)]
            elif name not in module.sources:
                raise LookupError(f"{module.name}: {name} is in __all__ but not defined at the top of the module")
            else:
                lines += [f"See [`{name}`]({module.sources[name][0]}.md).", ""]
        return "\n".join(lines).rstrip("\n") + "\n"

    def index(self, by_hand: dict[str, str]) -> str:
        """Return the index; ``by_hand`` holds the titles of the other pages by file name."""
        lines = [MARK, "", "# Reference", "", "What `import asynchub` gives:", "", "| name | is |", "|---|---|"]
        for name, (source, original) in self.faces.items():
            home = self._modules[source]
            node = home.definitions.get(original)
            text = ast.get_docstring(node) if node is not None else home.values[original][1]
            lines.append(f"| [`{name}`]({home.page}#{original.lower()}) | {_cell(_summary(text or ''))} |")
        lines += ["", "All modules:", "", "| module | is |", "|---|---|"]
        for module in self._modules.values():
            if module.public and module.name != "asynchub":
                lines.append(f"| [`{module.name}`]({module.page}) | {_cell(_summary(module.docstring))} |")
        if by_hand:
            lines += ["", "Beside them:", "", *(f"- [{title}]({file})" for file, title in by_hand.items())]
        return "\n".join(lines) + "\n"


def _fenced(code: str) -> tuple[str, ...]:
    return ("```python", code, "```", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# --- files


def _by_hand() -> dict[str, str]:
    titles = {}
    for path in sorted(FOLDER.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        heading = re.search(r"^# (.+)$", text, re.MULTILINE)
        if not text.startswith(MARK):
            titles[path.name] = heading[1] if heading else path.stem
    return titles


def pages() -> dict[str, str]:
    """Return the text of every generated page by file name."""
    modules = _modules()
    reference = Reference(modules)
    texts = {module.page: reference.page(module) for name, module in modules.items() if module.public and "." in name}
    return {"index.md": reference.index(_by_hand()), **texts}


def stale() -> list[str]:
    """Return the names of the pages that are missing, out of date, or of modules that are gone."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
    gone = [name for name, text in there.items() if name not in wanted and text.startswith(MARK)]
    return [name for name, text in wanted.items() if there.get(name) != text] + gone


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/reference/ from signatures and docstrings.")
    parser.add_argument("--check", action="store_true", help="change nothing; name the pages that are out of date")
    changed = stale()
    if parser.parse_args(arguments).check:
        for name in changed:
            sys.stderr.write(f"docs/reference/{name} is out of date: run `python docs/build_reference.py`\n")
        return 1 if changed else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for name in changed:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
