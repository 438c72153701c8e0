"""Where the repository's own environment lives, and how every command gets into it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BUILD = ROOT / "_build"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure_venv() -> None:
    """Set `.venv` up if it is not, then run the calling command again inside it.

    With CHATLIB_NO_VENV=1 the Python that was called is used as it is: for machines where
    requirements.txt is already installed some other way.
    """
    os.chdir(ROOT)
    if os.environ.get("CHATLIB_NO_VENV"):
        return
    from ci import setup

    setup.main()
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    command = [str(PYTHON), *sys.orig_argv[1:]]
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(PYTHON, command)
    try:
        sys.exit(subprocess.run(command).returncode)
    except KeyboardInterrupt:
        sys.exit(130)


def run(*command: object, **kwargs) -> int:
    """Run a child to its end, our output before its own; Ctrl-C reaches it first, then us."""
    sys.stdout.flush()
    try:
        return subprocess.run([str(part) for part in command], cwd=ROOT, **kwargs).returncode
    except KeyboardInterrupt:
        return 130
