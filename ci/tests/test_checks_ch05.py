"""The checks of chapter 5: solutions pass, plausible wrong answers fail for the right reason."""

import re
from math import comb

import numpy as np
import pytest
import torch

from chatlib.checks import Wrong, ch05
from chatlib.notebook import reference
from ci.tests.checking import passes

# ---- solutions ----


def targets_of(ids, mask):
    return ids[:-1], [i if m else -1 for i, m in zip(ids[1:], mask[1:], strict=True)]


def pack(lengths, size):
    left, rows = sorted(lengths), []
    while left:
        row = []
        while fitting := [n for n in left if n <= size - sum(row)]:
            row.append(max(fitting))
            left.remove(max(fitting))
        rows.append(row)
    return rows


def step_loss(pieces):
    count = sum((t >= 0).sum() for _, t in pieces)
    return float(sum(n[t >= 0].sum() for n, t in pieces) / max(count, 1))


def with_outputs(tokens, calculate, mask=0, unknown=None, keep=False, everywhere=False):
    """The solution, or with a slip in it."""
    out, call = [], [] if everywhere else None
    for token in tokens:
        out.append((token, 1))
        if token == ch05.START:
            call = call if keep and call is not None else []
        elif token == ch05.END and call is not None:
            result = calculate("".join(call)) or unknown
            if result is not None:
                out += [(ch05.OUTPUT, mask), (result, mask), (ch05.OUTPUT_END, mask)]
            call = None
        elif call is not None:
            call.append(token)
    return out


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum()


def policy_gradient(theta, action, reward, baseline):
    return (reward - baseline) * (np.eye(len(theta))[action] - softmax(theta))


def leave_one_out(rewards):
    return rewards - (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)


def pass_at_k(n, right, k):
    return 1 - comb(n - right, k) / comb(n, k)


def is_right(reply, answer, pattern=r"-?\d+(?:,\d{3})*", which=-1):
    numbers = re.findall(pattern, reply)
    return bool(numbers) and numbers[which].replace(",", "") == answer


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (ch05.check_targets, targets_of),
        (ch05.check_pack, pack),
        (ch05.check_step_loss, step_loss),
        (ch05.check_with_outputs, with_outputs),
        (ch05.check_policy_gradient, policy_gradient),
        (ch05.check_leave_one_out, leave_one_out),
        (ch05.check_pass_at_k, pass_at_k),
        (ch05.check_reward, is_right),
    ],
    ids=lambda x: x.__name__,
)
def test_the_solution_passes(check, answer, capsys):
    passes(check, answer, capsys)


# ---- plausible wrong answers ----


def in_order(lengths, size):
    rows = [[]]
    for n in lengths:
        if sum(rows[-1]) + n > size:
            rows.append([])
        rows[-1].append(n)
    return rows


def cut_to_fill(lengths, size):
    rows = [[]]
    for n in lengths:
        space = size - sum(rows[-1])
        if n >= space:
            rows[-1].append(space)
            rows.append([n - space] if n > space else [])
        else:
            rows[-1].append(n)
    return [[n for n in row if n] for row in rows if row]


def means(pieces):
    return float(np.mean([n[t >= 0].mean() if (t >= 0).any() else 0.0 for n, t in pieces]))


def by_count(pieces):
    return float(sum(n[t >= 0].sum() for n, t in pieces) / sum((t >= 0).sum() for _, t in pieces))


