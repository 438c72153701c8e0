"""The loss: how surprised the model is by the tokens that came, in nats."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._triton import has_triton

from chatlib.precision import E4M3, E5M2, FLOAT8_MULTIPLE, Float8, float8_matmul, quantize

SOFTCAP = 15.0  # logits stay within ±15
IGNORE = -1  # a target with this value is not predicted
GAIN = 2.0**15  # so many times as large, slopes of at most 1 make use of the range of E5M2
CHUNK = (2**20, 2**28)  # how many logits to hold at a time, on a CPU and on a GPU


def softcap(z: Tensor) -> Tensor:
    """Logits squeezed smoothly into ±SOFTCAP, in float32."""
    return SOFTCAP * torch.tanh(z.float() / SOFTCAP)


def rows_at_a_time(head: Tensor) -> int:
    """How many rows of logits to hold at once, for a head (V, C); blocks of 16 where that many."""
    rows = CHUNK[head.is_cuda] // len(head)
    return rows - rows % FLOAT8_MULTIPLE or max(rows, 1)


def nats_per_target(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """What each target costs: x (N, C), head (V, C), targets (N,) -> (N,), 0 where ignored."""
    rows = len(x) if torch.is_grad_enabled() else rows_at_a_time(head)
    pieces = zip(x.split(rows), targets.split(rows), strict=True)
    weight = head.to(x.dtype)
    return torch.cat([_nats(softcap(F.linear(xs, weight)), ys) for xs, ys in pieces])


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def nats_and_slopes(
    z: Tensor, ys: Tensor, dtype: torch.dtype, gain: float
) -> tuple[Tensor, Tensor]:
    """z (N, V), ys (N,) -> nats (N,), and `gain` times their gradient by z (N, V) as `dtype`.

    z are raw logits. The gradient by one of them is at most 1, so a gain can be chosen beforehand.
    """
    t = torch.tanh(z.float() / SOFTCAP)
    unnormalized = torch.exp(SOFTCAP * t)  # cannot overflow: at most e^15
    normalizer = unnormalized.sum(-1, keepdim=True)
    ys, vocab = ys[:, None], torch.arange(z.size(1), device=z.device)
    counts = ys != IGNORE
    hit = SOFTCAP * t.gather(-1, ys.clamp(min=0))
    d_capped = unnormalized / normalizer - (vocab == ys).float()
    slopes = d_capped * (1 - t.square()) * (gain * counts)
    return ((normalizer.log() - hit) * counts).squeeze(-1), slopes.to(dtype)


@torch.compiler.assume_constant_result
def fuses(device: torch.device, compiling: bool) -> bool:
    """Whether our kernel works out what `nats_and_slopes` does: on GPUs that Triton knows, unless
    torch's compiler is at work, which writes such a kernel itself."""
    return device.type == "cuda" and not compiling and has_triton()


class SummedCrossEntropy(torch.autograd.Function):
    """The sum of `nats_per_target`, never holding the logits of more than one chunk of rows.

    The gradient of a chunk is worked out while its logits are at hand, on the way forward. With
    `float8` its three products are in 8 bits.
    """

    @staticmethod
    def forward(ctx, x: Tensor, head: Tensor, targets: Tensor, float8: bool) -> Tensor:
        turn, multiply = (quantize, float8_matmul) if float8 else (_as_it_is, _matmul)
        dtype, gain = (E5M2, GAIN) if float8 else (x.dtype, 1.0)
        total, d_head, d_x = x.new_zeros((), dtype=torch.float32), torch.zeros_like(head), []
        weight, rows = turn(head.to(x.dtype), E4M3), rows_at_a_time(head)
        for xs, ys in zip(x.split(rows), targets.split(rows), strict=True):
            inputs = turn(xs, E4M3)
            z = multiply(inputs, weight, x.dtype)
            if fuses(x.device, torch.compiler.is_compiling()):
                from chatlib.fused_loss import fused_nats_and_slopes  # needs Triton

                nats, slopes = fused_nats_and_slopes(z, ys, dtype, gain, SOFTCAP, IGNORE)
            else:
                nats, slopes = nats_and_slopes(z, ys, dtype, gain)
            total = total + nats.sum()
            d_logits = Float8(slopes, total.new_full((), 1 / gain)) if float8 else slopes
            d_x.append(multiply(d_logits, weight.t(), x.dtype))
            d_head = d_head + multiply(d_logits.t(), inputs.t(), x.dtype)
        ctx.save_for_backward(torch.cat(d_x), d_head)
        return total

    @staticmethod
    def backward(ctx, d_total: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_x, d_head = ctx.saved_tensors
        return (d_total * d_x).to(d_x.dtype), d_total * d_head, None, None


def _as_it_is(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x


def _matmul(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    return F.linear(a, b)


def softcapped_cross_entropy(
    x: Tensor, head: Tensor, targets: Tensor, reduction: str, float8: bool = False
) -> Tensor:
    """The loss in nats: x (N, C), head (V, C), targets (N,) -> (), or (N,) if reduction is "none".

    "mean" is over the targets that count; without any it is 0, and so is its gradient. With
    `float8` the products of "mean" and "sum" are in 8 bits while gradients are recorded.
    """
    if reduction == "none":
        return nats_per_target(x, head, targets)
    float8 = float8 and torch.is_grad_enabled() and len(head) % FLOAT8_MULTIPLE == 0
    total = SummedCrossEntropy.apply(x, head, targets, float8)
    return total if reduction == "sum" else total / (targets != IGNORE).sum().clamp(min=1)
