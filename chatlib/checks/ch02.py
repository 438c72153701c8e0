"""Checks of the exercises on attention. Each says what is wrong with an answer, or prints Right."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from chatlib.checks import Wrong
from chatlib.checks.compare import expect, expect_number, normal, same, tensor
from chatlib.model import GPTConfig
from chatlib.scaling import count_parameters, flops_per_token


def check_softmax(softmax: Callable) -> None:
    """softmax(scores (..., V), temperature) -> (..., V)."""
    scores = normal(2, 3, 5)
    p = tensor(softmax(scores, 1.0), (2, 3, 5), "softmax(scores, 1.0)")
    if not same(p.sum(-1), torch.ones(2, 3)):
        for axis in (0, 1):
            if same(p, scores.softmax(axis)):
                raise Wrong(f"Your shares sum to 1 along axis {axis}; scores lie along the last.")
        raise Wrong("The probabilities of one row do not sum to 1: divide by the row's own sum.")
    if not same(p, scores.softmax(-1)):
        raise Wrong("The shares sum to 1 but are not proportional to e to the power of the scores.")
    for large in (1000.0, -1000.0):
        if not same(softmax(scores + large, 1.0), p):
            raise Wrong(
                f"With {large:+.0f} added to every score nothing should change, but e to such a "
                "power is no float32: subtract the largest score of each row first."
            )
    sharp = (scores * 2).softmax(-1)
    slips = {"At temperature 2 you sharpen: divide the scores by it, do not multiply.": sharp}
    otherwise = "At temperature 2 the shares are off, so divide the scores before taking e^"
    expect(softmax(scores, 2.0), (scores / 2).softmax(-1), slips, otherwise)
    if not same(softmax(scores, 0), F.one_hot(scores.argmax(-1), 5)):
        raise Wrong("At temperature 0 all probability belongs to the largest score; say so apart.")
    print("Right: your softmax sums to 1, survives large scores and knows temperature 0.")


def check_visible(visible: Callable) -> None:
    """visible(positions (T,), n_keys, window) -> bool (T, n_keys)."""
    all_six, late = torch.arange(6), torch.tensor([7, 8])
    cases = ((all_six, 6, -1), (all_six, 6, 2), (late, 9, -1), (late, 9, 3))
    for positions, n_keys, window in cases:
        call = f"visible({positions.tolist()}, {n_keys}, {window})"
        mask = tensor(visible(positions, n_keys, window), (len(positions), n_keys), call)
        for row, p in enumerate(positions.tolist()):
            for j in range(n_keys):
                _check_pair(call, bool(mask[row, j]), p, j, window, row)
    print("Right: nobody sees the future, and a window of w admits w + 1 keys.")


def _check_pair(call: str, seen: bool, p: int, j: int, window: int, row: int) -> None:
    if seen == (0 <= p - j <= (window if window >= 0 else math.inf)):
        return
    if j > p:
        raise Wrong(f"{call}: your mask lets position {p} see position {j}, which is its future.")
    if seen:
        raise Wrong(f"{call}: position {p} sees position {j}, which is {p - j} back.")
    at = f"{call}: position {p} does not see"
    if j == p:
        raise Wrong(f"{at} itself.")
    if p - j == window:
        raise Wrong(f"{at} position {j}, exactly {window} back: a window of w admits w + 1 keys.")
    if window >= 0:
        raise Wrong(f"{at} position {j}, inside its window.")
    if p > row and j > row:
        raise Wrong(f"{at} {j}. Row {row} of the mask is position {p}'s: use `positions`.")
    raise Wrong(f"{at} {j}, but a negative window sets no limit.")


def check_head(head: Callable) -> None:
    """head(x (T, C), wq, wk, wv (C, D)) -> (T, D), causal."""
    x, (wq, wk, wv) = normal(7, 16), (normal(16, 8, seed=s) for s in (1, 2, 3))
    q, k, v = x @ wq, x @ wk, x @ wv
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    right = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    y = tensor(head(x, wq, wk, wv), (7, 8), "head(x, wq, wk, wv)")
    scores, never = q @ k.T, -math.inf
    scaled = scores / math.sqrt(8)

    def shares(scores: Tensor, value: float = never, axis: int = -1) -> Tensor:
        return scores.masked_fill(hidden, value).softmax(axis)

    late = scaled.softmax(-1).masked_fill(hidden, 0)
    slips = {
        "Your head reads the future: hide the scores above the diagonal.": scaled.softmax(-1),
        "You do not divide the scores by √D.": shares(scores),
        "You divide by D; divide by √D.": shares(scores / 8),
        "You divide by √C; a query has D numbers.": shares(scores / 4),
        "A hidden score of 0 gets a share, since e^0 is 1: use -inf.": shares(scaled, 0),
        "You hide after the softmax, so what is left does not sum to 1: hide the scores.": late,
        "Your softmax runs over who asks; a row is one query's.": shares(scaled, never, 0),
        "Rows of scores belong to queries, not to keys.": shares(scaled.T),
    }
    expect(y, right, {message: w @ v for message, w in slips.items()}, "Not causal attention")
    print("Right: your head equals PyTorch's, and no position sees what comes after it.")


def check_rotate(rotate: Callable) -> None:
    """rotate(x (T, D), positions (T,), base) -> (T, D)."""
    x, positions, base = normal(5, 8), torch.tensor([0, 1, 2, 3, 50]), 100.0
    y = tensor(rotate(x, positions, base), (5, 8), "rotate(x, positions, base)")

    def turned(sign: int = 1, power: int = 2, at: Tensor = positions, x: Tensor = x) -> Tensor:
        angle = sign * at[:, None] * base ** (-power * torch.arange(4) / 8)
        a, b = x.chunk(2, dim=-1)
        sides = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.cat(sides, dim=-1)

    if not same(y[0], x[0]):
        raise Wrong("At position 0 nothing may turn, but your first row has changed.")
    if not same(y.norm(dim=-1), x.norm(dim=-1)):
        raise Wrong("A turn keeps lengths, and yours does not: a·cos - b·sin, a·sin + b·cos.")
    neighbors = turned(x=x[:, [0, 2, 4, 6, 1, 3, 5, 7]])[:, [0, 4, 1, 5, 2, 6, 3, 7]]
    slips = {
        "You pair neighbors (0 with 1); here number i turns with number i + D/2.": neighbors,
        "You turn the other way: the first of a pair is a·cos - b·sin.": turned(sign=-1),
        "Pair i turns by base^(-2i/D) a token; you use base^(-i/D).": turned(power=1),
        "Your later pairs turn faster; the exponent -2i/D is negative.": turned(power=-2),
        "You turn by the row's number; use `positions`.": turned(at=torch.arange(5)),
    }
    expect(y, turned(), slips, "Lengths are kept, but pair i must turn position · base^(-2i/D)")
    print("Right: lengths stay, position 0 stays, and scores depend on distance alone.")


def check_grouped(grouped: Callable) -> None:
    """grouped(q (B, T, H, D), k and v (B, T, Hkv, D)) -> (B, T, H, D), causal."""
    q, k, v = normal(2, 5, 6, 4), normal(2, 5, 3, 4, seed=1), normal(2, 5, 3, 4, seed=2)
    y = tensor(grouped(q, k, v), (2, 5, 6, 4), "grouped(q, k, v)")

    def attention(k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
        heads = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(1, 2)

    each = [t.repeat_interleave(2, dim=2) for t in (k, v)]
    tiled = [t.repeat(1, 1, 2, 1) for t in (k, v)]
    mixed = attention(each[0], tiled[1])
    slips = {
        "Query heads 0 and 1 share key head 0, but your head 1 reads key head 1: repeat each head "
        "in place (0 0 1 1 2 2), not the whole row (0 1 2 0 1 2).": attention(*tiled),
        "Your heads read the future: it must stay causal.": attention(*each, causal=False),
        "Keys are repeated in place, but values are not: use one order.": mixed,
    }
    expect(y, attention(*each), slips, "Query head h must read key and value head h // (H / Hkv)")
    print("Right: neighboring query heads share a key head and a value head.")


def check_count(count: Callable) -> None:
    """count(config) -> (parameters, training FLOPs a token)."""
    for shape in ((1024, 4, 4, 4, 128, 256), (32_768, 12, 6, 3, 768, 2048)):
        config = GPTConfig(*shape)
        answer = count(config)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise Wrong("Return two numbers: parameters, and FLOPs a token.")
        _check_counts(config, *answer)
    print("Right: both counts agree with the library for two models.")


def _check_counts(config: GPTConfig, parameters: float, flops: float) -> None:
    p, right = count_parameters(config), flops_per_token(config)
    kv = config.n_kv_head * config.head_dim
    L, C = config.n_layer, config.n_embd
    gates = p.matrices - L * (10 * C * C + 2 * C * kv)
    missing = {
        "You left out the head; it is a matrix of its own, not the embedding again.": p.head,
        "You left out the value tables of every other layer.": p.value_embeddings,
        "You left out the gates of the value tables.": gates,
        "You left out the scalars: 2 a layer, smear and backout, and the smear's gate.": p.scalars,
        "Keys and values have n_kv_head heads, fewer than queries.": -2 * L * C * (C - kv),
    }
    slips = {message: p.total - number for message, number in missing.items()}
    otherwise = "Somewhere you count too much or too little."
    expect_number(parameters, p.total, slips, otherwise, tolerance=1e-9)
    dense = 6 * p.scaling
    all_keys = dense + 12 * C * config.sequence_len * L
    with_tables = right + 6 * (p.embedding + p.value_embeddings)
    slips = {
        "That is the forward pass alone; the backward pass does twice as much again.": right / 3,
        "You left out attention: 12 a channel and visible key.": dense,
        "You let every layer see all keys; the short windows see fewer.": all_keys,
        "Tables are looked up, not multiplied: leave them out.": with_tables,
    }
    expect_number(flops, right, slips, "These are not the FLOPs a token.", tolerance=1e-9)


def check_streamed(streamed: Callable) -> None:
    """streamed(q (D,), blocks): blocks yields (keys (n, D), values (n, D)) once -> (D,)."""
    for size in (1.0, 300.0):
        q, k, v = size * normal(8), normal(24, 8, seed=1), normal(24, 8, seed=2)
        order = (k @ q).argsort()  # ever larger scores turn up
        k, v = k[order], v[order]
        scores = k @ q / math.sqrt(8)
        blocks = zip(k.split(5), v.split(5), strict=True)
        y = tensor(streamed(q, blocks), (8,), "streamed(q, blocks)")
        if not y.isfinite().all():
            raise Wrong("Large scores overflow: keep the largest score so far and subtract it.")
        slips = _streaming_slips(scores.split(5), v.split(5))
        expect(y, scores.softmax(0) @ v, slips, "Not the attention over all keys")
    print("Right: one pass, one block at a time, and the same answer as with all scores at once.")


def _streaming_slips(scores: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Known slips; the largest score of each block is the largest so far."""
    tops = [s.max() for s in scores]
    shares = [(s - top).exp() for s, top in zip(scores, tops, strict=True)]
    means = [s.softmax(0) @ v for s, v in zip(scores, values, strict=True)]
    kept = sum(share @ v for share, v in zip(shares, values, strict=True))
    total = sum(s.sum() * (t - tops[-1]).exp() for s, t in zip(shares, tops, strict=True))
    mean, unshrunk = sum(means) / len(means), kept / sum(s.sum() for s in shares)
    return {
        "You average the blocks' answers, but a block with larger scores weighs more.": mean,
        "When a larger score turns up, shrink all that was summed by e^(old - new).": unshrunk,
        "You shrink the sum of the weights and not that of the values; do both.": kept / total,
    }


