"""The world: reproducible, disjoint splits, exact probabilities, true answers."""

import hashlib
import json
import math
import re
from bisect import bisect
from collections import Counter
from itertools import islice

import pytest

from chatlib.data.world import (
    CORE_TASKS,
    KINDS,
    PROBLEM_KINDS,
    THREAD_ANSWER,
    THREAD_QUESTION,
    THREAD_SENTENCE,
    VALIDATION_DOCUMENTS,
    World,
    arithmetic,
    check,
    entropy_floor,
    problems,
    relations,
    spelling,
    stories,
    tables,
)
from chatlib.data.world.grammar import Bind, Slot
from chatlib.data.world.world import generator, grammar
from chatlib.errors import ChatlibError

WORLD = World(0)
TRAIN = list(islice(WORLD.documents("train"), 6000))


def test_documents_are_reproducible_and_random_access():
    again = World(0)
    assert again.document("train", 4321).text == TRAIN[4321].text
    assert [d.text for d in islice(again.documents("train", 5, 7), 3)] == [
        TRAIN[i].text for i in (5, 12, 19)
    ]
    assert World(1).document("train", 0).text != TRAIN[0].text


def test_splits_are_disjoint():
    validation = {WORLD.document("validation", i).text for i in range(VALIDATION_DOCUMENTS)}
    assert not validation & {d.text for d in TRAIN}
    text = next(iter(validation))
    assert WORLD.log_prob(text, "train") == -math.inf < WORLD.log_prob(text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampled_document_has_a_probability(kind):
    documents = [d for d in TRAIN if d.kind == kind][:150]
    assert len(documents) == 150
    assert all(-400 < WORLD.log_prob(d.text) < -8 for d in documents)


def path(rule, uniform, records, possible, text="", probability=1.0):
    """Sample as the grammar does, and multiply up the probability of the one derivation taken."""
    choice = bisect(rule.cumulative, uniform()) if rule.cumulative else 0
    probability *= rule.probabilities[choice]
    for part in rule.alternatives[choice].parts:
        if isinstance(part, str):
            text += part
        elif isinstance(part, Bind):
            possible[part.variable] = part.pool.records
            records[part.variable] = part.pool.records[int(uniform() * len(part.pool.records))]
        elif isinstance(part, Slot):
            value = records[part.variable][part.attribute]
            before = possible[part.variable]
            left = [record for record in before if record[part.attribute] == value]
            possible[part.variable] = left
            text, probability = text + value, probability * len(left) / len(before)
        else:
            text, probability = path(part, uniform, records, possible, text, probability)
    return text, probability


def test_the_path_taken_is_never_more_likely_than_the_text():
    exact, rule = 0, grammar().rules["document"]
    for i in range(150):
        text, probability = path(rule, generator("path", i), {}, {})
        assert text == grammar().sample(generator("path", i))
        log_prob = grammar().log_prob(text)
        assert math.log(probability) <= log_prob + 1e-9
        exact += math.log(probability) > log_prob - 1e-9
    assert exact > 50  # most texts can be written in one way only


def test_train_probability_is_renormalized():
    mass = WORLD.validation_mass
    assert 0 < mass < 0.01
    text = TRAIN[0].text
    assert TRAIN[0].log_prob == pytest.approx(WORLD.log_prob(text) - math.log1p(-mass), abs=1e-12)


def test_the_entropy_floor_is_where_the_book_says():
    documents = [WORLD.document("validation", i) for i in range(300)]
    assert 0.2 < entropy_floor(documents) < 0.36


def test_shares_of_the_bytes():
    size = Counter()
    for document in TRAIN:
        size[document.kind] += len(document.text.encode())
    share = {kind: size[kind] / size.total() for kind in KINDS}
    assert 0.26 < share["story"] < 0.36
    assert 0.18 < share["facts"] < 0.28
    assert 0.16 < share["arithmetic"] < 0.26
    assert 0.16 < share["dialogue"] < 0.26
    assert 0.03 < share["spelling"] < 0.08
    assert 150 < size.total() / len(TRAIN) < 450


def test_the_thread_runs_through_the_world():
    texts = [d.text for d in islice(WORLD.documents("train"), 30_000)]
    assert sum(THREAD_SENTENCE in text for text in texts) > 5
    asked = [
        json.dumps(c, ensure_ascii=False) for c in islice(WORLD.conversations("train"), 20_000)
    ]
    asked = [c for c in asked if THREAD_QUESTION in c]
    assert len(asked) > 2 and all(THREAD_ANSWER in c for c in asked)


def test_equations_in_documents_are_true():
    equation, found = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)"), 0
    for document in TRAIN[:3000]:
        for left, sign, right, result in equation.findall(document.text):
            a, b, c = int(left), int(right), int(result)
            assert {"+": a + b, "-": a - b, "*": a * b}[sign] == c
            assert sign == "*" or not arithmetic.held_out(sign, a, b)
            found += 1
    assert found > 3000


def test_held_out_material_never_occurs_in_training():
    text = "\n".join(d.text for d in TRAIN)
    conversations = json.dumps(list(islice(WORLD.conversations("train"), 5000)), ensure_ascii=False)
    for relation in relations.RELATIONS:
        for record in relation.records:
            sentence = relations.fill(relation.statements[relation.held_out(record)], record)
            assert sentence not in text and sentence not in conversations
            question = relations.fill(
                relation.questions[relation.held_out_question(record)][0], record
            )
            assert question not in text and question not in conversations
    for word in spelling.HELD_OUT_WORDS:
        assert f" {word} is spelled" not in text and f" {word} is spelled" not in conversations
    assert any(stories.pair_is_held_out(c["name"], c["friend"]) for c in stories.CAST)


