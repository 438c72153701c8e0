"""Checks of the exercises on the training loop. Each takes your answer and says what is wrong, or
Right.

They try the likely slips by name first, then compare with the library on more cases.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chatlib.checks import Wrong
from chatlib.data.loader import BestFit
from chatlib.optim import ADAM_EPS, adamw_update
from chatlib.training import Schedule


def check_cross_entropy(answer: Callable[[Sequence[float], int], float]) -> None:
    """answer(logits, target) -> the surprise in nats."""

    def surprise(scores: list[float], target: int) -> float:
        try:
            found = float(answer(scores, target))
        except (OverflowError, ValueError, ZeroDivisionError):  # of exp, of log, of 0 / 0
            found = math.inf
        if not math.isfinite(found):
            raise Wrong(
                f"For {scores} the exponentials leave what a float can hold: subtract the largest "
                "score first, which changes no probability."
            )
        return found

    logits, target = [2.0, 1.0, 0.0], 1
    right = F.cross_entropy(torch.tensor(logits), torch.tensor(target)).item()
    got = surprise(logits, target)
    if math.isclose(got, right / math.log(2), rel_tol=1e-4):
        raise Wrong("That is the surprise in bits: use the natural logarithm.")
    if math.isclose(got, -right, rel_tol=1e-4):
        raise Wrong("The sign is wrong: a surprise is never negative.")
    if math.isclose(got, -logits[target], rel_tol=1e-4):
        raise Wrong("You took the score for a log-probability: divide by the sum over all scores.")
    if not math.isclose(got, right, rel_tol=1e-4):
        raise Wrong(f"For {logits} and target {target} it is {right:.4f} nats; you say {got:.4f}.")
    surprise([1000.0, 0.0], 1), surprise([-1000.0, -1001.0], 1)
    for shift in (0.0, -500.0, 40.0):
        scores = [shift + x for x in (0.3, -1.2, 4.0, 2.2)]
        expected = F.cross_entropy(torch.tensor(scores), torch.tensor(3)).item()
        if not math.isclose(surprise(scores, 3), expected, rel_tol=1e-3):
            raise Wrong(f"For {scores} and target 3 it should be {expected:.4f}.")
    print("Right: nats, and no overflow.")


def check_schedule(answer: Callable[[int, int, int, float, float], float]) -> None:
    """answer(step, steps, warmup, warmdown, final) -> the factor on the learning rate."""
    steps, warmup, warmdown, final = 100, 10, 0.4, 0.1
    got = [float(answer(s, steps, warmup, warmdown, final)) for s in range(steps)]
    if got[0] == 0:
        raise Wrong("Step 0 trains at rate 0, which wastes it: begin at 1 / warmup.")
    if not math.isclose(got[warmup - 1], 1.0):
        raise Wrong(f"The last step of the warmup should be at full rate; yours is {got[9]:.3f}.")
    flat = [s for s in range(warmup, 60) if not math.isclose(got[s], 1.0)]
    if flat:
        raise Wrong(
            f"Between warmup and fall the factor is 1; yours is {got[flat[0]]:.3f} at step "
            f"{flat[0]}. The fall takes the last {warmdown:.0%} of the steps."
        )
    if got[-1] < final - 1e-9:
        raise Wrong(
            f"At the end the factor is {got[-1]:.4f}, below final = {final}: fall to it, not to 0."
        )
    for case in ((100, 10, 0.4, 0.1), (37, 0, 0.65, 0.05), (50, 5, 1.0, 0.0), (9, 3, 0.5, 0.2)):
        expected = Schedule(*case)
        for step in range(case[0]):
            try:
                mine = float(answer(step, *case))
            except ZeroDivisionError as error:
                raise Wrong("warmup may be 0: then the first step has the full rate.") from error
            if not math.isclose(mine, expected.lr(step), abs_tol=1e-9):
                raise Wrong(
                    f"With (steps, warmup, warmdown, final) = {case}, step {step} has "
                    f"{expected.lr(step):.4f}; you say {mine:.4f}."
                )
    print("Right: up, along, and down.")


def check_weights(answer: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """answer(counts) -> what to multiply each piece's mean loss by."""
    got = answer([64, 4])
    if got is None:
        raise Wrong("Return the list of weights; you return None.")
    got = [float(w) for w in got]
    if len(got) != 2:
        raise Wrong(f"Two pieces need two weights; you return {len(got)}.")
    if math.isclose(got[0], got[1]):
        raise Wrong(
            "You weigh a piece of 4 targets like one of 64: each target should count the same."
        )
    if got[0] < got[1]:
        raise Wrong("The piece with more targets must weigh more, not less.")
    if not math.isclose(sum(got), 1.0, rel_tol=1e-6):
        raise Wrong(f"The weights add up to {sum(got):g}: the whole is a mean, so make it 1.")
    generator = torch.Generator().manual_seed(0)
    for counts in ([5, 1, 9], [3, 0, 7], [2]):
        pieces = [torch.rand(c, generator=generator) for c in counts]
        try:
            weights = [float(w) for w in answer(counts)]
        except ZeroDivisionError as error:
            raise Wrong(f"The counts {counts} make you divide by zero.") from error
        means = [float(p.mean()) if len(p) else 0.0 for p in pieces]
        mixed = sum(w * mean for w, mean in zip(weights, means, strict=True))
        if not math.isclose(mixed, float(torch.cat(pieces).mean()), rel_tol=1e-4):
            raise Wrong(f"With counts {counts} the pieces do not add up to the mean of all.")
    print("Right: every target counts the same, wherever it stands.")


