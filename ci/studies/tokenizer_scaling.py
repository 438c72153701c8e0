"""How the cost of training a tokenizer grows with its text: `python -m ci.studies.tokenizer_scaling
FOLDER` reads the .txt files of FOLDER and writes book/data/tokenizer_scaling.json.

Every measurement is a process of its own, on one thread, so that its processor time and its peak
memory are its own.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from itertools import islice, zip_longest
from pathlib import Path

import psutil
import regex
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from chatlib.runs import atomic_write, system_info
from chatlib.tokenizer import Tokenizer, split_pattern
from ci._venv import ROOT

RESULT = ROOT / "book" / "data" / "tokenizer_scaling.json"
SIZES = (500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000)  # characters
MERGES = 32_503
VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
DOCUMENT = 10_000  # characters
SHORT = 100  # the trainer holds 8,192 documents at a time: with short ones its pieces show


def read(folder: str, size: int, document: int = DOCUMENT) -> Iterator[str]:
    """The first `size` characters of the files, passages of all of them taking turns, streamed."""
    with ExitStack() as stack:
        paths = sorted(Path(folder).glob("*.txt"))
        files = [stack.enter_context(path.open(encoding="utf8")) for path in paths]
        rounds = zip_longest(*(iter(partial(file.read, document), "") for file in files))
        passages = (passage for passages in rounds for passage in passages if passage)
        yield from islice(passages, size // document)


def measure(folder: str, size: int, trainer: str, merges: int, document: int) -> dict:
    """Train in this process: processor seconds, and the most memory beyond what was held before."""
    texts = read(folder, size, document)
    before = resource.getrusage(resource.RUSAGE_SELF)
    held = psutil.Process().memory_info().rss
    if trainer == "rustbpe":
        learned = Tokenizer.train(texts, 265 + merges).vocab_size - 265
    else:
        learned = train_huggingface(texts, merges)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert learned == merges, (learned, merges)
    return {"seconds": round(spent, 3), "bytes": peak() - held}


def peak() -> int:
    """The most memory this process ever held, in bytes (Linux; getrusage counts the parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(regex.search(r"VmHWM:\s+(\d+)", status)[1])


def train_huggingface(texts: Iterable[str], merges: int) -> int:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(split_pattern()), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab_size() - 256


def compression(folder: str) -> dict[int, float]:
    """Vocabulary -> bytes a token, on passages that come after those trained on."""
    train, everything = list(read(folder, SIZES[-1])), list(read(folder, sys.maxsize))
    held_out = everything[len(train) :]
    found = {}
    for size in VOCABULARIES:
        tokenizer = Tokenizer.train(train, size)
        tokens = sum(map(len, tokenizer.encode_batch(held_out)))
        found[size] = round(sum(len(text.encode()) for text in held_out) / tokens, 4)
    return found


def apart(*arguments: object) -> dict:
    command = [sys.executable, "-m", "ci.studies.tokenizer_scaling", *map(str, arguments)]
    one_thread = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, check=True)
    return json.loads(done.stdout)


def main(folder: str) -> None:
    rows = []
    for size in SIZES:
        pieces = [p for text in read(folder, size) for p in regex.findall(split_pattern(), text)]
        row = {"characters": sum(map(len, pieces)), "distinct_pieces": len(set(pieces))}
        row["count"] = apart(folder, size, "rustbpe", 0)
        row["train"] = apart(folder, size, "rustbpe", MERGES if size > SIZES[1] else MERGES // 4)
        rows.append(row)
        print(row, flush=True)
    others = {name: apart(folder, SIZES[-1], name, MERGES) for name in ("rustbpe", "tokenizers")}
    names = ("rustbpe", "tokenizers", "tiktoken")
    result = {
        "text": "public-domain novels of Project Gutenberg, in passages of 10,000 characters",
        "merges": MERGES,
        "rows": rows,
        "trainers": others,
        "short_documents": apart(folder, SIZES[-1], "rustbpe", MERGES, SHORT),
        "bytes_per_token": compression(folder),
        "versions": {name: version(name) for name in names},
        "system": system_info(),
    }
    atomic_write(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        folder, size, trainer, merges, *document = sys.argv[1:]
        length = int(document[0]) if document else DOCUMENT
        print(json.dumps(measure(folder, int(size), trainer, int(merges), length)))
    else:
        main(sys.argv[1])
