"""What test_fused_loss.py runs under Triton's interpreter: the kernel, on the CPU."""

import sys

import torch
from torch import Tensor

from chatlib import loss
from chatlib.precision import E5M2

FLOAT, HALF = torch.float32, torch.bfloat16
CASES = {  # rows, vocabulary, dtype of the raw logits and of their slopes, share of targets ignored
    "float32": (7, 70, FLOAT, FLOAT, 0.3),
    "bfloat16": (5, 1000, HALF, HALF, 0.3),
    "a block and three logits": (5, 4099, FLOAT, FLOAT, 0.3),
    "three blocks, bfloat16": (3, 10001, HALF, HALF, 0.0),
    "exactly one block": (2, 4096, FLOAT, FLOAT, 0.0),
    "all ignored": (4, 100, FLOAT, FLOAT, 1.0),
    "one word": (1, 1, FLOAT, FLOAT, 0.0),
    "8 bits": (16, 512, HALF, E5M2, 0.3),
}


def inputs(rows: int, vocabulary: int, dtype: torch.dtype, ignored: float) -> tuple[Tensor, Tensor]:
    """Raw logits from small to far beyond the cap; targets that do not lie together in memory."""
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, vocabulary, generator=generator)
    z *= torch.linspace(0.1, 12, rows)[:, None]
    z[0, 0], z[0, -1] = 1e4, -1e4
    targets = torch.randint(0, vocabulary, (rows, 2), generator=generator)[:, 0]
    targets[rows - round(ignored * rows) :] = loss.IGNORE
    return z.to(dtype), targets


def summed(float8: bool, fused: bool) -> list[Tensor]:
    """The whole loss over 40 rows in chunks of 16, and its gradients by inputs and head.

    Slopes stay in 32 bits: the interpreter loses a carry when it rounds to 8.
    """
    loss.fuses, loss.CHUNK, loss.E5M2 = (lambda *_: fused), (16 * 256, 0), FLOAT
    generator = torch.Generator().manual_seed(0)
    x, head = (torch.randn(n, 128, generator=generator).requires_grad_() for n in (40, 256))
    targets = torch.randint(-1, 256, (40,), generator=generator)
    total = loss.softcapped_cross_entropy(x, head, targets, "mean", float8)
    total.backward()
    return [total.detach(), x.grad, head.grad]


if __name__ == "__main__":
    from chatlib.fused_loss import fused_nats_and_slopes

    found = {}
    for name, (rows, vocabulary, dtype, out, ignored) in CASES.items():
        z, targets = inputs(rows, vocabulary, dtype, ignored)
        gain = loss.GAIN if out == E5M2 else 1.0
        nats, slopes = fused_nats_and_slopes(z, targets, out, gain, loss.SOFTCAP, loss.IGNORE)
        found[name] = (nats, slopes, slopes is z)
    for float8 in (False, True):
        found[float8] = [summed(float8, fused) for fused in (True, False)]
    torch.save(found, sys.argv[1])
