"""The loader: what it packs, what it loses, and that it goes on exactly where it stopped."""

import gc
import json
import re
import threading
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.conversation import render
from chatlib.data.loader import BestFit, BestFitLoader, ConversationLoader, Lane
from chatlib.data.sources import open_source
from chatlib.errors import ChatlibError
from chatlib.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for _, text in islice(open_source("world").documents("train"), 50)]
    return Tokenizer.train(texts, 320)


class Listed:
    """A source of given texts, dealt by number."""

    def __init__(self, texts):
        self.texts = texts

    def documents(self, split, rank=0, world_size=1, start=0):
        for number in range(start + (rank - start) % world_size, len(self.texts), world_size):
            yield number, self.texts[number]


def some_texts(count, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 200, count)
    return [
        "".join(map(chr, generator.integers(97, 123, n))) + f" {i}" for i, n in enumerate(lengths)
    ]


def take(loader, count):
    """The rows of `count` batches: inputs, and the last target behind them."""
    batches = [next(loader) for _ in range(count)]
    loader.close()
    return [torch.cat([x, y[:, -1:]], dim=1).tolist() for x, y in batches]


# The pool

lengths = st.lists(st.integers(1, 12), max_size=40)


@given(lengths, st.lists(st.integers(0, 12), max_size=40))
def test_the_pool_agrees_with_a_plain_search(sizes, spaces):
    items = [np.full((1, n), i) for i, n in enumerate(sizes)]
    pool, plain = BestFit(items), list(items)
    for space in spaces:
        fitting = [item for item in plain if item.shape[1] <= space]
        best = max(fitting, key=lambda item: item.shape[1], default=None)  # the first, on ties
        if best is None and plain:
            best = min(plain, key=lambda item: item.shape[1])
            taken = pool.take_shortest()
        else:
            taken = pool.take_largest(space)
        assert taken is best
        plain = [item for item in plain if item is not best]
        assert len(pool) == len(plain)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=25), min_size=1, max_size=30),
       st.integers(5, 30), st.integers(1, 8))  # fmt: skip
def test_rows_are_full_and_only_crops_lose_tokens(documents, size, buffer):
    """Every row is a sequence of whole documents, but for the last part, which may be cropped."""
    serial = [[1000 + i, *document] for i, document in enumerate(documents)]

    def stream(start):
        for i in range(start, len(serial)):
            yield i + 1, [np.array([serial[i][:size]])]

    lane, seen = Lane(stream, size, buffer), []
    while lane.epoch == 0:
        row = lane.row()
        assert row.shape == (1, size)
        assert row[0, 0] >= 1000, "a row begins with the beginning of a document"
        starts = [i for i, token in enumerate(row[0]) if token >= 1000]
        for begin, end in pairwise([*starts, size]):
            whole = serial[row[0, begin] - 1000][:size]
            part = row[0, begin:end].tolist()
            assert part == whole[: len(part)]
            assert len(part) == len(whole) or end == size, "only the last document is cropped"
            seen.append(row[0, begin] - 1000)
    waiting = [item[0, 0] - 1000 for item in lane.pool.items()]
    assert set(seen + waiting) == set(range(len(serial))), "no document is forgotten"


