"""Where text comes from: the small world, your own files, or a dataset on the hub.

All give the same thing: documents with a number each, in an order that never changes, split into
"train" and "validation". Numbers grow but need not be consecutive; a reader that stopped at one
can go on from the next, and `world_size` readers share the documents without overlap.

What is held out of your own files: whole files, where there are several of fitting sizes (chosen
by a hash of their names, at least a twentieth and at most a fifth of the bytes); otherwise the
last tenth of the documents.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from chatlib.data import hub
from chatlib.data.world import VALIDATION_DOCUMENTS, World
from chatlib.errors import ChatlibError

DOCUMENT_BYTES = 8000  # a .txt file is cut into documents of at most this size
ROWS = 1024  # rows of parquet that go to one reader together
STRINGS = (pa.string(), pa.large_string(), pa.string_view())
FILE = 2**32  # a parquet document's number is FILE * file + row

Texts = Iterator[tuple[int, str]]  # number and text of each document
Place = tuple[Path, int, int]  # a document: file, first byte, byte after the last


class Source(Protocol):
    """Text in documents."""

    def documents(self, split: str, rank: int = 0, world_size: int = 1, start: int = 0) -> Texts:
        """One pass over (number, text) of the share of `rank`, beginning at number `start`."""

    def describe(self) -> dict[str, Any]:
        """What this text is, for a run's manifest."""


def open_source(corpus: str) -> Source:
    """The text that `corpus` names: "world", a dataset on the hub, or a path.

    A path is a .parquet or .jsonl file with a column "text", a file of plain UTF-8 text, or a
    folder of such files, searched to its depths.
    """
    if corpus == "world":
        return WorldSource()
    if corpus in hub.CORPORA:
        return _hub_source(corpus)
    path = Path(corpus).expanduser()
    if not path.exists():
        raise ChatlibError(
            f"There is no corpus {corpus!r}: use world, {', '.join(hub.CORPORA)}, or the path of "
            "a text, .jsonl or .parquet file, or of a folder of them."
        )
    files = _files(path)
    if any(file.suffix == ".parquet" for file in files.values()):
        return _local_parquet(path, files)
    return TextSource(path, files)


class WorldSource:
    """The small world: endless training documents, and a fixed number of held-out ones."""

    def __init__(self):
        self.world = World()

    def documents(self, split: str, rank: int = 0, world_size: int = 1, start: int = 0) -> Texts:
        for number in count(start + (rank - start) % world_size, world_size):
            if split == "validation" and number >= VALIDATION_DOCUMENTS:
                return
            yield number, self.world.document(split, number).text

    def describe(self) -> dict[str, Any]:
        return {"corpus": "world", "seed": self.world.seed}


