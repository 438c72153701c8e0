"""The grammar's probabilities are exact: checked by enumeration, by counting and by hand."""

import math
import random
from collections import Counter, defaultdict
from fractions import Fraction

import pytest

from chatlib.data.world.grammar import Alternative, Bind, Grammar, Pool, Rule, Slot

PEOPLE = Pool(
    [
        {"name": "Ida", "pet": "cat", "it": "a"},
        {"name": "Ida", "pet": "dog", "it": "ab"},
        {"name": "Idara", "pet": "cat", "it": ""},
        {"name": "Tom", "pet": "cat", "it": "b"},
    ]
)
POOLS = {"person": PEOPLE}

SMALL = {
    "plain": {"document": ["one", (3, "[two|three] {more}")], "more": ["a", "b"]},
    "pool": {"document": ["<p:person>{p.name} has a {p.pet}. {again}"], "again": ["{p.Pet}", "."]},
    "unprinted choices": {"document": ["<p:person><q:person>{q.pet}"]},
    "rebinding": {"document": ["<p:person>{p.it}{other}{p.it}"], "other": ["<p:person>", "-"]},
    "ambiguous": {
        "document": ["{part}{part}", "<p:person><q:person>{p.it}{q.it}[b|bb|]", "{part}"],
        "part": [(2, "<p:person>{p.it}[a|b|ab]"), "ab", "a[|b]", "[a|]b"],
    },
}


def derivations(parts, records, text="", probability=Fraction(1)):
    """Brute force: every (text, probability), one for each choice and each record."""
    if not parts:
        yield text, probability
        return
    part, rest = parts[0], parts[1:]
    if isinstance(part, str):
        yield from derivations(rest, records, text + part, probability)
    elif isinstance(part, Slot):
        value = records[part.variable][part.attribute]
        yield from derivations(rest, records, text + value, probability)
    elif isinstance(part, Bind):
        for record in part.pool.records:
            bound = records | {part.variable: record}
            share = probability / len(part.pool.records)
            yield from derivations(rest, bound, text, share)
    else:
        for choice, weight in zip(part.alternatives, part.probabilities, strict=True):
            share = probability * Fraction(weight).limit_denominator(1000)
            yield from derivations(choice.parts + rest, records, text, share)


def texts_of(grammar):
    total = defaultdict(Fraction)
    for text, probability in derivations([grammar.rules["document"]], {}):
        total[text] += probability
    return total


@pytest.mark.parametrize("name", SMALL)
def test_log_prob_equals_enumeration(name):
    grammar = Grammar(SMALL[name], POOLS)
    texts = texts_of(grammar)
    assert sum(texts.values()) == 1
    for text, probability in texts.items():
        assert math.exp(grammar.log_prob(text)) == pytest.approx(float(probability), rel=1e-12)
    assert math.fsum(math.exp(grammar.log_prob(text)) for text in texts) == pytest.approx(1)


def test_the_ambiguous_grammar_is_ambiguous():
    grammar = Grammar(SMALL["ambiguous"], POOLS)
    ways = Counter(text for text, _ in derivations([grammar.rules["document"]], {}))
    assert max(ways.values()) > 20


@pytest.mark.parametrize("name", SMALL)
def test_samples_have_the_stated_frequencies(name):
    grammar, n = Grammar(SMALL[name], POOLS), 20_000
    uniform = random.Random(5).random
    counts = Counter(grammar.sample(uniform) for _ in range(n))
    for text, probability in texts_of(grammar).items():
        spread = math.sqrt(n * probability * (1 - probability))
        assert abs(counts[text] - n * probability) < 5 * spread + 1, text


def test_by_hand():
    grammar = Grammar(SMALL["pool"], POOLS)
    # Ida is two of the four; of the two, one has the cat; the last word is one choice of two
    assert math.exp(grammar.log_prob("Ida has a cat. .")) == pytest.approx(2 / 4 * 1 / 2 * 1 / 2)
    assert math.exp(grammar.log_prob("Ida has a cat. Cat")) == pytest.approx(1 / 8)
    unprinted = Grammar(SMALL["unprinted choices"], POOLS)
    assert math.exp(unprinted.log_prob("dog")) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    "text", ["", "Ida", "Ida has a cat. ", "Ida has a cat. Dog", "Ida has a cat. ..x"]
)
def test_what_the_grammar_cannot_say_has_probability_zero(text):
    assert Grammar(SMALL["pool"], POOLS).log_prob(text) == -math.inf


def test_capitals_and_nested_choices():
    grammar = Grammar({"document": ["<p:person>{p.Pet}[ [x|y]|]"]}, POOLS)
    assert set(texts_of(grammar)) == {"Cat", "Cat x", "Cat y", "Dog", "Dog x", "Dog y"}


@pytest.mark.parametrize("template", ["[a|b", "a]", "a|b", "<p person>", "{p.}"])
def test_a_malformed_template_is_refused(template):
    with pytest.raises(AssertionError):
        Grammar({"document": [template]}, POOLS)


def test_compiled_parts_are_of_four_kinds():
    grammar = Grammar(SMALL["ambiguous"], POOLS)
    for rule in grammar.rules.values():
        for alternative in rule.alternatives:
            assert isinstance(alternative, Alternative)
            assert all(isinstance(part, (str, Bind, Slot, Rule)) for part in alternative.parts)
