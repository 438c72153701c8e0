"""The small world's problems: questions about it, each kind a task of its own."""

from functools import partial

from chatlib.data.world import PROBLEM_KINDS, World, check
from chatlib.tasks.base import Problem, Task, dialog


def problem(row: dict) -> Problem:
    """{"question", "answer", "reply", "kind"}, as `World.problems` draws them."""
    conversation = dialog(row["question"], row["reply"])
    return Problem(conversation, row["answer"], partial(check, row), row["kind"])


def world_task(
    count: int, split: str = "validation", kinds: tuple[str, ...] = PROBLEM_KINDS, seed: int = 0
) -> Task:
    """`count` problems, the kinds taking turns."""
    return Task("world", World(seed).problems(split, count, kinds), problem)
