"""How big a model for how much compute: `python -m ci.studies.isoflop`.

Spends each of three budgets on models of four depths, the smallest from two seeds, and writes
book/data/isoflop.json. Two processes of one thread each, about two minutes.
"""

import time

from chatlib.data.world import entropy_floor
from chatlib.evaluation import document_bits
from chatlib.model import GPT, GPTConfig
from chatlib.notebook import reference
from chatlib.scaling import count_parameters, flops_per_token
from chatlib.training import Schedule
from ci.studies import shared

WIDTH_PER_DEPTH, CONTEXT, ROWS = 16, 128, 4
STUDY = {  # budget in FLOP: depths, seeds
    1.25e11: ((1, 2, 3, 4), (0,)),
    5e10: ((1, 2, 3, 4), (0,)),
    2e10: ((1, 2, 3, 4), (0, 1)),
}
VALIDATION = 120  # documents


def config_of(depth: int) -> GPTConfig:
    """The study's own small dial: one head of 16 channels for each layer."""
    vocab_size = reference.tokenizer().vocab_size
    return GPTConfig(vocab_size, depth, depth, depth, WIDTH_PER_DEPTH * depth, CONTEXT)


def run(budget: float, depth: int, seed: int) -> dict:
    """Train one model until the budget is spent; its bits per byte on whole held-out documents."""
    config, tokenizer = config_of(depth), reference.tokenizer()
    batch = ROWS * CONTEXT
    steps = round(budget / flops_per_token(config) / batch)
    model = GPT(config)
    model.init_weights(seed)
    optimizer = shared.laptop_optimizer(model, batch)
    schedule = Schedule(steps, warmup=min(20, steps // 5), warmdown=0.5, final_lr=0.05)
    began = time.perf_counter()
    for i, read in enumerate(shared.batches(1_000_000 * seed, ROWS, CONTEXT, steps, buffer=16)):
        shared.step(model, optimizer, read, schedule.lr(i), schedule.momentum(i))
    texts = [document.text for document in shared.held_out(VALIDATION)]
    bits = float(document_bits(model, tokenizer, texts).sum())
    return {
        "budget": budget,
        "depth": depth,
        "seed": seed,
        "parameters": count_parameters(config).scaling,
        "tokens": steps * batch,
        "bpb": round(bits / sum(len(text.encode()) for text in texts), 4),
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
    runs = []
    for done in shared.in_two_processes(run, tasks):
        runs.append(done)
        print(f"{time.perf_counter() - began:5.0f} s  {done}", flush=True)
    result = {
        "what": "bits per byte on held-out documents of the small world at equal compute",
        "model": {"width_per_depth": WIDTH_PER_DEPTH, "context": CONTEXT},
        "batch_tokens": ROWS * CONTEXT,
        "floor": round(entropy_floor(shared.held_out(VALIDATION)), 4),
        "documents": VALIDATION,
        "seconds": round(time.perf_counter() - began),
        "runs": runs,
    }
    shared.store("isoflop", result)


if __name__ == "__main__":
    main()
