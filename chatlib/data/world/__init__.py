"""A small world in English, written by a seeded stochastic grammar that knows its own
probabilities.

world = World(seed=0)
document = world.document("train", 12)   # random access; the same bytes on every machine
document.log_prob                        # nats, exact
"""

from chatlib.data.world.items import CORE_TASKS
from chatlib.data.world.problems import PROBLEM_KINDS, RL_KINDS, check
from chatlib.data.world.world import (
    KINDS,
    THREAD_ANSWER,
    THREAD_QUESTION,
    THREAD_SENTENCE,
    VALIDATION_DOCUMENTS,
    Document,
    World,
    entropy_floor,
)

__all__ = [
    "CORE_TASKS",
    "KINDS",
    "PROBLEM_KINDS",
    "RL_KINDS",
    "THREAD_ANSWER",
    "THREAD_QUESTION",
    "THREAD_SENTENCE",
    "VALIDATION_DOCUMENTS",
    "Document",
    "World",
    "check",
    "entropy_floor",
]
