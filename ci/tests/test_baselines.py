"""N-grams are probability distributions and agree with arithmetic done by hand."""

import math

import numpy as np
import pytest

from chatlib.baselines import NGram, baselines
from chatlib.tokenizer import Tokenizer

START = 0


def _documents(vocab_size: int, count: int, seed: int = 0) -> list[list[int]]:
    """Random walks: each token is likely to be followed by its successor."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        ids = [START, int(rng.integers(1, vocab_size))]
        while rng.random() < 0.9:
            follow = ids[-1] % (vocab_size - 1) + 1
            ids.append(follow if rng.random() < 0.7 else int(rng.integers(1, vocab_size)))
        documents.append([*ids, START])
    return documents


def test_order_one_is_the_count_by_hand():
    # Predicted tokens: 1 1 1 2 and the end 0 once. Too few to estimate discounts: .5, 1, 1.5.
    model = NGram(1, vocab_size=4).fit([[START, 1, 1, 1, 2, START]])
    spare = 0.5 + 1.5 + 0.5  # taken from 2, 1 and the end
    expected = {0: 1 - 0.5, 1: 3 - 1.5, 2: 1 - 0.5, 3: 0.0}
    for token, kept in expected.items():
        p = model.probabilities([[START, token]])[0]
        assert p == pytest.approx((kept + spare / 4) / 5)


def test_bigram_by_hand():
    # Documents: a b, a b, c b (a=1, b=2, c=3). Bigrams: (start,a) 2, (start,c) 1, (a,b) 2, (c,b) 1,
    # (b,end) 3. Continuations of the unigrams: a 1, c 1, b 2 (after a and c), end 1.
    model = NGram(2, vocab_size=4).fit([[0, 1, 2, 0], [0, 1, 2, 0], [0, 3, 2, 0]])
    unigram = ((2 - 1.0) + (0.5 + 0.5 + 1.0 + 0.5) / 4) / 5  # of b
    p = model.probabilities([[0, 1, 2]])
    assert p[1] == pytest.approx(((2 - 1.0) + 1.0 * unigram) / 2)
    unseen = model.probabilities([[0, 2, 2]])[1]  # after b only the end was seen
    assert unseen == pytest.approx((0 + 1.5 * unigram) / 3)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one(order: int):
    vocab_size = 7
    model = NGram(order, vocab_size).fit(_documents(vocab_size, 200))
    for context in ([0], [0, 1], [0, 1, 2, 3], [0, 6, 1, 1, 1, 1, 4, 2], [0, 5, 3, 5, 3]):
        p = [model.probabilities([[*context, token]])[-1] for token in range(vocab_size)]
        assert sum(p) == pytest.approx(1)
        assert min(p) > 0


def test_contexts_stay_within_their_document():
    model = NGram(3, vocab_size=7).fit(_documents(7, 50))
    documents = _documents(7, 5, seed=1)
    together = model.probabilities(documents)
    alone = np.concatenate([model.probabilities([document]) for document in documents])
    assert together == pytest.approx(alone)


def test_longer_contexts_help_on_text_that_has_them():
    rng = np.random.default_rng(0)

    def sequences(count: int) -> list[list[int]]:
        rows = []
        for _ in range(count):
            ids = rng.integers(1, 5, size=2).tolist()
            while len(ids) < 30:  # the next token is decided by the last two, nine times in ten
                ids.append((ids[-1] * 2 + ids[-2]) % 5 + 1 if rng.random() < 0.9 else 5)
            rows.append([START, *ids, START])
        return rows

    train, held_out = sequences(400), sequences(50)
    bits = {}
    for order in (1, 2, 3, 5):
        model = NGram(order, vocab_size=6).fit(train)
        bits[order] = -np.log2(model.probabilities(held_out)).mean()
    assert bits[3] < 0.3 * bits[2]
    assert bits[5] < bits[3] + 0.05  # smoothing keeps useless contexts from doing harm


def test_vocabulary_size_does_not_limit_the_order():
    model = NGram(5, vocab_size=2**20).fit([[0, 2**20 - 1, 7, 2**20 - 1, 7, 2**20 - 1, 0]] * 3)
    assert model.probabilities([[0, 2**20 - 1, 7]]).min() > 0.5


def test_baselines_on_text():
    rng = np.random.default_rng(0)
    names, verbs = ["Ada", "Bo", "Cleo", "Zoé"], ["sings", "sleeps", "cooks", "reads"]

    def texts(count: int) -> list[str]:
        picks = [(rng.choice(names), rng.choice(verbs), rng.choice(names)) for _ in range(count)]
        return [f"{a} {verb} and {b} listens." for a, verb, b in picks]

    train, held_out = texts(500), texts(100)
    tokenizer = Tokenizer.train(train, 300)
    scores = baselines(train, held_out, tokenizer)
    size = sum(len(text.encode()) for text in held_out)
    floor = 100 * math.log2(4 * 4 * 4) / size  # three independent choices of four
    assert set(scores) == {
        *("gzip", "xz", "xz_after_training", "byte_3gram"),
        *("token_3gram", "token_5gram", "token_10gram"),
    }
    assert all(score > floor for score in scores.values())
    assert scores["token_5gram"] < 1.3 * floor < scores["gzip"]
    assert scores["xz_after_training"] < scores["xz"]
