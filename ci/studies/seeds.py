"""What luck is worth over a whole run: `python -m ci.studies.seeds`.

Trains the laptop model through all stages on the whole budget from three seeds of its first
weights, evaluates every stage, and writes book/data/seeds.json. Half an hour a seed on two cores;
a stage that is done is not done again, so it can be stopped and started.
"""

import json
import sys

from chatlib.runs import Run
from ci._venv import run
from ci.studies import shared

SEEDS = (0, 1, 2)
WHOLE = {"train_tokens_slow": 0, "sft_conversations_slow": 0}  # on every processor


def train(seed: int) -> Run:
    """The full run of one seed, carried on if it was begun."""
    of_seed = ("--scale", "laptop", "--run", f"seed-{seed}")
    settings = [f"--set={key}={value}" for key, value in (WHOLE | {"seed": seed}).items()]
    for command in (("chatlib", "tokenizer", *of_seed, *settings), ("ci.full_run", *of_seed)):
        if run(sys.executable, "-m", *command):
            sys.exit(f"The run of seed {seed} did not come to its end; the reason is above.")
    return Run(f"seed-{seed}")


def result(seed: int, trained: Run) -> dict:
    """What the report tells of a run, as far as seeds are compared by it."""
    stages = {
        stage: json.loads((trained.path / "eval" / f"{stage}.json").read_text(encoding="utf8"))
        for stage in ("base", "sft", "rl")
    }
    core = stages["base"]["core_world"]["tasks"]
    kinds = {
        stage: {
            kind: round(of["accuracy"], 4)
            for kind, of in stages[stage]["chat"]["tasks"]["world"]["kinds"].items()
        }
        for stage in ("sft", "rl")
    }
    return {
        "seed": seed,
        "val_bpb": round(stages["base"]["val_bpb"], 4),
        "floor": round(stages["base"]["entropy_floor_bpb"], 4),
        "core_world": {name: round(task["accuracy"], 4) for name, task in core.items()},
        "accuracy": kinds,
        "reward_sampled": {stage: stages[stage]["reward_sampled"] for stage in ("sft", "rl")},
    }


def main() -> None:
    runs = [result(seed, train(seed)) for seed in SEEDS]
    what = "the laptop model's whole run from three seeds of its first weights"
    shared.store("seeds", {"what": what, "runs": runs})


if __name__ == "__main__":
    main()