def test_a_long_document_loses_nothing(tokenizer):
    """Pieces of a document longer than a row, put together again, are the document."""
    text = "the quick brown fox jumps over the lazy dog " * 100
    loader = BestFitLoader(Listed([text]), tokenizer, 1, 64, buffer=1)
    ids, got = tokenizer.encode(text), []
    for [row] in take(loader, len(ids) // 64):
        assert row[0] == tokenizer.bos
        got += row[1:]
    assert got == ids[: len(got)] and len(ids) - len(got) < 64


def test_inputs_and_targets_are_one_token_apart(tokenizer):
    loader = BestFitLoader(Listed(some_texts(100)), tokenizer, 4, 32)
    for inputs, targets in islice(loader, 20):
        assert inputs.shape == targets.shape == (4, 32)
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous() and targets.is_contiguous()
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert (inputs[:, 0] == tokenizer.bos).all()
    loader.close()


# Resume


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_resume_is_exact_whatever_the_thread_has_prefetched(tokenizer, stop):
    def make():
        return BestFitLoader(Listed(some_texts(40)), tokenizer, 3, 48, buffer=30)

    whole = take(make(), 30)  # several epochs
    loader = make()
    for _ in range(stop):
        next(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    assert take(loader, 5) == whole[stop : stop + 5]
    resumed = make()
    next(resumed)  # a thread runs already and has to start again
    resumed.load_state_dict(state)
    assert take(resumed, 30 - stop) == whole[stop:]


def test_closing_loses_nothing(tokenizer):
    loader = BestFitLoader(Listed(some_texts(40)), tokenizer, 3, 48, buffer=30)
    first, second = take(loader, 4), take(loader, 4)
    again = BestFitLoader(Listed(some_texts(40)), tokenizer, 3, 48, buffer=30)
    assert first + second == take(again, 8)


def step_rows(loaders, steps, micro_batches):
    """The rows of each step, over all ranks and micro-batches, sorted."""
    batches = [take(loader, steps * micro_batches) for loader in loaders]
    return [
        sorted(row for share in batches for i in range(micro_batches)
               for row in share[step * micro_batches + i])
        for step in range(steps)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "world_size, batch, micro_batches", [(1, 4, 4), (2, 8, 1), (4, 1, 4), (8, 2, 1)]
)
def test_every_number_of_ranks_and_micro_batches_sees_the_same_rows(
    tokenizer, world_size, batch, micro_batches
):
    source = Listed(some_texts(400))

    def make(world_size, batch, micro_batches):
        return [
            BestFitLoader(
                source, tokenizer, batch, 48, rank=rank, world_size=world_size,
                micro_batches=micro_batches, buffer=20,
            )
            for rank in range(world_size)
        ]  # fmt: skip

    alone = step_rows(make(1, 16, 1), 6, 1)
    ranks = make(world_size, batch, micro_batches)
    assert step_rows(ranks, 3, micro_batches) == alone[:3]
    merged = {k: v for loader in ranks for k, v in loader.state_dict().items()}
    [resumed] = make(1, 16, 1)
    resumed.load_state_dict(json.loads(json.dumps(merged)))
    assert step_rows([resumed], 3, 1) == alone[3:], "handed over to one rank"


def test_other_lanes_go_on_after_what_was_read(tokenizer):
    source = Listed([f"document {i} ends" for i in range(3000)])

    def numbers(batches):
        said = " ".join(tokenizer.decode(row) for batch in batches for row in batch)
        return {int(n) for n in re.findall(r"document (\d+) ends", said)}

    loader = BestFitLoader(source, tokenizer, 3, 48, buffer=20)
    read = numbers(take(loader, 10))
    state = loader.state_dict()
    wider = BestFitLoader(source, tokenizer, 2, 48, buffer=20)
    wider.load_state_dict(state)
    more = numbers(take(wider, 100))
    assert max(read) < state["lane 0"]["position"] == min(more)


# Ends and errors


def test_a_finite_corpus_begins_again(tokenizer):
    loader = BestFitLoader(Listed(some_texts(5)), tokenizer, 2, 32, buffer=50)
    take(loader, 50)
    assert loader.state_dict()["lane 0"]["epoch"] > 1


def test_too_little_text_is_said_instead_of_waiting_for_ever(tokenizer):
    loader = BestFitLoader(Listed(some_texts(2)), tokenizer, 1, 16, rank=3, world_size=4)
    with pytest.raises(ChatlibError, match="too little data to deal out"):
        next(loader)
    for texts in ([], ["", ""]):
        with pytest.raises(ChatlibError, match="too little data"):
            next(BestFitLoader(Listed(texts), tokenizer, 1, 16))


def test_an_error_in_the_thread_reaches_the_caller_and_can_be_mended(tokenizer):
    texts = some_texts(600)
    source = Listed(list(texts))
    source.texts[300] = None
    loader = BestFitLoader(source, tokenizer, 2, 32, buffer=10)
    read = []
    with pytest.raises(TypeError):
        for _ in range(1000):
            read += [next(loader)]
    assert read, "what came before the error was delivered"
    source.texts[300] = texts[300]
    next(loader)
    loader.close()


def test_the_thread_ends_with_the_loader(tokenizer):
    before = threading.active_count()
    loader = BestFitLoader(Listed(some_texts(100)), tokenizer, 2, 32)
    next(loader)
    thread = loader.thread
    assert threading.active_count() == before + 1
    del loader
    gc.collect()
    thread.join(timeout=5)
    assert not thread.is_alive()


# Conversations


def talk(question, *answers):
    messages = []
    for answer in answers:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    return {"messages": messages}


def some_talks(count, seed=0, longest=60):
    generator = np.random.default_rng(seed)

    def words():
        return " ".join(["word"] * generator.integers(1, longest)) + str(generator.integers(100))

    return [
        talk(words(), *[words() for _ in range(generator.integers(1, 3))]) for _ in range(count)
    ]


def factory(talks):
    return lambda start: iter(talks[start:])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(24, 200))
def test_conversations_stay_whole_and_are_masked(tokenizer, seed, seq_len):
    talks = [*some_talks(30, seed), talk("Hi", "Yes")]
    labels = {}
    for conversation in talks:
        ids, mask = render(tokenizer, conversation, seq_len + 1)
        labels[tuple(ids)] = [i if m else -1 for i, m in zip(ids, mask, strict=True)]
    loader = ConversationLoader(factory(talks), tokenizer, 1, seq_len, buffer=10)
    seen = set()
    for _ in range(30):
        ids, targets = loader.lanes[0].row().tolist()
        assert len(ids) == seq_len + 1 and any(t >= 0 for t in targets)
        starts = [i for i, token in enumerate(ids) if token == tokenizer.bos]
        assert starts[0] == 0
        for begin, end in pairwise([*starts, len(ids)]):
            part = tuple(ids[begin:end])
            seen.add(part)
            assert targets[begin:end] == labels.get(part, [-1]), "cut in two, or masked wrongly"
    learnable = {ids for ids, target in labels.items() if any(t >= 0 for t in target)}
    waiting = {tuple(ids.tolist()) for ids, _ in loader.lanes[0].pool.items()}
    assert learnable <= seen | waiting and seen <= learnable | {(tokenizer.bos,)}


def test_batches_of_conversations_line_up(tokenizer):
    loader = ConversationLoader(factory(some_talks(30)), tokenizer, 2, 100, buffer=10)
    for inputs, targets in islice(loader, 30):
        assert inputs.shape == targets.shape == (2, 100)
        counts = targets[:, :-1] >= 0
        assert torch.equal(targets[:, :-1][counts], inputs[:, 1:][counts])
        assert (targets >= 0).any(dim=1).all(), "a row with nothing to learn is 0/0"
    loader.close()


def test_long_conversations_never_clog_the_pool(tokenizer):
    """The reference's most repeated bug: what is longer than a row stays in the pool for ever,
    until nothing else is left in it and every target is masked."""
    long = [talk("word " * 300, "answer") for _ in range(200)]  # nothing to learn in a row
    open_ended = [talk("why", "because " * 300) for _ in range(200)]
    short = some_talks(20, longest=5)
    loader = ConversationLoader(factory(long + open_ended + short), tokenizer, 2, 64, buffer=10)
    short_rows = 0
    for _ in range(300):
        _, targets = next(loader)
        assert (targets >= 0).any(dim=1).all()
        short_rows += (targets[:, -1] < 0).sum()
    assert short_rows > 0
    loader.close()


def test_nothing_to_learn_anywhere_is_said(tokenizer):
    loader = ConversationLoader(factory([talk("word " * 300, "answer")]), tokenizer, 1, 32)
    with pytest.raises(ChatlibError, match="too little data"):
        next(loader)


def test_conversations_resume_exactly_and_with_other_ranks(tokenizer):
    talks = some_talks(50)

    def make(rank=0, world_size=1):
        return ConversationLoader(
            factory(talks),
            tokenizer,
            2,
            100,
            rank=rank,
            world_size=world_size,
            buffer=7,
            micro_batches=2 // world_size,
        )

    whole = take(make(), 30)
    loader = make()
    take(loader, 12)
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert take(resumed, 18) == whole[12:]
    assert step_rows([make(rank, 2) for rank in range(2)], 15, 1) == step_rows([make()], 15, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_batches_arrive_on_the_gpu_unchanged(tokenizer):
    source = Listed(some_texts(400))
    there = take(BestFitLoader(source, tokenizer, 8, 64, device="cuda"), 50)
    assert there == take(BestFitLoader(source, tokenizer, 8, 64), 50)


def test_every_document_of_a_row_opens_rows_in_turn_and_a_cropped_one_stays_last():
    def stream(start):
        for i in range(start, 400):
            size = (5, 3, 2)[i % 3]
            yield i + 1, [np.full((1, size), 10 * size + np.arange(size))]

    lane = Lane(stream, size=11, buffer=6)
    rows = [lane.row()[0] for _ in range(30)]
    opening = Counter(int(row[0]) for row in rows)
    assert set(opening) == {50, 30, 20} and min(opening.values()) >= 5
    for row in rows:  # each document begins with its size, so a cut inside a row would show
        at = 0
        while at < len(row):
            size = row[at] // 10
            part = row[at : at + size]
            assert part.tolist() == (10 * size + np.arange(len(part))).tolist()
            at += size
