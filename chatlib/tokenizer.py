"""Text to token ids and back: byte-level BPE (arXiv:1508.07909), trained, saved, exported.

`train_bpe` is the trainer to read. `Tokenizer.train` learns the same merges with `rustbpe`, which
is compiled, and encodes with `tiktoken`; the tests assert that both trainers agree merge by merge.
"""

import base64
import codecs
import hashlib
import heapq
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import regex
import rustbpe
import tiktoken
from tqdm import tqdm

from chatlib.errors import ChatlibError
from chatlib.runs import atomic_write

SPECIAL_TOKENS = (
    "<|bos|>",  # a document or a conversation begins
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",  # the assistant calls a tool …
    "<|python_end|>",
    "<|output_start|>",  # … and reads what it returned
    "<|output_end|>",
)
FORMAT = {"format": "chatlib tokenizer", "version": 1, "special_tokens": list(SPECIAL_TOKENS)}

Merge = tuple[bytes, bytes]


# ---- cutting text into pieces: a merge never crosses from one piece to the next ----


def split_pattern(max_digits: int = 2) -> str:
    """The regular expression that cuts text into pieces: the cl100k family, digits in short runs.

    `max_digits` is the longest run of digits that may become one token. Every character falls in
    exactly one piece, so the pieces joined are the text.
    """
    alternatives = (
        r"'(?i:[sdmt]|ll|ve|re)",  # contractions: 's 'd 'm 't 'll 've 're
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # a word, with the space or mark in front of it
        rf"\p{{N}}{{1,{max_digits}}}",  # a few digits
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation, with the line ends behind it
        r"\s*[\r\n]",  # blank lines
        # Space up to the last one, which belongs to the next word. The bound is for the regex
        # engine, which gives up on a run of a million spaces.
        r"\s{1,4096}(?!\S)",
        r"\s+",
    )
    return "|".join(alternatives)


# ---- the trainer to read ----


def train_bpe(texts: Iterable[str], num_merges: int, pattern: str) -> list[Merge]:
    """Learn up to `num_merges` merges, in order; fewer when every piece has become one token.

    Each step merges the most frequent pair of adjacent tokens. Ties go to the pair whose left
    token is oldest, then whose right token is oldest (the 256 bytes are born in byte order).
    """
    counts = Counter(piece for text in texts for piece in regex.findall(pattern, text))
    words = [list(piece.encode()) for piece in counts]  # each distinct piece once, as ids
    weights = list(counts.values())

    pair_counts: Counter[tuple[int, int]] = Counter()
    where = defaultdict(set)  # pair -> indices of the words it occurs in
    for w, word in enumerate(words):
        for pair in itertools.pairwise(word):
            pair_counts[pair] += weights[w]
            where[pair].add(w)

    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[Merge] = []
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while heap and len(merges) < num_merges:
        negative_count, pair = heapq.heappop(heap)
        count = pair_counts[pair]
        if count != -negative_count:  # an earlier merge used some of them up: queue again
            if count:
                heapq.heappush(heap, (-count, pair))
            continue
        left, right = pair
        merges.append((tokens[left], tokens[right]))
        new = len(tokens)
        tokens.append(tokens[left] + tokens[right])
        born = set()
        for w in where.pop(pair):  # only words that hold the pair are touched
            for old_pair in itertools.pairwise(words[w]):
                pair_counts[old_pair] -= weights[w]
            words[w] = merge(words[w], pair, new)
            for new_pair in itertools.pairwise(words[w]):
                pair_counts[new_pair] += weights[w]
                if new in new_pair:
                    where[new_pair].add(w)
                    born.add(new_pair)
        for new_pair in born:
            heapq.heappush(heap, (-pair_counts[new_pair], new_pair))
    return merges


