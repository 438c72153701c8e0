"""The kernel of the loss, run by Triton's interpreter, against its definition and float64."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from chatlib import loss
from chatlib.loss import GAIN, IGNORE, nats_and_slopes
from ci.tests import interpreted_loss as job

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="no Triton here: it comes with torch's builds for GPUs",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """In a process of its own: whether Triton interprets is settled when it is imported."""
    path = tmp_path_factory.mktemp("interpreted") / "found.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", job.__name__, str(path)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    return torch.load(path)


def in_float64(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows, vocabulary, dtype, _, ignored = job.CASES[name]
    z, targets = job.inputs(rows, vocabulary, dtype, ignored)
    z = z.double().requires_grad_()
    capped = 15 * torch.tanh(z / 15)
    nats = F.cross_entropy(capped, targets, ignore_index=IGNORE, reduction="none")
    nats.sum().backward()
    return nats.detach(), z.grad


def compare(nats, slopes, expected, rounding: float) -> None:
    """`rounding`: of the slopes; the interpreter cuts a number off where a GPU rounds it."""
    torch.testing.assert_close(nats.double(), expected[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(slopes.double(), expected[1], rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in job.CASES if name != "8 bits"])
def test_the_definition_is_cross_entropy_in_float64(name):
    rows, vocabulary, dtype, out, ignored = job.CASES[name]
    z, targets = job.inputs(rows, vocabulary, dtype, ignored)
    nats, slopes = nats_and_slopes(z, targets, out, 1.0)
    assert (nats[targets == IGNORE] == 0).all() and (slopes[targets == IGNORE] == 0).all()
    assert slopes.dtype == out and slopes.abs().max() <= 1
    compare(nats, slopes, in_float64(name), 1e-4 if out == torch.float32 else 2**-8)


@needs_triton
@pytest.mark.parametrize("name", [name for name in job.CASES if name != "8 bits"])
def test_the_kernel_is_cross_entropy_in_float64(name, found):
    nats, slopes, in_place = found[name]
    out = job.CASES[name][3]
    assert in_place and nats.dtype == torch.float32 and slopes.dtype == out
    compare(nats, slopes, in_float64(name), 1e-4 if out == torch.float32 else 2**-7)
    if name == "all ignored":
        assert (nats == 0).all() and (slopes == 0).all()


@needs_triton
def test_slopes_in_8_bits_have_the_gain(found):
    nats, slopes, in_place = found["8 bits"]
    expected = in_float64("8 bits")
    assert not in_place and slopes.dtype == torch.float8_e5m2
    torch.testing.assert_close(nats.double(), expected[0], rtol=1e-6, atol=1e-5)
    rounded = (GAIN * expected[1]).to(torch.float8_e5m2).float()
    assert rounded.abs().max() > GAIN / 2
    wrong = (slopes.float() != rounded).float().mean()  # the interpreter loses a carry
    assert wrong < 0.1, f"{wrong:.0%} of the slopes were rounded otherwise"


@needs_triton
@pytest.mark.parametrize("float8", [False, True])
def test_the_whole_loss_is_the_same_with_the_kernel(float8, found):
    fused, unfused = found[float8]
    for got, want in zip(fused, unfused, strict=True):
        assert want.norm() > 0
        assert (got - want).norm() / want.norm() < 1e-5


def test_a_cpu_and_a_compiler_take_the_definition(monkeypatch):
    monkeypatch.setattr(loss, "has_triton", lambda: True)
    assert not loss.fuses(torch.device("cpu"), compiling=False)
    assert not loss.fuses(torch.device("cuda"), compiling=True)
    assert loss.fuses(torch.device("cuda"), compiling=False)
    monkeypatch.setattr(loss, "has_triton", lambda: False)
    assert not loss.fuses(torch.device("cuda"), compiling=False)
