"""Every check of chapter 2 passes its solution and says what is wrong with likely wrong answers."""

import math

import pytest
import torch
import torch.nn.functional as F

from chatlib.checks import ch02
from chatlib.scaling import count_parameters, flops_per_token
from ci.tests.checking import fails, passes, solutions


@pytest.fixture(scope="module")
def answers() -> dict:
    return solutions("02_attention")


CHECKS = (
    "softmax",
    "visible",
    "head",
    "rotate",
    "grouped",
    "count",
    "streamed",
    "feed_forward",
    "smear",
    "induction",
)
ANSWERS = {"induction": "induction_scores"}


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(answers, name, capsys):
    passes(getattr(ch02, f"check_{name}"), answers[ANSWERS.get(name, name)], capsys)


def stable(z, t, dim=-1):
    e = torch.exp((z - z.amax(dim, keepdim=True)) / t)
    return e / e.sum(dim, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z, t: stable(z, t, dim=0), "sum to 1 along axis 0"),
        (lambda z, t: torch.exp(z / t) / torch.exp(z / t).sum(-1, keepdim=True), "subtract the"),
        (lambda z, t: stable(z, 1 / t if t else 1), "do not multiply"),
        (lambda z, t: stable(z, 1), "divide the scores before"),
        (lambda z, t: stable(z, t), "temperature 0"),
        (lambda z, t: stable(z, 1).tolist(), "must be a tensor; yours is list"),
        (lambda z, t: z.exp() / z.exp().sum(), "divide by the row's own sum"),
    ],
)
def test_softmax(answer, message):
    fails(ch02.check_softmax, answer, message)


def mask(low, high, positions, n):
    query, key = positions[:, None], torch.arange(n)
    return (key <= query + high) & (key >= query - low)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, n, w: mask(99, 1, p, n), "your mask lets position 0 see position 1"),
        (lambda p, n, w: mask(99, -1, p, n), "position 0 does not see itself"),
        (lambda p, n, w: mask(w - 1 if w > 0 else 99, 0, p, n), "a window of w admits w + 1"),
        (lambda p, n, w: mask(99, 0, p, n), "position 3 sees position 0, which is 3 back"),
        (lambda p, n, w: mask(w if w > 0 else 99, 0, torch.arange(len(p)), n), "use `positions`"),
        (lambda p, n, w: mask(w, 0, p, n) | (p[:, None] == torch.arange(n)), "sets no limit"),
        (lambda p, n, w: mask(99, 0, p, n)[0], "must have shape (6, 6)"),
    ],
)
def test_visible(answer, message):
    fails(ch02.check_visible, answer, message)


def head(x, wq, wk, wv, scale=None, hide=-math.inf, late=False, axis=-1):
    q, k, v = x @ wq, x @ wk, x @ wv
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    scores = q @ k.T / (scale or math.sqrt(q.size(-1)))
    if late:
        return scores.softmax(-1).masked_fill(future, 0) @ v
    return scores.masked_fill(future, hide).softmax(axis) @ v


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ({"scale": 1.0}, "do not divide the scores"),
        ({"scale": 8.0}, "divide by D;"),
        ({"scale": 4.0}, "divide by √C"),
        ({"hide": 0.0}, "use -inf"),
        ({"late": True}, "hide after the softmax"),
        ({"axis": 0}, "runs over who asks"),
        ({"scale": 3.0}, "Not causal attention"),
    ],
)
def test_head(slip, message):
    fails(ch02.check_head, lambda x, wq, wk, wv: head(x, wq, wk, wv, **slip), message)


def test_a_head_that_sees_the_future():
    def everything(x, wq, wk, wv):
        return F.scaled_dot_product_attention((x @ wq)[None], (x @ wk)[None], (x @ wv)[None])[0]

    fails(ch02.check_head, everything, "reads the future")


