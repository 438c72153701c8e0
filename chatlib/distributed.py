"""Several processes, one model: who am I, who else is there, and how to start them all."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as process_group

from chatlib.errors import ChatlibError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Distributed:
    """This process's place among `world_size`; `rank` 0 is the one that speaks and writes."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait here until every process has come this far."""
        if self.world_size > 1:
            process_group.barrier()


def setup(device: str | None = None) -> Distributed:
    """Join the processes torchrun started, or stand alone when it did not.

    Reads RANK, WORLD_SIZE and LOCAL_RANK; talks over NCCL on GPUs, over gloo on CPUs.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if kind == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ChatlibError(
                f"Process {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
                "start as many processes as there are GPUs."
            )
        torch.cuda.set_device(local_rank)
    here = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    if "RANK" not in os.environ:
        return Distributed(device=here)
    process_group.init_process_group("nccl" if kind == "cuda" else "gloo")
    rank, world_size = process_group.get_rank(), process_group.get_world_size()
    return Distributed(rank, world_size, local_rank, here)


def cleanup() -> None:
    """Leave the group, if this process ever joined one."""
    if process_group.is_initialized():
        process_group.destroy_process_group()
