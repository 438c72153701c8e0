"""Is the model any good? Bits per byte on held-out text, and CORE: 22 tasks for a base model."""

import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from chatlib.data.world import CORE_TASKS as WORLD_TASKS
from chatlib.errors import ChatlibError
from chatlib.loss import IGNORE

TOKENS_PER_BATCH = 8192  # of prompts scored together; bounds the memory the logits take


def sum_over_processes(values: Tensor) -> Tensor:
    """`values` added up over all processes of a distributed run; itself in a single one."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def _windows(tokenizer, texts: Sequence[str], seq_len: int) -> list[tuple[int, list[int]]]:
    """(document, ids) of windows that start with bos and hold up to `seq_len` tokens to predict."""
    bos, windows = tokenizer.bos, []
    for document, ids in enumerate(tokenizer.encode_batch(texts)):
        ids = [*ids, bos]  # the next document's bos is the end of this one
        for start in range(0, len(ids), seq_len):
            windows.append((document, [bos, *ids[start : start + seq_len]]))
    return sorted(windows, key=lambda window: len(window[1]))


def pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of ids, made equally long with `fill` on the right: (B, T) int64."""
    table = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(table)


def _batches(windows: list, batch: int, bos: int) -> list[tuple[Tensor, Tensor]]:
    groups = [windows[i : i + batch] for i in range(0, len(windows), batch)]
    return [
        (pad([ids[:-1] for _, ids in group], bos), pad([ids[1:] for _, ids in group], IGNORE))
        for group in groups
    ]


def document_batches(
    tokenizer, texts: Sequence[str], seq_len: int, batch: int = 32
) -> list[tuple[Tensor, Tensor]]:
    """Whole documents as (inputs, targets) int64 (<= batch, <= seq_len), for `bits_per_byte`.

    Each document starts with bos and is scored up to the bos after it, every token once; a longer
    one goes on in a window of its own. Rows are padded (target -1), not packed, so the result
    does not depend on the batch size, the number of processes or what else is in the list.
    In a distributed run process r takes `batches[r::world_size]`.
    """
    return _batches(_windows(tokenizer, texts, seq_len), batch, tokenizer.bos)


@torch.inference_mode()
def bits_per_byte(model, batches: Iterable[tuple[Tensor, Tensor]], token_bytes: Tensor) -> float:
    """Bits the model needs per byte of text, over all batches of all processes.

    Loss per token depends on the tokenizer; this does not. token_bytes (V,), on the model's
    device: the length in bytes of each token, 0 for the special ones, which are left out.
    """
    totals = torch.zeros(2, dtype=torch.float64, device=token_bytes.device)  # nats, bytes
    for inputs, targets in batches:
        inputs, targets = inputs.to(token_bytes.device), targets.to(token_bytes.device)
        lengths = token_bytes[targets.clamp(min=0)] * (targets != IGNORE)
        losses = model(inputs, targets, reduction="none").double()
        totals += torch.stack([(losses * (lengths > 0)).sum(), lengths.sum()])
    nats, size = sum_over_processes(totals).tolist()
    return nats / math.log(2) / size


