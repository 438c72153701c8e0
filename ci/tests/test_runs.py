"""Runs: names, manifests, metrics, and one process a stage."""

import errno
import json
import math
import os
import subprocess
import sys

import pytest

from chatlib.errors import ChatlibError
from chatlib.runs import Metrics, Run, atomic_write, home, system_info, writing


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path / "home"))


def test_a_run_is_made_once_and_found_again():
    run = Run.create_or_open("first", "laptop")
    assert run.path == home() / "runs" / "first"
    assert run.manifest["scale"] == "laptop"
    run.update_manifest(seed=7)
    again = Run.create_or_open("first", "laptop")
    assert again.manifest["seed"] == 7 and again.manifest["created"] == run.manifest["created"]
    assert Run.open("first").path == Run.latest().path == run.path


def test_latest_is_the_run_that_changed_last():
    first, second = Run.create_or_open("a"), Run.create_or_open("b")
    os.utime(second.path / "manifest.json", ns=(1, 1))
    assert Run.latest().name == "a"
    os.utime(first.path / "manifest.json", ns=(0, 0))
    assert Run.latest().name == "b"


def test_a_run_keeps_its_scale():
    Run.create_or_open("r", "gpu")
    assert Run.create_or_open("r").manifest["scale"] == "gpu"
    with pytest.raises(ChatlibError, match="made at scale 'gpu', not 'node'"):
        Run.create_or_open("r", "node")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 65, "-rf", "a\n"])
def test_names_that_cannot_be_folders_are_refused(name):
    with pytest.raises(ChatlibError, match="cannot name a run"):
        Run.create_or_open(name)
    assert not home().exists()


def test_unknown_run_and_stage_name_what_there_is():
    with pytest.raises(ChatlibError, match=r"no run in .* yet"):
        Run.latest()
    run = Run.create_or_open("mine")
    with pytest.raises(ChatlibError, match=r"no run 'yours'.*\(runs: mine\)"):
        Run.open("yours")
    with pytest.raises(ChatlibError, match="no stage 'bse': the stages are base, sft, rl"):
        run.stage_dir("bse")


def test_a_damaged_manifest_is_named():
    run = Run.create_or_open("r")
    (run.path / "manifest.json").write_text('{"scale": ')
    with pytest.raises(ChatlibError, match=r"manifest\.json cannot be read"):
        Run.create_or_open("r", "laptop")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ChatlibError, match="No space is left"):
        atomic_write(path, b"new" * 1000)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_one_sentence():
    with (
        pytest.raises(ChatlibError, match="No space is left for somewhere"),
        writing("somewhere"),
        open("/dev/full", "w") as file,
    ):
        file.write("x" * 100_000)


def test_other_system_errors_pass_through():
    with pytest.raises(FileNotFoundError), writing("somewhere"):
        os.stat("/no/such/file")


def test_metrics_come_back_as_they_were_logged(tmp_path):
    metrics = Metrics(tmp_path / "deep" / "base.jsonl")
    assert metrics.rows() == []
    for step in range(5):
        metrics.log(step, loss=1.0 / (step + 1), sample="Zoé")
    metrics.log(5, loss=math.nan, rate=math.inf)
    assert metrics.rows()[2] == {"step": 2, "loss": 1 / 3, "sample": "Zoé"}
    assert math.isnan(metrics.rows()[5]["loss"])
    lines = metrics.path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(6))
    assert "NaN" not in metrics.path.read_text()


def test_resuming_drops_later_rows_and_a_torn_line(tmp_path):
    metrics = Metrics(tmp_path / "base.jsonl")
    for step in range(5):
        metrics.log(step, loss=float(step))
    with open(metrics.path, "a") as file:
        file.write('{"step": 5, "lo')
    assert len(metrics.rows()) == 5
    metrics.truncate_after(2)
    metrics.log(3, loss=9.0)
    assert [(r["step"], r["loss"]) for r in metrics.rows()] == [(0, 0), (1, 1), (2, 2), (3, 9)]


HOLDER = """
import sys
from chatlib.runs import Run
with Run.open("r").lock("base"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_work_on_one_stage():
    run = Run.create_or_open("r")
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ChatlibError, match=f"Process {holder.pid} is already working on"):
            run.lock("base").__enter__()
        with run.lock("sft"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), run.lock("base"):  # the dead hold nothing
            _ = 1 / 0


def test_system_info_is_json_and_knows_this_machine():
    info = json.loads(json.dumps(system_info()))
    assert info["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert info["cores"] >= 1 and info["cpu"] and info["torch"]
