"""Finding, reading and writing notebooks: what the other commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ci._venv import ROOT

if TYPE_CHECKING:  # nbformat is imported where it is used: these modules load before .venv exists
    from nbformat import NotebookNode


def find(*folders: str) -> list[Path]:
    """The notebooks in these folders of the repository, in reading order."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.ipynb"))
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def read(path: Path) -> NotebookNode:
    import nbformat

    return nbformat.reads(path.read_text(encoding="utf8"), as_version=4)


def dumps(notebook: NotebookNode) -> str:
    """The text of a valid notebook, one newline at its end."""
    import nbformat

    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(path: Path, notebook: NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(notebook), encoding="utf8", newline="\n")


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def name(path: Path) -> str:
    """A path as the reader knows it: from the repository's root, with forward slashes."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