def rotate(x, positions, base, power=-2.0, sign=1, half=True):
    D = x.size(-1)
    angle = sign * positions[:, None] * base ** (power * torch.arange(D // 2) / D)
    a, b = x.chunk(2, -1) if half else (x[:, ::2], x[:, 1::2])
    turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return torch.cat(turned, -1) if half else torch.stack(turned, -1).flatten(1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, p, b: rotate(x, p, b, half=False), "You pair neighbors"),
        (lambda x, p, b: rotate(x, p, b, sign=-1), "the other way"),
        (lambda x, p, b: rotate(x, p, b, power=-1.0), "you use base^(-i/D)"),
        (lambda x, p, b: rotate(x, p, b, power=2.0), "is negative"),
        (lambda x, p, b: rotate(x, torch.arange(len(x)), b), "use `positions`"),
        (lambda x, p, b: rotate(x, p + 1, b), "At position 0 nothing may turn"),
        (lambda x, p, b: x * torch.cos(p)[:, None], "A turn keeps lengths"),
        (lambda x, p, b: rotate(x, p, 2 * b), "pair i must turn"),
    ],
)
def test_rotate(answer, message):
    fails(ch02.check_rotate, answer, message)


def attention(q, k, v, causal=True):
    heads = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(1, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda q, k, v: attention(q, *(t.repeat(1, 1, 2, 1) for t in (k, v))), "0 0 1 1 2 2"),
        (
            lambda q, k, v: attention(q, *(t.repeat_interleave(2, 2) for t in (k, v)), False),
            "Your heads read the future",
        ),
        (
            lambda q, k, v: attention(q, k.repeat_interleave(2, 2), v.repeat(1, 1, 2, 1)),
            "values are not",
        ),
        (lambda q, k, v: attention(q[:, :, :3], k, v), "must have shape (2, 5, 6, 4)"),
    ],
)
def test_grouped(answer, message):
    fails(ch02.check_grouped, answer, message)


def right(config):
    return count_parameters(config), flops_per_token(config)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c, p, f: p.total, "Return two numbers"),
        (lambda c, p, f: (p.total - p.head, f), "left out the head"),
        (lambda c, p, f: (p.total - p.value_embeddings, f), "left out the value tables"),
        (lambda c, p, f: (p.total - p.scalars, f), "left out the scalars"),
        (lambda c, p, f: (p.total + 1, f), "you count"),
        (lambda c, p, f: (p.total, f / 3), "forward pass alone"),
        (lambda c, p, f: (p.total, 6 * p.scaling), "left out attention"),
        (lambda c, p, f: (p.total, f + 6 * p.embedding + 6 * p.value_embeddings), "looked up"),
        (
            lambda c, p, f: (
                p.total,
                6 * p.scaling + 12 * c.n_embd * c.sequence_len * c.n_layer,
            ),
            "short windows see fewer",
        ),
        (lambda c, p, f: (p.total + 2 * c.n_layer * c.n_embd * 384, f), "n_kv_head heads"),
    ],
)
def test_count(answer, message):
    def wrong(config):
        full = answer(config, *right(config))
        # the slip only shows for grouped heads, so be right about the other model
        if message == "n_kv_head heads" and config.n_head == config.n_kv_head:
            return right(config)[0].total, right(config)[1]
        return full

    fails(ch02.check_count, wrong, message)


def streamed(q, blocks, shrink_values=True, shrink_weights=True, safe=True):
    top, total, answer = torch.tensor(-math.inf), torch.tensor(0.0), torch.zeros(len(q))
    for k, v in blocks:
        scores = k @ q / math.sqrt(len(q))
        new = torch.maximum(top, scores.max()) if safe else torch.tensor(0.0)
        shrink = (top - new).exp() if safe else 1.0
        shares = (scores - new).exp()
        total = total * (shrink if shrink_weights else 1.0) + shares.sum()
        answer = answer * (shrink if shrink_values else 1.0) + shares @ v
        top = new
    return answer / total


def mean_of_blocks(q, blocks):
    return torch.stack([(k @ q / math.sqrt(len(q))).softmax(0) @ v for k, v in blocks]).mean(0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (mean_of_blocks, "You average the blocks' answers"),
        (lambda q, b: streamed(q, b, shrink_values=False), "not that of the values"),
        (
            lambda q, b: streamed(q, b, shrink_values=False, shrink_weights=False),
            "shrink all that was summed",
        ),
        (lambda q, b: streamed(q, b, safe=False), "Large scores overflow"),
        (lambda q, b: streamed(q, b)[:4], "must have shape (8,)"),
    ],
)
def test_streamed(answer, message):
    fails(ch02.check_streamed, answer, message)


