"""Which lines of chatlib the book shows, and where: `python -m ci.shown [--check] [--write]`.

Reads the `show_source(...)` calls in the book's notebooks without running them. `--write` brings
their stored outputs up to date with the source; `--check` fails where one is out of date, or
where a line is shown in two sections.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ci import notebooks
from ci._venv import ROOT, ensure_venv

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from chatlib.notebook.display import Source

MARKDOWN = "text/markdown"


def imports(node: ast.AST) -> dict[str, str]:
    """What names a statement imports from chatlib: name -> dotted path."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "chatlib":
        return {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    if isinstance(node, ast.Import):
        ours = [a for a in node.names if a.name.split(".")[0] == "chatlib"]
        return {a.asname or "chatlib": a.name if a.asname else "chatlib" for a in ours}
    return {}


def resolve(dotted: str) -> object:
    """What stands at a dotted path: as much of it as is modules is imported."""
    obj: object = importlib.import_module("chatlib")
    path = "chatlib"
    for part in dotted.split(".")[1:]:
        path += f".{part}"
        if not hasattr(obj, part):
            importlib.import_module(path)
        obj = getattr(obj, part)
    return obj


def calls(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, Source]]:
    """Every `show_source(...)` of a notebook: the cell that it stands in, what it shows."""
    from chatlib.notebook.display import show_source

    names: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        lines = ("" if x.lstrip().startswith(("%", "!")) else x for x in cell.source.split("\n"))
        for node in ast.walk(ast.parse("\n".join(lines))):
            names |= imports(node)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("show_source"):
                if isinstance(node.args[0], ast.Constant):
                    obj = node.args[0].value  # a module's name
                else:
                    root, *rest = ast.unparse(node.args[0]).split(".")
                    obj = resolve(".".join([names[root], *rest]))
                parts = [ast.literal_eval(argument) for argument in node.args[1:]]
                options = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
                yield cell, show_source(obj, *parts, **options)


def refresh(notebook: NotebookNode) -> bool:
    """Put what each call shows now into its stored output; whether that changed anything."""
    changed = False
    waiting: dict[int, list[NotebookNode]] = {}  # a cell's stored sources, in order
    for cell, source in calls(notebook):
        stored = [o.data for o in cell.outputs if is_source(o.get("data", {}))]
        data = next(iter(waiting.setdefault(id(cell), stored)), None)
        if data is None:
            continue
        waiting[id(cell)].pop(0)
        if data[MARKDOWN] != source._repr_markdown_():
            data[MARKDOWN], data["text/plain"] = source._repr_markdown_(), repr(source)
            changed = True
    return changed


def is_source(data: dict) -> bool:
    return data.get(MARKDOWN, "").startswith("```python")


def full_lines(path: Path) -> set[int]:
    lines = path.read_text(encoding="utf8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.strip()}


def spans(numbers: set[int], full: set[int]) -> str:
    """Line numbers as ranges: blank lines do not break one."""
    found: list[list[int]] = []
    for number in sorted(full):
        if number not in numbers:
            found.append([])
        elif found and found[-1]:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{s[0]}–{s[-1]}" if s[0] < s[-1] else f"{s[0]}" for s in found if s)


def coverage(paths: list[Path]) -> dict[Path, dict[int, list[str]]]:
    """For every file of chatlib, for every line of it that is shown, the sections that show it."""
    shown: dict[Path, dict[int, list[str]]] = {
        path: defaultdict(list) for path in sorted((ROOT / "chatlib").rglob("*.py"))
    }
    for path in paths:
        for _, source in calls(notebooks.read(path)):
            full = full_lines(source.path)
            for first, last in source.ranges:
                for line in full & set(range(first, last + 1)):
                    shown[source.path][line].append(notebooks.name(path))
    return shown


def report(shown: dict[Path, dict[int, list[str]]]) -> int:
    """Print what is shown where, what is not, what is twice; the number of lines shown twice."""
    total = seen = doubled = 0
    for path, lines in shown.items():
        full = full_lines(path)
        total, seen = total + len(full), seen + len(lines)
        sections = sorted({section for where in lines.values() for section in where})
        print(f"{len(lines):5d}/{len(full):<4d} {notebooks.name(path)}  {', '.join(sections)}")
        if lines and len(lines) < len(full):
            print(f"           not shown: {spans(full - set(lines), full)}")
        twice = {line for line, where in lines.items() if len(where) > 1}
        if twice:
            doubled += len(twice)
            where = sorted({section for line in twice for section in lines[line]})
            print(f"           shown twice: {spans(twice, full)} in {', '.join(where)}")
    print(f"{seen} of {total} lines shown ({seen / total:.0%}), {doubled} of them twice")
    return doubled


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.shown", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail on stale or doubled lines")
    parser.add_argument("--write", action="store_true", help="bring stored outputs up to date")
    chosen = parser.parse_args(argv)
    paths, stale = notebooks.find("book", "solutions"), []
    for path in paths:
        notebook = notebooks.read(path)
        if refresh(notebook):
            stale.append(notebooks.name(path))
            if chosen.write:
                notebooks.write(path, notebook)
    mended = "rewritten" if chosen.write else "run python -m ci.shown --write"
    for name in stale:
        print(f"{name} shows older source: {mended}")
    doubled = report(coverage(paths))
    return 1 if chosen.check and (doubled or (stale and not chosen.write)) else 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
