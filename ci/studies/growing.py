"""What it costs to begin small: `python -m ci.studies.growing`.

Trains one small model on the same rows in the same order from three seeds: with whole windows and
batches from the first step, with windows that grow, with batches that grow, and on a tenth fewer
tokens, as a measure of what a difference is worth. Writes book/data/growing.json. Two processes of
one thread each, about a quarter of an hour.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from chatlib.evaluation import bits_per_byte, document_batches
from chatlib.model import GPT, GPTConfig
from chatlib.notebook import reference
from chatlib.training import Schedule
from ci.studies import shared

LAYERS, WIDTH, HEADS, CONTEXT, ROWS = 4, 64, 2, 256, 16
BATCHES, SEEDS, VALIDATION = 160, (0, 1, 2), 240
PART = ROWS // 4  # rows of the smallest batch


@dataclass(frozen=True)
class Variant:
    """Shares of the tokens: the first `windows` of them are read with windows of a quarter, then of
    a half, in equal parts; the first `batches` of them in batches of a quarter, then of a half."""

    windows: float = 0.0
    batches: float = 0.0
    tokens: float = 1.0


VARIANTS = {
    "whole": Variant(),
    "a tenth fewer tokens": Variant(tokens=0.9),
    "windows grow": Variant(windows=2 / 3),
    "batches grow": Variant(batches=1 / 8),
}


def plan(variant: Variant) -> Iterator[tuple[float, float]]:
    """(share of the tokens read before, share of a whole batch) of each step."""
    total, done = round(variant.tokens * BATCHES), 0.0
    growing = Schedule(total, nearby=variant.batches)  # batches grow as windows do
    while done < total:
        batch = growing.reach(done)
        yield done / total, batch
        done += batch


def run(name: str, seed: int) -> dict:
    """Train one variant from one seed: bits per byte on held-out documents, and seconds."""
    variant, tokenizer = VARIANTS[name], reference.tokenizer()
    model = GPT(GPTConfig(tokenizer.vocab_size, LAYERS, HEADS, HEADS, WIDTH, CONTEXT))
    model.init_weights(seed)
    optimizer = shared.laptop_optimizer(model)
    schedule = Schedule(BATCHES, warmup=10, warmdown=0.75, nearby=variant.windows)
    rows = shared.batches(100_000 * seed, PART, CONTEXT, 4 * BATCHES, buffer=64)
    began = time.perf_counter()
    for done, batch in plan(variant):
        at = done * BATCHES
        model.set_reach(schedule.reach(at))
        parts = list(islice(rows, round(4 * batch)))
        pair = tuple(torch.cat([part[i] for part in parts]) for i in (0, 1))
        shared.step(model, optimizer, pair, schedule.lr(at) * batch**0.5, schedule.momentum(at))
    rows.close()
    took = time.perf_counter() - began
    texts = [document.text for document in shared.held_out(VALIDATION)]
    looks = document_batches(tokenizer, texts, CONTEXT)
    bpb = bits_per_byte(model, looks, torch.from_numpy(tokenizer.token_bytes()))
    return {"bpb": round(bpb, 4), "seconds": round(took, 1)}


def main() -> None:
    runs: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    todo = [(name, seed) for seed in SEEDS for name in VARIANTS]
    for (name, seed), done in zip(todo, shared.in_two_processes(run, todo), strict=True):
        runs[name].append(done)
        print(f"seed {seed}  {name:30s} {done['bpb']:.4f}  {done['seconds']:.0f} s", flush=True)
    result = {
        "what": "bits per byte on held-out text of the small world",
        "model": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT},
        "tokens": BATCHES * ROWS * CONTEXT,
        "seeds": list(SEEDS),
        "runs": runs,
    }
    shared.store("growing", result)


if __name__ == "__main__":
    main()
