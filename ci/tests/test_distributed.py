"""One process with accumulation against several real ones over gloo; and starting them."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from chatlib.distributed import Distributed, cleanup, launch, setup
from chatlib.errors import ChatlibError
from ci.tests import distributed_steps as job

JOB = str(Path(job.__file__))
BEFORE, AFTER = 3, 2  # steps before and after the change of world size
TOLERANCE = 2e-5  # steps are 0.01 to 1; gradients are float64, orthogonalized in float32


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def alone():
    """The model after BEFORE and after AFTER more steps of one process, and its optimizer state."""
    dist = Distributed()
    model, optimizer = job.start(dist)
    job.steps(model, optimizer, dist, 0, BEFORE)
    middle = {name: p.detach().clone() for name, p in model.named_parameters()}
    saved = {
        "model": {name: p.clone() for name, p in model.state_dict().items()},
        "optimizer": {name: p.clone() for name, p in optimizer.state_dict().items()},
    }
    job.steps(model, optimizer, dist, BEFORE, AFTER)
    return middle, dict(model.named_parameters()), saved


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of `n` real processes ends up with, worked out once."""
    results = {}

    def run(n: int) -> list[dict]:
        if n not in results:
            out = tmp_path_factory.mktemp(f"world{n}")
            launch([JOB, str(out), str(BEFORE)], nproc=n)
            results[n] = [torch.load(out / f"{n}_{rank}.pt") for rank in range(n)]
        return results[n]

    return run


def same(got: dict, want: dict) -> None:
    for name, p in want.items():
        torch.testing.assert_close(
            got[name], p.detach(), atol=TOLERANCE, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_e14_n_processes_equal_one_that_accumulates(n, alone, together):
    ranks = together(n)
    for rank in ranks:
        same(rank["model"], alone[0])
        for name, p in rank["model"].items():
            assert torch.equal(p, ranks[0]["model"][name]), f"ranks disagree on {name}"


@pytest.mark.slow
def test_e14_three_processes_share_unevenly_and_some_own_nothing(together):
    owned = [rank["owned"] for rank in together(3)]
    assert [o["embedding.weight"] for o in owned] == [43, 43, 42], "128 rows over 3"
    assert [o["muon.1x12"] for o in owned] == [1, 0, 0]
    assert [o["muon.16x32"] for o in owned] == [2, 2, 0], "keys and values of two layers"
    assert [o["residual_scales"] for o in owned] == [2, 2, 2], "too small to share"


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_e29_bytes_moved_are_those_of_ring_algorithms(n, together):
    def sharded(rows: int, row_bytes: int) -> int:
        return 2 * (n - 1) * math.ceil(rows / n) * row_bytes  # reduce-scatter, then all-gather

    def replicated(numel: int) -> int:
        return 2 * (n - 1) * 8 * numel // n  # all-reduce, of float64

    want = sharded(128, 8 * 32) + sharded(128, 8 * 16) + sharded(128, 8 * 32)  # tables and head
    for matrices, rows, cols in ((4, 32, 32), (4, 16, 32), (2, 128, 32), (2, 32, 128), (1, 1, 12)):
        want += sharded(matrices, 8 * rows * cols)
    want += sum(replicated(numel) for numel in (2, 2, 24, 1, 1))
    assert [rank["bytes"] for rank in together(n)] == [want] * n


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_e15_state_of_n_processes_carries_on_in_one(n, alone, together):
    ranks = together(n)
    dist = Distributed()
    model, optimizer = job.start(dist)
    model.load_state_dict(ranks[0]["model"])
    optimizer.load_state_dict({k: t for rank in ranks for k, t in rank["optimizer"].items()})
    job.steps(model, optimizer, dist, BEFORE, AFTER)
    same(dict(model.named_parameters()), alone[1])


@pytest.mark.slow
def test_e15_state_of_one_process_carries_on_in_two(alone, tmp_path):
    torch.save(alone[2], tmp_path / "alone.pt")
    launch([JOB, str(tmp_path), str(AFTER), str(tmp_path / "alone.pt")], nproc=2)
    for rank in range(2):
        same(torch.load(tmp_path / f"2_{rank}.pt")["model"], alone[1])


def test_a_single_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    dist = setup("cpu")
    assert (dist.rank, dist.world_size, dist.is_main) == (0, 1, True)
    dist.barrier()
    cleanup()


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_launch_streams_a_plain_child(tmp_path, capfd):
    path = script(
        tmp_path, "import sys; print('hello', *sys.argv[1:]); print('né', file=sys.stderr)"
    )
    launch([path, "a", "b"])
    assert set(capfd.readouterr().out.splitlines()) == {"hello a b", "né"}


def test_a_child_that_fails_is_quoted(tmp_path):
    path = script(tmp_path, "def f(): return 1 / 0\nprint('fine so far')\nf()")
    with pytest.raises(ChatlibError) as caught:
        launch([path])
    assert "exit code 1" in str(caught.value) and "fine so far" not in str(caught.value)
    assert str(caught.value).endswith("ZeroDivisionError: division by zero")


def test_a_child_that_explains_itself_is_believed(tmp_path):
    path = script(
        tmp_path, "import sys; print('error: No such run.', file=sys.stderr); sys.exit(2)"
    )
    with pytest.raises(ChatlibError, match=r"^No such run\.$"):
        launch([path])


@pytest.mark.slow
def test_the_worker_that_failed_is_quoted(tmp_path, capfd):
    path = script(
        tmp_path,
        """
        import os, sys, time
        if os.environ["RANK"] == "1":
            raise ValueError("worker one is unhappy")
        time.sleep(60)
        """,
    )
    with pytest.raises(ChatlibError) as caught:
        launch([path], nproc=2)
    message = str(caught.value)
    assert message.startswith("process 1 of") and message.endswith("worker one is unhappy")
    assert "torch/distributed" not in message and "ChildFailedError" not in capfd.readouterr().out


@pytest.mark.slow
def test_an_interrupt_reaches_the_workers_and_leaves_no_orphans(tmp_path):
    path = script(
        tmp_path,
        """
        import os, sys, time
        open(f"{sys.argv[1]}/{os.environ.get('RANK', 0)}", "w").write(str(os.getpid()))
        try:
            time.sleep(120)
        except KeyboardInterrupt:
            open(f"{sys.argv[1]}/saved{os.environ.get('RANK', 0)}", "w").close()
        """,
    )
    code = f"from chatlib.distributed import launch; launch([{path!r}, {str(tmp_path)!r}], nproc=2)"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL
    )
    pids = [tmp_path / "0", tmp_path / "1"]
    deadline = time.time() + 120
    while not all(pid.exists() and pid.read_text() for pid in pids) and time.time() < deadline:
        time.sleep(0.1)
    workers = [psutil.Process(int(pid.read_text())) for pid in pids]
    os.kill(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=90) != 0
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists(), "no time to save"


