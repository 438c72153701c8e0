"""The checks of chapter 1: solutions pass, plausible wrong answers fail for the right reason."""

import math
from itertools import islice, pairwise

import numpy as np
import pytest
import regex

from chatlib.checks import Wrong, ch01
from chatlib.data.world import World
from chatlib.tokenizer import Tokenizer, bpe, split_pattern
from ci.tests.checking import fails, passes

# ---- solutions ----


def code_points(data):
    points = []
    for byte in data:
        if byte >> 6 == 0b10:
            points[-1] = points[-1] << 6 | byte & 0x3F
        else:
            n = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            points.append(byte if n == 1 else byte & (0x7F >> n))
    return points


def best_pair(words):
    counts = {}
    for ids, count in words.items():
        for pair in pairwise(ids):
            counts[pair] = counts.get(pair, 0) + count
    return min(counts, key=lambda pair: (-counts[pair], pair))


def encode_piece(piece, ranks):
    return bpe(piece, ranks)


GROUPED = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
PATTERN = split_pattern().replace(r"\p{N}{1,2}", GROUPED)


def safe_prefix(data):
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF8 else 1
            return len(data) - back if back < size else len(data)
        if byte < 0x80:
            break
    return len(data)


def bits_per_byte(nats, ids, token_bytes):
    lengths = token_bytes[ids]
    return nats[lengths > 0].sum() / math.log(2) / lengths.sum()


def loss_mask(ids, tokenizer, tool=0, start=0, end=1, user=0):
    names = {i: name for name, i in tokenizer.special_ids.items()}
    mask, writer = [], user
    for token in ids:
        name = names.get(token, "")
        if name == "<|assistant_start|>":
            mask.append(start)
            writer = 1
        elif name == "<|assistant_end|>":
            mask.append(end)
            writer = user
        elif name == "<|output_start|>":
            mask.append(tool)
            writer = tool
        elif name == "<|output_end|>":
            mask.append(tool)
            writer = 1
        elif name.startswith("<|user") or name == "<|bos|>":
            mask.append(0)
        else:
            mask.append(writer)
    return mask


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (ch01.check_code_points, code_points),
        (ch01.check_best_pair, best_pair),
        (ch01.check_encode_piece, encode_piece),
        (ch01.check_group_digits, PATTERN),
        (ch01.check_safe_prefix, safe_prefix),
        (ch01.check_bits_per_byte, bits_per_byte),
        (ch01.check_loss_mask, loss_mask),
    ],
    ids=lambda x: getattr(x, "__name__", "pattern"),
)
def test_solutions_pass(capsys, check, answer):
    passes(check, answer, capsys)


# ---- plausible wrong answers ----


def keeps_marks(data):
    points = []
    for byte in data:
        if byte >> 6 == 0b10:
            points[-1] = points[-1] << 6 | byte & 0x3F
        else:
            points.append(byte)
    return points


def eight_bits_each(data):
    points = []
    for byte in data:
        if byte >> 6 == 0b10:
            points[-1] = points[-1] << 8 | byte
        else:
            points.append(byte if byte < 0x80 else byte & 0x1F)
    return points


def without_counts(words):
    return best_pair(dict.fromkeys(words, 1))


def across_words(words):
    text = [i for ids, count in words.items() for _ in range(count) for i in ids]
    return best_pair({tuple(text): 1})


def each_pair_once(words):
    pairs = {}
    for ids, count in words.items():
        for pair in set(pairwise(ids)):
            pairs[pair] = pairs.get(pair, 0) + count
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def first_seen(words):
    pairs = {}
    for ids, count in words.items():
        for pair in pairwise(ids):
            pairs[pair] = pairs.get(pair, 0) + count
    return max(pairs, key=pairs.get)


def longest_match(piece, ranks):
    out = []
    while piece:
        size = next(n for n in range(len(piece), 0, -1) if piece[:n] in ranks)
        out.append(piece[:size])
        piece = piece[size:]
    return out


def fewest(piece, ranks):
    best = [[]] + [None] * len(piece)
    for end in range(1, len(piece) + 1):
        ways = [
            best[start] + [piece[start:end]] for start in range(end) if piece[start:end] in ranks
        ]
        best[end] = min(ways, key=lambda way: (len(way), [-len(t) for t in way][::-1]))
    return best[-1]


def one_round(piece, ranks):
    parts = [bytes([b]) for b in piece]
    found = sorted({a + b for a, b in pairwise(parts)} & set(ranks), key=ranks.get)
    for token in found:
        out = []
        while parts:
            if len(parts) > 1 and parts[0] + parts[1] == token:
                out.append(token)
                parts = parts[2:]
            else:
                out.append(parts.pop(0))
        parts = out
    return parts


def strict_decode(data):
    n = len(data)
    while n:
        try:
            data[:n].decode()
            return n
        except UnicodeDecodeError:
            n -= 1
    return 0


