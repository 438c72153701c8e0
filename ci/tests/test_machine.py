"""What keeps a full run from starting: every check is seen to pass and to fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chatlib.data import hub
from chatlib.planner import GB, memory
from chatlib.scaling import get_scale, make_plan
from ci import machine
from ci.tests.hub_mirror import File, Mirror

ROOT = Path(__file__).resolve().parents[2]
REPO, SPLITS = hub.CORPORA["tinystories"]
NAMES = [SPLITS["validation"][0], SPLITS["train"][0]]
NODE = make_plan(get_scale("node"))

# In processes of their own, because the library reads its settings when it is imported.
REACH = """
import json, sys
from chatlib.data import hub
from ci import machine
machine.PATIENCE = 3
if sys.argv[1] == "fetch":
    [hub.fetch(hub.CORPORA["tinystories"][0], name) for name in json.loads(sys.argv[2])]
print(json.dumps(machine.reach("tinystories", 1)))
"""


def environment(home: Path, url: str, **more: str) -> dict:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    ours = {
        "HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost", "CHATLIB_HOME": str(home / "chatlib"),
        "CHATLIB_NO_VENV": "1", "CHATLIB_COMPILE": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return kept | ours | more


def reach(home: Path, url: str, *arguments: str, **more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", REACH, *(arguments or ("ask",))], cwd=ROOT, capture_output=True,
        text=True, env=environment(home, url, **more), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_hub_is_up_or_down_or_not_needed(tmp_path):
    with Mirror({f"{REPO}/{name}": File(b"text" * 1000) for name in NAMES}) as mirror:
        assert reach(tmp_path, mirror.url) == []
        assert not any(mirror.gets(f"{REPO}/{name}") for name in NAMES), "a check only asks"
        url = mirror.url
    (said,) = reach(tmp_path, url)
    assert "2 of 2 files of tinystories" in said and url.removeprefix("http://") in said
    (said,) = reach(tmp_path, url, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in said and "unset it" in said
    with Mirror({f"{REPO}/{name}": File(b"text" * 1000) for name in NAMES}) as mirror:
        assert reach(tmp_path, mirror.url, "fetch", json.dumps(NAMES)) == []
    assert reach(tmp_path, url) == [] == reach(tmp_path, url, HF_HUB_OFFLINE="1")


def test_a_hub_without_the_file_is_a_problem(tmp_path):
    with Mirror({f"{REPO}/{NAMES[1]}": File(b"text")}) as mirror:
        (said,) = reach(tmp_path, mirror.url)
    assert "did not give one" in said and "HF_ENDPOINT" in said


def test_a_disk_with_too_little_room_is_named_once(tmp_path):
    wanted = {tmp_path / "runs": 1e3, tmp_path / "none" / "text": 1e3}
    assert machine.disk(wanted) == []
    (said,) = machine.disk(dict.fromkeys(wanted, 1e18))
    assert f"{tmp_path / 'runs'} and {tmp_path / 'none' / 'text'} has " in said
    assert f"{2e18 / GB:.1f} more: make room" in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    (said,) = machine.disk({tmp_path / "runs": 1.0})
    assert said.startswith(f"You may not write to {tmp_path}")


def test_what_is_stored_already_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path))
    runs, text = machine.still_to_store(NODE, "big").values()
    assert 90e9 < runs < 110e9 and 10e9 < text < 20e9
    stored = tmp_path / "runs" / "big" / "base" / "step_001000" / "model.safetensors"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(bytes(10**6))
    assert machine.still_to_store(NODE, "big")[tmp_path] == runs - 10**6
    tiny = machine.still_to_store(make_plan(get_scale("tiny")), "small")
    assert list(tiny) == [tmp_path], "the small world is not downloaded"


def test_gpus_are_counted_and_weighed():
    need = memory(NODE.config, 16, 8).total
    enough = [("H100", int(need) + 1)] * 8
    assert machine.gpus(NODE, enough) == [] == machine.gpus(NODE, [*enough, ("old", 1)])
    (few,) = machine.gpus(NODE, enough[:2])
    assert "GPUs: scale node needs 8, found 2" in few and "--scale gpu" in few
    (full,) = machine.gpus(NODE, [*enough[:7], ("H100", int(20e9))])
    assert "GPU 7 (H100) has 20.0 GB free" in full and f"{need / GB:.1f}" in full


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_why():
    assert machine.cards() == []
    (said,) = machine.gpus(NODE, [])
    assert "found 0; torch " in said
    assert ("built for CPUs only" in said) == (torch.version.cuda is None)


def test_processes_can_meet_here():
    assert machine.loopback() == []


def test_a_missing_compiler_is_a_note(monkeypatch):
    laptop = get_scale("laptop")
    monkeypatch.delenv("CHATLIB_COMPILE", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    (said,) = machine.notes(laptop)
    assert "g++" in said
    monkeypatch.setenv("CHATLIB_COMPILE", "0")
    assert machine.notes(laptop) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_driver_tells_all_that_is_missing_and_starts_nothing(tmp_path):
    with Mirror({}) as mirror:
        down = mirror.url

    def drive(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "ci.full_run", "--scale", "gpu", *arguments], cwd=ROOT,
            env=environment(tmp_path, down), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    dry, real = drive("--dry-run"), drive()
    assert dry.returncode == 0 and "projected, not run" in dry.stdout
    assert real.returncode == 2 and "nothing was started" in real.stderr
    for said in (dry.stdout, real.stderr):
        assert "GPUs: scale gpu needs 1, found 0" in said and "files of climbmix" in said
    assert not (tmp_path / "chatlib" / "runs").exists()
