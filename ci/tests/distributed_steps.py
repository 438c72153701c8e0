"""What test_distributed.py runs under torchrun: a few steps on this process's share of the rows."""

import sys
from pathlib import Path

import torch

from chatlib.distributed import Distributed, cleanup, setup
from chatlib.model import GPT, GPTConfig
from chatlib.optim import MuonAdamW, OptimConfig, build_optimizer

ROWS = 6  # of a global batch, shared out over the processes


def start(dist: Distributed) -> tuple[GPT, MuonAdamW]:
    """A model of which every parameter has a gradient, and whose shapes divide badly.

    It is in float64: in float32 the order of a sum decides the sign of gradients that all but
    cancel, and AdamW makes a full step of a sign.
    """
    model = GPT(GPTConfig(70, 2, 2, 1, 32, 16), dtype=torch.float64).double()
    model.init_weights(0)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return model, build_optimizer(model, OptimConfig(), dist)


def steps(model: GPT, optimizer: MuonAdamW, dist: Distributed, first: int, count: int) -> None:
    """Each process accumulates over its rows, one at a time, as `training` does."""
    for step in range(first, first + count):
        ids = torch.randint(0, 70, (ROWS, 17), generator=torch.Generator().manual_seed(step))
        for row in range(dist.rank, ROWS, dist.world_size):
            loss = model(ids[row : row + 1, :-1], ids[row : row + 1, 1:], reduction="sum")
            (loss * dist.world_size / (ROWS * 16)).backward()
        optimizer.set_schedule(1.0, 0.9, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main(out: Path, count: int, resume_from: str = "") -> None:
    dist = setup("cpu")
    model, optimizer = start(dist)
    first = 0
    if resume_from:
        saved = torch.load(resume_from)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = optimizer.schedule.step
    steps(model, optimizer, dist, first, count)
    result = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "bytes": optimizer.bytes_sent,
        "owned": {group.name: group.stop - group.start for group in optimizer.groups},
    }
    torch.save(result, out / f"{dist.world_size}_{dist.rank}.pt")
    print(f"process {dist.rank} of {dist.world_size} is done")
    cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