def holds_last(data):
    n = len(data)
    while n and data[n - 1] >= 0x80:
        n -= 1
    return n


TWO = split_pattern(3)
CAPTURED = split_pattern().replace(r"\p{N}{1,2}", r"\p{N}{1,3}(?=(\p{N}{3})*(?!\p{N}))")
LOSSY = split_pattern().replace(r"\p{N}{1,2}", r"\p{N}{3}(?=(?:\p{N}{3})*(?!\p{N}))")

WRONG = [
    (ch01.check_code_points, list, "first byte says how many"),
    (ch01.check_code_points, keeps_marks, "leading ones"),
    (ch01.check_code_points, eight_bits_each, "six bits"),
    (ch01.check_code_points, lambda data: data.decode(), "list of code points"),
    (ch01.check_best_pair, without_counts, "as often as its word occurs"),
    (ch01.check_best_pair, lambda words: (best_pair(words), 9), "Return the pair alone"),
    (ch01.check_best_pair, across_words, "over the end of a word"),
    (ch01.check_best_pair, each_pair_once, "every place where the pair begins"),
    (ch01.check_best_pair, first_seen, "tie goes to the lowest"),
    (ch01.check_encode_piece, longest_match, "from left to right"),
    (ch01.check_encode_piece, fewest, "does not look for the fewest"),
    (ch01.check_encode_piece, one_round, "until no pair is a token"),
    (ch01.check_group_digits, TWO, "from the left"),
    (ch01.check_group_digits, CAPTURED, "write (?: )"),
    (ch01.check_group_digits, LOSSY, "loses digits"),
    (ch01.check_group_digits, "(", "no regular expression"),
    (ch01.check_group_digits, GROUPED + r"| ?\p{L}+|(?s:.)", "cut as before"),
    (ch01.check_safe_prefix, len, "half a character"),
    (ch01.check_safe_prefix, holds_last, "hold it back"),
    (ch01.check_safe_prefix, strict_decode, "no further byte will mend"),
    (ch01.check_bits_per_byte, lambda n, i, b: n[b[i] > 0].sum() / b[i].sum(), "nats a byte"),
    (ch01.check_bits_per_byte, lambda n, i, b: n.sum() / math.log(2) / b[i].sum(), "special token"),
    (ch01.check_bits_per_byte, lambda n, i, b: n.mean() / math.log(2), "bits a token"),
    (
        ch01.check_bits_per_byte,
        lambda n, i, b: np.mean(n[b[i] > 0] / b[i][b[i] > 0]) / math.log(2),
        "average each token's own ratio",
    ),
    (ch01.check_loss_mask, lambda i, t: loss_mask(i, t, end=0), "never stops"),
    (ch01.check_loss_mask, lambda i, t: loss_mask(i, t, start=1), "program that asks"),
    (ch01.check_loss_mask, lambda i, t: loss_mask(i, t, tool=1), "written by the tool"),
    (ch01.check_loss_mask, lambda i, t: loss_mask(i, t, user=1), "user's text"),
    (ch01.check_loss_mask, lambda i, t: loss_mask(i, t)[1:], "as many numbers"),
]


@pytest.mark.parametrize(("check", "answer", "words"), WRONG)
def test_wrong_answers_fail_with_the_reason(check, answer, words):
    fails(check, answer, words)


# ---- the open exercise ----


@pytest.fixture(scope="module")
def material():
    texts = [d.text for d in islice(World().documents("train"), 400)]
    words = sorted({" " + w for t in texts for w in regex.findall(r"[a-z]{4,}", t)})
    return texts, words, Tokenizer.train(texts, 1300, max_digits=1)


def short_tokens(tokenizer, longest):
    kept = [t for t in tokenizer.tokens if len(t) <= longest]
    return Tokenizer({token: i for i, token in enumerate(kept)}, tokenizer.pattern)


def test_shorter_tokens_show_more_letters(capsys, material):
    texts, words, baseline = material
    ch01.check_letter_tokenizer(short_tokens(baseline, 2), baseline, words, texts)
    assert "tokens" in capsys.readouterr().out


def test_the_open_check_compares_at_equal_size_and_wants_an_effect(material):
    texts, words, baseline = material
    with pytest.raises(Wrong, match="same size"):
        larger = Tokenizer.train(texts, 1400, max_digits=1)
        ch01.check_letter_tokenizer(larger, baseline, words, texts)
    with pytest.raises(Wrong, match="hardly more"):
        ch01.check_letter_tokenizer(baseline, baseline, words, texts)
    lossy = Tokenizer(baseline.ranks, r"\p{L}+")
    with pytest.raises(Wrong, match="round trip"):
        ch01.check_letter_tokenizer(lossy, baseline, words, texts)
