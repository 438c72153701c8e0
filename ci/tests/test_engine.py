"""The engine: the same tokens as the slow way, for every row, however rows come and go."""

import shutil

import pytest
import torch

from chatlib.engine import Batch, Engine, Reply, Writer
from chatlib.errors import ChatlibError
from chatlib.sampling import Sampling
from ci.tests.tiny_models import byte_tokenizer, ids, random_model, reciting_model

TOKENIZER = byte_tokenizer()
PROMPT = [TOKENIZER.bos, *TOKENIZER.encode("Zoé is the")]


@pytest.fixture(scope="module")
def engine():
    return Engine(random_model(TOKENIZER), TOKENIZER)


@torch.inference_mode()
def uncached_greedy(engine, prompt, steps):
    sequence = list(prompt)
    for _ in range(steps):
        sequence.append(int(engine.model(torch.tensor([sequence]))[0, -1].argmax()))
        if sequence[-1] in engine.stops or len(sequence) == engine.context:
            break
    return sequence[len(prompt) :]


def test_greedy_is_the_uncached_argmax(engine):
    expected = uncached_greedy(engine, PROMPT, 60)
    steps = engine.generate(PROMPT, max_tokens=60, temperature=0, tools=False)
    assert [step.tokens[0] for step in steps] == expected
    assert len(set(expected)) > 5, "a model that repeats itself proves little"


def test_batched_prompts_of_different_lengths_match_each_alone(engine):
    prompts = [PROMPT[:n] for n in (1, 4, 4, 9, 12, 2)]
    for rows in (1, 3, 64):
        replies = engine.generate_batch(
            prompts, max_tokens=25, temperature=0, rows=rows, tools=False
        )
        assert [r.tokens for r in replies] == [uncached_greedy(engine, p, 25) for p in prompts]


def test_rows_keep_their_seed_in_any_company(engine):
    prompts = [PROMPT, PROMPT[:3], PROMPT[:7]]
    written = [
        [r.tokens for r in engine.generate_batch(prompts, 4, max_tokens=30, rows=rows, seed=7)]
        for rows in (4, 5, 64)
    ]
    assert written[0] == written[1] == written[2]
    assert len({tuple(tokens) for tokens in written[0]}) == 12
    again = [r.tokens for r in engine.generate_batch(prompts, 4, max_tokens=30, seed=8)]
    assert again != written[0]


def test_first_tokens_differ_after_a_shared_prefill(engine):
    first = next(engine.generate(PROMPT, 40, max_tokens=1))
    assert len(set(first.tokens)) > 3


def test_rows_end_at_different_times(engine):
    steps = list(engine.generate(PROMPT, 30, max_tokens=100, temperature=2.0))
    endings = [sum(step.tokens[row] is not None for step in steps) for row in range(30)]
    assert len(set(endings)) > 2
    for row, end in enumerate(endings):
        tokens = [step.tokens[row] for step in steps]
        assert None not in tokens[:end] and set(tokens[end:]) <= {None}
        assert end == 100 or tokens[end - 1] in engine.stops


def tool_engine(expression: str, context: int = 128):
    script = ["<|assistant_start|>", "a", "<|python_start|>", expression, "<|python_end|>"]
    pieces = ids(TOKENIZER, *script)
    after = ids(TOKENIZER, "<|output_end|>", "b", "<|assistant_end|>")
    return Engine(reciting_model(TOKENIZER, pieces + after, context=context), TOKENIZER), pieces


def test_a_tool_call_is_answered_and_the_answer_is_not_the_models():
    engine, script = tool_engine("2+37")
    (reply,) = engine.generate_batch([script[:1]], temperature=0)
    said = ids(TOKENIZER, "<|output_start|>", "39", "<|output_end|>", "b", "<|assistant_end|>")
    assert reply.tokens == script[1:] + said
    assert reply.mask == [1] * len(script[1:]) + [0] * 4 + [1, 1]
    assert reply.finish == "stop"


def test_forced_tokens_are_flagged_in_the_stream_and_tools_can_be_off():
    engine, script = tool_engine("2+37")
    steps = list(engine.generate(script[:1], temperature=0))
    assert [step.forced[0] for step in steps] == [False] * 7 + [True] * 4 + [False] * 2
    steps = list(engine.generate(script[:1], temperature=0, max_tokens=12, tools=False))
    assert not any(step.forced[0] for step in steps)


