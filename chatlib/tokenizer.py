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
import sys
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


def split_pattern(max_digits: int = 2) -> str:
    """The regular expression that cuts text into pieces, which no merge may cross: cl100k's family.

    `max_digits` is the longest run of digits in a piece. The pieces joined are the text.
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


def train_bpe(texts: Iterable[str], num_merges: int, pattern: str) -> list[tuple[bytes, bytes]]:
    """Learn up to `num_merges` merges, in order; fewer when every piece has become one token.

    Each step merges the most frequent pair of adjacent tokens. A tie goes to the pair with the
    lowest ids, left first: to the oldest tokens.
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
    merges: list[tuple[bytes, bytes]] = []
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while heap and len(merges) < num_merges:
        negative_count, pair = heapq.heappop(heap)
        if pair_counts[pair] != -negative_count:  # an earlier merge used some up: queue again
            if pair_counts[pair]:
                heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        new, born = len(tokens), set()
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(b"".join(merges[-1]))
        for w in where.pop(pair):  # only the words that hold the pair are touched
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
    out: list[int] = []
    i = 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        out.append(new if found else ids[i])
        i += 2 if found else 1
    return out


def bpe(piece: bytes, ranks: Mapping[bytes, int], below: int | None = None) -> list[bytes]:
    """Encode one piece by merging its lowest-ranked pair until no pair is a token.

    With `below`, only tokens of lower rank exist, so `bpe(token, ranks, ranks[token])` stops one
    merge before `token`, at the pair that made it.
    """
    parts = [bytes([byte]) for byte in piece]
    limit = len(ranks) if below is None else below
    while True:
        pairs = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        best = min(pairs, default=limit)
        if best >= limit:
            return parts
        i = pairs.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


class Tokenizer:
    """A trained vocabulary: 256 bytes, merged tokens in the order learned, then special tokens.

    `ranks` maps the bytes of each token, but for the special ones, to its id.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str):
        assert sorted(ranks.values()) == list(range(len(ranks))), "ranks must be 0 … n-1"
        self.ranks = ranks
        self.pattern = pattern
        self.special_ids = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.bos = self.special_ids["<|bos|>"]
        self.tokens = sorted(ranks, key=ranks.__getitem__)  # in rank order, specials left out
        self._all_tokens = self.tokens + [name.encode() for name in SPECIAL_TOKENS]
        self._encoding = tiktoken.Encoding(
            "chatlib", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
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
        least = 256 + len(SPECIAL_TOKENS)
        if vocab_size < least:
            raise ChatlibError(f"A vocabulary of {vocab_size} is too small: the least is {least}.")
        pattern = split_pattern(max_digits)
        documents = _documents(texts, max_chars, doc_chars, progress)
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(documents, vocab_size - len(SPECIAL_TOKENS), pattern=pattern)
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
        """The text the ids stand for; bytes that are not UTF-8 become "�"."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def id_to_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; the name, for a special token."""
        if not 0 <= token_id < self.vocab_size:
            raise ChatlibError(
                f"Token id {token_id} is outside this vocabulary of {self.vocab_size}: "
                "decode with the tokenizer that encoded."
            )
        return self._all_tokens[token_id]

    def token_bytes(self) -> np.ndarray:
        """Length in bytes of each token, int64 (vocab_size,); 0 for special tokens."""
        return np.array([*map(len, self.tokens)] + [0] * len(SPECIAL_TOKENS), dtype=np.int64)

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pair that made each token after the 256 bytes, recovered from the ranks alone."""
        return [tuple(bpe(t, self.ranks, self.ranks[t])) for t in self.tokens[256:]]

    def _content(self) -> dict:
        """What is saved, and what the fingerprint covers."""
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        return {**FORMAT, "pattern": self.pattern, "tokens": tokens}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that decides how text becomes ids."""
        return _checksum(self._content())

    def save(self, path: str | Path) -> None:
        """Write JSON: format, version, pattern, base64 tokens in rank order, checksum."""
        content = {**self._content(), "checksum": self.fingerprint}
        atomic_write(path, json.dumps(content, indent=0) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `save` wrote; a missing, damaged or foreign file is a ChatlibError."""
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ChatlibError(
                f"There is no tokenizer at {path} ({error.strerror}): train one or mend the path."
            ) from error
        except (ValueError, RecursionError):
            content = None
        mend = "restore it, correct the path or train again."
        if not isinstance(content, dict) or not FORMAT.items() <= content.items():
            raise ChatlibError(f"{path} is cut short or not a tokenizer of this version: {mend}")
        if content.pop("checksum", None) != _checksum(content):
            raise ChatlibError(f"{path} has been changed since it was saved: {mend}")
        ranks = {base64.b64decode(token): rank for rank, token in enumerate(content["tokens"])}
        return cls(ranks, content["pattern"])

    def to_huggingface(self, path: str | Path) -> None:
        """Write a `tokenizer.json` that the `tokenizers` library loads, with the same ids.

        That library reads the names of special tokens in text as these tokens, unless its
        `encode_special_tokens` is set.
        """
        letters = dict(enumerate(_byte_letters()))
        spell = {token: token.decode("latin-1").translate(letters) for token in self.ranks}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        flags |= {"special": True}
        split = {"type": "Split", "pattern": {"Regex": self.pattern}}
        split |= {"behavior": "Isolated", "invert": False}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        byte_level["trim_offsets"] = True
        content = {
            "added_tokens": [{"content": s, "id": i} | flags for s, i in self.special_ids.items()],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {spell[token]: rank for token, rank in self.ranks.items()},
                "merges": [[spell[left], spell[right]] for left, right in self.merges()],
            },
        }
        atomic_write(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


class StreamDecoder:
    """Turns a stream of bytes into text, holding back a character until all of it has come."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """The text that is complete after `data`, possibly none."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left when the stream ends: nothing, or "�" for half a character."""
        return self._decoder.decode(b"", final=True)


def _documents(texts, max_chars, doc_chars, progress) -> Iterator[str]:
    """The texts, cropped, until `max_chars` characters have been read."""
    limit, read = sys.maxsize if max_chars is None else max_chars, 0
    with tqdm(total=max_chars, unit="char", unit_scale=True, disable=not progress) as bar:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ChatlibError(
                    f"Document {i} is {type(text).__name__}, not str: decode bytes first, with "
                    'errors="replace" if they may not be UTF-8.'
                )
            text = text[: min(doc_chars, limit - read)]
            # Half of a surrogate pair has no UTF-8; tiktoken, too, reads U+FFFD in its place.
            yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            read += len(text)
            bar.update(len(text))
            if read >= limit:
                break
    if not read:
        raise ChatlibError("There is no text to train on: give a document that is not empty.")


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _byte_letters() -> list[str]:
    """One printable letter for each byte, as Hugging Face spells tokens (GPT-2's convention)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
