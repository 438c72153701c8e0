"""The driver: what it refuses before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatlib.errors import ChatlibError
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
