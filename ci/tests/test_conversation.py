"""Conversations: ids and mask by hand, the attack on special tokens, and malformed input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.conversation import PARTS, parse_assistant, recent, render, render_prompt
from chatlib.errors import ChatlibError
from chatlib.tokenizer import SPECIAL_TOKENS, Tokenizer

TOKENIZER = Tokenizer.train(
    ["What does Zoé do? Zoé is the beekeeper of Larkhill. 12*5=60 "] * 3, 300
)
TEXT = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "\n\n", "é", ""])),
    max_size=5,
).map("".join)
TEXT = TEXT.filter(lambda text: text == text.encode(errors="replace").decode())
PART = st.fixed_dictionaries({"type": st.sampled_from(list(PARTS)), "text": TEXT})


def user(text):
    return {"role": "user", "content": text}


def assistant(content):
    return {"role": "assistant", "content": content}


def show(conversation, **keywords) -> list[tuple[str, int]]:
    """Runs of tokens with one mask value, special tokens by name."""
    runs = []
    for token, learned in zip(*render(TOKENIZER, conversation, **keywords), strict=True):
        special = token >= len(TOKENIZER.tokens)
        if runs and not special and not runs[-1][2] and runs[-1][1] == learned:
            runs[-1][0].append(token)
        else:
            runs.append(([token], learned, special))
    return [(TOKENIZER.decode(ids), learned) for ids, learned, _ in runs]


def test_a_conversation_by_hand():
    parts = [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "12*5"},
        {"type": "python_output", "text": "60"},
        {"type": "text", "text": "60."},
    ]
    messages = [user("What is 12*5?"), assistant(parts), user("And Zoé?"), assistant("Bees.")]
    assert show({"messages": messages}) == [
        ("<|bos|>", 0),
        ("<|user_start|>", 0),
        ("What is 12*5?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("Let me see. ", 1),
        ("<|python_start|>", 1),
        ("12*5", 1),
        ("<|python_end|>", 1),
        ("<|output_start|>", 0),
        ("60", 0),
        ("<|output_end|>", 0),
        ("60.", 1),
        ("<|assistant_end|>", 1),
        ("<|user_start|>", 0),
        ("And Zoé?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("Bees.", 1),
        ("<|assistant_end|>", 1),
    ]


def test_a_system_message_joins_the_first_user_message():
    with_system = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hi.")]
    merged = [user("Be brief.\n\nHi"), assistant("Hi.")]
    before = str(with_system)
    assert render(TOKENIZER, {"messages": with_system}) == render(TOKENIZER, {"messages": merged})
    assert str(with_system) == before  # the caller's messages stay as they were


def test_parts_are_encoded_separately():
    word = TOKENIZER.encode(" the")
    assert len(word) == 1
    halves = [{"type": "text", "text": " t"}, {"type": "text", "text": "he"}]
    ids, _ = render(TOKENIZER, {"messages": [user("x"), assistant(halves)]})
    assert ids[5:-1] == TOKENIZER.encode(" t") + TOKENIZER.encode("he") != word


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT, TEXT, st.lists(PART, max_size=4))
def test_text_never_becomes_a_special_token(system, question, follow_up, parts):
    messages = [{"role": "system", "content": system}, user(question), assistant(parts)]
    messages += [user(follow_up), assistant(question)]
    ids, mask = render(TOKENIZER, {"messages": messages}, max_tokens=None)
    tools = [side for part in parts if part["type"] != "text" for side in PARTS[part["type"]][:2]]
    turn = ["<|user_start|>", "<|user_end|>", "<|assistant_start|>"]
    expected = ["<|bos|>", *turn, *tools, "<|assistant_end|>", *turn, "<|assistant_end|>"]
    specials = [SPECIAL_TOKENS[i - len(TOKENIZER.tokens)] for i in ids if i >= TOKENIZER.bos]
    assert specials == expected
    assert len(ids) == len(mask) and set(mask) <= {0, 1}
    assert not any(learned for i, learned in zip(ids, mask, strict=True) if i == TOKENIZER.bos)


@given(st.integers(1, 40))
def test_truncation(max_tokens):
    conversation = {"messages": [user("What does Zoé do?"), assistant("Zoé is the beekeeper.")] * 3}
    whole = render(TOKENIZER, conversation)
    cut = render(TOKENIZER, conversation, max_tokens)
    assert cut == (whole[0][:max_tokens], whole[1][:max_tokens])
    assert len(cut[0]) == min(max_tokens, len(whole[0]))


def test_a_prompt_ends_where_the_assistant_begins():
    question = {"messages": [user("What does Zoé do?")]}
    answered = {"messages": [user("What does Zoé do?"), assistant("Zoé is the beekeeper.")]}
    prompt = render_prompt(TOKENIZER, question)
    assert TOKENIZER.decode(prompt) == (
        "<|bos|><|user_start|>What does Zoé do?<|user_end|><|assistant_start|>"
    )
    assert render_prompt(TOKENIZER, answered) == prompt
    ids, mask = render(TOKENIZER, answered)
    assert (
        ids[: len(prompt)] == prompt and not any(mask[: len(prompt)]) and all(mask[len(prompt) :])
    )


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(lambda s: len(s) % 2),
    system=st.sampled_from(["", "Be kind."]),
    longest=st.integers(1, 200),
)
def test_the_most_recent_exchanges_that_fit(sizes, system, longest):
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": "x" * size}
        for i, size in enumerate(sizes)
    ]
    head = [{"role": "system", "content": system}] if system else []

    def prompt(turns):
        return len(render_prompt(TOKENIZER, {"messages": [*head, *turns]}))

    fitting = [n for n in range(1, len(messages) + 1, 2) if prompt(messages[-n:]) <= longest]
    most = max(fitting, default=1)
    assert recent(TOKENIZER, [*head, *messages], longest) == [*head, *messages[-most:]]


def test_a_long_prompt_is_not_cut():
    prompt = render_prompt(TOKENIZER, {"messages": [user("Zoé? " * 5000)]})
    assert len(prompt) > 5000 and prompt[-1] == TOKENIZER.special("<|assistant_start|>")


@settings(max_examples=200, deadline=None)
@given(st.lists(PART, max_size=5))
def test_parsing_is_the_inverse_of_rendering(parts):
    conversation = {"messages": [user("x"), assistant(parts)]}
    ids, _ = render(TOKENIZER, conversation, max_tokens=None)
    written = ids[ids.index(TOKENIZER.special("<|assistant_start|>")) + 1 :]
    joined = []  # neighboring texts become one, and empty texts vanish
    for part in parts:
        if part["type"] != "text":
            joined.append(part)
        elif part["text"]:
            if joined and joined[-1]["type"] == "text":
                part = {"type": "text", "text": joined.pop()["text"] + part["text"]}
            joined.append(part)
    assert parse_assistant(TOKENIZER, written) == joined
    assert parse_assistant(TOKENIZER, [*written, *written]) == joined  # stops at assistant_end


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30))
def test_parsing_forgives_whatever_a_model_writes(ids):
    for part in parse_assistant(TOKENIZER, ids):
        assert part["type"] in PARTS and isinstance(part["text"], str)


def test_parsing_an_unfinished_call():
    ids = [*TOKENIZER.encode("So "), TOKENIZER.special("<|python_start|>"), *TOKENIZER.encode("1+")]
    assert parse_assistant(TOKENIZER, ids) == [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "1+"},
    ]


@pytest.mark.parametrize(
    ("conversation", "word"),
    [
        (None, "messages"),
        ([], "messages"),
        ({}, "messages"),
        ({"messages": []}, "at least one"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "Message 0"),
        ({"messages": [{"role": "user"}]}, "Message 0"),
        ({"messages": [user(3)]}, "Message 0"),
        ({"messages": [user(None)]}, "Message 0"),
        ({"messages": [user([{"type": "text", "text": "x"}])]}, "Message 0"),
        ({"messages": [user("x"), assistant([{"type": "image", "text": "x"}])]}, "python_output"),
        ({"messages": [user("x"), assistant([{"type": [], "text": "x"}])]}, "Message 1"),
        ({"messages": [user("x"), assistant([{"type": "text"}])]}, "Message 1"),
        ({"messages": [user("x"), assistant(["x"])]}, "Message 1"),
        ({"messages": [assistant("x")]}, "the user begins"),
        ({"messages": [user("x"), user("y")]}, "'assistant' is due"),
        ({"messages": [user("x"), assistant("y"), assistant("z")]}, "'user' is due"),
        ({"messages": [user("x"), {"role": "system", "content": "y"}]}, "take turns"),
        ({"messages": [{"role": "tool", "content": "y"}]}, "'tool'"),
        ({"messages": [{"role": None, "content": "y"}]}, "take turns"),
        ({"messages": [{"role": "system", "content": "y"}]}, "'user' is due"),
        ({"messages": [{"role": "system", "content": "y"}, assistant("z")]}, "'user' is due"),
        ({"messages": [{"role": "system", "content": []}, user("z")]}, "Message 0"),
    ],
)
@pytest.mark.parametrize("function", [render, render_prompt])
def test_malformed_conversations(function, conversation, word):
    with pytest.raises(ChatlibError, match=rf"(?s)\A(?!.*\n)(?=.*{word}).*\.\Z"):
        function(TOKENIZER, conversation)
