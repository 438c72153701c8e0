"""Comparing an answer with what is right, and with what is known to go wrong."""

import math

import torch
from torch import Tensor

from chatlib.checks import Wrong


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=tolerance)


def tensor(answer: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The answer, if it is a tensor of this shape."""
    if not isinstance(answer, Tensor):
        raise Wrong(f"{what} must be a tensor; yours is {type(answer).__name__}.")
    if answer.shape != shape:
        raise Wrong(f"{what} must have shape {shape}; yours has {tuple(answer.shape)}.")
    return answer


def expect(y: Tensor, right: Tensor, slips: dict[str, Tensor], otherwise: str) -> None:
    """Raise what is known about this wrong answer, if it is wrong."""
    if same(y, right):
        return
    for message, slip in slips.items():
        if same(y, slip):
            raise Wrong(message)
    raise Wrong(f"{otherwise}: the largest difference is {(y - right).abs().max():.2g}.")


def expect_number(
    answer: float, right: float, slips: dict[str, float], otherwise: str, tolerance: float = 1e-6
) -> None:
    """Raise what is known about this wrong number, if it is wrong."""
    if math.isclose(answer, right, rel_tol=tolerance):
        return
    for message, slip in slips.items():
        if math.isclose(answer, slip, rel_tol=tolerance):
            raise Wrong(message)
    raise Wrong(f"{otherwise} Right is {right:,.10g}; you say {answer:,.10g}.")
