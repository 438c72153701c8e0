"""Check everything, then say in one table what was checked: `python -m ci.test`.

Style (ruff), the tests (pytest), every notebook run again (nbval), the notebooks' form. All parts
run even when one fails. Parts can be named: `python -m ci.test style tests`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ci import notebooks
from ci._venv import BUILD, ROOT, ensure_venv, run

CELL_TIMEOUT = 900  # seconds
NOTHING_COLLECTED = 5  # pytest's exit code
RUN_FOLDER = ROOT / "book" / "07_full_run"


def style() -> tuple[int, str]:
    ruff = (sys.executable, "-m", "ruff")
    wrong = run(*ruff, "check", ".") or run(*ruff, "format", "--check", ".")
    return wrong, "ruff check, ruff format"


def tests() -> tuple[int, str]:
    return pytest("tests", "--durations=5", "--timeout=600", "-n", "2", "--dist", "loadfile")


def chapters() -> tuple[int, str]:
    paths = notebooks.find("book", "solutions")
    paths = [path for path in paths if RUN_FOLDER not in path.parents]
    return nbval("chapters", paths, "-n", "2", "--dist", "loadscope")


def run_notebooks() -> tuple[int, str]:
    """The five notebooks of a full run, in order: each goes on from what the last one left."""
    return nbval("run_notebooks", notebooks.find("book/07_full_run"))


def form() -> tuple[int, str]:
    wrong = run(sys.executable, "-m", "ci.hygiene")
    stale = run(sys.executable, "-m", "ci.shown", "--check")
    return wrong or stale, "notebooks tidy, exercises and shown source in step"


PARTS = {
    "style": style,
    "tests": tests,
    "chapters": chapters,
    "run-notebooks": run_notebooks,
    "form": form,
}


def nbval(name: str, paths: list[Path], *options: str) -> tuple[int, str]:
    if not paths:
        return 0, "no notebooks"
    checks = ("--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}")
    code, counted = pytest(name, *checks, *options, *paths)
    return code, f"{counted} in {len(paths)} notebooks"


def pytest(name: str, *options: object) -> tuple[int, str]:
    """Run pytest; its exit code and what it counted."""
    report = BUILD / "test" / f"{name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    code = run(sys.executable, "-m", "pytest", f"--junitxml={report}", "-ra", *options)
    code = 0 if code == NOTHING_COLLECTED else code
    if not report.exists():
        return code or 1, "pytest did not get to its end"
    suite = ElementTree.parse(report).getroot().find("testsuite").attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    skipped = int(suite["skipped"])
    passed = int(suite["tests"]) - failed - skipped
    return code, f"{passed} passed, {failed} failed, {skipped} skipped"


def prepare(home: str) -> None:
    """What every part runs under: our own home for runs, one thread a process, tiny models."""
    os.environ.update(CHATLIB_HOME=home, CHATLIB_SCALE="tiny", OMP_NUM_THREADS="1")
    os.environ["CHATLIB_NO_VENV"] = "1"  # we are in it
    os.environ["CHATLIB_COMPILE"] = "0"  # tiny models are trained sooner than compiled


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.test", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    chosen = parser.parse_args(argv).parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    rows, worst = [], 0
    with tempfile.TemporaryDirectory(prefix="chatlib-", ignore_cleanup_errors=True) as home:
        prepare(home)
        for part in chosen:
            print(f"\n=== {part} ===", flush=True)
            started = time.time()
            code, counted = PARTS[part]()
            rows.append((part, "failed" if code else "ok", time.time() - started, counted))
            worst = worst or code
            if code == 130:
                break
    print("\n=== summary ===")
    for part, verdict, seconds, counted in rows:
        print(f"{part:14} {verdict:7} {seconds / 60:5.1f} min   {counted}")
    print("Something failed; its reasons are above." if worst else "All is well.")
    return 1 if worst else 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