class TextSource:
    """Local text and JSON Lines files. Only the places of the documents are kept in memory.

    They are shuffled once: what waits to be packed should not all come from one chapter.
    """

    def __init__(self, path: Path, files: dict[str, Path]):
        self.path, digest = path, hashlib.sha256()
        size = sum(file.stat().st_size for file in files.values())
        longest = DOCUMENT_BYTES if len(files) > 1 else min(max(size // 20, 200), DOCUMENT_BYTES)
        places: dict[str, list[Place]] = {}
        for name, file in files.items():
            digest.update(name.encode())
            find = _lines if file.suffix == ".jsonl" else _passages
            places[name] = list(find(file, longest, digest))
        self.held_out = _hold_out(files)
        self.places = {"train": [], "validation": []}
        for name, found in places.items():
            self.places["validation" if name in self.held_out else "train"] += found
        if not self.held_out:
            last = max(len(self.places["train"]) // 10, 1)
            self.places["validation"] = self.places["train"][-last:]
            del self.places["train"][-last:]
        if not all(self.places.values()):
            raise ChatlibError(f"{path} holds too little text: it takes two documents at least.")
        for split in self.places:
            random.Random(split).shuffle(self.places[split])
        self.sha256 = digest.hexdigest()

    def documents(self, split: str, rank: int = 0, world_size: int = 1, start: int = 0) -> Texts:
        places = self.places[split]
        for number in range(start + (rank - start) % world_size, len(places), world_size):
            if text := _read(*places[number]):
                yield number, text

    def describe(self) -> dict[str, Any]:
        return {
            "corpus": str(self.path),
            "held_out": self.held_out or "the last tenth of the documents",
            "documents": {split: len(places) for split, places in self.places.items()},
            "sha256": self.sha256,
        }


class ParquetSource:
    """Parquet files with a column "text", which `locate` turns from names into paths, in order.

    A row group, or a part of a large one, goes to one reader whole; readers take turns within each
    file. With `tenth`, the last tenth of each file is for validation, the rest for training.
    """

    def __init__(
        self, described: dict[str, Any], files: dict[str, list[str]],
        locate: Callable[[list[str]], Iterable[Path | str]], tenth: bool = False,
    ):  # fmt: skip
        self.described, self.files, self.locate, self.tenth = described, files, locate, tenth

    def documents(self, split: str, rank: int = 0, world_size: int = 1, start: int = 0) -> Texts:
        first, skip = divmod(start, FILE)
        for number, path in enumerate(self.locate(self.files[split][first:]), first):
            part = split if self.tenth else None
            for row, text in _rows(Path(path), part, rank, world_size, skip):
                yield number * FILE + row, text
            skip = 0

    def describe(self) -> dict[str, Any]:
        return self.described


def _hub_source(corpus: str) -> ParquetSource:
    repo, files = hub.CORPORA[corpus]
    described = {"corpus": corpus, "repository": repo, "held_out": files["validation"]}
    return ParquetSource(described, files, lambda names: hub.stream(repo, names))


def _local_parquet(path: Path, files: dict[str, Path]) -> ParquetSource:
    for name, file in files.items():
        if file.suffix != ".parquet":
            raise ChatlibError(f"{path} mixes parquet with other text ({name}): keep one kind.")
    held_out = _hold_out(files)
    names = {"train": [], "validation": []}
    for name, file in files.items():
        names["validation" if name in held_out else "train"].append(str(file))
    names["validation"] = names["validation"] or names["train"]
    described = {
        "corpus": str(path),
        "held_out": held_out or "the last tenth of each file",
        "bytes": {name: file.stat().st_size for name, file in files.items()},
    }
    return ParquetSource(described, names, lambda names: names, tenth=not held_out)


def _files(path: Path) -> dict[str, Path]:
    """The files to read, by name, in an order that is the same everywhere."""
    if path.is_file():
        found = {path.name: path}
    else:
        kinds = (".txt", ".jsonl", ".parquet")
        found = {f.relative_to(path).as_posix(): f for f in path.rglob("*") if f.suffix in kinds}
    found = {n: f for n, f in sorted(found.items()) if f.is_file() and f.stat().st_size}
    if not found:
        what = "is empty" if path.is_file() else "holds no .txt, .jsonl or .parquet file with text"
        raise ChatlibError(f"{path} {what}: name a file or folder of text as the corpus.")
    return found


def _hold_out(files: dict[str, Path]) -> list[str]:
    """Names of files to keep for validation; none where no choice leaves enough for training."""
    sizes = {name: file.stat().st_size for name, file in files.items()}
    total, held_out, held = sum(sizes.values()), [], 0
    for name in sorted(sizes, key=lambda n: hashlib.sha256(f"held out/{n}".encode()).digest()):
        if held < total / 20 and held + sizes[name] <= total / 5:
            held_out.append(name)
            held += sizes[name]
    return sorted(held_out)


def _passages(file: Path, longest: int, digest) -> Iterator[Place]:
    """Cut a text where a paragraph ends, else a line, else a word, into at most `longest` bytes."""
    data = file.read_bytes()
    digest.update(data)
    try:
        binary = "\0" in data.decode("utf-8")
    except UnicodeDecodeError:
        binary = True
    if binary:
        raise ChatlibError(f"{file} is not text in UTF-8: convert it, or leave it out.")
    start = 0
    while start < len(data):
        end = min(start + longest, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        if end < len(data):
            for mark in (b"\n\n", b"\r\n\r\n", b"\n", b" "):
                if (found := data.rfind(mark, start + longest // 2, end)) >= 0:
                    end = found + len(mark)
                    break
        if data[start:end].strip():
            yield file, start, end
        start = end


def _lines(file: Path, longest: int, digest) -> Iterator[Place]:
    """The places of the lines of a JSON Lines file, whose first line must be as it should."""
    start = 0
    with open(file, "rb") as lines:
        for line in lines:
            digest.update(line)
            if start == 0:
                _read(file, 0, len(line))
            if line.strip():
                yield file, start, start + len(line)
            start += len(line)


def _read(file: Path, start: int, end: int) -> str:
    """The document that lies in bytes start to end of a text or JSON Lines file."""
    with open(file, "rb") as handle:
        handle.seek(start)
        data = handle.read(end - start)
    if file.suffix != ".jsonl":
        return data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n").strip()
    try:
        text = json.loads(data)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ChatlibError(
            f'{file} has, at byte {start}, a line that is no JSON object with a string "text": '
            'every line must be one, such as {"text": "Once upon a time"}.'
        )
    return text


def _rows(path: Path, split: str | None, rank: int, world_size: int, skip: int) -> Texts:
    """(row, text) of `rank`'s share of the file, or of its part for `split`, from row `skip`."""
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ChatlibError(f"{path} is no parquet file, or a damaged one.") from error
    with file:
        schema, total = file.schema_arrow, file.metadata.num_rows
        if "text" not in schema.names or schema.field("text").type not in STRINGS:
            columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise ChatlibError(f'{path} has no column "text" of strings (it has {columns}).')
        cut = total - max(total // 10, 1)
        first, last = {"train": (0, cut), "validation": (cut, total)}.get(split, (0, total))
        together = min(max(total // 64, 1), ROWS)
        share, offset = 0, 0
        for group in range(file.num_row_groups):
            rows, column = file.metadata.row_group(group).num_rows, None
            for begin in range(offset, offset + rows, together):
                end = min(begin + together, offset + rows, last)
                for row in range(max(begin, first, skip), end if share % world_size == rank else 0):
                    if column is None:
                        column = file.read_row_group(group, columns=["text"]).column("text")
                    if text := column[row - offset].as_py():
                        yield row, text
                share += 1
            offset += rows
