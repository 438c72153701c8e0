"""Decoding speed on this machine: the compiled engine with weights in 32 and in 8 bits, the eager
one, and no cache at all.

All sample at temperature 1 among the 50 best, the compiled ones in C++ too. Tokens count from a
prompt of 16 to the middle of the context; compilation and prefill are left out. The uncached rival
reads the whole text again for every token, eagerly.
"""

import argparse
import json
import time

import torch

from chatlib.engine import Batch, Engine, Reply
from chatlib.model import GPT, GPTConfig
from chatlib.precision import compute_dtype
from chatlib.runs import system_info
from chatlib.sampling import Sampling, choose
from chatlib.tokenizer import Tokenizer, split_pattern

PRESETS = {  # name: layers, heads, width, vocabulary, context
    "4x128": (4, 4, 128, 1024, 256),
    "6x256": (6, 8, 256, 4096, 256),
}
BATCHES = (1, 8, 32)
PROMPT, SAMPLING = 16, Sampling(top_k=50)


def build(preset: str, **options) -> Engine:
    """An engine with random weights that never ends a reply by itself."""
    layers, heads, width, vocabulary, context = PRESETS[preset]
    config = GPTConfig(vocabulary, layers, heads, heads, width, context)
    model = GPT(config, compute_dtype("cpu"))
    model.init_weights()
    tokens = [bytes([i]) for i in range(256)]
    tokens += [b"%d" % i for i in range(1000, 1000 + vocabulary - 265)]
    tokenizer = Tokenizer({token: i for i, token in enumerate(tokens)}, split_pattern())
    engine = Engine(model, tokenizer, **options)
    engine.stops = set()
    return engine


def cached(engine: Engine, rows: int, count: int) -> float:
    """Tokens per second of `count` steps on a batch of `rows`."""
    batch = Batch(engine, rows)
    batch.join([[Reply([1] * PROMPT, SAMPLING, 10**6, i, tools=False)] for i in range(rows)])
    batch.step()
    began = time.perf_counter()
    for _ in range(count):
        batch.step()
    return rows * count / (time.perf_counter() - began)


@torch.inference_mode()
def uncached(engine: Engine, rows: int, count: int) -> float:
    """The same without a cache; every eighth token stands for its neighbors."""
    seconds = 0.0
    for length in range(PROMPT, PROMPT + count, 8):
        ids = torch.randint(0, 256, (rows, length))
        began = time.perf_counter()
        choose(engine.model(ids)[:, -1], [SAMPLING] * rows, [0.5] * rows).tolist()
        seconds += 8 * (time.perf_counter() - began)
    return rows * count / seconds


def compare(preset: str, rows: int, rounds: int) -> dict:
    """Median tokens per second of each variant, in turns, and the ratios to the uncached one."""
    fast, plain = build(preset, compile=True), build(preset)
    small = build(preset, compile=True, int8=True)
    count = PRESETS[preset][4] // 2 - PROMPT
    variants = {
        "compiled": lambda: cached(fast, rows, count),
        "int8": lambda: cached(small, rows, count),
        "eager": lambda: cached(plain, rows, count),
        "uncached": lambda: uncached(plain, rows, count),
    }
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for name in variants:
        variants[name]()  # warms up
    for _ in range(rounds):
        for name, run in variants.items():
            speeds[name].append(run())
    result = {name: round(sorted(values)[len(values) // 2]) for name, values in speeds.items()}
    result["best"] = round(max(speeds["compiled"]))
    result["compiled_over_eager"] = round(result["compiled"] / result["eager"], 2)
    result["compiled_over_uncached"] = round(result["compiled"] / result["uncached"], 2)
    return result


def main(argv: list[str]) -> None:
    """Print a table, then JSON."""
    parser = argparse.ArgumentParser(prog="python -m ci.bench decode", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    result = {"system": system_info(), "dtype": str(compute_dtype("cpu"))}
    print(f"tokens per second ({result['dtype']}, {torch.get_num_threads()} threads)")
    print(f"{'preset':<8}{'batch':>6}{'compiled':>10}{'int8':>9}{'eager':>9}{'uncached':>10}")
    for preset in args.preset or PRESETS:
        for rows in args.batch or BATCHES:
            found = compare(preset, rows, args.rounds)
            result[f"{preset}/{rows}"] = found
            print(f"{preset:<8}{rows:>6}{found['compiled']:>10,}{found['int8']:>9,}", end="")
            print(f"{found['eager']:>9,}{found['uncached']:>10,}", flush=True)
    print(json.dumps(result))
