"""Speculative decoding: exactly the greedy text, in fewer passes where the text repeats itself."""

import pytest

from chatlib.engine import Engine
from chatlib.speculative import generate_speculative, guess
from ci.tests.tiny_models import byte_tokenizer, ids, random_model, reciting_model

TOKENIZER = byte_tokenizer()


def test_a_guess_continues_the_latest_and_longest_match():
    assert guess([1, 2, 3, 9, 1, 2, 3], 2) == [9, 1]
    assert guess([5, 7, 1, 5, 8, 1, 5], 1) == [8], "the later of two equal matches"
    assert guess([1, 2, 7, 3, 2, 8, 1, 2], 1) == [7], "the longer match, though it is older"
    assert guess([1, 2, 3], 4) == []
    assert guess([4], 4) == []


@pytest.mark.parametrize("guesses", [1, 4, 9])
@pytest.mark.parametrize("seed", range(2))
def test_the_text_is_the_greedy_text(seed, guesses):
    engine = Engine(random_model(TOKENIZER, seed=seed), TOKENIZER)
    for length in (1, 20, 110):
        prompt = (TOKENIZER.encode("a bee is a bee, said the beekeeper. ") * 4)[:length]
        (expected,) = engine.generate_batch([prompt], max_tokens=40, temperature=0)
        reply, passes = generate_speculative(engine, prompt, max_tokens=40, guesses=guesses)
        assert (reply.tokens, reply.mask, reply.finish) == (
            expected.tokens,
            expected.mask,
            expected.finish,
        )
        assert passes <= len(reply.tokens)


def test_repeated_text_takes_fewer_passes():
    verse = ids(TOKENIZER, "honey", " and")
    engine = Engine(reciting_model(TOKENIZER, [*dict.fromkeys(verse), verse[0]]), TOKENIZER)
    reply, passes = generate_speculative(engine, verse[:1], max_tokens=60, guesses=4)
    assert len(reply.tokens) == 60
    assert passes < 30


def test_a_tool_in_the_midst_of_right_guesses_still_answers():
    """The prompt shows the same call with another answer, so the guesses run past the call."""
    call = ids(TOKENIZER, "<|assistant_start|>", "<|python_start|>", "2+37", "<|python_end|>")
    rest = ids(TOKENIZER, "<|output_end|>", "b", "<|assistant_end|>")
    engine = Engine(reciting_model(TOKENIZER, call + rest), TOKENIZER)
    shown = ids(TOKENIZER, "<|output_start|>", "41", "<|output_end|>", "b")
    prompt = call + shown + call[:1]
    (expected,) = engine.generate_batch([prompt], max_tokens=40, temperature=0)
    reply, passes = generate_speculative(engine, prompt, max_tokens=40, guesses=6)
    assert (reply.tokens, reply.mask) == (expected.tokens, expected.mask)
    assert TOKENIZER.encode("39") == reply.tokens[7:9] and passes < len(reply.tokens)
