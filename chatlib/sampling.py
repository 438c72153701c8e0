"""From logits to a token: temperature, top-k, top-p, min-p, repetition edit one distribution.

Every row of a batch carries its own settings. The rules work on *ranked* logits, largest first:
there "the k best", "the smallest set holding probability p" and "at least a share of the best"
are all a cut at some rank. One uniform number per row then picks a token (inverse-CDF sampling),
so a row's tokens depend on its own seed and never on its neighbors in the batch.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from chatlib.errors import ChatlibError

LIMITS = {  # lowest and highest value a reader may ask for
    "temperature": (0.0, 2.0),
    "top_k": (0, 200),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition": (0.5, 2.0),
}


@dataclass(frozen=True)
class Sampling:
    """How one row picks its tokens. The defaults sample the model's own distribution.

    temperature: divides the logits; 0 always takes the best token.
    top_k: keep the k best tokens; 0 keeps all.
    top_p: keep the smallest best-first set with probability ≥ p (nucleus, arXiv 1904.09751).
    min_p: keep tokens at least min_p times as probable as the best (arXiv 2407.01082).
    repetition: shrink the logits of tokens already used (CTRL, arXiv 1909.05858); 1 is off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), LIMITS[field.name]
            if not (math.isfinite(value) and low <= value <= high):
                raise ChatlibError(f"{field.name} is {value}; choose a value from {low} to {high}.")

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5 or self.top_k == 1

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off, so that nothing need be ranked."""
        return not (self.greedy or self.top_k or self.top_p < 1 or self.min_p > 0)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: Tensor | float) -> Tensor:
    """Divide positive logits of seen tokens by the penalty and multiply negative ones. (B, V)"""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(ranked: Tensor, k: Tensor | int) -> Tensor:
    """Keep the k largest of each row of ranked logits (B, V); k may differ by row, (B, 1)."""
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    return ranked.masked_fill(rank >= k, -math.inf)


def keep_top_p(ranked: Tensor, p: Tensor | float) -> Tensor:
    """Keep ranked tokens while the probability before them is below p; the best always stays."""
    probs = ranked.softmax(-1)
    before = probs.cumsum(-1) - probs
    before[..., 0] = -1.0
    return ranked.masked_fill(before >= p, -math.inf)


def keep_min_p(ranked: Tensor, share: Tensor | float) -> Tensor:
    """Keep ranked tokens with probability ≥ share × the best token's."""
    probs = ranked.softmax(-1)
    return ranked.masked_fill(probs < share * probs[..., :1], -math.inf)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """The index where the running sum of each row of probs (B, V) passes uniform (B,) in [0, 1)."""
    total = probs.cumsum(-1)
    return torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)[:, 0]


@functools.lru_cache(maxsize=64)
def _columns(rows: tuple[Sampling, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The settings of a batch as columns (B, 1); 'keep all' and 'greedy' become values of k."""
    every = 1 << 30
    k = [1 if row.greedy else row.top_k or every for row in rows]
    temperature = [1.0 if row.greedy else row.temperature for row in rows]
    others = [[getattr(row, name) for row in rows] for name in ("top_p", "min_p", "repetition")]
    return tuple(torch.tensor(c, device=device)[:, None] for c in (k, temperature, *others))


def choose(
    logits: Tensor, rows: Sequence[Sampling], uniform: Sequence[float], seen: Tensor | None = None
) -> Tensor:
    """Pick one token per row: logits (B, V), one Sampling and one uniform in [0, 1) a row -> (B,).

    seen (B, V) marks the tokens a row has used; it is needed only where repetition is not 1.
    """
    k, temperature, top_p, min_p, repetition = _columns(tuple(rows), logits.device)
    if seen is not None:
        logits = penalize_repetition(logits, seen, repetition)
    if all(row.greedy for row in rows):
        return logits.argmax(-1)
    logits = logits / temperature
    number = torch.tensor([min(u, 1 - 2**-24) for u in uniform], device=logits.device)
    whole = [row.whole for row in rows]
    unranked = draw(logits.softmax(-1), number) if any(whole) else None
    if all(whole):
        return unranked
    widths = {1 if row.greedy else row.top_k for row in rows}
    if 0 in widths:
        ranked, ids = logits.sort(descending=True)
    else:
        ranked, ids = logits.topk(min(max(widths), logits.shape[-1]))
    if len(widths) > 1:
        ranked = keep_top_k(ranked, k)
    if any(row.top_p < 1 for row in rows):
        ranked = keep_top_p(ranked, top_p)
    if any(row.min_p > 0 for row in rows):
        ranked = keep_min_p(ranked, min_p)
    picked = ids.gather(-1, draw(ranked.softmax(-1), number)[:, None])[:, 0]
    if unranked is None:
        return picked
    return torch.where(torch.tensor(whole, device=logits.device), unranked, picked)
