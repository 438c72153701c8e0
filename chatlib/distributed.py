"""Several processes, one model: who am I, who else is there, and how to start them all."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
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


def launch(arguments: Sequence[str], nproc: int = 1, nnodes: int = 1, **rendezvous: str) -> None:
    """Run `python ARGUMENTS` and show what it prints, line by line, as it comes.

    nproc : processes on this machine; more than one are started by torchrun.
    nnodes, rendezvous : torchrun's own flags for several machines, e.g. node_rank="1",
        master_addr="10.0.0.1", master_port="29500".
    Raises ChatlibError with the end of the log when the child fails. An interrupt reaches the child
    first, which may save; whatever it leaves behind is killed with its whole process group.
    """
    command = [sys.executable, "-u"]
    if nproc * nnodes > 1:
        flags = {"nproc_per_node": nproc, "nnodes": nnodes, **rendezvous}
        place = ["--standalone"] if nnodes == 1 else []
        command += ["-m", "torch.distributed.run", *place]
        command += [f"--{name}={value}" for name, value in flags.items()]
    child = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        bufsize=1,
        start_new_session=os.name != "nt",
    )
    last: deque[str] = deque(maxlen=40)
    try:
        for line in child.stdout:
            print(line, end="", flush=True)
            last.append(line)
        if child.wait():
            raise ChatlibError(_failure(arguments, child.returncode, list(last)))
    except KeyboardInterrupt:
        _signal_all(child, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=60)
        raise
    finally:
        _signal_all(child, getattr(signal, "SIGKILL", signal.SIGTERM))


def _signal_all(child: subprocess.Popen, number: int) -> None:
    """Send a signal to a child and everything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            child.kill()
        else:
            os.killpg(child.pid, number)


def _failure(arguments: Sequence[str], code: int, last: list[str]) -> str:
    """What went wrong, from the end of a log: the child's own sentence, or its traceback."""
    said = [line for line in last if line.startswith("error: ")]
    if said:
        return said[-1].removeprefix("error: ").strip()
    end = "".join(last).strip()
    return f"`{' '.join(arguments)}` ended with exit code {code}; it said last:\n{end}"