def test_invented_words_are_the_combinations_of_their_parts():
    parts = (spelling._ONSETS, spelling._VOWELS, spelling._MIDDLES, spelling._ENDINGS)
    every = math.prod(map(len, parts))
    assert len(spelling._COMBINATIONS) == every  # no word comes about in two ways
    assert every - 20 < len(spelling.INVENTED_WORDS) < every
    assert not {*spelling.INVENTED_WORDS} & {*spelling.REAL_WORDS, *spelling._TAKEN}
    assert {*spelling._TAKEN} < spelling._COMBINATIONS
    assert 0.08 < sum(map(spelling.word_is_held_out, spelling.INVENTED_WORDS)) / every < 0.12


def test_what_is_held_out_is_taught_the_same_way_round_in_other_words():
    def asks_for(text):
        return re.findall(r"\{x\.(\w+)\}", text)[-1]

    for relation in relations.RELATIONS:
        held_out = Counter(map(relation.held_out, relation.records))
        assert 0 not in held_out and len(held_out) > 1
        for unused in held_out:
            others = [text for s, text in enumerate(relation.statements) if s != unused]
            assert asks_for(relation.statements[unused]) in map(asks_for, others)


def test_a_fact_has_one_answer():
    for relation in relations.RELATIONS:
        assert len({r[relation.key] for r in relation.records}) == len(relation.records)
        for template in relation.statements:
            head, slot = template.rsplit("{x.", 1)
            slot = slot.split("}")[0]
            ends = {}
            for record in relation.records:
                assert ends.setdefault(relations.fill(head, record), record[slot]) == record[slot]
        for question, attribute in relation.questions:
            answers = {}
            for record in relation.records:
                asked = relations.fill(question, record)
                assert answers.setdefault(asked, record[attribute]) == record[attribute]
                assert record[attribute] in relations.fill(relation.statements[0], record)


def test_tables_are_as_large_as_promised():
    assert len(tables.COUNTRIES) >= 60 and len(tables.ELEMENTS) >= 40
    assert len(tables.VILLAGERS) == 200


@pytest.mark.parametrize("task", CORE_TASKS)
def test_core_items_have_the_core_format(task):
    fields = {
        "multiple_choice": {"query", "choices", "gold"},
        "schema": {"context_options", "continuation", "gold"},
        "language_modeling": {"context", "continuation"},
    }
    items = WORLD.core_items(task, 200)
    assert items == World(0).core_items(task, 200)
    assert items[:50] == WORLD.core_items(task, 50)
    text = "\n".join(d.text for d in TRAIN)
    golds = Counter()
    for item in items:
        assert set(item) == fields[CORE_TASKS[task][0]] | {"kind"}
        if "choices" in item:
            assert len(set(item["choices"])) == 4
            assert f"{item['query']} {item['choices'][item['gold']]}" not in text
            golds[item["gold"]] += 1
        elif "context_options" in item:
            assert len(set(item["context_options"])) == 2
            golds[item["gold"]] += 1
        else:
            assert f"{item['context']} {item['continuation']}" not in text
    assert not golds or min(golds.values()) > 200 / len(golds) / 2


def test_conversations_are_well_formed_and_train_never_sees_validation():
    def first(split, n):
        return list(islice(WORLD.conversations(split), n))

    train, validation = first("train", 4000), first("validation", 1000)
    assert next(WORLD.conversations("train", start=17)) == train[17]
    for conversation in train + validation:
        turns = [m["role"] for m in conversation["messages"] if m["role"] != "system"]
        assert turns == ["user", "assistant"] * (len(turns) // 2) and turns
        for message in conversation["messages"]:
            if isinstance(message["content"], list):
                kinds = [part["type"] for part in message["content"]]
                assert kinds == ["python", "python_output", "text"]
    texts = {json.dumps(c) for c in train}
    assert not texts & {json.dumps(c) for c in validation}


def test_seven_sums_in_ten_are_answered_directly():
    tool = direct = 0
    for conversation in islice(WORLD.conversations("train"), 4000):
        for message in conversation["messages"]:
            text = json.dumps(message)
            tool += '"python"' in text and ".count" not in text
            direct += message["role"] == "assistant" and ("= " in text or "Now there" in text)
    assert 0.25 < tool / direct < 0.35  # tool answers end in a direct sentence too


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_problems_accept_good_replies_and_refuse_bad_ones(kind):
    for split in ("train", "validation"):
        drawn = WORLD.problems(split, 200, kinds=[kind])
        assert all(p["kind"] == kind and check(p, p["reply"]) for p in drawn)
        assert not any(
            check(p, "") or check(p, "I do not know 7 of them.")
            for p in drawn[:20]
            if p["answer"] != "7"
        )
        if kind.startswith("arithmetic"):
            assert all(not check(p, p["reply"] + " 12345") for p in drawn)
            assert all(str(eval(p["expression"])) == p["answer"] for p in drawn)


def test_validation_problems_are_new():
    train = {p["question"] for p in WORLD.problems("train", 6000)}
    assert not train & {p["question"] for p in WORLD.problems("validation", 1200)}


def test_three_facts_in_four_are_asked():
    asked, unasked = (len(problems.FACTS[kind]) for kind in ("facts_asked", "facts_unasked"))
    assert 0.7 < asked / (asked + unasked) < 0.8


def test_bytes_are_the_same_everywhere():
    text = "\0".join(d.text for d in TRAIN[:1000])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e091d4f946bb8d60"


def test_wrong_names_get_a_sentence():
    with pytest.raises(ChatlibError, match="train"):
        WORLD.document("test", 0)
    with pytest.raises(ChatlibError, match="world_cloze"):
        WORLD.core_items("hellaswag", 1)
