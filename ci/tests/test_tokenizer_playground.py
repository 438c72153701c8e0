"""The tokenizer in the page gives the ids of the tokenizer in Python."""

import random

import pytest

from chatlib.data.world import THREAD_SENTENCE, World
from chatlib.notebook.tokenizer_playground import TokenizerPlayground, javascript_pattern
from chatlib.tokenizer import Tokenizer, split_pattern
from ci.tests.browsing import widget_page

ODD = [*"ab 019'sStTlLreveREſéΩ中か🐝²Ⅷ.,!<|\\", "\u0301", "\u200d", "\u00a0", "\u3000", "\u2028"]
ODD += ["\r\n", "\n", "\t", "  ", "\x1c", "\x85", "\ufeff", "\u180e", "\u0000", "'ll", "İ", "K"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [World().document("train", i).text for i in range(200)]
    texts += ["don't we'LL ſ'ſ Ωμέγα 蜂蜜 🐝🐝 1234", "def f(x):\n    return x\n"] * 20
    return Tokenizer.train(texts, 800)


@pytest.fixture(scope="module")
def page(browser, tokenizer, tmp_path_factory):
    widget = TokenizerPlayground(tokenizer, THREAD_SENTENCE)
    encoder = "window.encode = m.encoder(data.pattern, data.tokens);"
    return widget_page(browser, widget, tmp_path_factory.mktemp("page"), encoder)


def test_the_pattern_has_nothing_that_javascript_does_not_know():
    for digits in (1, 2, 3):
        pattern = javascript_pattern(split_pattern(digits))
        assert "(?i" not in pattern and r"\s" not in pattern and r"\S" not in pattern
    with pytest.raises(AssertionError):
        javascript_pattern(r"\w+")


@pytest.mark.slow
def test_ids_are_those_of_python(page, tokenizer):
    rng = random.Random(0)
    texts = ["".join(rng.choices(ODD, k=rng.randrange(1, 30))) for _ in range(1500)]
    texts += [World().document("validation", i).text for i in range(100)]
    texts += ["", " " * 10_000, "a" * 3000, "\n\n\n", "�", "<|bos|> <|user_start|>"]
    got = page.evaluate("texts => texts.map(window.encode)", texts)
    for text, ids in zip(texts, got, strict=True):
        assert ids == tokenizer.encode(text), repr(text)


@pytest.mark.slow
def test_lone_surrogates_are_replaced(page, tokenizer):
    assert page.evaluate(r"window.encode('a\ud83dz')") == tokenizer.encode("a\ufffdz")


@pytest.mark.slow
def test_typing_shows_tokens_and_a_click_explains_one(page, tokenizer):
    row, panel = page.locator(".cl-tokens"), page.locator(".cl-panel")
    assert row.get_attribute("data-ids") == " ".join(map(str, tokenizer.encode(THREAD_SENTENCE)))
    page.fill("textarea", "the Ж")
    ids = tokenizer.encode("the Ж")
    assert row.locator("button").count() == len(ids)
    assert "5 code points, 6 bytes" in page.locator(".cl-note").inner_text()
    row.locator("button").last.click()
    assert f"Token {ids[-1]}, 1 byte: 96" in panel.inner_text()
    page.fill("textarea", " the")
    row.locator("button").first.click()
    (token,) = tokenizer.encode(" the")
    left, right = tokenizer.merges()[token - 256]
    assert f"Merge number {token - 255}" in panel.inner_text()
    assert f"({tokenizer.ranks[left]})" in panel.inner_text()
    assert f"({tokenizer.ranks[right]})" in panel.inner_text()
