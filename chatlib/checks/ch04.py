"""Checks of the exercises on distributed training. Each takes your answer and says what is wrong.

Rings run in threads of this process, so that a check needs no other process; what is passed on is
counted all the same.
"""

import itertools
import math
import queue
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from chatlib.checks import Wrong
from chatlib.checks.compare import expect_number
from chatlib.model import GPTConfig
from chatlib.scaling import count_parameters


def _number(answer: object, what: str) -> float:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise Wrong(f"{what} must return a number; yours returns {type(answer).__name__}.")
    return answer


def check_product_seconds(seconds: Callable) -> None:
    """seconds(m, k, n, peak, bandwidth): the least time of a bfloat16 product (m, k) @ (k, n)."""
    peak, bandwidth = 989e12, 3.35e12
    shapes = ((4096, 4096, 4096), (1, 1536, 6144), (64, 1536, 32_768))
    answers = [_number(seconds(*shape, peak, bandwidth), "product_seconds") for shape in shapes]
    works = [2 * m * k * n / peak for m, k, n in shapes]
    moves = [2 * (m * k + k * n + m * n) / bandwidth for m, k, n in shapes]
    if all(map(math.isclose, answers, works)):
        raise Wrong("You left out the memory: a small product waits for its numbers.")
    if all(map(math.isclose, answers, moves)):
        raise Wrong("You left out the arithmetic: a large product waits for it.")
    for (m, k, n), answer, work, moved in zip(shapes, answers, works, moves, strict=True):
        slips = {
            "A product is a multiplication and an addition for each of m·k·n: two FLOPs.": max(
                work / 2, moved
            ),
            "bfloat16 has two bytes, not four.": max(work, 2 * moved),
            "bfloat16 has two bytes; you count one.": max(work, moved / 2),
            "The result has to be written as well: m·n numbers.": max(
                work, 2 * (m * k + k * n) / bandwidth
            ),
            "Moving and computing go on at the same time: the longer one decides, not the sum.": (
                work + moved
            ),
            "The longer of the two decides; you take the shorter.": min(work, moved),
        }
        expect_number(answer, max(work, moved), slips, f"({m}, {k}) @ ({k}, {n}):")
    print("Right: the large product waits for arithmetic, the one with a single row for memory.")


def check_training_bytes(count: Callable) -> None:
    """count(config, gpus): bytes of weights, gradients and sharded state on each GPU, float32."""
    for shape, gpus in (((32_768, 24, 12, 12, 1536, 2048), 8), ((1024, 4, 4, 4, 128, 256), 2)):
        config = GPTConfig(*shape)
        p = count_parameters(config)
        answer = _number(count(config, gpus), "training_bytes")
        twice = p.total - p.matrices  # AdamW keeps two numbers for each of these
        state, both = 4 * (2 * twice + p.matrices), 8 * p.total
        slips = {
            "You forgot the gradients: as many as there are weights.": 4 * p.total + state / gpus,
            "You forgot the optimizer's state.": both,
            "The state is shared out over the GPUs; you keep all of it on each.": both + state,
            "Weights and gradients are not shared out, only the state.": (both + state) / gpus,
            "Muon keeps one number for each of its weights, not two.": both + 8 * p.total / gpus,
            "AdamW keeps two numbers for each of its weights, not one.": both + 4 * p.total / gpus,
            "float32 has four bytes; you count two.": (both + state / gpus) / 2,
            "These are numbers; each has four bytes.": (both + state / gpus) / 4,
        }
        expect_number(answer, both + state / gpus, slips, f"Depth {config.n_layer} on {gpus} GPUs:")
    print("Right: weights and gradients whole, and a share of the state.")


