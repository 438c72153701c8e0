"""Training speed on this machine: ours beside the same model in float32 with torch's attention.

Both are compiled, both take the same optimizer step on the same tokens.
"""

import argparse
import functools
import json
import time

import torch

from chatlib import model as model_module
from chatlib.attention import attend
from chatlib.distributed import Distributed
from chatlib.model import GPT, GPTConfig
from chatlib.optim import OptimConfig, build_optimizer
from chatlib.precision import compute_dtype
from chatlib.runs import system_info

PRESETS = {  # name: layers, heads, width, vocabulary, context, rows
    "4x128": (4, 4, 128, 1024, 256, 16),
    "6x256": (6, 8, 256, 4096, 256, 16),
}

SDPA = functools.partial(attend, backend="sdpa")


def variant(preset: str, plain: bool):
    """A function that takes one training step and returns its tokens per second.

    `plain` is the rival: float32 and scaled_dot_product_attention.
    """
    layers, heads, width, vocabulary, context, rows = PRESETS[preset]
    config = GPTConfig(vocabulary, layers, heads, heads, width, context)
    device = torch.device("cpu")
    model = GPT(config, torch.float32 if plain else compute_dtype(device))
    model.init_weights()
    optimizer = build_optimizer(model, OptimConfig(), Distributed())
    forward = torch.compile(model, dynamic=False)
    ids = torch.randint(
        0, vocabulary, (rows, context + 1), generator=torch.Generator().manual_seed(0)
    )
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        model_module.attend = SDPA if plain else attend
        began = time.perf_counter()
        forward(inputs, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        return rows * context / (time.perf_counter() - began)

    return step


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def compare(preset: str, rounds: int, steps: int) -> dict:
    """Median tokens per second of both variants, in turns, and the ratio round by round."""
    variants = {"ours": variant(preset, plain=False), "plain": variant(preset, plain=True)}
    for step in variants.values():  # compile, and warm up
        step(), step()
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, step in variants.items():
            speeds[name].append(median([step() for _ in range(steps)]))
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["plain"], strict=True)]
    return {
        "ours_tokens_per_s": round(median(speeds["ours"])),
        "plain_fp32_sdpa_tokens_per_s": round(median(speeds["plain"])),
        "ratio": round(median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main(argv: list[str]) -> None:
    """Print a table, then JSON."""
    parser = argparse.ArgumentParser(prog="python -m ci.bench train", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, action="append")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args(argv)
    result = {"system": system_info(), "dtype": str(compute_dtype(torch.device("cpu")))}
    print(f"{'preset':<8}{'ours tok/s':>12}{'plain tok/s':>13}{'ratio':>8}   ({result['dtype']})")
    for preset in args.preset or PRESETS:
        found = result[preset] = compare(preset, args.rounds, args.steps)
        ours, plain = found["ours_tokens_per_s"], found["plain_fp32_sdpa_tokens_per_s"]
        print(f"{preset:<8}{ours:>12,}{plain:>13,}{found['ratio']:>8.2f}", flush=True)
    print(json.dumps(result))
