"""Open the book in JupyterLab, its stored figures and widgets trusted: `python -m ci.lab`."""

import sys

from ci._venv import ROOT, ensure_venv, run
from ci.setup import trust_notebooks


def main(argv: list[str]) -> int:
    trust_notebooks()
    print(f"Opening JupyterLab on {ROOT}; start with book/index.md, stop with Ctrl-C.")
    return run(sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", *argv)


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
