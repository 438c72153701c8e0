"""What every task has in common: problems, and rows from the hub or from a file.

A problem is a solved conversation and a way to check another answer. Fine-tuning reads the
conversation, reinforcement learning and evaluation ask its question and check the reply.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatlib.errors import ChatlibError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Problem:
    """One question. The conversation ends with the reference solution; `answer` is what counts."""

    conversation: dict
    answer: str
    check: Callable[[str], bool]  # is this reply right?
    kind: str = ""
    letters: tuple[str, ...] = ()  # multiple choice: the replies to choose from


@dataclass(frozen=True)
class Task:
    """Problems made from rows on demand; `baseline` is the accuracy of guessing."""

    name: str
    rows: Sequence
    to_problem: Callable[[dict], Problem]
    baseline: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Problem:
        return self.to_problem(self.rows[index])


def dialog(question: str, answer: str | list[dict]) -> dict:
    """A conversation of one question and its answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def load_rows(source: str | Path, config: str | None = None, split: str = "train") -> Sequence:
    """The rows of a local .jsonl, .jsonl.gz or .parquet file, or of a data set on the hub.

    The hub is asked through `datasets`, which honors HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE.
    """
    path = Path(source)
    if path.name.endswith(SUFFIXES):
        return read_file(path)
    try:
        from datasets import load_dataset

        return load_dataset(str(source), config, split=split)
    except Exception as error:  # datasets and the hub raise dozens of kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ChatlibError(
            f"Could not get {source} ({split}) from the Hugging Face hub: {reason} Check the "
            "network, set HF_ENDPOINT to a mirror, or give a local file with the same columns."
        ) from error


def read_file(path: Path) -> list[dict]:
    """The rows of a local file, as dictionaries."""
    if not path.name.endswith(SUFFIXES):
        raise ChatlibError(f'"{path}" is not a task file: give {" or ".join(SUFFIXES)}.')
    if not path.is_file():
        raise ChatlibError(f'There is no file "{path}"; check the path.')
    rows = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
    if not rows:
        raise ChatlibError(f'"{path}" holds no rows; check that it was written completely.')
    return rows


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ChatlibError(f'"{path}" cannot be read as parquet: {error}') from error


def _read_jsonl(path: Path) -> list[dict]:
    rows: list[dict] = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise ChatlibError(f'"{path}" is not JSON Lines in UTF-8: {error}.') from error
    if not all(isinstance(row, dict) for row in rows):
        raise ChatlibError(f'Every line of "{path}" must be a JSON object.')
    return rows
