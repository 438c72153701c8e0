"""Make a finished run the one that comes with the book: `python -m ci.reference RUN`.

Its weights, in half precision, its metrics, its tokenizer and its report go to book/reference_run,
where the chapters find them.
"""

import argparse
import json
import shutil
import sys

from ci._venv import ROOT, ensure_venv

FOLDER = ROOT / "book" / "reference_run"


def main(argv: list[str]) -> None:
    """Copy what the chapters read, and nothing else."""
    import torch
    from safetensors.torch import save_file

    from chatlib.pretraining import load_model
    from chatlib.report import load_evaluations
    from chatlib.runs import STAGES, Run, atomic_write

    parser = argparse.ArgumentParser(prog="python -m ci.reference", description=__doc__)
    parser.add_argument("run")
    run = Run.open(parser.parse_args(argv).run)
    report = json.loads((run.path / "report.json").read_text(encoding="utf8"))
    for stage in STAGES:
        model, meta = load_model(run, stage, torch.device("cpu"))
        save_file(
            {k: w.half() for k, w in model.state_dict().items()}, FOLDER / f"{stage}.safetensors"
        )
        shutil.copyfile(run.metrics_path(stage), FOLDER / f"{stage}.jsonl")
    shutil.copyfile(run.tokenizer_path, FOLDER / "tokenizer.json")
    report = {"model_config": meta["config"]} | report
    report["evaluations"] = load_evaluations(run)
    atomic_write(FOLDER / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    ensure_venv()
    main(sys.argv[1:])
