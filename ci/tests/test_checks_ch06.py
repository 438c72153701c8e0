"""Every check of chapter 6 passes its solution and says what is wrong with likely wrong answers."""

import json

import pytest
import torch

from chatlib.checks import ch06
from chatlib.scaling import count_parameters
from ci.tests.checking import fails, passes, solutions


@pytest.fixture(scope="module")
def answers() -> dict:
    return solutions("06_inference")


CHECKS = ("nucleus", "pick", "slide", "step_bytes", "serve", "events", "accept", "grouped")


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(answers, name, capsys):
    passes(
        getattr(ch06, f"check_{name}"), answers["quantize" if name == "grouped" else name], capsys
    )


def nucleus(probs, p, *, keep_best=True, scale=True, late=0, ranked=True):
    order = probs.argsort(descending=True) if ranked else torch.arange(len(probs))
    values = probs[order]
    stays = values.cumsum(0) - (0 if late else values) < p
    stays[0] |= keep_best
    kept = torch.zeros_like(probs)
    kept[order[stays]] = values[stays]
    return kept / kept.sum() if scale else kept


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, p: nucleus(x, p, scale=False), "scale up what is left"),
        (lambda x, p: nucleus(x, p, keep_best=False), "At p = 0 you keep nothing"),
        (lambda x, p: nucleus(x, p, late=1), "hold only 0.65. The token that takes the sum to p"),
        (lambda x, p: nucleus(x, p).sort(descending=True).values, "not the best ones"),
        (lambda x, p: nucleus(x, p, ranked=False), "keeps [0, 1, 2, 3]"),
        (lambda x, p: (nucleus(x, p) > 0) / (nucleus(x, p) > 0).sum(), "keep their proportions"),
        (lambda x, p: nucleus(x, p).tolist(), "must be a tensor"),
    ],
)
def test_nucleus(answer, message):
    fails(ch06.check_nucleus, answer, message)


def pick(probs, dart, *, closed=False, end=None):
    total = 0.0
    for i, p in enumerate(probs):
        total += p
        if dart < total or (closed and dart <= total):
            return i
    return end


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, d: pick(p, d, closed=True, end=9), "The dart 0.0 picks token 0"),
        (lambda p, d: pick(p, d), "less than 1 in floating point"),
        (lambda p, d: p.index(max(p)), "The dart 0.5 lands on token 3; you say 1"),
        (lambda p, d: int(d * len(p)), "whose probability is 0"),
    ],
)
def test_pick(answer, message):
    fails(ch06.check_pick, answer, message)


def slide(keys, values, k, v, n, m=None):
    keys, values = torch.cat((keys, k)), torch.cat((values, v))
    return keys[-n:], values[-(m or n) :]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda K, V, k, v, w: slide(K, V, k, v, 99), "you still keep all 5 keys"),
        (lambda K, V, k, v, w: slide(K, V, k, v, max(w, 1)), "a window of w admits w + 1"),
        (lambda K, V, k, v, w: slide(K, V, k, v, w + 1, 99), "4 keys and 5 values"),
        (
            lambda K, V, k, v, w: [x[: w + 1] for x in slide(K, V, k, v, 99)],
            "but not those of tokens 1 to 4",
        ),
        (
            lambda K, V, k, v, w: slide(K, V.flip(0), k, v, w + 1),
            "not in step",
        ),
    ],
)
def test_slide(answer, message):
    fails(ch06.check_slide, answer, message)


def step_bytes(c, rows, length, *, weights=1.0, caches=None, long=False, heads=0, halves=4):
    seen = sum(length if long else min(w, length) for w in c.windows())
    a_key = halves * (heads or c.n_kv_head) * c.head_dim
    caches = rows if caches is None else caches
    return weights * 2 * count_parameters(c).scaling + caches * seen * a_key


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c, r, n: step_bytes(c, r, n, weights=r), "a batch shares them"),
        (lambda c, r, n: step_bytes(c, r, n, caches=0), "You leave out the caches"),
        (lambda c, r, n: step_bytes(c, r, n, caches=1), "every row has its own"),
        (lambda c, r, n: step_bytes(c, r, n, halves=2), "forget values"),
        (lambda c, r, n: step_bytes(c, r, n, long=True), "short windows read less"),
        (lambda c, r, n: step_bytes(c, r, n, heads=c.n_head), "look at n_kv_head"),
        (lambda c, r, n: step_bytes(c, r, n) / 2, "has two bytes"),
        (lambda c, r, n: step_bytes(c, r, n, weights=0.5), "bfloat16 as well"),
        (lambda c, r, n: 2 * step_bytes(c, r, n), "you say"),
        (
            lambda c, r, n: (
                step_bytes(c, r, n) + 2 * (count_parameters(c).total - count_parameters(c).scaling)
            ),
            "tables are looked up",
        ),
    ],
)
def test_step_bytes(answer, message):
    fails(ch06.check_step_bytes, answer, message)