@torch.inference_mode()
def document_bits(model, tokenizer, texts: Sequence[str], batch: int = 32) -> np.ndarray:
    """Bits the model needs for each text (N,), the end of the document included.

    This is what the world's exact log-probability of a document measures, so the sums of the two
    over the same documents, divided by the bytes of text, can be compared digit by digit.
    """
    windows = _windows(tokenizer, texts, model.config.sequence_len)
    device = next(model.parameters()).device
    nats = []
    for inputs, targets in _batches(windows, batch, tokenizer.bos):
        losses = model(inputs.to(device), targets.to(device), reduction="none")
        nats += losses.double().sum(1).tolist()
    owners = [document for document, _ in windows]
    return np.bincount(owners, weights=nats, minlength=len(texts)) / math.log(2)


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of sum(numerators) / sum(denominators) over documents."""
    rng = np.random.default_rng(seed)
    n = len(numerators)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples)  # how often each is drawn
    ratios = (weights @ numerators) / (weights @ denominators)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class CoreTask:
    """One task. What its items hold says of which type it is:

    multiple choice  query, choices, gold: which of several continuations is likeliest
    schema           context_options, continuation, gold: after which context it is likeliest
    language model   context, continuation: is exactly this what greedy decoding writes
    """

    name: str
    items: list[dict]
    shots: int = 0  # solved examples shown before each item
    baseline: float = 0.0  # accuracy that is centered to 0
    delimiter: str = " "


CORE_TASKS = (  # name, shots, accuracy of a guess; in the order of the reference
    ("hellaswag_zeroshot", 0, 0.25),
    ("jeopardy", 10, 0.0),
    ("bigbench_qa_wikidata", 10, 0.0),
    ("arc_easy", 10, 0.25),
    ("arc_challenge", 10, 0.25),
    ("copa", 0, 0.5),
    ("commonsense_qa", 10, 0.2),
    ("piqa", 10, 0.5),
    ("openbook_qa", 0, 0.25),
    ("lambada_openai", 0, 0.0),
    ("hellaswag", 10, 0.25),
    ("winograd", 0, 0.5),
    ("winogrande", 0, 0.5),
    ("bigbench_dyck_languages", 10, 0.0),
    ("agi_eval_lsat_ar", 3, 0.2),
    ("bigbench_cs_algorithms", 10, 0.0),
    ("bigbench_operators", 10, 0.0),
    ("bigbench_repeat_copy_logic", 10, 0.0),
    ("squad", 10, 0.0),
    ("coqa", 0, 0.0),
    ("boolq", 10, 0.62),
    ("bigbench_language_identification", 10, 0.091),
)
FILES = {  # where it is not the task's name
    "hellaswag_zeroshot": "hellaswag",
    "jeopardy": "jeopardy_all",
    "winograd": "winograd_wsc",
}
ASKED = {"jeopardy", "arc_easy", "arc_challenge", "piqa", "boolq"}  # with "Answer:", not a space
# DCLM corrected three baselines in 2025. Published scores, GPT-2's among them, use the first ones.
CORRECTED_BASELINES = {
    "commonsense_qa": 0.403,
    "agi_eval_lsat_ar": 0.25,
    "bigbench_language_identification": 0.25,
}


def load_core_tasks(folder: str | Path, corrected: bool = False) -> list[CoreTask]:
    """The CORE tasks whose JSONL files lie anywhere under `folder`, in the table's order."""
    files = {path.stem: path for path in Path(folder).rglob("*.jsonl")}
    tasks = []
    for name, shots, baseline in CORE_TASKS:
        path = files.get(FILES.get(name, name))
        if path:
            lines = path.read_text(encoding="utf-8").splitlines()
            items = [json.loads(line) for line in lines if line.strip()]
            if corrected:
                baseline = CORRECTED_BASELINES.get(name, baseline)
            delimiter = "\nAnswer: " if name in ASKED else " "
            tasks.append(CoreTask(name, items, shots, baseline, delimiter))
    if not tasks:
        raise ChatlibError(
            f'No CORE tasks in "{folder}": give the folder that holds files like arc_easy.jsonl.'
        )
    return tasks


def world_core_tasks(world, items: int = 200) -> list[CoreTask]:
    """The small world's tasks in the same three formats; their "core" is CORE-world."""
    return [
        CoreTask(name, world.core_items(name, items), shots, percent / 100)
        for name, (_, shots, percent) in WORLD_TASKS.items()
    ]


def pick_items(task: CoreTask, max_items: int | None = None) -> CoreTask:
    """The task with its items shuffled, always in the same way, and the first `max_items` kept."""
    items = list(task.items)
    random.Random(1337).shuffle(items)
    return replace(task, items=items[:max_items])


def _solved(item: dict, delimiter: str) -> str:
    """An item with its right answer, as shown to the model before the one it has to solve."""
    if "choices" in item:
        return item["query"] + delimiter + item["choices"][item["gold"]]
    if "context_options" in item:
        return item["context_options"][item["gold"]] + delimiter + item["continuation"]
    return item["context"].strip() + delimiter + item["continuation"]


