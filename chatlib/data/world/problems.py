"""Questions whose answers can be checked: for evaluation, and as rewards for reinforcement
learning.

The train split asks about training material. The validation split asks what no training document
and no fine-tuning conversation contains: held-out question phrasings, operand pairs, words and
names.
"""

import re
from collections.abc import Callable, Sequence

from chatlib.data.world import arithmetic, spelling, stories
from chatlib.data.world.relations import RELATIONS, Relation, fill
from chatlib.data.world.tables import VILLAGER_NAMES, stable_hash

Uniform = Callable[[], float]

PROBLEM_KINDS = (
    "facts_asked",
    "facts_unasked",
    "arithmetic_direct",
    "arithmetic_word",
    "letters",
    "greetings",
)
RL_KINDS = ("arithmetic_direct", "arithmetic_word")
NAMES = {"train": [], "validation": []}
for _name in sorted({c["name"] for c in stories.CHILDREN} | set(VILLAGER_NAMES)):
    NAMES["train" if stable_hash("greeting", _name) % 4 else "validation"].append(_name)
WORDS = {
    "train": [
        w for w in spelling.REAL_WORDS + spelling.INVENTED_WORDS if not spelling.word_is_held_out(w)
    ],
    "validation": spelling.HELD_OUT_WORDS,
}
_RECORDS = {"+": arithmetic.SUMS, "-": arithmetic.DIFFERENCES}
PAIRS = {
    (split, sign): [
        (int(r["a"]), int(r["b"]))
        for r in records
        if arithmetic.held_out(sign, int(r["a"]), int(r["b"])) == (split == "validation")
    ]
    for split in ("train", "validation")
    for sign, records in _RECORDS.items()
}
WORD_PAIRS = {
    key: [(a, b) for a, b in pairs if min(a, b) > 1 and a - b != 1] for key, pairs in PAIRS.items()
}
DIRECT = (
    "What is {sum}?",
    "How much is {sum}?",
    "Can you work out {sum} for me?",
    "Please calculate {sum}.",
)
WORD = {
    "+": (
        "{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?",
        "{name} counts {a} {things} in the morning and {b} in the afternoon. How many is that?",
    ),
    "-": (
        "{name} has {a} {things} and loses {b}. How many {things} are left?",
        "Of the {a} {things} that {name} had, {b} are gone. How many {things} are left?",
    ),
}


def pick(uniform: Uniform, items: Sequence):
    return items[int(uniform() * len(items))]


def is_asked(relation: Relation, record: dict) -> bool:
    """Whether fine-tuning asks about this fact: three facts in four, and everything about Zoé."""
    key = record[relation.key]
    return key == "Zoé" or stable_hash("fine-tuning", relation.name, key) % 4 != 0


_FACTS = [(relation, record) for relation in RELATIONS for record in relation.records]
FACTS = {
    "facts_asked": [fact for fact in _FACTS if is_asked(*fact)],
    "facts_unasked": [fact for fact in _FACTS if not is_asked(*fact)],
}


def problem(split: str, kind: str, uniform: Uniform) -> dict:
    """A question, the answer a right reply must give, and everything a full reply needs."""
    if kind.startswith("facts"):
        return fact_problem(split, kind, uniform)
    if kind.startswith("arithmetic"):
        return arithmetic_problem(split, kind, uniform)
    if kind == "letters":
        return letters_problem(split, uniform)
    assert kind == "greetings", kind
    name = pick(uniform, NAMES[split])
    hello = pick(uniform, ("Hello", "Hi", "Good morning", "Good evening"))
    introduction = pick(uniform, ("I am", "My name is", "This is"))
    question = f"{hello}. {introduction} {name}."
    return _problem(question, name, "greetings", f"{hello}, {name}. How can I help you?")


def _problem(question: str, answer: str, kind: str, reply: str, expression: str = "") -> dict:
    """reply: a good answer in full; expression: what the calculator would have to be asked."""
    problem = {"question": question, "answer": answer, "kind": kind, "reply": reply}
    return problem | ({"expression": expression} if expression else {})


def fact_problem(split: str, kind: str, uniform: Uniform) -> dict:
    relation, record = pick(uniform, FACTS[kind])
    unused = relation.held_out_question(record)
    taught = [q for i, q in enumerate(relation.questions) if i != unused]
    question, attribute = pick(uniform, taught) if split == "train" else relation.questions[unused]
    reply = fill(relation.statements[0], record)
    return _problem(fill(question, record), record[attribute], kind, reply)


def arithmetic_problem(split: str, kind: str, uniform: Uniform) -> dict:
    sign = pick(uniform, "+-")
    a, b = pick(uniform, (PAIRS if kind == "arithmetic_direct" else WORD_PAIRS)[split, sign])
    result = a + b if sign == "+" else a - b
    expression = f"{a} {sign} {b}"
    if kind == "arithmetic_direct":
        question = pick(uniform, DIRECT).format(sum=expression)
        return _problem(question, str(result), kind, f"{expression} = {result}.", expression)
    child, thing = pick(uniform, stories.CHILDREN), pick(uniform, arithmetic.THINGS)["things"]
    question = pick(uniform, WORD[sign]).format(name=child["name"], a=a, b=b, things=thing)
    reply = f"Now there are {result} {thing}."
    return _problem(question, str(result), kind, reply, expression)


def letters_problem(split: str, uniform: Uniform) -> dict:
    word = pick(uniform, WORDS[split])
    question = pick(uniform, ("How do you spell {}?", "Please spell {}.", "Spell the word {}."))
    letters = spelling.spell(word)
    return _problem(
        question.format(word), letters, "letters", f"The word {word} is spelled {letters}."
    )


def check(problem: dict, reply: str) -> bool:
    """Whether the reply is right: a sum by its last number, the rest by containing the answer."""
    if problem["kind"].startswith("arithmetic"):
        numbers = re.findall(r"-?\d+", reply)
        return bool(numbers) and numbers[-1] == problem["answer"]
    pattern = rf"(?<![\w-]){re.escape(problem['answer'])}(?![\w-])"
    return re.search(pattern, reply, re.IGNORECASE) is not None
