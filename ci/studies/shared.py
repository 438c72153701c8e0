"""What the studies share: the small world as text, a step of training, two processes, a file."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import torch

from chatlib.data.loader import BestFitLoader
from chatlib.data.sources import Texts, WorldSource
from chatlib.data.world import Document, World
from chatlib.distributed import setup
from chatlib.model import GPT
from chatlib.notebook import reference
from chatlib.optim import MuonAdamW
from chatlib.pretraining import optimizer_for
from chatlib.runs import atomic_write, system_info
from chatlib.scaling import get_scale, make_plan
from ci._venv import ROOT

DATA = ROOT / "book" / "data"


@dataclass(frozen=True)
class Later:
    """The small world's documents from number `first` on, so that every seed reads its own."""

    first: int

    def documents(self, split: str, rank: int = 0, world_size: int = 1, start: int = 0) -> Texts:
        return WorldSource().documents(split, rank, world_size, self.first + start)


def batches(first: int, rows: int, context: int, steps: int, buffer: int) -> Iterator[tuple]:
    """`steps` of (inputs, targets), (rows, context) each, of documents from `first` on."""
    tokenizer = reference.tokenizer()
    with closing(BestFitLoader(Later(first), tokenizer, rows, context, buffer=buffer)) as loader:
        yield from islice(loader, steps)


def held_out(count: int) -> list[Document]:
    """The first documents of the small world's validation split."""
    return [World().document("validation", i) for i in range(count)]


def laptop_optimizer(model: GPT, batch_tokens: int = 0) -> MuonAdamW:
    """With the rates of the laptop scale, carried over to another batch if one is given."""
    plan = make_plan(get_scale("laptop"))
    growth = batch_tokens / plan.batch_tokens if batch_tokens else 1.0
    return optimizer_for(model, plan, setup(), growth**0.5)


def step(model: GPT, optimizer: MuonAdamW, batch: tuple, lr: float, momentum: float) -> float:
    """One step of training without weight decay; the loss before it, nats a token."""
    loss = model(*batch)
    loss.backward()
    optimizer.set_schedule(lr, momentum, 0.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def in_two_processes(function: Callable, tasks: list[tuple]) -> Iterator:
    """function(*task) for each task, in order, from two processes of one thread each."""
    with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(function, *zip(*tasks, strict=True))


def store(name: str, result: dict) -> None:
    """Write a study's result, and what it was made on, where the book reads it."""
    text = json.dumps(result | {"system": system_info()}, indent=1, ensure_ascii=False)
    atomic_write(DATA / f"{name}.json", text + "\n")
    print(f"wrote book/data/{name}.json")
