"""Arithmetic: equations, worked sums and word problems, with the work written out.

A tenth of the two-digit operand pairs of addition and of subtraction never occur in training, alone
or as a step of a longer problem. (Pairs with a round number are all taught: the worked steps use
them.)
"""

import re

from chatlib.data.world.grammar import Pool, Record
from chatlib.data.world.tables import read_table, stable_hash

LIMIT = 99  # operands, sums and differences stay between 1 and 99


def held_out(sign: str, a: int, b: int) -> bool:
    """Whether training never adds (or subtracts) this pair of operands."""
    if a < 10 or b < 10 or a % 10 == 0 or b % 10 == 0:
        return False
    return stable_hash("pair", sign, a, b) % 10 == 0


def _sum(a: int, b: int) -> Record:
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    parts = {"a": a, "b": b, "c": a + b, "tens": tens, "ones": ones}
    parts |= {"a_tens": a // 10 * 10, "b_tens": b // 10 * 10, "a_ones": a % 10, "b_ones": b % 10}
    return {name: str(value) for name, value in parts.items()}


def _difference(a: int, b: int) -> Record:
    parts = {"a": a, "b": b, "c": a - b, "b_tens": b // 10 * 10, "b_ones": b % 10}
    parts["rest"] = a - parts["b_tens"]
    return {name: str(value) for name, value in parts.items()}


SUMS = [_sum(a, b) for a in range(1, LIMIT) for b in range(1, LIMIT + 1 - a)]
DIFFERENCES = [_difference(a, b) for a in range(2, LIMIT + 1) for b in range(1, a)]
PRODUCTS = [{"a": str(a), "b": str(b), "c": str(a * b)} for a in range(1, 11) for b in range(1, 11)]


def _is_held_out(sign: str, record: Record) -> bool:
    return held_out(sign, int(record["a"]), int(record["b"]))


def _counts_many(record: Record) -> bool:
    """Whether nothing is counted as one, so that plurals read well."""
    return "1" not in (record["a"], record["b"], record["c"])


def _gain_then_lose() -> list[Record]:
    return [
        {"a": str(a), "b": str(b), "c": str(a + b), "d": str(d), "e": str(a + b - d)}
        for a in range(2, 31)
        for b in range(2, 21)
        for d in range(2, min(a + b - 1, 21))
        if not held_out("+", a, b) and not held_out("-", a + b, d)
    ]


def _times_then_gain() -> list[Record]:
    return [
        {"a": str(a), "b": str(b), "c": str(a * b), "d": str(d), "e": str(a * b + d)}
        for a in range(2, 10)
        for b in range(2, 10)
        for d in range(2, 19)
        if not held_out("+", a * b, d)
    ]


THINGS = read_table(
    "things",
    """
    apples; pears; plums; buttons; shells; marbles; candles; stamps; pebbles; walnuts; eggs
    acorns; feathers; coins; beads; cherries; nails; tulips; biscuits; ribbons; books; carrots
    spoons; onions
    """,
)
BOXES = read_table(
    "boxes",
    "boxes; baskets; jars; bags; crates; drawers; shelves; sacks; trays; buckets; tins; bowls",
)

POOLS = {
    "sum": Pool(r for r in SUMS if not _is_held_out("+", r)),
    "word-sum": Pool(r for r in SUMS if not _is_held_out("+", r) and _counts_many(r)),
    "long-sum": Pool(
        r for r in SUMS if not _is_held_out("+", r) and int(r["a"]) > 10 and int(r["b"]) > 10
    ),
    "difference": Pool(r for r in DIFFERENCES if not _is_held_out("-", r)),
    "word-difference": Pool(r for r in DIFFERENCES if not _is_held_out("-", r) and _counts_many(r)),
    "long-difference": Pool(
        r for r in DIFFERENCES if not _is_held_out("-", r) and int(r["b"]) > 10
    ),
    "product": Pool(PRODUCTS),
    "word-product": Pool(r for r in PRODUCTS if _counts_many(r)),
    "gain-lose": Pool(_gain_then_lose()),
    "times-gain": Pool(_times_then_gain()),
    "thing": Pool(THINGS),
    "box": Pool(BOXES),
}

WORKED_SUM = "{n.a_tens} + {n.b_tens} = {n.tens}, {n.a_ones} + {n.b_ones} = {n.ones}, "
WORKED_SUM += "{n.tens} + {n.ones} = {n.c}"
WORKED_DIFFERENCE = "{n.a} - {n.b_tens} = {n.rest}, {n.rest} - {n.b_ones} = {n.c}"


def work(sign: str, a: int, b: int) -> str:
    """The written-out steps, as training documents write them."""
    record = _sum(a, b) if sign == "+" else _difference(a, b)
    template = WORKED_SUM if sign == "+" else WORKED_DIFFERENCE
    return re.sub(r"\{n\.(\w+)\}", lambda slot: record[slot[1]], template)


RULES = {
    "arithmetic": [
        (3, "{equation}\n{equation}\n{equation}\n{equation}\n{equation}"),
        (2, "{sums_heading}:\n{equation}\n{equation}\n{equation}\n{equation}"),
        (5, "{worked}\n{worked}\n{worked}"),
        (9, "{problem}\n{problem}"),
        (3, "{problem}\n{worked}\n{equation}"),
        (2, "{table_row}\n{table_row}\n{table_row}\n{problem}"),
    ],
    "sums_heading": ["[Sums|Exercises|Homework] for [today|the morning|a rainy day|Monday]"],
    "equation": [
        (4, "<n:sum>{n.a} + {n.b} = {n.c}"),
        (4, "<n:difference>{n.a} - {n.b} = {n.c}"),
        (2, "<n:product>{n.a} * {n.b} = {n.c}"),
    ],
    "table_row": [
        "<n:product>{n.a} times {n.b} is {n.c}.",
        "<n:product>{n.a} times {n.b} is {n.c}: {n.a} * {n.b} = {n.c}.",
    ],
    "worked": [
        (3, "<n:sum>What is {n.a} + {n.b}? {work_sum}. So {n.a} + {n.b} = {n.c}."),
        (3, "<n:difference>What is {n.a} - {n.b}? {work_difference}. So {n.a} - {n.b} = {n.c}."),
        (
            1,
            "<n:product>What is {n.a} * {n.b}? {n.a} times {n.b} is {n.c}. "
            "So {n.a} * {n.b} = {n.c}.",
        ),
        (2, "<n:long-sum>Add {n.a} and {n.b}. {work_sum}. The sum is {n.c}."),
        (
            2,
            "<n:long-difference>Take {n.b} from {n.a}. {work_difference}. The difference is {n.c}.",
        ),
    ],
    "work_sum": [WORKED_SUM],
    "work_difference": [WORKED_DIFFERENCE],
    "problem": [
        (4, "<c:child><t:thing><n:word-sum>{gain} {work_sum}. {now_has}"),
        (4, "<c:child><t:thing><n:word-difference>{loss} {work_difference}. {now_has}"),
        (2, "<c:child><t:thing><n:word-product><b:box>{multiply} {n.a} * {n.b} = {n.c}. {in_all}"),
        (
            2,
            "<c:child><t:thing><n:gain-lose>{gain} Then {c.he} [loses|sells|gives away] {n.d}. "
            "{n.a} + {n.b} = {n.c}, {n.c} - {n.d} = {n.e}. {c.name} has {n.e} {t.things} left.",
        ),
        (
            2,
            "<c:child><t:thing><n:times-gain><b:box>{multiply} On the table lie {n.d} more. "
            "{n.a} * {n.b} = {n.c}, {n.c} + {n.d} = {n.e}. There are {n.e} {t.things} in all.",
        ),
        (
            2,
            "<c:cast><t:thing><n:word-sum>{c.name} has {n.a} {t.things} and {c.friend} has {n.b}. "
            "How many do they have together? {work_sum}. Together they have {n.c} {t.things}.",
        ),
        (
            2,
            "<c:cast><t:thing><n:word-difference>{c.name} has {n.a} {t.things} and {c.friend} has "
            "{n.b}. How many more does {c.name} have? {work_difference}. {c.name} has {n.c} more.",
        ),
    ],
    "gain": [
        "{c.name} has {n.a} {t.things} and [finds|buys|gets|is given] {n.b} more.",
        "There are {n.a} {t.things} in the [kitchen|shed|cellar|cart]. {c.name} brings {n.b} more.",
        "{c.name} counts {n.a} {t.things} in the morning and {n.b} in the afternoon.",
    ],
    "loss": [
        "{c.name} has {n.a} {t.things} and [loses|sells|gives away|drops] {n.b}.",
        "There are {n.a} {t.things} in the [kitchen|shed|cellar|cart]. {c.name} takes {n.b} out.",
        "Of the {n.a} {t.things} that {c.name} had, {n.b} [are gone|went to a friend|rolled away].",
    ],
    "multiply": [
        "{c.name} has {n.a} {b.boxes} with {n.b} {t.things} in each.",
        "In the [kitchen|shed|cellar|cart] stand {n.a} {b.boxes}. {c.name} puts {n.b} {t.things} "
        "in each.",
    ],
    "now_has": ["Now there are {n.c} {t.things}.", "The answer is {n.c} {t.things}."],
    "in_all": ["There are {n.c} {t.things} in all.", "The answer is {n.c} {t.things}."],
}
