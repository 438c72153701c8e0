"""Every way of computing attention against the definition, written out with loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from chatlib import attention
from chatlib.attention import BACKENDS, attend, attention_weights, choose_backend, visible

CPU_BACKENDS = ["explicit", "blocks", "sdpa", "auto"]
TOLERANCE = 2e-5  # float32 against float64


def draw(B=2, T=9, S=None, H=4, Hkv=2, D=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, T, H, D), (B, S or T, Hkv, D), (B, S or T, Hkv, D)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def definition(q, k, v, window, positions):
    """One query at a time, in float64: softmax over the keys from p - window to p."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros_like(q)
    share = q.size(2) // k.size(2)
    for b in range(q.size(0)):
        for t in range(q.size(1)):
            p = int(positions[b, t])
            first = 0 if window < 0 else max(0, p - window)
            for h in range(q.size(2)):
                keys, values = k[b, first : p + 1, h // share], v[b, first : p + 1, h // share]
                weights = (keys @ q[b, t, h] / math.sqrt(q.size(-1))).softmax(0)
                out[b, t, h] = weights @ values
    return out.float()


def test_e01_window_admits_one_more_key_than_its_size():
    assert visible(torch.tensor([5]), 8, 2).tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert visible(torch.tensor([5]), 8, 0).tolist() == [[0, 0, 0, 0, 0, 1, 0, 0]]
    assert visible(torch.tensor([5]), 8, -1).tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]


def test_e01_a_window_of_the_whole_context_still_slides_beyond_it():
    T = 6
    assert visible(torch.tensor([T - 1]), 2 * T, T).sum() == T, "within the context: everything"
    assert visible(torch.tensor([T + 3]), 2 * T, T).nonzero()[:, 1].tolist() == list(range(3, 10))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("window", [-1, 0, 3, 70, 1000])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
def test_training_equals_the_definition(backend, window, heads):
    T = 2 * attention.BLOCK + 5 if window == 70 else 9
    q, k, v = draw(B=1 if T > 9 else 2, T=T, H=heads[0], Hkv=heads[1])
    want = definition(q, k, v, window, torch.arange(T).expand(q.size(0), T))
    torch.testing.assert_close(
        attend(q, k, v, window=window, backend=backend), want, atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("backend", ["blocks", "sdpa"])
@pytest.mark.parametrize("window", [-1, 70])
def test_gradients_agree(backend, window):
    T = 2 * attention.BLOCK + 5
    got = []
    for name in ("explicit", backend):
        q, k, v = (x.requires_grad_() for x in draw(T=T))
        y = attend(q, k, v, window=window, backend=name)
        (y * torch.sin(torch.arange(y.numel()).view_as(y))).sum().backward()
        got.append((q.grad, k.grad, v.grad))
    for a, b in zip(*got, strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", ["explicit", "sdpa", "auto"])
@pytest.mark.parametrize("window", [-1, 0, 4])
def test_e02_queries_beside_a_cache_are_masked_by_position(backend, window):
    q, k, v = draw(B=3, T=2, S=12)
    ragged = torch.tensor([[0, 1], [5, 6], [10, 11]])
    want = definition(q, k, v, window, ragged)
    got = attend(q, k, v, window=window, positions=ragged, backend=backend)
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)
    shared = torch.tensor([7, 8])
    want = definition(q, k, v, window, shared.expand(3, 2))
    got = attend(q, k, v, window=window, positions=shared, backend=backend)
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)


def test_keys_past_the_query_may_hold_anything():
    q, k, v = draw(T=1, S=8)
    positions = torch.tensor([[3], [5]])
    before = attend(q, k, v, positions=positions)
    k[0, 4:], v[0, 4:], k[1, 6:], v[1, 6:] = 1e4, -1e4, 1e4, -1e4
    torch.testing.assert_close(attend(q, k, v, positions=positions), before)


def test_torch_agrees_where_it_overlaps():
    q, k, v = draw(Hkv=4)
    want = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
    )
    torch.testing.assert_close(attend(q, k, v), want.transpose(1, 2), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", [-1, 3])
def test_weights_are_a_distribution_over_visible_keys(window):
    q, k, v = draw()
    weights = attention_weights(q, k, window)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
    assert (weights[:, :, ~visible(torch.arange(9), 9, window)] == 0).all()
    values = v.repeat_interleave(2, dim=2).transpose(1, 2)
    torch.testing.assert_close((weights @ values).transpose(1, 2), attend(q, k, v, window=window))


def test_flex_agrees_even_without_its_kernel():
    q, k, v = draw(T=130, Hkv=2)
    torch.testing.assert_close(
        attend(q, k, v, window=50, backend="flex"), attend(q, k, v, window=50), atol=2e-5, rtol=0
    )


def test_the_choice_is_explained():
    q = torch.zeros(1, 8, 1, 2)
    long = torch.zeros(1, attention.BLOCKS_REACH + 1, 1, 2)
    assert choose_backend(q, training=True) == "blocks"
    assert choose_backend(long, training=True) == "sdpa"
    assert choose_backend(q, training=False) == "sdpa"
    assert {"blocks", "sdpa", "flash", "flex", "explicit"} == set(BACKENDS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [-1, 100])
@pytest.mark.parametrize("backend", ["flash", "flex", "sdpa"])
def test_gpu_backends_agree(backend, window):
    q, k, v = (x.cuda().bfloat16() for x in draw(T=256, D=64))
    if backend == "flash" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("FlashAttention needs an Ampere GPU")
    want = attend(q.float(), k.float(), v.float(), window=window, backend="explicit")
    got = attend(q, k, v, window=window, backend=backend).float()
    torch.testing.assert_close(got, want, atol=2e-2, rtol=0)
