"""The reference run: it comes with the book, so that any chapter can begin at once.

Its weights are stored in half precision; `make book` trains the same model anew.
"""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from chatlib.engine import Engine
from chatlib.model import GPT, GPTConfig
from chatlib.runs import Metrics
from chatlib.tokenizer import Tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "book" / "reference_run"


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of the reference run."""
    return Tokenizer.load(FOLDER / "tokenizer.json")


def model(stage: str = "rl") -> GPT:
    """The model after stage "base", "sft" or "rl", in float32 on the CPU."""
    config = GPTConfig.from_dict(report()["model_config"])
    network = GPT(config)
    weights = load_file(FOLDER / f"{stage}.safetensors")
    network.load_state_dict({k: w.to(torch.float32) for k, w in weights.items()})
    return network.eval()


def engine(stage: str = "rl") -> Engine:
    """The model after a stage, ready to write."""
    return Engine(model(stage), tokenizer())


def metrics(stage: str) -> list[dict]:
    """What the training loop logged in a stage, one row a step."""
    return Metrics(FOLDER / f"{stage}.jsonl").rows()


@cache
def report() -> dict:
    """The run's report, as `chatlib.report.write_report` gathered it, and its evaluations."""
    return json.loads((FOLDER / "report.json").read_text(encoding="utf-8"))
