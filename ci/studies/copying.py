"""When does a model learn to copy a name it has read? `python -m ci.studies.copying`.

Trains the laptop model for its first 200 steps from four seeds, on the same documents in the same
order, and measures on the way what a name costs that has occurred before in its document. Writes
book/data/copying.json. Two processes of one thread each, ten minutes on a busy machine.
"""

import math
import time

import torch
from torch import Tensor

from chatlib.data.world.stories import BOYS, GIRLS
from chatlib.evaluation import document_batches
from chatlib.model import GPT
from chatlib.notebook import reference
from chatlib.scaling import get_scale, make_plan
from chatlib.training import Schedule, compiled
from ci.studies import shared

SEEDS = (0, 1, 2, 3)
STEPS, EVERY = 200, 10
DOCUMENTS = 400  # of the validation split, of which the stories and dialogues count


def repeated_names(tokenizer, inputs: Tensor, targets: Tensor) -> Tensor:
    """(B, T) bool: where the token to predict is a child's name that stands earlier in the row."""
    names = torch.tensor([tokenizer.encode(f" {name}")[0] for name in (*GIRLS, *BOYS)])
    before = (targets[:, :, None] == inputs[:, None, :]).tril().any(-1)
    return before & torch.isin(targets, names)


@torch.inference_mode()
def bits_a_name(model: GPT, batches: list[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Mean cost in bits of the names that `repeated_names` points at."""
    nats = [model(x, y, reduction="none")[where] for x, y, where in batches]
    return torch.cat(nats).mean().item() / math.log(2)


def run(seed: int) -> dict:
    """The cost of a repeated name at every tenth step of a run from these first weights."""
    scale, tokenizer = get_scale("laptop"), reference.tokenizer()
    plan = make_plan(scale, tokenizer.vocab_size)
    model = GPT(plan.config)
    model.init_weights(seed)
    optimizer, forward = shared.laptop_optimizer(model), compiled(model)
    schedule = Schedule(plan.steps, scale.warmup_steps, scale.warmdown, scale.final_lr)
    kept = [d.text for d in shared.held_out(DOCUMENTS) if d.kind in ("story", "dialogue")]
    batches = [
        (x, y, repeated_names(tokenizer, x, y))
        for x, y in document_batches(tokenizer, kept, scale.sequence_len)
    ]
    rows, steps, bits = scale.device_batch, [0], [bits_a_name(model, batches)]
    documents = shared.batches(0, rows, scale.sequence_len, STEPS, buffer=16)
    for i, read in enumerate(documents):
        shared.step(forward, optimizer, read, schedule.lr(i), schedule.momentum(i))
        if (i + 1) % EVERY == 0:
            steps.append(i + 1)
            bits.append(bits_a_name(model, batches))
    return {"seed": seed, "steps": steps, "bits": [round(b, 3) for b in bits]}


def main() -> None:
    began = time.perf_counter()
    runs = list(shared.in_two_processes(run, [(seed,) for seed in SEEDS]))
    scale = get_scale("laptop")
    result = {
        "what": "bits for a child's name that stands earlier in its document, by step and seed",
        "batch_tokens": scale.batch_tokens,
        "names": len(GIRLS) + len(BOYS),
        "documents": DOCUMENTS,
        "seconds": round(time.perf_counter() - began),
        "runs": runs,
    }
    shared.store("copying", result)


if __name__ == "__main__":
    main()