def _packed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """What the library's pool makes of documents of these lengths, all waiting at once."""
    pool, rows, left = BestFit(np.zeros((1, n)) for n in lengths), [], sum(lengths)
    while left >= size:
        row: list[int] = []
        while (space := size - sum(row)) > 0:
            chosen = pool.take_largest(space)
            chosen = pool.take_shortest() if chosen is None else chosen
            row.append(min(chosen.shape[1], space))
            left -= chosen.shape[1]
        rows.append(row)
    return rows


def check_best_fit(answer: Callable[[Sequence[int], int], list[list[int]]]) -> None:
    """answer(lengths, size) -> rows, each a list of how many tokens of a document it holds."""

    def expect(lengths: list[int], size: int, right: list[list[int]], message: str) -> None:
        got = [list(row) for row in answer(list(lengths), size)]
        if got != right:
            raise Wrong(f"Documents {lengths} in rows of {size}: {right}, not {got}. {message}")

    for row in answer([5, 3, 4, 2], 6):
        if sum(row) != 6:
            raise Wrong(f"The row {row} has {sum(row)} tokens instead of 6: rows must be full.")
    expect([2, 4, 6], 6, [[6], [4, 2]], "Take the largest that fits, not the first.")
    expect([4, 4, 4], 6, [[4, 2]], "What is cropped off is thrown away for good.")
    shortest = "Where nothing fits, crop the shortest one that waits."
    expect([3, 2, 5, 4], 6, [[5, 1], [4, 2]], shortest)
    expect([4, 3], 8, [], "Stop when what waits cannot fill a row.")
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        lengths = torch.randint(1, 20, (30,), generator=generator).tolist()
        expect(lengths, 20, _packed(lengths, 20), "The small cases are right, this one is not.")
    print("Right: full rows, and every document begins where it should.")


def check_first_of(answer: Callable[[int, int, int], int]) -> None:
    """answer(rank, world_size, start) -> the first document of `rank` from number `start` on."""
    if answer(2, 4, 0) != 2:
        raise Wrong(f"From the beginning, process 2 of 4 starts with 2; you say {answer(2, 4, 0)}.")
    if answer(1, 4, 8) == 1:
        raise Wrong("Going on from document 8 you start over at 1: documents are read twice.")
    if answer(1, 4, 6) == 7:
        raise Wrong(
            "Document 7 is process 3's: its number modulo 4 is 3. Adding the rank to `start` is "
            "right only if `start` is a multiple of the number of processes."
        )
    if answer(1, 4, 5) == 9:
        raise Wrong("Document 5 itself is process 1's, and you skip it.")
    for world_size in (1, 2, 3, 8):
        for start in range(20):
            for rank in range(world_size):
                right = next(n for n in range(start, start + 9) if n % world_size == rank)
                if (got := answer(rank, world_size, start)) != right:
                    raise Wrong(
                        f"Process {rank} of {world_size}, from {start} on: {right}, not {got}."
                    )
    print("Right: nobody reads twice and nothing is left out.")


