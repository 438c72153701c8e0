"""Tokens to a target, Muon against AdamW: `python -m ci.studies.optimizers`.

Trains one small model with Muon on its block matrices and with AdamW on them (the rest the same),
each at three learning rates from three seeds, at a constant rate after a warmup, and writes
book/data/optimizers.json. Two processes of one thread each, about four minutes on idle cores.
Runs that are in the file already are kept: delete it to make all of them anew.
"""

import json

import torch

from chatlib.distributed import Distributed
from chatlib.evaluation import bits_per_byte, document_batches
from chatlib.model import GPT, GPTConfig
from chatlib.notebook import reference
from chatlib.optim import AdamWGroup, MuonAdamW, MuonGroup, OptimConfig, build_optimizer
from ci.studies import shared

LAYERS, WIDTH, HEADS, CONTEXT, ROWS = 2, 64, 2, 128, 8
STEPS, WARMUP, EVERY, SEEDS = 200, 10, 10, (0, 1, 2)
RATES = {name: (0.01, 0.03, 0.09) for name in ("Muon", "AdamW")}
VALIDATION = 60  # documents


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
    tokenizer = reference.tokenizer()
    model = GPT(GPTConfig(tokenizer.vocab_size, LAYERS, HEADS, HEADS, WIDTH, CONTEXT))
    model.init_weights(seed)
    optimizer = optimizer_of(name, model, rate)
    texts = [document.text for document in shared.held_out(VALIDATION)]
    looks = document_batches(tokenizer, texts, CONTEXT)
    sizes = torch.from_numpy(tokenizer.token_bytes())
    bpb = [round(bits_per_byte(model, looks, sizes), 4)]
    read = shared.batches(100_000 * seed, ROWS, CONTEXT, steps, buffer=200)
    for i, batch in enumerate(read, 1):
        shared.step(model, optimizer, batch, lr=min(1.0, i / WARMUP), momentum=0.95)
        if i % EVERY == 0:
            bpb.append(round(bits_per_byte(model, looks, sizes), 4))
    return {"optimizer": name, "rate": rate, "seed": seed, "bpb": bpb}


def main() -> None:
    stored = shared.DATA / "optimizers.json"
    runs = json.loads(stored.read_text())["runs"] if stored.exists() else []
    known = {(run["optimizer"], run["rate"], run["seed"]) for run in runs}
    tasks = [(n, rate, seed) for n, rates in RATES.items() for rate in rates for seed in SEEDS]
    for done in shared.in_two_processes(train, [task for task in tasks if task not in known]):
        runs.append(done)
        print(done["optimizer"], done["rate"], done["bpb"][-1], flush=True)
    result = {
        "model": {"n_layer": LAYERS, "n_embd": WIDTH, "context": CONTEXT},
        "seeds": SEEDS,
        "validation_documents": VALIDATION,
        "batch_tokens": ROWS * CONTEXT,
        "every": EVERY,
        "runs": runs,
    }
    shared.store("optimizers", result)


if __name__ == "__main__":
    main()
