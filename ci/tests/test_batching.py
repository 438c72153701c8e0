"""Continuous batching: each gets their own tokens, and nobody waits for a sloth."""

import threading
import time

import pytest

from chatlib.batching import QueueFull, Scheduler, Stream
from chatlib.engine import Batch, Engine, Reply
from chatlib.errors import ChatlibError
from chatlib.sampling import Sampling
from ci.tests.tiny_models import byte_tokenizer, random_model

TOKENIZER = byte_tokenizer()
TEXT = TOKENIZER.encode("Zoé is the beekeeper of Larkhill. " * 3)


@pytest.fixture(scope="module")
def engine():
    return Engine(random_model(TOKENIZER), TOKENIZER)


@pytest.fixture
def scheduler(engine):
    scheduler = Scheduler(engine, rows=4, room=100)
    yield scheduler
    scheduler.close()


def request(i, max_tokens=20):
    """Requests that differ in prompt, settings and seed."""
    settings = [Sampling(0), Sampling(0.8), Sampling(1.2, top_k=9), Sampling(top_p=0.9, min_p=0.02)]
    return Reply(TEXT[: 1 + i % 40], settings[i % 4], max_tokens, seed=i, tools=False)


def alone(engine, i, max_tokens=20):
    """What the same request gets with the engine to itself."""
    reply = request(i, max_tokens)
    batch = Batch(engine, 1)
    batch.join([[reply]])
    while batch.replies:
        batch.step()
    return reply.tokens


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_each_request_gets_what_it_would_get_alone(engine, scheduler):
    streams = [scheduler.submit(request(i)) for i in range(24)]
    together = [[token.id for token in stream] for stream in streams]
    assert together == [alone(engine, i) for i in range(24)]
    assert scheduler.counts["tokens"] == sum(map(len, together))
    assert scheduler.counts["steps"] < scheduler.counts["tokens"] / 2, "rows decode together"


def test_requests_join_between_the_steps_of_others(scheduler):
    long = scheduler.submit(request(1, 80))
    late = scheduler.submit(request(2, 3))
    list(late)
    assert len(long.reply.tokens) < 80 and long.reply.finish is None
    long.cancel()


def test_cancelling_frees_the_row_and_leaves_others_alone(engine, scheduler):
    streams = [scheduler.submit(request(i, 60)) for i in range(12)]
    next(iter(streams[3]))
    cut = {3, 5, 8, 11}
    for i in cut:
        streams[i].cancel()
    written = [[token.id for token in stream] for stream in streams]
    for i in set(range(12)) - cut:
        assert written[i] == alone(engine, i, 60)
    assert all(len(written[i]) < 60 for i in cut)
    until(lambda: not scheduler.live)
    assert scheduler.batch.free == 4 and not scheduler.waiting
    assert scheduler.counts["cancelled"] == 4


def test_a_cancelled_request_in_the_queue_never_runs(scheduler):
    running = [scheduler.submit(request(i, 60)) for i in range(4)]
    waiting = scheduler.submit(request(5, 60))
    waiting.cancel()
    for stream in running:
        list(stream)
    assert list(waiting) == [] and waiting.reply.tokens == []


def test_the_queue_is_bounded(engine):
    scheduler = Scheduler(engine, rows=1, room=2)
    try:
        first = scheduler.submit(request(0, 100))
        until(lambda: scheduler.live)
        accepted = [scheduler.submit(request(1, 100)) for _ in range(2)]
        with pytest.raises(QueueFull):
            scheduler.submit(request(2))
        for stream in (first, *accepted):
            stream.cancel()
        until(lambda: not scheduler.live and not scheduler.waiting)
        assert list(scheduler.submit(request(3, 2)))
    finally:
        scheduler.close()


def test_a_reader_who_never_reads_stops_nobody(scheduler):
    sloth = scheduler.submit(request(1, 50))
    assert len(list(scheduler.submit(request(2, 50)))) == 50
    until(lambda: sloth.reply.finish)
    assert sloth.tokens.qsize() <= 51


def test_first_come_first_served(engine):
    scheduler = Scheduler(engine, rows=1)
    finished, threads = [], []
    for i in range(6):
        stream = scheduler.submit(request(i, 10))
        watch = threading.Thread(
            target=lambda s, i: (list(s), finished.append(i)), args=(stream, i)
        )
        watch.start()
        threads.append(watch)
    for thread in threads:
        thread.join()
    scheduler.close()
    assert finished == sorted(finished)


def test_a_prompt_that_does_not_fit_is_refused_at_once(scheduler):
    with pytest.raises(ChatlibError, match="tokens"):
        scheduler.submit(Reply([1] * 500))


def test_a_failing_step_ends_its_replies_and_the_next_request_works(scheduler):
    poison = Reply([10**6])  # no such token
    stream = scheduler.submit(poison)
    assert list(stream) == [] and poison.finish == "error"
    assert len(list(scheduler.submit(request(0, 5)))) == 5


def test_closing_ends_every_stream(engine):
    scheduler = Scheduler(engine, rows=1)
    streams = [scheduler.submit(request(i, 100)) for i in range(3)]
    scheduler.close()
    for stream in streams:
        list(stream)
    assert {stream.reply.finish for stream in streams} <= {"cancelled", "length", "stop"}
    assert isinstance(streams[0], Stream)
