"""Checks of the exercises on tokenization. Each takes your answer and says what is wrong, or Right.

They look for the likely slips first, then compare with the library on more text.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import regex

from chatlib.checks import Wrong
from chatlib.conversation import render
from chatlib.tokenizer import Tokenizer, bpe, split_pattern, train_bpe

CORPUS = [
    "Zoé is the beekeeper of Larkhill. The bees keep her busy, and she keeps the bees well.",
    "What does Zoé do? Zoé is the beekeeper of Larkhill. 12 + 34 = 46, and 1200 bees flew.",
    "Once a bee lost its way between the trees; three others went to seek it. It was asleep.",
] * 3
EDGES = ["", "a", "Zoé 🐝", "x" * 50, "\n\n  b", "e\u0301", "<|bos|>"]


def check_code_points(answer: Callable[[bytes], list[int]]) -> None:
    """answer(data) -> the code points of valid UTF-8."""
    for character, size in (("Z", 1), ("é", 2), ("蜂", 3), ("🐝", 4)):
        got, right = answer(character.encode()), ord(character)
        if not isinstance(got, list):
            raise Wrong(f"Return a list of code points; yours is {type(got).__name__}.")
        if len(got) != 1:
            raise Wrong(
                f"{character} is one code point in {size} bytes, and you find {len(got)}: "
                f"the first byte says how many bytes belong together."
            )
        mark = (0xFF00 >> size & 0xFF) << 6 * (size - 1)
        if size > 1 and got == [right | mark]:
            raise Wrong(f"For {character} you keep the leading ones of the first byte: clear them.")
        if got != [right]:
            raise Wrong(
                f"{character} is U+{right:04X}, you say U+{got[0]:04X}: each byte after the first "
                "brings six bits, below those before it."
            )
    for text in ("Zoé is the beekeeper of Larkhill.", "蜂🐝é \x00\U0010ffff", ""):
        if answer(text.encode()) != [ord(c) for c in text]:
            raise Wrong(f"Single characters are right, but not the text {text!r}.")
    print("Right: you read UTF-8 from one byte to four.")


def check_best_pair(answer: Callable[[Mapping[tuple, int]], tuple]) -> None:
    """answer({word as a tuple of ids: count}) -> the pair to merge."""

    def expect(words: dict[tuple, int], right: tuple, message: str) -> None:
        got = answer(words)
        if not (isinstance(got, tuple) and len(got) == 2 and all(isinstance(i, int) for i in got)):
            raise Wrong(f"Return the pair alone, as a tuple of two ids; you return {got!r}.")
        if got != right:
            raise Wrong(f"For {words} the pair is {right}, and you say {got}: {message}")

    expect({(1, 2): 1, (4, 5): 9}, (4, 5), "a pair counts as often as its word occurs.")
    expect({(1,): 9, (4, 5): 3}, (4, 5), "no pair reaches over the end of a word.")
    expect({(7, 7, 7): 2, (5, 6): 3}, (7, 7), "count every place where the pair begins.")
    expect(
        {(9, 1): 5, (2, 8): 5, (2, 3): 5},
        (2, 3),
        "a tie goes to the lowest left id, then to the lowest right id.",
    )
    for seed in range(5):
        numbers = np.random.default_rng(seed).integers(0, 9, (60, 6)).tolist()
        words = {tuple(row[:5]): 1 + row[5] for row in numbers}
        pairs = Counter()
        for ids, count in words.items():
            for pair in pairwise(ids):
                pairs[pair] += count
        if answer(words) != min(pairs, key=lambda pair: (-pairs[pair], pair)):
            raise Wrong("The small cases are right, but in sixty random words another pair wins.")
    print("Right: most frequent first, and ties go to the oldest.")


def _ranks(*tokens: bytes) -> dict[bytes, int]:
    return {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *tokens])}


def check_encode_piece(answer: Callable[[bytes, dict[bytes, int]], list[bytes]]) -> None:
    """answer(piece, ranks) -> its tokens, as bytes."""
    ranks = _ranks(b"bc", b"ab")
    if list(answer(b"abc", ranks)) == [b"ab", b"c"]:
        raise Wrong(
            "abc must become a·bc, and you say ab·c: do not go from left to right. "
            "The merge of b and c was learned first, so it comes first."
        )
    ranks = _ranks(b"bc", b"ab", b"cd")
    if list(answer(b"abcd", ranks)) == [b"ab", b"cd"]:
        raise Wrong(
            "abcd must become a·bc·d, and you say ab·cd: that is fewer tokens, but BPE does not "
            "look for the fewest. It replays its merges, oldest first."
        )
    ranks = _ranks(b"aa", b"aaaa")
    got = list(answer(b"aaaa", ranks))
    if got != [b"aaaa"]:
        raise Wrong(f"aaaa is a token and you stop at {got}: merge until no pair is a token.")
    ranks = _ranks(b"ee", b"be")
    if list(answer(b"beebee", ranks)) != [b"b", b"ee", b"b", b"ee"]:
        raise Wrong("In beebee with the merges ee, be, every ee goes before any be.")
    ranks = _ranks(*(a + b for a, b in train_bpe(CORPUS, 120, split_pattern())))
    for piece in {p for text in CORPUS + EDGES for p in regex.findall(split_pattern(), text)}:
        if list(answer(piece.encode(), ranks)) != bpe(piece.encode(), ranks):
            raise Wrong(
                f"With a trained vocabulary {piece!r} should be {bpe(piece.encode(), ranks)}."
            )
    print("Right: your encoder gives what the library's gives.")


def check_group_digits(answer: str) -> None:
    """answer: a split pattern that groups digits by threes from the right."""
    try:
        pattern = regex.compile(answer)
    except regex.error as error:
        raise Wrong(f"This is no regular expression: {error}.") from error
    if pattern.groups:
        raise Wrong("A plain ( ) makes findall return the group: write (?: ) to group without it.")

    def cut(text: str) -> list[str]:
        return pattern.findall(text)

    if cut("1234567") == ["123", "456", "7"]:
        raise Wrong("You cut 1234567 from the left: 123·456·7. Which digits may stand after it?")
    for number, right in (("1234567", ["1", "234", "567"]), ("12", ["12"]), ("123", ["123"])):
        if "".join(cut(number)) != number:
            raise Wrong(f"{number} loses digits: you keep {cut(number)}. No text may be lost.")
        if cut(number) != right:
            raise Wrong(f"{number} must be cut into {right}, and you cut {cut(number)}.")
    if cut("1234 jars") != ["1", "234", " jars"]:
        raise Wrong(f"Before a word it goes wrong: 1234 jars becomes {cut('1234 jars')}.")
    for text in CORPUS + EDGES:
        if "".join(cut(text)) != text:
            raise Wrong(f"Text is lost: {text!r} becomes {cut(text)}.")
        plain = regex.sub(r"\p{N}+", "", text)
        if cut(plain) != regex.findall(split_pattern(), plain):
            raise Wrong(f"Text without digits should be cut as before: {plain!r}.")
    print("Right: thousands, millions and the rest line up from the right.")


def check_safe_prefix(answer: Callable[[bytes], int]) -> None:
    """answer(data) -> how many bytes, from the front, can be shown now."""
    if answer(b"Zo") != 2:
        raise Wrong("b'Zo' is two whole characters, so 2: hold nothing back that is complete.")
    if answer("Zoé".encode()) != 4:
        raise Wrong("The é of Zoé is complete, so all 4 bytes can be shown; you hold it back.")
    if answer(b"Zo\xc3") != 2:
        raise Wrong(
            "b'Zo\\xc3' ends in half a character: 2 bytes are safe, and the third has to wait."
        )
    bee = "🐝".encode()
    for n in (1, 2, 3):
        if answer(b"a" + bee[:n]) != 1:
            raise Wrong(
                f"{n} of the bee's 4 bytes are no character yet: only the a before is safe."
            )
    if answer(bee) != 4:
        raise Wrong("All 4 bytes of the bee are a character: they can be shown.")
    for broken in (b"\xff", b"a\x80\x80\x80\x80b", b"\xe2(", b"\xc3\xc3\xa9"):
        if answer(broken) != len(broken):
            raise Wrong(
                f"{broken!r} is broken, and no further byte will mend it. Held back, it would "
                f"hold back everything after it: all {len(broken)} bytes go out, to be shown as �."
            )
    if answer(b"") != 0:
        raise Wrong("Of no bytes, 0 can be shown.")
    print("Right: whole characters go out, halves wait, and broken bytes block nothing.")


def check_bits_per_byte(answer: Callable) -> None:
    """answer(nats (T,), ids (T,), token_bytes (V,)) -> float."""
    nats, ids = np.array([2.0, 1.0, 4.0, 0.5]), np.array([1, 2, 0, 3])
    token_bytes = np.array([0, 1, 4, 3])  # token 0 is special
    lengths = token_bytes[ids]
    right = 3.5 / math.log(2) / 8
    got = float(answer(nats, ids, token_bytes))
    slips = {
        3.5 / 8: "That is nats a byte: a bit is ln 2 nats.",
        7.5 / math.log(2) / 8: "You count the nats of the special token, which has no bytes.",
        7.5 / math.log(2) / 4: "That is bits a token: divide by bytes, not by tokens.",
        3.5 / math.log(2) / 3: "That is bits a token: divide by bytes, not by tokens.",
        7.5 / 4: "That is nats a token.",
        float(np.mean((nats / np.maximum(lengths, 1))[lengths > 0]) / math.log(2)): "You average "
        "each token's own ratio: sum the bits and the bytes first, then divide.",
        3.5 * math.log(2) / 8: "You multiply by ln 2: a nat is more than a bit, so divide.",
    }
    if not math.isclose(got, right, rel_tol=1e-6):
        for slip, message in slips.items():
            if math.isclose(got, slip, rel_tol=1e-6):
                raise Wrong(message)
        raise Wrong(f"For nats {nats}, lengths {lengths} it is {right:.4f}, and you say {got:.4f}.")
    rng = np.random.default_rng(0)
    nats, ids = rng.exponential(2, 500), rng.integers(0, 4, 500)
    kept = token_bytes[ids] > 0
    right = nats[kept].sum() / math.log(2) / token_bytes[ids].sum()
    if not math.isclose(float(answer(nats, ids, token_bytes)), right, rel_tol=1e-6):
        raise Wrong("Right for four tokens, not for five hundred: does a token count only once?")
    print("Right: a measure that no tokenizer can bend.")


def _conversations() -> list[dict]:
    user = {"role": "user", "content": "What does Zoé do?"}
    reply = {"role": "assistant", "content": "Zoé is the beekeeper of Larkhill."}
    sum_ = {"role": "user", "content": "How much is 12 + 34?"}
    call = [
        {"type": "python", "text": "12 + 34"},
        {"type": "python_output", "text": "46"},
        {"type": "text", "text": "12 + 34 = 46."},
    ]
    called = {"role": "assistant", "content": call}
    return [{"messages": m} for m in ([user, reply], [user, reply, sum_, called], [sum_, called])]


WHY = {
    "<|bos|>": "<|bos|> begins the sequence and is given: 0.",
    "<|user_start|>": "<|user_start|> is given: 0.",
    "<|user_end|>": "<|user_end|> is given: 0.",
    "<|assistant_start|>": "<|assistant_start|> is written by the program that asks: 0.",
    "<|assistant_end|>": "<|assistant_end|> must be learned, or the model never stops: 1.",
    "<|python_start|>": "The model itself must open the call of a tool: 1 on <|python_start|>.",
    "<|python_end|>": "The model itself must close the call of a tool: 1 on <|python_end|>.",
    "<|output_start|>": "The tool's output is written by the tool, its marks too: 0.",
    "<|output_end|>": "The tool's output is written by the tool, its marks too: 0.",
}


def check_loss_mask(answer: Callable[[Sequence[int], Tokenizer], list[int]]) -> None:
    """answer(ids of a rendered conversation, tokenizer) -> its loss mask."""
    tokenizer = Tokenizer.train(CORPUS, 320)
    names = {i: name for name, i in tokenizer.special_ids.items()}
    for conversation in _conversations():
        ids, right = render(tokenizer, conversation)
        got = list(answer(ids, tokenizer))
        if len(got) != len(ids):
            raise Wrong(f"{len(ids)} ids need as many numbers; you return {len(got)}.")
        inside = ""
        for position, (token, one, other) in enumerate(zip(ids, got, right, strict=True)):
            if int(one) != other:
                text = tokenizer.decode([token])
                why = WHY.get(names.get(token, ""), f"this is {_part(inside)}: {other}.")
                raise Wrong(f"At position {position}, {text!r}: {why}")
            inside = names.get(token, inside)
    print("Right: the model learns what it must write, and nothing else.")


def _part(mark: str) -> str:
    """What the text after this mark is."""
    return {
        "<|user_start|>": "the user's text, which is given",
        "<|python_start|>": "the tool call, which the model must write",
        "<|output_start|>": "what the tool returned, which the model must not learn to imagine",
    }.get(mark, "the assistant's text, which the model must write")


def letters_right(tokenizer: Tokenizer, words: Sequence[str], letter: str = "e") -> float:
    """Fit one weight a token on half of the words; the share of right counts on the others."""
    x = np.zeros((len(words), tokenizer.vocab_size))
    for row, word in zip(x, words, strict=True):
        np.add.at(row, tokenizer.encode(word), 1)
    y = np.array([word.count(letter) for word in words])
    fit, test = slice(0, None, 2), slice(1, None, 2)
    gram = x[fit] @ x[fit].T + 1e-3 * np.eye(len(x[fit]))
    weights = x[fit].T @ np.linalg.solve(gram, y[fit])
    return float((np.round(x[test] @ weights) == y[test]).mean())


def check_letter_tokenizer(
    answer: Tokenizer, baseline: Tokenizer, words: Sequence[str], texts: Sequence[str]
) -> None:
    """A tokenizer of the baseline's size that shows more letters; prints what it costs."""
    if answer.vocab_size > baseline.vocab_size:
        raise Wrong(
            f"Yours has {answer.vocab_size} entries and the baseline {baseline.vocab_size}: "
            "compare at the same size."
        )
    for text in EDGES:
        if answer.decode(answer.encode(text)) != text:
            raise Wrong(f"{text!r} does not survive the round trip: no text may be lost.")
    before, after = letters_right(baseline, words), letters_right(answer, words)
    if after <= before + 0.05:
        raise Wrong(
            f"Letters are right for {after:.0%} of new words, hardly more than {before:.0%}."
        )
    was, now = (sum(map(len, t.encode_batch(texts))) for t in (baseline, answer))
    print(
        f"Right: {before:.0%} → {after:.0%} of new words, for {now / was - 1:+.0%} tokens. "
        "Is it worth that?"
    )
