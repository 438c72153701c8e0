"""Whether torch can compile here is tried, not assumed: real compilers, and real ones missing."""

import os
import shutil
import subprocess
import sys

import pytest

TOOLS = ("g++", "gcc", "as", "ld")
pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="no C++ compiler")

TRAINER = """
import torch
from chatlib.model import GPT
from chatlib.scaling import get_scale, model_config
from chatlib.training import compiled
model = GPT(model_config(get_scale("tiny", depth=1)))
model.init_weights()
forward = compiled(model)
print(type(forward).__name__)
ids = torch.zeros(1, 128, dtype=torch.long)
forward(ids, ids).backward() if forward is model else None
"""


def compile_with(tmp_path, tools: dict[str, str]) -> str:
    """What is said where PATH holds only `tools` (name: the program it stands for)."""
    (tmp_path / "bin").mkdir()
    for name, program in tools.items():
        (tmp_path / "bin" / name).symlink_to(program)
    cache = str(tmp_path / "kernels")
    env = os.environ | {"PATH": str(tmp_path / "bin"), "TORCHINDUCTOR_CACHE_DIR": cache}
    env |= {"CHATLIB_COMPILE": "1", "CXX": "g++"}
    done = subprocess.run(
        [sys.executable, "-c", TRAINER], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_openssl_it_compiles_all_the_same(tmp_path):
    tools = {name: os.path.realpath(shutil.which(name)) for name in TOOLS}
    assert compile_with(tmp_path, tools).split() == ["OptimizedModule"]


def test_a_compiler_that_fails_is_said_and_training_goes_on_without(tmp_path):
    said = compile_with(tmp_path, {"g++": shutil.which("false"), "openssl": shutil.which("true")})
    assert said.startswith("torch.compile does not work here (") and "\nGPT\n" in said
    assert "half as fast" in said.splitlines()[0]
    assert said.count("\n") == 2, "one sentence"