def square_relu(x):
    return F.relu(x).square()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, n, up, down: square_relu(n @ up.T) @ down.T, "the correction alone"),
        (lambda x, n, up, down: x + square_relu(x @ up.T) @ down.T, "a normalized copy"),
        (lambda x, n, up, down: n + square_relu(n @ up.T) @ down.T, "add to the stream, whose"),
        (lambda x, n, up, down: x + F.relu(n @ up.T) @ down.T, "You do not square"),
        (lambda x, n, up, down: x + (n @ up.T) ** 2 @ down.T, "relu comes first"),
        (lambda x, n, up, down: x + F.gelu(n @ up.T) @ down.T, "That is a GELU"),
        (lambda x, n, up, down: x + n @ up.T @ down.T, "so they are one"),
        (lambda x, n, u, d: x + square_relu(F.layer_norm(x, (8,)) @ u.T) @ d.T, "is LayerNorm"),
        (lambda x, n, up, down: x + 2 * square_relu(n @ up.T) @ down.T, "the largest difference"),
        (lambda x, n, up, down: (n @ up.T).tolist(), "must be a tensor"),
    ],
)
def test_feed_forward(answer, message):
    def wrong(x, up, down):
        return answer(x, F.rms_norm(x, (x.size(-1),)), up, down)

    fails(ch02.check_feed_forward, wrong, message)


def smear(x, w, scale, roll=1, pad=True, gated=True, bend=torch.sigmoid, keep=True):
    before = x.roll(roll, dims=1)
    if pad:
        before = before.index_fill(1, torch.tensor([0 if roll > 0 else x.size(1) - 1]), 0.0)
    gate = bend(x @ w.T) if gated else 1.0
    return (x if keep else 0.0) + scale * gate * before


def smear_in_a_loop(x, w, scale):
    x = x.clone()
    for t in range(1, x.size(1)):
        x[:, t] += scale * torch.sigmoid(x[:, t] @ w.T) * x[:, t - 1]
    return x


def smear_by_the_other_gate(x, w, scale):
    passed = torch.sigmoid(x @ w.T) * x
    return x + scale * F.pad(passed, (0, 0, 1, 0))[:, :-1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, w, s: smear(x, w, s, roll=-1), "reads the future"),
        (lambda x, w, s: smear(x, w, s, pad=False), "`roll` goes around"),
        (lambda x, w, s: smear(torch.cat((x[:, :1], x), 1), w, s)[:, 1:], "has none before it"),
        (smear_in_a_loop, "already smeared"),
        (smear_by_the_other_gate, "the gate of the token before"),
        (lambda x, w, s: smear(x, w, s, bend=lambda z: z), "a sigmoid of the product"),
        (lambda x, w, s: smear(x, w, s, gated=False), "left the gate out"),
        (lambda x, w, s: smear(x, w, 1.0), "left the scale out"),
        (lambda x, w, s: smear(x, w, s, keep=False), "You replace the vector"),
        (lambda x, w, s: smear(x, w, s)[:, 1:], "must have shape (2, 6, 8)"),
    ],
)
def test_smear(answer, message):
    fails(ch02.check_smear, answer, message)


def average(maps, rows, back):
    return maps[:, :, :, rows, rows - back].mean((1, 3))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda m, n: average(m, torch.arange(n + 1, 2 * n + 1), n), "look one place on"),
        (lambda m, n: average(m, torch.arange(n + 1, 2 * n + 1), 1), "one back"),
        (lambda m, n: average(m, torch.arange(n - 1, 2 * n + 1), n - 1), "second copy only"),
        (lambda m, n: torch.ones(2, 4) * 0.3 + 0 * m[:, 0, :, 0, 0], "instead of 1"),
        (lambda m, n: average(m, torch.arange(n + 1, 2 * n + 1), n - 1).T, "must have shape"),
    ],
)
def test_induction(answer, message):
    fails(ch02.check_induction, answer, message)
