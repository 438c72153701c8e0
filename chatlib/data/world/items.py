"""Evaluation items in the three CORE formats, all on material that training never shows."""

import re

from chatlib.data.world import arithmetic
from chatlib.data.world.grammar import Record
from chatlib.data.world.problems import PAIRS, Uniform, pick
from chatlib.data.world.relations import RELATIONS, Relation, fill
from chatlib.data.world.stories import CAST, CHILDREN, FOODS, PLACES, THINGS, pair_is_held_out

# task -> (format, few-shot examples, accuracy of a guess in percent)
CORE_TASKS = {
    "world_facts_mc": ("multiple_choice", 0, 25.0),
    "world_schema": ("schema", 0, 50.0),
    "world_cloze": ("language_modeling", 0, 0.0),
    "world_arithmetic": ("language_modeling", 0, 0.0),
}
_FACTS = [(relation, record) for relation in RELATIONS for record in relation.records]
_PAIRS = [c for c in CAST if pair_is_held_out(c["name"], c["friend"]) and c["he"] != c["fhe"]]


def core_item(task: str, uniform: Uniform) -> dict:
    makers = {
        "world_facts_mc": facts_item,
        "world_schema": schema_item,
        "world_cloze": cloze_item,
        "world_arithmetic": arithmetic_item,
    }
    return makers[task](uniform)


def _held_out_sentence(relation: Relation, record: Record) -> tuple[str, str, str]:
    """The phrasing never used about this entity, cut at its last slot: before, slot, after."""
    template = relation.statements[relation.held_out(record)]
    before, attribute, after = re.fullmatch(r"(.*)\{x\.(\w+)\}(.*)", template).groups()
    return fill(before, record).rstrip(), attribute, after


def facts_item(uniform: Uniform) -> dict:
    """A fact in its held-out phrasing, with three wrong endings from the same table."""
    while True:
        relation, record = pick(uniform, _FACTS)
        query, attribute, after = _held_out_sentence(relation, record)
        right = record[attribute]
        others = sorted({r[attribute] for r in relation.records} - {right})
        if len(others) >= 3:
            break
    choices = [right]
    while len(choices) < 4:
        choices.append(others.pop(int(uniform() * len(others))))
    gold = int(uniform() * 4)
    choices[0], choices[gold] = choices[gold], choices[0]
    choices = [choice + after for choice in choices]
    return {"query": query, "choices": choices, "gold": gold, "kind": relation.name}


def cloze_item(uniform: Uniform) -> dict:
    """A fact in its held-out phrasing, to be completed word for word."""
    relation, record = pick(uniform, _FACTS)
    context, attribute, after = _held_out_sentence(relation, record)
    return {"context": context, "continuation": record[attribute] + after, "kind": relation.name}


def schema_item(uniform: Uniform) -> dict:
    """Two beginnings, one ending that fits only one of them, about children who never met."""
    pair = pick(uniform, _PAIRS)
    other = pick(uniform, [c for c in CHILDREN if c["he"] == pair["fhe"]])
    thing, place = pick(uniform, THINGS)["thing"], pick(uniform, PLACES)["at"]
    food = pick(uniform, FOODS)["food"]
    kind = pick(uniform, ("pronoun", "who gets thanked", "what was lost"))
    if kind == "pronoun":
        stem = f"{{}} had {food}, and {pair['friend']} had nothing. {{}} was hungry, but"
        contexts = [stem.replace("{}", name) for name in (pair["name"], other["name"])]
        ending = f"{pair['he']} saw the face of {pair['friend']}"
    elif kind == "who gets thanked":
        others = [c["name"] for c in CHILDREN if c["name"] not in (pair["name"], pair["friend"])]
        stem = (
            f"{pair['name']} lost the {thing} {place}. Then {{}} found the {thing} under a stone."
        )
        contexts = [stem.format(name) for name in (pair["friend"], pick(uniform, others))]
        ending = f'"Thank you, {pair["friend"]}," said {pair["name"]}.'
    else:
        wrong = pick(uniform, [t["thing"] for t in THINGS if t["thing"] != thing])
        stem = f"{pair['name']} could not find {pair['his']} {{}} anywhere. They found it asleep"
        contexts = [stem.format(name) for name in (thing, wrong)]
        ending = f"beside the {thing}."
    gold = int(uniform() * 2)
    contexts = contexts if gold == 0 else contexts[::-1]
    return {"context_options": contexts, "continuation": ending, "gold": gold, "kind": kind}


def arithmetic_item(uniform: Uniform) -> dict:
    """A sum or difference of operands that never met in training, to be worked out step by step."""
    sign = pick(uniform, "+-")
    a, b = pick(uniform, PAIRS["validation", sign])
    work = arithmetic.work(sign, a, b)
    if uniform() < 0.5:
        context, kind = f"What is {a} {sign} {b}?", "equation"
    else:
        pair = pick(uniform, [c for c in CAST if not pair_is_held_out(c["name"], c["friend"])])
        things = pick(uniform, arithmetic.THINGS)["things"]
        ask = "How many do they have together?" if sign == "+" else "How many more does {} have?"
        context = f"{pair['name']} has {a} {things} and {pair['friend']} has {b}. "
        context, kind = context + ask.format(pair["name"]), "word problem"
    return {"context": context, "continuation": work + ".", "kind": kind}
