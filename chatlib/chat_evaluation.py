"""Is the chat model any good? Ask it questions whose answers can be checked.

A question with lettered choices is answered by the likeliest of the letters, without generating;
all others by generating greedily, tools included, and checking the text. Code is checked by
running it. "chat_core" is the mean over tasks of (accuracy - baseline) / (1 - baseline).
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import distributed as dist

from chatlib.conversation import parse_assistant, render_prompt
from chatlib.engine import Engine
from chatlib.evaluation import by_length, pad, sum_over_processes
from chatlib.tasks import Problem, Task


def wilson_interval(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a proportion; sensible even where all or none of few are right."""
    if n == 0:
        return 0.0, 1.0
    p, spread = right / n, z * z / n
    middle = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def reply_text(tokenizer, ids: Sequence[int]) -> str:
    """What the assistant says to the user: its text, without tool calls and their output."""
    parts = parse_assistant(tokenizer, ids)
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _letter_ids(tokenizer, problem: Problem) -> list[int] | None:
    """The token of each letter; None when the question has to be answered by generating."""
    ids = [tokenizer.encode(letter) for letter in problem.letters]
    return [i for (i,) in ids] if ids and all(len(i) == 1 for i in ids) else None


def _prompts(engine: Engine, problems: Sequence[Problem], room: int) -> list[list[int]]:
    """The prompts as ids; one that leaves less than `room` to answer loses its beginning."""
    longest = engine.context - min(room, engine.context // 2)
    prompts = [render_prompt(engine.tokenizer, p.conversation) for p in problems]
    return [p if len(p) <= longest else [p[0], *p[len(p) - longest + 1 :]] for p in prompts]


@torch.inference_mode()
def choose_letters(engine: Engine, problems: Sequence[Problem]) -> list[str]:
    """For each problem the letter with the highest score right after the prompt."""
    prompts = _prompts(engine, problems, 1)
    chosen = [""] * len(prompts)
    for group in by_length(prompts):
        lengths = torch.tensor([len(prompts[i]) for i in group], device=engine.device)
        ids = pad([prompts[i] for i in group], engine.bos).to(engine.device)
        logits = engine.model(ids)  # (B, T, V)
        last = logits[torch.arange(len(group), device=engine.device), lengths - 1]  # (B, V)
        for i, scores in zip(group, last, strict=True):
            letters = _letter_ids(engine.tokenizer, problems[i])
            chosen[i] = problems[i].letters[int(scores[letters].argmax())]
    return chosen


def write_replies(
    engine: Engine, problems: Sequence[Problem], max_tokens: int = 256, rows: int = 64, **sampling
) -> list[str]:
    """What the model says to each problem; greedy unless `sampling` says otherwise."""
    sampling = {"temperature": 0.0} | sampling
    prompts = _prompts(engine, problems, max_tokens)
    replies = engine.generate_batch(prompts, max_tokens=max_tokens, rows=rows, **sampling)
    return [reply_text(engine.tokenizer, reply.tokens) for reply in replies]


def answer_problems(engine: Engine, problems: Sequence[Problem], max_tokens: int = 256) -> list:
    """A reply to each problem, by letter where it has letters that are tokens, else in full."""
    lettered = [_letter_ids(engine.tokenizer, problem) is not None for problem in problems]
    replies = {}
    for by_letter, answer in (
        (True, lambda some: choose_letters(engine, some)),
        (False, lambda some: write_replies(engine, some, max_tokens)),
    ):
        picked = [i for i, is_lettered in enumerate(lettered) if is_lettered == by_letter]
        if picked:
            replies |= zip(picked, answer([problems[i] for i in picked]), strict=True)
    return [replies[i] for i in range(len(problems))]


def score_problems(engine: Engine, problems: Sequence[Problem], max_tokens: int = 256):
    """1.0 for each right reply (N,); the processes of a distributed run share the problems."""
    rank, world_size = 0, 1
    if dist.is_available() and dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
    mine = list(range(rank, len(problems), world_size))
    replies = answer_problems(engine, [problems[i] for i in mine], max_tokens)
    right = torch.zeros(len(problems), dtype=torch.float64, device=engine.device)
    with ThreadPoolExecutor() as pool:  # a check may have to run a program
        checks = pool.map(lambda i, reply: problems[i].check(reply), mine, replies)
        for i, is_right in zip(mine, checks, strict=True):
            right[i] = float(is_right)
    return sum_over_processes(right).cpu().numpy()


def _accuracy(right: np.ndarray) -> dict:
    low, high = wilson_interval(float(right.sum()), len(right))
    return {
        "accuracy": float(right.mean()),
        "interval": [round(low, 4), round(high, 4)],
        "items": len(right),
    }


def evaluate_chat(
    engine: Engine, tasks: Sequence[Task], max_items: int | None = None, max_tokens: int = 256
) -> dict:
    """{"chat_core", "tasks": {name: accuracy, centered, interval, items, kinds}}, greedy.

    `kinds` holds the same for each kind of problem in the task. The first `max_items` problems of
    each task are asked; intervals are Wilson's, 95%.
    """
    results = {}
    for task in tasks:
        problems = [task[i] for i in range(min(len(task), max_items or len(task)))]
        right = score_problems(engine, problems, max_tokens)
        kinds = np.array([problem.kind for problem in problems])
        result = _accuracy(right)
        result["centered"] = (result["accuracy"] - task.baseline) / (1 - task.baseline)
        result["kinds"] = {
            kind: _accuracy(right[kinds == kind]) for kind in sorted(set(kinds) - {""})
        }
        results[task.name] = result
    core = float(np.mean([result["centered"] for result in results.values()]))
    return {"chat_core": core, "tasks": results}