def check_mfu(mfu: Callable) -> None:
    """mfu(rows, flops_per_token, peak, gpus): rows as the training log has them."""
    each, flops, peak, gpus = 524_288, 4.775e9, 989e12, 8
    clock = [0.0, 1.3, 2.4, 3.5, 4.6]
    rates = [0.0, *(each / (b - a) for a, b in itertools.pairwise(clock))]
    rows = [
        {"step": i + 1, "tokens": each * (i + 1), "seconds": s, "tokens_per_s": r}
        for i, (s, r) in enumerate(zip(clock, rates, strict=True))
    ]
    answer = _number(mfu(rows, flops, peak, gpus), "mfu")
    right = (4 * each / clock[-1]) * flops / (gpus * peak)
    slips = {
        "The clock starts when the first step is over: do not count that step's tokens.": right
        * 5 / 4,
        "Eight GPUs have eight times the peak of one.": right * gpus,
        "You divide by the GPUs twice; the log's tokens are those of all GPUs.": right / gpus,
        "Six FLOPs a parameter are in flops_per_token already, backward included.": right * 3,
        "You average the rates with the first row's 0, before anything was timed.": (
            sum(rates) / 5 * flops / (gpus * peak)
        ),
        "A mean of rates weighs slow steps too little: divide all tokens by all seconds.": (
            sum(rates[1:]) / 4 * flops / (gpus * peak)
        ),
        "A share, not a percentage: between 0 and 1.": right * 100,
    }  # fmt: skip
    expect_number(answer, right, slips, "Not the utilization of this log.")
    print(f"Right: this run uses {right:.1%} of what its GPUs could do.")


