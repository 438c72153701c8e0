"""Write exercises/NN_name.ipynb from solutions/NN_name.ipynb: `python -m ci.exercises [--check]`.

In a code cell tagged `solution`, the lines between `### BEGIN SOLUTION` and `### END SOLUTION`
become those that stand there as `### STUB: line`, or else a line that raises NotImplementedError.
Cells tagged `solution-only` go. Outputs go. Everything else stays.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from typing import TYPE_CHECKING

from ci import notebooks
from ci._venv import ROOT, ensure_venv
from ci.normalize import normalize

if TYPE_CHECKING:
    from nbformat import NotebookNode

BEGIN, END, STUB = "### BEGIN SOLUTION", "### END SOLUTION", "### STUB:"
YOUR_TURN = 'raise NotImplementedError("your turn: replace this line")'
DROPPED_TAGS = ("solution", "hide-input", "hide-output", "raises-exception")


def cut(source: str) -> str:
    """A cell's source with each marked region replaced by its stub."""
    kept: list[str] = []
    stub: list[str] | None = None  # the stub of the region we are in
    for line in source.split("\n"):
        text, indent = line.strip(), line[: len(line) - len(line.lstrip())]
        if text == BEGIN:
            if stub is not None:
                raise ValueError("a solution region begins inside another")
            stub, stub_indent = [], indent
        elif text == END:
            if stub is None:
                raise ValueError("a solution region ends that did not begin")
            kept += stub or [stub_indent + YOUR_TURN]
            stub = None
        elif stub is None:
            kept.append(line)
        elif text.startswith(STUB):
            stub.append(indent + text.removeprefix(STUB).removeprefix(" "))
    if stub is not None:
        raise ValueError("a solution region does not end")
    return "\n".join(kept)


def without_markers(source: str) -> str:
    """A solution's source as the book shows it: no markers, no stubs."""
    lines = source.split("\n")
    return "\n".join(x for x in lines if not x.strip().startswith((BEGIN, END, STUB)))


def exercise(solution: NotebookNode, file_name: str) -> NotebookNode:
    """The exercise notebook that a solution notebook holds."""
    notebook = copy.deepcopy(solution)
    notebook.cells = [c for c in notebook.cells if "solution-only" not in notebooks.tags(c)]
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if "solution" in notebooks.tags(cell):
            uncut, cell.source = cell.source, cut(cell.source)
            if cell.source == uncut:
                raise ValueError(f"a solution cell marks no region to cut: {uncut[:60]!r}")
            cell.metadata["tags"] = [t for t in notebooks.tags(cell) if t not in DROPPED_TAGS]
        cell.outputs, cell.execution_count = [], None
    return normalize(notebook, file_name)


def problems(solution: NotebookNode) -> list[str]:
    """What keeps a solution notebook from being cut or shown well."""
    found = []
    for number, cell in enumerate(solution.cells, start=1):
        marked = bool(re.search(r"### (BEGIN|END) SOLUTION", cell.source))
        tagged = "solution" in notebooks.tags(cell)
        if marked and not tagged:
            found.append(f"cell {number} marks a solution but is not tagged `solution`")
        if tagged and "hide-input" not in notebooks.tags(cell):
            found.append(f"cell {number} is a solution; tag it `hide-input`, so that it is folded")
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.exercises", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on drift")
    check = parser.parse_args(argv).check
    sources = notebooks.find("solutions")
    wanted = {ROOT / "exercises" / path.name: path for path in sources}
    wrong = [
        f"{notebooks.name(path)}: {problem}"
        for path in sources
        for problem in problems(notebooks.read(path))
    ]
    for target, source in wanted.items():
        text = notebooks.dumps(exercise(notebooks.read(source), source.name))
        if target.exists() and target.read_text(encoding="utf8") == text:
            continue
        if check:
            wrong.append(f"{notebooks.name(target)} is not what `make exercises` makes")
        else:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf8", newline="\n")
            print(f"wrote {notebooks.name(target)}")
    for stray in set(notebooks.find("exercises")) - set(wanted):
        wrong.append(f"{notebooks.name(stray)} has no solution that it comes from")
    print("\n".join(wrong) or f"exercises/ holds {len(wanted)} notebooks, in step with solutions/")
    return 1 if wrong else 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
