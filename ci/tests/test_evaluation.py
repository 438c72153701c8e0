"""Bits per byte and CORE: against arithmetic done by hand, and on models that know the answers."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from chatlib import evaluation
from chatlib.data.world import World
from chatlib.errors import ChatlibError
from chatlib.evaluation import (
    CORE_TASKS,
    CoreTask,
    answer_rows,
    bits_per_byte,
    document_batches,
    document_bits,
    evaluate_core,
    load_core_tasks,
    pick_items,
    ratio_interval,
    render_item,
    score_rows,
    score_task,
    world_core_tasks,
)
from chatlib.model import GPT, GPTConfig
from chatlib.tokenizer import Tokenizer

REAL_TASKS = Path(__file__).parents[3] / "shared" / "data" / "core"
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima",
    "Japan": "Tokyo", "Egypt": "Cairo", "Cuba": "Havana", "Norway": "Oslo",
}  # fmt: skip
TEXTS = [f"The capital of {land} is {city}." for land, city in CAPITALS.items()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 20, 300)


def _model(tokenizer: Tokenizer, sequence_len: int = 64, seed: int = 0) -> GPT:
    model = GPT(GPTConfig(tokenizer.vocab_size, 2, 2, 2, 32, sequence_len))
    model.init_weights(seed)
    with torch.no_grad():  # at initialization the head says nothing yet
        model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return model


def _bytes(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.from_numpy(tokenizer.token_bytes())


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return _model(tokenizer)


@pytest.fixture(scope="module")
def learned(tokenizer: Tokenizer) -> GPT:
    """A model that has learned the eight sentences by heart."""
    model = _model(tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    (batch,) = document_batches(tokenizer, TEXTS, 64)
    for _ in range(200):
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    return model


def _uniform(model: GPT) -> GPT:
    """The same shape, but every token is equally likely."""
    uniform = GPT(model.config)
    uniform.init_weights(0)
    torch.nn.init.zeros_(uniform.head.weight)
    return uniform


# --- bits per byte ---


def test_uniform_model_costs_log2_of_the_vocabulary(tokenizer, model):
    uniform, log2_v = _uniform(model), math.log2(tokenizer.vocab_size)
    tokens = [len(tokenizer.encode(text)) for text in TEXTS]
    size = sum(len(text.encode()) for text in TEXTS)
    bpb = bits_per_byte(uniform, document_batches(tokenizer, TEXTS, 64), _bytes(tokenizer))
    assert bpb == pytest.approx(sum(tokens) * log2_v / size)
    bits = document_bits(uniform, tokenizer, TEXTS)  # here the end of the document counts too
    assert bits == pytest.approx([(n + 1) * log2_v for n in tokens])


def test_bits_of_a_document_are_the_logarithm_of_its_probability(tokenizer, model):
    text = TEXTS[3]
    ids = [tokenizer.bos, *tokenizer.encode(text), tokenizer.bos]
    p = model(torch.tensor([ids[:-1]]))[0].detach().double().softmax(-1)
    by_hand = -sum(math.log2(p[i, token]) for i, token in enumerate(ids[1:]))
    assert document_bits(model, tokenizer, TEXTS)[3] == pytest.approx(by_hand, rel=1e-5)


def test_batches_hold_every_token_once_whatever_their_size(tokenizer):
    texts = [*TEXTS, " ".join(TEXTS), "", "Zoé"]
    size = sum(len(text.encode()) for text in texts)
    lengths = _bytes(tokenizer)
    for seq_len, batch in [(8, 3), (16, 100), (200, 1)]:
        batches = document_batches(tokenizer, texts, seq_len, batch)
        counted = ends = 0
        for inputs, targets in batches:
            assert inputs.shape == targets.shape and inputs.size(1) <= seq_len
            assert inputs.size(0) <= batch
            assert (inputs[:, 0] == tokenizer.bos).all()
            real = targets[targets >= 0]
            counted += lengths[real].sum().item()
            ends += (real == tokenizer.bos).sum().item()
        assert (counted, ends) == (size, len(texts))


def test_result_does_not_depend_on_batch_order_or_shards(tokenizer, model):
    texts = [*TEXTS, " ".join(TEXTS)]
    token_bytes = _bytes(tokenizer)
    whole = bits_per_byte(model, document_batches(tokenizer, texts, 32, 100), token_bytes)
    small = bits_per_byte(model, document_batches(tokenizer, texts[::-1], 32, 2), token_bytes)
    assert small == pytest.approx(whole, rel=1e-6)


def test_interval_covers_the_ratio_and_narrows():
    rng = np.random.default_rng(0)
    size = rng.integers(50, 500, 400).astype(float)
    bits = size * rng.normal(1.2, 0.3, 400)
    low, high = ratio_interval(bits, size)
    few_low, few_high = ratio_interval(bits[:40], size[:40])
    assert low < bits.sum() / size.sum() < high
    assert 2 < (few_high - few_low) / (high - low) < 5  # about the square root of ten


# --- CORE ---

QUESTION = {"query": "Sky is", "choices": ["green", "blue"], "gold": 1}
SCHEMA = {"context_options": ["Ann, so Ann", "Ann, so Bo"], "continuation": "slept.", "gold": 0}
CLOZE = {"context": " Two and two is ", "continuation": "four"}


def test_rendering_without_shots():
    assert render_item(CoreTask("t", [QUESTION], delimiter="\nAnswer: "), 0) == [
        "Sky is\nAnswer: green",
        "Sky is\nAnswer: blue",
    ]
    assert render_item(CoreTask("t", [SCHEMA]), 0) == ["Ann, so Ann slept.", "Ann, so Bo slept."]
    assert render_item(CoreTask("t", [CLOZE]), 0) == ["Two and two is", "Two and two is four"]


def test_rendering_with_shots():
    items = [CLOZE, CLOZE | {"context": "One and one is", "continuation": "two"}]
    assert render_item(CoreTask("t", items, shots=10, delimiter="\nAnswer: "), 0) == [
        "One and one is\nAnswer: two\n\nTwo and two is\nAnswer:",
        "One and one is\nAnswer: two\n\nTwo and two is\nAnswer: four",
    ]


def test_shots_come_from_the_truncated_list_and_never_show_the_item():
    items = [{"query": f"q{i}", "choices": ["x", "y"], "gold": 0} for i in range(50)]
    kept = pick_items(CoreTask("t", items, shots=3), 8)
    shuffled = list(items)
    random.Random(1337).shuffle(shuffled)
    assert kept.items == shuffled[:8]
    for i in range(8):
        others = [j for j in range(8) if j != i]
        drawn = random.Random(1234 + i).sample(others, 3)
        expected = [shuffled[j]["query"] + " x" for j in drawn]
        assert render_item(kept, i)[0].split("\n\n")[:-1] == expected


def test_where_the_answer_starts():
    assert answer_rows(QUESTION, [[0, 5, 6, 7], [0, 5, 8]], 99) == [
        ([0, 5, 6, 7], 2),
        ([0, 5, 8], 2),
    ]
    assert answer_rows(SCHEMA, [[0, 5, 8, 9], [0, 5, 6, 8, 9]], 99) == [
        ([0, 5, 8, 9], 2),
        ([0, 5, 6, 8, 9], 3),
    ]
    assert answer_rows(CLOZE, [[0, 5, 6], [0, 5, 6, 7, 8]], 99) == [([0, 5, 6, 7, 8], 3)]
    # An option that is the beginning of another still has a token to score.
    assert answer_rows(QUESTION, [[0, 5, 6], [0, 5, 6, 7]], 99) == [
        ([0, 5, 6], 2),
        ([0, 5, 6, 7], 2),
    ]


def test_long_prompts_lose_their_beginning():
    rows = [[0, *range(10, 30), 7], [0, *range(10, 30), 8, 9]]
    first, second = answer_rows(QUESTION, rows, 5)
    assert first == ([26, 27, 28, 29, 7], 4)
    assert second == ([27, 28, 29, 8, 9], 3)
    assert answer_rows(CLOZE, [[0, 1], [0, 1, 2, 3, 4, 5, 6]], 3) == [([4, 5, 6], 1)]


def test_scores_are_mean_nats_by_hand(model):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(20):
        ids = rng.integers(0, model.config.vocab_size, rng.integers(2, 40)).tolist()
        rows.append((ids, int(rng.integers(1, len(ids)))))
    nats, exact = score_rows(model, rows)
    for (ids, start), cost in zip(rows, nats, strict=True):
        logp = model(torch.tensor([ids]))[0].detach().double().log_softmax(-1)
        by_hand = -np.mean([float(logp[i - 1, ids[i]]) for i in range(start, len(ids))])
        assert cost == pytest.approx(by_hand, rel=1e-4)
    assert not exact.any()


def test_greedy_match_needs_every_token(model):
    ids = [3, 1, 4]
    while len(ids) < 12:
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    _, exact = score_rows(model, [(ids, 3), ([*ids[:-1], (ids[-1] + 1) % 99], 3), (ids, 2)])
    assert exact.tolist()[:2] == [True, False]


def test_batching_changes_nothing(tokenizer, model, monkeypatch):
    task = CoreTask("t", [_choice(land) for land in CAPITALS], shots=2)
    together = score_task(model, tokenizer, task)
    monkeypatch.setattr(evaluation, "TOKENS_PER_BATCH", 1)
    assert (score_task(model, tokenizer, task) == together).all()


def _choice(land: str) -> dict:
    choices = sorted(CAPITALS.values())
    query = f"The capital of {land} is"
    return {"query": query, "choices": choices, "gold": choices.index(CAPITALS[land])}


def test_a_model_that_knows_solves_all_three_types(tokenizer, learned):
    schema = [
        {
            "context_options": [f"The capital of {a} is", f"The capital of {b} is"],
            "continuation": CAPITALS[b] + ".",
            "gold": 1,
        }
        for a, b in zip(CAPITALS, list(CAPITALS)[::-1], strict=True)
    ]
    cloze = [{"context": f"The capital of {c} is", "continuation": CAPITALS[c]} for c in CAPITALS]
    tasks = [
        CoreTask("choice", [_choice(land) for land in CAPITALS], baseline=1 / 8),
        CoreTask("schema", schema, baseline=0.5),
        CoreTask("cloze", cloze),
    ]
    result = evaluate_core(learned, tokenizer, tasks)
    assert result["core"] == 1.0 and result["interval"] == [1.0, 1.0]
    wrong = [item | {"gold": (item["gold"] + 1) % 8} for item in tasks[0].items]
    result = evaluate_core(learned, tokenizer, [CoreTask("wrong", wrong, baseline=1 / 8), tasks[2]])
    assert result["tasks"]["wrong"]["centered"] == pytest.approx(-1 / 7)
    assert result["core"] == pytest.approx((1 - 1 / 7) / 2)


def test_interval_of_a_coin(tokenizer, model):
    items = [{"query": f"{i}:", "choices": ["a", "b"], "gold": i % 2} for i in range(100)]
    task = evaluate_core(model, tokenizer, [CoreTask("coin", items, baseline=0.5)])["tasks"]["coin"]
    low, high = task["interval"]
    assert low < task["centered"] < high
    assert 0.3 < high - low < 0.45  # 2 x 2 x 1.96 x sqrt(.25 / 100)


def test_loading_tasks(tmp_path):
    (tmp_path / "world").mkdir()
    lines = json.dumps(QUESTION) + "\n" + json.dumps(QUESTION) + "\n\n"
    (tmp_path / "world" / "commonsense_qa.jsonl").write_text(lines)
    (tmp_path / "hellaswag.jsonl").write_text(lines)
    (tmp_path / "other.jsonl").write_text("not ours")
    tasks = {task.name: task for task in load_core_tasks(tmp_path)}
    assert list(tasks) == ["hellaswag_zeroshot", "commonsense_qa", "hellaswag"]
    assert [task.shots for task in tasks.values()] == [0, 10, 10]
    assert tasks["commonsense_qa"].items == [QUESTION, QUESTION]
    assert tasks["commonsense_qa"].baseline == 0.2
    assert load_core_tasks(tmp_path, corrected=True)[1].baseline == 0.403
    with pytest.raises(ChatlibError, match="No CORE tasks"):
        load_core_tasks(tmp_path / "nowhere")


def test_world_tasks_are_chance_for_a_model_that_knows_nothing(tokenizer, model):
    tasks = world_core_tasks(World(0), items=40)
    assert {task.name for task in tasks} >= {"world_facts_mc", "world_schema", "world_cloze"}
    result = evaluate_core(model, tokenizer, tasks)
    assert abs(result["tasks"]["world_facts_mc"]["centered"]) < 0.4
    assert result["tasks"]["world_cloze"]["accuracy"] == 0


def test_the_table_is_complete():
    assert len(CORE_TASKS) == len({name for name, *_ in CORE_TASKS}) == 22


def test_real_tasks_score_near_chance_without_error(tokenizer):
    if not REAL_TASKS.is_dir():
        pytest.skip("the optional folder ../shared/data/core is not there")
    tasks = load_core_tasks(REAL_TASKS)
    assert len(tasks) == 8
    model = _model(tokenizer, sequence_len=128)
    result = evaluate_core(model, tokenizer, tasks, max_items=12)
    assert list(result["tasks"]) == [task.name for task in tasks]
    for task in tasks:
        scored = result["tasks"][task.name]
        assert scored["items"] == 12
        assert scored["accuracy"] <= 0.9 if task.baseline else scored["accuracy"] == 0
    low, high = result["interval"]
    assert -0.3 < low < result["core"] < high < 0.3


# --- several processes ---


def _one_of_two(rank: int, address: str, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    tokenizer = Tokenizer.load(path)
    model = _model(tokenizer)
    batches = document_batches(tokenizer, TEXTS, 16, 1000)[rank::2]  # one batch: none for rank 1
    bpb = bits_per_byte(model, batches, _bytes(tokenizer))
    right = score_task(model, tokenizer, CoreTask("t", [_choice(land) for land in CAPITALS]))
    Path(f"{path}.{rank}").write_text(json.dumps([bpb, right.tolist()]))
    dist.destroy_process_group()


def test_two_processes_share_the_work(tokenizer, model, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    address = f"file://{tmp_path}/meet"
    multiprocessing.spawn(_one_of_two, (address, str(path)), nprocs=2)
    alone = bits_per_byte(model, document_batches(tokenizer, TEXTS, 16), _bytes(tokenizer))
    right = score_task(model, tokenizer, CoreTask("t", [_choice(land) for land in CAPITALS]))
    for rank in (0, 1):
        bpb, answers = json.loads(Path(f"{path}.{rank}").read_text())
        assert bpb == pytest.approx(alone, rel=1e-6)
        assert answers == right.tolist()
