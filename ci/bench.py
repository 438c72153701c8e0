"""Benchmarks, never tests: `python -m ci.bench train|decode|gpu`. The last line is JSON.

Every figure is measured beside its rival in the same run, in turns (A B A B), because machines
differ and neighbors come and go: quote the ratios.
"""

import argparse
import importlib
import sys

from ci._venv import ensure_venv

BENCHES = ("train", "decode", "gpu")


def main(argv: list[str]) -> int:
    """Hand over to ci/bench_<name>.py."""
    parser = argparse.ArgumentParser(prog="python -m ci.bench", description=__doc__)
    parser.add_argument("name", choices=BENCHES)
    args, rest = parser.parse_known_args(argv)
    return importlib.import_module(f"ci.bench_{args.name}").main(rest) or 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
