"""The model against the recipe, written out again in float64 without any of its machinery."""

import math

import pytest
import torch
import torch.nn.functional as F

from chatlib import loss as loss_module
from chatlib.errors import ChatlibError
from chatlib.kv_cache import KVCache
from chatlib.loss import nats_per_target, softcapped_cross_entropy
from chatlib.model import GPT, GPTConfig, norm, rotary_table, rotate

CONFIG = GPTConfig(
    vocab_size=70,
    n_layer=5,
    n_head=4,
    n_kv_head=2,
    n_embd=64,
    sequence_len=300,
    window_pattern="SL",
)


def model_of(config: GPTConfig = CONFIG, noise: float = 0.1) -> GPT:
    model = GPT(config)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += noise * torch.randn(p.shape, generator=generator)
    return model


def ids_of(B: int, T: int, vocab: int = 70, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, vocab, (B, T), generator=torch.Generator().manual_seed(seed))


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt()


def recipe(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one row of ids (T,), by the book, one position and one head at a time."""
    p = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    c, T = model.config, len(ids)
    D, share = c.head_dim, c.n_head // c.n_kv_head
    short = min(c.sequence_len, math.ceil(c.sequence_len / 4 / 128) * 128)
    embedded = rms(p["embedding.weight"][ids])
    x = embedded.clone()
    for t in range(1, T):  # E4: the predecessor before it was smeared itself
        gate = torch.sigmoid(p["smear_gate.weight"] @ embedded[t, :24])
        x[t] = embedded[t] + p["smear_scale"] * gate * embedded[t - 1]
    first = x
    for i in range(c.n_layer):
        x = p["residual_scales"][i] * x + p["embedding_scales"][i] * first
        xn, prefix = rms(x), f"blocks.{i}."
        q, k, v = (xn @ p[prefix + "attention.qkv.weight"].T).split(
            [c.n_head * D, c.n_kv_head * D, c.n_kv_head * D], -1
        )
        if i % 2 == (c.n_layer - 1) % 2:  # E7: un-normed table, current token, normed gate input
            gate = 3 * torch.sigmoid(xn[:, :12] @ p[prefix + "attention.value_gate.weight"].T)
            table = p[f"value_embeddings.{i}.weight"][ids]
            v = v + (gate[:, :, None] * table.view(T, c.n_kv_head, D)).flatten(1)
        is_long = i == c.n_layer - 1 or c.window_pattern[i % len(c.window_pattern)] == "L"
        window = c.sequence_len if is_long else short
        y = torch.zeros(T, c.n_head * D, dtype=torch.float64)
        for h in range(c.n_head):
            g = h // share
            qh = 1.2 * rms(turn(q[:, h * D : (h + 1) * D]))  # E3: rotate, norm, then 1.2 on both
            kh = 1.2 * rms(turn(k[:, g * D : (g + 1) * D]))
            for t in range(T):
                low = max(0, t - window)  # E1: window + 1 keys
                weights = (kh[low : t + 1] @ qh[t] / math.sqrt(D)).softmax(0)
                y[t, h * D : (h + 1) * D] = weights @ v[low : t + 1, g * D : (g + 1) * D]
        x = x + y @ p[prefix + "attention.out.weight"].T
        x = (
            x
            + (rms(x) @ p[prefix + "mlp.up.weight"].T).relu() ** 2 @ p[prefix + "mlp.down.weight"].T
        )
        if i == c.n_layer // 2:  # E6
            middle = x
    x = rms(x - p["backout_scale"] * middle)
    logits = (x @ p["head.weight"].T)[:, : c.vocab_size]  # E8: crop, then cap
    return 15 * torch.tanh(logits / 15)


def turn(x):
    """Complex multiplication of pairs (i, i + D/2) by exp(i p θ)."""
    half = x.size(-1) // 2
    theta = 100_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] * theta
    z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), -1)


@pytest.mark.parametrize("length", [1, 2, 200])
def test_e01_e03_e04_e06_e07_e08_logits_follow_the_recipe(length):
    model, ids = model_of(), ids_of(2, length)
    with torch.no_grad():
        got = model(ids)
    assert got.dtype == torch.float32 and got.shape == (2, length, 70)
    for row in range(2):
        torch.testing.assert_close(got[row].double(), recipe(model, ids[row]), atol=1e-4, rtol=0)


def test_e03_rotation_is_relative_and_keeps_length():
    cos, sin = rotary_table(64, 16)
    x, y = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    a = rotate(x.expand(1, 64, 1, 16), cos, sin)[0, :, 0]
    b = rotate(y.expand(1, 64, 1, 16), cos, sin)[0, :, 0]
    torch.testing.assert_close(a[9] @ b[4], a[49] @ b[44], atol=1e-4, rtol=0)
    torch.testing.assert_close(a.norm(dim=-1), x.norm().expand(64))


def test_e04_smear_reads_unsmeared_predecessors_and_feeds_x0():
    model = model_of()
    with torch.no_grad():
        model.smear_scale.fill_(1e3)  # would explode if smeared embeddings were smeared again
        x = norm(torch.randn(1, 4, 64))
        smeared = model.smear(x, None)
        gate = torch.sigmoid(x[..., :24] @ model.smear_gate.weight.T)
        torch.testing.assert_close(smeared[:, 0], x[:, 0])
        torch.testing.assert_close(smeared[:, 1:], x[:, 1:] + 1e3 * gate[:, 1:] * x[:, :-1])


def test_e06_midpoint_after_block():
    """With two layers the midpoint is the last block's output: backing out all of it leaves 0."""
    model = model_of(GPTConfig(70, 2, 2, 2, 64, 64))
    with torch.no_grad():
        model.backout_scale.fill_(1.0)
        assert model(ids_of(2, 9)).abs().max() == 0


def test_e08_first_loss_is_that_of_guessing_among_real_tokens():
    model = GPT(CONFIG)
    model.init_weights(0)
    assert model.head.weight.shape == (128, 64), "padded to a multiple of 64"
    ids, targets = ids_of(4, 100), ids_of(4, 100, seed=1)
    assert abs(model(ids, targets).item() - math.log(70)) < 1e-3
    assert model(ids).shape[-1] == 70


def test_e08_softcap_bounds_logits_in_float32():
    model = model_of()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
        logits = model(ids_of(1, 20))
    assert logits.dtype == torch.float32 and 14 < logits.abs().max() <= 15


def test_e09_initialization_reaches_every_parameter():
    with torch.device("meta"):
        model = GPT(CONFIG)
    assert all(p.is_meta for p in model.parameters())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan"))
    model.init_weights(3)
    assert all(t.isfinite().all() for t in [*model.parameters(), *model.buffers()])
    plain = GPT(CONFIG)
    plain.init_weights(3)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(model.rotary, plain.rotary)
    plain.init_weights(4)
    assert not torch.equal(model.embedding.weight, plain.embedding.weight)


def test_initial_values_are_those_of_the_recipe():
    model = GPT(GPTConfig(512, 4, 4, 4, 256, 64))
    model.init_weights(0)
    bound = math.sqrt(3 / 256)
    assert abs(model.embedding.weight.std() - 0.8) < 0.01
    assert abs(model.head.weight.std() - 0.001) < 1e-4
    for block in model.blocks:
        for weight, limit in (
            (block.attention.qkv.weight, bound),
            (block.mlp.up.weight, 0.4 * bound),
        ):
            assert limit * 0.99 < weight.abs().max() <= limit
        assert block.attention.out.weight.abs().max() == 0 == block.mlp.down.weight.abs().max()
    assert set(model.value_embeddings) == {"1", "3"}
    for table in model.value_embeddings.values():
        assert bound * 0.99 < table.weight.abs().max() <= bound
    gate = model.blocks[1].attention.value_gate.weight
    assert gate.shape == (4, 12) and gate.min() >= 0 and gate.max() <= 0.02
    assert model.smear_scale.item() == 0 and abs(model.backout_scale.item() - 0.2) < 1e-6
    torch.testing.assert_close(model.residual_scales.detach(), torch.linspace(1.15, 1.05, 4))
    torch.testing.assert_close(model.embedding_scales.detach(), torch.linspace(0.2, 0.05, 4))


@pytest.mark.parametrize(
    "depth, width, scaling, total", [(12, 768, 110.1, 286.3), (24, 1536, 729.8, 1384.1)]
)
def test_published_parameter_counts(depth, width, scaling, total):
    with torch.device("meta"):
        model = GPT(GPTConfig(32768, depth, width // 128, width // 128, width, 2048))
    counts = model.num_params()
    assert round((counts["blocks"] + counts["head"]) / 1e6, 1) == scaling
    assert round(counts["total"] / 1e6, 1) == total
    assert sum(n for name, n in counts.items() if name != "total") == counts["total"]


def test_windows():
    def windows(n_layer, sequence_len, pattern="SSSL"):
        return GPTConfig(64, n_layer, 1, 1, 16, sequence_len, pattern).windows()

    assert windows(6, 2048) == (512, 512, 512, 2048, 512, 2048)
    assert windows(4, 256) == (128, 128, 128, 256)
    assert windows(2, 100) == (100, 100), "never more than the context"
    assert windows(3, 2048, "L") == (2048, 2048, 2048)
    assert windows(1, 2048) == (2048,)


@torch.no_grad()
def test_a_model_that_reaches_less_is_one_with_shorter_windows():
    model, ids = model_of(GPTConfig(70, 2, 2, 2, 64, 64)), ids_of(2, 64)
    whole = model(ids)
    assert not model.set_reach(1.0)
    assert model.set_reach(0.25) and not model.set_reach(0.25)
    near = model(ids)
    torch.testing.assert_close(near[:, :17], whole[:, :17])  # these have no more to see
    assert (near[:, 17:] - whole[:, 17:]).abs().amax() > 1e-3
    ids[:, 0] = (ids[:, 0] + 1) % 70
    blind = 1 + 2 * 16 + 1  # smear hands on one place, each of two layers sixteen
    torch.testing.assert_close(model(ids)[:, blind:], near[:, blind:])
    assert (model(ids)[:, :blind] - near[:, :blind]).abs().amax() > 1e-3
    ids[:, 0] = (ids[:, 0] - 1) % 70
    assert model.set_reach(1.0)
    torch.testing.assert_close(model(ids), whole)


def test_impossible_shapes_are_refused_in_one_sentence():
    for fields in ((64, 1, 3, 3, 64, 8), (64, 1, 4, 3, 64, 8), (64, 1, 4, 4, 4, 8)):
        with pytest.raises(ChatlibError):
            GPTConfig(*fields)
    with pytest.raises(ChatlibError, match="window_pattern"):
        GPTConfig(64, 1, 4, 4, 64, 8, "SXL")


def test_config_survives_json():
    assert GPTConfig.from_dict(CONFIG.to_dict()) == CONFIG


def gradients(model: GPT) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def test_loss_and_its_gradient_are_cross_entropy_of_the_logits(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", (70 * 13, 0))  # 13 rows at a time, the last one short
    model, ids, targets = model_of(), ids_of(2, 30), ids_of(2, 30, seed=1)
    targets[0, 3:9] = -1
    want = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=-1)
    want.backward()
    expected = gradients(model)
    model.zero_grad()
    got = model(ids, targets)
    got.backward()
    torch.testing.assert_close(got, want)
    for name, a, b in zip(dict(model.named_parameters()), gradients(model), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("recording", [True, False])
def test_reductions_agree(recording, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", (70 * 13, 0))
    model, ids, targets = model_of(), ids_of(2, 30), ids_of(2, 30, seed=1)
    targets[1, 10:] = -1
    with torch.set_grad_enabled(recording):
        each = model(ids, targets, reduction="none")
        assert each.shape == (2, 30) and (each[1, 10:] == 0).all() and (each[0] > 0).all()
        torch.testing.assert_close(model(ids, targets, reduction="sum"), each.sum())
        torch.testing.assert_close(model(ids, targets), each.sum() / 40)


def test_weighted_losses_differentiate_too():
    x = torch.randn(6, 8, requires_grad=True)
    head, targets = torch.randn(11, 8, requires_grad=True), torch.tensor([1, 2, -1, 4, 5, 10])
    weights = torch.linspace(-1, 2, 6)
    (weights * softcapped_cross_entropy(x, head, targets, "none")).sum().backward()
    want = x.grad.clone()
    x.grad = None
    for row in range(6):
        (
            weights[row] * nats_per_target(x[row : row + 1], head, targets[row : row + 1])
        ).sum().backward()
    torch.testing.assert_close(x.grad, want)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_e22_an_all_masked_batch_costs_nothing_and_teaches_nothing(reduction):
    model, ids = model_of(), ids_of(2, 10)
    loss = model(ids, torch.full_like(ids, -1), reduction=reduction)
    assert (loss == 0).all()
    loss.sum().backward()
    assert all((grad == 0).all() for grad in gradients(model))


def test_attention_maps_are_causal_windowed_distributions():
    model, ids = model_of(), ids_of(2, 200)
    maps = model.attention_maps(ids)
    assert maps.shape == (5, 2, 4, 200, 200)
    torch.testing.assert_close(maps.sum(-1), torch.ones(5, 2, 4, 200))
    assert maps.triu(1).abs().max() == 0
    assert model.config.windows()[0] == 128
    assert maps[0, :, :, 199, :71].max() == 0 and maps[0, :, :, 199, 71].min() > 0
    assert maps[1, :, :, 199, 0].min() > 0


def test_training_compiles_whole_and_once():
    torch._dynamo.reset()
    model, ids = model_of(GPTConfig(70, 2, 2, 2, 32, 64)), ids_of(2, 64)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    for step in range(3):
        targets = ids_of(2, 64, seed=step)
        loss = compiled(ids, targets)
        loss.backward()
        torch.testing.assert_close(loss, model(ids, targets))
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.01 * p.grad)
    assert len(graphs) == 1, "the second step recompiled"


@pytest.mark.slow
def test_compiled_code_computes_the_same():
    torch._dynamo.reset()
    model, ids, targets = (
        model_of(GPTConfig(70, 1, 2, 1, 32, 96)),
        ids_of(2, 96),
        ids_of(2, 96, seed=1),
    )
    want = model(ids, targets)
    want.backward()
    expected = gradients(model)
    model.zero_grad()
    got = torch.compile(model, fullgraph=True, dynamic=False)(ids, targets)
    got.backward()
    torch.testing.assert_close(got, want)
    for a, b in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_bfloat16_activations_keep_float32_parameters_and_losses():
    model = GPT(CONFIG, dtype=torch.bfloat16)
    model.load_state_dict(model_of().state_dict())
    ids, targets = ids_of(1, 16), ids_of(1, 16, seed=1)
    loss = model(ids, targets)
    loss.backward()
    assert loss.dtype == torch.float32 and model.head.weight.grad.dtype == torch.float32
    assert abs(loss.item() - model_of()(ids, targets).item()) < 0.05
    cache = KVCache(CONFIG, 1, 16, dtype=torch.bfloat16)
    with torch.no_grad():
        whole, first = model(ids), model(ids[:, :9], cache=cache)
        assert (torch.cat((first, model(ids[:, 9:], cache=cache)), 1) - whole).abs().max() < 0.5