def serve(requests, rows, *, arrive=True, choose=min):
    free, ends = [0] * rows, []
    for arrival, tokens in requests:
        row = free.index(choose(free))
        free[row] = (max(free[row], arrival) if arrive else free[row]) + tokens
        ends.append(free[row])
    return ends


def grouped(requests, rows):
    now, ends = 0, []
    for i in range(0, len(requests), rows):
        group = requests[i : i + rows]
        now = max([now, *(arrival for arrival, _ in group)])
        ends += [now + tokens for _, tokens in group]
        now = max(ends[i:])
    return ends


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda r, n: serve(r, n, arrive=False), "from its arrival on"),
        (grouped, "you wait for a whole group"),
        (lambda r, n: serve(r, n, choose=max), "first come, first served"),
        (lambda r, n: serve(r, n)[:-1], "one end for each of 3"),
        (lambda r, n: [tokens for _, tokens in r], "must be [3, 5, 5]"),
    ],
)
def test_serve(answer, message):
    fails(ch06.check_serve, answer, message)


def parse(block):
    return json.loads(block.removeprefix("data: "))


def read_chunk_by_chunk(chunks):
    for chunk in chunks:
        yield from (parse(b) for b in chunk.decode().split("\n\n") if b and "[DONE]" not in b)


def decode_too_early(chunks):
    left = ""
    for chunk in chunks:
        *whole, left = (left + chunk.decode()).split("\n\n")
        yield from (parse(block) for block in whole if "[DONE]" not in block)


def parse_done(chunks):
    for block in b"".join(chunks).decode().strip().split("\n\n"):
        yield parse(block)


def forget_the_rest(chunks):
    for chunk in chunks:
        for block in chunk.decode(errors="ignore").split("\n\n")[:-1]:
            if block.startswith("data: {"):
                yield parse(block)


def replace_letters(chunks):
    text = "".join(chunk.decode(errors="replace") for chunk in chunks)
    return [parse(block) for block in text.split("\n\n") if block and "[DONE]" not in block]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (read_chunk_by_chunk, "which is not whole"),
        (decode_too_early, "a letter is cut in two"),
        (parse_done, "[DONE] is no JSON"),
        (forget_the_rest, "do not throw away a beginning"),
        (replace_letters, "sent was"),
    ],
)
def test_events(answer, message):
    fails(ch06.check_events, answer, message)


def accept(p, guess, dart, generator, *, keep=False, flip=False, even=False):
    if (dart < p[guess]) != flip:
        return guess, True
    others = torch.ones_like(p) if even else p.clone()
    if not keep:
        others[guess] = 0
    return int(torch.multinomial(others, 1, generator=generator)), False


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *a: accept(*a, keep=True), "take it out of the draw"),
        (lambda *a: accept(*a, flip=True), "a dart below the probability accepts"),
        (lambda *a: accept(*a, even=True), "in proportion to their probabilities"),
        (lambda *a: (a[1], True), "you accept it in 100%"),
        (lambda *a: accept(*a)[0], "Return two things"),
        (lambda p, g, d, r: (0, d < p[g]), "You accept the guess 3 and return token 0"),
    ],
)
def test_accept(answer, message):
    fails(ch06.check_accept, answer, message)


def quantize(weight, bits, group, most=None):
    most = most or 2 ** (bits - 1) - 1
    blocks = weight.view(-1, group)
    step = blocks.abs().amax(1, keepdim=True) / most
    return ((blocks / step).round() * step).view_as(weight)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda w, b, g: quantize(w, b, w.numel()), "has a step of its own"),
        (lambda w, b, g: quantize(w, b, w.size(1)), "has a step of its own"),
        (lambda w, b, g: quantize(w, b, g, most=2**b - 1), "whole multiples"),
        (lambda w, b, g: w, "whole multiples"),
        (lambda w, b, g: w.flatten(), "must have the shape"),
    ],
)
def test_grouped(answer, message):
    fails(ch06.check_grouped, answer, message)
