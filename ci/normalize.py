"""Tidy notebooks so that running one again without changes leaves no difference.

`python -m ci.normalize [--check] [NOTEBOOK ...]`; without names, every notebook of the book.
What goes: timings, papermill's traces and injected cells, memory addresses, random widget ids.
What is made regular: execution counts, streams, carriage returns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci import notebooks
from ci._venv import ensure_venv

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDERS = ("book", "solutions", "exercises")
KEPT_METADATA = ("mystnb", "widgets")
DROPPED_CELL_METADATA = ("papermill", "execution", "collapsed", "scrolled", "ExecuteTime")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def normalize(notebook: NotebookNode, seed: str) -> NotebookNode:
    """The notebook made regular, in place; `seed` (its file name) makes its widget ids."""
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in notebooks.tags(c)]
    kept = {key: notebook.metadata[key] for key in KEPT_METADATA if key in notebook.metadata}
    notebook.metadata.clear()
    notebook.metadata.update(kept)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    count = 0
    for cell in notebook.cells:
        for key in DROPPED_CELL_METADATA:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            ran = bool(cell.outputs or cell.execution_count)
            count += ran
            cell.execution_count = count if ran else None
            cell.outputs = _regular_outputs(cell.outputs, cell.execution_count)
    return _stable_widgets(notebook, seed)


def _regular_outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    """Neighboring pieces of one stream joined, addresses masked, counts those of the cell."""
    regular: list[NotebookNode] = []
    for output in outputs:
        output.get("metadata", {}).pop("papermill", None)
        if output.output_type == "stream":
            before = regular[-1] if regular else None
            if before and before.output_type == "stream" and before.name == output.name:
                before.text += output.text
                continue
        elif output.output_type == "execute_result":
            output.execution_count = count
        regular.append(output)
    for output in regular:
        if output.output_type == "stream":
            output.text = ADDRESS.sub("0x0", as_a_terminal_shows(output.text))
        elif "text/plain" in output.get("data", {}):
            output.data["text/plain"] = ADDRESS.sub("0x0", output.data["text/plain"])
    return regular


def as_a_terminal_shows(text: str) -> str:
    """Of each line, what is left after its carriage returns."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)


def _stable_widgets(notebook: NotebookNode, seed: str) -> NotebookNode:
    """Keep the widgets that a view shows, and name them in order of first use."""
    import nbformat

    states = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    new_ids: dict[str, str] = {}

    def visit(old: str) -> None:
        if old in states and old not in new_ids:
            new_ids[old] = hashlib.sha256(f"{seed}:{len(new_ids)}".encode()).hexdigest()[:32]
            text = json.dumps(states[old], sort_keys=True)
            for inner in re.findall(r"IPY_MODEL_([0-9a-f]{32})", text):
                visit(inner)

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if WIDGET_VIEW in output.get("data", {}):
                visit(output.data[WIDGET_VIEW]["model_id"])
    if not states:
        return notebook
    for old in set(states) - set(new_ids):
        del states[old]
    if not new_ids:
        del notebook.metadata["widgets"]
    text = json.dumps(notebook)
    text = re.sub(r"[0-9a-f]{32}", lambda found: new_ids.get(found[0], found[0]), text)
    return nbformat.from_dict(json.loads(text))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.normalize", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where needed")
    parser.add_argument("notebooks", nargs="*", type=Path)
    chosen = parser.parse_args(argv)
    untidy = []
    for path in chosen.notebooks or notebooks.find(*FOLDERS):
        tidy = notebooks.dumps(normalize(notebooks.read(path), path.name))
        if tidy != path.read_text(encoding="utf8"):
            untidy.append(notebooks.name(path))
            if not chosen.check:
                path.write_text(tidy, encoding="utf8", newline="\n")
    for name in untidy:
        print(f"not normalized: {name}" if chosen.check else f"normalized {name}")
    return 1 if chosen.check and untidy else 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
