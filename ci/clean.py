"""Remove what was built: `python -m ci.clean` (`--all`: the environment and caches too)."""

from __future__ import annotations

import argparse
import shutil

from ci._venv import BUILD, ROOT, VENV

CACHES = ("__pycache__", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".hypothesis")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ci.clean", description=__doc__)
    parser.add_argument("--all", action="store_true", help="remove .venv and caches as well")
    targets = [BUILD]
    if parser.parse_args(argv).all:
        outside_venv = [p for p in ROOT.iterdir() if p.is_dir() and p not in (VENV, ROOT / ".git")]
        caches = [hit for p in outside_venv for name in CACHES for hit in p.rglob(name)]
        targets += [VENV, *ROOT.glob("*.egg-info"), *(ROOT / name for name in CACHES), *caches]
    for target in targets:
        shutil.rmtree(target, ignore_errors=True)
    print(f"Removed {BUILD.name}{', .venv and the caches' if len(targets) > 1 else ''}.")
    print("The runs you trained stay where they are: in CHATLIB_HOME, or ~/.cache/chatlib.")


if __name__ == "__main__":
    main()