def test_an_expression_nobody_can_evaluate_forces_nothing():
    engine, script = tool_engine("2+x")
    (reply,) = engine.generate_batch([script[:1]], temperature=0, max_tokens=10)
    assert set(reply.mask) == {1}


def test_generation_stops_at_the_context(engine):
    prompt = (PROMPT * 20)[:120]
    (reply,) = engine.generate_batch([prompt], max_tokens=500, temperature=0)
    assert len(prompt) + len(reply.tokens) == engine.context and reply.finish == "length"
    last = (PROMPT * 20)[: engine.context - 1]
    assert len(engine.generate_batch([last], max_tokens=500)[0].tokens) == 1


def test_prompts_that_do_not_fit_are_refused(engine):
    with pytest.raises(ChatlibError, match=r"128 tokens.*at most 127"):
        engine.generate_batch([[1] * 128])
    with pytest.raises(ChatlibError, match="empty"):
        next(engine.generate([]))
    with pytest.raises(ChatlibError, match="max_tokens"):
        next(engine.generate(PROMPT, max_tokens=0))
    assert engine.generate_batch([]) == []


def test_alternatives_are_the_models_probabilities(engine):
    steps = engine.generate(PROMPT, max_tokens=5, temperature=0.5, top_k=3, alternatives=4)
    sequence = list(PROMPT)
    for step in steps:
        token = step.details[0]
        with torch.inference_mode():
            probs = engine.model(torch.tensor([sequence]))[0, -1].softmax(-1)
        best = probs.topk(4)
        assert [i for i, _ in token.alternatives] == best.indices.tolist()
        assert [p for _, p in token.alternatives] == pytest.approx(best.values.tolist(), rel=1e-3)
        assert token.probability == pytest.approx(float(probs[token.id]), rel=1e-3)
        sequence.append(token.id)


def test_repetition_is_penalized(engine):
    plain, varied = (
        engine.generate_batch([PROMPT], max_tokens=80, temperature=0, repetition=r, tools=False)[0]
        for r in (1.0, 2.0)
    )
    assert len(set(varied.tokens)) > len(set(plain.tokens))


def test_a_reply_may_leave_and_another_join_between_steps(engine):
    batch = Batch(engine, 3)
    replies = [Reply(PROMPT[:n], Sampling(0), 30, tools=False) for n in (3, 6, 9)]
    batch.join([replies[:1]])
    batch.step()
    batch.join([replies[1:2]])
    for _ in range(3):
        batch.step()
    replies[0].finish = "cancelled"
    batch.step()
    assert batch.free == 2
    batch.join([replies[2:]])
    while batch.replies:
        batch.step()
    assert len(replies[0].tokens) == 4
    for reply in replies[1:]:
        assert reply.tokens == uncached_greedy(engine, reply.prompt, 30)


def test_the_writer_holds_back_half_a_character_and_names_the_parts():
    writer = Writer(TOKENIZER)
    pieces = [writer.push(token) for token in TOKENIZER.encode("é")]
    assert pieces == [[], [("text", "é")]]
    call = ids(TOKENIZER, "<|python_start|>", "1", "<|python_end|>", "<|output_start|>", "2")
    pieces = [piece for token in call for piece in writer.push(token)]
    assert pieces == [("python", "1"), ("python_output", "2")]
    assert writer.push(TOKENIZER.encode("é")[0]) == []
    assert writer.push(TOKENIZER.special("<|output_end|>")) == [("python_output", "\ufffd")]
    assert writer.finish() == []


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_the_compiled_step_writes_the_same(engine):
    compiled = Engine(engine.model, TOKENIZER, compile=True)
    prompts = [PROMPT[:4], PROMPT[:5]]
    plain = engine.generate_batch(prompts, max_tokens=20, temperature=0, tools=False)
    fast = compiled.generate_batch(prompts, max_tokens=20, temperature=0, tools=False)
    assert [r.tokens for r in fast] == [r.tokens for r in plain]
