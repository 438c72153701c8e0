"""The driver: five notebooks through papermill, killed in the middle and carried on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatlib.errors import ChatlibError
from chatlib.runs import Metrics
from ci.full_run import NOTEBOOKS, check_parameters

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path) -> dict:
    return os.environ | {
        "CHATLIB_HOME": str(home), "CHATLIB_NO_VENV": "1", "CHATLIB_COMPILE": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ci.full_run", "--scale", "tiny", *arguments]


@pytest.mark.slow
def test_a_run_killed_in_the_middle_is_carried_on_to_its_report(tmp_path):
    folder = tmp_path / "runs" / "tiny"
    child = subprocess.Popen(
        command(), cwd=ROOT, env=environment(tmp_path), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    metrics = Metrics(folder / "metrics" / "base.jsonl")
    deadline = time.time() + 240
    while not any(row["step"] > 12 for row in metrics.rows()) and time.time() < deadline:
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    done = subprocess.run(
        command(), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1_tokenizer: finished earlier" in done.stdout
    steps = [row["step"] for row in metrics.rows() if "loss" in row]
    assert steps == list(range(1, 41)), "every step is logged once, in order"
    assert sorted(p.stem for p in (folder / "notebooks").glob("*.ipynb")) == list(NOTEBOOKS)
    report = json.loads((folder / "report.json").read_text())
    assert report["val_bpb"] > report["entropy_floor_bpb"] > 0
    assert set(report["accuracy"]) == {"base", "sft", "rl"}
    assert set(report["reward_sampled"]) == {"sft", "rl"}
    assert {"minutes_total", "tokens_per_s", "baselines_bpb", "core_world"} <= report.keys()


def test_parameters_that_no_notebook_declares_are_refused():
    check_parameters({"corpus": "world"})
    with pytest.raises(ChatlibError, match="'depht'"):
        check_parameters({"depht": "3"})


def test_an_unknown_scale_is_refused_before_anything_starts(tmp_path):
    done = subprocess.run(
        [*command()[:-1], "giant"], cwd=ROOT, env=environment(tmp_path), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "giant" in done.stderr and "laptop" in done.stderr
    assert not (tmp_path / "runs").exists()
