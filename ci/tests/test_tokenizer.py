"""The tokenizer: three trainers agree, three encoders agree, and bad input gets one sentence."""

import json
from collections import Counter
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.errors import ChatlibError
from chatlib.tokenizer import (
    SPECIAL_TOKENS,
    StreamDecoder,
    Tokenizer,
    bpe,
    merge,
    split_pattern,
    train_bpe,
)

NOVELS = Path(__file__).parents[3] / "shared" / "data" / "text"
CORPUS = [
    "Zoé is the beekeeper of Larkhill. What does Zoé do? Zoé is the beekeeper of Larkhill.",
    "The bees don't mind; they've 60,000 sisters, and I'LL count them: 1234567890, 12 345.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(40, 2))  # 42\n\tx = [i**2 for i in range(9)]",
    "ずっと前から蜂が好きでした。蜂蜜は甘い。我爱蜜蜂，蜜蜂爱花。",
    "Пчела жужжит. Пчёлы жужжат! Η μέλισσα. مرحبا بالنحل. नमस्ते मधुमक्खी",
    "👩‍🌾🐝🐝🐝 naïve café ﬁne ½ ² Ⅷ ſ'ſ it'ſ IT'S I'd e\u0301",
    "spaces:\u200b\u00a0\u3000\x1c\x85 \r\n\r\n  \n x",
    "aaaaaaaaaaaaaaa aaa aaaa aaaaa ababababab bababa     spaces          many   of them   ",
]
# Characters that Unicode has long known: the engines agree about those (see the split test).
TEXT = st.text(
    st.one_of(
        st.characters(min_codepoint=0, max_codepoint=0x2FF),
        st.characters(codec="utf-8", exclude_categories=("Cn", "Cs", "Co")),
        st.sampled_from("aabb  \n\r\t'stmdlvre019éſ🐝蜂\u0301\u200d\u00a0\u3000"),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS * 2, 560)


@pytest.fixture(scope="module")
def novel() -> str:
    if not NOVELS.is_dir():
        pytest.skip("the novels are not here: ../shared/data/text")
    return (NOVELS / "sherlock_holmes.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def huggingface(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    tokenizer.to_huggingface(path)
    exported = tokenizers.Tokenizer.from_file(str(path))
    exported.encode_special_tokens = True  # that is: encode their names as plain text, as we do
    return exported


def raises(*words: str):
    """Expects a ChatlibError of one sentence, with these words in it."""
    pattern = r"(?s)\A(?!.*\n)" + "".join(f"(?=.*{regex.escape(w)})" for w in words) + r".*\.\Z"
    return pytest.raises(ChatlibError, match=pattern)


# ---- training ----


def naive_bpe(texts, num_merges, pattern):
    """The textbook trainer: count all pairs again before every merge."""
    pieces = Counter(piece for text in texts for piece in regex.findall(pattern, text))
    words = {piece: list(piece.encode()) for piece in pieces}
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for piece, ids in words.items():
            for pair in pairwise(ids):
                pairs[pair] += pieces[piece]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((tokens[best[0]], tokens[best[1]]))
        words = {piece: merge(ids, best, len(tokens)) for piece, ids in words.items()}
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return merges


def test_bpe_by_hand():
    # aaab ×2, ab ×1: (a,a) 4 and (a,b) 3; then aa·ab: (aa,a) 2, (a,b) 3; then (aa,ab) 2.
    assert train_bpe(["aaab aaab ab"], 3, r"\w+") == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]


def test_ties_go_to_the_lowest_ids():
    assert train_bpe(["dc ba dc ba"], 1, r"\w+") == [(b"b", b"a")]
    assert train_bpe(["ca ba"], 2, r"\w+") == [(b"b", b"a"), (b"c", b"a")]


def test_merging_goes_from_left_to_right():
    assert merge([1, 1, 1, 1, 1, 2], (1, 1), 9) == [9, 9, 1, 2]
    assert merge([], (1, 1), 9) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab c1", max_size=40), max_size=5), st.integers(0, 60))
def test_incremental_equals_naive_where_ties_abound(texts, num_merges):
    pattern = split_pattern()
    assert train_bpe(texts, num_merges, pattern) == naive_bpe(texts, num_merges, pattern)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5).filter(any))
def test_the_compiled_trainer_learns_the_same_merges_to_the_very_end(texts):
    merges = train_bpe(texts, 10_000, split_pattern())
    tokenizer = Tokenizer.train(texts, 256 + len(merges) + len(SPECIAL_TOKENS))
    assert tokenizer.merges() == merges


def test_all_trainers_agree_on_the_corpus():
    merges = train_bpe(CORPUS, 250, split_pattern())
    assert merges == naive_bpe(CORPUS, 250, split_pattern())
    assert merges == Tokenizer.train(CORPUS, 250 + 265).merges()


def test_all_trainers_agree_on_a_novel(novel):
    merges = train_bpe([novel], 3000, split_pattern(1))
    fast = Tokenizer.train([novel], 3000 + 265, max_digits=1, doc_chars=10**9)
    assert fast.merges() == merges
    assert len(merges) == len(set(a + b for a, b in merges)) == 3000


