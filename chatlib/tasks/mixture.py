"""What each stage trains and is evaluated on: by name, from a file, or from the small world."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from chatlib.data.world import RL_KINDS, World
from chatlib.data.world.problems import WORDS
from chatlib.errors import ChatlibError
from chatlib.tasks import gsm8k, human_eval, letters, multiple_choice, smoltalk, world
from chatlib.tasks.base import Problem, Task, read_file

RECIPE = (("SmolTalk", 1), ("MMLU", 3), ("GSM8K", 4))  # how often each is gone through


def open_task(source: str | Path, split: str = "train") -> Task:
    """A task by its name, or from a local file, recognized by the columns of its rows."""
    named = {
        "GSM8K": gsm8k.gsm8k,
        "MMLU": multiple_choice.mmlu,
        "SmolTalk": smoltalk.smoltalk,
        "ARC-Easy": lambda split: multiple_choice.arc("Easy", split=split),
        "ARC-Challenge": lambda split: multiple_choice.arc("Challenge", split=split),
        "HumanEval": human_eval.human_eval,
    }
    if source in named:
        return named[source](split=split)
    if not Path(source).suffix:
        raise ChatlibError(f'No task is called "{source}"; give a file or {", ".join(named)}.')
    rows = read_file(Path(source))
    return Task(Path(source).name, rows, _reader(rows[0], source))


def _reader(row: dict, source: str | Path) -> Callable[[dict], Problem]:
    """What turns rows with the columns of this one into problems."""
    schemas = (
        ("messages", smoltalk.problem),
        ("prompt entry_point test", human_eval.problem),
        ("question choices answerKey", multiple_choice.arc_problem),
        ("question choices answer", multiple_choice.mmlu_problem),
        ("question answer", gsm8k.problem),
    )
    for columns, problem in schemas:
        if set(columns.split()) <= row.keys():
            return problem
    raise ChatlibError(
        f'The rows of "{source}" have the columns {", ".join(row)}; chatlib knows those with '
        + "; ".join(columns.replace(" ", ", ") for columns, _ in schemas)
        + "."
    )


class Mixture:
    """The problems of several tasks, each task so many times, in one fixed disorder."""

    def __init__(self, parts: Iterable[tuple[Task, int]], seed: int = 0):
        self.tasks = [task for task, times in parts for _ in range(times)]
        self.ends = np.cumsum([len(task) for task in self.tasks])
        self.order = np.random.default_rng(seed).permutation(self.ends[-1])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Problem:
        place = int(self.order[index])
        which = int(np.searchsorted(self.ends, place, side="right"))
        return self.tasks[which][place - int(self.ends[which])]

    def conversations(self, start: int = 0) -> Iterator[dict]:
        """The solved conversations from position `start` to the end."""
        return (self[i].conversation for i in range(start, len(self)))


def sft_mixture(
    scale, data: list[str] | None = None
) -> tuple[Callable[[int], Iterator[dict]], int]:
    """Conversations to fine-tune on: a function from a position to an iterator, and how many.

    `data` are names or files; without them the scale decides: so many of the small world, or the
    recipe's mixture from the hub.
    """
    if not data and scale.sft_conversations:
        n = scale.sft_conversations
        return lambda start: islice(World().conversations("train", start), max(n - start, 0)), n
    parts = [(source, 1) for source in data] if data else RECIPE
    mixture = Mixture((open_task(source), times) for source, times in parts)
    return mixture.conversations, len(mixture)


def rl_problems(scale, data: str | None = None) -> list[Problem]:
    """Problems to reinforce on: a file in the GSM8K schema, the small world's sums, or GSM8K."""
    if not data and scale.sft_conversations:
        task = world.world_task(scale.rl_steps * scale.rl_questions, "train", RL_KINDS)
    else:
        task = open_task(data or "GSM8K")
    return [task[i] for i in range(len(task))]


def chat_tasks(scale) -> list[Task]:
    """What a chat model of this scale is evaluated on."""
    if scale.sft_conversations:
        return [world.world_tests(1200)]
    names = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval")
    return [*(open_task(name, "test") for name in names), letters.letters(WORDS["validation"], 256)]
