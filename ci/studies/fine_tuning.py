"""What the loss mask does, and what the parts of a policy gradient do: three seeds each.

    python -m ci.studies.fine_tuning

Fine-tunes the reference base model a little, with and without the mask, and reinforces the
reference SFT model a little, with five kinds of advantage. Writes book/data/fine_tuning.json. Two
processes of one thread each, some four minutes.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from chatlib.chat_evaluation import reply_text, write_replies
from chatlib.data.loader import ConversationLoader
from chatlib.data.world import RL_KINDS, World
from chatlib.distributed import Distributed
from chatlib.engine import Engine, Reply
from chatlib.loss import IGNORE
from chatlib.model import GPT
from chatlib.notebook import reference
from chatlib.pretraining import optimizer_for
from chatlib.reinforce import Rollouts, advantages
from chatlib.runs import atomic_write, system_info
from chatlib.scaling import get_scale, make_plan
from chatlib.tasks import world_task
from chatlib.tokenizer import Tokenizer
from chatlib.training import gradient_norm
from ci._venv import ROOT

RESULT = ROOT / "book" / "data" / "fine_tuning.json"
SEEDS = (0, 1, 2)
SFT_STEPS, SFT_ROWS, SFT_LOOK = 30, 8, 6
RL_STEPS, RL_WARMUP, RL_RATE, PRICE, KL_WEIGHT = 14, 5, 0.03, 0.1, 0.2
SCALE = replace(get_scale("laptop"), rl_questions=8, rl_samples=8, rl_max_tokens=32)
ADVANTAGES = {  # rewards (Q, n) -> (Q, n)
    "group mean": advantages,
    "no baseline": lambda rewards: rewards,
    "spread": lambda rewards: advantages(rewards) / (rewards.std(1, keepdim=True) + 1e-6),
    "KL term": advantages,
    "price": advantages,
}


def unmasked(inputs: Tensor, targets: Tensor, bos: int) -> Tensor:
    """Targets on every token but bos, which is also the padding: (B, T)."""
    everything = torch.cat((inputs[:, 1:], targets[:, -1:]), 1)
    return torch.where(everything == bos, IGNORE, everything)


def right_facts(engine: Engine, count: int = 60) -> float:
    """The share of facts answered rightly, greedily, asked in words of the training split."""
    task = world_task(count, "train", ("facts_asked",))
    problems = [task[i] for i in range(count)]
    replies = write_replies(engine, problems, max_tokens=40)
    return sum(p.check(r) for p, r in zip(problems, replies, strict=True)) / count


def conversations_from(first: int):
    """The small world's conversations from number `first` on, so that every seed reads its own."""
    return lambda position: World().conversations("train", first + position)


def fine_tune(masked: bool, seed: int) -> dict:
    """One short run from the base model: loss on held-out assistant and user tokens, accuracy."""
    torch.set_num_threads(1)
    tokenizer, model = reference.tokenizer(), reference.model("base")
    optimizer = optimizer_for(model, _plan(tokenizer), Distributed(), rate=SCALE.sft_lr)
    loader = ConversationLoader(
        conversations_from(100_000 * seed), tokenizer, SFT_ROWS, SCALE.sequence_len
    )
    held_out = ConversationLoader(
        lambda position: World().conversations("validation", position), tokenizer, 32,
        SCALE.sequence_len,
    )  # fmt: skip
    inputs, answers = next(held_out)
    others = torch.where(answers >= 0, IGNORE, unmasked(inputs, answers, tokenizer.bos))
    held_out.close()
    looks, began = [], time.perf_counter()
    for step in range(SFT_STEPS + 1):
        if step % SFT_LOOK == 0:
            with torch.no_grad():
                assistant, user = (float(model(inputs, t)) for t in (answers, others))
            looks.append({"step": step, "assistant": assistant, "user": user})
        if step == SFT_STEPS:
            break
        x, y = next(loader)
        y = y if masked else unmasked(x, y, tokenizer.bos)
        model(x, y).backward()
        optimizer.set_schedule(min(1.0, 2 - 2 * step / SFT_STEPS), 0.9, 0.0)
        optimizer.step()
        optimizer.zero_grad()
    loader.close()
    facts = right_facts(Engine(model, tokenizer))
    print("sft", masked, seed, looks[-1], facts, flush=True)
    seconds = round(time.perf_counter() - began, 1)
    return {"masked": masked, "seed": seed, "looks": looks, "facts": facts, "seconds": seconds}


