"""Reading with a cache must equal reading all at once, however the text is cut up."""

import itertools

import pytest
import torch

from chatlib.kv_cache import KVCache
from chatlib.model import GPT, GPTConfig

TOLERANCE = 1e-4


def model_of(n_layer=4, n_head=4, n_kv_head=2, sequence_len=160) -> GPT:
    """A model whose every parameter matters: nothing is left at zero."""
    model = GPT(GPTConfig(50, n_layer, n_head, n_kv_head, 32, sequence_len))
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
        model.smear_scale.fill_(0.7)
    return model


def ids_of(B: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (B, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def read_in_chunks(model: GPT, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    cache = KVCache(model.config, len(ids), ids.size(1))
    ends = list(itertools.accumulate(sizes))
    assert ends[-1] == ids.size(1)
    pieces = [ids[:, end - n : end] for end, n in zip(ends, sizes, strict=True)]
    return torch.cat([model(piece, cache=cache) for piece in pieces], 1)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize(
    "sizes", [[160], [1] * 160, [1, 159], [130, 1, 1, 28], [7] * 22 + [6], [64, 64, 32]]
)
@torch.no_grad()
def test_e02_e05_any_chunking_equals_one_pass(n_kv_head, sizes):
    model, ids = model_of(n_kv_head=n_kv_head), ids_of(2, 160)
    assert model.config.windows() == (128, 128, 128, 160), "short windows must come into play"
    got = read_in_chunks(model, ids, sizes)
    torch.testing.assert_close(got, model(ids), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_e01_windows_slide_past_the_context_length():
    model, ids = model_of(sequence_len=16), ids_of(1, 40)
    assert model.config.windows() == (16, 16, 16, 16)
    whole = model(ids)
    torch.testing.assert_close(read_in_chunks(model, ids, [1] * 40), whole, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(
        read_in_chunks(model, ids, [13, 20, 7]), whole, atol=TOLERANCE, rtol=0
    )


@torch.no_grad()
def test_e05_a_one_token_prompt_has_nothing_to_smear():
    model, ids = model_of(), ids_of(3, 2)
    cache = KVCache(model.config, 3, 8)
    first = model(ids[:, :1], cache=cache)
    torch.testing.assert_close(first, model(ids[:, :1]), atol=TOLERANCE, rtol=0)
    second = model(ids[:, 1:], cache=cache)
    torch.testing.assert_close(second, model(ids)[:, 1:], atol=TOLERANCE, rtol=0)
    forgetful = KVCache(model.config, 3, 8)
    model(ids[:, :1], cache=forgetful)
    forgetful.previous = torch.zeros_like(forgetful.previous)
    assert (model(ids[:, 1:], cache=forgetful) - second).abs().max() > 1e-3, "previous must matter"


def together(caches: list[KVCache], config: GPTConfig, room: int) -> KVCache:
    """One cache whose rows continue these caches of one row each."""
    rows = KVCache(config, len(caches), room)
    for row, cache in enumerate(caches):
        for mine, theirs in zip(rows.keys + rows.values, cache.keys + cache.values, strict=True):
            mine[row, : cache.end] = theirs[0, : cache.end]
        rows.lengths[row], rows.previous[row] = cache.end, cache.previous[0]
    rows.end = max(cache.end for cache in caches)
    return rows


@torch.no_grad()
def test_rows_of_different_lengths_decode_together():
    model = model_of()
    prompts = [ids_of(1, n, seed=n) for n in (3, 140, 11)]
    caches = [KVCache(model.config, 1, prompt.size(1)) for prompt in prompts]
    for prompt, cache in zip(prompts, caches, strict=True):
        model(prompt, cache=cache)
    rows = together(caches, model.config, 150)
    replies = ids_of(3, 5, seed=9)
    got = torch.cat([model(replies[:, i : i + 1], cache=rows) for i in range(5)], 1)
    for row, prompt in enumerate(prompts):
        want = model(torch.cat((prompt, replies[row : row + 1]), 1))[:, prompt.size(1) :]
        torch.testing.assert_close(got[row : row + 1], want, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_rewound_cache_reads_on_as_if_nothing_had_been():
    model, ids = model_of(), ids_of(2, 9)
    cache = KVCache(model.config, 2, 20)
    model(ids[:, :4], cache=cache)
    model(ids_of(2, 5, seed=3), cache=cache)
    with pytest.raises(AssertionError, match="too many"):
        cache.rewind(5)
    cache.rewind(4)
    first = ids_of(2, 5, seed=3)[:, :1]
    got = model(ids[:, 4:], cache=cache)
    want = model(torch.cat((ids[:, :4], first, ids[:, 4:]), 1))[:, 5:]
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)


def test_a_full_cache_says_so():
    model = model_of(n_layer=1)
    cache = KVCache(model.config, 1, 4)
    with torch.no_grad(), pytest.raises(AssertionError, match="cannot take"):
        model(ids_of(1, 5), cache=cache)
