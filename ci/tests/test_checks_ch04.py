"""Every check of chapter 4 passes its solution and says what is wrong with likely wrong answers."""

import pytest
import torch

from chatlib.checks import ch04
from chatlib.scaling import count_parameters
from ci.tests.checking import fails, passes, solutions


@pytest.fixture(scope="module")
def answers() -> dict:
    return solutions("04_distributed")


CHECKS = (
    "product_seconds", "training_bytes", "mfu", "all_reduce_bytes", "all_gather", "my_rows",
    "loss_factor", "through_bits",
)  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(answers, name, capsys):
    passes(getattr(ch04, f"check_{name}"), answers[name], capsys)


def product(m, k, n, peak, bandwidth, flops=2, size=2, written=True, choose=max):
    moved = size * (m * k + k * n + m * n * written) / bandwidth
    return choose(flops * m * k * n / peak, moved)


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ({"flops": 1}, "two FLOPs"),
        ({"size": 4}, "two bytes, not four"),
        ({"written": False}, "has to be written"),
        ({"choose": min}, "you take the shorter"),
        ({"choose": lambda work, moved: work + moved}, "not the sum"),
        ({"choose": lambda work, moved: work}, "left out the memory"),
        ({"choose": lambda work, moved: moved}, "left out the arithmetic"),
        ({"flops": 7}, "Right is"),
    ],
)
def test_product_seconds(slip, message):
    fails(ch04.check_product_seconds, lambda *args: product(*args, **slip), message)


def test_an_answer_that_is_no_number():
    fails(ch04.check_product_seconds, lambda *args: None, "yours returns NoneType")


def needed(config, gpus, gradients=True, twice=2, once=1, share=True, size=4, all_shared=False):
    p = count_parameters(config)
    state = size * (twice * (p.total - p.matrices) + once * p.matrices)
    whole = size * p.total * (1 + gradients)
    if all_shared:
        return (whole + state) / gpus
    return whole + (state / gpus if share else state)


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ({"gradients": False}, "forgot the gradients"),
        ({"twice": 0, "once": 0}, "forgot the optimizer"),
        ({"share": False}, "you keep all of it on each"),
        ({"all_shared": True}, "only the state"),
        ({"once": 2}, "Muon keeps one"),
        ({"twice": 1}, "AdamW keeps two"),
        ({"size": 2}, "you count two"),
        ({"size": 1}, "each has four bytes"),
        ({"twice": 3}, "Right is"),
    ],
)
def test_training_bytes(slip, message):
    fails(ch04.check_training_bytes, lambda config, gpus: needed(config, gpus, **slip), message)


def rate(rows, flops, peak, gpus, tokens=None, factor=1.0):
    tokens = tokens or rows[-1]["tokens"] - rows[0]["tokens"]
    return tokens / (rows[-1]["seconds"] - rows[0]["seconds"]) * flops / (peak * gpus) * factor


def mean_rate(rows, flops, peak, gpus, first=0):
    rates = [row["tokens_per_s"] for row in rows[first:]]
    return sum(rates) / len(rates) * flops / (peak * gpus)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda r, f, p, g: rate(r, f, p, g, tokens=r[-1]["tokens"]), "do not count that step"),
        (lambda r, f, p, g: rate(r, f, p, 1), "eight times the peak"),
        (lambda r, f, p, g: rate(r, f, p, g * g), "divide by the GPUs twice"),
        (lambda r, f, p, g: rate(r, f, p, g, factor=3), "backward included"),
        (lambda r, f, p, g: rate(r, f, p, g, factor=100), "not a percentage"),
        (mean_rate, "first row's 0"),
        (lambda r, f, p, g: mean_rate(r, f, p, g, first=1), "divide all tokens by all seconds"),
        (lambda r, f, p, g: 0.5, "Not the utilization"),
    ],
)
def test_mfu(answer, message):
    fails(ch04.check_mfu, answer, message)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n, s: (n - 1) * s / n, "That is half of it"),
        (lambda n, s: 2 * (n - 1) * s, "not the whole vector"),
        (lambda n, s: 2 * s, "not n: the last would bring it home"),
        (lambda n, s: s / n, "what one part weighs"),
        (lambda n, s: 3 * s, "Right is"),
    ],
)
def test_all_reduce_bytes(answer, message):
    fails(ch04.check_all_reduce_bytes, answer, message)