@pytest.mark.slow
def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(ChatlibError, match="port"):
            path = script(tmp_path, "from chatlib.distributed import setup; setup('cpu')")
            launch([path], nproc=2, master_addr="127.0.0.1", master_port=port)


def test_impossible_numbers_of_processes(monkeypatch):
    with pytest.raises(ChatlibError, match="at least 1"):
        launch(["-c", "pass"], nproc=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ChatlibError, match="has 2 GPUs"):
        launch(["-c", "pass"], nproc=3)


def test_several_machines_are_torchruns_business():
    from chatlib.distributed import _command

    flags = {"node_rank": "1", "master_addr": "10.0.0.1", "master_port": "29500"}
    command = _command(["-m", "chatlib", "plan", "--run", "x"], 8, 2, flags, "logs")
    assert command[-6:] == ["-m", "--", "chatlib", "plan", "--run", "x"]
    assert {"--nnodes=2", "--nproc_per_node=8", "--node_rank=1"} < set(command)
    assert "--standalone" not in command and not re.search("standalone", " ".join(command))
    assert _command(["script.py"], 1, 1, {}, "logs") == [sys.executable, "script.py"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("nproc", [1, 2])
def test_children_end_with_a_launcher_that_is_killed(nproc, tmp_path):
    path = script(
        tmp_path,
        """
        import os, sys, time
        from chatlib.distributed import setup
        dist = setup("cpu")
        open(f"{sys.argv[1]}/{dist.rank}", "w").write(str(os.getpid()))
        time.sleep(120)
        """,
    )
    code = (
        "from chatlib.distributed import launch; "
        f"launch([{path!r}, {str(tmp_path)!r}], nproc={nproc})"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    pids = [tmp_path / str(rank) for rank in range(nproc)]
    deadline = time.time() + 120
    while not all(pid.exists() and pid.read_text() for pid in pids) and time.time() < deadline:
        time.sleep(0.1)
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) == nproc + (nproc > 1), "the workers, and torchrun above them"
    launcher.kill()
    launcher.wait()
    psutil.wait_procs(family, timeout=30)
    assert not any(process.is_running() for process in family)
