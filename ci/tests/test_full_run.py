"""The driver: what it refuses, and what it leaves behind when it is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatlib.errors import ChatlibError
from chatlib.runs import Metrics, Run
from ci.full_run import check_parameters

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path) -> dict:
    return os.environ | {
        "CHATLIB_HOME": str(home), "CHATLIB_NO_VENV": "1", "CHATLIB_COMPILE": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ci.full_run", "--scale", "tiny", *arguments]


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


def kill_in(stage: str, step: int, home: Path) -> None:
    """Start the driver, and kill it alone once that stage has logged that step."""
    metrics = Metrics(home / "runs" / "tiny" / "metrics" / f"{stage}.jsonl")
    with open(home / "log.txt", "ab") as log:
        driver = subprocess.Popen(
            command(), cwd=ROOT, env=environment(home), stdout=log, stderr=subprocess.STDOUT
        )
    while not any(row["step"] >= step for row in metrics.rows()):
        assert driver.poll() is None, (home / "log.txt").read_text()[-3000:]
        time.sleep(0.02)
    driver.kill()
    driver.wait()


def let_go(stage: str, patience: float = 60) -> None:
    """Wait until nobody holds the stage any more."""
    deadline = time.time() + patience
    while True:
        try:
            with Run.open("tiny").lock(stage):
                return
        except ChatlibError:
            assert time.time() < deadline, f"an orphan keeps stage {stage} locked"
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a killed kernel is noticed by other means there")
def test_a_driver_killed_in_any_stage_leaves_no_orphan_and_is_carried_on(tmp_path, monkeypatch):
    """That a later stage begins at all shows that the killed one before it was finished."""
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path))
    for stage, step in (("base", 13), ("sft", 1), ("rl", 1)):
        kill_in(stage, step, tmp_path)
        let_go(stage)
    log = (tmp_path / "log.txt").read_text()
    assert "already working" not in log
    assert "1_tokenizer: finished earlier" in log and "3_finetune: finished earlier" not in log
    for stage in ("base", "sft"):
        rows = Metrics(tmp_path / "runs" / "tiny" / "metrics" / f"{stage}.jsonl").rows()
        steps = [row["step"] for row in rows if "loss" in row]
        assert steps == list(range(1, len(steps) + 1)), f"{stage}: each step once, in order"
