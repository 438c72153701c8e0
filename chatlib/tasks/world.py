"""The small world's problems: questions about it, each kind a task of its own."""

from functools import partial

from chatlib.data.world import PROBLEM_KINDS, World, check
from chatlib.tasks.base import Problem, Task, dialog


def problem(row: dict) -> Problem:
    """{"question", "answer", "reply", "kind"}, as `World.problems` draws them."""
    conversation = dialog(row["question"], row["reply"])
    return Problem(conversation, row["answer"], partial(check, row), row["kind"])


def world_tests(count: int, seed: int = 0) -> Task:
    """What a chat model is asked about the world: `count` held-out questions, and known ones.

    "facts_reworded" asks about facts in words that fine-tuning never used; "facts_asked" asks
    them in the words it did use, so it measures memory alone.
    """
    held_out = World(seed).problems("validation", count)
    for row in held_out:
        if row["kind"] == "facts_asked":
            row["kind"] = "facts_reworded"
    known = World(seed).problems("train", count // len(PROBLEM_KINDS), ("facts_asked",))
    return Task("world", [*known, *held_out], problem)


def world_task(
    count: int, split: str = "validation", kinds: tuple[str, ...] = PROBLEM_KINDS, seed: int = 0
) -> Task:
    """`count` problems, the kinds taking turns."""
    return Task("world", World(seed).problems(split, count, kinds), problem)