def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with each occurrence of `pair`, from left to right, replaced by `new`."""
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def bpe(piece: bytes, ranks: Mapping[bytes, int], below: int | None = None) -> list[bytes]:
    """Encode one piece by merging its lowest-ranked pair until no pair is a token.

    With `below`, only tokens ranked lower are used: that is how far training had got when token
    `below` was born, so `bpe(token, ranks, ranks[token])` is the pair that made it.
    """
    parts = [piece[i : i + 1] for i in range(len(piece))]
    limit = len(ranks) if below is None else below
    while len(parts) > 1:
        pairs = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        best = min(pairs)
        if best >= limit:
            break
        i = pairs.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


# ---- the tokenizer to use ----


class Tokenizer:
    """A trained vocabulary: bytes and merged tokens first, the special tokens last.

    `ranks` maps the bytes of each token to its id, which is also the order it was learned in.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str):
        assert sorted(ranks.values()) == list(range(len(ranks))), "ranks must be 0 … n-1"
        self.ranks = ranks
        self.pattern = pattern
        self.special_ids = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.bos = self.special_ids["<|bos|>"]
        self._tokens = sorted(ranks, key=ranks.__getitem__) + [s.encode() for s in SPECIAL_TOKENS]
        self._encoding = tiktoken.Encoding(
            "chatlib", pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.special_ids
        )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        max_digits: int = 2,
        max_chars: int | None = None,
        doc_chars: int = 10_000,
        progress: bool = False,
    ) -> "Tokenizer":
        """Learn a vocabulary of exactly `vocab_size` tokens, bytes and specials included.

        `texts` is streamed. The first `doc_chars` characters of each are read, `max_chars` in all.
        Raises ChatlibError for no text, too small a vocabulary, or too little text for it.
        """
        smallest = 256 + len(SPECIAL_TOKENS)
        if vocab_size < smallest:
            raise ChatlibError(
                f"A vocabulary of {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} "
                f"special tokens need at least {smallest}."
            )
        documents = _documents(texts, max_chars, doc_chars, progress)
        first = next(documents, None)
        if first is None:
            raise ChatlibError(
                "There is no text to train on: give at least one non-empty document."
            )
        pattern = split_pattern(max_digits)
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(
            itertools.chain([first], documents), vocab_size - len(SPECIAL_TOKENS), pattern=pattern
        )
        ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
        tokenizer = cls(ranks, pattern)
        if tokenizer.vocab_size < vocab_size:
            raise ChatlibError(
                f"This text is too short for a vocabulary of {vocab_size}: it yields at most "
                f"{tokenizer.vocab_size} tokens, so ask for that many or give more text."
            )
        return tokenizer

    def special(self, name: str) -> int:
        """The id of a special token, such as "<|bos|>"."""
        if name not in self.special_ids:
            raise ChatlibError(
                f"There is no special token {name!r}: the names are {', '.join(SPECIAL_TOKENS)}."
            )
        return self.special_ids[name]

    def is_special(self, token_id: int) -> bool:
        """Whether this id is a special token."""
        return token_id >= len(self.ranks)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Text that spells a special token is encoded as plain text."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 4) -> list[list[int]]:
        """`encode` for each text, on several threads (the work is done outside Python)."""
        return self._encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes the ids stand for; special tokens give their names."""
        return b"".join(map(self.id_to_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text the ids stand for; bytes that are not UTF-8 become U+FFFD, the "�" sign."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def id_to_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; the name, for a special token."""
        if not 0 <= token_id < self.vocab_size:
            raise ChatlibError(
                f"Token id {token_id} is outside this vocabulary of {self.vocab_size}: "
                "use the tokenizer the ids were made with."
            )
        return self._tokens[token_id]

    def token_bytes(self) -> np.ndarray:
        """Length in bytes of each token, int64 (vocab_size,); 0 for special tokens."""
        lengths = np.array([len(token) for token in self._tokens], dtype=np.int64)
        lengths[len(self.ranks) :] = 0
        return lengths

    def merges(self) -> list[Merge]:
        """The pair that made each token after the 256 bytes, recovered from the ranks alone."""
        pairs = [bpe(t, self.ranks, below=r) for r, t in enumerate(self._tokens[: len(self.ranks)])]
        return [(left, right) for left, right in pairs[256:]]

    # ---- on disk ----

    def _content(self) -> dict:
        tokens = [base64.b64encode(token).decode() for token in self._tokens[: len(self.ranks)]]
        return {**FORMAT, "pattern": self.pattern, "tokens": tokens}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that decides how text becomes ids."""
        return _checksum(self._content())

    def save(self, path: str | Path) -> None:
        """Write JSON: format, version, pattern, base64 tokens in rank order, checksum."""
        content = {**self._content(), "checksum": self.fingerprint}
        atomic_write(Path(path), json.dumps(content, indent=0) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `save` wrote. Raises ChatlibError for a missing, damaged or foreign file."""
        try:
            content = json.loads(Path(path).read_bytes())
        except FileNotFoundError:
            raise ChatlibError(
                f"There is no tokenizer at {path}: train one first, or correct the path."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ChatlibError(
                f"{path} cannot be read as a tokenizer ({error}): it is cut short or not one of "
                "ours, so restore it or train again."
            ) from None
        if not isinstance(content, dict) or not FORMAT.items() <= content.items():
            raise ChatlibError(
                f"{path} is not a version {FORMAT['version']} chatlib tokenizer: give the file "
                "that Tokenizer.save wrote, or train again."
            )
        if content.pop("checksum", None) != _checksum(content):
            raise ChatlibError(
                f"{path} has been changed since it was saved (its checksum does not match): "
                "restore it or train again."
            )
        tokens = map(base64.b64decode, content["tokens"])
        return cls({token: rank for rank, token in enumerate(tokens)}, content["pattern"])

    def to_huggingface(self, path: str | Path) -> None:
        """Write a `tokenizer.json` that the `tokenizers` library loads, with the same ids.

        The one difference: that library turns text that spells a special token into that token.
        """
        letter = _byte_letters()
        spell = lambda token: "".join(letter[byte] for byte in token)  # noqa: E731
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated"}
        special = {"special": True, "normalized": False}
        strip = {"single_word": False, "lstrip": False, "rstrip": False}
        content = {
            "version": "1.0",
            "added_tokens": [
                {"id": i, "content": name, **special, **strip}
                for name, i in self.special_ids.items()
            ],
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{**split, "invert": False}, {**byte_level, "use_regex": False}],
            },
            "decoder": {**byte_level, "use_regex": False},
            "model": {
                "type": "BPE",
                "vocab": {spell(token): rank for token, rank in self.ranks.items()},
                "merges": [[spell(left), spell(right)] for left, right in self.merges()],
            },
        }
        atomic_write(Path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


class StreamDecoder:
    """Decodes a stream of bytes to text, holding back a character until all of it has come."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """The text that is complete after `data`, possibly none."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left when the stream ends: nothing, or "�" for half a character."""
        return self._decoder.decode(b"", final=True)


# ---- helpers ----


def _documents(
    texts: Iterable[str], max_chars: int | None, doc_chars: int, progress: bool
) -> Iterator[str]:
    """The texts, cropped, until `max_chars` characters have gone by; empty ones are left out."""
    left = float("inf") if max_chars is None else max_chars
    with tqdm(total=max_chars, unit="char", unit_scale=True, disable=not progress) as bar:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ChatlibError(
                    f"Document {i} is {type(text).__name__}, not str: decode bytes first, with "
                    'errors="replace" if they may not be UTF-8.'
                )
            text = text[: int(min(doc_chars, left))]
            if text:
                yield _without_surrogates(text)
            bar.update(len(text))
            left -= len(text)
            if left <= 0:
                return


def _without_surrogates(text: str) -> str:
    """Half of a surrogate pair has no UTF-8; like tiktoken, put U+FFFD in its place."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _byte_letters() -> list[str]:
    """One printable letter for each byte, as Hugging Face spells tokens (GPT-2's convention)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
