"""What each element of the model is worth in a small world: `python -m ci.studies.ablations`.

Trains the model once whole and once without each of its elements, with the same tokens in the same
order, from three seeds, and writes book/data/ablations.json. Two processes, about four minutes.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from unittest.mock import patch

import torch
import torch.nn.functional as F

from chatlib.evaluation import bits_per_byte, document_batches
from chatlib.model import GPT, MLP, GPTConfig
from chatlib.notebook import reference
from chatlib.training import Schedule
from ci.studies import shared

LAYERS, WIDTH, HEADS, CONTEXT, ROWS = 4, 64, 2, 128, 8
STEPS, SEEDS, EVERY = 120, (0, 1, 2), 10
VALIDATION = 240  # documents


class NoValueEmbeddings(GPTConfig):
    """The same shape without tables of values."""

    def has_value_embedding(self, layer: int) -> bool:
        return False


def norm_but_not_heads(x: torch.Tensor) -> torch.Tensor:
    """The model's norm, except for queries and keys, which alone have four dimensions."""
    return x if x.dim() == 4 else F.rms_norm(x, (x.size(-1),))


@dataclass(frozen=True)
class Variant:
    """The model with something else in the place of one element (or of all)."""

    config: type[GPTConfig] = GPTConfig
    held: dict[str, float] = field(default_factory=dict)  # parameters kept at a value
    names: dict[str, object] = field(default_factory=dict)  # of the library, replaced
    gelu: bool = False

    def patches(self) -> ExitStack:
        """While this is open, the library is the variant's."""
        stack = ExitStack()
        for name, value in self.names.items():
            stack.enter_context(patch(name, value))
        if self.gelu:
            stack.enter_context(patch.object(MLP, "forward", lambda m, x: m.down(F.gelu(m.up(x)))))
        return stack


NO_QK_NORM = {"chatlib.model.norm": norm_but_not_heads, "chatlib.model.QK_SCALE": 1.0}
NO_SOFTCAP = {"chatlib.loss.SOFTCAP": 1e6}
OFF = {"smear_scale": 0.0, "backout_scale": 0.0, "residual_scales": 1.0, "embedding_scales": 0.0}
VARIANTS = {
    "whole": Variant(),
    "no value embeddings": Variant(NoValueEmbeddings),
    "no smear": Variant(held={"smear_scale": 0.0}),
    "no backout": Variant(held={"backout_scale": 0.0}),
    "no x0 scales": Variant(held={"embedding_scales": 0.0}),
    "no residual scales": Variant(held={"residual_scales": 1.0}),
    "GELU for relu²": Variant(gelu=True),
    "no QK norm": Variant(names=NO_QK_NORM),
    "no softcap": Variant(names=NO_SOFTCAP),
    "none of them": Variant(NoValueEmbeddings, OFF, NO_QK_NORM | NO_SOFTCAP, gelu=True),
}


@cache
def batches(seed: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same (inputs, targets), (ROWS, CONTEXT) each, for every variant; other text per seed."""
    return list(shared.batches(10_000 * seed, ROWS, CONTEXT, steps, buffer=64))


@cache
def held_out() -> list[tuple[torch.Tensor, torch.Tensor]]:
    texts = [document.text for document in shared.held_out(VALIDATION)]
    return document_batches(reference.tokenizer(), texts, CONTEXT)


def steps_of(variant: Variant, model: GPT, seed: int, stop: int) -> Iterator[float]:
    """Train for the first `stop` steps of the study's schedule; yields each step's loss, nats."""
    held = {name: (model.get_parameter(name), value) for name, value in variant.held.items()}
    optimizer = shared.laptop_optimizer(model)
    schedule = Schedule(STEPS, warmup=10, warmdown=0.5, final_lr=0.05)
    for step, batch in enumerate(batches(seed, stop)):
        for parameter, value in held.values():
            parameter.data.fill_(value)
        yield shared.step(model, optimizer, batch, schedule.lr(step), schedule.momentum(step))
    for parameter, value in held.values():
        parameter.data.fill_(value)


def run(name: str, seed: int, steps: int = STEPS) -> dict:
    """Train one variant from one seed.

    Returns
    -------
    dict with "losses" (nats a token, mean of each EVERY steps) and "bpb" on held-out documents.
    """
    variant, tokenizer = VARIANTS[name], reference.tokenizer()
    config = variant.config(tokenizer.vocab_size, LAYERS, HEADS, HEADS, WIDTH, CONTEXT)
    with variant.patches():
        model = GPT(config)
        model.init_weights(seed)
        losses = list(steps_of(variant, model, seed, steps))
        bpb = bits_per_byte(model, held_out(), torch.from_numpy(tokenizer.token_bytes()))
    means = [sum(losses[i : i + EVERY]) / EVERY for i in range(0, steps, EVERY)]
    return {"losses": [round(x, 4) for x in means], "bpb": round(bpb, 4)}


def main() -> None:
    began = time.perf_counter()
    runs: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    todo = [(name, seed) for seed in SEEDS for name in VARIANTS]
    for (name, seed), done in zip(todo, shared.in_two_processes(run, todo), strict=True):
        runs[name].append(done)
        took = time.perf_counter() - began
        print(f"{took:5.0f} s  seed {seed}  {name:20s} {done['bpb']:.4f}", flush=True)
    result = {
        "what": "bits per byte on held-out text of the small world, equal tokens",
        "model": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT},
        "tokens": STEPS * ROWS * CONTEXT,
        "steps": STEPS,
        "every": EVERY,
        "seeds": list(SEEDS),
        "seconds": round(time.perf_counter() - began),
        "runs": runs,
    }
    shared.store("ablations", result)


if __name__ == "__main__":
    main()