def render_item(task: CoreTask, index: int) -> list[str]:
    """The texts to score for an item: one per option, or the prompt without and with the answer."""
    others = len(task.items) - 1
    drawn = random.Random(1234 + index).sample(range(others), min(task.shots, others))
    shots = [task.items[i + (i >= index)] for i in drawn]  # any item but this one
    before = "".join(_solved(shot, task.delimiter) + "\n\n" for shot in shots)
    item, delimiter = task.items[index], task.delimiter
    if "choices" in item:
        return [before + item["query"] + delimiter + choice for choice in item["choices"]]
    if "context_options" in item:
        ending = delimiter + item["continuation"]
        return [before + context + ending for context in item["context_options"]]
    prompt = before + item["context"].strip() + delimiter
    return [prompt.strip(), prompt + item["continuation"]]


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    shared = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def answer_rows(item: dict, rows: list[list[int]], max_len: int) -> list[tuple[list[int], int]]:
    """(ids, where the scored part starts) for the tokenized texts of one item.

    Where the answer begins is found in the tokens, not in the text: its first characters may have
    merged with what precedes them. Rows over `max_len` tokens lose their beginning.
    """
    if "context_options" in item:
        shared = _common([row[::-1] for row in rows])
        starts = [len(row) - shared for row in rows]
    else:
        shared = _common(rows)
        rows = rows[1:] if "context" in item else rows  # there, the row with the answer
        starts = [min(shared, min(map(len, rows)) - 1)] * len(rows)
    cuts = [max(len(row) - max_len, 0) for row in rows]
    return [
        (row[cut:], max(start - cut, 1)) for row, start, cut in zip(rows, starts, cuts, strict=True)
    ]


def by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of rows of similar length, in groups of at most TOKENS_PER_BATCH tokens."""
    group: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if group and (len(group) + 1) * len(rows[i]) > TOKENS_PER_BATCH:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


@torch.inference_mode()
def score_rows(model, rows: list[tuple[list[int], int]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean nats per token of each row from its start on (N,), and whether all are the argmax."""
    device = next(model.parameters()).device
    nats, exact = np.zeros(len(rows)), np.zeros(len(rows), bool)
    for group in by_length([ids for ids, _ in rows]):
        some = [rows[i] for i in group]
        targets = pad([[IGNORE] * (s - 1) + ids[s:] for ids, s in some], IGNORE).to(device)
        logits = model(pad([ids[:-1] for ids, _ in some], 0).to(device))  # (B, T, V)
        losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        ).view_as(targets)
        scored = targets != IGNORE
        nats[group] = (losses.sum(1) / scored.sum(1)).cpu().numpy()
        exact[group] = ((logits.argmax(-1) == targets) | ~scored).all(1).cpu().numpy()
    return nats, exact


def score_task(model, tokenizer, task: CoreTask, max_items: int | None = None) -> np.ndarray:
    """1.0 for each item solved, 0.0 for each that is not (N,); the processes share the items."""
    task = pick_items(task, max_items)
    rank, world_size = 0, 1
    if dist.is_available() and dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
    mine = range(rank, len(task.items), world_size)
    items = []
    for i in mine:
        rows = [[tokenizer.bos, *ids] for ids in tokenizer.encode_batch(render_item(task, i))]
        items.append(answer_rows(task.items[i], rows, model.config.sequence_len))
    nats, exact = score_rows(model, [row for rows in items for row in rows])
    device = next(model.parameters()).device
    right, end = torch.zeros(len(task.items), dtype=torch.float64, device=device), 0
    for i, rows in zip(mine, items, strict=True):
        start, end = end, end + len(rows)
        gold = task.items[i].get("gold")
        right[i] = float(exact[start] if gold is None else nats[start:end].argmin() == gold)
    return sum_over_processes(right).cpu().numpy()


def _interval(draws: np.ndarray) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(draws, [0.025, 0.975])]


def evaluate_core(model, tokenizer, tasks: list[CoreTask], max_items: int | None = None) -> dict:
    """Score every task: {"core", "interval", "tasks": {name: accuracy, centered, interval, items}}.

    centered = (accuracy - baseline) / (1 - baseline): 0 is guessing, 1 is perfect. "core" is their
    mean, "interval" its 95% bootstrap interval over items; it does not cover the spread between
    training runs, which is larger. GPT-2 has .1084 on the 22 tasks, GPT-2 XL .2565.
    """
    rng = np.random.default_rng(0)
    results, draws = {}, []
    for task in tasks:
        right = score_task(model, tokenizer, task, max_items)
        accuracy, n = float(right.mean()), len(right)
        resampled = rng.binomial(n, accuracy, size=2000) / n  # the bootstrap of n zeros and ones
        draws.append((resampled - task.baseline) / (1 - task.baseline))
        results[task.name] = {
            "accuracy": accuracy,
            "centered": (accuracy - task.baseline) / (1 - task.baseline),
            "interval": _interval(draws[-1]),
            "items": n,
        }
    core = float(np.mean([result["centered"] for result in results.values()]))
    return {"core": core, "interval": _interval(np.mean(draws, axis=0)), "tasks": results}
