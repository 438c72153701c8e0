"""Attention: every query takes a weighted mean of the values it may look at.

One function, `attend`, and several ways to compute it, of which `choose_backend` picks the fastest
known for a shape and a device. All of them agree.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = {  # name: when it is the one to take
    "explicit": "two matrix products and a softmax over all pairs: the definition",
    "blocks": "training on a CPU: the definition, but only for pairs that can see each other",
    "sdpa": "torch's own attention: runs everywhere, reads a KV cache without copying it",
    "flash": "training in bfloat16 on a GPU: FlashAttention, which skips what no query sees",
    "flex": "training on a GPU without bfloat16: a kernel compiled from the window's definition",
}
BLOCK = 64  # queries that are treated together by "blocks"
BLOCKS_REACH = 1024  # longer sequences are better off with "sdpa", which keeps no weights


def visible(positions: Tensor, n_keys: int, window: int) -> Tensor:
    """True where a query may look: positions (..., T) -> (..., T, S). Key j sits at position j.

    The query at p sees keys p - window .. p, that is window + 1 of them; window < 0 sets no limit.
    """
    key = torch.arange(n_keys, device=positions.device)
    query = positions[..., None]
    mask = key <= query
    return mask if window < 0 else mask & (key >= query - window)


def attention_weights(
    q: Tensor, k: Tensor, window: int = -1, positions: Tensor | None = None
) -> Tensor:
    """How much each query looks at each key: q (B,T,H,D), k (B,S,Hkv,D) -> (B,H,T,S), sums 1."""
    if positions is None:
        positions = torch.arange(q.size(1), device=q.device)
    q, k = q.transpose(1, 2), _repeated(k, q.size(2)).transpose(1, 2)
    return _weights(q, k, visible(positions, k.size(2), window))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int = -1,
    positions: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal attention: q (B,T,H,D), k and v (B,S,Hkv,D) -> (B,T,H,D); H is a multiple of Hkv.

    positions  (B,T) or (T,): where each query stands among the keys 0..S-1. None: training, T == S.
    window     the query at p sees keys p - window .. p; negative: all keys up to p.
    backend    a name from BACKENDS; "auto" asks `choose_backend`.
    """
    assert positions is not None or q.size(1) == k.size(1), "training needs as many keys as queries"
    if backend == "auto":
        backend = choose_backend(q, positions is None)
    if positions is not None:
        mask = visible(positions, k.size(1), window)
        return _sdpa(q, k, v, mask) if backend == "sdpa" else _explicit(q, k, v, mask)
    T = q.size(1)
    if window < 0 or window >= T:
        window = T
    if backend == "flash":
        return _flash(q, k, v, window)
    if backend == "flex":
        return _flex(q, k, v, window)
    if backend == "blocks":
        return _blocks(q, k, v, window)
    mask = None if window == T else visible(torch.arange(T, device=q.device), T, window)
    if backend == "sdpa":
        return _sdpa(q, k, v, mask)
    return _explicit(q, k, v, visible(torch.arange(T, device=q.device), T, window))


def choose_backend(q: Tensor, training: bool) -> str:
    """The backend for queries q (B,T,H,D) of a whole sequence (`training`) or beside a cache.

    BACKENDS says why.
    """
    if not training:
        return "sdpa"
    if q.is_cuda:
        return "flash" if q.dtype in (torch.bfloat16, torch.float16) else "flex"
    return "blocks" if q.device.type == "cpu" and q.size(1) <= BLOCKS_REACH else "sdpa"


def _repeated(x: Tensor, n_head: int) -> Tensor:
    """Each key head as often as query heads share it: x (B,S,Hkv,D) -> (B,S,H,D)."""
    return x if x.size(2) == n_head else x.repeat_interleave(n_head // x.size(2), dim=2)


def _weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Softmax of masked scores: q (B,H,T,D), k (B,H,S,D), mask (T,S) or (B,T,S) -> (B,H,T,S)."""
    scores = q @ k.mT / math.sqrt(q.size(-1))
    mask = mask if mask.dim() == 2 else mask[:, None]
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def _explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    k, v = _repeated(k, q.size(2)), _repeated(v, q.size(2))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return (_weights(q, k, mask) @ v).transpose(1, 2)


def _blocks(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Explicit attention, one block of queries at a time, each with just the keys it can see."""
    k, v = _repeated(k, q.size(2)), _repeated(v, q.size(2))
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    done = []
    for start in range(0, q.size(2), BLOCK):
        stop = min(start + BLOCK, q.size(2))
        first = max(0, start - window)
        mask = visible(torch.arange(start - first, stop - first), stop - first, window)
        weights = _weights(q[:, :, start:stop], k[:, :, first:stop], mask)
        done.append(weights @ v[:, :, first:stop])
    return torch.cat(done, dim=2).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """mask None means causal; torch then takes a kernel that skips the upper triangle."""
    grouped = q.size(2) != k.size(2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if mask is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        mask = mask if mask.dim() == 2 else mask[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return y.transpose(1, 2)


# The rest needs a GPU.


def _flash(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlashAttention over the rows laid end to end, which is the form that takes a window."""
    from torch.nn.attention.varlen import varlen_attn  # slow to import

    B, T = q.shape[:2]
    starts = torch.arange(0, B * T + 1, T, device=q.device, dtype=torch.int32)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    reach = (-1, 0) if window == T else (window, 0)
    grouped = q.size(1) != k.size(1)
    y = varlen_attn(q, k, v, starts, starts, T, T, window_size=reach, enable_gqa=grouped)
    return y.unflatten(0, (B, T))


@lru_cache(maxsize=16)
def _block_mask(T: int, window: int, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch, head, query, key):
        return (key <= query) & (key >= query - window)

    return create_block_mask(sees, None, None, T, T, device=device)


def _flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    mask = _block_mask(q.size(1), window, q.device)
    grouped = q.size(2) != k.size(2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped).transpose(1, 2)