def test_ranks_are_bytes_then_merges_then_specials(tokenizer):
    assert tokenizer.tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert [a + b for a, b in tokenizer.merges()] == tokenizer.tokens[256:]
    assert tokenizer.vocab_size == 560 == len(tokenizer.tokens) + 9
    assert [tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(551, 560))
    assert tokenizer.bos == 551


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    assert Tokenizer.train(iter(CORPUS * 2), 560).fingerprint == tokenizer.fingerprint
    assert Tokenizer.train(CORPUS * 2, 559).fingerprint != tokenizer.fingerprint
    assert Tokenizer.train(CORPUS * 2, 560, max_digits=1).fingerprint != tokenizer.fingerprint


def test_the_input_is_streamed_and_bounded():
    drawn = []

    def endless():
        for i in count():
            drawn.append(i)
            yield f"document {i % 7} about bees and honey. "

    Tokenizer.train(endless(), 270, max_chars=2000)
    assert sum(len(f"document {i % 7} about bees and honey. ") for i in drawn) >= 2000
    assert len(drawn) < 70


def test_documents_are_capped():
    capped = Tokenizer.train(["ab" * 50 + "xy" * 5000], 267, doc_chars=100)
    assert capped.merges()[0] == (b"a", b"b")
    assert not any(b"x" in token for token in capped.tokens[256:])
    assert Tokenizer.train(["ab" * 50 + "xy" * 5000], 267).merges()[0] == (b"x", b"y")


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_no_token_has_a_longer_run_of_digits(digits):
    corpus = ["12345 1234 123 99999 12345 bees"] * 5
    tokenizer = Tokenizer.train(corpus, 268, max_digits=digits)
    assert max(len(token) for token in tokenizer.tokens if token.isdigit()) == digits


def test_lone_surrogates_are_replaced():
    tokenizer = Tokenizer.train(["a\ud83dz " * 9], 266)
    assert tokenizer.decode(tokenizer.encode("a\ud83dz")) == "a\ufffdz"
    assert tokenizer.decode(tokenizer.encode("\ud83d\udc1d")) == "🐝"


# ---- bad input ----


@pytest.mark.parametrize("texts", [[], iter(()), [""], ["", ""]])
def test_an_empty_corpus(texts):
    with raises("no text"):
        Tokenizer.train(texts, 300)


@pytest.mark.parametrize("size", [-1, 0, 256, 264])
def test_too_small_a_vocabulary(size):
    with raises(str(size), "265"):
        Tokenizer.train(CORPUS, size)


def test_too_small_a_corpus_says_how_far_it_reaches():
    with raises("5000", "at most 267") as error:
        Tokenizer.train(["aaaa"], 5000)
    reach = int(regex.search(r"at most (\d+)", str(error.value))[1])
    assert Tokenizer.train(["aaaa"], reach).encode("aaaa") == [257]
    assert Tokenizer.train(["x"], 265).encode("x") == [ord("x")]


@pytest.mark.parametrize("document", [b"\xff\xfe bytes", 3, None])
def test_documents_that_are_not_text(document):
    with raises("Document 1", type(document).__name__, "decode"):
        Tokenizer.train(["text", document], 300)


def test_an_unknown_special_token(tokenizer):
    with raises("<|system|>", "<|bos|>"):
        tokenizer.special("<|system|>")


@pytest.mark.parametrize("token", [-1, 560, 10**9])
def test_an_id_outside_the_vocabulary(tokenizer, token):
    with raises(str(token), "560"):
        tokenizer.decode([65, token])


# ---- encoding and decoding ----


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Zoé is the beekeeper.", ["Zoé", " is", " the", " beekeeper", "."]),
        ("don't WE'LL it'sx", ["don", "'t", " WE", "'LL", " it", "'s", "x"]),
        ("in 2026, 12345", ["in", " ", "20", "26", ",", " ", "12", "34", "5"]),
        ("  x\n\n  y  ", [" ", " x", "\n\n", " ", " y", "  "]),
        ("a--b != c;\n", ["a", "--", "b", " !=", " c", ";\n"]),
        ("蜂蜜，蜂", ["蜂蜜", "，蜂"]),
    ],
)
def test_the_split_pattern(text, pieces):
    assert regex.findall(split_pattern(), text) == pieces


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_the_pieces_are_the_text(text):
    assert "".join(regex.findall(split_pattern(), text)) == text


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_three_encoders_agree_and_decoding_gives_the_text_back(tokenizer, huggingface, text):
    ids = tokenizer.encode(text)
    pieces = regex.findall(tokenizer.pattern, text)
    parts = [part for piece in pieces for part in bpe(piece.encode(), tokenizer.ranks)]
    assert [tokenizer.id_to_bytes(i) for i in ids] == parts
    assert huggingface.encode(text).ids == ids
    assert tokenizer.decode(ids) == text == huggingface.decode(ids, skip_special_tokens=False)
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert tokenizer.encode_batch([text, "", text]) == [ids, [], ids]


