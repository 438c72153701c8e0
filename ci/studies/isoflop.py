"""How big a model for how much compute: `python -m ci.studies.isoflop`.

Spends each of three budgets on models of four depths, the smallest from two seeds, and writes
book/data/isoflop.json. Two processes of one thread each, about two minutes.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from chatlib.data.loader import BestFitLoader
from chatlib.data.sources import open_source
from chatlib.data.world import World, entropy_floor
from chatlib.distributed import setup
from chatlib.evaluation import document_bits
from chatlib.model import GPT, GPTConfig
from chatlib.notebook import reference
from chatlib.optim import OptimConfig, build_optimizer
from chatlib.runs import atomic_write, system_info
from chatlib.scaling import count_parameters, flops_per_token, get_scale
from chatlib.training import Schedule
from ci._venv import ROOT

RESULT = ROOT / "book" / "data" / "isoflop.json"
WIDTH_PER_DEPTH, CONTEXT, ROWS = 16, 128, 4
STUDY = {  # budget in FLOP: depths, seeds
    1.25e11: ((1, 2, 3, 4), (0,)),
    5e10: ((1, 2, 3, 4), (0,)),
    2e10: ((1, 2, 3, 4), (0, 1)),
}
VALIDATION = 120  # documents


@dataclass(frozen=True)
class Later:
    """The small world's documents from number `first` on, so that every seed reads its own."""

    first: int

    def documents(
        self, split: str, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        return open_source("world").documents(split, rank, world_size, self.first + start)


def config_of(depth: int) -> GPTConfig:
    """The study's own small dial: one head of 16 channels for each layer."""
    vocab_size = reference.tokenizer().vocab_size
    return GPTConfig(vocab_size, depth, depth, depth, WIDTH_PER_DEPTH * depth, CONTEXT)


def rates() -> OptimConfig:
    """The learning rates of the laptop scale, for this batch; no weight decay."""
    scale = get_scale("laptop")
    return OptimConfig(
        muon_lr=scale.matrix_lr,
        embedding_lr=scale.embedding_lr,
        value_embedding_lr=scale.embedding_lr / 2,
        head_lr=scale.head_lr,
        muon_weight_decay=0.0,
        batch_scale=(ROWS * CONTEXT / scale.batch_tokens) ** 0.5,
    )


def run(budget: float, depth: int, seed: int) -> dict:
    """Train one model until the budget is spent; its bits per byte on whole held-out documents."""
    torch.set_num_threads(1)
    config, tokenizer = config_of(depth), reference.tokenizer()
    batch = ROWS * CONTEXT
    steps = round(budget / flops_per_token(config) / batch)
    model = GPT(config)
    model.init_weights(seed)
    optimizer = build_optimizer(model, rates(), setup())
    schedule = Schedule(steps, warmup=min(20, steps // 5), warmdown=0.5, final_lr=0.05)
    loader = BestFitLoader(Later(1_000_000 * seed), tokenizer, ROWS, CONTEXT, buffer=16)
    began = time.perf_counter()
    for step in range(steps):
        model(*next(loader)).backward()
        optimizer.set_schedule(schedule.lr(step), schedule.momentum(step), 0.0)
        optimizer.step()
        optimizer.zero_grad()
    loader.close()
    documents = [World().document("validation", i) for i in range(VALIDATION)]
    size = sum(len(document.text.encode()) for document in documents)
    bits = document_bits(model, tokenizer, [document.text for document in documents]).sum()
    return {
        "budget": budget,
        "depth": depth,
        "seed": seed,
        "parameters": count_parameters(config).scaling,
        "tokens": steps * batch,
        "bpb": round(bits / size, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    began = time.perf_counter()
    tasks = [
        (budget, depth, seed)
        for budget, (depths, seeds) in STUDY.items()
        for seed in seeds
        for depth in depths
    ]
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(run, *task) for task in tasks]
        runs = []
        for future in futures:
            runs.append(future.result())
            print(f"{time.perf_counter() - began:5.0f} s  {runs[-1]}", flush=True)
    documents = [World().document("validation", i) for i in range(VALIDATION)]
    result = {
        "what": "bits per byte on held-out documents of the small world at equal compute",
        "model": {"width_per_depth": WIDTH_PER_DEPTH, "context": CONTEXT},
        "batch_tokens": ROWS * CONTEXT,
        "floor": round(entropy_floor(documents), 4),
        "documents": VALIDATION,
        "seconds": round(time.perf_counter() - began),
        "system": system_info(),
        "runs": runs,
    }
    atomic_write(RESULT, json.dumps(result, indent=1) + "\n")
    print(f"wrote {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
