"""Several processes, one model: who am I, who else is there, and how to start them all."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as process_group

from chatlib.errors import ChatlibError

CPU = torch.device("cpu")
LAUNCHED = "CHATLIB_LAUNCHED"  # tells a child that its standard input is held by `launch`
ENVIRONMENT = {
    LAUNCHED: "1",
    "PYTHONUNBUFFERED": "1",
    # Restarted workers must not read the addresses of dead ones (PyTorch issue 135712).
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Large pages for the large tensors that come and go in each step: fewer page faults on a CPU.
    "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
}


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

    def __enter__(self) -> "Distributed":
        return self

    def __exit__(self, *_) -> None:
        cleanup()


def setup(device: str | None = None) -> Distributed:
    """Join the processes torchrun started, or stand alone when it did not.

    Reads RANK, WORLD_SIZE and LOCAL_RANK; talks over NCCL on GPUs, over gloo on CPUs. Used with
    `with`, the processes part at its end.
    """
    if os.environ.pop(LAUNCHED, None):
        threading.Thread(target=_end_with_launcher, daemon=True).start()
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


def _end_with_launcher() -> None:
    """End when the launcher does: it holds the other end of our standard input, and says nothing.

    Killed, it cannot tell its children; one that lived on would keep a stage locked for ever.
    """
    os.read(0, 1)  # returns when nobody holds the other end any more
    os._exit(1)


def launch(arguments: Sequence[str], nproc: int = 1, nnodes: int = 1, **rendezvous: str) -> None:
    """Run `python ARGUMENTS` and show what it prints, line by line, as it comes.

    nproc : processes on this machine; more than one are started by torchrun.
    nnodes, rendezvous : torchrun's own flags for several machines, e.g. node_rank="1",
        master_addr="10.0.0.1", master_port="29500".
    Raises ChatlibError with the failing process's own error or traceback. An interrupt reaches the
    child first, which may save; whatever it started and left behind is killed. Where this process
    is killed itself, children that called `setup` end at once.
    """
    _check_places(nproc)
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:
        child = subprocess.Popen(
            _command(arguments, nproc, nnodes, rendezvous, logs),
            stdin=subprocess.PIPE,  # never written to; it closes when we end, however we end
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | ENVIRONMENT,
            start_new_session=True,  # the terminal's Ctrl-C reaches us alone, and we pass it on
        )
        log = _Log()
        with child:
            try:
                for line in child.stdout:
                    log.show(line)
                code = child.wait()
            except BaseException:
                _stop(child)
                raise
    if code:
        raise ChatlibError(log.failure(arguments, code))


def _check_places(nproc: int) -> None:
    if nproc < 1:
        raise ChatlibError(f"nproc is {nproc}; start at least 1 process.")
    gpus = torch.cuda.device_count()
    if gpus and nproc > gpus:
        raise ChatlibError(f"nproc is {nproc}, but this machine has {gpus} GPUs; lower nproc.")


def _command(arguments, nproc: int, nnodes: int, rendezvous: dict, logs: str) -> list[str]:
    if nproc * nnodes == 1:
        return [sys.executable, *arguments]
    flags = {"nproc_per_node": nproc, "nnodes": nnodes, "tee": 3, "log_dir": logs, **rendezvous}
    place = ["--standalone"] if nnodes == 1 and not rendezvous else []
    named = [f"--{name}={value}" for name, value in flags.items()]
    split = int(arguments[0] == "-m")  # "--" keeps torchrun from reading the child's own flags
    child = [*arguments[:split], "--", *arguments[split:]]
    return [sys.executable, "-m", "torch.distributed.run", *place, *named, *child]


class _Log:
    """Shows a child's lines as they come, and remembers the last ones of each process."""

    WORKER = re.compile(r"\[[a-z]+(\d+)\]:(?:\[rank\d+\]: )?")  # how torchrun marks their lines

    def __init__(self) -> None:
        self.last: dict[str, deque[str]] = {}
        self.first_failed: str | None = None

    def show(self, line: str) -> None:
        marked = self.WORKER.match(line)
        worker = marked[1] if marked else ""
        line = line[marked.end() :] if marked else line
        if worker or self.first_failed is None:  # then torchrun only repeats that one failed
            print(line if worker in ("", "0") else f"[{worker}] {line}", end="", flush=True)
        self.last.setdefault(worker, deque(maxlen=200)).append(line)
        if self.first_failed is None and line.startswith(("Traceback", "error: ")):
            self.first_failed = worker

    def failure(self, arguments: Sequence[str], code: int) -> str:
        """What went wrong: the child's own sentence, or its traceback, or the end of its log."""
        everything = "".join(line for lines in self.last.values() for line in lines)
        if "EADDRINUSE" in everything or "address already in use" in everything.lower():
            return "The port of the rendezvous is in use; choose another master_port."
        lines = list(self.last.get(self.first_failed or "", []))
        said = [line for line in lines if line.startswith("error: ")]
        if said:
            return said[-1].removeprefix("error: ").strip()
        starts = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
        end = "".join(lines[starts[-1] :] if starts else lines[-20:]).strip()
        worker = f"process {self.first_failed} of " if self.first_failed else ""
        return f"{worker}`{' '.join(arguments)}` ended with exit code {code}; it said last:\n{end}"


def _stop(child: subprocess.Popen, patience: float = 60) -> None:
    """Ask a child to stop, as Ctrl-C would, give it time to save, then end all it started.

    torchrun's workers have process groups of their own, so each is looked up.
    """
    family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    try:
        child.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
        child.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        pass
    finally:
        child.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
