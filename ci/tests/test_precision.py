"""The dtype policy, and 8 bits: what they keep, what they lose, and when they are off."""

import pytest
import torch
import torch.nn.functional as F

from chatlib import precision, pretraining
from chatlib.errors import ChatlibError
from chatlib.loss import softcapped_cross_entropy
from chatlib.model import GPT, GPTConfig
from chatlib.precision import (
    E4M3,
    E5M2,
    Float8,
    Float8Product,
    Linear,
    compute_dtype,
    float8_matmul,
    is_slow,
    multiplies_float8,
    quantize,
    use_float8,
)
from chatlib.runs import Metrics
from chatlib.scaling import get_scale


def tensor_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cpu_dtype_follows_what_the_chip_can_multiply():
    flags = set()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                flags = set(line.split())
                break
    native = bool(flags & {"avx512_bf16", "amx_bf16", "amx_tile"})
    assert compute_dtype("cpu") == (torch.bfloat16 if native else torch.float32)
    assert compute_dtype(torch.device("meta")) == torch.float32
    assert is_slow("cpu") == (not native) and not is_slow("meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_computes_in_the_dtype_of_its_input(dtype):
    layer = Linear(8, 5)
    x = tensor_of(2, 3, 8).to(dtype)
    y = layer(x)
    assert y.dtype == dtype and y.shape == (2, 3, 5)
    assert torch.equal(y, F.linear(x, layer.weight.to(dtype)))
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32 == layer.weight.dtype


@pytest.mark.parametrize("dtype, bits", [(E4M3, 3), (E5M2, 2)])
def test_quantization_error_is_half_a_unit_of_the_fraction(dtype, bits):
    x = tensor_of(64, 64) * 37
    q = quantize(x, dtype)
    assert q.data.dtype == dtype and q.scale.dtype == torch.float32
    error = (q.dequantized() - x).abs()
    normal = x.abs() / q.scale > torch.finfo(dtype).smallest_normal
    assert (error <= x.abs() * 2.0 ** -(bits + 1) * 1.0001)[normal].all()
    assert q.data.float().abs().max() == torch.finfo(dtype).max


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 3e5, 1e30])
def test_e27_the_largest_value_saturates_instead_of_overflowing(dtype, size):
    x = torch.tensor([[size, -size, size / 3, 0.0]])
    q = quantize(x, dtype).data.float()
    assert q.isfinite().all() and q.abs().max() <= torch.finfo(dtype).max


def test_quantizing_zeros_gives_zeros():
    q = quantize(torch.zeros(4, 4), E4M3)
    assert (q.dequantized() == 0).all()


def test_simulated_products_are_exact_up_to_the_sum():
    """The same bytes in float64: every product fits float32, only the sum can round."""
    a, b = quantize(tensor_of(32, 48), E4M3), quantize(tensor_of(16, 48, seed=1), E5M2)
    exact = (a.data.double() @ b.data.double().t()) * (a.scale.double() * b.scale.double())
    torch.testing.assert_close(
        float8_matmul(a, b, torch.float32).double(), exact, rtol=1e-5, atol=1e-5
    )
    products = a.data.double()[:, None, :] * b.data.double()[None, :, :]
    assert torch.equal(products.float().double(), products)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_products_equal_simulated_ones():
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs 8-bit tensor cores")
    a, b = quantize(tensor_of(64, 128), E4M3), quantize(tensor_of(32, 128, seed=1), E4M3)
    on_gpu = [Float8(x.data.cuda(), x.scale.cuda()) for x in (a, b)]
    got = float8_matmul(*on_gpu, torch.bfloat16).cpu().float()
    torch.testing.assert_close(got, float8_matmul(a, b, torch.float32), rtol=1e-2, atol=1e-2)


