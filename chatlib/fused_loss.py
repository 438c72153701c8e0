"""The middle of the loss in one Triton kernel: raw logits in, what they cost and its slopes out.

`chatlib.loss.nats_and_slopes` defines what it gives. Triton comes with torch's builds for GPUs, and
only there is this module imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # logits that a program holds at a time


@triton.jit
def _tanh(u):
    return 2 * tl.sigmoid(2 * u) - 1


@triton.jit
def _one_row(
    z, ys, nats, slopes, V, gain, SOFTCAP: tl.constexpr, IGNORE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)  # times V it may not fit into 32 bits
    z, slopes = z + row * V, slopes + row * V
    y = tl.load(ys + row)
    sums, hits = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        t = _tanh(tl.load(z + at, mask=at < V, other=0).to(tl.float32) / SOFTCAP)
        sums += tl.where(at < V, tl.exp(SOFTCAP * t), 0)  # cannot overflow: at most e^15 each
        hits += tl.where(at == y, SOFTCAP * t, 0)
    log_normalizer = tl.log(tl.sum(sums))
    counts = y != IGNORE
    tl.store(nats + row, tl.where(counts, log_normalizer - tl.sum(hits), 0))
    scale = tl.where(counts, gain, 0)
    for start in range(0, V, BLOCK):  # once more: the row is still in the cache
        at = start + tl.arange(0, BLOCK)
        t = _tanh(tl.load(z + at, mask=at < V, other=0).to(tl.float32) / SOFTCAP)
        d_capped = tl.exp(SOFTCAP * t - log_normalizer) - tl.where(at == y, 1.0, 0.0)
        d_raw = d_capped * (1 - t * t) * scale
        tl.store(slopes + at, d_raw.to(slopes.dtype.element_ty), mask=at < V)


def fused_nats_and_slopes(
    z: Tensor, ys: Tensor, dtype: torch.dtype, gain: float, softcap: float, ignore: int
) -> tuple[Tensor, Tensor]:
    """z (N, V), ys (N,) -> nats (N,), and `gain` times their gradient by z (N, V) as `dtype`.

    One program a row. The gradient takes the place of z where `dtype` is that of z.
    """
    assert z.is_contiguous()
    nats = torch.empty(len(z), dtype=torch.float32, device=z.device)
    slopes = z if z.dtype == dtype else torch.empty_like(z, dtype=dtype)
    block = min(BLOCK, triton.next_power_of_2(z.size(1)))
    _one_row[(len(z),)](
        z, ys.contiguous(), nats, slopes, z.size(1), gain, softcap, ignore, block, num_warps=8
    )
    return nats, slopes
