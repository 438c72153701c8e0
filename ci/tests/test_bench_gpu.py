"""The GPU benchmark: its CPU half here, the rest where there is a GPU."""

import json
import math

import pytest
import torch

from chatlib import loss, precision
from ci import bench_gpu

CPU = torch.device("cpu")


def test_without_a_gpu_it_checks_what_it_can_and_names_the_rest(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_gpu.main([]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert set(result["skipped"]) == set(bench_gpu.GPU_ONLY) and "measured" not in result
    assert "skipped: attention/flash" in table[-1]
    names = set(result["correctness"])
    assert {"loss", "8-bit product", "optimizer", "decoding"} < names
    assert sum(name.startswith("attention/") for name in names) == 6
    assert all(0 <= row["error"] <= row["allowed"] for row in result["correctness"].values())
    assert result["system"]["torch"] == torch.__version__


def test_a_wrong_path_is_found(monkeypatch):
    monkeypatch.setattr(loss, "SOFTCAP", 14.9)
    assert bench_gpu.loss_error(CPU) > 1e-4
    monkeypatch.undo()
    monkeypatch.setattr(bench_gpu, "quantize", lambda x, _: precision.quantize(1.001 * x, x.dtype))
    assert bench_gpu.float8_error(CPU) > 1e-4


def test_a_wrong_window_is_found(monkeypatch):
    real = bench_gpu.attend

    def off_by_one(q, k, v, *, window, backend):
        narrower = window - 1 if backend == "sdpa" and window > 0 else window
        return real(q, k, v, window=narrower, backend=backend)

    monkeypatch.setattr(bench_gpu, "attend", off_by_one)
    found = bench_gpu.attention_errors(CPU)
    assert found["attention/sdpa/float32/window 128"] > 1e-2
    assert found["attention/blocks/float32/window 128"] < 1e-4


def test_errors_are_relative_to_the_largest_number_expected():
    expected = torch.tensor([1.0, -4.0])
    assert bench_gpu.error(expected + torch.tensor([0.0, 0.2]), expected) == pytest.approx(0.05)
    assert math.isnan(bench_gpu.error(torch.tensor([math.nan]), torch.tensor([1.0])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_path_is_right_and_speed_is_measured(capsys):
    assert bench_gpu.main(["--depth", "12"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not [name for name, row in result["measured"].items() if "failed" in row]
    assert result["measured"]["d12 bf16"]["mfu"] > 0.1