def test_all_three_products_of_training_are_in_8_bits():
    x, weight = tensor_of(32, 64).requires_grad_(), tensor_of(48, 64, seed=1).requires_grad_()
    grad = tensor_of(32, 48, seed=2)
    y = Float8Product.apply(x, weight)
    y.backward(grad)
    xq, wq = (quantize(t.detach(), E4M3).dequantized() for t in (x, weight))
    gq = quantize(grad, E5M2).dequantized()
    for got, want in ((y, xq @ wq.t()), (x.grad, gq @ wq), (weight.grad, gq.t() @ xq)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        assert got.shape == want.shape
    exact = x.detach() @ weight.detach().t()
    assert 1e-3 < (y - exact).norm() / exact.norm() < 0.06


def products_and_gradients() -> list[torch.Tensor]:
    x, weight = tensor_of(32, 64).requires_grad_(), tensor_of(48, 64, seed=1).requires_grad_()
    y = Float8Product.apply(x, weight)
    y.backward(tensor_of(32, 48, seed=2))
    return [y.detach(), x.grad, weight.grad]


def test_the_call_that_gpus_make_gives_what_is_simulated(monkeypatch):
    """torch has that call for CPUs, too: it checks the same layouts and sums the same bytes."""
    simulated = products_and_gradients()
    monkeypatch.setattr(precision, "multiplies_float8", lambda device: True)
    for got, want in zip(products_and_gradients(), simulated, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_no_cpu_is_said_to_multiply_bytes():
    assert not multiplies_float8(torch.device("cpu"))
    if torch.cuda.is_available():
        native = torch.cuda.get_device_capability() >= (8, 9)
        assert multiplies_float8(torch.device("cuda", 0)) == native


def test_the_loss_in_8_bits_is_the_loss_of_the_rounded_numbers(monkeypatch):
    x, head = tensor_of(48, 128), tensor_of(256, 128, seed=1) / 8
    targets = torch.randint(-1, 256, (48,), generator=torch.Generator().manual_seed(2))

    def run(x, head, **how):
        x, head = x.detach().requires_grad_(), head.detach().requires_grad_()
        loss = softcapped_cross_entropy(x, head, targets, "sum", **how)
        loss.backward()
        return loss.detach(), x.grad, head.grad

    loss, *got = run(x, head, float8=True)
    rounded = [quantize(t, E4M3).dequantized() for t in (x, head)]
    expected, *want = run(*rounded)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    for g, w in zip(got, want, strict=True):  # the logits' gradient was rounded to two bits
        assert 1e-3 < (g - w).norm() / w.norm() < 0.08
    exact, *_ = run(x, head)
    assert loss != exact
    with torch.no_grad():
        assert softcapped_cross_entropy(x, head, targets, "sum", float8=True) == exact
    odd = softcapped_cross_entropy(x.requires_grad_(), head[:250], targets % 250, "sum", True)
    assert odd == softcapped_cross_entropy(x, head[:250], targets % 250, "sum")


def float8_model(layers: int = 2) -> tuple[GPT, list[str]]:
    model = GPT(GPTConfig(256, layers, 1, 1, 128, 32))
    model.init_weights(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * tensor_of(*p.shape)
    return model, use_float8(model)


def test_e27_only_large_matrices_are_switched_and_evaluation_sees_none_of_it():
    model, switched = float8_model()
    kinds = [f"blocks.{i}.{kind}" for i in range(2) for kind in
             ("attention.qkv", "attention.out", "mlp.up", "mlp.down")]  # fmt: skip
    assert switched == [*kinds, "head"], "gates are too small"
    plain = GPT(model.config)
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(ids), plain(ids))
    trained, reference = model(ids), plain(ids)
    relative = (trained - reference).norm() / reference.norm()
    assert 1e-4 < relative < 0.2, "recording gradients, it must differ, but not by much"


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_in_one_piece_it_has_the_same_gradients(backend):
    """A graph that breaks at every product would be right, and slow: `fullgraph` refuses it."""
    ids = torch.randint(0, 256, (2, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, _ = float8_model(layers=1)
        how = {"dynamic": False, "fullgraph": True, "backend": backend}
        forward = torch.compile(model, **how) if compiled else model
        loss = forward(ids[:, :-1], ids[:, 1:], reduction="sum")
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for got, want in zip(*reversed(found), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("native", [True, False])
def test_the_trainer_uses_8_bits_where_the_device_has_them(native, tmp_path, monkeypatch, capsys):
    """What a GPU multiplies is simulated here; whether it is asked to is what counts."""
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path))
    monkeypatch.setenv("CHATLIB_COMPILE", "0")
    monkeypatch.setattr(pretraining, "multiplies_float8", lambda device: native)
    wide = {"depth": 1, "width_per_depth": 128, "head_dim": 128, "train_tokens": 10_240}
    run, scale = pretraining.open_run("run", "tiny", wide | {"float8": 1})
    pretraining.train_tokenizer(run, scale)
    pretraining.pretrain(run, scale)
    said = capsys.readouterr().out
    assert ("5 layers multiply in 8 bits" in said) == native
    assert ("does not multiply in 8 bits" in said) != native
    assert run.manifest["base"]["float8_layers"] == (5 if native else 0)
    losses = [r["loss"] for r in Metrics(run.metrics_path("base")).rows() if "loss" in r]
    assert losses[-1] < losses[0] - 0.5


def test_only_the_node_scale_asks_for_8_bits():
    scales = ("tiny", "laptop", "gpu", "node")
    assert [get_scale(name).float8 for name in scales] == [False, False, False, True]
    for wrong in ({"float8": "yes"}, {"float8": 1, "sequence_len": 40, "batch_tokens": 400}):
        with pytest.raises(ChatlibError, match="float8="):
            get_scale("tiny", **wrong)


def test_a_float8_model_still_learns():
    model, _ = float8_model()
    ids = torch.randint(0, 256, (2, 33), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
