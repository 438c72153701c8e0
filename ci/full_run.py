"""Execute the five run notebooks in order: `python -m ci.full_run --scale laptop|gpu|node`.

First it looks whether this machine has what the run needs, and starts nothing if not.
Each notebook trains one stage and shows what came of it. A notebook that finished is not run again;
one that was killed starts over and its stage carries on from its newest checkpoint. The executed
notebooks are the record of the run and stand in its folder.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from ci._venv import ensure_venv

NOTEBOOKS = ("1_tokenizer", "2_pretrain", "3_finetune", "4_reinforce", "5_report")
SOURCE = Path(__file__).resolve().parent.parent / "book" / "07_full_run"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run what is left to run, and say where the result is."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.full_run", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--scale", default="laptop", help="tiny, laptop, gpu or node (default: laptop)"
    )
    parser.add_argument("--run", help="the run's name (default: the scale's name)")
    parser.add_argument(
        "--fresh", action="store_true", help="delete a run of that name and start anew"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan: steps, memory, hours, dollars"
    )
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook parameter",
    )
    args = parser.parse_args(argv)

    from chatlib.errors import ChatlibError

    try:
        if args.dry_run:
            return dry_run(args.scale, args.run or args.scale, dict(args.p))
        return full_run(args.scale, args.run or args.scale, dict(args.p), args.fresh)
    except ChatlibError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; the same command carries on from here.", file=sys.stderr)
        return 130


def full_run(scale: str, name: str, parameters: dict[str, str], fresh: bool = False) -> int:
    """Run every notebook that has not finished yet, on a machine that has what it takes."""
    from chatlib.errors import ChatlibError
    from chatlib.runs import Run

    settled(scale, name, parameters)
    check_parameters(parameters)
    if fresh and name in Run.names():
        shutil.rmtree(Run.open(name).path)
    wrong, slow = look_around(scale, name, parameters)
    print("".join(f"note: {line}\n" for line in slow), end="")
    if wrong:
        raise ChatlibError(
            "\n  - ".join(["This machine is not ready; nothing was started.", *wrong])
        )
    run = Run.create_or_open(name, scale)
    run.notebooks_dir.mkdir(parents=True, exist_ok=True)
    for i, notebook in enumerate(NOTEBOOKS, 1):
        done = run.manifest.get("notebooks", {})
        if notebook in done and (run.notebooks_dir / f"{notebook}.ipynb").exists():
            print(
                f"[{i}/{len(NOTEBOOKS)}] {notebook}: finished earlier, "
                f"in {done[notebook] / 60:.1f} minutes"
            )
            continue
        print(f"[{i}/{len(NOTEBOOKS)}] {notebook}", flush=True)
        began = time.perf_counter()
        if not execute(notebook, run.notebooks_dir, {"scale": scale, "run": name} | parameters):
            return 1
        took = time.perf_counter() - began
        run.update_manifest(
            notebooks=run.manifest.get("notebooks", {}) | {notebook: round(took, 1)}
        )
    minutes = sum(run.manifest["notebooks"].values()) / 60
    print(f"\nRun {name!r} is complete: {minutes:.1f} minutes in all.")
    print(f"  report     {run.path / 'report.md'}")
    print(f"  notebooks  {run.notebooks_dir}")
    print(f"  talk to it python -m chatlib chat --run {name}")
    return 0


def settled(scale: str, name: str, parameters: dict[str, str]):
    """The scale as run `name` has it, or would have it."""
    from chatlib.runs import Run
    from chatlib.scaling import get_scale

    known = Run.open(name).manifest.get("settings", {}) if name in Run.names() else {}
    corpus = {"corpus": parameters["corpus"]} if parameters.get("corpus") else {}
    return get_scale(scale, **known | corpus)


def look_around(scale: str, name: str, parameters: dict[str, str]) -> tuple[list[str], list[str]]:
    """What keeps the run from succeeding on this machine, and what only makes it slower."""
    from ci import machine

    wanted = settled(scale, name, parameters)
    return machine.problems(wanted, name), machine.notes(wanted)


def dry_run(scale: str, name: str, parameters: dict[str, str]) -> int:
    """Print the plan, and what this machine lacks for it."""
    from chatlib.planner import describe

    print(describe(settled(scale, name, parameters)))
    print("\nthis machine:")
    wrong, slow = look_around(scale, name, parameters)
    for line in [*wrong, *slow] or ["has what it takes"]:
        print(f"  {line}")
    return 0


def check_parameters(parameters: dict[str, str]) -> None:
    """Papermill accepts any name; we refuse those that no notebook declares."""
    from papermill import inspect_notebook

    from chatlib.errors import ChatlibError

    known = set().union(*(inspect_notebook(str(SOURCE / f"{n}.ipynb")) for n in NOTEBOOKS))
    for key in parameters:
        if key not in known:
            raise ChatlibError(
                f"No run notebook has a parameter {key!r}; they have {', '.join(sorted(known))}."
            )


def execute(notebook: str, folder: Path, parameters: dict[str, str]) -> bool:
    """Run one notebook with papermill, its output live on the terminal; False if it failed."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source, target = SOURCE / f"{notebook}.ipynb", folder / f"{notebook}.ipynb"
    declared = papermill.inspect_notebook(str(source))
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters={k: v for k, v in parameters.items() if k in declared},
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            autosave_cell_every=2,
            coalesce_streams=True,
            cwd=str(SOURCE),
        )
    except (PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
        what = getattr(error, "evalue", None) or str(error).strip().splitlines()[-1]
        print(f"\n{notebook} stopped: {what}", file=sys.stderr)
        print(f"  as far as it came: {target}", file=sys.stderr)
        print("  the same command carries on from the last checkpoint.", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    ensure_venv()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
