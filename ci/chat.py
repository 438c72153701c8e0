"""Serve the model trained last and say where to talk to it: `python -m ci.chat`.

Anything after the name goes to `python -m chatlib serve`.
"""

import sys

from ci._venv import ensure_venv, run


def main(argv: list[str]) -> int:
    return run(sys.executable, "-m", "chatlib", "serve", *argv)


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
