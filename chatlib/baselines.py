"""What text costs without a neural network: compressors and n-gram models, in bits per byte.

Every figure is on the same footing as `evaluation.document_bits`: the bits of all tokens of a
document, the one that ends it included, over the bytes of its text.
"""

import gzip
import lzma
from collections.abc import Sequence

import numpy as np


def _flatten(documents: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens in one row, and where a document starts (that token is given, not predicted)."""
    lengths = np.array([len(document) for document in documents])
    assert len(lengths) and lengths.min() > 0, "every document begins with its start token"
    tokens = np.concatenate([np.asarray(document, np.int64) for document in documents])
    is_start = np.zeros(len(tokens), bool)
    is_start[np.cumsum(lengths) - lengths] = True
    return tokens, is_start


def _contexts(k: int, gram: np.ndarray, is_start: np.ndarray) -> np.ndarray:
    """Which (k-1)-gram stands before each position; -1 where the document has too few tokens."""
    if k == 1:
        return gram  # the empty gram
    return np.where(is_start, -1, np.roll(gram, 1))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What to take from an n-gram seen 0, 1, 2, or 3 and more times (Chen & Goodman 1998)."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):  # too little text to estimate them
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n1 / (n1 + 2 * n2)
    estimates = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return np.array([0.0, *np.clip(estimates, 0.0, [1.0, 2.0, 3.0])])


class NGram:
    """An n-gram model with interpolated, modified Kneser-Ney smoothing.

    A document is a list of ids that begins with a start token. The k-grams of the training text
    are numbered, so that a k-gram is a pair (number of its first k-1 tokens, last token) and
    each order is one sorted array: no dictionaries, no limit from the size of the vocabulary.
    """

    def __init__(self, order: int, vocab_size: int):
        assert order >= 1 and vocab_size >= 1
        self.order, self.vocab_size = order, vocab_size
        self.keys: list[np.ndarray] = []  # per k: sorted context number * vocab_size + token
        self.counts: list[np.ndarray] = []  # per k: how often, or after how many tokens, seen
        self.discounts: list[np.ndarray] = []

    def _keys(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The keys of the grams that end at each position; -1 where there is no context."""
        return np.where(contexts >= 0, contexts * self.vocab_size + tokens, -1)

    def fit(self, documents: Sequence[Sequence[int]]) -> "NGram":
        """Count the k-grams, k = 1 … order, of `documents`. Returns the model itself."""
        tokens, is_start = _flatten(documents)
        gram = np.zeros(len(tokens), np.int64)  # the empty gram, number 0, ends everywhere
        for k in range(1, self.order + 1):
            keys = self._keys(_contexts(k, gram, is_start), tokens)
            ends = np.flatnonzero(keys >= 0)
            types, first, number = np.unique(keys[ends], return_index=True, return_inverse=True)
            if k > 1:  # Kneser-Ney: a shorter gram counts once for each token it was seen after
                shorter = self.counts[-1]
                seen_after = np.bincount(gram[ends[first]], minlength=len(shorter))
                self.counts[-1] = np.where(seen_after > 0, seen_after, shorter)
            self.keys.append(types)
            self.counts.append(np.bincount(number, weights=~is_start[ends]))
            gram = np.full(len(tokens), -1)
            gram[ends] = number
        self.discounts = [_discounts(counts) for counts in self.counts]
        return self

    def probabilities(self, documents: Sequence[Sequence[int]]) -> np.ndarray:
        """The probability of every token but the first of each document, in one row."""
        tokens, is_start = _flatten(documents)
        gram = np.zeros(len(tokens), np.int64)
        p = np.full(len(tokens), 1 / self.vocab_size)
        for k in range(1, self.order + 1):
            contexts = _contexts(k, gram, is_start)
            gram = self._lookup(k, self._keys(contexts, tokens))
            p = self._interpolate(k, contexts, gram, p)
        return p[~is_start]

    def _lookup(self, k: int, keys: np.ndarray) -> np.ndarray:
        """The numbers of k-grams by key; -1 for those never seen."""
        types = self.keys[k - 1]
        place = np.minimum(np.searchsorted(types, keys), len(types) - 1)
        return np.where(types[place] == keys, place, -1)

    def _interpolate(
        self, k: int, contexts: np.ndarray, gram: np.ndarray, shorter: np.ndarray
    ) -> np.ndarray:
        """p(token | k-1 tokens): discounted counts, the rest shared out by the shorter model."""
        counts = self.counts[k - 1]
        taken = self.discounts[k - 1][np.minimum(counts, 3).astype(np.int64)]
        parent = self.keys[k - 1] // self.vocab_size
        total = np.bincount(parent, weights=counts, minlength=contexts.max() + 1)
        spare = np.bincount(parent, weights=taken, minlength=contexts.max() + 1)
        known = (contexts >= 0) & (total[contexts] > 0)  # elsewhere the shorter model stands
        kept = np.where(gram >= 0, (counts - taken)[gram], 0.0)
        mixed = kept + spare[contexts] * shorter
        return np.divide(mixed, total[contexts], out=shorter.copy(), where=known)


def _ngram_bits(order: int, vocab_size: int, train: list, validation: list) -> float:
    model = NGram(order, vocab_size).fit(train)
    return float(-np.log2(model.probabilities(validation)).sum())


def baselines(train_texts: list[str], texts: list[str], tokenizer) -> dict[str, float]:
    """Bits per byte of `texts` under each baseline; the n-grams learn from `train_texts`.

    The compressors see the documents as one file, a zero byte after each; `xz_after_training` is
    what xz adds when the training text stands before them. The n-grams start afresh in each
    document. 4 MB of training text take some 16 seconds on one core.
    """
    encoded = [text.encode() for text in texts]
    total = sum(map(len, encoded))
    shown = b"".join(text.encode() + b"\0" for text in train_texts)
    hidden = b"".join(text + b"\0" for text in encoded)
    bits = {
        "gzip": 8 * len(gzip.compress(hidden, 9)),
        "xz": 8 * len(lzma.compress(hidden)),
        "xz_after_training": 8 * (len(lzma.compress(shown + hidden)) - len(lzma.compress(shown))),
    }
    end = 256  # one symbol after the 256 bytes starts and ends a document
    as_bytes = [[[end, *text.encode(), end] for text in side] for side in (train_texts, texts)]
    bits["byte_3gram"] = _ngram_bits(3, end + 1, *as_bytes)
    bos = tokenizer.bos
    as_tokens = [
        [[bos, *ids, bos] for ids in tokenizer.encode_batch(side)] for side in (train_texts, texts)
    ]
    for order in (3, 5, 10):
        bits[f"token_{order}gram"] = _ngram_bits(order, tokenizer.vocab_size, *as_tokens)
    return {name: value / total for name, value in bits.items()}