class _Ring:
    """n threads that pass things on in a circle."""

    def __init__(self, n: int) -> None:
        self.n, self.boxes = n, [queue.Queue() for _ in range(n)]
        self.numbers_sent, self.hops = [0] * n, [0] * n
        self.results: list[object] = [None] * n
        self.problems: list[BaseException] = []

    def run(self, program: Callable) -> None:
        threads = [threading.Thread(target=self._one, args=(program, r)) for r in range(self.n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.problems:
            raise next((p for p in self.problems if not isinstance(p, Wrong)), self.problems[0])

    def _one(self, program: Callable, rank: int) -> None:
        def pass_on(x: object) -> object:
            if not isinstance(x, Tensor):
                raise Wrong(f"Pass on one tensor at a time; you pass {type(x).__name__}.")
            self.numbers_sent[rank] += x.numel()
            self.hops[rank] += 1
            self.boxes[(rank + 1) % self.n].put(x.clone())
            try:
                return self.boxes[rank].get(timeout=2)
            except queue.Empty:
                raise Wrong(
                    f"Process {rank} waits for ever: all must make the same number of hops."
                ) from None

        try:
            self.results[rank] = program(rank, self.n, pass_on)
        except BaseException as problem:  # it belongs to the student, who sits in another thread
            self.problems.append(problem)


def check_all_gather(all_gather: Callable) -> None:
    """all_gather(mine, rank, n, pass_on) -> list of n tensors, in the order of ranks."""
    for n in (2, 5):
        parts = [torch.tensor([10.0 * r, 10.0 * r + 1]) for r in range(n)]
        ring = _Ring(n)
        ring.run(lambda rank, n, pass_on, parts=parts: all_gather(parts[rank], rank, n, pass_on))
        for rank, answer in enumerate(ring.results):
            _check_gathered(answer, rank, n, parts)
        if max(ring.hops) >= n:
            raise Wrong(
                f"{n} processes need {n - 1} hops; you make {max(ring.hops)}, and the last brings "
                "home what you sent first."
            )
        if max(ring.numbers_sent) > 2 * (n - 1):
            raise Wrong(
                "You pass on everything you have; only what came last is new to your neighbor."
            )
    print("Right: n - 1 hops of one part each, and everybody has everything.")


def _check_gathered(answer: object, rank: int, n: int, parts: list[Tensor]) -> None:
    if not isinstance(answer, list) or len(answer) != n:
        raise Wrong(f"Return a list of n = {n} tensors; process {rank} returns {answer!r:.60}.")
    for at, part in enumerate(answer):
        if not isinstance(part, Tensor) or part.shape != parts[at].shape:
            raise Wrong(f"Process {rank} has no part of process {at} in place {at}.")
        if not torch.equal(part, parts[at]):
            owner = int(part[0]) // 10
            if owner == rank:
                raise Wrong(f"Process {rank} has its own part in place {at} as well.")
            raise Wrong(
                f"Process {rank} has the part of process {owner} in place {at}: what arrives in "
                "hop h was made h places back."
            )


def check_all_reduce_bytes(count: Callable) -> None:
    """count(n, size): the bytes that each process sends in a ring all-reduce of `size` bytes."""
    for n, size in ((8, 5_536_000_000), (2, 1_000), (64, 64_000)):
        answer = _number(count(n, size), "all_reduce_bytes")
        right = 2 * (n - 1) * size / n
        slips = {
            "That is half of it: after the sums are made they have to be spread.": right / 2,
            "Each hop carries one part of n, not the whole vector.": 2 * (n - 1) * size,
            "A part makes n - 1 hops, not n: the last would bring it home.": 2 * size,
            "That is what one part weighs; it is sent in every hop.": size / n,
        }
        expect_number(answer, right, slips, f"{n} processes, {size:,} bytes:")
    print("Right: never more than twice the vector, however many take part.")


def check_my_rows(my_rows: Callable) -> None:
    """my_rows(rows, n, rank) -> (start, stop): equal parts, the last ones cut short or empty."""
    for rows, n in ((12, 4), (128, 3), (4, 3), (1, 3), (5, 8)):
        part = math.ceil(rows / n)
        owned = [my_rows(rows, n, rank) for rank in range(n)]
        call = f"{rows} rows over {n}"
        for rank, answer in enumerate(owned):
            if not (isinstance(answer, tuple) and len(answer) == 2):
                raise Wrong(f"Return a tuple (start, stop); you return {answer!r}.")
            start, stop = answer
            if stop > rows or start > rows:
                raise Wrong(f"{call}: process {rank} owns {start} to {stop}, past the last row.")
            if start > stop:
                raise Wrong(f"{call}: process {rank} starts at {start}, after its end {stop}.")
        lost = rows - sum(stop - start for start, stop in owned)
        if lost > 0:
            raise Wrong(f"{call}: {lost} rows belong to nobody; round the size of a part up.")
        if lost < 0:
            raise Wrong(f"{call}: some rows have two owners.")
        right = [(min(rows, part * r), min(rows, part * (r + 1))) for r in range(n)]
        for rank, (answer, want) in enumerate(zip(owned, right, strict=True)):
            if answer[1] - answer[0] != want[1] - want[0]:
                raise Wrong(
                    f"{call}: process {rank} owns {answer[1] - answer[0]} rows; parts of {part} "
                    "rows travel, so all but the last are full."
                )
            if answer[0] < answer[1] and answer != want:
                raise Wrong(f"{call}: process {rank} should own {want}; yours owns {answer}.")
    print("Right: every row has one owner, and some processes own nothing.")


def check_loss_factor(factor: Callable) -> None:
    """factor(counts, rank): what process `rank` multiplies its summed loss by."""
    for counts in ([22, 8], [5, 5, 5, 5], [40, 0, 7]):
        n, total = len(counts), sum(counts)
        for rank in range(n):
            try:
                answer = _number(factor(counts, rank), "loss_factor")
            except ZeroDivisionError:
                raise Wrong(
                    f"Process {rank} has no targets and divides by 0: use the count of all."
                ) from None
            slips = {
                "The optimizer divides by n once more; multiply by n first.": 1 / total,
                "That divides by the square of what is needed: the optimizer averages.": 1
                / (n * total),
                "The optimizer averages, it does not weigh: you have the share of targets.": (
                    counts[rank] / total
                ),
                "Multiply the *sum* of a process: it has counted its targets already.": (
                    n * counts[rank] / total
                ),
            }
            if counts[rank]:
                slips["A mean of means: its tokens weigh more where there are few."] = (
                    1 / counts[rank]
                )
            expect_number(answer, n / total, slips, f"counts {counts}, process {rank}:")
    print("Right: every token weighs the same, whoever reads it.")


def check_through_bits(through: Callable) -> None:
    """through(x, bits): x as it arrives when each number travels as a whole number of `bits`."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for bits in (8, 4, 2):
        y, levels = through(x.clone(), bits), 2 ** (bits - 1) - 1
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            raise Wrong("Return a tensor of the shape and type of x.")
        unit = x.abs().max() / levels
        if len(y.unique()) > 2 * levels + 1:
            raise Wrong(
                f"{bits} bits with a sign hold {2 * levels + 1} values; yours takes "
                f"{len(y.unique())}: let the largest number be {levels}."
            )
        error = (y - x).abs().max()
        if error > 0.999 * unit:
            raise Wrong("Your error is a whole unit: round to the nearest, do not cut off.")
        if error > 0.501 * unit:
            raise Wrong(
                f"At {bits} bits the error is {error / unit:.2f} units; half a one will do."
            )
    if not through(torch.zeros(3), 8).isfinite().all():
        raise Wrong("A gradient of zeros becomes NaN: its largest number is 0, and you divide.")
    print("Right: half a unit is the largest error, and zeros stay zeros.")