def check_feed_forward(feed_forward: Callable) -> None:
    """feed_forward(x (..., C), up (4C, C), down (C, 4C)) -> (..., C): the stream after an MLP."""
    x, up, down = 3 * normal(2, 5, 8), normal(32, 8, seed=1), 0.1 * normal(8, 32, seed=2)
    y = tensor(feed_forward(x, up, down), (2, 5, 8), "feed_forward(x, up, down)")

    def mlp(x: Tensor, bend: Callable = lambda h: F.relu(h).square()) -> Tensor:
        return bend(x @ up.T) @ down.T

    n, across = F.rms_norm(x, (8,)), x / x.square().mean(dim=1, keepdim=True).sqrt()
    centered = F.layer_norm(x, (8,))
    slips = {
        "You return the correction alone; add it to the stream.": mlp(n),
        "The MLP reads the stream as it is; it must read a normalized copy.": x + mlp(x),
        "You add to the normalized copy; add to the stream, whose size must survive.": n + mlp(n),
        "You do not square: relu² is the square of what relu lets through.": x + mlp(n, F.relu),
        "You square negative numbers too; relu comes first.": x + mlp(n, torch.square),
        "That is a GELU; here it is relu².": x + mlp(n, F.gelu),
        "There is nothing between your two matrices, so they are one.": x + mlp(n, lambda h: h),
        "You normalize along the wrong axis: each vector by itself.": x + mlp(across),
        "You subtract the mean too, which is LayerNorm; RMSNorm only divides.": x + mlp(centered),
    }
    expect(y, x + mlp(n), slips, "Not x + down · relu²(up · norm(x))")
    print("Right: each vector is read at size 1, worked on alone, and added to what was there.")


