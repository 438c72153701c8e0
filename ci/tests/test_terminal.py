"""Chat in the terminal, with a model that recites: what is typed, what is shown."""

import builtins

import pytest

from chatlib import terminal
from chatlib.engine import Engine
from ci.tests.tiny_models import byte_tokenizer, ids, reciting_model

REPLY = "Bees sing."


@pytest.fixture
def say(monkeypatch, capsys):
    """Type lines into a conversation with a context of 128 tokens; gives what was shown."""
    tokenizer = byte_tokenizer(REPLY, "6*7")
    script = ids(tokenizer, "<|assistant_start|>", "<|python_start|>", "6*7", "<|python_end|>")
    script += ids(tokenizer, "<|output_end|>", REPLY, "<|assistant_end|>")
    engine = Engine(reciting_model(tokenizer, script, context=128), tokenizer)

    def typed(*lines: str) -> str:
        waiting = iter(lines)

        def read(prompt):
            print(prompt, end="")
            line = next(waiting, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr(builtins, "input", read)
        terminal.converse(engine)
        return capsys.readouterr().out

    return typed


def test_a_question_its_sum_and_its_answer(say):
    shown = say("What is 6*7?", "", "/quit", "never read")
    assert f"bot> \n  [calculator] 6*7 = 42\n{REPLY}" in shown
    assert shown.count("bot> ") == 1 and shown.count("you> ") == 3


def test_commands(say):
    shown = say("/help", "/temperature", "/temperature 7", "/temperature 0.2", "/clear", "/dance")
    assert shown.count("/temperature 0.7   how daring") == 2
    assert shown.count("it stays at 0.7") == 2 and "The temperature is 0.2." in shown
    assert "The conversation is forgotten." in shown and "bot> " not in shown


def test_a_long_conversation_goes_on_without_its_start(say):
    shown = say("a" * 60, "b" * 60, "c" * 200, "d")
    assert shown.count(REPLY) == 3, "the question that is too long by itself gets no answer"
    assert shown.count("was left out") == 2 and shown.count("shorten the conversation") == 1
