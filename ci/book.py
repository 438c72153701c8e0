"""Train the chat model, then build the book that shows that very run: `python -m ci.book`.

The book is built from a copy of its sources in which the run notebooks are the executed ones, so
that the source tree stays clean.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from ci import exercises, notebooks, page_model
from ci._venv import BUILD, ROOT, ensure_venv, run

SOURCES = ("_config.yml", "_toc.yml", "book", "solutions", "ci/extension")
SITE, HTML = BUILD / "site", BUILD / "html"
RUN_FOLDER = "book/07_full_run"


def assemble(site: Path, executed: Path | None) -> None:
    """Copy the book's sources to `site`, with the run notebooks as `executed` holds them."""
    shutil.rmtree(site, ignore_errors=True)
    for name in SOURCES:
        source, target = ROOT / name, site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    for path in (site / "solutions").glob("*.ipynb"):
        notebook = notebooks.read(path)
        for cell in notebook.cells:
            cell.source = exercises.without_markers(cell.source)
        notebooks.write(path, notebook)
    for path in sorted(executed.glob("*.ipynb")) if executed else ():
        notebook = notebooks.read(path)
        fold_parameters(notebook)
        notebooks.write(site / RUN_FOLDER / path.name, notebook)


def fold_parameters(notebook) -> None:
    """Papermill writes the parameters it was given into a cell of its own; fold that one too."""
    for cell in notebook.cells:
        if "injected-parameters" in notebooks.tags(cell):
            cell.metadata["tags"] = [*notebooks.tags(cell), "hide-input"]


def build(site: Path, output: Path) -> int:
    """Make pages of the sources in `site`, in `output`/_build/html; every warning is an error."""
    shutil.rmtree(output / "_build" / "html", ignore_errors=True)
    shutil.rmtree(output / "_build" / ".doctrees", ignore_errors=True)
    entry = "from jupyter_book.cli.main import main; main()"  # what `jupyter-book` itself runs
    command = ("-c", entry, "build", site, "--path-output", output)
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    return run(sys.executable, *command, "-W", "--keep-going", "-n", "-q", env=environment)


def executed_notebooks(name: str) -> Path | None:
    """Where the run of this name keeps its executed notebooks, if there is one."""
    from chatlib.runs import Run

    folder = Run(name).notebooks_dir
    return folder if any(folder.glob("*.ipynb")) else None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.book", description=__doc__)
    parser.add_argument("--no-run", action="store_true", help="train nothing, only build the pages")
    parser.add_argument("--run", default="laptop", help="the run to show (default: laptop)")
    chosen = parser.parse_args(argv)
    started = time.time()
    if not chosen.no_run:
        print("1/2  The full run: text to chat model, at laptop scale", flush=True)
        if code := run(sys.executable, "-m", "ci.full_run", "--scale", "laptop"):
            return code
    print("2/2  The pages", flush=True)
    executed = executed_notebooks(chosen.run)
    if executed is None:
        print(f"     there is no run named {chosen.run}; its pages will have no results")
    assemble(SITE, executed)
    page_model.write(SITE / "book" / "_static" / "chat_model.js", chosen.run)
    if build(SITE, ROOT):
        print(f"The pages could not be built; the reasons are above. Sources: {SITE}")
        return 1
    print(
        f"\nThe book is ready ({(time.time() - started) / 60:.1f} minutes). Open it with a browser:"
    )
    print(f"  {(HTML / 'index.html').as_uri()}")
    print("Talk to the model you trained: make chat")
    return 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
