"""Run a function of a notebook in several processes, and bring back what each returned."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as process_group
from torch import Tensor

from chatlib.distributed import launch

HEAD = """
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as process_group

from chatlib.distributed import cleanup, setup
from chatlib.notebook.workers import Wire

"""
TAIL = """
folder = Path(sys.argv[1])
me = setup("cpu")
torch.save({main}(me, folder), folder / f"result_{{me.rank}}.pt")
cleanup()
"""


class Wire:
    """Send and receive, with every byte that leaves this process counted."""

    def __init__(self) -> None:
        self.rank, self.n = process_group.get_rank(), process_group.get_world_size()
        self.sent = 0

    def send(self, x: Tensor, to: int) -> Any:
        """Begin to send x; wait for what is returned before changing x."""
        self.sent += x.nbytes
        return process_group.isend(x, to)

    def receive(self, x: Tensor, source: int) -> Tensor:
        """Fill x with what process `source` sends."""
        process_group.recv(x, source)
        return x

    def pass_on(self, x: Tensor) -> Tensor:
        """Send x to the next process on the ring, return what comes from the one before."""
        sending = self.send(x, (self.rank + 1) % self.n)
        y = self.receive(torch.empty_like(x), (self.rank - 1) % self.n)
        sending.wait()
        return y


def together(
    folder: Path, nproc: int, main: Callable, *helpers: Callable, **rendezvous: str
) -> list[Any]:
    """Run `main(me, folder)` in nproc processes at once; what each returned, by rank.

    A process starts empty: it knows `main`, the functions in `helpers`, and the imports of HEAD.
    What `main` returns is made of tensors, numbers, texts, lists and dicts. `rendezvous` are
    torchrun's flags, as for `launch`.
    """
    program = folder / f"{main.__name__}.py"
    functions = "\n\n".join(inspect.getsource(f) for f in (*helpers, main))
    program.write_text(HEAD + functions + TAIL.format(main=main.__name__), encoding="utf-8")
    launch([str(program), str(folder)], nproc=nproc, **rendezvous)
    return [torch.load(folder / f"result_{rank}.pt") for rank in range(nproc)]