def check_smear(smear: Callable) -> None:
    """smear(x (B, T, C), weight (1, C), scale) -> (B, T, C)."""
    x, weight, scale = normal(2, 6, 8), normal(1, 8, seed=1), 0.7
    y = tensor(smear(x, weight, scale), (2, 6, 8), "smear(x, weight, scale)")
    later = x.clone()
    later[:, 4:] += 1
    moved = smear(later, weight, scale)
    if same(moved[:, 1:4], y[:, 1:4]) and not same(moved[:, 0], y[:, 0]):
        raise Wrong("Your first token takes from the last one: `roll` goes around; pad with zeros.")
    if not same(moved[:, :4], y[:, :4]):
        raise Wrong("Your smear reads the future: position t takes from t - 1, not from t + 1.")
    gate = torch.sigmoid(x @ weight.T)  # (B, T, 1)
    before = F.pad(x, (0, 0, 1, 0))[:, :-1]
    stale = scale * F.pad(gate, (0, 0, 1, 0))[:, :-1] * before
    if same(y[:, 1:], (x + scale * gate * before)[:, 1:]) and not same(y[:, 0], x[:, 0]):
        raise Wrong("The first token has none before it, so its vector must stay as it is.")
    chained = [x[:, 0]]
    for t in range(1, 6):
        chained.append(x[:, t] + scale * gate[:, t] * chained[-1])
    again = torch.stack(chained, dim=1)
    slips = {
        "You take what is already smeared; take the previous token's own vector.": again,
        "The gate is a sigmoid of the product, between 0 and 1.": x + scale * x @ weight.T * before,
        "You use the gate of the token before; each token opens its own.": x + stale,
        "You left the gate out.": x + scale * before,
        "You left the scale out.": x + gate * before,
        "You replace the vector; add to it.": scale * gate * before,
    }
    expect(y, x + scale * gate * before, slips, "Not x[t] + scale · gate[t] · x[t-1]")
    print("Right: each token takes a little of the one before it, and none of the one after.")


