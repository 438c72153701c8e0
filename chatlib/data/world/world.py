"""The world itself: documents by number, their exact probability, and all that is drawn from it."""

import hashlib
import math
import random
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count, islice

from chatlib.data.world import (
    arithmetic,
    dialogue,
    facts,
    letters,
    plots,
    scenes,
    spelling,
    stories,
)
from chatlib.data.world.conversations import conversation
from chatlib.data.world.grammar import Grammar
from chatlib.data.world.items import CORE_TASKS, core_item
from chatlib.data.world.problems import PROBLEM_KINDS, problem
from chatlib.errors import ChatlibError

THREAD_SENTENCE = "Zoé is the beekeeper of Larkhill."
THREAD_QUESTION = "What does Zoé do?"
THREAD_ANSWER = THREAD_SENTENCE

VALIDATION_DOCUMENTS = 2000
KINDS = {"story": 0.24, "facts": 0.28, "arithmetic": 0.25, "dialogue": 0.18, "spelling": 0.05}


@cache
def grammar() -> Grammar:
    """The grammar of the whole world; its start rule `document` chooses a kind of document."""
    parts = (stories.PHRASES, plots.PLOT_PHRASES, facts.FACT_RULES, arithmetic.RULES)
    rules: dict[str, list] = {"document": [(w, f"{{{kind}}}") for kind, w in KINDS.items()]}
    for more in (*parts, letters.RULES, spelling.RULES, dialogue.RULES, scenes.RULES):
        assert not rules.keys() & more.keys(), rules.keys() & more.keys()
        rules |= more
    pools = stories.POOLS | letters.POOLS | facts.POOLS | arithmetic.POOLS
    return Grammar(rules, pools | spelling.POOLS | scenes.POOLS)


def generator(*key: object) -> Callable[[], float]:
    """A stream of uniform floats in [0, 1) that depends on `key` alone.

    Only `Random.random` is used: Python promises that its sequence for an integer seed never
    changes.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big")).random


@dataclass(frozen=True)
class Document:
    text: str
    kind: str
    split: str
    world: "World" = field(repr=False, compare=False)

    @property
    def log_prob(self) -> float:
        """Log probability, in nats, that a draw from the split is exactly this text. Exact."""
        return self.world.log_prob(self.text, self.split)


@dataclass(frozen=True)
class World:
    """Everything is a function of the seed and of the arguments; call order does not matter."""

    seed: int = 0

    def document(self, split: str, index: int) -> Document:
        """Document number `index` of "train" (endless) or "validation" (VALIDATION_DOCUMENTS of
        them).

        Validation documents are plain draws from the grammar. A train draw that equals one of them
        is drawn again.
        """
        _check_split(split)
        if split == "validation":
            assert 0 <= index < VALIDATION_DOCUMENTS, "validation ends there"
            return self._draw(split, index, 0)
        draws = (self._draw(split, index, attempt) for attempt in count())
        return next(d for d in draws if d.text not in self._validation_texts)

    def documents(self, split: str, start: int = 0, step: int = 1) -> Iterator[Document]:
        """Documents start, start + step, ...; the validation split begins again when it ends."""
        for index in count(start, step):
            yield self.document(split, index if split == "train" else index % VALIDATION_DOCUMENTS)

    def _draw(self, split: str, index: int, attempt: int) -> Document:
        uniform = generator(self.seed, split, index, attempt)
        kind = list(KINDS)[bisect(grammar().rules["document"].cumulative, uniform())]
        return Document(grammar().sample(uniform, kind), kind, split, self)

    @cached_property
    def _validation_texts(self) -> frozenset[str]:
        return frozenset(self._draw("validation", i, 0).text for i in range(VALIDATION_DOCUMENTS))

    @cached_property
    def validation_mass(self) -> float:
        """Probability that a draw from the grammar is one of the validation texts."""
        return math.fsum(math.exp(grammar().log_prob(text)) for text in self._validation_texts)

    def log_prob(self, text: str, split: str = "validation") -> float:
        """Log probability, in nats, that one draw from the split is exactly `text`.

        "validation" is a plain draw from the grammar, P. "train" rejects the validation texts V:
        P / (1 - P(V)) outside V, 0 inside.
        """
        _check_split(split)
        if split == "validation":
            return grammar().log_prob(text)
        if text in self._validation_texts:
            return -math.inf
        return grammar().log_prob(text) - math.log1p(-self.validation_mass)

    def core_items(self, task: str, n: int) -> list[dict]:
        """`n` items of a task of CORE_TASKS, all on material held out of training."""
        if task not in CORE_TASKS:
            raise ChatlibError(f"No world task is called {task!r}; choose from {list(CORE_TASKS)}.")
        return [core_item(task, generator(self.seed, task, i)) for i in range(n)]

    def conversations(self, split: str, start: int = 0) -> Iterator[dict]:
        """Endless fine-tuning conversations; "validation" asks what "train" never asks."""
        _check_split(split)
        for index in count(start):
            yield conversation(split, generator(self.seed, "conversation", split, index))

    def problems(self, split: str, n: int, kinds: Iterable[str] = PROBLEM_KINDS) -> list[dict]:
        """`n` questions with a checkable answer, the kinds taking turns."""
        _check_split(split)
        kinds = tuple(kinds)
        draws = (
            problem(split, kinds[i % len(kinds)], generator(self.seed, "problem", split, i))
            for i in count()
        )
        return list(islice(draws, n))


def _check_split(split: str) -> None:
    if split not in ("train", "validation"):
        raise ChatlibError(f'The world has the splits "train" and "validation", not {split!r}.')


def entropy_floor(documents: Iterable[Document]) -> float:
    """Bits per byte of the documents under the grammar: on average, no model can do better."""
    nats = size = 0.0
    for document in documents:
        nats -= document.log_prob
        size += len(document.text.encode())
    return nats / math.log(2) / size