def _plan(tokenizer: Tokenizer):
    return make_plan(SCALE, tokenizer.vocab_size)


def spread_and_shift(model: GPT, before: GPT, inputs: Tensor, sampled: Tensor) -> tuple:
    """Entropy, and KL divergence from the model before, in nats per sampled token: () and ()."""
    log_p = model(inputs)[sampled].log_softmax(-1)  # (N, V)
    with torch.no_grad():
        log_q = before(inputs)[sampled].log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p).sum(-1).mean(), (p * (log_p - log_q)).sum(-1).mean()


def measure(tokenizer: Tokenizer, problems: list, replies: list[Reply]) -> dict[str, Tensor]:
    """Right or wrong, and length, of each reply: (Q, n); how many call the tool, and end."""
    right = [
        float(p.check(reply_text(tokenizer, r.tokens)))
        for p, r in zip(problems, replies, strict=True)
    ]
    call = tokenizer.special("<|python_start|>")
    return {
        "right": torch.tensor(right).view(-1, SCALE.rl_samples),
        "length": torch.tensor([float(len(r.tokens)) for r in replies]).view(-1, SCALE.rl_samples),
        "tool": torch.tensor([float(call in r.tokens) for r in replies]),
        "finished": torch.tensor([float(r.finish == "stop") for r in replies]),
    }


def reinforce(kind: str, seed: int) -> dict:
    """One short run from the SFT model: what was rewarded and what was right, step by step."""
    torch.set_num_threads(1)
    tokenizer, model, before = (
        reference.tokenizer(), reference.model("sft"), reference.model("sft")
    )  # fmt: skip
    task = world_task(RL_STEPS * SCALE.rl_questions * (seed + 1), "train", RL_KINDS)
    problems = [task[i] for i in range(len(task))][-RL_STEPS * SCALE.rl_questions :]
    rollouts = Rollouts(model, tokenizer, problems, SCALE, Distributed())
    optimizer = optimizer_for(model, _plan(tokenizer), Distributed(), rate=RL_RATE)
    rows, began = [], time.perf_counter()
    for step in range(RL_STEPS):
        asked, replies = rollouts.ask()
        rollouts.step += 1
        found = measure(tokenizer, asked, replies)
        rewards = found["right"] - (PRICE * found["length"] if kind == "price" else 0.0)
        inputs, targets, weights = rollouts.pack(replies, ADVANTAGES[kind](rewards).flatten())
        sampled = targets >= 0
        loss = (model(inputs, targets, reduction="none") * weights)[sampled].mean()
        with torch.set_grad_enabled(kind == "KL term"):
            entropy, shift = spread_and_shift(model, before, inputs, sampled)
        if kind == "KL term":
            loss = loss + KL_WEIGHT * shift
        loss.backward()
        row = {key: round(float(value.mean()), 4) for key, value in found.items()}
        rows.append(row | {
            "step": step, "reward": float(rewards.mean()), "entropy": float(entropy),
            "kl": float(shift), "grad_norm": gradient_norm(model),
            "mixed": float((found["right"].std(1) > 0).float().mean()),
            "passed": float(found["right"].amax(1).mean()),
        })  # fmt: skip
        optimizer.set_schedule(min((step + 1) / RL_WARMUP, 1.0), 0.85, 0.0)
        optimizer.step()
        optimizer.zero_grad()
    facts = right_facts(Engine(model, tokenizer))
    print("rl", kind, seed, rows[0], rows[-1], facts, flush=True)
    seconds = round(time.perf_counter() - began, 1)
    return {"kind": kind, "seed": seed, "rows": rows, "facts": facts, "seconds": seconds}


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2) as pool:
        rl = [pool.submit(reinforce, kind, seed) for seed in SEEDS for kind in ADVANTAGES]
        sft = [pool.submit(fine_tune, masked, seed) for seed in SEEDS for masked in (True, False)]
        result = {"sft": [f.result() for f in sft], "rl": [f.result() for f in rl]}
    settings = {"sft_steps": SFT_STEPS, "sft_rows": SFT_ROWS, "rl_steps": RL_STEPS,
                "rl_rate": RL_RATE, "rl_warmup": RL_WARMUP, "price": PRICE, "kl_weight": KL_WEIGHT}  # fmt: skip
    result |= {"settings": settings, "seeds": SEEDS, "system": system_info()}
    atomic_write(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
