"""Tokens to a target, Muon against AdamW: `python -m ci.studies.optimizers`.

Trains one small model with Muon on its block matrices and with AdamW on them (the rest the same),
each at three learning rates from three seeds, at a constant rate after a warmup, and writes
book/data/optimizers.json. Two processes of one thread each, about four minutes on idle cores.
Runs that are in the file already are kept: delete it to make all of them anew.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from chatlib.data.loader import BestFitLoader
from chatlib.data.sources import open_source
from chatlib.distributed import Distributed
from chatlib.evaluation import bits_per_byte, document_batches
from chatlib.model import GPT, GPTConfig
from chatlib.notebook import reference
from chatlib.optim import AdamWGroup, MuonAdamW, MuonGroup, OptimConfig, build_optimizer
from chatlib.runs import atomic_write, system_info
from ci._venv import ROOT

RESULT = ROOT / "book" / "data" / "optimizers.json"
LAYERS, WIDTH, HEADS, CONTEXT, ROWS = 2, 64, 2, 128, 8
STEPS, WARMUP, EVERY, SEEDS = 200, 10, 10, (0, 1, 2)
RATES = {"Muon": (0.01, 0.03, 0.09), "AdamW": (0.001, 0.003, 0.01)}
VALIDATION = 60  # documents


@dataclass(frozen=True)
class Later:
    """The small world's documents from number `first` on, so that every seed reads its own."""

    first: int

    def documents(
        self, split: str, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        return open_source("world").documents(split, rank, world_size, self.first + start)


def optimizer_of(name: str, model: GPT, rate: float) -> MuonAdamW:
    """The book's optimizer, or the same with AdamW in the place of Muon; no weight decay."""
    dist = Distributed()
    muon = build_optimizer(model, OptimConfig(muon_lr=rate, muon_weight_decay=0.0), dist)
    if name == "Muon":
        return muon
    groups = [group for group in muon.groups if not isinstance(group, MuonGroup)]
    for key, p in model.blocks.named_parameters():
        groups.append(AdamWGroup(f"blocks.{key}", p, rate, (0.9, 0.95), 0.0, dist))
    return MuonAdamW(groups, model)


def train(name: str, rate: float, seed: int, steps: int = STEPS) -> dict:
    """One run, with its bits per byte on validation text every EVERY steps."""
    torch.set_num_threads(1)
    tokenizer = reference.tokenizer()
    model = GPT(GPTConfig(tokenizer.vocab_size, LAYERS, HEADS, HEADS, WIDTH, CONTEXT))
    model.init_weights(seed)
    optimizer = optimizer_of(name, model, rate)
    held_out = open_source("world").documents("validation")
    texts = [text for _, (_, text) in zip(range(VALIDATION), held_out, strict=False)]
    looks = document_batches(tokenizer, texts, CONTEXT)
    sizes = torch.from_numpy(tokenizer.token_bytes())
    loader = BestFitLoader(Later(100_000 * seed), tokenizer, ROWS, CONTEXT, buffer=200)
    bpb = [round(bits_per_byte(model, looks, sizes), 4)]
    for step in range(steps):
        optimizer.set_schedule(min(1.0, (step + 1) / WARMUP), 0.95, 0.0)
        model(*next(loader)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY == 0:
            bpb.append(round(bits_per_byte(model, looks, sizes), 4))
    loader.close()
    return {"optimizer": name, "rate": rate, "seed": seed, "bpb": bpb}


def main() -> None:
    runs = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    known = {(run["optimizer"], run["rate"], run["seed"]) for run in runs}
    tasks = [(n, rate, seed) for n, rates in RATES.items() for rate in rates for seed in SEEDS]
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(train, *task) for task in tasks if task not in known]
        for future in futures:
            runs.append(future.result())
            print(runs[-1]["optimizer"], runs[-1]["rate"], runs[-1]["bpb"][-1], flush=True)
    result = {
        "model": {"n_layer": LAYERS, "n_embd": WIDTH, "context": CONTEXT},
        "seeds": SEEDS,
        "validation_documents": VALIDATION,
        "batch_tokens": ROWS * CONTEXT,
        "every": EVERY,
        "runs": runs,
        "system": system_info(),
    }
    atomic_write(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
