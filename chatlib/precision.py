"""Which numbers to compute with: the dtype policy, the Linear layer that follows it, and float8."""

import platform
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

E4M3 = torch.float8_e4m3fn  # 3 bits of fraction, up to 448: weights and activations
E5M2 = torch.float8_e5m2  # 2 bits of fraction, up to 57,344: gradients, which vary more
FLOAT8_MULTIPLE, FLOAT8_SMALLEST = 16, 128  # sides a matrix must have to be worth it


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """What activations on `device` should be: bfloat16 where the chip multiplies it natively.

    A CPU without AVX512-BF16 or AMX emulates bfloat16, up to a hundred times slower than float32,
    so there, and on MPS, the answer is float32. Weights are float32 everywhere.
    """
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def is_slow(device: torch.device | str) -> bool:
    """Whether `device` is a CPU without native bfloat16, which gets the smaller budget."""
    return torch.device(device).type == "cpu" and compute_dtype(device) == torch.float32


class Linear(nn.Linear):
    """A bias-free linear layer whose float32 weight is cast to the dtype of its input.

    With `float8` set (see `use_float8`) it multiplies in 8 bits while gradients are recorded, so
    that evaluation and generation always see the full weights.
    """

    float8 = False

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features), in x's dtype."""
        weight = self.weight.to(x.dtype)
        if self.float8 and torch.is_grad_enabled():
            return Float8Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])
        return F.linear(x, weight)


@dataclass(frozen=True)
class Float8:
    """A tensor in 8 bits: what it stands for is `data` times `scale`."""

    data: Tensor
    scale: Tensor  # float32, a scalar

    def t(self) -> "Float8":
        return Float8(self.data.t(), self.scale)

    def dequantized(self) -> Tensor:
        return self.data.float() * self.scale


def quantize(x: Tensor, dtype: torch.dtype) -> Float8:
    """x in 8 bits, scaled so that its largest magnitude becomes the largest of `dtype`.

    Rounding may push that one past the end, where a cast may give NaN (e4m3 has no infinity) or
    saturate, depending on the machine: saturate first.
    """
    largest = torch.finfo(dtype).max
    scale = x.abs().amax().float().clamp(min=1e-12) / largest
    return Float8((x.float() / scale).clamp(-largest, largest).to(dtype), scale)


@torch.compiler.assume_constant_result
def multiplies_float8(device: torch.device) -> bool:
    """Whether `device` multiplies bytes itself: NVIDIA GPUs from compute capability 8.9 on do."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def float8_matmul(a: Float8, b: Float8, dtype: torch.dtype) -> Tensor:
    """a (M, K) times b (N, K) transposed -> (M, N), summed in float32.

    Where the device cannot multiply bytes, the same bytes are multiplied as float32, which holds
    every product of two of them exactly.
    """
    if multiplies_float8(a.data.device):
        return torch._scaled_mm(
            a.data.contiguous(), b.data.contiguous().t(), a.scale, b.scale, out_dtype=dtype
        )
    return ((a.data.float() @ b.data.float().t()) * (a.scale * b.scale)).to(dtype)


class Float8Product(torch.autograd.Function):
    """x (N, in) times weight (out, in) transposed, all three products of training in 8 bits."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        xs, ws = quantize(x, E4M3), quantize(weight, E4M3)
        ctx.save_for_backward(xs.data, xs.scale, ws.data, ws.scale)
        return float8_matmul(xs, ws, x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, x_scale, weight, w_scale = ctx.saved_tensors
        gs = quantize(grad, E5M2)
        d_x = float8_matmul(gs, Float8(weight, w_scale).t(), grad.dtype)
        d_weight = float8_matmul(gs.t(), Float8(x, x_scale).t(), grad.dtype)
        return d_x, d_weight


def use_float8(model: nn.Module) -> list[str]:
    """Switch every Linear with large enough sides to 8 bits; returns their names.

    The number of rows of their inputs must be a multiple of 16, too. Call it before compiling.
    """
    switched = []
    for name, layer in model.named_modules():
        if isinstance(layer, Linear):
            sides = layer.weight.shape
            layer.float8 = min(sides) >= FLOAT8_SMALLEST and not any(
                side % FLOAT8_MULTIPLE for side in sides
            )
            switched += [name] if layer.float8 else []
    return switched