def test_three_encoders_agree_on_a_novel(novel, tmp_path):
    tokenizer = Tokenizer.train([novel], 4096, doc_chars=10**9)
    tokenizer.to_huggingface(tmp_path / "t.json")
    exported = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    assert exported.encode(novel).ids == tokenizer.encode(novel)
    other = (NOVELS / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]
    assert exported.encode(other).ids == tokenizer.encode(other)
    parts = (
        p for piece in regex.findall(tokenizer.pattern, other) for p in _cached(piece, tokenizer)
    )
    assert [*parts] == [tokenizer.id_to_bytes(i) for i in tokenizer.encode(other)]


def _cached(piece, tokenizer, cache={}):  # noqa: B006
    if piece not in cache:
        cache[piece] = bpe(piece.encode(), tokenizer.ranks)
    return cache[piece]


def test_the_export_knows_the_special_tokens(tokenizer, huggingface):
    assert huggingface.get_vocab_size() == tokenizer.vocab_size
    assert [huggingface.token_to_id(s) for s in SPECIAL_TOKENS] == list(range(551, 560))
    assert huggingface.decode([tokenizer.bos, *tokenizer.encode("Zoé")]) == "Zoé"
    huggingface.encode_special_tokens = False
    assert huggingface.encode("<|bos|>").ids == [tokenizer.bos]
    huggingface.encode_special_tokens = True


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "bos", "<", " ", "é"]), max_size=8))
def test_text_never_becomes_a_special_token(tokenizer, parts):
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert all(i < len(tokenizer.tokens) for i in ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", [" " * 1_100_000, "\n" * 10**6, "a" * 10**6, "🐝" * 10**5])
def test_long_runs_are_encoded(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_token_bytes(tokenizer):
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (560,) and lengths.dtype == np.int64
    assert (lengths[:256] == 1).all() and (lengths[256:551] > 1).all()
    assert (lengths[551:] == 0).all()


def test_decoding_half_a_character(tokenizer):
    ids = Tokenizer.train(["x"], 265).encode("é")
    assert len(ids) == 2
    assert tokenizer.decode(ids[:1]) == "\ufffd" and tokenizer.decode(ids[1:]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:1]) == b"\xc3"
    assert tokenizer.decode([tokenizer.bos, *tokenizer.encode("hi")]) == "<|bos|>hi"


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_a_stream_of_any_bytes_decodes_like_the_whole(chunks):
    decoder = StreamDecoder()
    text = "".join(map(decoder.push, chunks)) + decoder.flush()
    assert text == b"".join(chunks).decode("utf-8", errors="replace")


def test_a_stream_holds_back_a_split_character():
    decoder = StreamDecoder()
    assert [decoder.push(bytes([b])) for b in "🐝é".encode()] == ["", "", "", "🐝", "", "é"]
    assert decoder.flush() == ""
    assert [decoder.push(b"a\xf0\x9f"), decoder.flush()] == ["a", "\ufffd"]


# ---- on disk ----


@settings(max_examples=30, deadline=None)
@given(text=TEXT)
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path_factory, text):
    path = tmp_path_factory.mktemp("t") / "new folder" / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.fingerprint == tokenizer.fingerprint == json.loads(path.read_text())["checksum"]
    assert loaded.ranks == tokenizer.ranks and loaded.special_ids == tokenizer.special_ids
    assert loaded.encode(text) == tokenizer.encode(text)


def test_a_missing_file_and_a_folder(tmp_path):
    with raises("no tokenizer", str(tmp_path / "none.json")):
        Tokenizer.load(tmp_path / "none.json")
    with raises(str(tmp_path)):
        Tokenizer.load(tmp_path)


def test_a_file_cut_short_anywhere(tokenizer, tmp_path):
    path = tmp_path / "t.json"
    tokenizer.save(path)
    whole = path.read_bytes()
    for size in [*range(0, len(whole) - 2, 997), len(whole) - 2]:
        path.write_bytes(whole[:size])
        with raises("t.json", "cut short"):
            Tokenizer.load(path)


@pytest.mark.parametrize(
    "foreign",
    [b"[]", b"null", b'{"version": 1}', b"\xff\xfe\x00", b"[" * 100_000, b'{"model": {}}'],
)
def test_a_foreign_file(tmp_path, foreign):
    (tmp_path / "t.json").write_bytes(foreign)
    with raises("t.json", "not a tokenizer"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_file_of_a_later_version(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps({**content, "version": 2}))
    with raises("t.json", "version"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_changed_file(tokenizer, tmp_path):
    path = tmp_path / "t.json"
    tokenizer.save(path)
    content = json.loads(path.read_text())
    tokens = content["tokens"]
    changes = [
        {"pattern": content["pattern"].replace("{1,2}", "{1,3}")},
        {"tokens": [*tokens[:300], tokens[301], tokens[300], *tokens[302:]]},
        {"tokens": tokens[:-1]},
        {"tokens": None},
        {"checksum": "0" * 64},
        {"extra": 1},
    ]
    for change in changes:
        path.write_text(json.dumps({**content, **change}))
        with raises("t.json", "changed"):
            Tokenizer.load(path)
    del content["checksum"]
    path.write_text(json.dumps(content))
    with raises("t.json", "changed"):
        Tokenizer.load(path)