def check_induction(scores: Callable) -> None:
    """scores(maps (L, B, H, T, T), n) -> (L, H); each row is a bos, n tokens, the same n again."""
    n, (L, B, H) = 6, (2, 3, 4)
    T = 1 + 2 * n
    maps = torch.eye(T).expand(L, B, H, T, T).clone()
    second, later = torch.arange(n + 1, T), torch.arange(1, T)
    heads = ((1, 2, n - 1, second), (0, 3, n, second), (0, 1, 1, later))
    for layer, head, back, rows in heads:  # induction; the same token; the one before
        maps[layer, :, head, rows] = 0
        maps[layer, :, head, rows, rows - back] = 1
    answer = tensor(scores(maps, n), (L, H), "scores(maps, n)")
    if answer[0, 3] > 0.5:
        raise Wrong("You score who reads the same token; look one place on, at what followed it.")
    if answer[0, 1] > 0.5:
        raise Wrong("You score a head that reads the token one back.")
    if answer[1, 2] < 0.99:
        raise Wrong(
            f"A perfect induction head gets {answer[1, 2]:.2f} from you instead of 1: average over "
            "the second copy only; the first has nothing to repeat."
        )
    if answer.sum() > 1.01:
        raise Wrong("Heads that look elsewhere should score 0.")
    print("Right: layer 1, head 2 is the induction head, and no other head is mistaken for one.")
