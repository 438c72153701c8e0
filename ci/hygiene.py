"""What a notebook must be to be committed: `python -m ci.hygiene` names what is not."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci import exercises, normalize, notebooks
from ci._venv import ensure_venv

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_LINES = 30
PRIVATE_PATH = re.compile(r"/home/|/tmp/|/root/|/Users/|[A-Z]:\\\\?Users|/ipykernel_")
SVG, VIEW, STATE = "image/svg+xml", normalize.WIDGET_VIEW, normalize.WIDGET_STATE
RUN_NOTEBOOKS = "07_full_run"  # run anew by every `make book`, committed without outputs


def problems(path: Path) -> list[str]:
    """One sentence for each thing wrong with a notebook."""
    notebook = notebooks.read(path)
    found = [*_footnotes(notebook)]
    tidy = notebooks.dumps(normalize.normalize(notebooks.read(path), path.name))
    if tidy != path.read_text(encoding="utf8"):
        found.append(f"not tidy; run python -m ci.normalize {notebooks.name(path)}")
    must_have_run = path.parent.name not in (RUN_NOTEBOOKS, "exercises")
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        lines = cell.source.count("\n") + 1
        if lines > MAX_LINES:
            found.append(f"cell {number} has {lines} lines, more than {MAX_LINES}")
        if must_have_run and cell.source.strip() and not cell.execution_count:
            found.append(f"cell {number} has not been run")
        found += [f"cell {number} {what}" for what in _outputs(cell, notebook)]
    return found


def _outputs(cell: NotebookNode, notebook: NotebookNode) -> list[str]:
    found = []
    states = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "error" and "raises-exception" not in notebooks.tags(cell):
            found.append(f"holds an error: {output.ename}")
        if PRIVATE_PATH.search(output.get("text", "") + json.dumps(data.get("text/plain", ""))):
            found.append("shows a path of the machine that it was run on")
        if SVG in data and "<title>" not in data[SVG]:
            found.append("shows a figure without alternative text; finish it with figure(...)")
        if VIEW in data:
            model = states.get(data[VIEW]["model_id"], {})
            if model.get("model_module") != "anywidget":
                found.append("shows a widget that the static page cannot; only anywidgets work")
    return found


def _footnotes(notebook: NotebookNode) -> list[str]:
    """Sphinx says nothing of a footnote that is used and not defined."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    defined = set(re.findall(r"^\[\^([^\]]+)\]:", text, flags=re.MULTILINE))
    used = set(re.findall(r"\[\^([^\]]+)\](?!:)", text))
    return [f"footnote {note} is used and not defined" for note in sorted(used - defined)]


def main() -> int:
    paths = notebooks.find(*normalize.FOLDERS)
    wrong = [f"{notebooks.name(path)}: {what}" for path in paths for what in problems(path)]
    print("\n".join(wrong) or f"{len(paths)} notebooks are as they should be")
    drifted = exercises.main(["--check"])
    return 1 if wrong or drifted else 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main())
