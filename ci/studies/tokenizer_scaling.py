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
from importlib.metadata import version
from pathlib import Path

import psutil
import regex

from chatlib.runs import atomic_write, system_info
from chatlib.tokenizer import Tokenizer, split_pattern

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "book" / "data" / "tokenizer_scaling.json"
SIZES = (500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000)  # characters
MERGES = 32_503
VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
DOCUMENT = 10_000


def read(folder: str, size: int) -> list[str]:
    """The first `size` characters of the files, passages of all of them taking turns."""
    texts = [path.read_text(encoding="utf8") for path in sorted(Path(folder).glob("*.txt"))]
    longest = max(map(len, texts))
    starts = range(0, longest, DOCUMENT)
    passages = [t[i : i + DOCUMENT] for i in starts for t in texts if i < len(t)]
    return passages[: size // DOCUMENT]


def measure(folder: str, size: int, trainer: str, merges: int) -> dict:
    """Train in this process; processor seconds and peak bytes are those beyond the reading."""
    texts = read(folder, size)
    before = resource.getrusage(resource.RUSAGE_SELF)
    held = psutil.Process().memory_info().rss
    if trainer == "rustbpe":
        learned = Tokenizer.train(texts, 265 + merges).vocab_size - 265
    else:
        learned = train_huggingface(texts, merges)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert learned == merges, (learned, merges)
    return {"seconds": round(spent, 3), "bytes": 1024 * after.ru_maxrss - held}


def train_huggingface(texts: list[str], merges: int) -> int:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
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
    train, everything = read(folder, SIZES[-1]), read(folder, sys.maxsize)
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
        texts = read(folder, size)
        distinct = len({p for text in texts for p in regex.findall(split_pattern(), text)})
        row = {"characters": sum(map(len, texts)), "distinct_pieces": distinct}
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
        "bytes_per_token": compression(folder),
        "versions": {name: version(name) for name in names},
        "system": system_info(),
    }
    atomic_write(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        folder, size, trainer, merges = sys.argv[1:]
        print(json.dumps(measure(folder, int(size), trainer, int(merges))))
    else:
        main(sys.argv[1])
