"""Which numbers to compute with: the dtype policy and the Linear layer that follows it."""

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """What activations on `device` should be: bfloat16 where the chip multiplies it natively.

    A CPU without AVX512-BF16 or AMX emulates bfloat16, up to a hundred times slower than float32,
    so there, and on MPS, the answer is float32. Weights are float32 everywhere.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return (
            torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
        )
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.float32


class Linear(nn.Linear):
    """A bias-free linear layer whose float32 weight is cast to the dtype of its input."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features), in x's dtype."""
        return F.linear(x, self.weight.to(x.dtype))
