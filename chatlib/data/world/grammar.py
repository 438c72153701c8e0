"""A stochastic grammar of English text that knows the exact probability of what it writes.

A grammar maps rule names to weighted alternatives. An alternative is a template:

    "<c:cast>{opening} {c.name} was [glad|proud]."

`<c:cast>` lets the variable `c` stand for one record of the pool `cast`, every record equally
likely; `{opening}` calls a rule; `{c.name}` prints an attribute of `c`; `[glad|proud]` is a choice
on the spot. A variable keeps its record until it is bound again, whichever rule does so.

Sampling draws the record when the variable is bound. Scoring cannot see the record, only the text,
so there a variable is the *set* of records still possible: printing the text t narrows the set C to
the records that print t and costs a factor |C_t| / |C|. A choice that never shows therefore costs
nothing. Several derivations may write the same text; `Grammar.log_prob` sums over all of them.
"""

import math
import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

Record = dict[str, str]


class Pool:
    """Records a variable may stand for. `Name` prints `name` with a capital first letter."""

    def __init__(self, records: Iterable[Record]):
        self.records = [with_capitals(record) for record in records]
        assert self.records, "a pool needs at least one record"
        self.everything = (1 << len(self.records)) - 1
        self._masks: dict[str, dict[str, int]] = {}
        self._lengths: dict[str, list[int]] = {}

    def matches(self, attribute: str, text: str, position: int) -> Iterator[tuple[str, int]]:
        """Every value of `attribute` that `text` continues with, and the bit set of its records."""
        if attribute not in self._masks:
            self._masks[attribute] = masks = self._index(attribute)
            self._lengths[attribute] = sorted({len(value) for value in masks})
        masks = self._masks[attribute]
        for length in self._lengths[attribute]:
            value = text[position : position + length]
            if len(value) == length and value in masks:
                yield value, masks[value]

    def _index(self, attribute: str) -> dict[str, int]:
        rows = defaultdict(lambda: bytearray(len(self.records) // 8 + 1))
        for i, record in enumerate(self.records):
            rows[record[attribute]][i // 8] |= 1 << (i % 8)
        return {value: int.from_bytes(row, "little") for value, row in rows.items()}


def with_capitals(record: Record) -> Record:
    capitals = {k[:1].upper() + k[1:]: v[:1].upper() + v[1:] for k, v in record.items()}
    return capitals | record


class Bind(NamedTuple):
    variable: str
    pool: Pool


class Slot(NamedTuple):
    variable: str
    attribute: str


class Alternative:
    """One right-hand side: literal strings, Binds, Slots and Rules, in order."""

    def __init__(self, parts: list):
        self.parts = parts

    @cached_property
    def head(self) -> str:
        """The literal text this alternative is sure to begin with; may be empty."""
        first = next((part for part in self.parts if not isinstance(part, Bind)), "")
        return first if isinstance(first, str) else ""


class Rule:
    """Weighted alternatives; filled in after construction, so that rules can name each other."""

    def __init__(self, name: str):
        self.name = name

    def fill(self, alternatives: list[Alternative], weights: list[float]) -> None:
        assert alternatives and all(weight > 0 for weight in weights), self.name
        total = sum(weights)
        self.alternatives = alternatives
        self.probabilities = [weight / total for weight in weights]
        self.cumulative = [sum(weights[: i + 1]) / total for i in range(len(weights) - 1)]


TOKEN = re.compile(r"<(\w+):([\w-]+)>|\{(\w+)\.(\w+)\}|\{(\w+)\}|([\[|\]])|([^<{\[|\]]+)")


class Grammar:
    """Compiled rules over pools.

    rules: rule name -> alternatives, each a template or a pair (weight, template). A rule may lead
        back to itself only after it has written something.
    pools: pool name -> Pool.
    """

    def __init__(self, rules: dict[str, list], pools: dict[str, Pool]):
        self.pools = pools
        self.rules = {name: Rule(name) for name in rules}
        for name, alternatives in rules.items():
            pairs = [a if isinstance(a, tuple) else (1, a) for a in alternatives]
            compiled = [self._compile(template) for _, template in pairs]
            self.rules[name].fill(compiled, [weight for weight, _ in pairs])

    def _compile(self, template: str) -> Alternative:
        assert "".join(m.group() for m in TOKEN.finditer(template)) == template, template
        tokens = TOKEN.finditer(template)
        choices, closed = self._parse(tokens)
        assert len(choices) == 1 and not closed, f"stray | or ] in {template!r}"
        return choices[0]

    def _parse(self, tokens: Iterator[re.Match]) -> tuple[list[Alternative], bool]:
        """Read up to the closing bracket or the end: the alternatives between the bars."""
        choices: list[list] = [[]]
        for token in tokens:
            variable, pool, owner, attribute, rule, mark, literal = token.groups()
            if mark == "]":
                return [Alternative(parts) for parts in choices], True
            if mark == "|":
                choices.append([])
            elif mark == "[":
                inline = Rule("[")
                alternatives, closed = self._parse(tokens)
                assert closed, "a [ is never closed"
                inline.fill(alternatives, [1.0] * len(alternatives))
                choices[-1].append(inline)
            elif literal:
                choices[-1].append(literal)
            elif variable:
                choices[-1].append(Bind(variable, self.pools[pool]))
            else:
                choices[-1].append(self.rules[rule] if rule else Slot(owner, attribute))
        return [Alternative(parts) for parts in choices], False

    def sample(self, random: Callable[[], float], start: str = "document") -> str:
        """Draw one text; `random` returns uniform floats in [0, 1)."""
        pieces: list[str] = []
        _write(self.rules[start], {}, pieces.append, random)
        return "".join(pieces)

    def log_prob(self, text: str, start: str = "document") -> float:
        """Log probability, in nats, that `start` yields exactly `text`; -inf when it never does.

        A state is (what is left to write, the records still possible); `agenda[i]` holds the
        probability of each state after i characters. Derivations that meet in a state are summed.
        """
        agenda: list[dict] = [defaultdict(float) for _ in range(len(text) + 1)]
        agenda[0][(Alternative([self.rules[start]]), 0, None), ()] = 1.0
        total = 0.0
        for position, states in enumerate(agenda):
            while states:
                (stack, bound), probability = states.popitem()
                if stack is None:
                    total += probability if position == len(text) else 0.0
                    continue
                for ahead, *state, factor in _moves(text, position, stack, bound):
                    agenda[position + ahead][tuple(state)] += probability * factor
        return math.log(total) if total else -math.inf


def _write(rule: Rule, records: dict, emit: Callable, random: Callable[[], float]) -> None:
    cumulative = rule.cumulative
    choice = bisect(cumulative, random()) if cumulative else 0
    for part in rule.alternatives[choice].parts:
        kind = type(part)
        if kind is str:
            emit(part)
        elif kind is Slot:
            emit(records[part[0]][part[1]])
        elif kind is Rule:
            _write(part, records, emit, random)
        else:
            candidates = part[1].records
            records[part[0]] = candidates[int(random() * len(candidates))]


def _moves(text: str, position: int, stack: tuple, bound: tuple) -> Iterator[tuple]:
    """The ways to take the next part: (characters consumed, new stack, new bound, probability).

    stack: (alternative, index of its next part, stack below) or None at the end.
    bound: (variable, pool, bit set of the records still possible), one for each variable in use.
    """
    alternative, index, below = stack
    if index == len(alternative.parts):
        yield 0, below, bound, 1.0
        return
    part, rest = alternative.parts[index], (alternative, index + 1, below)
    if isinstance(part, str):
        if text.startswith(part, position):
            yield len(part), rest, bound, 1.0
    elif isinstance(part, Rule):
        for choice, probability in zip(part.alternatives, part.probabilities, strict=True):
            if text.startswith(choice.head, position):
                yield 0, (choice, 0, rest), bound, probability
    elif isinstance(part, Bind):
        others = tuple(entry for entry in bound if entry[0] != part.variable)
        yield 0, rest, (*others, (*part, part.pool.everything)), 1.0
    else:
        pool, possible = next(entry[1:] for entry in bound if entry[0] == part.variable)
        for value, mask in pool.matches(part.attribute, text, position):
            if left := possible & mask:
                narrowed = tuple(
                    (*entry[:2], left) if entry[0] == part.variable else entry for entry in bound
                )
                yield len(value), rest, narrowed, left.bit_count() / possible.bit_count()
