"""The checks of chapter 3: right answers pass, likely wrong ones are told what is wrong."""

import math

import numpy as np
import pytest
import torch

from chatlib.checks import ch03
from chatlib.data.loader import BestFit
from chatlib.training import Schedule
from ci.tests.checking import fails, passes

# ---- right answers ----


def cross_entropy(logits, target):
    top = max(logits)
    return math.log(sum(math.exp(x - top) for x in logits)) + top - logits[target]


def schedule(step, steps, warmup, warmdown, final):
    return Schedule(steps, warmup, warmdown, final).lr(step)


def weights(counts):
    return [c / sum(counts) for c in counts]


def best_fit(lengths, size, largest=True, shortest=True, keep=False):
    waiting, rows = list(lengths), []
    while sum(waiting) >= size:
        row = []
        while sum(row) < size:
            space = size - sum(row)
            fitting = [n for n in waiting if n <= space]
            if fitting:
                chosen = max(fitting) if largest else fitting[0]
            else:
                chosen = min(waiting) if shortest else max(waiting)
            waiting.remove(chosen)
            row.append(min(chosen, space))
            if keep and chosen > space:
                waiting.append(chosen - space)
        rows.append(row)
    return rows


def first_of(rank, world_size, start):
    return start + (rank - start) % world_size


def adamw(
    p, g, m, v, t, lr, beta1, beta2, eps, decay, correct=True, inside=False, l2=False, rate=True
):
    if l2:
        g = g + decay * p
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = (m / (1 - beta1**t), v / (1 - beta2**t)) if correct else (m, v)
    root = (v_hat + eps).sqrt() if inside else v_hat.sqrt() + eps
    if not l2:
        p = p * (1 - (lr if rate else 1) * decay)
    return p - lr * m_hat / root, m, v


def orthogonalize(x, rounds=20, divide=True):
    x = x / x.norm() if divide else x
    for _ in range(rounds):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x


RIGHT = {
    "cross_entropy": cross_entropy,
    "schedule": schedule,
    "weights": weights,
    "best_fit": best_fit,
    "first_of": first_of,
    "adamw": adamw,
    "orthogonalize": orthogonalize,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, capsys):
    passes(getattr(ch03, f"check_{name}"), RIGHT[name], capsys)


def naive(logits, target):
    return -math.log(math.exp(logits[target]) / sum(map(math.exp, logits)))


def from_zero(step, steps, warmup, warmdown, final):
    return step / warmup if step < warmup else schedule(step, steps, warmup, warmdown, final)


def needs_warmup(step, steps, warmup, warmdown, final):
    return min((step + 1) / warmup, schedule(step, steps, warmup, warmdown, final))


def to_zero(step, steps, warmup, warmdown, final):
    return schedule(step, steps, warmup, warmdown, 0.0)


def from_the_start(step, steps, warmup, warmdown, final):
    return schedule(step, steps, warmup, 1.0, final) if step >= warmup else (step + 1) / warmup


def never_full(step, steps, warmup, warmdown, final):
    return (step + 1) / (warmup + 1) if step < warmup else 1.0


def variant(answer, **changed):
    return lambda *arguments: answer(*arguments, **changed)


WRONG = [
    ("cross_entropy", lambda z, t: cross_entropy(z, t) / math.log(2), "in bits"),
    ("cross_entropy", lambda z, t: -cross_entropy(z, t), "never negative"),
    ("cross_entropy", lambda z, t: -z[t], "divide by the sum"),
    ("cross_entropy", naive, "subtract the largest"),
    ("cross_entropy", lambda z, t: naive([x - min(z) for x in z], t), "subtract the largest"),
    ("cross_entropy", lambda z, t: naive([x - 1000 for x in z], t), "subtract the largest"),
    ("schedule", from_zero, "Step 0 trains at rate 0"),
    ("schedule", to_zero, "not to 0"),
    ("schedule", from_the_start, "takes the last 40%"),
    ("schedule", never_full, "last step of the warmup"),
    ("schedule", needs_warmup, "warmup may be 0"),
    ("weights", lambda counts: None, "you return None"),
    ("weights", lambda c: [1 / len(c)] * len(c), "each target should count"),
    ("weights", lambda c: [sum(c) / n if n else 0 for n in c], "weigh more, not less"),
    ("weights", lambda c: c, "make it 1"),
    ("best_fit", variant(best_fit, largest=False), "not the first"),
    ("best_fit", variant(best_fit, shortest=False), "crop the shortest"),
    ("best_fit", variant(best_fit, keep=True), "thrown away for good"),
    ("best_fit", lambda lengths, size: [[n] for n in lengths], "rows must be full"),
    ("first_of", lambda r, w, s: s + r, "is process 3's"),
    ("first_of", lambda r, w, s: r, "read twice"),
    ("first_of", lambda r, w, s: s + 1 + (r - s - 1) % w, "you skip it"),
    ("adamw", variant(adamw, correct=False), "begin at zero"),
    ("adamw", variant(adamw, inside=True), "inside the square root"),
    ("adamw", variant(adamw, l2=True), "decay went into the gradient"),
    ("adamw", variant(adamw, rate=False), "scaled by the learning rate"),
    ("orthogonalize", variant(orthogonalize, divide=False), "divide by the norm"),
    ("orthogonalize", variant(orthogonalize, rounds=3), "more rounds"),
    ("orthogonalize", lambda x: x.sign(), "The directions changed"),
    ("orthogonalize", lambda x: orthogonalize(x).mT, "came back as"),
]


@pytest.mark.parametrize(("name", "answer", "reason"), WRONG)
def test_wrong_answers_are_told_why(name, answer, reason):
    fails(getattr(ch03, f"check_{name}"), answer, reason)


def test_the_pool_of_the_library_packs_as_the_answer_does():
    lengths = torch.randint(1, 30, (50,), generator=torch.Generator().manual_seed(3)).tolist()
    assert ch03._packed(lengths, 32) == best_fit(lengths, 32)
    assert len(BestFit(np.zeros((1, n)) for n in lengths)) == 50