def gather(mine, rank, n, pass_on, hops=None, back=lambda rank, hop: rank - hop, own=False):
    parts, newest = [mine] * n, mine
    for hop in range(1, n if hops is None else n + hops):
        arrived = pass_on(mine if own else newest)
        newest = arrived
        parts[back(rank, hop) % n] = newest
    return parts


def growing(mine, rank, n, pass_on):
    have = mine[None]
    for _ in range(n - 1):
        have = torch.cat((mine[None], pass_on(have)))
    return [have[(rank - r) % n] for r in range(n)]


def unequal(mine, rank, n, pass_on):
    return gather(mine, rank, n, pass_on, hops=0 if rank else -1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *a: gather(*a, back=lambda rank, hop: rank + hop), "made h places back"),
        (lambda *a: gather(*a, own=True), "in place"),
        (lambda *a: gather(*a, hops=1), "need 1 hops; you make 2"),
        (growing, "only what came last is new"),
        (unequal, "waits for ever"),
        (lambda *a: torch.cat(gather(*a)), "Return a list of n = 2"),
        (lambda mine, rank, n, pass_on: [mine] * n, "has its own part in place"),
        (lambda mine, rank, n, pass_on: [pass_on([mine])] * n, "one tensor at a time"),
    ],
)
def test_all_gather(answer, message):
    fails(ch04.check_all_gather, answer, message)


def test_a_ring_shows_the_students_own_error():
    with pytest.raises(ZeroDivisionError):
        ch04.check_all_gather(lambda mine, rank, n, pass_on: 1 // 0)


def split_evenly(rows, n, rank):
    """As numpy.array_split does: sizes differ by one at most."""
    sizes = [rows // n + (r < rows % n) for r in range(n)]
    return sum(sizes[:rank]), sum(sizes[: rank + 1])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rows, n, r: (rows // n * r, rows // n * (r + 1)), "belong to nobody"),
        (lambda rows, n, r: (-(-rows // n) * r, -(-rows // n) * (r + 1)), "past the last row"),
        (
            lambda rows, n, r: (-(-rows // n) * r, min(rows, -(-rows // n) * (r + 1))),
            "past the last row",
        ),
        (split_evenly, "so all but the last are full"),
        (lambda rows, n, r: (0, rows), "two owners"),
        (lambda rows, n, r: rows // n, "Return a tuple"),
    ],
)
def test_my_rows(answer, message):
    fails(ch04.check_my_rows, answer, message)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda counts, r: 1 / counts[r], "A mean of means"),
        (lambda counts, r: 1 / sum(counts), "multiply by n first"),
        (lambda counts, r: counts[r] / sum(counts), "it does not weigh"),
        (lambda counts, r: len(counts) * counts[r] / sum(counts), "counted its targets already"),
        (lambda counts, r: 1 / (len(counts) * sum(counts)), "the optimizer averages"),
        (lambda counts, r: len(counts) / sum(counts) * counts[r] / counts[r], "divides by 0"),
        (lambda counts, r: 1.0, "Right is"),
    ],
)
def test_loss_factor(answer, message):
    fails(ch04.check_loss_factor, answer, message)


def rounded(x, bits, levels=None, round_=torch.round, tiny=1e-30):
    levels = levels or 2 ** (bits - 1) - 1
    unit = x.abs().max().clamp(min=tiny) / levels
    return round_(x / unit) * unit


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, bits: rounded(x, bits, round_=torch.trunc), "do not cut off"),
        (lambda x, bits: rounded(x, bits, levels=2 ** (bits - 1)), "let the largest number be 1."),
        (lambda x, bits: rounded(x, bits, levels=2 ** (bits - 1) - 2 or 1), "half a one will do"),
        (lambda x, bits: rounded(x, bits, tiny=0.0), "A gradient of zeros"),
        (lambda x, bits: rounded(x, bits).double(), "shape and type"),
    ],
)
def test_through_bits(answer, message):
    fails(ch04.check_through_bits, answer, message)