WRONG = [
    (ch05.check_targets, lambda i, m: (i, i), "four inputs and four targets, not 5"),
    (ch05.check_targets, lambda i, m: (i[:-1], i[1:]), "score the user's tokens"),
    (
        ch05.check_targets,
        lambda i, m: (i[:-1], [b if a else -1 for a, b in zip(m, i[1:], strict=False)]),
        "one place off",
    ),
    (
        ch05.check_targets,
        lambda i, m: (i[:-1], [-1, -1, 2, 3]),
        "inputs themselves",
    ),
    (ch05.check_pack, in_order, "Take the largest that fits"),
    (ch05.check_pack, cut_to_fill, "cut a conversation"),
    (ch05.check_pack, lambda n, s: [[x for x in n if x > 3]], "holds more than|none may be lost"),
    (ch05.check_pack, lambda n, s: pack(n, s)[:-1], "none may be lost"),
    (ch05.check_pack, lambda n, s: [n], "holds more than 10"),
    (ch05.check_step_loss, means, "Add up all losses, divide once"),
    (ch05.check_step_loss, lambda p: float(np.mean([n.mean() for n, _ in p])), "skip targets"),
    (ch05.check_step_loss, by_count, "NaN"),
    (ch05.check_with_outputs, lambda t, c: with_outputs(t, c, mask=1), "mask is 0"),
    (ch05.check_with_outputs, lambda t, c: with_outputs(t, c, unknown="?"), "stays silent"),
    (ch05.check_with_outputs, lambda t, c: with_outputs(t, c, keep=True), "forgets the old"),
    (
        ch05.check_with_outputs,
        lambda t, c: with_outputs(t, c, everywhere=True),
        "without an opening one",
    ),
    (ch05.check_with_outputs, lambda t, c: [(x, 1) for x in t], "follows the closing mark"),
    (ch05.check_policy_gradient, lambda *a: -policy_gradient(*a), "sign is turned"),
    (ch05.check_policy_gradient, lambda t, a, r, b: policy_gradient(t, a, r, 0), "baseline"),
    (ch05.check_policy_gradient, lambda t, a, r, b: (r - b) * np.eye(3)[a], "lowers the others"),
    (
        ch05.check_policy_gradient,
        lambda t, a, r, b: (r - b) * (np.eye(3)[a] - t),
        "not scores",
    ),
    (ch05.check_policy_gradient, lambda t, a, r, b: (r - b) * (1 - softmax(t)[a]), "an entry for"),
    (
        ch05.check_policy_gradient,
        lambda t, a, r, b: (r - b) * np.eye(3)[a] * (1 - softmax(t)[a]),
        "only the arm that was pulled",
    ),
    (
        ch05.check_leave_one_out,
        lambda r: r - (r.sum(1, keepdims=True) - r) / r.shape[1],
        "by n - 1",
    ),
    (ch05.check_leave_one_out, lambda r: r - r.mean(0), "average over questions"),
    (ch05.check_targets, lambda ids, mask: None, "Return two lists"),
    (ch05.check_pack, lambda lengths, size: None, "Return a list of rows"),
    (ch05.check_leave_one_out, lambda r: r - r.mean(1, keepdims=True), "contains the reply itself"),
    (ch05.check_leave_one_out, lambda r: r - r.mean(), "each question has its own"),
    (ch05.check_leave_one_out, lambda r: leave_one_out(r) / r.std(), "the advantages are"),
    (ch05.check_pass_at_k, lambda n, c, k: 1 - (1 - c / n) ** k, "with replacement"),
    (ch05.check_pass_at_k, lambda n, c, k: c / n, "which is pass@1"),
    (ch05.check_pass_at_k, lambda n, c, k: 1 - comb(c, k) / comb(n, k), "pass@3 is 0.0000"),
    (ch05.check_reward, lambda r, a: a in r, "part of 128"),
    (ch05.check_reward, lambda r, a: is_right(r, a, which=0), "full stop|last number"),
    (ch05.check_reward, lambda r, a: is_right(r, a, r"\d+(?:,\d{3})*"), "minus"),
    (ch05.check_reward, lambda r, a: is_right(r, a, r"-?\d+"), "comma"),
    (ch05.check_reward, lambda r, a: re.findall(r"-?[\d,]*\d", r)[-1] == a, "comma|no error"),
    (
        ch05.check_reward,
        lambda r, a: re.findall(r"-?[\d,]*\d", r)[-1].replace(",", "") == a,
        "no error",
    ),
]


@pytest.mark.parametrize(("check", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_why(check, answer, says):
    with pytest.raises(Wrong, match=says), np.errstate(all="ignore"):
        check(answer)


# ---- the open exercise ----


def test_a_mixture_is_measured_on_both_sides():
    torch.manual_seed(0)
    tokenizer = reference.tokenizer()
    plain = ch05.try_mixture(lambda c, d, s: next(c), reference.model("base"), tokenizer, 10, 4)
    texts = ch05.try_mixture(lambda c, d, s: next(d), reference.model("base"), tokenizer, 10, 4)
    assert plain["tokens"] == texts["tokens"] == 10 * 4 * 256
    assert plain["nats"] < texts["nats"] and plain["bpb"] > texts["bpb"]
    with pytest.raises(Wrong, match="hardly learns to answer"):
        ch05.check_mixture(texts | {"bpb": 0.1, "nats": 99.0}, plain)


def test_the_verdict_on_a_mixture(capsys):
    plain = {"tokens": 100, "bpb": 1.0, "nats": 1.0}
    ch05.check_mixture({"tokens": 100, "bpb": 0.5, "nats": 1.2}, plain)
    assert capsys.readouterr().out.startswith("Right")
    with pytest.raises(Wrong, match="are fair"):
        ch05.check_mixture({"tokens": 101, "bpb": 0.5, "nats": 1.2}, plain)
    with pytest.raises(Wrong, match="forgets nearly as much"):
        ch05.check_mixture({"tokens": 100, "bpb": 0.97, "nats": 1.2}, plain)
