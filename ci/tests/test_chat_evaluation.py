"""Chat evaluation: a model that has learned its answers gets them right, by every route."""

import pytest
import torch

from chatlib.chat_evaluation import (
    answer_problems,
    choose_letters,
    evaluate_chat,
    reply_text,
    wilson_interval,
    write_replies,
)
from chatlib.conversation import render
from chatlib.data.world import PROBLEM_KINDS
from chatlib.engine import Engine
from chatlib.errors import ChatlibError
from chatlib.evaluation import pad
from chatlib.model import GPT, GPTConfig
from chatlib.report import converse
from chatlib.tasks import Task, world_task
from chatlib.tasks.base import Problem, dialog
from chatlib.tasks.gsm8k import problem as gsm8k_problem
from chatlib.tasks.multiple_choice import mmlu_problem
from chatlib.tokenizer import Tokenizer
from ci.tests.tiny_models import byte_tokenizer, random_model

CHOICES = [
    {"question": f"Pick the {word}.", "choices": ["red", "blue", "green"], "answer": i}
    for i, word in enumerate(["rose", "sea", "leaf"])
]
SUMS = [
    {"question": "How many?", "answer": "It is <<2*3=6>>6.\n#### 6"},
    {"question": "How much?", "answer": "#### 7"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = (
        "Pick the rose. red =A blue =B green =C Answer with one letter. How many? It is 2*3. #### "
    )
    return Tokenizer.train([text] * 9, 290)


def _engine(tokenizer: Tokenizer, seed: int = 0, sequence_len: int = 96) -> Engine:
    model = GPT(GPTConfig(tokenizer.vocab_size, 2, 2, 2, 32, sequence_len))
    model.init_weights(seed)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return Engine(model, tokenizer)


@pytest.fixture(scope="module")
def learned(tokenizer: Tokenizer) -> Engine:
    """An engine whose model has learned the five conversations by heart."""
    engine = _engine(tokenizer)
    problems = [*map(mmlu_problem, CHOICES), *map(gsm8k_problem, SUMS)]
    rendered = [render(tokenizer, problem.conversation) for problem in problems]
    inputs = pad([ids[:-1] for ids, _ in rendered], 0)
    labels = [[i if m else -1 for i, m in zip(*pair, strict=True)][1:] for pair in rendered]
    targets = pad(labels, -1)
    model = engine.model
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    return engine


def test_wilson_interval_has_the_published_values():
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)


def test_letters_are_chosen_at_the_end_of_each_prompt(tokenizer, learned):
    problems = list(map(mmlu_problem, CHOICES))
    assert choose_letters(learned, problems) == ["A", "B", "C"]
    engine = _engine(tokenizer)  # knows nothing: compare with one prompt at a time
    together = choose_letters(engine, problems)
    assert together == [choose_letters(engine, [problem])[0] for problem in problems]
    assert set(together) <= {"A", "B", "C"}


def test_replies_use_the_calculator_and_keep_it_to_themselves(tokenizer, learned):
    problems = list(map(gsm8k_problem, SUMS))
    assert write_replies(learned, problems, max_tokens=40) == ["It is 6.\n#### 6", "#### 7"]
    ids, _ = render(tokenizer, problems[0].conversation)
    start = ids.index(tokenizer.special("<|assistant_start|>")) + 1
    assert "2*3" in tokenizer.decode(ids[start:])
    assert reply_text(tokenizer, ids[start:]) == "It is 6.\n#### 6"


def test_a_learned_task_scores_one_and_a_changed_answer_zero(learned):
    tasks = [
        Task("choices", CHOICES, mmlu_problem, 1 / 3),
        Task("sums", SUMS, gsm8k_problem),
    ]
    result = evaluate_chat(learned, tasks, max_tokens=40)
    assert result["chat_core"] == 1
    assert result["tasks"]["choices"]["items"] == 3
    low, high = result["tasks"]["sums"]["interval"]
    assert (low, high) == pytest.approx(wilson_interval(2, 2), abs=1e-4)
    wrong = [row | {"answer": (row["answer"] + 1) % 3} for row in CHOICES]
    result = evaluate_chat(learned, [Task("choices", wrong, mmlu_problem, 1 / 3)])
    assert result["chat_core"] == pytest.approx(-0.5)


def test_choices_that_are_not_one_token_are_answered_in_full(learned):
    problem = Problem(
        dialog("How much?", "#### 7"), "#### 7", lambda r: r == "#### 7", "x", ("#### 7",)
    )
    choice = mmlu_problem(CHOICES[2])
    assert answer_problems(learned, [problem, choice, problem], 20) == ["#### 7", "C", "#### 7"]


def test_prompts_longer_than_the_context_are_cropped(tokenizer):
    engine = _engine(tokenizer, sequence_len=48)
    rows = [CHOICES[0] | {"question": "Pick " * 200}, CHOICES[1]]
    tasks = [Task("long", rows, mmlu_problem), Task("sums", SUMS, gsm8k_problem)]
    result = evaluate_chat(engine, tasks, max_tokens=500)
    assert [task["items"] for task in result["tasks"].values()] == [2, 2]


def test_world_accuracy_by_kind(tokenizer):
    result = evaluate_chat(_engine(tokenizer), [world_task(60)], max_items=30, max_tokens=12)
    world = result["tasks"]["world"]
    assert world["items"] == 30 and set(world["kinds"]) == set(PROBLEM_KINDS)
    assert sum(kind["items"] for kind in world["kinds"].values()) == 30
    assert world["accuracy"] < 0.2
    for kind in world["kinds"].values():
        low, high = kind["interval"]
        assert 0 <= low <= kind["accuracy"] <= high <= 1


def test_a_conversation_longer_than_the_context_goes_on():
    tokenizer = byte_tokenizer()
    engine = Engine(random_model(tokenizer, context=96), tokenizer)
    questions = [f"{i}: which of the bees do you know by name?" for i in range(5)]
    messages = converse(engine, questions)
    assert [m["content"] for m in messages[::2]] == questions
    assert [m["role"] for m in messages] == ["user", "assistant"] * 5
    with pytest.raises(ChatlibError, match="reads at most 95"):
        converse(engine, ["b" * 100])
