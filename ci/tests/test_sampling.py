"""Sampling: each rule against a hand-worked distribution, and rows that mind their own business."""

import math
import random

import pytest
import torch

from chatlib.errors import ChatlibError
from chatlib.sampling import (
    Sampling,
    choose,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)

PROBS = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]])
RANKED = PROBS.log()


def kept(ranked):
    return [int(n) for n in (ranked > -math.inf).sum(-1)]


def frequencies(logits, settings, draws=4000, seed=0):
    rng = random.Random(seed)
    rows = logits.expand(draws, -1)
    ids = choose(rows, [settings] * draws, [rng.random() for _ in range(draws)])
    return torch.bincount(ids, minlength=logits.shape[-1]) / draws


def test_top_k_keeps_k():
    assert kept(keep_top_k(RANKED, 1)) == [1]
    assert kept(keep_top_k(RANKED, 3)) == [3]
    assert kept(keep_top_k(RANKED.expand(2, -1), torch.tensor([[2], [99]]))) == [2, 5]


@pytest.mark.parametrize(("p", "count"), [(0.0, 1), (0.4, 1), (0.6, 2), (0.8, 3), (1.0, 5)])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, count):
    assert kept(keep_top_p(RANKED, p)) == [count]


@pytest.mark.parametrize(("share", "count"), [(0.0, 5), (0.2, 3), (0.3, 2), (1.0, 1)])
def test_min_p_keeps_a_share_of_the_best(share, count):
    assert kept(keep_min_p(RANKED, share)) == [count]


def test_repetition_lowers_positive_and_negative_logits():
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]


def test_draw_covers_each_token_by_its_probability():
    uniform = torch.tensor([0.0, 0.499, 0.5, 0.76, 0.9, 1 - 2**-24])
    assert draw(PROBS.expand(6, -1), uniform).tolist() == [0, 0, 1, 2, 3, 4]


def test_draw_never_returns_an_impossible_token():
    probs = torch.tensor([[0.0, 1.0, 0.0]]).expand(2, -1)
    assert draw(probs, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 1]
    rows = torch.randn(500, 50)
    ids = choose(rows, [Sampling(top_k=3)] * 500, [1 - 2**-53] * 500)
    best = rows.topk(3).indices
    assert all(ids[i] in best[i] for i in range(500))


def test_plain_sampling_follows_the_softmax():
    shuffled = PROBS[:, [3, 0, 4, 2, 1]]
    seen = frequencies(shuffled.log(), Sampling())
    assert torch.allclose(seen, shuffled[0], atol=0.03)


def test_temperature_sharpens():
    expected = (RANKED / 0.5).softmax(-1)[0]
    assert torch.allclose(frequencies(RANKED, Sampling(temperature=0.5)), expected, atol=0.03)


def test_top_k_renormalizes():
    expected = torch.tensor([2 / 3, 1 / 3, 0, 0, 0])
    assert torch.allclose(frequencies(RANKED, Sampling(top_k=2)), expected, atol=0.03)
    assert torch.allclose(frequencies(RANKED, Sampling(top_p=0.7)), expected, atol=0.03)
    assert torch.allclose(frequencies(RANKED, Sampling(min_p=0.4)), expected, atol=0.03)


def test_greedy_is_argmax_alone_and_in_company():
    logits = torch.randn(64, 100)
    best = logits.argmax(-1).tolist()
    uniform = [0.99] * 64
    assert choose(logits, [Sampling(temperature=0)] * 64, uniform).tolist() == best
    mixed = [Sampling(temperature=0), Sampling(top_p=0.9), Sampling(top_k=5), Sampling()] * 16
    assert choose(logits, mixed, uniform).tolist()[::4] == best[::4]
    assert choose(logits, [Sampling(temperature=1e-12)] * 64, uniform).tolist() == best


def test_a_row_does_not_depend_on_its_neighbors():
    settings = [
        Sampling(0.7),
        Sampling(1.3, top_k=7),
        Sampling(top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(temperature=0),
    ]
    logits = torch.randn(5, 60)
    uniform = [0.1, 0.9, 0.5, 0.7, 0.3]
    together = choose(logits, settings, uniform).tolist()
    alone = [
        int(choose(logits[i : i + 1], [settings[i]], [uniform[i]])[0]) for i in range(len(settings))
    ]
    assert together == alone


def test_seen_tokens_are_avoided():
    logits = torch.tensor([[3.0, 2.9, 0.0]])
    seen = torch.tensor([[True, False, False]])
    greedy = Sampling(temperature=0, repetition=1.5)
    assert choose(logits, [greedy], [0.5]).item() == 0
    assert choose(logits, [greedy], [0.5], seen).item() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": math.nan},
        {"top_k": 201},
        {"top_p": 1.1},
        {"min_p": -1},
        {"repetition": math.inf},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ChatlibError, match=next(iter(wrong))):
        Sampling(**wrong)