AdamW = Callable[..., tuple[Tensor, Tensor, Tensor]]


def check_adamw(answer: AdamW) -> None:
    """answer(p, g, m, v, t, lr, beta1, beta2, eps, decay) -> the new p, m, v."""
    zero, p, g = torch.zeros(2), torch.tensor([1.0, -2.0]), torch.tensor([10.0, 0.001])
    settings = (0.1, 0.9, 0.999, ADAM_EPS)
    first = answer(p.clone(), g.clone(), zero.clone(), zero.clone(), 1, *settings, 0.0)[0]
    moved = (first - p).abs()
    if torch.allclose(moved, torch.full((2,), 0.1 * 0.1 / math.sqrt(0.001)), rtol=1e-2):
        raise Wrong("The averages begin at zero: divide them by 1 - beta^t before you use them.")
    if not torch.allclose(moved, torch.full((2,), 0.1), rtol=1e-3):
        raise Wrong(
            f"The first step moves every number by lr = 0.1 whatever its gradient; yours moves "
            f"{[round(x, 4) for x in moved.tolist()]}: look at the correction 1 - beta^t."
        )
    with_eps = (1, 0.1, 0.9, 0.99, 0.5, 0.0)
    big = answer(zero.clone(), g.clone(), zero.clone(), zero.clone(), *with_eps)[0]
    if torch.allclose(big.abs(), 0.1 * g / (g.square() + 0.5).sqrt(), rtol=1e-4):
        raise Wrong("Is your eps inside the square root? It belongs beside it.")
    decayed = answer(p.clone(), zero.clone(), zero.clone(), zero.clone(), 1, *settings, 0.5)[0]
    if torch.allclose(decayed, p * 0.5):
        raise Wrong("Decay is scaled by the learning rate: p shrinks by lr * decay, not by decay.")
    if not torch.allclose(decayed, p * 0.95):
        raise Wrong(
            "With a zero gradient p should shrink by lr * decay alone; if yours moves by the full "
            "lr, the decay went into the gradient, where the division undoes it."
        )
    generator = torch.Generator().manual_seed(0)
    mine = ours = torch.randn(5, generator=generator)
    ours = ours.clone()
    m, v, mean, square = (torch.zeros(5) for _ in range(4))
    for t in range(1, 8):
        g = torch.randn(5, generator=generator)
        mine, m, v = answer(mine, g.clone(), m, v, t, *settings, 0.1)
        adamw_update(ours, g, mean, square, t, 0.1, 0.9, 0.999, 0.1)
        if not torch.allclose(mine, ours, atol=1e-5):
            raise Wrong(f"The first cases are right, but at step {t} you leave the library's path.")
    print("Right: that is AdamW.")


def check_orthogonalize(answer: Callable[[Tensor], Tensor]) -> None:
    """answer(matrix) -> the same directions with all singular values between 0.7 and 1.3."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((6, 10), (10, 6), (8, 8)):
        u, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))
        v, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))
        for top in (1.0, 50.0):
            x = top * u @ torch.diag(torch.linspace(0.1, 1, min(shape))) @ v.mT
            got = answer(x.clone())
            if got.shape != x.shape:
                raise Wrong(f"A matrix of shape {shape} came back as {tuple(got.shape)}.")
            if not torch.isfinite(got).all():
                raise Wrong(
                    f"With a largest singular value of {top:g} the rounds explode: divide by the "
                    "norm first, so that no singular value is above 1."
                )
            inside = (u.mT @ got @ v).diagonal()
            if (got - u @ torch.diag(inside) @ v.mT).norm() > 0.05 * got.norm():
                raise Wrong(
                    "The directions changed: use products of matrices (X Xᵀ X), which act on "
                    "singular values alone, not powers of single entries."
                )
            if inside.min() < 0.7 or inside.max() > 1.3:
                raise Wrong(
                    f"For shape {shape} the singular values end between {inside.min():.2f} and "
                    f"{inside.max():.2f}: take more rounds, or a steeper polynomial."
                )
    print("Right: the same directions, an equal say for each.")
